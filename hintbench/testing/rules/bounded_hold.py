"""bounded-hold: what is looked at under one hold of the zone lock is bounded.

List entries, head look-ups and pages count, by `Zone.visits`, of whichever zone: whoever holds the
lock of one and looks at another holds up the first meanwhile.

Source: guest_free_page_try_hinting() of v9 2/6, which walks the 1,024 pages from each of up to
256 captured pfns under one hold, where nothing is free any more.
"""

from __future__ import annotations

from typing import Any

from hintbench.core.holds import HoldMeter
from hintbench.testing.checker import Checker


class RuleChecker(Checker):
    """Compares the zones' counts of visits at the take and at the release, in the core."""

    rule = "bounded-hold"

    def __init__(self, run: Any) -> None:
        super().__init__(run)
        bound = run.claims.hold_visits
        if bound is not None:
            for zone in run.guest.zones:
                zone.lock.meter = HoldMeter(run.guest.zones, bound, self._exceeded, zone.lock.meter)

    def _exceeded(self, looked: int) -> None:
        """A hold ends under which too much was looked at."""
        bound = self.run.claims.hold_visits
        text = f"{looked} structures were looked at under one hold, the claim is at most {bound}"
        self.violate(text, "visits")
