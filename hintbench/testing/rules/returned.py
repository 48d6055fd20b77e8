"""returned: every isolated block comes back exactly once, same pfn, order and zone.

Also when the guest refuses, the host fails, the queue is full or there is no device. What comes
back wrongly is refused by the zone at once; what never comes back is found when the workload has
ended and the strategy had its time.

Source: __isolate_free_page(), which may refuse; v9 3/6, which leaks a batch without a device, and
whose submitter throws away the completions that it polls (virtqueue_get_buf()).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from hintbench.testing.checker import Checker

if TYPE_CHECKING:
    from hintbench.core.hooks import Block
    from hintbench.core.zone import Zone
    from hintbench.host.reports import Completion, Report

GRACE_NS = 500_000_000
"""How long after the last event about it a block may still be on its way back [virtual ns]."""
STOPPING_GRACE_NS = 200_000
"""The same before the stop, for blocks that have not come back in all the time after it; whoever
has them may be late by the longest delay of the schedule."""


class RuleChecker(Checker):
    """Keeps the isolated blocks, and the reports that have not been answered."""

    rule = "returned"

    def __init__(self, run: Any) -> None:
        super().__init__(run)
        self.since: dict[int, tuple[int, int]] = {}
        self.open: list[Report] = []
        self.forgotten: list[int] = []

    def isolated(self, zone: Zone, pfn: int, order: int) -> None:
        """It left the allocator now."""
        self.since[pfn] = order, int(self.run.machine.clock.now)

    def put_back(self, zone: Zone, pfn: int, order: int) -> None:
        """It is back."""
        self.since.pop(pfn, None)

    def reported(self, report: Report, context: Any) -> None:
        """The host has it."""
        self.open.append(report)

    def answered(self, report: Report) -> None:
        """From now on it may come back; if it was posted, once somebody knows of the answer."""
        if not report.posted:
            self._may_return(report.blocks)

    def fetched(self, completion: Completion) -> None:
        """Somebody knows of it."""
        self._may_return(completion.blocks)

    def _may_return(self, blocks: tuple[Block, ...]) -> None:
        self.open = [report for report in self.open if report.blocks is not blocks]
        now = int(self.run.machine.clock.now)
        for block in blocks:
            if block.pfn in self.since:
                self.since[block.pfn] = self.since[block.pfn][0], now

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
        late_ns = max((each.delay_ns for each in self.run.scenario.preemptions), default=0)
        self.forgotten = self._out(int(self.run.machine.clock.now) - STOPPING_GRACE_NS - late_ns)

    def at_end(self) -> None:
        """What had been forgotten before the strategy was told to stop."""
        self._violate(pfn for pfn in self.forgotten if pfn in self.since)

    def _look(self, before_ns: int) -> None:
        self._violate(self._out(before_ns))

    def _out(self, before_ns: int) -> list[int]:
        """What is isolated, not with the host, and has been so since some time."""
        reported = {
            block.pfn for report in self.open if not report.overwritten for block in report.blocks
        }
        return [
            pfn
            for pfn, (_, at_ns) in self.since.items()
            if pfn not in reported and at_ns <= before_ns
        ]

    def _violate(self, pfns: Iterable[int]) -> None:
        for pfn in pfns:
            order = self.since[pfn][0]
            self.violate(
                f"pfn {pfn:#x} order {order} was isolated and never put back",
                "lost",
                pfn,
                1 << order,
            )
