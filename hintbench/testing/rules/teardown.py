"""teardown: after guest_stopping nothing is isolated, held, marked or scheduled.

And a later completion touches nothing.

Source: the remove functions of drivers/virtio/virtio_balloon.c, which cancel their work first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hintbench.testing.explored import Checker

if TYPE_CHECKING:
    from hintbench.core.zone import Zone


class RuleChecker(Checker):
    """Looks at what is left when the strategy has been stopped."""

    rule = "teardown"

    def at_end(self) -> None:
        """Nothing may be left, unless another rule has said so already."""
        lost = any(rule == "returned" for rule, _ in self.run.outcome.violations)
        for zone in self.run.guest.zones:
            if zone.isolated_pages and not lost:
                self.violate(
                    f"{zone.isolated_pages} pages of {zone} are still isolated", "isolated"
                )
        for name, (flags, meaning) in self.run.guest.flag_sets.items():
            if meaning == "in-flight" and flags.count:
                self.violate(f"{flags.count} units are still marked {name}", "marked")

    def isolated(self, zone: Zone, pfn: int, order: int) -> None:
        """After the end nobody may isolate."""
        self._late(f"pfn {pfn:#x} is isolated", pfn, order)

    def reported(self, report: Any, context: Any) -> None:
        """Nor report."""
        self._late("a report is sent", 0, 0)

    def _late(self, what: str, pfn: int, order: int) -> None:
        if self.run.stopped:
            self.violate(f"{what} after guest_stopping has ended", "late", pfn, 1 << order)
