"""A zone: a buddy allocator with its lock and watermarks, and what strategies may do with it."""

import array
from typing import Any

import cython

if cython.compiled:
    from cython.cimports.hintbench.core.buddy import Buddy
    from cython.cimports.hintbench.core.constants import (
        BUDDY,
        EVENT_ISOLATED,
        EVENT_PUT_BACK,
        EVENT_RETURNED,
        EVENT_TAKEN,
        HELD,
        HIGHATOMIC,
        ISOLATED,
        KERNEL_6_12,
        KIND_MASK,
        MAX_NR_ZONES,
        MAX_PAGE_ORDER,
        MIGRATE_TYPES,
        MOVABLE,
        NR_PAGE_ORDERS,
        ORDER_MASK,
        ORIGIN_DIRECT_FREE,
        ORIGIN_PUT_BACK,
        PAGEBLOCK_ORDER,
        PAGEBLOCK_PAGES,
        REASON_ISOLATION,
    )
    from cython.cimports.hintbench.core.fallback import FallbackMode, mark_isolated, rmqueue
    from cython.cimports.hintbench.core.flags import UnitFlags
    from cython.cimports.hintbench.core.hooks import Block, check_range, make_block
    from cython.cimports.hintbench.core.locks import LockTimeline
    from cython.cimports.hintbench.core.scan import scan_range
else:
    from hintbench.core.buddy import Buddy
    from hintbench.core.constants import (
        BUDDY,
        EVENT_ISOLATED,
        EVENT_PUT_BACK,
        EVENT_RETURNED,
        EVENT_TAKEN,
        HELD,
        HIGHATOMIC,
        ISOLATED,
        KERNEL_6_12,
        KIND_MASK,
        MAX_NR_ZONES,
        MAX_PAGE_ORDER,
        MIGRATE_TYPES,
        MOVABLE,
        NR_PAGE_ORDERS,
        ORDER_MASK,
        ORIGIN_DIRECT_FREE,
        ORIGIN_PUT_BACK,
        PAGEBLOCK_ORDER,
        PAGEBLOCK_PAGES,
        REASON_ISOLATION,
    )
    from hintbench.core.fallback import FallbackMode, mark_isolated, rmqueue
    from hintbench.core.flags import UnitFlags
    from hintbench.core.hooks import Block, check_range, make_block
    from hintbench.core.locks import LockTimeline
    from hintbench.core.scan import scan_range


@cython.final
@cython.cclass
class Zone(Buddy):
    """One zone of the guest.

    What a strategy calls charges the caller's virtual time per block visited and expects the
    zone's lock to be held; an edit without it is carried out and recorded as a violation of
    ``locked-lists``, as the posted v9 shows.

    Attributes:
        index: position in ``guest.zones``, lowest addresses first.
        number: ``page_zonenum()``: 0 DMA, 1 DMA32, 2 Normal, 3 Movable. Zones of different
            nodes share it.
        node: NUMA node.
        lock: the zone lock; ``async with zone.lock:`` in tasks and waiting hooks.
        managed_pages: pages the buddy allocator was given at boot.
        watermark_min, watermark_low, watermark_high: in pages, without boost.
        isolated_pages: pages in a strategy's hands.
        held_pages: pages that the strategy has allocated for itself.
        visits: structures that strategies have looked at: list entries, look-ups, pages.
        refuse_isolation: when set and true when called, the next isolation is refused.
        preempt: when set, an unlocked edit is carried out part by part and calls this in between.
    """

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
        lock: LockTimeline,
        violate: Any = None,
        in_flight: Any = None,
        held: Any = None,
    ) -> None:
        Buddy.__init__(self, pages, clock, kernel, start_pfn, end_pfn)
        self.name = name
        self.index = index
        self.number = number
        self.node = node
        self.lock = lock
        self.managed_pages = 0
        self.watermark_min = 0
        self.watermark_low = 0
        self.watermark_high = 0
        self.lowmem_reserve = memoryview(array.array("q", [0] * MAX_NR_ZONES))
        self.isolated_pages = 0
        self.held_pages = 0
        self.isolations = 0
        self.refusals = 0
        self.violate = violate
        self.in_flight = in_flight
        self.held = held
        self.preempt = None
        self.refuse_isolation = None

    def __repr__(self) -> str:
        return f"<Zone {self.name} node {self.node}>"

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
        """__zone_watermark_ok(); ``reserve`` 1: ALLOC_MIN_RESERVE, 2: also ALLOC_NON_BLOCK."""
        free: cython.longlong = self.free_pages - ((1 << order) - 1)
        current: cython.int
        migratetype: cython.int
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
                for migratetype in range(HIGHATOMIC):
                    if self.has_free(current, migratetype):
                        return True
        return False

    def watermark_ok(self, mark: int, order: int = 0, highest_zone: int = 0) -> bool:
        """zone_watermark_ok(): whether free pages are above ``mark`` pages for such a request.

        ``highest_zone`` 0, as page reporting asks, leaves the lowmem reserve out.
        """
        check_range("watermark_ok", "order", order, 0, MAX_PAGE_ORDER)
        check_range("watermark_ok", "highest_zone", highest_zone, 0, MAX_NR_ZONES - 1)
        return self.meets(order, mark, highest_zone, 0)

    # -- what is free ---------------------------------------------------------------------------

    def free_order(self, pfn: cython.int) -> cython.int:
        """The order of the free block whose head is ``pfn``; -1 when it heads none (PageBuddy)."""
        state: cython.int
        if not (self.start_pfn <= pfn < self.end_pfn):
            return -1
        state = self.pages.state[pfn]
        if (state & KIND_MASK) != BUDDY:
            return -1
        return state & ORDER_MASK

    def free_block_of(self, pfn: cython.int) -> Block | None:
        """The free block that encloses ``pfn``, found by looking at its heads order by order.

        As v9's get_buddy_page(); None when the page is not in the buddy allocator.
        """
        order: cython.int
        head: cython.int
        state: cython.int
        if not (self.start_pfn <= pfn < self.end_pfn):
            return None
        self.clock.now += self.clock.costs.head_lookup_ns
        self.visits += 1
        for order in range(NR_PAGE_ORDERS):
            head = pfn & ~((1 << order) - 1)
            state = self.pages.state[head]
            if (state & KIND_MASK) == BUDDY and (state & ORDER_MASK) >= order:
                # One struct page is read, and stays in its owner's cache: when cold, that is what
                # a walk over a free list pays for each block.
                if self.pages.pageblock_cpu[head >> PAGEBLOCK_ORDER] != self.clock.cpu:
                    self.clock.now += self.clock.costs.list_walk_block_ns
                return make_block(head, state & ORDER_MASK, self)
        return None

    def free_blocks(
        self,
        min_order: cython.int,
        without: UnitFlags | None = None,
        limit: cython.int = 0,
        look_at_most: cython.int = 0,
    ) -> list[Block]:
        """A snapshot of the free blocks of ``min_order`` and more, in list order.

        Orders ascend, then migratetypes, then from the head of each list on.

        Args:
            min_order: smallest order.
            without: leave out blocks of which every unit carries this flag.
            limit: stop after so many found; 0 for all.
            look_at_most: stop after so many looked at; 0 for all. Each is charged.

        Raises:
            ValueError: an argument is out of range.
        """
        check_range("free_blocks", "min_order", min_order, 0, MAX_PAGE_ORDER)
        check_range("free_blocks", "limit", limit, 0, self.pages.page_count)
        check_range("free_blocks", "look_at_most", look_at_most, 0, self.pages.page_count)
        found: list = []
        looked: cython.int = 0
        order: cython.int
        migratetype: cython.int
        head: cython.int
        pfn: cython.int
        for order in range(min_order, NR_PAGE_ORDERS):
            for migratetype in range(MIGRATE_TYPES):
                head = self.list_of(order, migratetype)
                pfn = self.pages.next[head]
                while pfn != head:
                    looked += 1
                    self.visits += 1
                    if looked > self.pages.page_count:
                        raise RuntimeError(f"list {order} of {self} has no end")
                    self.clock.now += self.clock.costs.list_walk_block_ns
                    if without is None or not without.all_set(pfn, order):
                        found.append(make_block(pfn, order, self))
                        if limit and len(found) >= limit:
                            return found
                    if look_at_most and looked >= look_at_most:
                        return found
                    pfn = self.pages.next[pfn]
        return found

    def free_list(
        self,
        order: cython.int,
        migratetype: cython.int,
        without: UnitFlags | None = None,
        limit: cython.int = 0,
    ) -> list[Block]:
        """A snapshot of one free list, free_area[order].free_list[migratetype], from its head on.

        Args:
            order: order of the list.
            migratetype: its migratetype.
            without: leave out blocks of which every unit carries this flag.
            limit: stop after so many found; 0 for all. Every block looked at is charged.
        """
        found: list = []
        self._check_list(order, migratetype)
        head: cython.int = self.list_of(order, migratetype)
        pfn: cython.int = self.pages.next[head]
        while pfn != head:
            self.clock.now += self.clock.costs.list_walk_block_ns
            if without is None or not without.all_set(pfn, order):
                found.append(make_block(pfn, order, self))
                if limit and len(found) >= limit:
                    break
            pfn = self.pages.next[pfn]
        return found

    def first_free(self, order: int, migratetype: int) -> int:
        """The first block of a free list; -1 when it is empty. For inspection: it costs nothing."""
        self._check_list(order, migratetype)
        head = self.list_of(order, migratetype)
        pfn = self.pages.next[head]
        return -1 if pfn == head else pfn

    def list_empty(self, order: int, migratetype: int) -> bool:
        """Whether one free list has no block; as list_empty(), it may be asked without the lock."""
        self._check_list(order, migratetype)
        return not self.has_free(order, migratetype)

    def _check_list(self, order: int, migratetype: int) -> None:
        if not (0 <= order <= MAX_PAGE_ORDER and 0 <= migratetype < MIGRATE_TYPES):
            raise ValueError(f"free list: order {order} or migratetype {migratetype} out of range")

    def rotate_to_front(self, block: Block) -> None:
        """list_rotate_to_front(): the search of the block's list starts at this block.

        A block that is not free here (any more), which the kernel would link into another list,
        is left where it is: that is a violation of ``locked-lists``.
        """
        self._need_lock("rotate_to_front", block.pfn)
        pages = self.pages
        if block.zone is not self or self.free_order(block.pfn) != block.order:
            self._complain("locked-lists", f"rotate_to_front of {block}, which is not free here")
            return
        migratetype = self.list_type(block.pfn, block.order)
        head = self.list_of(block.order, migratetype)
        pages.remove(head)
        pages.add_tail(block.pfn, head)

    def list_type(self, pfn: cython.int, order: cython.int) -> cython.int:
        """The migratetype of the list that a free block is on.

        Nearly always its pageblock's; only after a steal or a retyping merge must the links be
        followed to the list's head.

        Raises:
            ValueError: there is no such free block.
        """
        if self.free_order(pfn) != order:
            raise ValueError(f"list_type: pfn {pfn:#x} heads no free block of order {order}")
        here: cython.int = self.pages.next[pfn]
        steps: cython.int = 0
        while here < self.pages.page_count:
            here = self.pages.next[here]
            steps += 1
            if steps > self.pages.page_count:
                raise RuntimeError(f"the list of pfn {pfn:#x} in {self} has no end")
        return (here - self.first_list) % MIGRATE_TYPES

    def scan_range(self, pfn: int, end_pfn: int, min_order: int) -> Block | None:
        """Walk over struct pages up to a free block (:func:`hintbench.core.scan.scan_range`)."""
        check_range("scan_range", "pfn", pfn, 0, self.pages.page_count)
        check_range("scan_range", "min_order", min_order, 0, MAX_PAGE_ORDER)
        return scan_range(self, pfn, end_pfn, min_order)

    # -- isolate and put back -------------------------------------------------------------------

    def isolate(self, pfn: cython.int) -> Block | None:
        """__isolate_free_page(): take the free block at ``pfn`` off its list, for a report.

        Returns:
            The block, or None: ``pfn`` heads no free block, or the zone is too close to its min
            watermark.
        """
        order: cython.int = self.free_order(pfn)
        migratetype: cython.int
        least: cython.longlong = self.watermark_min
        self._need_lock("isolate", pfn)
        if order < 0:
            return None
        if self.kernel < KERNEL_6_12:
            # min_wmark_pages() counts the boost, _watermark[WMARK_MIN] of later kernels does not.
            least += self.watermark_boost
        if self.free_pages - self.free_highatomic <= least + (1 << order) or (
            self.refuse_isolation is not None and self.refuse_isolation()
        ):
            self.refusals += 1
            return None
        migratetype = self.pages.pageblock_type[pfn >> PAGEBLOCK_ORDER]
        if self.preempt is not None and not self.lock.held_here:
            from hintbench.core.tearing import isolate_torn

            isolate_torn(self, pfn, order, self.preempt)
        else:
            self.take_block(pfn, order, order, migratetype, REASON_ISOLATION)
        self.pages.state[pfn] = ISOLATED | order
        self.isolated_pages += 1 << order
        self.isolations += 1
        if self.in_flight is not None:
            self.in_flight.change(self.clock.now, 1 << order)
        if self.split is not None:
            self.split.change_isolated(pfn, order, 1)
        mark_isolated(self, pfn, order)
        self.clock.digest.add(self.clock.now, self.clock.cpu, EVENT_ISOLATED, pfn, order)
        return make_block(pfn, order, self)

    def put_back(self, block: Block, tail: cython.bint = True, notify: cython.bint = False) -> int:
        """__putback_isolated_page(): an isolated block returns to the buddy allocator.

        Args:
            block: what :meth:`isolate` gave.
            tail: add at the tail of its list, so that it is not taken soon (FPI_TO_TAIL).
            notify: fire ``block_freed`` as for any other free; not from inside that hook, which
                would be told of its own doing for ever.

        Returns:
            The order after merging; equal to the block's when it did not merge. -1 when the
            block is not isolated here: that is a violation of ``returned``.

        Raises:
            RuntimeError: it is called with ``notify`` inside ``block_freed``.
        """
        pfn: cython.int = block.pfn
        order: cython.int = block.order
        merged: cython.int
        self._need_lock("put_back", pfn)
        if notify and self.hooks is not None and self.hooks.in_block_freed:
            raise RuntimeError(
                "put_back: notify=True inside block_freed would fire it again (rule once: what"
                " is put back is not reported again): leave notify out"
            )
        if block.zone is not self or not self._heads(pfn, ISOLATED | order):
            self._complain("returned", f"put_back of pfn {pfn:#x} order {order}, not isolated here")
            return -1
        self.quiet = not notify
        self.isolated_pages -= 1 << order
        if self.in_flight is not None:
            self.in_flight.change(self.clock.now, -(1 << order))
        if self.split is not None:
            self.split.change_isolated(pfn, order, -1)
        if self.preempt is not None and not self.lock.held_here:
            from hintbench.core.tearing import put_back_torn

            self.quiet = False
            return put_back_torn(self, pfn, order, tail, self.preempt)
        try:
            merged = self.free_one_page(
                pfn,
                order,
                self.pages.pageblock_type[pfn >> PAGEBLOCK_ORDER],
                tail,
                ORIGIN_PUT_BACK,
            )
        finally:
            self.quiet = False
        self.clock.digest.add(self.clock.now, self.clock.cpu, EVENT_PUT_BACK, pfn, order)
        return merged

    # -- memory of the strategy's own -----------------------------------------------------------

    def hold(self, order: cython.int, migratetype: cython.int = MOVABLE) -> Block | None:
        """__rmqueue(): take a block for the strategy itself, past the per-CPU lists.

        As an allocation that may not block: nothing below the low watermark, boost included. The
        block belongs to the strategy until :meth:`let_go`; nobody touches its pages.

        Returns:
            The block, or None when the zone has none, or none to spare.
        """
        pfn: cython.int
        self._check_list(order, migratetype)
        self._need_lock("hold", -1)
        if not self.meets(order, self.watermark_low + self.watermark_boost, 0, 0):
            self.refusals += 1
            return None
        pfn = self.allocate_block(order, migratetype)
        if pfn < 0:
            return None
        if self.hooks is not None:
            for flags in self.hooks.forget_when_allocated:
                cython.cast(UnitFlags, flags).forget(pfn, order)
        self.pages.state[pfn] = HELD | order
        self._count_held(1 << order)
        self.clock.digest.add(self.clock.now, self.clock.cpu, EVENT_TAKEN, pfn, order)
        return make_block(pfn, order, self)

    def let_go(self, block: Block) -> int:
        """__free_one_page(): a held block goes back to the head of its list, and notifies.

        Returns:
            The order after merging. -1 when the block is not held here: that is a violation of
            ``returned``.
        """
        pfn: cython.int = block.pfn
        order: cython.int = block.order
        self._need_lock("let_go", pfn)
        if block.zone is not self or not self._heads(pfn, HELD | order):
            self._complain("returned", f"let_go of pfn {pfn:#x} order {order}, not held here")
            return -1
        self._count_held(-(1 << order))
        self.clock.digest.add(self.clock.now, self.clock.cpu, EVENT_RETURNED, pfn, order)
        migratetype = self.pages.pageblock_type[pfn >> PAGEBLOCK_ORDER]
        return self.free_one_page(pfn, order, migratetype, False, ORIGIN_DIRECT_FREE)

    def _count_held(self, pages: int) -> None:
        self.held_pages += pages
        if self.held is not None:
            self.held.add(self.clock.now, pages)

    def allocate_block(self, order: cython.int, migratetype: cython.int) -> cython.int:
        """__rmqueue() for one block under the lock; -1 when there is none."""
        return rmqueue(self, order, migratetype, False, FallbackMode())

    def allocate(self, order: int, migratetype: int = 1) -> int:
        """Take a block straight from the free lists: no pcp, no watermark, no virtual hand-over.

        For a strategy that needs a block of its own, such as one to report while it holds it. The
        zone's lock must be held, as for every other edit. Until :meth:`free` the block is in
        transit: no caller has it, and no list.

        Returns:
            Its pfn, -1 when the zone has none.

        Raises:
            ValueError: an argument is out of range.
        """
        check_range("allocate", "order", order, 0, MAX_PAGE_ORDER)
        check_range("allocate", "migratetype", migratetype, 0, MIGRATE_TYPES - 1)
        self._need_lock("allocate", self.start_pfn)
        return self.allocate_block(order, migratetype)

    def free(self, pfn: int, order: int) -> int:
        """Give a block that :meth:`allocate` took back, under the lock; the order after merging.

        Raises:
            ValueError: there is no such block in use.
        """
        self._check_block("free", pfn, order)
        if self.pages.state[pfn] & ORDER_MASK != order or self.pages.state[pfn] & KIND_MASK in (
            0,
            BUDDY,
        ):
            raise ValueError(f"free: pfn {pfn:#x} does not head a block in use of order {order}")
        self._need_lock("free", pfn)
        migratetype = self.pages.pageblock_type[pfn >> PAGEBLOCK_ORDER]
        return self.free_one_page(pfn, order, migratetype, False, ORIGIN_PUT_BACK)

    @cython.exceptval(check=False)
    def _heads(self, pfn: cython.int, state: cython.int) -> cython.bint:
        """Whether a page of this zone has a state byte, whatever the numbers are."""
        if not self.start_pfn <= pfn < self.end_pfn:
            return False
        return self.pages.state[pfn] == state

    def _check_block(self, what: str, pfn: cython.longlong, order: cython.longlong) -> cython.int:
        """Refuse a block that is not aligned or not inside the zone."""
        check_range(what, "order", order, 0, MAX_PAGE_ORDER)
        if pfn & ((1 << order) - 1):
            raise ValueError(f"{what}: pfn {pfn:#x} is not the head of a block of order {order}")
        if not (self.start_pfn <= pfn and pfn + (1 << order) <= self.end_pfn):
            raise ValueError(f"{what}: pfn {pfn:#x} of order {order} is outside zone {self.name}")
        return 0

    def _need_lock(self, what: str, pfn: cython.int) -> cython.int:
        if not (self.lock.held and self.lock.holder == self.clock.context):
            self._complain("locked-lists", f"{what} of pfn {pfn:#x} without the lock of {self}")
        if self.editing_refused:
            raise RuntimeError(f"{what}: no list edits inside block_taken")
        return 0

    def _complain(self, rule: str, message: str) -> None:
        if self.violate is not None:
            self.violate(rule, message)
