"""bounded-hold: what is looked at under one hold of the zone lock is bounded.

List entries, head look-ups and pages count, by `Zone.visits`.

Source: kernel-facts R14: v9 visits up to 256 x 1,024 pages under one hold.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hintbench.testing.explored import Checker

if TYPE_CHECKING:
    from hintbench.core.locks import LockTimeline


class RuleChecker(Checker):
    """Compares the zone's count of visits at the take and at the release."""

    rule = "bounded-hold"

    def __init__(self, run: Any) -> None:
        super().__init__(run)
        self.zones = {zone.lock.name: zone for zone in run.guest.zones}
        self.visits: dict[str, int] = {}

    def lock_taken(self, lock: LockTimeline) -> None:
        """A hold begins."""
        zone = self.zones.get(lock.name)
        if zone is not None:
            self.visits[lock.name] = zone.visits

    def lock_released(self, lock: LockTimeline) -> None:
        """A hold ends."""
        zone, bound = self.zones.get(lock.name), self.run.claims.hold_visits
        if zone is None or bound is None:
            return
        looked = zone.visits - self.visits.get(lock.name, zone.visits)
        if looked > bound:
            text = f"{looked} structures were looked at under one hold, declared are {bound}"
            self.violate(text, "visits")
