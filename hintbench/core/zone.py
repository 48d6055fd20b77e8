"""A zone: a buddy allocator with its lock and watermarks, and what strategies may do with it."""

from typing import Any

import cython

if cython.compiled:
    from cython.cimports.hintbench.core.clock import add_event
    from cython.cimports.hintbench.core.constants import (
        BUDDY,
        EVENT_ISOLATED,
        EVENT_PUT_BACK,
        EVENT_RETURNED,
        EVENT_TAKEN,
        HELD,
        ISOLATED,
        KERNEL_6_12,
        KIND_MASK,
        MAX_PAGE_ORDER,
        MIGRATE_TYPES,
        MOVABLE,
        ORDER_MASK,
        ORIGIN_DIRECT_FREE,
        ORIGIN_PUT_BACK,
        PAGEBLOCK_ORDER,
        REASON_ISOLATION,
        RECLAIMABLE,
        ZONE_MOVABLE,
    )
    from cython.cimports.hintbench.core.fallback import (
        FallbackMode,
        mark_isolated,
        move_free_blocks,
        rmqueue,
    )
    from cython.cimports.hintbench.core.flags import UnitFlags
    from cython.cimports.hintbench.core.freelists import FreeLists
    from cython.cimports.hintbench.core.hooks import Block, check_range
    from cython.cimports.hintbench.core.locks import LockTimeline
    from cython.cimports.hintbench.core.spared import take_spared
else:
    from hintbench.core.clock import add_event
    from hintbench.core.constants import (
        BUDDY,
        EVENT_ISOLATED,
        EVENT_PUT_BACK,
        EVENT_RETURNED,
        EVENT_TAKEN,
        HELD,
        ISOLATED,
        KERNEL_6_12,
        KIND_MASK,
        MAX_PAGE_ORDER,
        MIGRATE_TYPES,
        MOVABLE,
        ORDER_MASK,
        ORIGIN_DIRECT_FREE,
        ORIGIN_PUT_BACK,
        PAGEBLOCK_ORDER,
        REASON_ISOLATION,
        RECLAIMABLE,
        ZONE_MOVABLE,
    )
    from hintbench.core.fallback import FallbackMode, mark_isolated, move_free_blocks, rmqueue
    from hintbench.core.flags import UnitFlags
    from hintbench.core.freelists import FreeLists
    from hintbench.core.hooks import Block, check_range
    from hintbench.core.locks import LockTimeline
    from hintbench.core.spared import take_spared


@cython.final
@cython.cclass
class Zone(FreeLists):
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
        held_pages: pages that the strategy has taken by :meth:`hold`.
        allocated_pages: pages that it has taken by :meth:`allocate` and not freed.
        own_blocks: the orders of these blocks by their first page.
        isolated_from: the type of the pageblock of what was isolated last, as it was on its list.
        kept: called with zone, pfn and order when a strategy has taken a block for itself.
        visits: structures that strategies have looked at: list entries, look-ups, pages.
        refuse_isolation: when set and true when called with a pfn, its isolation is refused.
        named: in an exact replay a byte for each page, whether the recording names it; what a
            strategy allocates for itself is none of these.
        torn: a :class:`hintbench.core.tearing.Tear`, when unlocked edits are carried out in parts.
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
        FreeLists.__init__(
            self,
            pages,
            clock,
            kernel,
            start_pfn,
            end_pfn,
            name=name,
            index=index,
            number=number,
            node=node,
        )
        self.lock = lock
        self.isolated_pages = 0
        self.held_pages = 0
        self.allocated_pages = 0
        self.own_blocks = {}
        self.isolated_from = -1
        self.isolations = 0
        self.refusals = 0
        self.violate = violate
        self.in_flight = in_flight
        self.held = held
        self.torn = None
        self.named: Any = None
        self.refuse_isolation = None
        self.kept = None

    # -- isolate and put back -------------------------------------------------------------------

    @cython.binding(False)
    @cython.embedsignature(True)
    def isolate(self, pfn: cython.int) -> Block | None:
        """__isolate_free_page(): take the free block at ``pfn`` off its list, for a report.

        Returns:
            The block, or None: ``pfn`` heads no free block, or the zone is too close to its min
            watermark.
        """
        order: cython.int = -1
        migratetype: cython.int
        if not self._may_edit():
            self._need_lock("isolate", pfn)
        # PageBuddy(), as :meth:`free_order`.
        if self.start_pfn <= pfn < self.end_pfn and self.pages.state[pfn] & KIND_MASK == BUDDY:
            order = self.pages.state[pfn] & ORDER_MASK
        if order < 0:
            return None
        if not self.may_isolate(order) or (
            self.refuse_isolation is not None and self.refuse_isolation(pfn)
        ):
            self.refusals += 1
            return None
        migratetype = self.pages.pageblock_type[pfn >> PAGEBLOCK_ORDER]
        self.isolated_from = migratetype
        if self.torn is not None and not self.lock.held_here:
            self.torn.isolate(self, pfn, order)
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
        add_event(self.clock.digest, self.clock.now, self.clock.cpu, EVENT_ISOLATED, pfn, order)
        return self.block_at(pfn, order)

    @cython.binding(False)
    @cython.embedsignature(True)
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
        if not self._may_edit():
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
        if self.torn is not None and not self.lock.held_here:
            self.quiet = False
            return self.torn.put_back(self, pfn, order, tail)
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
        add_event(self.clock.digest, self.clock.now, self.clock.cpu, EVENT_PUT_BACK, pfn, order)
        return merged

    def rotate_to_front(self, block: Block) -> None:
        """list_rotate_to_front(): the search of the block's list starts at this block.

        A block that is not free here (any more), which the kernel would link into another list,
        is left where it is: that is a violation of ``locked-lists``.
        """
        self._need_lock("rotate_to_front", block.pfn)
        pages = self.pages
        if block.zone is not self or self._order_at(block.pfn) != block.order:
            self._complain("locked-lists", f"rotate_to_front of {block}, which is not free here")
            return
        migratetype = self.list_type(block.pfn, block.order)
        head = self.list_of(block.order, migratetype)
        pages.remove(head)
        pages.add_tail(block.pfn, head)

    # -- pageblocks -----------------------------------------------------------------------------

    def set_pageblock_migratetype(self, pfn: int, migratetype: int) -> None:
        """set_pageblock_migratetype(): change the type of the one pageblock around ``pfn``.

        For a strategy that undoes what :meth:`isolate` did to the types. In 6.12 the pageblock's
        free blocks move to the lists of the new type, as move_freepages_block() has them do.

        Raises:
            ValueError: ``pfn`` is not of this zone, or the type is new and none of 0..2.
        """
        if self.pageblock_migratetype(pfn) == migratetype:
            return
        check_range("set_pageblock_migratetype", "migratetype", migratetype, 0, RECLAIMABLE)
        self._need_lock("set_pageblock_migratetype", pfn)
        if self.kernel >= KERNEL_6_12:
            move_free_blocks(self, pfn & ~((1 << PAGEBLOCK_ORDER) - 1), migratetype)
        self.pages.retype(pfn >> PAGEBLOCK_ORDER, migratetype)

    # -- memory of the strategy's own -----------------------------------------------------------

    def hold(self, order: cython.int, migratetype: cython.int = MOVABLE) -> Block | None:
        """__rmqueue(): take a block for the strategy itself, past the per-CPU lists.

        As a movable allocation that may not block: nothing below the low watermark, boost and
        lowmem_reserve included. The block belongs to the strategy until :meth:`let_go`; nobody
        touches its pages.

        Returns:
            The block, or None when the zone has none, or none to spare.
        """
        pfn: cython.int
        self._check_list(order, migratetype)
        self._need_lock("hold", -1)
        if not self.meets(order, self.watermark_low + self.watermark_boost, ZONE_MOVABLE, 0):
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
        add_event(self.clock.digest, self.clock.now, self.clock.cpu, EVENT_TAKEN, pfn, order)
        if self.kept is not None:
            self.kept(self, pfn, order)
        return self.block_at(pfn, order)

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
        add_event(self.clock.digest, self.clock.now, self.clock.cpu, EVENT_RETURNED, pfn, order)
        migratetype = self.pages.pageblock_type[pfn >> PAGEBLOCK_ORDER]
        return self.free_one_page(pfn, order, migratetype, False, ORIGIN_DIRECT_FREE)

    @property
    def pages_in_hand(self) -> int:
        """Pages that the strategy keeps from everybody: isolated, held, or allocated for itself."""
        return self.isolated_pages + self.held_pages + self.allocated_pages

    def _count_held(self, pages: int) -> None:
        self.held_pages += pages
        if self.held is not None:
            self.held.add(self.clock.now, pages)

    def allocate_block(self, order: cython.int, migratetype: cython.int) -> cython.int:
        """__rmqueue() for one block under the lock; -1 when there is none."""
        if self.named is not None:
            return take_spared(self, order, migratetype, self.named)
        return rmqueue(self, order, migratetype, False, FallbackMode())

    def allocate(self, order: int, migratetype: int = 1) -> int:
        """Take a block straight from the free lists: no pcp, no watermark, no virtual hand-over.

        For what a strategy allocates for its own use, as its request for the device; a block that
        is to be reported is taken with :meth:`isolate` or :meth:`hold`. The zone's lock must be
        held, as for every other edit. Until :meth:`free` the block is in transit: no caller has
        it, and no list.

        Returns:
            Its pfn, -1 when the zone has none.

        Raises:
            ValueError: an argument is out of range.
        """
        check_range("allocate", "order", order, 0, MAX_PAGE_ORDER)
        check_range("allocate", "migratetype", migratetype, 0, MIGRATE_TYPES - 1)
        self._need_lock("allocate", self.start_pfn)
        pfn: cython.int = self.allocate_block(order, migratetype)
        if pfn >= 0:
            self.allocated_pages += 1 << order
            self.own_blocks[pfn] = order
            if self.kept is not None:
                self.kept(self, pfn, order)
        return pfn

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
        if self.own_blocks.pop(pfn, -1) == order:
            self.allocated_pages -= 1 << order
        else:
            self._complain("returned", f"pfn {pfn:#x} is freed, which allocate() did not give")
        migratetype = self.pages.pageblock_type[pfn >> PAGEBLOCK_ORDER]
        return self.free_one_page(pfn, order, migratetype, False, ORIGIN_DIRECT_FREE)

    @cython.exceptval(check=False)
    def _heads(self, pfn: cython.int, state: cython.int) -> cython.bint:
        """Whether a page of this zone has a state byte, whatever the numbers are."""
        if not self.start_pfn <= pfn < self.end_pfn:
            return False
        return self.pages.state[pfn] == state

    @cython.exceptval(check=False)
    def _may_edit(self) -> cython.bint:
        """Whether :meth:`_need_lock` has nothing to say, which is nearly always."""
        return (
            self.lock.held and self.lock.holder == self.clock.context and not self.editing_refused
        )

    def _need_lock(self, what: str, pfn: cython.int) -> cython.int:
        if not (self.lock.held and self.lock.holder == self.clock.context):
            self._complain("locked-lists", f"{what} of pfn {pfn:#x} without the lock of {self}")
        if self.editing_refused:
            raise RuntimeError(f"{what}: no list edits inside block_taken")
        return 0

    def _complain(self, rule: str, message: str) -> None:
        if self.violate is not None:
            self.violate(rule, message)


def dismantle(zone: Zone) -> None:
    """The run is over: let go of whoever knows the zone, so that it goes when it is let go of.

    Left alone, zone and block would keep each other, and with them the arrays of all pages, until
    a garbage collection.
    """
    zone.hooks = zone.violate = zone.torn = zone.refuse_isolation = zone.kept = None
    zone.last_block = None
    zone.lock.observer = zone.lock.meter = None
    zone.lock.taken_in_place = zone.lock.taken_again = zone.lock.left_in_place = None
