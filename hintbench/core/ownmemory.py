"""Memory that a strategy takes for itself: blocks that it holds, and allocates for its own use."""

from typing import Any

import cython

if cython.compiled:
    from cython.cimports.hintbench.core.clock import add_event
    from cython.cimports.hintbench.core.constants import (
        BUDDY,
        EVENT_RETURNED,
        EVENT_TAKEN,
        HELD,
        KIND_MASK,
        MAX_PAGE_ORDER,
        MIGRATE_TYPES,
        MOVABLE,
        ORDER_MASK,
        ORIGIN_DIRECT_FREE,
        PAGEBLOCK_ORDER,
        ZONE_MOVABLE,
    )
    from cython.cimports.hintbench.core.fallback import FallbackMode, rmqueue
    from cython.cimports.hintbench.core.flags import UnitFlags
    from cython.cimports.hintbench.core.freelists import FreeLists
    from cython.cimports.hintbench.core.hooks import Block, check_range
    from cython.cimports.hintbench.core.spared import take_spared
else:
    from hintbench.core.clock import add_event
    from hintbench.core.constants import (
        BUDDY,
        EVENT_RETURNED,
        EVENT_TAKEN,
        HELD,
        KIND_MASK,
        MAX_PAGE_ORDER,
        MIGRATE_TYPES,
        MOVABLE,
        ORDER_MASK,
        ORIGIN_DIRECT_FREE,
        PAGEBLOCK_ORDER,
        ZONE_MOVABLE,
    )
    from hintbench.core.fallback import FallbackMode, rmqueue
    from hintbench.core.flags import UnitFlags
    from hintbench.core.freelists import FreeLists
    from hintbench.core.hooks import Block, check_range
    from hintbench.core.spared import take_spared


@cython.cclass
class OwnMemory(FreeLists):
    """The part of a :class:`hintbench.core.zone.Zone` that gives a strategy memory of its own.

    Attributes:
        held_pages: pages that the strategy has taken by :meth:`hold`.
        allocated_pages: pages that it has taken by :meth:`allocate` and not freed.
        own_blocks: the orders of these blocks by their first page.
        refusals: how often the zone had a block, but none to spare.
        held: follows `held_pages` of all zones over time; None: nobody asks.
        kept: called with zone, pfn and order when a strategy has taken a block for itself.
        named: in an exact replay a byte for each page, whether the recording names it; what a
            strategy allocates for itself is none of these.
    """

    def __init__(self, *arguments: Any, **where: Any) -> None:
        FreeLists.__init__(self, *arguments, **where)
        self.held_pages = 0
        self.allocated_pages = 0
        self.own_blocks = {}
        self.refusals = 0
        self.held = None
        self.kept = None
        self.named: Any = None

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
        return self.free_block(pfn, order)

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
        return self.free_block(pfn, order)

    def allocate_block(self, order: cython.int, migratetype: cython.int) -> cython.int:
        """__rmqueue() for one block under the lock; -1 when there is none."""
        if self.named is not None:
            return take_spared(self, order, migratetype, self.named)
        return rmqueue(self, order, migratetype, False, FallbackMode())

    def free_block(self, pfn: cython.int, order: cython.int) -> cython.int:
        """__free_one_page() by its pageblock's type, to the head; the order after merging."""
        migratetype: cython.int = self.pages.pageblock_type[pfn >> PAGEBLOCK_ORDER]
        return self.free_one_page(pfn, order, migratetype, False, ORIGIN_DIRECT_FREE)

    def _count_held(self, pages: int) -> None:
        self.held_pages += pages
        if self.held is not None:
            self.held.add(self.clock.now, pages)
