"""The two scanners of compaction: where pages to move are looked for, and where free pages are.

Both follow mm/compaction.c of 6.12, with the searches of the free lists that go before them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from hintbench.core.constants import (
    BUDDY,
    KIND_MASK,
    MOVABLE,
    ORDER_MASK,
    PAGE_ALLOC_COSTLY_ORDER,
    PAGEBLOCK_ORDER,
    PAGEBLOCK_PAGES,
)
from hintbench.core.hooks import Block
from hintbench.core.migration import isolate_free_blocks, movable_pages

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from hintbench.core.zone import Zone

COMPACT_CLUSTER_MAX: Final = 32
"""Pages that are isolated and moved together."""


class Scanners:
    """Where the two scanners of a zone stand between runs.

    Attributes:
        migrate_pfn: The migration scanner's next page.
        free_pfn: Start of the free scanner's pageblock.
        fast_start_pfn: The lowest page that a fast search has found, or the zone's end.
        skip: Pageblocks that were looked at since the scanners began at the zone's ends.
        isolated: Free blocks set aside and not used yet, (pfn, order) each.
        search_order: Where the next fast search for free blocks begins.
        failures: Fast searches since the last that found something.
        fast: Whether the free lists are searched before the scanners go on; not for order -1.
        found_fast: Whether the migration scanner stands where such a search has found something.
        running: Whether a run has begun that has not ended.
    """

    def __init__(self, zone: Zone) -> None:
        self.zone = zone
        self.skip: set[int] = set()
        self.isolated: list[tuple[int, int]] = []
        self.search_order = PAGEBLOCK_ORDER - 1
        self.failures = 0
        self.fast = True
        self.found_fast = False
        self.running = False
        self.reset()

    def reset(self) -> None:
        """reset_cached_positions()."""
        self.migrate_pfn: int = self.zone.start_pfn
        self.free_pfn: int = (self.zone.end_pfn - 1) & ~(PAGEBLOCK_PAGES - 1)
        self.fast_start_pfn: int = self.zone.end_pfn
        self.skip.clear()

    @property
    def met(self) -> bool:
        """compact_scanners_met()."""
        return self.migrate_pfn >> PAGEBLOCK_ORDER >= self.free_pfn >> PAGEBLOCK_ORDER

    def block(self, pfn: int) -> tuple[int, int]:
        """The part of a page's pageblock that lies in the zone: first page, one past the last."""
        first = pfn & ~(PAGEBLOCK_PAGES - 1)
        return max(first, self.zone.start_pfn), min(first + PAGEBLOCK_PAGES, self.zone.end_pfn)

    def is_free(self, pfn: int) -> bool:
        """Whether a pageblock is one free block, which is neither source nor target."""
        state = self.zone.pages.state[pfn & ~(PAGEBLOCK_PAGES - 1)]
        return state & KIND_MASK == BUDDY and state & ORDER_MASK >= PAGEBLOCK_ORDER

    def next_sources(self, most: int) -> list[int]:
        """isolate_migratepages(): pages of the next pageblock that has some."""
        pages = self.zone.pages
        found_fast, self.found_fast = self.found_fast, False
        while not self.met:
            first, end = self.block(self.migrate_pfn)
            number = first >> PAGEBLOCK_ORDER
            at_start = self.migrate_pfn <= first and not found_fast
            if not self.is_free(first) and not (at_start and self.fast and number in self.skip):
                found: list[int] = movable_pages(pages, max(first, self.migrate_pfn), end, most)
                # test_and_set_skip(), or set_pageblock_skip() where there was nothing.
                self.skip.add(number)
                if found:
                    more = movable_pages(pages, found[-1] + 1, end, 1)
                    self.migrate_pfn = found[-1] + 1 if more else end
                    return found
            self.migrate_pfn = end
            found_fast = False
        return []

    @property
    def may_search(self) -> bool:
        """Whether fast_find_migrateblock() looks for another pageblock now."""
        return self.fast and (
            self.migrate_pfn & (PAGEBLOCK_PAGES - 1) == 0 or self.migrate_pfn == self.zone.start_pfn
        )

    def search_source(self) -> None:
        """fast_find_migrateblock(): a pageblock that is free in part, in the lower half.

        The zone's lock must be held; the kernel takes it for each order. The lists' heads go to
        their tails, so that the next search begins behind them.
        """
        zone = self.zone
        distance = (self.free_pfn - self.migrate_pfn) >> 1
        if self.migrate_pfn != zone.start_pfn:
            distance >>= 2
        high_pfn = (self.migrate_pfn + distance) & ~(PAGEBLOCK_PAGES - 1)
        limit = self._scan_limit()
        scanned = 0
        for order in range(PAGEBLOCK_ORDER - 1, PAGE_ALLOC_COSTLY_ORDER - 1, -1):
            if scanned >= limit:
                break
            blocks = zone.blocks_of(order, MOVABLE)
            for index, pfn in enumerate(blocks):
                scanned += 1
                if scanned > limit:
                    self._move_behind(blocks, index, order)
                    break
                if pfn < high_pfn and pfn >> PAGEBLOCK_ORDER not in self.skip:
                    self._move_behind(blocks, index, order)
                    self.fast_start_pfn = min(self.fast_start_pfn, pfn)
                    self.failures = 0
                    self.migrate_pfn = max(pfn & ~(PAGEBLOCK_PAGES - 1), zone.start_pfn)
                    self.found_fast = True
                    return
        # reinit_migrate_pfn(): linearly, from the lowest pageblock that a search has found.
        self.failures += 1
        if self.fast_start_pfn < zone.end_pfn:
            self.migrate_pfn = max(self.fast_start_pfn, zone.start_pfn)
            self.fast_start_pfn = zone.end_pfn

    def _move_behind(self, blocks: Sequence[int], index: int, order: int) -> None:
        """move_freelist_tail(): the list up to this entry goes behind the rest of it."""
        if 0 < index < len(blocks) - 1:
            self.zone.rotate_to_front(Block(blocks[index + 1], order, self.zone))

    def missing(self, wanted: int) -> int:
        """How many pages there are too few of for `wanted` sources."""
        return wanted - sum(1 << order for _, order in self.isolated)

    def search_free(self, wanted: int) -> int:
        """fast_isolate_freepages(): a free block out of the top quarter between the scanners.

        The zone's lock must be held; the kernel lets go of it between two orders.

        Returns:
            The block's pfn, -1 when the search found none.
        """
        zone = self.zone
        at_top = self.free_pfn >= (zone.end_pfn - 1) & ~(PAGEBLOCK_PAGES - 1)
        limit = PAGEBLOCK_PAGES >> 1 if at_top else self._scan_limit() >> 1 or 1
        distance = self.free_pfn - self.migrate_pfn
        low_pfn = self.free_pfn - (distance >> 2) & ~(PAGEBLOCK_PAGES - 1)
        min_pfn = self.free_pfn - (distance >> 1) & ~(PAGEBLOCK_PAGES - 1)
        # Round robin, from the order of the last success on.
        start = self.search_order
        for step in range(PAGEBLOCK_ORDER):
            order = (start - step) % PAGEBLOCK_ORDER
            blocks = zone.blocks_of(order, MOVABLE)[: -limit - 1 : -1]
            found = next((pfn for pfn in blocks if pfn >= low_pfn), -1)
            if found >= 0:
                self.failures = 0
                self.search_order = order
            else:
                found = max((pfn for pfn in blocks if pfn >= min_pfn), default=-1)
            if found < 0:
                if len(blocks) >= limit:
                    zone.rotate_to_front(Block(blocks[-1], order, zone))
                    limit = max(1, limit >> 1)
                continue
            zone.rotate_to_front(Block(found, order, zone))
            taken: list[tuple[int, int]] = isolate_free_blocks(zone, found, found + 1, 1)
            if not taken:
                break
            self.isolated += taken
            if self.missing(wanted) > 0:
                # fast_isolate_around()
                first, end = self.block(found)
                self.isolated += isolate_free_blocks(zone, first, end, self.missing(wanted))
            return found
        self.search_order = (start - 1) % PAGEBLOCK_ORDER
        self.failures += 1
        return -1

    def _scan_limit(self) -> int:
        """freelist_scan_limit()."""
        return (COMPACT_CLUSTER_MAX >> min(self.failures, 63)) + 1

    def targets(self) -> Iterator[tuple[int, int]]:
        """isolate_freepages(): pageblocks downwards, of which free pages may be taken."""
        while not self.met:
            first, end = self.block(self.free_pfn)
            # suitable_migration_target()
            if (
                not self.is_free(first)
                and self.zone.pages.pageblock_type[first >> PAGEBLOCK_ORDER] == MOVABLE
            ):
                yield first, end
            self.free_pfn -= PAGEBLOCK_PAGES
