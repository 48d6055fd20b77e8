"""What a zone's free lists show to whoever looks: which blocks are free, and on which list."""

from typing import Any

import cython

if cython.compiled:
    from cython.cimports.hintbench.core.constants import (
        BUDDY,
        KIND_MASK,
        MAX_PAGE_ORDER,
        MIGRATE_TYPES,
        NR_PAGE_ORDERS,
        ORDER_MASK,
        PAGEBLOCK_ORDER,
    )
    from cython.cimports.hintbench.core.flags import UnitFlags
    from cython.cimports.hintbench.core.hooks import Block, check_range, make_block
    from cython.cimports.hintbench.core.locks import LockTimeline
    from cython.cimports.hintbench.core.scan import scan_range
    from cython.cimports.hintbench.core.watermarks import ZoneMemory
else:
    from hintbench.core.constants import (
        BUDDY,
        KIND_MASK,
        MAX_PAGE_ORDER,
        MIGRATE_TYPES,
        NR_PAGE_ORDERS,
        ORDER_MASK,
        PAGEBLOCK_ORDER,
    )
    from hintbench.core.flags import UnitFlags
    from hintbench.core.hooks import Block, check_range, make_block
    from hintbench.core.locks import LockTimeline
    from hintbench.core.scan import scan_range
    from hintbench.core.watermarks import ZoneMemory


@cython.cclass
class FreeLists(ZoneMemory):
    """The part of a :class:`hintbench.core.zone.Zone` that is looked at, and what edits ask first.

    Looks are charged.

    Attributes:
        lock: the zone lock; ``async with zone.lock:`` in tasks and waiting hooks.
        violate: called with rule and text, and perhaps a kind, when one is broken here.
        torn: a :class:`hintbench.core.tearing.Tear`, when unlocked edits are carried out in parts.
    """

    def __init__(self, *arguments: Any, lock: LockTimeline, **where: Any) -> None:
        ZoneMemory.__init__(self, *arguments, **where)
        self.lock = lock
        self.violate = None
        self.torn = None

    def free_order(self, pfn: cython.int) -> cython.int:
        """PageBuddy() and buddy_order(): what a page says of itself, for nothing.

        Args:
            pfn: any page.

        Returns:
            The order of the free block that it heads; -1 when it heads none, or lies in another
            zone. Without the lock it may be another one at the next look.
        """
        self.visits += 1
        return self._order_at(pfn)

    @cython.exceptval(check=False)
    def _order_at(self, pfn: cython.int) -> cython.int:
        """As :meth:`free_order`, of which nobody takes notice."""
        state: cython.int
        if not (self.start_pfn <= pfn < self.end_pfn):
            return -1
        state = self.pages.state[pfn]
        if (state & KIND_MASK) != BUDDY:
            return -1
        return state & ORDER_MASK

    def free_block_of(self, pfn: cython.int) -> Block | None:
        """The free block that encloses ``pfn``, found by looking at its heads order by order.

        As v9's get_buddy_page(). It costs `Costs.head_lookup_ns`, and the price of a list entry
        where the head was last touched by another CPU.

        Args:
            pfn: any page.

        Returns:
            The block; None when the page is not in the buddy allocator.
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
                self._looked()
                return make_block(head, state & ORDER_MASK, self)
        self._looked()
        return None

    def free_blocks(
        self,
        min_order: cython.int,
        without: UnitFlags | None = None,
        limit: cython.int = 0,
        look_at_most: cython.int = 0,
    ) -> list[Block]:
        """A snapshot of the free blocks of ``min_order`` and more, in list order.

        Orders ascend, then migratetypes, then from the head of each list on. The zone's lock must
        be held by whoever runs on a CPU: without it the walk is a violation of ``locked-lists``.

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
        self._need_walk_lock()
        found: list = self._walk(min_order, without, limit, look_at_most)
        self._looked()
        return found

    def _walk(
        self,
        min_order: cython.int,
        without: UnitFlags | None,
        limit: cython.int,
        look_at_most: cython.int,
    ) -> list[Block]:
        """The walk of :meth:`free_blocks`."""
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

        The zone's lock must be held, as for :meth:`free_blocks`.

        Args:
            order: order of the list.
            migratetype: its migratetype.
            without: leave out blocks of which every unit carries this flag.
            limit: stop after so many found; 0 for all. Every block looked at is charged.

        Raises:
            ValueError: there is no such list.
        """
        found: list = []
        self._check_list(order, migratetype)
        self._need_walk_lock()
        head: cython.int = self.list_of(order, migratetype)
        pfn: cython.int = self.pages.next[head]
        while pfn != head:
            self.visits += 1
            self.clock.now += self.clock.costs.list_walk_block_ns
            if without is None or not without.all_set(pfn, order):
                found.append(make_block(pfn, order, self))
                if limit and len(found) >= limit:
                    break
            pfn = self.pages.next[pfn]
        self._looked()
        return found

    def _need_walk_lock(self) -> cython.int:
        """A walk follows links of pages that change hands, unless zone->lock is held.

        Nobody's word is doubted who is on no CPU: a host sees the guest's memory, and has no lock
        of the guest's.
        """
        if self.clock.cpu < 0 or self.violate is None:
            return 0
        if not (self.lock.held and self.lock.holder == self.clock.context):
            self.violate(
                "locked-lists", f"free lists of {self} are walked without its lock", "walk"
            )
        return 0

    def _looked(self) -> cython.int:
        """Somebody has looked; without the lock others may come before what follows from it."""
        if self.torn is not None and not (
            self.lock.held and self.lock.holder == self.clock.context
        ):
            self.torn.looked()
        return 0

    def first_free(self, order: int, migratetype: int) -> int:
        """The head of a free list's first block; -1 when it is empty. For inspection, for nothing.

        Args:
            order: order of the list.
            migratetype: its migratetype.

        Raises:
            ValueError: there is no such list.
        """
        self._check_list(order, migratetype)
        head = self.list_of(order, migratetype)
        pfn = self.pages.next[head]
        return -1 if pfn == head else pfn

    def list_empty(self, order: int, migratetype: int) -> bool:
        """list_empty(): whether a free list has no block. It may be asked without the lock.

        Args:
            order: order of the list.
            migratetype: its migratetype.

        Raises:
            ValueError: there is no such list.
        """
        self._check_list(order, migratetype)
        return not self.has_free(order, migratetype)

    def _check_list(self, order: int, migratetype: int) -> None:
        if not (0 <= order <= MAX_PAGE_ORDER and 0 <= migratetype < MIGRATE_TYPES):
            raise ValueError(f"free list: order {order} or migratetype {migratetype} out of range")

    def list_type(self, pfn: cython.int, order: cython.int) -> cython.int:
        """The migratetype of the list that a free block is on.

        Raises:
            ValueError: there is no such free block.
        """
        if self._order_at(pfn) != order:
            raise ValueError(f"list_type: pfn {pfn:#x} heads no free block of order {order}")
        here: cython.int = self.pages.next[pfn]
        steps: cython.int = 0
        while here < self.pages.page_count:
            here = self.pages.next[here]
            steps += 1
            if steps > self.pages.page_count:
                raise RuntimeError(f"the list of pfn {pfn:#x} in {self} has no end")
        return (here - self.first_list) % MIGRATE_TYPES

    def pageblock_migratetype(self, pfn: int) -> int:
        """get_pageblock_migratetype(): 0 UNMOVABLE, 1 MOVABLE, 2 RECLAIMABLE, 3 HIGHATOMIC.

        Raises:
            ValueError: ``pfn`` is not of this zone.
        """
        check_range("pageblock_migratetype", "pfn", pfn, self.start_pfn, self.end_pfn - 1)
        return int(self.pages.pageblock_type[pfn >> PAGEBLOCK_ORDER])

    def scan_range(self, pfn: int, end_pfn: int, min_order: int) -> Block | None:
        """Walk over struct pages up to a free block (:func:`hintbench.core.scan.scan_range`)."""
        check_range("scan_range", "pfn", pfn, 0, self.pages.page_count)
        check_range("scan_range", "min_order", min_order, 0, MAX_PAGE_ORDER)
        return scan_range(self, pfn, end_pfn, min_order)

    # -- what edits ask first -------------------------------------------------------------------

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


def inspect_blocks(zone: Any, min_order: int) -> list[Block]:
    """As `FreeLists.free_blocks`, for inspection: for nothing, and by nobody of the guest's.

    Args:
        zone: whose free blocks.
        min_order: smallest order.
    """
    mine: FreeLists = zone
    now: cython.longlong = mine.clock.now
    visits: cython.longlong = mine.visits
    found: list = mine._walk(min_order, None, 0, 0)
    mine.clock.now, mine.visits = now, visits
    return found
