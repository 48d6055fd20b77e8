"""bounded-in-flight: what is in the strategy's hands stays within the declared cap.

That is, pages of each zone that are isolated, held or allocated for itself, or marked; and free
memory stays above the min watermark after every isolation. The zone sees to that, unless the
strategy has meddled with it.

Source: __isolate_free_page() and its min_wmark_pages(); Duyck on v9: what is taken away may end in
a false OOM. Its arrays take up to 256 blocks of 4 MiB per CPU, 1 GiB, out of use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hintbench.testing.checker import Checker

if TYPE_CHECKING:
    from hintbench.core.flags import UnitFlags
    from hintbench.core.zone import Zone


class RuleChecker(Checker):
    """Adds up what is in hand whenever there is more of it."""

    rule = "bounded-in-flight"
    flag_meanings = ("in-flight",)

    def __init__(self, run: Any) -> None:
        super().__init__(run)
        self.least = {zone.index: int(zone.watermark_min) for zone in run.guest.zones}

    def isolated(self, zone: Zone, pfn: int, order: int) -> None:
        """One more block."""
        least = self.least[zone.index]
        if zone.free_pages <= least and zone.lock.held_here:
            text = f"{zone.free_pages} free pages are left in {zone}, its min watermark is {least}"
            self.violate(text, "watermark", pfn, 1 << order)
        self._add_up(zone, pfn, order)

    def kept(self, zone: Zone, pfn: int, order: int) -> None:
        """One more block for itself, which may be one of its batch or all that it has."""
        self._add_up(zone, pfn, order)

    def _add_up(self, zone: Zone, pfn: int, order: int) -> None:
        cap, in_hand = self.run.claims.in_flight_pages, zone.pages_in_hand
        if cap is not None and in_hand > cap:
            text = f"{in_hand} pages of {zone} are in its hands, the claim is at most {cap}"
            out = self.run.out
            lost = out.idle(int(zone.lock.granted_ns) - 1, zone)  # not what it has just taken
            spare = cap - in_hand + out.pages(lost)
            if lost and spare >= 0:
                # Forgotten blocks are in nobody's hands; whether they are, time will tell.
                self.run.defer((self.rule, text, "isolated", pfn, 1 << order), spare, lost)
            else:
                self.violate(text, "isolated", pfn, 1 << order)

    def flag_set(self, flags: UnitFlags, pfn: int, order: int) -> None:
        """One more unit in flight."""
        cap = self.run.claims.in_flight_pages
        # Whatever the zone, there cannot be more than all that is marked.
        if cap is None or flags.count << flags.order <= cap:
            return
        zone = self.run.guest.zone_of(pfn)
        pages = sum(
            1 << flags.order for unit in flags.set_units() if zone.start_pfn <= unit < zone.end_pfn
        )
        if pages > cap:
            text = f"{pages} pages of {zone} are marked {flags.name}, the claim is at most {cap}"
            self.violate(text, "marked", pfn, 1 << order)
