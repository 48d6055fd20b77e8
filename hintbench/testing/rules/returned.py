"""returned: every isolated block comes back exactly once, same pfn, order and zone.

Also when the guest refuses, the host fails, the queue is full or there is no device. What comes
back wrongly is refused by the zone at once; what never comes back is found when the workload has
ended and the strategy had its time.

Source: __isolate_free_page(), which may refuse; v9 3/6, which leaks a batch without a device, and
whose submitter throws away the completions that it polls (virtqueue_get_buf()).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from hintbench.testing.checker import Checker

GRACE_NS = 500_000_000
"""How long after the last event about it a block may still be on its way back [virtual ns]."""
STOPPING_GRACE_NS = 200_000
"""The same before the stop, for blocks that have not come back in all the time after it; whoever
has them may be late by the longest delay of the schedule."""


class RuleChecker(Checker):
    """Asks of the isolated blocks which have been forgotten (`hintbench.core.blocksout`)."""

    rule = "returned"

    def __init__(self, run: Any) -> None:
        super().__init__(run)
        self.forgotten: list[int] = []

    def at_settled(self) -> None:
        """Whatever is still out has been forgotten."""
        self._look(int(self.run.machine.clock.now) - GRACE_NS)

    def at_stuck(self) -> None:
        """Nobody can go on, so nothing will come back that is not with the host."""
        self._look(int(self.run.machine.clock.now))

    def at_endless(self) -> None:
        """Whoever turns in a circle for so long gives nothing back."""
        self._look(int(self.run.machine.clock.now) - GRACE_NS)

    def at_stopping(self) -> None:
        """Note what is lost before the stop; `teardown` sees to what gets lost by it."""
        out, now = self.run.out, int(self.run.machine.clock.now)
        late_ns = max((each.delay_ns for each in self.run.scenario.preemptions), default=0)
        before_ns = now - STOPPING_GRACE_NS - late_ns
        self.forgotten = [
            pfn
            for pfn in out.idle(now)
            if out.blocks[pfn].at_ns <= before_ns or out.blocks[pfn].is_left
        ]

    def at_end(self) -> None:
        """What had been forgotten before the strategy was told to stop."""
        self._violate(pfn for pfn in self.forgotten if pfn in self.run.out.blocks)

    def _look(self, before_ns: int) -> None:
        self._violate(self.run.out.idle(before_ns))

    def _violate(self, pfns: Iterable[int]) -> None:
        for pfn in pfns:
            order = self.run.out.blocks[pfn].order
            self.violate(
                f"pfn {pfn:#x} order {order} was isolated and never put back",
                "lost",
                pfn,
                1 << order,
            )
