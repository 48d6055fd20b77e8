"""no-false-oom: a blocking allocation never fails while the strategy holds what would serve it.

It gets the blocks, or waits at most as long as they are in flight. Whether they would serve it
is asked as zone_watermark_ok() does. An order above PAGE_ALLOC_COSTLY_ORDER, for which Linux
kills nobody, fails as falsely. That it fails is found where it
does, in every run (`hintbench.kernel.threads`); that it waits for ever, when nothing else goes on.

Source: Hildenbrand and Duyck on v9; the watermark gate of page reporting.
"""

from hintbench.core.scheduler import MAY_SLEEP
from hintbench.testing.checker import Checker

GRACE_NS = 500_000_000
"""Longer than any host of an explored run takes for a report, faults included [virtual ns]."""


class RuleChecker(Checker):
    """Looks for allocations that wait in memory_low for what does not come back."""

    rule = "no-false-oom"

    def at_stuck(self) -> None:
        """Nobody will wake them."""
        self._look(int(self.run.machine.clock.now))

    def at_endless(self) -> None:
        """Nobody has for a long time, though the strategy goes on: unless it forgot the blocks."""
        if "returned" in self.run.outcome.counts:
            return
        self._look(int(self.run.machine.clock.now) - GRACE_NS)

    def _look(self, before_ns: int) -> None:
        guest = self.run.guest
        pages = sum(zone.pages_in_hand for zone in guest.zones)
        for each in self.run.scheduler.hooks:
            if each is None or each.name != MAY_SLEEP or each.parked != "sleep":
                continue
            if pages and each.parked_at <= before_ns:
                self.violate(
                    f"an allocation on CPU {each.cpu} waits since {each.parked_at:,} ns, and"
                    f" {pages} pages are in the strategy's hands",
                    "waits",
                )
