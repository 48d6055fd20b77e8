"""A second model of allocation from a zone: what happens when the wanted type has run out.

See :mod:`reference.lists`.  6.12.y claims whole pageblocks (``__rmqueue_claim``) and steals single
blocks (``__rmqueue_steal``); 5.0 has ``__rmqueue_fallback``, which moves pages between lists and
tries again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from reference.lists import (
    HIGHATOMIC,
    MAX_PAGE_ORDER,
    MOVABLE,
    PAGEBLOCK_ORDER,
    PAGEBLOCK_PAGES,
    RECLAIMABLE,
    UNMOVABLE,
    ReferenceLists,
)

WATERMARK_BOOST_FACTOR = 15000

# fallbacks[][]
FALLBACKS = {
    UNMOVABLE: (RECLAIMABLE, MOVABLE),
    MOVABLE: (RECLAIMABLE, UNMOVABLE),
    RECLAIMABLE: (UNMOVABLE, MOVABLE),
}


@dataclass(frozen=True)
class ExternalFragmentation:
    """What the event ``mm_page_alloc_extfrag`` says of one fallback."""

    pfn: int
    order: int
    fallback_order: int
    start_type: int
    fallback_type: int


class BulkMemory:
    """``enum rmqueue_mode``: what one hold of the zone lock remembers between two pages."""

    def __init__(self) -> None:
        self.mode = "normal"


class ReferenceZone(ReferenceLists):
    """One zone: :class:`ReferenceLists` and ``__rmqueue()``.

    Attributes:
        fragmentation: every fallback so far, as ``mm_page_alloc_extfrag`` tells it.
    """

    def __init__(
        self,
        start_pfn: int,
        managed: Iterable[tuple[int, int]],
        kernel: str,
        migratetypes: Mapping[int, int] | None = None,
        end_pfn: int | None = None,
        watermarks: tuple[int, int, int] = (0, 0, 0),
    ) -> None:
        super().__init__(start_pfn, managed, kernel, migratetypes, end_pfn, watermarks)
        self.fragmentation: list[ExternalFragmentation] = []

    def rmqueue(
        self,
        order: int,
        migratetype: int,
        nofragment: bool = False,
        memory: BulkMemory | None = None,
    ) -> int | None:
        """__rmqueue(): a block, or None when the zone has none that this caller may take."""
        if self.kernel == "5.0":
            while (pfn := self.rmqueue_smallest(order, migratetype)) is None:
                if not self._fallback_5_0(order, migratetype, nofragment):
                    return None
            return pfn
        memory = memory or BulkMemory()
        if memory.mode == "normal":
            pfn = self.rmqueue_smallest(order, migratetype)
            if pfn is not None:
                return pfn
        if memory.mode in {"normal", "claim"}:
            pfn = self._claim(order, migratetype, nofragment)
            if pfn is not None:
                memory.mode = "normal"
                return pfn
        if not nofragment:
            pfn = self._steal(order, migratetype)
            if pfn is not None:
                memory.mode = "steal"
                return pfn
        return None

    def rmqueue_bulk(
        self, order: int, count: int, migratetype: int, nofragment: bool = False
    ) -> list[int]:
        """rmqueue_bulk(): up to ``count`` blocks under one hold of the lock."""
        memory = BulkMemory()
        found: list[int] = []
        while len(found) < count:
            pfn = self.rmqueue(order, migratetype, nofragment, memory)
            if pfn is None:
                break
            found.append(pfn)
        return found

    # Fallback to other migratetypes.

    def _fallback_type(self, order: int, start_type: int) -> int | None:
        """find_suitable_fallback(), only_stealable false."""
        for candidate in FALLBACKS.get(start_type, ()):
            if self.lists[order, candidate]:
                return candidate
        return None

    @staticmethod
    def _can_steal(order: int, start_type: int) -> bool:
        """can_steal_fallback()."""
        return order >= PAGEBLOCK_ORDER // 2 or start_type in {UNMOVABLE, RECLAIMABLE}

    def _report(self, pfn: int, order: int, fallback_order: int, start: int, fallback: int) -> None:
        self.fragmentation.append(
            ExternalFragmentation(pfn, order, fallback_order, start, fallback)
        )

    def _boost_watermark(self) -> None:
        """boost_watermark()."""
        if self.kernel == "6.12" and self.managed_pages < 4 * PAGEBLOCK_PAGES:
            return
        highest = self.watermarks[2] * WATERMARK_BOOST_FACTOR // 10000
        if highest:
            highest = max(PAGEBLOCK_PAGES, highest)
            self.watermark_boost = min(self.watermark_boost + PAGEBLOCK_PAGES, highest)

    def _free_blocks_between(self, start: int, end: int) -> list[int]:
        return sorted(pfn for pfn in self.free if start <= pfn < end)

    def _count_pageblock(self, start: int, end: int) -> tuple[int, int]:
        """Free pages and pages of movable allocations from ``start`` to ``end``."""
        free = sum(1 << self.free[pfn].order for pfn in self._free_blocks_between(start, end))
        movable = sum(
            max(0, min(end, first + (1 << order)) - max(start, first))
            for first, order in self.movable_allocations.items()
        )
        return free, movable

    @staticmethod
    def _alike_pages(start_type: int, block_type: int, free: int, movable: int) -> int:
        """How many pages in use are of a kind with the allocation."""
        if start_type == MOVABLE:
            return movable
        if block_type == MOVABLE:
            return PAGEBLOCK_PAGES - (free + movable)
        return 0

    def _claim(self, order: int, start_type: int, nofragment: bool) -> int | None:
        """__rmqueue_claim(): from the largest order down, a whole pageblock changes its type."""
        lowest = PAGEBLOCK_ORDER if nofragment and order < PAGEBLOCK_ORDER else order
        for current in range(MAX_PAGE_ORDER, lowest - 1, -1):
            fallback = self._fallback_type(current, start_type)
            if fallback is None:
                continue
            if not self._can_steal(current, start_type):
                return None
            pfn = self._claim_pageblock(self.lists[current, fallback][0], order, start_type)
            if pfn is not None:
                self._report(pfn, order, current, start_type, fallback)
                return pfn
        return None

    def _claim_pageblock(self, pfn: int, order: int, start_type: int) -> int | None:
        """try_to_steal_block() (later: try_to_claim_block())."""
        current = self.free[pfn].order
        block_type = self.pageblock_type(pfn)
        if block_type == HIGHATOMIC:
            return None
        if current >= PAGEBLOCK_ORDER:
            self.set_pageblock_types(pfn, current, start_type)
            return self._take(pfn, order, rest_type=start_type)
        self._boost_watermark()
        start = pfn - pfn % PAGEBLOCK_PAGES
        end = start + PAGEBLOCK_PAGES
        if not self.spans(start) or not self.spans(end - 1):
            return None
        free, movable = self._count_pageblock(start, end)
        if free + self._alike_pages(start_type, block_type, free, movable) < PAGEBLOCK_PAGES // 2:
            return None
        self._move_pageblock(start, start_type)
        return self.rmqueue_smallest(order, start_type)

    def _move_pageblock(self, start: int, migratetype: int) -> None:
        """__move_freepages_block() of 6.12."""
        for pfn in self._free_blocks_between(start, start + PAGEBLOCK_PAGES):
            self._move(pfn, migratetype)
        self.set_pageblock_types(start, PAGEBLOCK_ORDER, migratetype)

    def _steal(self, order: int, start_type: int) -> int | None:
        """__rmqueue_steal(): the smallest block that does; its pageblock keeps its type."""
        for current in range(order, MAX_PAGE_ORDER + 1):
            fallback = self._fallback_type(current, start_type)
            if fallback is not None:
                pfn = self._take(self.lists[current, fallback][0], order, rest_type=fallback)
                self._report(pfn, order, current, start_type, fallback)
                return pfn
        return None

    def _fallback_5_0(self, order: int, start_type: int, nofragment: bool) -> bool:
        """__rmqueue_fallback() of 5.0: whether pages have come to the start type's lists."""
        lowest = PAGEBLOCK_ORDER if nofragment else order
        for current in range(MAX_PAGE_ORDER, lowest - 1, -1):
            fallback = self._fallback_type(current, start_type)
            if fallback is not None:
                break
        else:
            return False
        whole_block = self._can_steal(current, start_type)
        if not whole_block and start_type == MOVABLE and current > order:
            current, fallback = next(
                (smallest, found)
                for smallest in range(order, MAX_PAGE_ORDER + 1)
                if (found := self._fallback_type(smallest, start_type)) is not None
            )
            whole_block = self._can_steal(current, start_type)
        pfn = self.lists[current, fallback][0]
        self._report(pfn, order, current, start_type, fallback)
        self._steal_suitable_5_0(pfn, start_type, whole_block)
        return True

    def _steal_suitable_5_0(self, pfn: int, start_type: int, whole_block: bool) -> None:
        """steal_suitable_fallback() of 5.0."""
        current = self.free[pfn].order
        block_type = self.pageblock_type(pfn)
        if block_type != HIGHATOMIC:
            if current >= PAGEBLOCK_ORDER:
                self.set_pageblock_types(pfn, current, start_type)
            else:
                self._boost_watermark()
                if whole_block and self._move_whole_5_0(pfn, start_type, block_type):
                    return
        self._move(pfn, start_type)

    # The reserve of 5.0.

    def reserve_highatomic_5_0(self, pfn: int) -> None:
        """reserve_highatomic_pageblock(): at most a hundredth of the zone, and a pageblock."""
        if self.reserved_highatomic >= self.managed_pages // 100 + PAGEBLOCK_PAGES:
            return
        if self.pageblock_type(pfn) == HIGHATOMIC:
            return
        self.reserved_highatomic += PAGEBLOCK_PAGES
        self.set_pageblock_types(pfn, 0, HIGHATOMIC)
        self._move_around_5_0(pfn, HIGHATOMIC)

    def unreserve_highatomic_5_0(self, migratetype: int, force: bool) -> bool:
        """unreserve_highatomic_pageblock() for this zone: whether pages changed their list."""
        if not force and self.reserved_highatomic <= PAGEBLOCK_PAGES:
            return False
        for order in range(MAX_PAGE_ORDER + 1):
            if not self.lists[order, HIGHATOMIC]:
                continue
            pfn = self.lists[order, HIGHATOMIC][0]
            if self.pageblock_type(pfn) == HIGHATOMIC:
                self.reserved_highatomic -= min(PAGEBLOCK_PAGES, self.reserved_highatomic)
            self.set_pageblock_types(pfn, 0, migratetype)
            if self._move_around_5_0(pfn, migratetype):
                return True
        return False

    def _move_around_5_0(self, pfn: int, migratetype: int) -> bool:
        """move_freepages_block() of 5.0: whether there was anything to move."""
        start = pfn - pfn % PAGEBLOCK_PAGES
        end = start + PAGEBLOCK_PAGES
        if not self.spans(end - 1):
            return False
        blocks = self._free_blocks_between(start if self.spans(start) else pfn, end)
        for block in blocks:
            self._move(block, migratetype)
        return bool(blocks)

    def _move_whole_5_0(self, pfn: int, start_type: int, block_type: int) -> bool:
        """move_freepages_block() of 5.0 and the question whether the pageblock changes its type."""
        start = pfn - pfn % PAGEBLOCK_PAGES
        end = start + PAGEBLOCK_PAGES
        if not self.spans(start):
            start = pfn
        if not self.spans(end - 1):
            return False
        free, movable = self._count_pageblock(start, end)
        for block in self._free_blocks_between(start, end):
            self._move(block, start_type)
        if free + self._alike_pages(start_type, block_type, free, movable) >= PAGEBLOCK_PAGES // 2:
            self.set_pageblock_types(pfn, 0, start_type)
        return True
