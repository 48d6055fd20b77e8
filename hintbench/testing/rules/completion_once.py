"""completion-once: each completion is consumed exactly once, whoever polls.

Several may share an interrupt, so a handler that takes one leaves the others; and a handler whose
completion somebody else took must not touch it. The first is found when completions are left over
after the workload; the second is told by the strategy itself (`Guest.oops`), where the kernel
would have dereferenced nothing.

Source: virtqueue_get_buf() loops in drivers/virtio; v9's hinting_ack() takes one buffer an
interrupt.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hintbench.testing.checker import Checker

if TYPE_CHECKING:
    from hintbench.host.reports import Completion, Report

GRACE_NS = 500_000_000
"""How long a completion may wait for its interrupt, or for whoever polls [virtual ns]."""


class RuleChecker(Checker):
    """Looks whether completions are left."""

    rule = "completion-once"

    def __init__(self, run: Any) -> None:
        super().__init__(run)
        self.answered_ns: list[int] = []
        self.fetches = 0

    def answered(self, report: Report) -> None:
        """If it was posted its completion can be fetched from now on."""
        if report.posted:
            self.answered_ns.append(int(self.run.machine.clock.now))

    def fetched(self, completion: Completion) -> None:
        """Somebody took the oldest."""
        self.fetches += 1

    def at_settled(self) -> None:
        """All interrupts have been taken."""
        self._look(int(self.run.machine.clock.now) - GRACE_NS)

    def at_stuck(self) -> None:
        """Nobody will come for what is left, unless a spin keeps out who would."""
        if "progress-under-spin" in self.run.outcome.counts:
            return
        self._look(int(self.run.machine.clock.now))

    def at_end(self) -> None:
        """Nor now."""
        self._look(int(self.run.machine.clock.now))

    def _look(self, before_ns: int) -> None:
        left = self.answered_ns[self.fetches :]
        if left and left[0] <= before_ns:
            self.violate("a completion was never fetched, and no interrupt will come", "left")
