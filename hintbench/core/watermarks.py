"""A zone's memory: what boot gives it, and the watermarks that say whether enough of it is free."""

import array
from typing import Any

import cython

if cython.compiled:
    from cython.cimports.hintbench.core.buddy import Buddy
    from cython.cimports.hintbench.core.constants import (
        HIGHATOMIC,
        KERNEL_6_12,
        MAX_NR_ZONES,
        MAX_PAGE_ORDER,
        MIGRATE_TYPES,
        NR_PAGE_ORDERS,
        ORIGIN_PUT_BACK,
        PAGEBLOCK_ORDER,
        PAGEBLOCK_PAGES,
    )
    from cython.cimports.hintbench.core.hooks import check_range
else:
    from hintbench.core.buddy import Buddy
    from hintbench.core.constants import (
        HIGHATOMIC,
        KERNEL_6_12,
        MAX_NR_ZONES,
        MAX_PAGE_ORDER,
        MIGRATE_TYPES,
        NR_PAGE_ORDERS,
        ORIGIN_PUT_BACK,
        PAGEBLOCK_ORDER,
        PAGEBLOCK_PAGES,
    )
    from hintbench.core.hooks import check_range


@cython.cclass
class ZoneMemory(Buddy):
    """The part of a :class:`hintbench.core.zone.Zone` that boot sets up: memory and watermarks."""

    def __init__(
        self,
        pages: Any,
        clock: Any,
        kernel: int,
        start_pfn: int,
        end_pfn: int,
        *,
        name: str,
        index: int,
        number: int,
        node: int,
    ) -> None:
        Buddy.__init__(self, pages, clock, kernel, start_pfn, end_pfn)
        self.name = name
        self.index = index
        self.number = number
        self.node = node
        self.managed_pages = 0
        self.watermark_min = 0
        self.watermark_low = 0
        self.watermark_high = 0
        self.lowmem_reserve = memoryview(array.array("q", [0] * MAX_NR_ZONES))

    def __repr__(self) -> str:
        return f"<Zone {self.name} node {self.node}>"

    def __str__(self) -> str:
        return f"zone {self.name} (node {self.node})"

    # -- boot -----------------------------------------------------------------------------------

    def set_watermarks(self, low: int, high: int, minimum: int) -> None:
        """Set min, low and high in pages; the boost needs the high one."""
        self.watermark_min = minimum
        self.watermark_low = low
        self.watermark_high = high
        self.high_watermark_pages = high
        # boost_watermark(): later kernels leave out zones that are unlikely to produce results.
        self.allow_boost = high > 0 and (
            self.kernel < KERNEL_6_12 or PAGEBLOCK_PAGES * 4 <= self.managed_pages
        )

    def set_managed(self, pages: int) -> None:
        """Say how many pages are managed when a recorded state is loaded block by block."""
        self.managed_pages = pages

    def add_memory(self, pfn: int, pages: int, migratetype: int | None = None) -> None:
        """Boot memory goes to the buddy allocator in the largest aligned blocks.

        Like memblock_free_pages(): every block is freed by __free_one_page(), to the tail.
        """
        end = pfn + pages
        self.managed_pages += pages
        while pfn < end:
            order = MAX_PAGE_ORDER
            while order and (pfn & ((1 << order) - 1) or pfn + (1 << order) > end):
                order -= 1
            self.add_free_block(pfn, order, migratetype)
            pfn += 1 << order

    def add_free_block(self, pfn: int, order: int, migratetype: int | None = None) -> int:
        """Free one block at boot or when a recorded state is loaded; nothing is charged."""
        now = self.clock.now
        self._check_block("add_free_block", pfn, order)
        if migratetype is not None:
            check_range("add_free_block", "migratetype", migratetype, 0, MIGRATE_TYPES - 1)
        if migratetype is None:
            migratetype = self.pages.pageblock_type[pfn >> PAGEBLOCK_ORDER]
        # Boot memory goes to the tail since 5.10 (commit 7fef431be9c9), before to the head.
        to_tail = self.kernel >= KERNEL_6_12
        merged = self.free_one_page(pfn, order, migratetype, to_tail, ORIGIN_PUT_BACK)
        self.clock.now = now
        return merged

    # -- watermarks -----------------------------------------------------------------------------

    @cython.exceptval(check=False)
    def meets(
        self,
        order: cython.int,
        mark: cython.longlong,
        highest_zone: cython.int,
        reserve: cython.int,
    ) -> cython.bint:
        """__zone_watermark_ok(); ``reserve`` 1: ALLOC_MIN_RESERVE, 2: also ALLOC_NON_BLOCK.

        In 5.0 these are ALLOC_HIGH and ALLOC_HARDER.
        """
        free: cython.longlong = self.free_pages - ((1 << order) - 1)
        current: cython.int
        migratetype: cython.int
        head: cython.Py_ssize_t
        if reserve:
            mark -= mark // 2
            if reserve > 1:
                mark -= mark // 4
        else:
            free -= self.free_highatomic
        if free <= mark + self.lowmem_reserve[highest_zone]:
            return False
        if order == 0:
            return True
        for current in range(order, NR_PAGE_ORDERS):
            if self.nr_free[current]:
                head = self.first_list + current * MIGRATE_TYPES
                for migratetype in range(HIGHATOMIC):
                    if self.pages.links[2 * (head + migratetype)] != head + migratetype:
                        return True
                # ALLOC_HIGHATOMIC: a request that may not block, for more than a page.
                if reserve > 1 and self.has_free(current, HIGHATOMIC):
                    return True
        return False

    @cython.exceptval(check=False)
    def meets_fast(
        self,
        order: cython.int,
        mark: cython.longlong,
        highest_zone: cython.int,
        reserve: cython.int,
    ) -> cython.bint:
        """zone_watermark_fast(): of an allocation, whose mark counts the boost.

        That of 5.0 first counts what is set aside for atomic requests as free for a single page.
        """
        if order == 0 and self.kernel < KERNEL_6_12:
            if self.free_pages > mark + self.lowmem_reserve[highest_zone]:
                return True
        return self.meets(order, mark, highest_zone, reserve)

    @cython.exceptval(check=False)
    def may_isolate(self, order: cython.int) -> cython.bint:
        """The watermark of __isolate_free_page(): as if a block of ``order`` were allocated."""
        least: cython.longlong = self.watermark_min + (1 << order)
        if self.kernel < KERNEL_6_12:
            # min_wmark_pages() counts the boost, _watermark[WMARK_MIN] of later kernels does not.
            least += self.watermark_boost
        return self.free_pages - self.free_highatomic > least

    def watermark_ok(self, mark: int, order: int = 0, highest_zone: int = 0) -> bool:
        """zone_watermark_ok(): whether enough pages are free for a request; it costs nothing.

        Args:
            mark: free pages must be above this.
            order: of the request; a block of that order must be free as well.
            highest_zone: number of the highest zone that it may use, whose lowmem_reserve has to
                stay; 0, as page reporting asks, leaves that out.

        Raises:
            ValueError: an argument is out of range.
        """
        check_range("watermark_ok", "order", order, 0, MAX_PAGE_ORDER)
        check_range("watermark_ok", "highest_zone", highest_zone, 0, MAX_NR_ZONES - 1)
        return self.meets(order, mark, highest_zone, 0)

    def _check_block(self, what: str, pfn: cython.longlong, order: cython.longlong) -> cython.int:
        """Refuse a block that is not aligned or not inside the zone."""
        check_range(what, "order", order, 0, MAX_PAGE_ORDER)
        if pfn & ((1 << order) - 1):
            raise ValueError(f"{what}: pfn {pfn:#x} is not the head of a block of order {order}")
        if not (self.start_pfn <= pfn and pfn + (1 << order) <= self.end_pfn):
            raise ValueError(f"{what}: pfn {pfn:#x} of order {order} is outside zone {self.name}")
        return 0
