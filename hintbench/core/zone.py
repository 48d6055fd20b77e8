"""A zone: a buddy allocator with its lock and watermarks, and what strategies may do with it."""

from typing import Any

import cython

if cython.compiled:
    from cython.cimports.hintbench.core.clock import add_event
    from cython.cimports.hintbench.core.constants import (
        BUDDY,
        EVENT_ISOLATED,
        EVENT_PUT_BACK,
        ISOLATED,
        KERNEL_6_12,
        KIND_MASK,
        ORDER_MASK,
        ORIGIN_PUT_BACK,
        PAGEBLOCK_ORDER,
        REASON_ISOLATION,
        RECLAIMABLE,
    )
    from cython.cimports.hintbench.core.fallback import mark_isolated, move_free_blocks
    from cython.cimports.hintbench.core.hooks import Block, check_range
    from cython.cimports.hintbench.core.ownmemory import OwnMemory
else:
    from hintbench.core.clock import add_event
    from hintbench.core.constants import (
        BUDDY,
        EVENT_ISOLATED,
        EVENT_PUT_BACK,
        ISOLATED,
        KERNEL_6_12,
        KIND_MASK,
        ORDER_MASK,
        ORIGIN_PUT_BACK,
        PAGEBLOCK_ORDER,
        REASON_ISOLATION,
        RECLAIMABLE,
    )
    from hintbench.core.fallback import mark_isolated, move_free_blocks
    from hintbench.core.hooks import Block, check_range
    from hintbench.core.ownmemory import OwnMemory


@cython.final
@cython.cclass
class Zone(OwnMemory):
    """One zone of the guest.

    What a strategy calls charges the caller's virtual time per block visited and expects the
    zone's lock to be held; an edit without it is carried out and recorded as a violation of
    ``locked-lists``, as the posted v9 shows.

    What help() shows besides the methods and attributes that say what they are for is the model's
    own, as the fields of a struct zone that nobody outside mm/ looks at; so are the methods of the
    boot (``add_memory``, ``add_free_block``, ``set_managed``, ``set_watermarks``) and of who looks
    for nothing (``blocks_of``, ``first_free``, ``free_counts``). A strategy may not rely on them.

    Attributes:
        name: as in /proc/zoneinfo, such as "Normal".
        index: position in ``guest.zones``, lowest addresses first.
        number: ``page_zonenum()``: 0 DMA, 1 DMA32, 2 Normal, 3 Movable. Zones of different
            nodes share it.
        node: NUMA node.
        lock: the zone lock; ``async with zone.lock:`` in tasks and waiting hooks.
        start_pfn, end_pfn: its first page, and the one behind its last.
        managed_pages: pages the buddy allocator was given at boot.
        free_pages: NR_FREE_PAGES, those on the free lists.
        nr_free: by order, how many free blocks.
        watermark_min, watermark_low, watermark_high: in pages, without boost.
        watermark_boost: what they are raised by after a pageblock was taken over, in pages.
        isolated_pages: pages in a strategy's hands.
        held_pages: pages that the strategy has taken by :meth:`hold`.
        allocated_pages: pages that it has taken by :meth:`allocate` and not freed.
        isolated_from: the type of the pageblock of what was isolated last, as it was on its list.
        isolations, refusals: how often it has isolated a block, and had none to spare.
    """

    def __init__(self, *arguments: Any, in_flight: Any = None, **where: Any) -> None:
        OwnMemory.__init__(self, *arguments, **where)
        self.isolated_pages = 0
        self.isolations = 0
        self.isolated_from = -1
        # An Integral that follows isolated_pages of all zones; None: nobody asks.
        self.in_flight = in_flight
        # Asked with a pfn whether its isolation is refused; None: never.
        self.refuse_isolation = None

    @property
    def pages_in_hand(self) -> int:
        """Pages that the strategy keeps from everybody: isolated, held, or allocated for itself."""
        return self.isolated_pages + self.held_pages + self.allocated_pages

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


def dismantle(zone: Zone) -> None:
    """The run is over: let go of whoever knows the zone, so that it goes when it is let go of.

    Left alone, zone and block would keep each other, and with them the arrays of all pages, until
    a garbage collection.
    """
    zone.hooks = zone.violate = zone.torn = zone.refuse_isolation = zone.kept = None
    zone.last_block = None
    zone.lock.observer = zone.lock.meter = None
    zone.lock.taken_in_place = zone.lock.taken_again = zone.lock.left_in_place = None
