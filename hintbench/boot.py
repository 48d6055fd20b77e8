"""Booting a guest: zones, watermarks, per-CPU lists and vCPUs from a configuration."""

from __future__ import annotations

import array
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy

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
from hintbench.layout import lowmem_reserves

if TYPE_CHECKING:
    from hintbench.config import GuestConfig
    from hintbench.layout import ZoneConfig

MIN_PERCPU_PAGELIST_HIGH_FRACTION = 8
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
    """

    def __init__(
        self,
        config: GuestConfig,
        tapes: Sequence[Iterator[Any]],
        slots: int,
        seed: int,
        sample_ns: int = 0,
        empty: bool = False,
    ) -> None:
        self.config = config
        self.empty = empty
        self.kernel = KERNEL_6_12 if config.kernel == "6.12" else KERNEL_5_0
        layout = sorted(config.layout(), key=lambda zone: zone.start_pfn)
        _check_alignment(layout)
        self.clock = VirtualClock(CostTable(**config.costs.model_dump()), seed)
        lists = len(layout) * (NR_PAGE_ORDERS * MIGRATE_TYPES + config.vcpus * NR_PCP_LISTS)
        self.pages = Pages(max(zone.end_pfn for zone in layout), lists)
        self.irqs_off_until_ns = memoryview(array.array("q", [0] * config.vcpus))
        self.zones = [self._zone(index, zone, empty) for index, zone in enumerate(layout)]
        self._reserve(layout)
        present = [(zone.start_pfn, zone.spanned_pages) for zone in layout]
        self.backing = Backing(
            self.clock,
            self.pages.page_count,
            present,
            config.host.granule == "2MiB",
            sample_ns,
        )
        vcpus = [self._vcpu(number, layout, tapes[number]) for number in range(config.vcpus)]
        self.simulation = Simulation(
            self.clock, self.pages, self.zones, vcpus, self.backing, self.kernel, slots
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
        # What boot visited is no longer in any CPU's cache.
        numpy.asarray(self.pages.pageblock_cpu).fill(-1)
        return zone

    def _reserve(self, layout: Sequence[ZoneConfig]) -> None:
        for zone, row in zip(self.zones, lowmem_reserves(layout), strict=True):
            for number, pages in enumerate(row):
                zone.lowmem_reserve[number] = pages

    def _vcpu(self, number: int, layout: Sequence[ZoneConfig], tape: Iterator[Any]) -> Vcpu:
        nodes = sorted({zone.node for zone in layout})
        node = nodes[number * len(nodes) // self.config.vcpus]
        local = {
            each: sum(
                nodes[cpu * len(nodes) // self.config.vcpus] == each
                for cpu in range(self.config.vcpus)
            )
            for each in nodes
        }
        pcps = []
        for zone in self.zones:
            pcp = PerCpuPages(self.pages, zone, number)
            cpus = local[zone.node] or self.config.vcpus
            batch, high_min, high_max = pcp_bounds(
                self.kernel, zone.managed_pages, zone.watermark_low, cpus
            )
            if self.kernel >= KERNEL_6_12:
                high_max = max(layout[zone.index].pcp_high_max or high_max, high_min)
                # zone_pcp_update_cacheinfo()
                cache_pages = self.config.cache_slice // PAGE_SIZE
                pcp.free_high_batch = cache_pages > 3 * batch
            pcp.configure(batch, high_min, high_max)
            pcps.append(pcp)
        # Zonelist: own node first, then by distance; in a node from the highest zone down.
        order = sorted(nodes, key=lambda other: (other - node) % (nodes[-1] + 1))
        zonelist = [
            zone
            for each in order
            for zone in sorted(self.zones, key=lambda zone: -zone.number)
            if zone.node == each
        ]
        return Vcpu(number, node, zonelist, pcps, tape)


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
