"""one-zone: a batch that took blocks off their lists holds blocks of one zone.

By zone, not by zone number, which the zones of all nodes share.

Source: Duyck on v9 2/6: "confining yourself to one zone worth of hints at a time"; page_zonenum(),
by which v9 sorts its hints.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hintbench.core.constants import OWNER_STRATEGY
from hintbench.testing.checker import Checker

if TYPE_CHECKING:
    from hintbench.host.reports import Report


class RuleChecker(Checker):
    """Looks at every report's zones."""

    rule = "one-zone"

    def reported(self, report: Report, context: Any) -> None:
        """Which zones do its isolated blocks lie in?"""
        if not self.run.claims.one_zone:
            return
        zones = {
            self.run.guest.zone_of(block.pfn).index
            for block in report.blocks
            if self.run.auditor.owner_of(block.pfn, 1, OWNER_STRATEGY) < 0
        }
        if len(zones) > 1:
            names = " and ".join(repr(self.run.guest.zones[index]) for index in sorted(zones))
            self.violate(f"one report holds isolated blocks of {names}", "zones")
