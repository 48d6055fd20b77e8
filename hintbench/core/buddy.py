"""The buddy allocator of one zone: free lists, merge, split.

Follows mm/page_alloc.c; every function names the kernel's where it has one.  All of it runs under
the zone's lock, which is the caller's business (:mod:`hintbench.core.zone`).
"""

import array
from typing import Any

import cython

if cython.compiled:
    from cython.cimports.hintbench.core.blockhooks import BlockHooks
    from cython.cimports.hintbench.core.clock import VirtualClock
    from cython.cimports.hintbench.core.constants import (
        BUDDY,
        HIGHATOMIC,
        KERNEL_6_12,
        MAX_PAGE_ORDER,
        MIGRATE_TYPES,
        NR_PAGE_ORDERS,
        ORIGIN_PUT_BACK,
        PAGEBLOCK_ORDER,
        REASON_ALLOCATION,
        REASON_MERGE,
        REASON_SPLIT,
        TAIL,
        TRANSIT,
    )
    from cython.cimports.hintbench.core.hooks import check_range
    from cython.cimports.hintbench.core.pages import Pages
else:
    from hintbench.core.blockhooks import BlockHooks
    from hintbench.core.clock import VirtualClock
    from hintbench.core.constants import (
        BUDDY,
        HIGHATOMIC,
        KERNEL_6_12,
        MAX_PAGE_ORDER,
        MIGRATE_TYPES,
        NR_PAGE_ORDERS,
        ORIGIN_PUT_BACK,
        PAGEBLOCK_ORDER,
        REASON_ALLOCATION,
        REASON_MERGE,
        REASON_SPLIT,
        TAIL,
        TRANSIT,
    )
    from hintbench.core.hooks import check_range
    from hintbench.core.pages import Pages


@cython.cclass
class Buddy(BlockHooks):
    """Free lists per order and migratetype over a range of pages.

    Args:
        pages: the guest's page arrays.
        clock: charged per block visited, hot or cold.
        kernel: ``KERNEL_5_0`` or ``KERNEL_6_12``.
        start_pfn: first page, the zone's start.
        end_pfn: one behind the last page.
        hooks: who listens; None for nobody.

    Attributes:
        free_pages: NR_FREE_PAGES.
        free_highatomic: what an ordinary allocation is not to count on: those on HIGHATOMIC lists
            (nr_free_highatomic). 5.0 takes all of nr_reserved_highatomic for it, free or not.
        reserved_highatomic: pages of the pageblocks that are set aside (nr_reserved_highatomic).
        recorded_highatomic: 5.0 only: pages on per-CPU lists that were freed when their pageblock
            was HIGHATOMIC. They go back to that type's lists (set_pcppage_migratetype()).
        nr_free: free blocks by order, all migratetypes.
        split: counts where backed memory is; None where nobody asks.
        claim: called with (pfn, order) of every merged block of ``claim_order`` or more; the
            oracle's zero-time service.
        waiting: the coroutine of a ``block_merged`` hook that dropped the lock; the merge stands
            at ``merge_pfn``, ``merge_order``, ``merge_type``. Whoever frees takes them from here
            at once (:class:`hintbench.core.vcpu.Drain`) and goes on with :meth:`merge`.
    """

    def __init__(
        self,
        pages: Pages,
        clock: VirtualClock,
        kernel: int,
        start_pfn: int,
        end_pfn: int,
        hooks: Any = None,
    ) -> None:
        BlockHooks.__init__(self, clock, hooks)
        self.pages = pages
        self.kernel = kernel
        self.start_pfn = start_pfn
        self.end_pfn = end_pfn
        self.first_list = pages.new_lists(NR_PAGE_ORDERS * MIGRATE_TYPES)
        self.free_pages = 0
        self.free_highatomic = 0
        self.reserved_highatomic = 0
        self.recorded_highatomic: set[int] = set()
        self.nr_free = memoryview(array.array("i", [0] * NR_PAGE_ORDERS))
        self.allow_boost = True
        self.watermark_boost = 0
        self.below_high = False
        self.boosted = False
        self.reclaim_active = False
        self.high_watermark_pages = 0
        self.quiet = False
        self.split = None
        self.claim = None
        self.visits = 0
        self.claim_order = 0
        self.waiting = None
        self.merge_pfn = 0
        self.merge_order = 0
        self.merge_type = 0

    @cython.exceptval(check=False)
    def list_of(self, order: cython.int, migratetype: cython.int) -> cython.int:
        """free_area[order].free_list[migratetype]."""
        return self.first_list + order * MIGRATE_TYPES + migratetype

    @cython.exceptval(check=False)
    def has_free(self, order: cython.int, migratetype: cython.int) -> cython.bint:
        """Whether a free list has a block."""
        head: cython.int = self.first_list + order * MIGRATE_TYPES + migratetype
        return self.pages.next[head] != head

    def charge_block(self, pfn: cython.int) -> cython.int:
        """Charge the visit of a block: hot when this CPU touched its pageblock last."""
        index: cython.int = pfn >> PAGEBLOCK_ORDER
        if self.pages.pageblock_cpu[index] == self.clock.cpu:
            self.clock.now += self.clock.costs.block_hot_ns
        else:
            self.clock.now += self.clock.costs.block_cold_ns
            self.pages.pageblock_cpu[index] = self.clock.cpu
        return 0

    def free_one_page(
        self,
        pfn: cython.int,
        order: cython.int,
        migratetype: cython.int,
        to_tail: cython.bint,
        origin: cython.int,
    ) -> cython.int:
        """__free_one_page(): merge as far as it goes and add the result to its list.

        Returns:
            The order after merging; the block's pfn is ``pfn`` rounded down to it.  While
            ``waiting`` is set afterwards the merge has not ended.
        """
        self.charge_block(pfn)
        self.free_pages += 1 << order
        if migratetype == HIGHATOMIC and self.kernel >= KERNEL_6_12:
            self.free_highatomic += 1 << order
        if order == MAX_PAGE_ORDER or self.pages.state[pfn ^ (1 << order)] != (BUDDY | order):
            # Its buddy is not free: the loop would end where it begins.
            return self.finish_free(pfn, order, migratetype, to_tail, origin, pfn, order)
        return self.merge(pfn, order, migratetype, to_tail, origin, pfn, order)

    def merge(
        self,
        pfn: cython.int,
        order: cython.int,
        migratetype: cython.int,
        to_tail: cython.bint,
        origin: cython.int,
        freed_pfn: cython.int,
        freed_order: cython.int,
    ) -> cython.int:
        """The merge loop of __free_one_page(), from wherever it stands."""
        buddy: cython.int = pfn
        buddy_type: cython.int
        # While a hook waited, the page in hand was marked; its head may now end up inside a block.
        self.pages.state[pfn] = TAIL
        while order < MAX_PAGE_ORDER:
            buddy = pfn ^ (1 << order)
            if self.pages.state[buddy] != (BUDDY | order):
                break
            if order >= PAGEBLOCK_ORDER:
                buddy_type = self.pages.pageblock_type[buddy >> PAGEBLOCK_ORDER]
                if migratetype != buddy_type:
                    # Only mergeable types may mix (migratetype_is_mergeable()); in 5.0 all do.
                    if self.kernel >= KERNEL_6_12:
                        if migratetype >= HIGHATOMIC or buddy_type >= HIGHATOMIC:
                            break
                        self.set_pageblock_types(buddy, order, migratetype)
            self.pages.remove(buddy)
            self.pages.state[buddy] = TAIL
            self.nr_free[order] -= 1
            self.call_block_taken(buddy, order, REASON_MERGE)
            pfn &= buddy
            order += 1
            if (
                self.hooks is not None
                and self.hooks.block_merged is not None
                and origin != ORIGIN_PUT_BACK
                and self.concerns(self.hooks.block_merged, pfn, order)
            ):
                # The page in hand is on no list; the hook may drop the lock.
                self.pages.state[pfn] = TRANSIT | order
                waiting = self.tell_merged(self.hooks.block_merged, pfn, order)
                if waiting is not None:
                    self.waiting = waiting
                    self.merge_pfn = pfn
                    self.merge_order = order
                    self.merge_type = migratetype
                    return order
                self.pages.state[pfn] = TAIL
        return self.finish_free(pfn, order, migratetype, to_tail, origin, freed_pfn, freed_order)

    def finish_free(
        self,
        pfn: cython.int,
        order: cython.int,
        migratetype: cython.int,
        to_tail: cython.int,
        origin: cython.int,
        freed_pfn: cython.int,
        freed_order: cython.int,
    ) -> cython.int:
        """The end of __free_one_page(): set_buddy_order(), list insertion, notification."""
        head: cython.int
        higher: cython.int
        self.pages.state[pfn] = BUDDY | order
        self.nr_free[order] += 1
        head = self.list_of(order, migratetype)
        if not to_tail and order < MAX_PAGE_ORDER - 1:
            # buddy_merge_likely(): will the block that this one waits for find a free buddy?
            higher = (pfn & ~(1 << order)) ^ (1 << (order + 1))
            to_tail = self.pages.state[higher] == (BUDDY | (order + 1))
        if to_tail:
            self.pages.add_tail(head, pfn)
        else:
            self.pages.add_head(head, pfn)
        if self.split is not None:
            self.split.freed(pfn, order, freed_pfn, freed_order)
        if self.claim is not None and order >= self.claim_order:
            self.claim(pfn, order)
        if self.hooks is not None and self.hooks.block_freed is not None and not self.quiet:
            self.tell_freed(pfn, order, freed_pfn, freed_order, origin)
        return order

    def call_block_taken(
        self, pfn: cython.int, order: cython.int, reason: cython.int
    ) -> cython.int:
        """A block has left its free list: whoever wants to hear of that is told."""
        if self.clock.digest.listener is None and (
            self.hooks is None
            or (self.hooks.block_taken is None and len(self.hooks.forget_when_taken) == 0)
        ):
            return 0
        return self.tell_taken(pfn, order, reason)

    def take_block(
        self,
        pfn: cython.int,
        block_order: cython.int,
        order: cython.int,
        migratetype: cython.int,
        reason: cython.int,
    ) -> cython.int:
        """page_del_and_expand(): the free block at ``pfn`` leaves its list, cut down to ``order``.

        The upper halves go to the heads of their lists.  The taken part is in transit.
        """
        upper: cython.int
        high: cython.int = block_order
        self.charge_block(pfn)
        self.pages.remove(pfn)
        self.nr_free[block_order] -= 1
        self.free_pages -= 1 << order
        if migratetype == HIGHATOMIC and self.kernel >= KERNEL_6_12:
            self.free_highatomic -= 1 << order
        self.pages.state[pfn] = TRANSIT | order
        if block_order > order and reason == REASON_ALLOCATION:
            reason = REASON_SPLIT
        self.call_block_taken(pfn, block_order, reason)
        while high > order:
            high -= 1
            upper = pfn + (1 << high)
            self.pages.state[upper] = BUDDY | high
            self.pages.add_head(self.list_of(high, migratetype), upper)
            self.nr_free[high] += 1
        if self.split is not None:
            self.split.taken(pfn, block_order, order)
        return 0

    def take_part(
        self,
        head: cython.int,
        block_order: cython.int,
        pfn: cython.int,
        order: cython.int,
        migratetype: cython.int,
        kind: cython.int,
    ) -> cython.int:
        """page_del_and_expand() that keeps a part of its caller's choice: an exact replay's.

        Args:
            head: the free block's first page.
            block_order: its order.
            pfn: first page of the part.
            order: the part's order.
            migratetype: of the list that the block is on, which the halves go back to.
            kind: where the part is now, ``TRANSIT`` or ``PCP``.
        """
        half: cython.int
        high: cython.int = block_order
        self.charge_block(head)
        self.pages.remove(head)
        self.nr_free[block_order] -= 1
        self.free_pages -= 1 << order
        if migratetype == HIGHATOMIC and self.kernel >= KERNEL_6_12:
            self.free_highatomic -= 1 << order
        self.pages.state[head] = TRANSIT | high
        self.call_block_taken(head, high, REASON_SPLIT if high > order else REASON_ALLOCATION)
        self.pages.state[head] = 0
        while high > order:
            # The half without the part, which begins where that has the other bit.
            high -= 1
            half = (pfn ^ (1 << high)) & ~((1 << high) - 1)
            self.pages.state[half] = BUDDY | high
            self.pages.add_head(self.list_of(high, migratetype), half)
            self.nr_free[high] += 1
        self.pages.state[pfn] = kind | order
        if self.split is not None:
            self.split.taken(pfn, block_order, order)
        return 0

    def rmqueue_smallest(self, order: cython.int, migratetype: cython.int) -> cython.int:
        """__rmqueue_smallest(): the first block of the smallest sufficient order; -1 if none."""
        head: cython.int
        pfn: cython.int
        current: cython.int
        for current in range(order, NR_PAGE_ORDERS):
            head = self.list_of(current, migratetype)
            pfn = self.pages.next[head]
            if pfn != head:
                self.take_block(pfn, current, order, migratetype, REASON_ALLOCATION)
                return pfn
        return -1

    def set_pageblock_types(
        self, pfn: cython.int, order: cython.int, migratetype: cython.int
    ) -> cython.int:
        """change_pageblock_range()."""
        block: cython.int
        first: cython.int = pfn >> PAGEBLOCK_ORDER
        last: cython.int = (pfn + (1 << order) - 1) >> PAGEBLOCK_ORDER
        for block in range(first, last + 1):
            self.pages.retype(block, migratetype)
        return 0

    def blocks_of(self, order: int, migratetype: int) -> list[int]:
        """The pfns on a free list, head first; for tests and inspection."""
        check_range("blocks_of", "order", order, 0, MAX_PAGE_ORDER)
        check_range("blocks_of", "migratetype", migratetype, 0, MIGRATE_TYPES - 1)
        return self.pages.list_pages(self.list_of(order, migratetype))

    def free_counts(self) -> list[int]:
        """Free blocks by order, as /proc/buddyinfo."""
        return list(self.nr_free)

    def __reduce__(self) -> Any:
        raise TypeError("zones belong to one running simulation and cannot be pickled")
