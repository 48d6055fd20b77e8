"""The two scanners of compaction: where pages to move are looked for, and where free pages are.

Both follow mm/compaction.c of 6.12, with the searches of the free lists that go before them. The
zone's lock must be held where free lists are touched; the kernel lets go of it between two orders.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

from hintbench.core.constants import (
    BUDDY,
    KIND_MASK,
    MOVABLE,
    NR_PAGE_ORDERS,
    ORDER_MASK,
    PAGE_ALLOC_COSTLY_ORDER,
    PAGEBLOCK_ORDER,
    PAGEBLOCK_PAGES,
    TRANSIT,
)
from hintbench.core.hooks import Block
from hintbench.core.migration import isolate_free_blocks, movable_pages

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from hintbench.core.zone import Zone

COMPACT_CLUSTER_MAX: Final = 32
"""Pages that are isolated of a pageblock at first, before the rest of it."""
_NOWHERE: Final = -1


def block_start(pfn: int) -> int:
    """pageblock_start_pfn()."""
    return pfn & ~(PAGEBLOCK_PAGES - 1)


def block_end(pfn: int) -> int:
    """pageblock_end_pfn()."""
    return block_start(pfn) + PAGEBLOCK_PAGES


class Scanners:
    """The ``struct compact_control`` of a zone's run, and what the zone keeps between two.

    Attributes:
        migrate_pfn: The migration scanner's next page.
        free_pfn: The free scanner's next page.
        cached_migrate_pfn: Where the migration scanner begins in the next run.
        cached_free_pfn: Where the free scanner does.
        fast_start_pfn: The lowest page that a fast search has found in this run.
        skip: Pageblocks with PG_migrate_skip. Only a direct compaction that went through the
            whole zone makes Linux clear them (compact_blockskip_flush).
        isolated: Free blocks set aside and not used yet: by order, the pfn of each.
        search_order: Where the next fast search for free blocks begins.
        failures: Fast searches since the last that found something.
        fast: Whether the free lists are searched before the scanners go on; not for order -1.
        finish_pageblock: Whether all that is left of the pageblock is isolated at once.
        last_migrated_pfn: Start of the pageblock that pages were last taken of, or -1 when what
            was freed there has been flushed.
    """

    def __init__(self, zone: Zone) -> None:
        self.zone = zone
        self.skip: set[int] = set()
        self.isolated: tuple[deque[int], ...] = tuple(deque() for _ in range(NR_PAGE_ORDERS))
        self.reset()
        self.begin(proactive=False)

    def reset(self) -> None:
        """reset_cached_positions()."""
        self.cached_migrate_pfn: int = self.zone.start_pfn
        self.cached_free_pfn: int = block_start(self.zone.end_pfn - 1)

    def begin(self, *, proactive: bool) -> None:
        """The beginning of compact_zone().

        Args:
            proactive: For no order: through the whole zone, scanners only, no skip hints.
        """
        zone = self.zone
        inside = range(zone.start_pfn, zone.end_pfn)
        if proactive or self.cached_free_pfn not in inside:
            self.free_pfn: int = block_start(zone.end_pfn - 1)
        else:
            self.free_pfn = self.cached_free_pfn
        if proactive or self.cached_migrate_pfn not in inside:
            self.migrate_pfn: int = zone.start_pfn
        else:
            self.migrate_pfn = self.cached_migrate_pfn
        if not proactive:
            self.cached_free_pfn, self.cached_migrate_pfn = self.free_pfn, self.migrate_pfn
        self.fast = not proactive
        self.fast_start_pfn: int | None = None
        self._may_go_back = True
        self._stride, self._enough = 1, False
        self.search_order = PAGEBLOCK_ORDER - 1
        self.failures = 0
        self.finish_pageblock = False
        self.last_migrated_pfn = _NOWHERE

    @property
    def met(self) -> bool:
        """compact_scanners_met()."""
        return self.migrate_pfn >> PAGEBLOCK_ORDER >= self.free_pfn >> PAGEBLOCK_ORDER

    # -- pages to move --------------------------------------------------------------------------

    @property
    def may_search(self) -> bool:
        """Whether fast_find_migrateblock() looks for another pageblock now."""
        return (
            self.fast
            and not self.finish_pageblock
            and self.migrate_pfn in (block_start(self.migrate_pfn), self.zone.start_pfn)
        )

    def search_source(self) -> int:
        """fast_find_migrateblock(): a pageblock that is free in part, in the lower half.

        The lists' heads go to their tails, so that the next search begins behind them.

        Returns:
            Where to look for pages to move.
        """
        zone = self.zone
        distance = (self.free_pfn - self.migrate_pfn) >> 1
        if self.migrate_pfn != zone.start_pfn:
            distance >>= 2
        high_pfn = block_start(self.migrate_pfn + distance)
        limit = (COMPACT_CLUSTER_MAX >> min(self.failures, 63)) + 1
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
                    self._remember(pfn)
                    self.failures = 0
                    return max(block_start(pfn), zone.start_pfn)
        # reinit_migrate_pfn(): once a run linearly, from the lowest page that a search has found.
        self.failures += 1
        if self._may_go_back and self.fast_start_pfn is not None:
            self.migrate_pfn = self.fast_start_pfn
            self._may_go_back = False
        return self.migrate_pfn

    def _remember(self, pfn: int) -> None:
        """update_fast_start_pfn()."""
        if self._may_go_back:
            known = self.fast_start_pfn
            self.fast_start_pfn = pfn if known is None else min(known, pfn)

    def _move_behind(self, blocks: Sequence[int], index: int, order: int) -> None:
        """move_freelist_tail(): the list up to this entry goes behind the rest of it."""
        if index < len(blocks) - 1:
            self.zone.rotate_to_front(Block(blocks[index + 1], order, self.zone))

    def next_sources(self, low_pfn: int, most: int) -> list[int]:
        """isolate_migratepages(): pages of the first pageblock that is scanned, if it has some.

        Args:
            low_pfn: Where to begin.
            most: How many at most.

        Returns:
            The pages as they will be moved: the last one first.
        """
        found_fast = low_pfn != self.migrate_pfn and not self.failures
        end = block_end(low_pfn)
        while end <= self.free_pfn:
            at_start = low_pfn in (block_start(low_pfn), self.zone.start_pfn)
            skipped = self.fast and low_pfn >> PAGEBLOCK_ORDER in self.skip
            if found_fast or not (at_start and skipped):
                return self._isolate_sources(low_pfn, end, most, at_start=at_start)
            found_fast = False
            self.migrate_pfn = low_pfn = end
            end += PAGEBLOCK_PAGES
        return []

    def _isolate_sources(self, low_pfn: int, end: int, most: int, *, at_start: bool) -> list[int]:
        """isolate_migratepages_block()."""
        number = low_pfn >> PAGEBLOCK_ORDER
        limit = PAGEBLOCK_PAGES + 1 if self.finish_pageblock else COMPACT_CLUSTER_MAX
        seen: list[int] = movable_pages(self.zone.pages, low_pfn, end, limit)
        found = seen[:most]
        stops = len(seen) == limit or len(found) < len(seen)
        self.migrate_pfn = found[-1] + 1 if stops else end
        if found and at_start and self.fast:
            # test_and_set_skip()
            self.skip.add(number)
        if self.migrate_pfn == end and (not found or self.finish_pageblock):
            if at_start and not found:
                self.skip.add(number)
            # update_cached_migrate(): one pageblock further than it has come.
            self.cached_migrate_pfn = max(self.cached_migrate_pfn, block_end(end))
        if found:
            self.last_migrated_pfn = max(self.zone.start_pfn, block_start(self.migrate_pfn - 1))
        return found[::-1]

    # -- free pages -----------------------------------------------------------------------------

    @property
    def free_pages(self) -> int:
        """Pages set aside and not used yet."""
        return sum(len(blocks) << order for order, blocks in enumerate(self.isolated))

    def take_page(self) -> int:
        """compaction_alloc(): the first page of the smallest block, which is split for it.

        Returns:
            Its pfn, -1 when nothing is set aside.
        """
        state = self.zone.pages.state
        order = next((order for order, blocks in enumerate(self.isolated) if blocks), -1)
        if order < 0:
            return -1
        pfn = self.isolated[order].popleft()
        while order > 0:
            order -= 1
            self.isolated[order].appendleft(pfn + (1 << order))
            state[pfn + (1 << order)] = TRANSIT | order
        state[pfn] = TRANSIT
        return pfn

    def put_page(self, pfn: int) -> None:
        """compaction_free(): a page that was not needed."""
        self.isolated[0].appendleft(pfn)

    def release(self) -> list[tuple[int, int]]:
        """Give up what is set aside, small blocks first: pfn and order of each."""
        left = [(pfn, order) for order, blocks in enumerate(self.isolated) for pfn in blocks]
        for blocks in self.isolated:
            blocks.clear()
        if left:
            # Only back, not forward.
            self.cached_free_pfn = max(self.cached_free_pfn, block_start(max(left)[0]))
        return left

    def _isolate(self, first: int, end: int, wanted: int, stride: int = 1) -> int:
        """isolate_freepages_block(): until there are so many; where it has stopped."""
        blocks, stopped = isolate_free_blocks(
            self.zone, first, end, wanted - self.free_pages, stride
        )
        for pfn, order in blocks:
            self.isolated[order].append(pfn)
        return stopped

    def search_free(self, wanted: int) -> None:
        """fast_isolate_freepages(): a free block out of the top quarter between the scanners.

        Every search is as deep as the first: compact_init_free_pfn is 0 until a direct compaction
        has gone through the zone.

        Args:
            wanted: Pages that have no destination yet.
        """
        zone = self.zone
        limit = PAGEBLOCK_PAGES >> 1
        distance = self.free_pfn - self.migrate_pfn
        low_pfn = block_start(self.free_pfn - (distance >> 2))
        min_pfn = block_start(self.free_pfn - (distance >> 1))
        highest, page, order = 0, _NOWHERE, self.search_order
        while page < 0 <= order:
            blocks = zone.blocks_of(order, MOVABLE)[::-1]
            front, candidate, scanned = _NOWHERE, 0, 0
            for scanned, pfn in enumerate(blocks, 1):
                if pfn >= highest:
                    highest = max(block_start(pfn), zone.start_pfn)
                if pfn >= low_pfn:
                    self.failures = 0
                    self.search_order = order
                    page = front = pfn
                    break
                if pfn >= min_pfn and pfn > candidate:
                    candidate = pfn
                    limit >>= 1
                if scanned >= limit:
                    front = pfn
                    break
            if page < 0 and candidate:
                page = front = candidate
            if front >= 0:
                zone.rotate_to_front(Block(front, order, zone))
            if page >= 0:
                before = self.free_pages
                self._isolate(page, page + 1, before + 1)
                if self.free_pages == before:
                    # The min watermark: the search is given up.
                    page, order = _NOWHERE, self.search_order + 1
            if self.free_pages >= wanted:
                break
            if scanned >= limit:
                limit = max(1, limit >> 1)
            order = self._next_order(order)
        if page < 0:
            self.failures += 1
            if highest >= min_pfn:
                self.free_pfn = page = highest
        if highest and highest >= self.cached_free_pfn:
            self.cached_free_pfn = highest - PAGEBLOCK_PAGES
        if page >= 0 and self.free_pages < wanted:
            self._isolate_around(page, wanted)

    def _next_order(self, order: int) -> int:
        """next_search_order(): round robin; -1 when it has come round."""
        order = order - 1 if order > 0 else PAGEBLOCK_ORDER - 1
        if order == self.search_order:
            self.search_order = (self.search_order or PAGEBLOCK_ORDER) - 1
            return -1
        return order

    def _isolate_around(self, pfn: int, wanted: int) -> None:
        """fast_isolate_around()."""
        first = max(block_start(pfn), self.zone.start_pfn)
        end = min(block_end(pfn), self.zone.end_pfn)
        if self._isolate(first, end, wanted) == end:
            self.skip.add(pfn >> PAGEBLOCK_ORDER)

    def targets(self) -> Iterator[tuple[int, int]]:
        """isolate_freepages(): pageblocks downwards, of which free pages may be taken.

        Yields:
            A pageblock, for the caller to call `isolate_target` with: its start and its end.
        """
        first = block_start(self.free_pfn)
        end = min(first + PAGEBLOCK_PAGES, self.zone.end_pfn)
        self._stride, self._enough = 1, False
        while first >= block_end(self.migrate_pfn):
            if self._is_target(first) and not (self.fast and first >> PAGEBLOCK_ORDER in self.skip):
                yield first, end
                if self._enough:
                    return
            end, first = first, first - PAGEBLOCK_PAGES
            self.free_pfn = first

    def isolate_target(self, first: int, end: int, wanted: int) -> None:
        """isolate_freepages_block() of one of the `targets`, and what follows from it.

        Args:
            first: Start of the pageblock.
            end: Its end.
            wanted: Pages that have no destination yet.
        """
        before = self.free_pages
        at = self._isolate(self.free_pfn, end, wanted, self._stride)
        if at == end:
            # update_pageblock_skip()
            self.skip.add(first >> PAGEBLOCK_ORDER)
            self.cached_free_pfn = min(self.cached_free_pfn, first - PAGEBLOCK_PAGES)
        self._enough = self.free_pages >= wanted or at < end
        self.free_pfn = at if at < end else first - PAGEBLOCK_PAGES
        more = self.free_pages > before
        self._stride = 1 if more else min(COMPACT_CLUSTER_MAX, self._stride << 1)

    def _is_target(self, pfn: int) -> bool:
        """suitable_migration_target(): a movable pageblock that is not one free block."""
        pages = self.zone.pages
        state = pages.state[pfn]
        if state & KIND_MASK == BUDDY and state & ORDER_MASK >= PAGEBLOCK_ORDER:
            return False
        return bool(pages.pageblock_type[pfn >> PAGEBLOCK_ORDER] == MOVABLE)
