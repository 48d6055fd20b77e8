"""What a strategy may read of struct page, with or without evidence that it still holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hintbench.core import scan
from hintbench.core.constants import KIND_MASK, ORDER_MASK, SLAB

if TYPE_CHECKING:
    from hintbench.core.pages import Pages
    from hintbench.core.simulation import Simulation
    from hintbench.core.zone import Zone


class StructPages:
    """The part of a `hintbench.Guest` that looks at single pages; it takes no lock.

    Args:
        simulation: whose pages they are.
    """

    def __init__(self, simulation: Simulation) -> None:
        self._simulation = simulation
        self._pages: Pages = simulation.pages

    def zone_of(self, pfn: int) -> Zone:
        """page_zone(): the zone that a page lies in.

        Args:
            pfn: the page; one that no zone spans belongs to the nearest zone below it.
        """
        zone: Zone = self._simulation.zone_of(pfn)
        return zone

    def page_ref_count(self, pfn: int) -> int:
        """page_ref_count(). Zero does not mean that the page is free.

        Tails of blocks in use and of slabs, pages on per-CPU lists and isolated ones have it, too.

        Args:
            pfn: the page.

        Raises:
            ValueError: it is outside the guest's memory.
        """
        self._look_at(pfn)
        return scan.ref_count(self._pages, pfn)

    def is_compound(self, pfn: int) -> bool:
        """PageCompound(): head or tail of a compound page in use.

        Args:
            pfn: the page.

        Raises:
            ValueError: it is outside the guest's memory.
        """
        self._look_at(pfn)
        return scan.compound_head(self._pages, pfn) >= 0

    def compound_head(self, pfn: int) -> int:
        """compound_head(): the head of the compound page around a page; itself without one.

        Args:
            pfn: the page.

        Raises:
            ValueError: it is outside the guest's memory.
        """
        self._look_at(pfn)
        head = scan.compound_head(self._pages, pfn)
        return head if head >= 0 else pfn

    def compound_order(self, pfn: int) -> int:
        """compound_order() of the compound page around a page; 0 without one.

        Args:
            pfn: the page.

        Raises:
            ValueError: it is outside the guest's memory.
        """
        self._look_at(pfn)
        head = scan.compound_head(self._pages, pfn)
        return self._pages.state[head] & ORDER_MASK if head >= 0 else 0

    def is_slab(self, pfn: int) -> bool:
        """PageSlab(): whether a page belongs to a slab.

        Args:
            pfn: the page.

        Raises:
            ValueError: it is outside the guest's memory.
        """
        self._look_at(pfn)
        head = self._pages.head_of(pfn)
        return head >= 0 and self._pages.state[head] & KIND_MASK == SLAB

    def _look_at(self, pfn: int) -> None:
        """One more struct page is looked at; there must be one."""
        if not 0 <= pfn < self._pages.page_count:
            last = self._pages.page_count - 1
            raise ValueError(f"pfn {pfn:#x} is outside the guest's memory, must be 0..{last:#x}")
        self._simulation.zone_of(pfn).visits += 1
