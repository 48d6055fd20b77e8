"""A second model of the watermarks: obvious, and independent of the core.

Retells ``calculate_min_free_kbytes``, ``set_recommended_min_free_kbytes`` (khugepaged),
``__setup_per_zone_wmarks``, ``setup_per_zone_lowmem_reserve``, ``__zone_watermark_ok`` and
``zone_batchsize`` / ``zone_highsize`` of Linux 6.12.117 and 5.0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isqrt

from reference.lists import HIGHATOMIC, MAX_PAGE_ORDER, PAGEBLOCK_PAGES, ReferenceLists

NORMAL_ZONE, MOVABLE_ZONE = 2, 3
LOWMEM_RESERVE_RATIO = (256, 256, 32, 0)
WATERMARK_SCALE_FACTOR = 10
PCP_HIGH_FRACTION = 8


@dataclass(frozen=True)
class ZoneSize:
    """What the formulas need to know of a zone: its number, its managed pages, its node."""

    number: int
    managed: int
    node: int = 0


class ReferenceWatermarks:
    """Watermarks of all zones of a guest.

    Args:
        zones: the populated zones.
        kernel: "5.0" or "6.12".
        huge_pages: whether khugepaged runs and raises ``min_free_kbytes``.

    Attributes:
        min_free_kbytes: as /proc/sys/vm/min_free_kbytes.
        marks: ``(min, low, high)`` of each zone, in pages.
        lowmem_reserve: of each zone, by the highest zone number that a request may use.
    """

    def __init__(self, zones: Sequence[ZoneSize], kernel: str, huge_pages: bool) -> None:
        self.zones = list(zones)
        self.kernel = kernel
        self.marks: list[tuple[int, int, int]] = [(0, 0, 0)] * len(self.zones)
        self.min_free_kbytes = self._calculate_min_free_kbytes()
        self.marks = [self._marks(zone) for zone in self.zones]
        # hugepage_init(): too small a machine starts with huge pages off.
        if huge_pages and 4 * sum(zone.managed for zone in self.zones) >= 512 * 1024:
            self.min_free_kbytes = max(self.min_free_kbytes, self._recommended_min_free_kbytes())
            self.marks = [self._marks(zone) for zone in self.zones]
        self.lowmem_reserve = [self._reserve(zone) for zone in self.zones]

    def _free_buffer_pages(self) -> int:
        """nr_free_buffer_pages(): what lies above the high watermarks up to ZONE_NORMAL."""
        return sum(
            max(0, zone.managed - marks[2])
            for zone, marks in zip(self.zones, self.marks, strict=True)
            if zone.number <= NORMAL_ZONE
        )

    def _calculate_min_free_kbytes(self) -> int:
        most = 65536 if self.kernel == "5.0" else 262144
        return min(max(isqrt(self._free_buffer_pages() * 4 * 16), 128), most)

    def _recommended_min_free_kbytes(self) -> int:
        number_of_zones = sum(zone.number <= NORMAL_ZONE for zone in self.zones)
        pages = PAGEBLOCK_PAGES * number_of_zones * (2 + 3 * 3)
        return 4 * min(pages, self._free_buffer_pages() // 20)

    def _marks(self, zone: ZoneSize) -> tuple[int, int, int]:
        """__setup_per_zone_wmarks() for one zone.

        ZONE_MOVABLE counts as lowmem in 5.0, and is treated like highmem in 6.12.
        """
        lowmem = [z for z in self.zones if self.kernel == "5.0" or z.number != MOVABLE_ZONE]
        share = self.min_free_kbytes // 4 * zone.managed // sum(z.managed for z in lowmem)
        step = max(share // 4, zone.managed * WATERMARK_SCALE_FACTOR // 10000)
        least = share
        if zone not in lowmem:
            least = min(max(zone.managed // 1024, 32), 128)
        return least, least + step, least + 2 * step

    def _reserve(self, zone: ZoneSize) -> list[int]:
        """setup_per_zone_lowmem_reserve() for one zone."""
        ratio = LOWMEM_RESERVE_RATIO[zone.number]
        reserve = [0, 0, 0, 0]
        for highest in range(zone.number + 1, 4):
            above = sum(
                other.managed
                for other in self.zones
                if other.node == zone.node and zone.number < other.number <= highest
            )
            reserve[highest] = above // ratio if ratio else 0
        return reserve


def zone_watermark_ok(
    zone: ReferenceLists,
    order: int,
    mark: int,
    highest_zone: int,
    *,
    min_reserve: bool = False,
    non_block: bool = False,
    highatomic: bool = False,
) -> bool:
    """__zone_watermark_ok().

    Args:
        zone: the zone; its free lists and ``lowmem_reserve`` are used.
        order: order of the request.
        mark: the watermark, boost included where the caller includes it.
        highest_zone: the highest zone number that the request may use.
        min_reserve: ALLOC_MIN_RESERVE (6.12), ALLOC_HIGH (5.0).
        non_block: ALLOC_NON_BLOCK (6.12), ALLOC_HARDER (5.0).
        highatomic: ALLOC_HIGHATOMIC (6.12); in 5.0 ALLOC_HARDER says it.
    """
    free = zone.free_pages - ((1 << order) - 1)
    if zone.kernel == "6.12":
        if not (min_reserve or non_block or highatomic):
            free -= zone.free_highatomic
        if min_reserve:
            mark -= mark // 2
            if non_block:
                mark -= mark // 4
        may_use_highatomic = highatomic
    else:
        if min_reserve:
            mark -= mark // 2
        if non_block:
            mark -= mark // 4
        else:
            free -= zone.reserved_highatomic
        may_use_highatomic = non_block
    if free <= mark + zone.lowmem_reserve[highest_zone]:
        return False
    if order == 0:
        return True
    return any(
        pfns and (migratetype != HIGHATOMIC or may_use_highatomic)
        for (list_order, migratetype), pfns in zone.lists.items()
        if order <= list_order <= MAX_PAGE_ORDER
    )


def zone_batchsize(managed_pages: int) -> int:
    """zone_batchsize(): 63 for a zone of 1 GiB or more, 0 for the smallest."""
    batch = max(1, min(managed_pages // 1024, 256) // 4)
    batch += batch // 2
    return (1 << (batch.bit_length() - 1)) - 1


def pcp_limits(kernel: str, managed_pages: int, watermark_low: int, cpus: int) -> tuple[int, ...]:
    """``(batch, high_min, high_max)`` of the per-CPU lists of a zone.

    In 5.0 high is fixed at 6 * batch (pageset_set_batch()), so a ZONE_DMA has high 0, batch 1.
    """
    size = zone_batchsize(managed_pages)
    batch = max(1, size)
    if kernel == "5.0":
        return batch, 6 * size, 6 * size
    high_min = max(watermark_low // cpus, 4 * batch)
    high_max = max(managed_pages // PCP_HIGH_FRACTION // cpus, 4 * batch)
    return batch, high_min, high_max
