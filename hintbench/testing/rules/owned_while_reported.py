"""owned-while-reported: each page of a report belongs to it from the call to the answer.

A page is the report's when it is isolated, in no other report; or in a unit that was marked in
flight with the zone lock held while its block was free, the mark still set; or in transit on the
CPU that calls synchronously: in the hook that was told of it. A reference count, or a look without
the lock, is no evidence. Asked at the call, and again when the host takes the memory.

Source: Duyck on v9 2/6: a reference count of 0 does not say that a page is unused (SLUB's may
have it), and the buddy allocator has no compound pages; page_is_buddy(), which means something only
under zone->lock.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hintbench.core.blocksout import overlap
from hintbench.core.constants import OWNER_BUDDY, OWNER_STRATEGY
from hintbench.testing.checker import Checker
from hintbench.testing.runs.holdings import is_held

if TYPE_CHECKING:
    from hintbench.core.contexts import Context
    from hintbench.core.flags import UnitFlags
    from hintbench.host.reports import Report

_IN_TRANSIT = ("page_freeing", "block_merged", "page_allocated")
"""Hooks whose block is on no list and with no caller as long as they last."""


class RuleChecker(Checker):
    """Remembers which marks were set rightly, and asks for every page's owner at the call."""

    rule = "owned-while-reported"
    flag_meanings = ("in-flight",)
    hooks = _IN_TRANSIT

    def __init__(self, run: Any) -> None:
        super().__init__(run)
        self.marked: set[tuple[str, int]] = set()
        self.open: list[Report] = []
        self.in_transit: dict[tuple[int, str], tuple[int, int]] = {}

    def hook_called(self, name: str, arguments: tuple[Any, ...]) -> None:
        """A hook is told of a block in transit; its last arguments are pfn and order."""
        self.in_transit[arguments[1], name] = arguments[-2], arguments[-1]

    def flag_set(self, flags: UnitFlags, pfn: int, order: int) -> None:
        """A mark counts if its unit was free, and that was seen under the lock."""
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

    def reported(self, report: Report, context: Context | None) -> None:
        """Ask who has each page."""
        for number, block in enumerate(report.blocks):
            pfn, pages = block.pfn, 1 << block.order
            if overlap(report.blocks[:number], pfn, pages) or any(
                not other.reset and overlap(other.blocks, pfn, pages) for other in self.open
            ):
                text = f"pfn {pfn:#x} order {block.order} is reported twice at once"
                self.violate(text, "twice", pfn, pages)
            if not self._owned(pfn, pages) and not (
                report.synchronous and self._carried(context, pfn, pages)
            ):
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

    def discarded(self, pfn: int, pages: int) -> None:
        """The memory goes: the report must still own it."""
        for report in self.open:
            if report.synchronous or not overlap(report.blocks, pfn, pages):
                continue
            if not self._owned(pfn, pages):
                self.violate(
                    f"pfn {pfn:#x} ({pages} pages) is discarded, but is neither isolated nor"
                    " marked any more",
                    "lost",
                    pfn,
                    pages,
                )

    def _owned(self, pfn: int, pages: int) -> bool:
        return (
            self.run.auditor.owner_of(pfn, pages, OWNER_STRATEGY) < 0
            or (bool(self.marked) and self._marked(pfn, pages))
            or is_held(self.run, pfn, pages)
        )

    def _carried(self, context: Context | None, pfn: int, pages: int) -> bool:
        """Whether the hook that calls has it in its hands."""
        if context is None:
            return False
        first, order = self.in_transit.get((context.cpu, context.name), (0, 0))
        return first <= pfn and pfn + pages <= first + (1 << order)

    def _marked(self, pfn: int, pages: int) -> bool:
        for name, (flags, meaning) in self.run.guest.flag_sets.items():
            if meaning != "in-flight":
                continue
            unit_pages = 1 << flags.order
            for unit in range(pfn & -unit_pages, pfn + pages, unit_pages):
                if (name, unit) not in self.marked or not flags.test(unit):
                    break
            else:
                return True
        return False
