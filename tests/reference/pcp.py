"""A second model of the per-CPU page lists of one CPU and one zone: obvious and slow.

Retells ``rmqueue_pcplist``, ``free_unref_page_commit``, ``free_pcppages_bulk`` and
``decay_pcp_high`` of ``mm/page_alloc.c``, Linux 6.12.117 and 5.0.  See :mod:`reference.lists`.
"""

from __future__ import annotations

from dataclasses import dataclass

from reference.allocator import ReferenceZone
from reference.lists import HIGHATOMIC, MOVABLE
from reference.watermarks import MOVABLE_ZONE, zone_watermark_ok

HUGE_ORDER = 9
COSTLY_ORDER = 3
TYPES = 3
BATCH_SCALE_MAX = 5
# pindex of the list of huge pages that are not movable; the movable one follows it.
FIRST_HUGE_LIST = TYPES * (COSTLY_ORDER + 1)


@dataclass(frozen=True)
class Drained:
    """A page that went from a per-CPU list to the buddy, as ``mm_page_pcpu_drain`` tells it."""

    pfn: int
    order: int
    migratetype: int


class ReferencePcp:
    """The per-CPU lists; the front of each list is the hot end.

    Args:
        zone: the zone behind them.
        batch: pcp->batch.
        high_min: pcp->high_min; in 5.0 pcp->high.
        high_max: pcp->high_max; not used in 5.0.
        free_high_batch: PCPF_FREE_HIGH_BATCH: the CPU's share of the data cache is large.

    Attributes:
        lists: pfns by pindex (6.12: 14 lists), by migratetype (5.0: 3 lists).
        count: pages on all lists.
        drained: what went back to the buddy so far, in order.
        holds: how often the zone lock was taken.
    """

    def __init__(
        self,
        zone: ReferenceZone,
        batch: int,
        high_min: int,
        high_max: int,
        free_high_batch: bool = True,
    ) -> None:
        self.zone = zone
        self.kernel = zone.kernel
        self.batch, self.high_min, self.high_max = batch, high_min, high_max
        self.free_high_batch = free_high_batch
        self.high = 0 if self.kernel == "6.12" else high_min
        self.alloc_factor = 0
        self.free_count = 0
        self.previous_free_was_high_order = False
        self.lists: list[list[int]] = [
            [] for _ in range(FIRST_HUGE_LIST + 2 if self.kernel == "6.12" else TYPES)
        ]
        self.recorded_types: dict[int, int] = {}
        self.drained: list[Drained] = []
        self.holds = 0

    @property
    def count(self) -> int:
        """pcp->count."""
        return sum(len(pfns) << self.order_of_list(n) for n, pfns in enumerate(self.lists))

    @staticmethod
    def order_of_list(pindex: int) -> int:
        """pindex_to_order()."""
        return HUGE_ORDER if pindex >= FIRST_HUGE_LIST else pindex // TYPES

    @staticmethod
    def list_for(migratetype: int, order: int) -> int:
        """order_to_pindex()."""
        if order > COSTLY_ORDER:
            return FIRST_HUGE_LIST + (migratetype == MOVABLE)
        return TYPES * order + migratetype

    def caches(self, order: int) -> bool:
        """pcp_allowed_order(); in 5.0 only single pages are cached."""
        if self.kernel == "5.0":
            return order == 0
        return order <= COSTLY_ORDER or order == HUGE_ORDER

    # Allocate.

    def allocate(self, order: int, migratetype: int, nofragment: bool = False) -> int | None:
        """rmqueue_pcplist(): None when the list is empty and the zone has nothing to fill it."""
        self.free_count //= 2
        pages = self.lists[self.list_for(migratetype, order)]
        if not pages:
            blocks = self.blocks_to_refill(order)
            self.holds += 1
            found = self.zone.rmqueue_bulk(order, blocks, migratetype, nofragment)
            pages += found
            # 5.0: set_pcppage_migratetype() in __rmqueue_smallest().
            self.recorded_types.update(dict.fromkeys(found, migratetype))
            if not pages:
                return None
        pfn = pages.pop(0)
        del self.recorded_types[pfn]
        return pfn

    def blocks_to_refill(self, order: int) -> int:
        """nr_pcp_alloc(); 5.0 always asks for one batch."""
        if self.kernel == "5.0":
            return self.batch
        self.high = min(max(self.high, self.high_min), self.high_max)
        if self.high < self.batch:
            return 1
        wanted = self.batch if order else self.batch << self.alloc_factor
        if self.high_min != self.high_max and not self.zone.below_high:
            self.high = min(self.high + wanted, self.high_max)
        if order == 0:
            most = max(self.high - self.count - self.batch, self.batch)
            if wanted <= most and self.alloc_factor < BATCH_SCALE_MAX:
                self.alloc_factor += 1
            wanted = min(wanted, most)
        return max(wanted >> order, 2) if wanted > 1 else wanted

    # Free.

    def free(self, pfn: int, order: int) -> None:
        """free_unref_page(): onto the list of the *pageblock's* type, and perhaps a drain."""
        migratetype = self.zone.pageblock_type(pfn)
        self.recorded_types[pfn] = migratetype
        if migratetype >= HIGHATOMIC:
            migratetype = MOVABLE
        pindex = self.list_for(migratetype, order)
        self.alloc_factor //= 2
        self.lists[pindex].insert(0, pfn)
        if self.kernel == "5.0":
            if self.count >= self.high:
                self.drain(self.batch)
            return
        free_high = self._note_order(order)
        if self.free_count < self.batch << BATCH_SCALE_MAX:
            self.free_count += 1 << order
        high = self.limit(free_high)
        if self.count >= high:
            self.drain(self.pages_to_drain(high, free_high), pindex)
            self._look_at_high_watermark()

    def _note_order(self, order: int) -> bool:
        """The first half of free_unref_page_commit(): whether to flush high-order pages."""
        if not 0 < order <= COSTLY_ORDER:
            self.previous_free_was_high_order = False
            return False
        flush = (
            self.free_count >= self.batch
            and self.previous_free_was_high_order
            and (not self.free_high_batch or self.count >= self.batch)
        )
        self.previous_free_was_high_order = True
        return flush

    def limit(self, free_high: bool) -> int:
        """nr_pcp_high(): how many pages may stay; adapts ``high``."""
        self.high = min(max(self.high, self.high_min), self.high_max)
        high = self.high
        if high == 0:
            return 0
        if free_high:
            self.high = max(high - (self.batch << BATCH_SCALE_MAX), self.high_min)
            return 0
        freed = max(self.free_count, self.batch)
        if self.zone.reclaim_active:
            self.high = max(high - freed, self.high_min)
            return min(4 * self.batch, self.high)
        if self.high_min == self.high_max:
            return high
        if self.zone.below_high:
            self.high = max(high - freed, self.high_min)
            return max(self.count, self.high_min)
        if self.count >= high:
            needed = self.free_count + self.batch
            if self.high < needed:
                self.high = min(max(needed, self.high_min), self.high_max)
        return high

    def pages_to_drain(self, high: int, free_high: bool) -> int:
        """nr_pcp_free()."""
        if free_high:
            return min(self.count, self.batch << BATCH_SCALE_MAX)
        if high < self.batch:
            return 1
        # The kernel's clamp() looks at the upper bound first.
        if self.free_count >= high - self.batch:
            return high - self.batch
        return max(self.free_count, self.batch)

    def _look_at_high_watermark(self) -> None:
        """The end of free_unref_page_commit()."""
        mark = self.zone.watermarks[2] + self.zone.watermark_boost
        if self.zone.below_high and zone_watermark_ok(self.zone, 0, mark, MOVABLE_ZONE):
            self.zone.below_high = False

    # Drain.

    def drain(self, pages: int, pindex: int = 0) -> None:
        """free_pcppages_bulk(): one hold of the zone lock."""
        self.holds += 1
        if self.kernel == "5.0":
            self._drain_5_0(pages)
            return
        left = min(pages, self.count)
        while left > 0:
            # One whole list after the other, each from its cold end.
            while not self.lists[pindex]:
                pindex = (pindex + 1) % len(self.lists)
            order = self.order_of_list(pindex)
            while left > 0 and self.lists[pindex]:
                pfn = self.lists[pindex].pop()
                del self.recorded_types[pfn]
                left -= 1 << order
                self._to_buddy(pfn, order, self.zone.pageblock_type(pfn))
            pindex = (pindex + 1) % len(self.lists)

    def _drain_5_0(self, pages: int) -> None:
        """Round robin; lists are left the sooner the more of the others are empty."""
        chosen: list[int] = []
        migratetype = 0
        in_a_row = 0
        left = pages
        while left:
            while True:
                in_a_row += 1
                migratetype = (migratetype + 1) % TYPES
                if self.lists[migratetype]:
                    break
            if in_a_row == TYPES:
                in_a_row = left
            while True:
                chosen.append(self.lists[migratetype].pop())
                left -= 1
                if not left:
                    break
                in_a_row -= 1
                if not in_a_row or not self.lists[migratetype]:
                    break
        for pfn in chosen:
            # To the list recorded when the page was freed or refilled, whatever its pageblock is.
            self._to_buddy(pfn, 0, self.recorded_types.pop(pfn))

    def _to_buddy(self, pfn: int, order: int, migratetype: int) -> None:
        self.zone.free_one_page(pfn, order, migratetype)
        self.drained.append(Drained(pfn, order, migratetype))

    def drain_all(self) -> None:
        """drain_pages_zone(): 6.12 takes the lock anew for every ``batch << 5`` pages."""
        while self.count:
            most = self.batch << BATCH_SCALE_MAX
            self.drain(self.count if self.kernel == "5.0" else min(self.count, most))

    def decay(self) -> bool:
        """decay_pcp_high(), from the vmstat worker: whether there may be more to do."""
        assert self.kernel == "6.12"
        more = False
        if self.high > self.high_min:
            most = self.batch << BATCH_SCALE_MAX
            self.high = max(self.count - most, self.high - self.high // 8, self.high_min)
            more = self.high > self.high_min
        left = self.count - self.high
        while left > 0:
            self.drain(min(left, self.batch))
            left -= min(left, self.batch)
            more = True
        return more
