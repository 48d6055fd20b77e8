"""owned-while-reported: each page of a report belongs to it from the call to the answer.

A page is the report's when it is isolated, in no other report; or in a unit that was marked in
flight with the zone lock held while its block was free, the mark still set; or in transit on the
CPU that calls synchronously. A reference count, or a look without the lock, is no evidence.

Source: kernel-facts D5, D6, R6, R12.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hintbench.core.constants import (
    HELD,
    KIND_MASK,
    ORDER_MASK,
    OWNER_BUDDY,
    OWNER_OUTSIDE,
    OWNER_STRATEGY,
)
from hintbench.testing.explored import Checker

if TYPE_CHECKING:
    from hintbench.core.flags import UnitFlags
    from hintbench.reports import Report


class RuleChecker(Checker):
    """Remembers which marks were set rightly, and asks for every page's owner at the call."""

    rule = "owned-while-reported"

    def __init__(self, run: Any) -> None:
        super().__init__(run)
        self.marked: set[tuple[str, int]] = set()
        self.open: list[Report] = []

    def flag_set(self, flags: UnitFlags, pfn: int, order: int) -> None:
        """A mark counts if its unit was free, and that was seen under the lock."""
        if self.run.guest.flag_sets[flags.name][1] != "in-flight":
            return
        pages = 1 << flags.order
        first = pfn & -pages
        for unit in range(first, max(pfn + (1 << order), first + pages), pages):
            zone = self.run.guest.zone_of(unit)
            free = self.run.auditor.owner_of(unit, pages, OWNER_BUDDY) < 0
            if zone.lock.held_here and free:
                self.marked.add((flags.name, unit))

    def flag_cleared(self, flags: UnitFlags, pfn: int, order: int) -> None:
        """The mark counts no longer."""
        pages = 1 << flags.order
        for unit in range(pfn & -pages, pfn + (1 << order), pages):
            self.marked.discard((flags.name, unit))

    def reported(self, report: Report, context: Any) -> None:
        """Ask who has each page."""
        for block in report.blocks:
            pfn, pages = block.pfn, 1 << block.order
            for other in self.open:
                if any(b.pfn < pfn + pages and pfn < b.pfn + (1 << b.order) for b in other.blocks):
                    self.violate(
                        f"pfn {pfn:#x} order {block.order} is in two reports at once",
                        "twice",
                        pfn,
                        pages,
                    )
            if not self._owned(report, pfn, pages):
                self.violate(
                    f"pfn {pfn:#x} order {block.order} is reported, but is neither isolated nor"
                    " rightly marked",
                    "owner",
                    pfn,
                    pages,
                )
        self.open.append(report)

    def answered(self, report: Report) -> None:
        """The host is done with it."""
        if report in self.open:
            self.open.remove(report)

    def _owned(self, report: Report, pfn: int, pages: int) -> bool:
        auditor = self.run.auditor
        if auditor.owner_of(pfn, pages, OWNER_STRATEGY) < 0:
            return True
        if report.synchronous and auditor.owner_of(pfn, pages, OWNER_OUTSIDE) < 0:
            return True
        return self._held(pfn, pages) or self._marked(pfn, pages)

    def _held(self, pfn: int, pages: int) -> bool:
        """Whether the strategy has allocated it for itself."""
        states = self.run.machine.pages
        head = states.head_of(pfn)
        if head < 0 or states.state[head] & KIND_MASK != HELD:
            return False
        return pfn + pages <= head + (1 << (states.state[head] & ORDER_MASK))

    def _marked(self, pfn: int, pages: int) -> bool:
        for name, (flags, meaning) in self.run.guest.flag_sets.items():
            unit_pages = 1 << flags.order
            if meaning == "in-flight" and all(
                (name, unit) in self.marked
                for unit in range(pfn & -unit_pages, pfn + pages, unit_pages)
            ):
                return True
        return False
