"""Where a guest's zones lie and what their watermarks are, by the kernel's own formulas."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

PAGE_SIZE: Final = 4096
MAX_BLOCK_PAGES: Final = 1024
PAGEBLOCK_PAGES: Final = 512
ZONE_NAMES: Final = ("DMA", "DMA32", "Normal", "Movable")
DMA_END: Final = 4096
"""First pfn past the 16 MiB that the DMA zone covers."""
DMA_RESERVED: Final = 255
"""Pages 1..255: the first MiB of a PC is never given to the buddy allocator."""
HOLE_START: Final = 0xC0000
HOLE_END: Final = 0x100000
"""A PC with more than 3 GiB has no memory between 3 and 4 GiB; it goes on above."""
MAX_PFN: Final = (1 << 31) - 1
LOWMEM_RESERVE_RATIO: Final = (256, 256, 32, 0)
"""By zone number; 0 reserves nothing (mm/page_alloc.c, sysctl_lowmem_reserve_ratio)."""
_SMALLEST_NODE_PAGES: Final = 16 * MAX_BLOCK_PAGES


class ZoneConfig(BaseModel):
    """One zone of a guest; what is None follows from the rest."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Literal["DMA", "DMA32", "Normal", "Movable"] = Field(description="the zone's name")
    start_pfn: int = Field(ge=0, le=MAX_PFN, description="the zone's first page [pfn]")
    spanned_pages: int = Field(
        ge=1, le=MAX_PFN, description="pages from the first to the last [pages of 4 KiB]"
    )
    managed_pages: int | None = Field(
        default=None,
        ge=1,
        le=MAX_PFN,
        description="pages that the buddy allocator owns; the lowest others are the kernel's own;"
        " none: all of them [pages of 4 KiB]",
    )
    node: int = Field(default=0, ge=0, le=63, description="the memory node it belongs to")
    watermark_min: int | None = Field(
        default=None, ge=0, description="watermark min; none: the kernel's formula [pages of 4 KiB]"
    )
    watermark_low: int | None = Field(
        default=None, ge=0, description="watermark low; none: the kernel's formula [pages of 4 KiB]"
    )
    watermark_high: int | None = Field(
        default=None,
        ge=0,
        description="watermark high; none: the kernel's formula [pages of 4 KiB]",
    )
    pcp_high_max: int | None = Field(
        default=None,
        ge=1,
        le=MAX_PFN,
        description="the most that a CPU's lists may grow to, high_max of /proc/zoneinfo; none: the"
        " kernel's formula [pages of 4 KiB]",
    )

    @property
    def number(self) -> int:
        """The zone's number: DMA 0, DMA32 1, Normal 2, Movable 3."""
        return ZONE_NAMES.index(self.name)

    @property
    def end_pfn(self) -> int:
        """The first pfn past the zone."""
        return self.start_pfn + self.spanned_pages

    @property
    def managed(self) -> int:
        """Pages that the buddy allocator owns."""
        return self.spanned_pages if self.managed_pages is None else self.managed_pages

    @model_validator(mode="after")
    def _consistent(self) -> "ZoneConfig":
        if self.managed > self.spanned_pages:
            raise ValueError(
                f"zone {self.name} manages {self.managed} pages but spans only {self.spanned_pages}"
            )
        if self.end_pfn > MAX_PFN:
            raise ValueError(f"zone {self.name} ends past the highest page {MAX_PFN} (8 TiB)")
        marks = (self.watermark_min, self.watermark_low, self.watermark_high)
        given = [mark for mark in marks if mark is not None]
        if given and len(given) < len(marks):
            raise ValueError(f"zone {self.name} needs all three watermarks or none")
        if given != sorted(given):
            raise ValueError(f"zone {self.name} needs watermarks min <= low <= high")
        if given and given[0] >= self.managed:
            raise ValueError(
                f"zone {self.name} is too small: watermark min {given[0]} is not below its"
                f" {self.managed} managed pages"
            )
        return self


def lay_out(memory: int, nodes: int, movable: int) -> tuple[ZoneConfig, ...]:
    """Lay a guest's memory out as a PC does.

    DMA takes the first 16 MiB (its first MiB is not managed), DMA32 goes up to 3 GiB, Normal starts
    at 4 GiB. Nodes share the memory evenly, in order. Movable memory is the end of every node.

    Args:
        memory: Size of the guest [bytes].
        nodes: Number of memory nodes.
        movable: Size of all Movable zones together [bytes].

    Returns:
        The zones by node and zone number, without watermarks.

    Raises:
        ValueError: When the guest is too small for its zones.
    """
    pages = memory // PAGE_SIZE
    bounds = [_aligned(pages * node // nodes) for node in range(nodes)] + [pages]
    movable_pages = _aligned(movable // PAGE_SIZE // nodes)
    parts = [(first, last - movable_pages, last) for first, last in pairwise(bounds)]
    if min(kernel_last - first for first, kernel_last, _ in parts) < _SMALLEST_NODE_PAGES:
        smallest = _SMALLEST_NODE_PAGES * PAGE_SIZE * nodes + movable
        raise ValueError(
            f"the guest is too small for its zones: with {nodes} node{'s'[: nodes > 1]} and"
            f" {movable >> 20} MiB Movable it needs at least {smallest >> 20} MiB of memory,"
            f" not {memory >> 20} MiB"
        )
    # A zone never spans the hole: where a Movable zone would, the hole starts below it instead
    # (QEMU's max-ram-below-4g does the same).
    crossing = [low for _, low, high in parts if movable and low < HOLE_START < high]
    hole = min(crossing, default=HOLE_START)
    zones: list[ZoneConfig] = []
    for node, (first, kernel_last, last) in enumerate(parts):
        zones += _zones_of_node(node, first, kernel_last, last, hole)
    if zones[-1].end_pfn > MAX_PFN:
        raise ValueError(f"the guest ends past the highest page {MAX_PFN} (8 TiB)")
    return tuple(zones)


def check_zones(zones: Sequence[ZoneConfig], memory: int | None) -> None:
    """Check zones that were given one by one against each other and the guest's memory.

    Args:
        zones: The zones.
        memory: Size of the guest [bytes], or None when the zones decide it.

    Raises:
        ValueError: When two zones overlap or repeat each other, or the guest is too small.
    """
    if not zones:
        raise ValueError("zones is empty: give at least one zone, or leave it out")
    ordered = sorted(zones, key=lambda zone: zone.start_pfn)
    for below, above in pairwise(ordered):
        if above.start_pfn < below.end_pfn:
            raise ValueError(
                f"zones {below.name} and {above.name} overlap: {below.name} ends at pfn"
                f" {below.end_pfn} and {above.name} starts at {above.start_pfn}"
            )
    seen: set[tuple[int, str]] = set()
    for zone in zones:
        if (zone.node, zone.name) in seen:
            raise ValueError(f"node {zone.node} has zone {zone.name} twice")
        seen.add((zone.node, zone.name))
    managed = sum(zone.managed for zone in zones)
    if memory is not None and managed * PAGE_SIZE > memory:
        raise ValueError(
            f"the guest is too small for its zones: they manage {managed} pages, and memory holds"
            f" {memory // PAGE_SIZE}"
        )


def with_watermarks(
    zones: Sequence[ZoneConfig], kernel: str, huge_pages: bool
) -> tuple[ZoneConfig, ...]:
    """Fill in managed pages and watermarks, as `__setup_per_zone_wmarks` computes them.

    Args:
        zones: The zones; watermarks that are given stay.
        kernel: The kernel preset, "5.0" or "6.12".
        huge_pages: Whether khugepaged raises `min_free_kbytes`.

    Returns:
        The zones with nothing left None.
    """
    # Since 6.8 a Movable zone is treated like high memory: outside lowmem, with a small fixed min.
    apart = {"Movable"} if kernel == "6.12" else set()
    lowmem = sum(zone.managed for zone in zones if zone.name not in apart)
    wanted = _min_free_pages(zones, lowmem, kernel, huge_pages)
    return tuple(_with_watermarks(zone, wanted, lowmem, zone.name in apart) for zone in zones)


def lowmem_reserves(zones: Sequence[ZoneConfig]) -> tuple[tuple[int, int, int, int], ...]:
    """Pages that each zone keeps from allocations that could have used a higher zone.

    Args:
        zones: Zones with managed pages.

    Returns:
        For every zone the reserve by the highest zone number that an allocation may use
        (`setup_per_zone_lowmem_reserve`).
    """
    reserves = []
    for zone in zones:
        row = [0, 0, 0, 0]
        ratio = LOWMEM_RESERVE_RATIO[zone.number]
        for highest in range(zone.number + 1, len(ZONE_NAMES)):
            above = sum(
                other.managed
                for other in zones
                if other.node == zone.node and zone.number < other.number <= highest
            )
            row[highest] = above // ratio if ratio else 0
        reserves.append((row[0], row[1], row[2], row[3]))
    return tuple(reserves)


def _min_free_pages(zones: Sequence[ZoneConfig], lowmem: int, kernel: str, huge_pages: bool) -> int:
    """`min_free_kbytes` in pages: `calculate_min_free_kbytes`, then khugepaged's raise."""
    most = 262_144 if kernel == "6.12" else 65_536
    # nr_free_buffer_pages() leaves Movable out, and watermark high where one is set already.
    buffer_pages = sum(zone.managed for zone in zones if zone.name != "Movable")
    kbytes = min(max(math.isqrt(buffer_pages * 4 * 16), 128), most)
    pages = kbytes * 1024 // PAGE_SIZE
    # Huge pages start switched off in a guest of under 512 MiB of usable memory (hugepage_init).
    if huge_pages and sum(zone.managed for zone in zones) >= (512 << 20) // PAGE_SIZE:
        counted = sum(zone.name != "Movable" for zone in zones)
        recommended = PAGEBLOCK_PAGES * counted * (2 + 3 * 3)
        for zone in zones:
            if zone.name != "Movable":
                plain = pages * zone.managed // lowmem
                buffer_pages -= plain + 2 * max(plain // 4, zone.managed * 10 // 10_000)
        # set_recommended_min_free_kbytes(): never more than 5 % of the lowmem.
        pages = max(pages, min(recommended, buffer_pages // 20))
    return pages


def _with_watermarks(zone: ZoneConfig, wanted: int, lowmem: int, apart: bool) -> ZoneConfig:
    """One zone's share of the wanted free pages, and the steps above it."""
    update: dict[str, int] = {"managed_pages": zone.managed}
    if zone.watermark_min is None:
        if apart:
            least = min(max(zone.managed // 1024, 32), 128)
        else:
            least = wanted * zone.managed // lowmem
        step = max(
            (wanted * zone.managed // max(lowmem, 1)) // 4,
            zone.managed * 10 // 10_000,
        )
        update |= {
            "watermark_min": least,
            "watermark_low": least + step,
            "watermark_high": least + 2 * step,
        }
    return zone.model_copy(update=update)


def _zones_of_node(
    node: int, first: int, kernel_last: int, last: int, hole: int
) -> list[ZoneConfig]:
    """Cut a node's memory, in pages from the start of memory, at the zones' borders."""
    zones = []
    for name, start, end in (
        ("DMA", max(first, 1), min(kernel_last, DMA_END)),
        ("DMA32", max(first, DMA_END), min(kernel_last, hole)),
        ("Normal", max(first, hole), kernel_last),
        ("Movable", kernel_last, last),
    ):
        if start < end:
            shift = HOLE_END - hole if start >= hole else 0
            managed = end - start - (DMA_RESERVED if name == "DMA" else 0)
            zones.append(_zone(name, start + shift, end - start, managed, node))
    return zones


def _zone(name: str, start: int, spanned: int, managed: int, node: int) -> ZoneConfig:
    return ZoneConfig.model_validate(
        {
            "name": name,
            "start_pfn": start,
            "spanned_pages": spanned,
            "managed_pages": managed,
            "node": node,
        }
    )


def _aligned(pages: int) -> int:
    return pages - pages % MAX_BLOCK_PAGES
