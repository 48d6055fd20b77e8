"""Booting a guest: zones, watermarks, per-CPU lists and vCPUs from a configuration."""

from __future__ import annotations

import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy

from hintbench.config.layout import lowmem_reserves
from hintbench.core.backing import Backing
from hintbench.core.clock import CostTable, VirtualClock
from hintbench.core.constants import (
    KERNEL_5_0,
    KERNEL_6_12,
    MAX_PAGE_ORDER,
    MIGRATE_TYPES,
    NR_PAGE_ORDERS,
    NR_PCP_LISTS,
    PAGE_SIZE,
)
from hintbench.core.locks import LockTimeline
from hintbench.core.pages import Pages
from hintbench.core.pcp import PerCpuPages
from hintbench.core.simulation import Simulation
from hintbench.core.vcpu import Vcpu
from hintbench.core.zone import Zone
from hintbench.errors import GuestError

if TYPE_CHECKING:
    from hintbench.config.guest import GuestConfig
    from hintbench.config.layout import ZoneConfig
    from hintbench.core.measures import Latencies

MIN_PERCPU_PAGELIST_HIGH_FRACTION = 8
MOST_PLANS = 256
"""Configurations whose plans are kept."""
PCP_SMALLEST_BATCHED_ZONE = 8192
"""zone_batchsize() is 0 for a zone of fewer pages; pageset_set_batch() makes the batch 1 then."""


def pcp_batch(managed_pages: int) -> int:
    """zone_batchsize(), at least 1: 63 for every zone of 1 GiB and more."""
    batch = max(min(managed_pages >> 10, 256) // 4, 1)
    return max((1 << ((batch + batch // 2).bit_length() - 1)) - 1, 1)


def pcp_bounds(
    kernel: int, managed_pages: int, low_pages: int, local_cpus: int
) -> tuple[int, int, int]:
    """(batch, high_min, high_max) of a zone's per-CPU lists, in pages.

    5.0: high is six times zone_batchsize(), so nothing for a zone under 32 MiB. 6.12:
    zone_highsize(), from the low watermark up to an eighth of the zone, shared by the CPUs of its
    node.
    """
    batch = pcp_batch(managed_pages)
    if kernel == KERNEL_5_0:
        high = 6 * batch if managed_pages >= PCP_SMALLEST_BATCHED_ZONE else 0
        return batch, high, high
    high_min = max(low_pages // local_cpus, batch << 2)
    high_max = max(managed_pages // MIN_PERCPU_PAGELIST_HIGH_FRACTION // local_cpus, batch << 2)
    return batch, high_min, high_max


class Machine:
    """A booted guest before anything runs: the simulation and the arrays that others share.

    Args:
        config: the guest.
        tapes: one iterator of operation blocks a vCPU.
        slots: how many slots they use.
        seed: enters the digest.
        sample_ns: spacing of the footprint series [virtual ns]; 0 keeps none.
        empty: leave the zones without memory; a recorded state is loaded instead.
        latencies: where latencies are counted; None: in tables of its own.
    """

    def __init__(
        self,
        config: GuestConfig,
        tapes: Sequence[Iterator[Any]],
        slots: int,
        seed: int,
        sample_ns: int = 0,
        empty: bool = False,
        latencies: Latencies | None = None,
    ) -> None:
        self.config = config
        self.empty = empty
        self.kernel = KERNEL_6_12 if config.kernel == "6.12" else KERNEL_5_0
        plan = _plan_of(config)
        layout = plan.layout
        self.clock = VirtualClock(CostTable(**plan.costs), seed)
        lists = len(layout) * (NR_PAGE_ORDERS * MIGRATE_TYPES + config.vcpus * NR_PCP_LISTS)
        self.pages = Pages(max(zone.end_pfn for zone in layout), lists)
        self.irqs_off_until_ns = memoryview(array.array("q", [0] * config.vcpus))
        self.zones = [self._zone(index, zone, empty) for index, zone in enumerate(layout)]
        # What boot visited is no longer in any CPU's cache.
        numpy.asarray(self.pages.pageblock_cpu).fill(-1)
        for zone, row in zip(self.zones, plan.reserves, strict=True):
            for number, pages in row:
                zone.lowmem_reserve[number] = pages
        self.backing = Backing(
            self.clock,
            self.pages.page_count,
            [(zone.start_pfn, zone.spanned_pages) for zone in layout],
            config.host.granule == "2MiB",
            sample_ns,
        )
        vcpus = [self._vcpu(plan, number, tapes[number]) for number in range(config.vcpus)]
        self.simulation = Simulation(
            self.clock,
            self.pages,
            self.zones,
            vcpus,
            self.backing,
            self.kernel,
            slots,
            latencies=latencies,
        )

    def _zone(self, index: int, config: ZoneConfig, empty: bool) -> Zone:
        lock = LockTimeline(
            self.clock, f"lock of zone {config.name} node {config.node}", self.irqs_off_until_ns
        )
        lock.of_zone = True
        zone = Zone(
            self.pages,
            self.clock,
            self.kernel,
            config.start_pfn,
            config.end_pfn,
            name=config.name,
            index=index,
            number=config.number,
            node=config.node,
            lock=lock,
        )
        if empty:
            zone.set_managed(config.managed)
        else:
            zone.add_memory(config.end_pfn - config.managed, config.managed)
        zone.set_watermarks(
            low=config.watermark_low or 0,
            high=config.watermark_high or 0,
            minimum=config.watermark_min or 0,
        )
        return zone

    def _vcpu(self, plan: _Plan, number: int, tape: Iterator[Any]) -> Vcpu:
        pcps = []
        for zone, bounds in zip(self.zones, plan.pcp_bounds, strict=True):
            pcp = PerCpuPages(self.pages, zone, number)
            pcp.free_high_batch = bounds.free_high_batch
            pcp.configure(bounds.batch, bounds.high_min, bounds.high_max)
            pcps.append(pcp)
        zonelist = [self.zones[index] for index in plan.zonelists[number]]
        return Vcpu(number, plan.nodes[number], zonelist, pcps, tape)


@dataclass(frozen=True, slots=True)
class _PcpBounds:
    """What bounds the per-CPU lists of a CPU and zone.

    Attributes:
        batch, high_min, high_max: in pages, as `pcp_bounds` says.
        free_high_batch: whether three batches fit the CPU's share of the caches.
    """

    batch: int
    high_min: int
    high_max: int
    free_high_batch: bool


@dataclass(frozen=True, slots=True)
class _Plan:
    """What follows from a guest's configuration alone.

    Attributes:
        layout: its zones, lowest addresses first.
        costs: the prices by name.
        reserves: by zone (highest zone number of an allocation, pages kept from it) where it keeps
            some.
        nodes: by CPU, its node.
        pcp_bounds: by zone, the same for every CPU.
        zonelists: by CPU, the zones' indices in the order of preference.
    """

    layout: tuple[ZoneConfig, ...]
    costs: dict[str, int]
    reserves: tuple[tuple[tuple[int, int], ...], ...]
    nodes: tuple[int, ...]
    pcp_bounds: tuple[_PcpBounds, ...]
    zonelists: tuple[tuple[int, ...], ...]


@lru_cache(maxsize=MOST_PLANS)
def _plan_of(config: GuestConfig) -> _Plan:
    """The plan of a guest; a check boots thousands of a few hundred configurations.

    Raises:
        GuestError: zones share the largest free block.
    """
    layout = tuple(sorted(config.layout(), key=lambda zone: zone.start_pfn))
    _check_alignment(layout)
    nodes = sorted({zone.node for zone in layout})
    of_cpu = tuple(nodes[cpu * len(nodes) // config.vcpus] for cpu in range(config.vcpus))
    kernel = KERNEL_6_12 if config.kernel == "6.12" else KERNEL_5_0
    return _Plan(
        layout=layout,
        costs=config.costs.model_dump(),
        reserves=tuple(
            tuple((number, pages) for number, pages in enumerate(row) if pages)
            for row in lowmem_reserves(layout)
        ),
        nodes=of_cpu,
        pcp_bounds=tuple(
            _pcp_bounds_in(
                zone, kernel, of_cpu.count(zone.node) or config.vcpus, config.cache_slice
            )
            for zone in layout
        ),
        zonelists=tuple(_zonelist(layout, node) for node in of_cpu),
    )


def _zonelist(layout: Sequence[ZoneConfig], node: int) -> tuple[int, ...]:
    """Own node first, then by distance; in a node from the highest zone down."""
    last = max(zone.node for zone in layout)

    def distance(index: int) -> tuple[int, int]:
        return (layout[index].node - node) % (last + 1), -layout[index].number

    return tuple(sorted(range(len(layout)), key=distance))


def _pcp_bounds_in(zone: ZoneConfig, kernel: int, local_cpus: int, cache_bytes: int) -> _PcpBounds:
    """The bounds of the lists of a zone, which so many CPUs of its node share."""
    batch, high_min, high_max = pcp_bounds(
        kernel, zone.managed, zone.watermark_low or 0, local_cpus
    )
    if kernel < KERNEL_6_12:
        return _PcpBounds(batch, high_min, high_max, False)
    high_max = max(zone.pcp_high_max or high_max, high_min)
    # zone_pcp_update_cacheinfo()
    return _PcpBounds(batch, high_min, high_max, cache_bytes // PAGE_SIZE > 3 * batch)


def _check_alignment(layout: Sequence[ZoneConfig]) -> None:
    """A block never crosses zones, so no two zones may share 4 MiB."""
    owners: dict[int, str] = {}
    for zone in layout:
        for group in (zone.start_pfn >> MAX_PAGE_ORDER, (zone.end_pfn - 1) >> MAX_PAGE_ORDER):
            label = f"{zone.name} of node {zone.node}"
            if owners.setdefault(group, label) != label:
                raise GuestError(
                    f"zones {owners[group]} and {label} share the 4 MiB at pfn"
                    f" {group << MAX_PAGE_ORDER:#x}: zones must begin and end on 4 MiB"
                )
