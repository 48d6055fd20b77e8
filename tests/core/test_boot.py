"""Watermarks, reserves and per-CPU limits of a booted guest are those of the kernel's formulas."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hintbench.config.guest import GuestConfig
from hintbench.config.layout import lowmem_reserves
from hintbench.core.constants import PCP
from hintbench.errors import GuestError
from hintbench.guest.boot import Machine, pcp_batch, pcp_bounds
from hintbench.guest.validation import validate
from reference.watermarks import ReferenceWatermarks, ZoneSize, pcp_limits, zone_batchsize

from .driver import scaled, zone_config
from .setups import MIB


def boot(config: GuestConfig) -> Machine:
    return Machine(config, [iter(()) for _ in range(config.vcpus)], 1, 1)


guests = st.builds(
    GuestConfig,
    memory=st.integers(16, 3000).map(lambda size: size * (4 << 20)),
    vcpus=st.integers(1, 9),
    kernel=st.sampled_from(("5.0", "6.12")),
    huge_pages=st.booleans(),
)


@settings(max_examples=scaled(40, 4), deadline=None, derandomize=True)
@given(guests)
def test_watermarks_and_reserves(config: GuestConfig) -> None:
    layout = sorted(config.layout(), key=lambda zone: zone.start_pfn)
    sizes = [ZoneSize(zone.number, zone.managed, zone.node) for zone in layout]
    expected = ReferenceWatermarks(sizes, config.kernel, config.huge_pages)
    for index, zone in enumerate(layout):
        marks = (zone.watermark_min, zone.watermark_low, zone.watermark_high)
        assert marks == expected.marks[index]
    reserves = [list(row) for row in lowmem_reserves(layout)]
    assert reserves == expected.lowmem_reserve


@settings(max_examples=scaled(8, 4), deadline=None, derandomize=True)
@given(
    st.sampled_from((128, 256, 512, 1024)),
    st.sampled_from(("5.0", "6.12")),
    st.sampled_from((1, 2)),
    st.sampled_from((0, 32)),
)
def test_a_booted_guest(mebibytes: int, kernel: str, nodes: int, movable: int) -> None:
    """What the arithmetic says is what the zones and lists have."""
    if nodes == 2 and mebibytes < 512:
        nodes = 1
    config = GuestConfig(
        memory=mebibytes << 20, kernel=kernel, nodes=nodes, movable=movable << 20, vcpus=2
    )
    machine = boot(config)
    assert validate(machine) == []
    layout = sorted(config.layout(), key=lambda zone: zone.start_pfn)
    sizes = [ZoneSize(zone.number, zone.managed, zone.node) for zone in layout]
    expected = ReferenceWatermarks(sizes, kernel, config.huge_pages)
    cpu_nodes = [vcpu.node for vcpu in machine.simulation.vcpus]
    for zone, marks, reserve in zip(
        machine.zones, expected.marks, expected.lowmem_reserve, strict=True
    ):
        assert (zone.watermark_min, zone.watermark_low, zone.watermark_high) == marks
        assert list(zone.lowmem_reserve) == reserve
        assert zone.free_pages == zone.managed_pages
        for vcpu in machine.simulation.vcpus:
            pcp = vcpu.pcps[zone.index]
            local = cpu_nodes.count(zone.node) or len(cpu_nodes)
            limits = pcp_limits(kernel, zone.managed_pages, marks[1], local)
            assert (pcp.batch, pcp.high_min, pcp.high_max) == limits


@settings(max_examples=scaled(300), deadline=None, derandomize=True)
@given(st.integers(1, 1 << 24), st.integers(0, 1 << 16), st.integers(1, 256))
def test_per_cpu_limits(managed: int, low: int, cpus: int) -> None:
    assert pcp_batch(managed) == max(1, zone_batchsize(managed))
    for number, kernel in enumerate(("5.0", "6.12")):
        assert pcp_bounds(number, managed, low, cpus) == pcp_limits(kernel, managed, low, cpus)


def test_zones_may_not_share_a_block_of_the_top_order() -> None:
    zones = (zone_config("DMA32", 0, 8 * MIB + 512), zone_config("Normal", 8 * MIB + 512, 2048))
    with pytest.raises(GuestError, match="share the 4 MiB"):
        boot(GuestConfig(zones=zones))


def test_recorded_pages_go_to_the_tails_of_their_lists():
    machine = boot(GuestConfig())
    lists = machine.simulation.vcpus[0].pcps[-1]
    before, first = lists.count, lists.zone.start_pfn
    pfns = np.array([first + 5, first + 3, first + 8, first + 512], dtype=np.int32)
    orders = np.array([0, 0, 3, 9], dtype=np.int8)
    lists.load(pfns, orders, np.array([1, 1, 0, 1], dtype=np.int8))
    # order_to_pindex(): three types an order, and behind them huge pages that are movable.
    assert [lists.pages_of(index) for index in (1, 9, 13)] == [
        [first + 5, first + 3],
        [first + 8],
        [first + 512],
    ]
    assert lists.count - before == 1 + 1 + 8 + 512
    states = [machine.pages.state[pfn] for pfn in pfns.tolist()]
    assert states == [PCP, PCP, PCP | 3, PCP | 9]


def test_recorded_pages_that_the_guest_does_not_have_are_refused():
    lists = boot(GuestConfig()).simulation.vcpus[0].pcps[-1]
    none = np.zeros(1, dtype=np.int8)
    with pytest.raises(ValueError, match="is no page of the guest"):
        lists.load(np.array([1 << 30], dtype=np.int32), none, none)
    with pytest.raises(ValueError, match="equally long"):
        lists.load(np.zeros(2, dtype=np.int32), none, none)
