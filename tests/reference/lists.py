"""The free lists of a second model of the Linux buddy allocator: obvious and slow.

Nothing here is shared with ``hintbench``, on purpose.  A free list is a Python list of pfns whose
front is the list's head; a dict says where every free block is.  Each method names the kernel
function it retells, so that it can be read beside ``mm/page_alloc.c``:

* ``"6.12"``: Linux 6.12.117 (the claim and steal form came into 6.12.y in 2025);
* ``"5.0"``: Linux 5.0.

Left out, because no guest of ours has it: CMA, MIGRATE_ISOLATE, guard pages, page shuffling,
capture by compaction.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

MAX_PAGE_ORDER = 10
PAGEBLOCK_ORDER = 9
PAGEBLOCK_PAGES = 512
UNMOVABLE, MOVABLE, RECLAIMABLE, HIGHATOMIC = range(4)
MERGEABLE = (UNMOVABLE, MOVABLE, RECLAIMABLE)


@dataclass(frozen=True)
class FreeBlock:
    """Where a free block is: its order, and the type of the list that holds it."""

    order: int
    list_type: int


class ReferenceLists:
    """The free lists of one zone, all of it under the zone's lock.

    Pages are known to be free, or to have been handed out by :meth:`mark_allocated`; all others
    (reserved, on per-CPU lists, isolated) are simply not free.

    Args:
        start_pfn: zone_start_pfn.
        managed: the ranges ``(pfn, pages)`` that the buddy allocator owns.
        kernel: "5.0" or "6.12".
        migratetypes: types of pageblocks by pfn of any of their pages; the rest is MOVABLE.
        end_pfn: one past the zone's span; by default the end of the last range.
        watermarks: ``(min, low, high)`` in pages, without boost.
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
        assert kernel in {"5.0", "6.12"}
        self.kernel = kernel
        self.managed = [tuple(piece) for piece in managed]
        self.start_pfn = start_pfn
        self.end_pfn = max(p + n for p, n in self.managed) if end_pfn is None else end_pfn
        self.managed_pages = sum(pages for _, pages in self.managed)
        self.watermarks = watermarks
        self.watermark_boost = 0
        self.lowmem_reserve = [0, 0, 0, 0]
        self.below_high = False
        self.reclaim_active = False
        self.lists: dict[tuple[int, int], list[int]] = defaultdict(list)
        self.free: dict[int, FreeBlock] = {}
        self.pageblock_types: dict[int, int] = {}
        for pfn, migratetype in (migratetypes or {}).items():
            self.pageblock_types[pfn // PAGEBLOCK_PAGES] = migratetype
        self.movable_allocations: dict[int, int] = {}
        # nr_reserved_highatomic: counted when a pageblock is set aside, not looked up.
        first, last = start_pfn // PAGEBLOCK_PAGES, (self.end_pfn - 1) // PAGEBLOCK_PAGES
        mine = [self.pageblock_types.get(number) for number in range(first, last + 1)]
        self.reserved_highatomic = PAGEBLOCK_PAGES * mine.count(HIGHATOMIC)

    # What there is.

    @property
    def free_pages(self) -> int:
        """NR_FREE_PAGES."""
        return sum(1 << block.order for block in self.free.values())

    @property
    def free_highatomic(self) -> int:
        """nr_free_highatomic."""
        blocks = self.free.values()
        return sum(1 << block.order for block in blocks if block.list_type == HIGHATOMIC)

    def pageblock_type(self, pfn: int) -> int:
        """get_pfnblock_migratetype()."""
        return self.pageblock_types.get(pfn // PAGEBLOCK_PAGES, MOVABLE)

    def set_pageblock_types(self, pfn: int, order: int, migratetype: int) -> None:
        """set_pageblock_migratetype() and change_pageblock_range()."""
        for index in range(pfn // PAGEBLOCK_PAGES, (pfn + (1 << order) - 1) // PAGEBLOCK_PAGES + 1):
            self.pageblock_types[index] = migratetype

    def free_list(self, order: int, migratetype: int) -> list[int]:
        """A free list, its head first."""
        return list(self.lists[order, migratetype])

    def all_lists(self) -> dict[tuple[int, int], list[int]]:
        """Every list that is not empty, by order and migratetype."""
        return {key: list(pfns) for key, pfns in sorted(self.lists.items()) if pfns}

    def free_counts(self) -> list[int]:
        """Free blocks by order, as /proc/buddyinfo."""
        orders = [block.order for block in self.free.values()]
        return [orders.count(order) for order in range(MAX_PAGE_ORDER + 1)]

    def spans(self, pfn: int) -> bool:
        """zone_spans_pfn()."""
        return self.start_pfn <= pfn < self.end_pfn

    def mark_allocated(self, pfn: int, order: int, migratetype: int) -> None:
        """A caller has these pages now; what was asked for as MOVABLE counts as movable."""
        if migratetype == MOVABLE:
            self.movable_allocations[pfn] = order

    def mark_freed(self, pfn: int) -> None:
        """The caller gives the pages back."""
        self.movable_allocations.pop(pfn, None)

    # Lists.

    def _add(self, pfn: int, order: int, migratetype: int, to_tail: bool) -> None:
        assert pfn not in self.free
        row = self.lists[order, migratetype]
        row.insert(len(row) if to_tail else 0, pfn)
        self.free[pfn] = FreeBlock(order, migratetype)

    def _remove(self, pfn: int) -> FreeBlock:
        block = self.free.pop(pfn)
        self.lists[block.order, block.list_type].remove(pfn)
        return block

    def _move(self, pfn: int, migratetype: int) -> None:
        """move_to_free_list() of 6.12 goes to the tail, list_move() of 5.0 to the head."""
        block = self._remove(pfn)
        self._add(pfn, block.order, migratetype, to_tail=self.kernel == "6.12")

    def _is_free(self, pfn: int, order: int) -> bool:
        """page_is_buddy()."""
        return pfn in self.free and self.free[pfn].order == order

    # Free.

    def free_one_page(
        self, pfn: int, order: int, migratetype: int | None = None, to_tail: bool = False
    ) -> tuple[int, int]:
        """__free_one_page(): returns the block that the pages have become part of."""
        assert pfn % (1 << order) == 0
        if migratetype is None:
            migratetype = self.pageblock_type(pfn)
        while order < MAX_PAGE_ORDER:
            buddy = pfn ^ (1 << order)
            if not self._is_free(buddy, order):
                break
            if order >= PAGEBLOCK_ORDER and self.kernel == "6.12":
                buddy_type = self.pageblock_type(buddy)
                if buddy_type != migratetype:
                    if not {buddy_type, migratetype} <= set(MERGEABLE):
                        break
                    self.set_pageblock_types(buddy, order, migratetype)
            self._remove(buddy)
            pfn = min(pfn, buddy)
            order += 1
        if not to_tail and order < MAX_PAGE_ORDER - 1:
            # buddy_merge_likely(): is the buddy of what this block and its buddy would make free?
            parent = min(pfn, pfn ^ (1 << order))
            to_tail = self._is_free(parent ^ (1 << (order + 1)), order + 1)
        self._add(pfn, order, migratetype, to_tail)
        return pfn, order

    def free_block(self, pfn: int, order: int, to_tail: bool = False) -> None:
        """free_one_page(): a free that does not go through per-CPU lists.

        6.12 frees what is larger than a pageblock one pageblock at a time (split_large_buddy()).
        """
        piece = order if self.kernel == "5.0" else min(order, PAGEBLOCK_ORDER)
        for first in range(pfn, pfn + (1 << order), 1 << piece):
            self.free_one_page(first, piece, to_tail=to_tail)

    def free_boot_memory(self) -> None:
        """__free_pages_memory(): every managed range, in the largest aligned blocks, ascending."""
        for first, pages in self.managed:
            pfn = first
            while pfn < first + pages:
                order = MAX_PAGE_ORDER
                while pfn % (1 << order) or pfn + (1 << order) > first + pages:
                    order -= 1
                # __free_pages_core() adds at the tail (FPI_TO_TAIL) since 5.10.
                self.free_block(pfn, order, to_tail=self.kernel == "6.12")
                pfn += 1 << order

    # Allocate.

    def _take(self, pfn: int, order: int, rest_type: int) -> int:
        """page_del_and_expand(): the upper halves go to the heads of their lists."""
        size = 1 << self._remove(pfn).order
        while size > 1 << order:
            size //= 2
            self._add(pfn + size, size.bit_length() - 1, rest_type, to_tail=False)
        return pfn

    def rmqueue_smallest(self, order: int, migratetype: int) -> int | None:
        """__rmqueue_smallest()."""
        for current in range(order, MAX_PAGE_ORDER + 1):
            if row := self.lists[current, migratetype]:
                return self._take(row[0], order, migratetype)
        return None

    # Isolation, as page reporting and the strategies of 2019 use it.

    def isolate(self, pfn: int) -> int | None:
        """__isolate_free_page(): the block's order, or None when the watermark forbids it."""
        order = self.free[pfn].order
        if self.kernel == "6.12":
            mark, unusable = self.watermarks[0], self.free_highatomic
        else:
            # min_wmark_pages() with the boost, and the whole reserve.
            mark, unusable = self.watermarks[0] + self.watermark_boost, self.reserved_highatomic
        if self.free_pages - unusable <= mark + (1 << order) + self.lowmem_reserve[0]:
            return None
        self._remove(pfn)
        if order >= PAGEBLOCK_ORDER - 1:
            for first in range(pfn, pfn + (1 << order) - 1, PAGEBLOCK_PAGES):
                if self.pageblock_type(first) in MERGEABLE:
                    self._make_movable(first - first % PAGEBLOCK_PAGES)
        return order

    def _make_movable(self, start: int) -> None:
        """What an isolation does to a pageblock: 6.12 moves its free blocks too, if it can."""
        if self.kernel == "5.0":
            self.set_pageblock_types(start, PAGEBLOCK_ORDER, MOVABLE)
        elif self.spans(start) and self.spans(start + PAGEBLOCK_PAGES - 1):
            self._move_pageblock(start, MOVABLE)

    def put_back(self, pfn: int, order: int, to_tail: bool = True) -> tuple[int, int]:
        """__putback_isolated_page() (at the tail); v9 calls __free_one_page() (not to the tail)."""
        return self.free_one_page(pfn, order, to_tail=to_tail)

    def rotate_to_front(self, pfn: int) -> None:
        """list_rotate_to_front(): the block becomes the first of its list, the order stays."""
        block = self.free[pfn]
        row = self.lists[block.order, block.list_type]
        at = row.index(pfn)
        row[:] = row[at:] + row[:at]

    # What must always hold.

    def validate(self) -> None:
        """Every free block is aligned, in the zone, on one list, and merged as far as it goes."""
        on_lists = {pfn: key for key, pfns in self.lists.items() for pfn in pfns}
        assert len(on_lists) == sum(len(pfns) for pfns in self.lists.values())
        assert on_lists == {p: (b.order, b.list_type) for p, b in self.free.items()}
        before = -1
        for pfn in sorted(self.free):
            order = self.free[pfn].order
            end = pfn + (1 << order)
            assert pfn >= before, f"{pfn} lies in the block before it"
            assert pfn % (1 << order) == 0
            assert any(first <= pfn and end <= first + n for first, n in self.managed)
            before = end
            buddy = pfn ^ (1 << order)
            if order < MAX_PAGE_ORDER and self._is_free(buddy, order):
                types = {self.pageblock_type(pfn), self.pageblock_type(buddy)}
                assert order >= PAGEBLOCK_ORDER, f"{pfn} and {buddy} of order {order} not merged"
                assert len(types) > 1 and HIGHATOMIC in types
            if self.kernel == "6.12":
                assert self.free[pfn].list_type == self.pageblock_type(pfn)
