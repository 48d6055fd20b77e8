"""teardown: after guest_stopping nothing is isolated, held, marked or scheduled.

And a later completion touches nothing.

Source: the remove functions of drivers/virtio/virtio_balloon.c, which cancel their work first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hintbench.config.quantities import counted
from hintbench.core.constants import OWNER_STRATEGY
from hintbench.testing.checker import Checker

if TYPE_CHECKING:
    from hintbench.core.zone import Zone
    from hintbench.host.reports import Report


class RuleChecker(Checker):
    """Looks at what is left when the strategy has been stopped.

    What is still out at that moment but was forgotten long before is the business of `returned`.
    """

    rule = "teardown"

    def __init__(self, run: Any) -> None:
        super().__init__(run)
        self.open: list[Report] = []
        self.over = False

    def at_stopped(self) -> None:
        """Nothing may be with the host, nothing marked, and nothing may still have to run."""
        self.over = True
        self._look_for_tasks()
        for report in self.open:
            for block in report.blocks:
                if self.run.auditor.owner_of(block.pfn, 1, OWNER_STRATEGY) < 0:
                    text = f"pfn {block.pfn:#x} order {block.order} is isolated, and with the host"
                    self._late(text, block.pfn, block.order)
        self._look_for_marks()

    def at_end(self) -> None:
        """Nothing may be left, unless another rule has said so already."""
        lost = any(rule == "returned" for rule, _ in self.run.outcome.violations)
        for zone in self.run.guest.zones:
            if zone.isolated_pages and not lost:
                self.violate(
                    f"{zone.isolated_pages} pages of {zone} are still isolated", "isolated"
                )
            if zone.held_pages:
                self.violate(f"{zone.held_pages} pages of {zone} are still held", "held")
            if zone.allocated_pages > 0:
                text = f"{zone.allocated_pages} pages of {zone} that it allocated are not freed"
                self.violate(text, "allocated")
        self._look_for_marks()

    def isolated(self, zone: Zone, pfn: int, order: int) -> None:
        """After the end nobody may isolate."""
        if self.over:
            self._late(f"pfn {pfn:#x} is isolated", pfn, order)

    def put_back(self, zone: Zone, pfn: int, order: int) -> None:
        """Nor may anything come back that late."""
        if self.over:
            self._late(f"pfn {pfn:#x} order {order} comes back", pfn, order)

    def reported(self, report: Report, context: Any) -> None:
        """Nor may anybody report."""
        self.open.append(report)
        self._late("a report is sent", 0, 0)

    def answered(self, report: Report) -> None:
        """The host is done with it."""
        if report in self.open:
            self.open.remove(report)

    def _look_for_tasks(self) -> None:
        """A thread that has not been waited for, or a timer that has not been cancelled."""
        scheduler = self.run.scheduler
        left = [
            f"{each.name}, whose timer still runs" if each.parked == "timer" else each.name
            for each in scheduler.contexts
            if each is not scheduler.current and not each.kernel and each.parked != "done"
        ]
        if left:
            self.violate(f"guest_stopping has ended before {', '.join(left)}", "scheduled")

    def _look_for_marks(self) -> None:
        for name, (flags, meaning) in self.run.guest.flag_sets.items():
            if meaning == "in-flight" and flags.count:
                self.violate(f"still marked {name}: {counted(flags.count, 'unit')}", "marked")

    def _late(self, what: str, pfn: int, order: int) -> None:
        if self.over:
            self.violate(f"{what} after guest_stopping has ended", "late", pfn, 1 << order)
