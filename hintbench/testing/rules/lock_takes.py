"""lock-takes: takes of the zone lock per batch are at most as declared.

Takes under which nothing was isolated, marked or given back are counted apart. Which list a block
was isolated from, its pageblock's type says since 6.10; in 5.0 each may have been on its own.

Source: Duyck on v9 2/6: "acquire the lock once ... return the memory".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hintbench.core.constants import KERNEL_6_12
from hintbench.testing.checker import Checker

if TYPE_CHECKING:
    from hintbench.core.zone import Zone
    from hintbench.host.reports import Report


class RuleChecker(Checker):
    """Compares the takes of the whole run with its batches."""

    rule = "lock-takes"

    def __init__(self, run: Any) -> None:
        super().__init__(run)
        self.further_lists = 0
        self.lists: dict[int, object] = {}

    def isolated(self, zone: Zone, pfn: int, order: int) -> None:
        """Remember from which list, since the type may change with the isolation."""
        self.lists[pfn] = pfn
        if zone.kernel >= KERNEL_6_12:
            self.lists[pfn] = zone.index, order, zone.isolated_from

    def reported(self, report: Report, context: Any) -> None:
        """From how many lists was it collected?"""
        self._collected(report)

    def not_submitted(self, report: Report) -> None:
        """It was collected all the same."""
        self._collected(report)

    def _collected(self, report: Report) -> None:
        lists = {self.lists.get(block.pfn, block.pfn) for block in report.blocks}
        self.further_lists += len(lists) - 1

    def at_settled(self) -> None:
        """All batches have been taken back."""
        declared = self.run.claims.lock_takes
        if declared is None:
            return
        host, scheduler = self.run.guest.host, self.run.scheduler
        batches = host.reported_batches + host.refused_reports
        takes = scheduler.takes.total - scheduler.takes.empty
        allowed = sum(declared[:2]) * batches
        if len(declared) == 3:
            allowed += declared[2] * self.further_lists
        if takes > allowed:
            text = f"{takes} takes of zone locks for {batches} batches, the claim is at most"
            self.violate(f"{text} {declared[0]} + {declared[1]} each", "takes")
