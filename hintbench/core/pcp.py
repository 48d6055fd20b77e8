"""Per-CPU pages (pcp) of one CPU and zone, for both kernel presets.

The decisions (how many to refill, how many to drain, how high it may grow) are the kernel's;
moving the pages under the zone lock is :mod:`hintbench.core.vcpu`'s part, which can be suspended
in the middle.  6.12: mm/page_alloc.c of 6.12.y; 5.0: order 0 only, a fixed high and batch.
"""

import cython

if cython.compiled:
    from cython.cimports.hintbench.core.constants import (
        HIGHATOMIC,
        KERNEL_6_12,
        MOVABLE,
        NR_LOWORDER_PCP_LISTS,
        NR_PCP_LISTS,
        PAGE_ALLOC_COSTLY_ORDER,
        PAGEBLOCK_ORDER,
        PCP,
        PCP_BATCH_SCALE_MAX,
        TRANSIT,
    )
    from cython.cimports.hintbench.core.pages import Pages
    from cython.cimports.hintbench.core.zone import Zone
else:
    from hintbench.core.constants import (
        HIGHATOMIC,
        KERNEL_6_12,
        MOVABLE,
        NR_LOWORDER_PCP_LISTS,
        NR_PCP_LISTS,
        PAGE_ALLOC_COSTLY_ORDER,
        PAGEBLOCK_ORDER,
        PCP,
        PCP_BATCH_SCALE_MAX,
        TRANSIT,
    )
    from hintbench.core.pages import Pages
    from hintbench.core.zone import Zone


@cython.cfunc
@cython.exceptval(check=False)
def pcp_index(kernel: cython.int, order: cython.int, migratetype: cython.int) -> cython.int:
    """order_to_pindex(): three lists an order, then two for huge pages (movable or not)."""
    if migratetype >= HIGHATOMIC:
        migratetype = MOVABLE
    if order > PAGE_ALLOC_COSTLY_ORDER:
        return NR_LOWORDER_PCP_LISTS + (migratetype == MOVABLE)
    return HIGHATOMIC * order + migratetype


@cython.cfunc
@cython.exceptval(check=False)
def index_order(pindex: cython.int) -> cython.int:
    """pindex_to_order()."""
    if pindex >= NR_LOWORDER_PCP_LISTS:
        return PAGEBLOCK_ORDER
    return pindex // HIGHATOMIC


@cython.cfunc
@cython.exceptval(check=False)
def pcp_allowed(kernel: cython.int, order: cython.int) -> cython.bint:
    """pcp_allowed_order(); before 5.13 (commit 44042b449872) order 0 only."""
    if kernel < KERNEL_6_12:
        return order == 0
    return order <= PAGE_ALLOC_COSTLY_ORDER or order == PAGEBLOCK_ORDER


def pcp_keeps(kernel: int, order: int) -> bool:
    """:func:`pcp_allowed` for callers outside the core."""
    return bool(pcp_allowed(kernel, order))


@cython.final
@cython.cclass
class PerCpuPages:
    """``struct per_cpu_pages``.

    Attributes:
        count: pages on all lists.
        batch: chunk of buddy operations, in pages.
        high, high_min, high_max: drain when ``count`` reaches ``high``, tuned between the two.
        alloc_factor: doubling of refills while nothing is freed.
        free_count: consecutive frees, which make drains larger.
    """

    def __init__(self, pages: Pages, zone: Zone, cpu: int) -> None:
        self.pages = pages
        self.zone = zone
        self.cpu = cpu
        self.first_list = pages.new_lists(NR_PCP_LISTS)
        self.count = 0
        self.batch = 1
        self.high = 0
        self.high_min = 0
        self.high_max = 0
        self.alloc_factor = 0
        self.free_count = 0
        self.previous_free_high_order = False
        self.free_high_batch = False

    def configure(self, batch: int, high_min: int, high_max: int) -> None:
        """zone_set_pageset_high_and_batch(): sizes in pages."""
        self.batch = batch
        self.high_min = high_min
        self.high_max = high_max
        self.high = high_min

    @cython.exceptval(check=False)
    def list_of(self, order: cython.int, migratetype: cython.int) -> cython.int:
        """The list head for an order and migratetype."""
        return self.first_list + pcp_index(self.zone.kernel, order, migratetype)

    def push(self, pfn: cython.int, order: cython.int, migratetype: cython.int) -> cython.int:
        """A freed page goes to the head, hot."""
        self.pages.add_head(self.list_of(order, migratetype), pfn)
        self.pages.state[pfn] = PCP | order
        self.count += 1 << order
        return 0

    def type_of_freed(self, pfn: cython.int) -> cython.int:
        """The type of the list that a freed page goes to: its pageblock's, not the allocation's.

        HIGHATOMIC goes with the movable pages. 5.0 remembers the pageblock's type on the page
        (free_unref_page_prepare(): set_pcppage_migratetype()), by which a drain returns it.
        """
        migratetype: cython.int = self.pages.pageblock_type[pfn >> PAGEBLOCK_ORDER]
        if migratetype < HIGHATOMIC:
            if self.zone.recorded_highatomic:
                self.zone.recorded_highatomic.discard(pfn)
            return migratetype
        if self.zone.kernel < KERNEL_6_12:
            self.zone.recorded_highatomic.add(pfn)
        return MOVABLE

    def load(self, pfns: object, orders: object, migratetypes: object) -> None:
        """Put blocks at the tails of their lists, one after the other, as a recording found them.

        Args:
            pfns: first page of each; int32.
            orders: int8.
            migratetypes: int8.
        """
        pages: cython.int[::1] = memoryview(pfns)
        sizes: cython.schar[::1] = memoryview(orders)
        types: cython.schar[::1] = memoryview(migratetypes)
        at: cython.Py_ssize_t
        count: cython.Py_ssize_t = len(pfns)
        if not count == len(orders) == len(migratetypes):
            raise ValueError("pfns, orders and migratetypes must be equally long")
        for at in range(count):
            if not 0 <= pages[at] < self.pages.page_count:
                raise ValueError(f"pfn {pages[at]} is no page of the guest")
            self.pages.add_tail(self.list_of(sizes[at], types[at]), pages[at])
            self.pages.state[pages[at]] = PCP | sizes[at]
            self.count += 1 << sizes[at]

    def pop(self, order: cython.int, migratetype: cython.int) -> cython.int:
        """The page at the head of a list, in transit; -1 when the list is empty."""
        head: cython.int = self.first_list + migratetype
        pfn: cython.int
        if order or migratetype >= HIGHATOMIC:
            head = self.list_of(order, migratetype)
        pfn = self.pages.next[head]
        if pfn == head:
            return -1
        self.pages.remove(pfn)
        self.pages.state[pfn] = TRANSIT | order
        self.count -= 1 << order
        return pfn

    def refill_size(self, order: cython.int) -> cython.Py_ssize_t:
        """nr_pcp_alloc(): how many blocks of ``order`` to take from the buddy allocator."""
        high: cython.longlong
        batch: cython.longlong
        most: cython.longlong
        if self.zone.kernel < KERNEL_6_12:
            return self.batch
        high = self._clamped_high()
        if high < self.batch:
            return 1
        batch = self.batch if order else self.batch << self.alloc_factor
        if self.high_min != self.high_max and not self.zone.below_high:
            # A larger high would have spared this refill.
            high = min(high + batch, self.high_max)
            self.high = high
        if order == 0:
            most = max(high - self.count - self.batch, self.batch)
            if batch <= most and self.alloc_factor < PCP_BATCH_SCALE_MAX:
                self.alloc_factor += 1
            batch = min(batch, most)
        if batch > 1:
            batch = max(batch >> order, 2)
        return batch

    def to_drain(self, order: cython.int) -> cython.Py_ssize_t:
        """The rest of free_unref_page_commit() after the list_add: pages to drain, 0 for none."""
        high: cython.longlong
        free_high: cython.bint = False
        if self.zone.kernel < KERNEL_6_12:
            return self.batch if self.count >= self.high else 0
        if 0 < order <= PAGE_ALLOC_COSTLY_ORDER:
            free_high = (
                self.free_count >= self.batch
                and self.previous_free_high_order
                and (not self.free_high_batch or self.count >= self.batch)
            )
            self.previous_free_high_order = True
        else:
            self.previous_free_high_order = False
        if self.free_count < self.batch << PCP_BATCH_SCALE_MAX:
            self.free_count += 1 << order
        high = self._drain_high(free_high)
        if self.count < high:
            return 0
        # nr_pcp_free()
        if free_high:
            return min(self.count, self.batch << PCP_BATCH_SCALE_MAX)
        if high < self.batch:
            return 1
        return min(max(self.free_count, self.batch), max(high - self.batch, 0))

    def _clamped_high(self) -> cython.Py_ssize_t:
        """clamp(pcp->high, high_min, high_max), stored."""
        self.high = min(max(self.high, self.high_min), self.high_max)
        return self.high

    def _drain_high(self, free_high: cython.bint) -> cython.Py_ssize_t:
        """nr_pcp_high()."""
        high: cython.longlong = self._clamped_high()
        freed: cython.longlong
        if high == 0:
            return 0
        if free_high:
            self.high = max(high - (self.batch << PCP_BATCH_SCALE_MAX), self.high_min)
            return 0
        if self.zone.reclaim_active:
            # ZONE_RECLAIM_ACTIVE: while kswapd runs, next to nothing stays on the lists.
            freed = max(self.free_count, self.batch)
            self.high = max(high - freed, self.high_min)
            return min(self.batch << 2, self.high)
        if self.high_min == self.high_max:
            return high
        if self.zone.below_high:
            freed = max(self.free_count, self.batch)
            self.high = max(high - freed, self.high_min)
            return max(self.count, self.high_min)
        if self.count >= high:
            freed = self.free_count + self.batch
            # pcp->high should be large enough to hold batch freed pages.
            if self.high < freed:
                self.high = min(max(freed, self.high_min), self.high_max)
        return high

    def decay(self) -> cython.Py_ssize_t:
        """decay_pcp_high(), from vmstat about once a second: pages to drain, 0 for none."""
        if self.zone.kernel < KERNEL_6_12:
            return 0
        if self.high > self.high_min:
            self.high = max(
                self.count - (self.batch << PCP_BATCH_SCALE_MAX),
                self.high - (self.high >> 3),
                self.high_min,
            )
        return max(self.count - self.high, 0)

    def next_list(self, pindex: cython.int) -> cython.int:
        """The first list from ``pindex`` on, going round, that is not empty."""
        tried: cython.int
        for tried in range(NR_PCP_LISTS):
            if pindex >= NR_PCP_LISTS:
                pindex = 0
            if self.pages.next[self.first_list + pindex] != self.first_list + pindex:
                return pindex
            pindex += 1
        raise RuntimeError(f"pcp of CPU {self.cpu}: {self.count} pages counted, lists are empty")

    def pages_of(self, pindex: int) -> list[int]:
        """The pfns on a list, hottest first; for tests and inspection."""
        return self.pages.list_pages(self.first_list + pindex)
