"""Several vCPUs at once, memory always short: everything interleaves, nothing breaks."""

from __future__ import annotations

import random

import pytest

from hintbench import operations
from hintbench.config.guest import GuestConfig
from hintbench.core.machine import run_tapes
from hintbench.guest.validation import validate
from hintbench.operations import Flag, OperationBlock
from hintbench.runner import Run

from .driver import SLOTS, Fed, Nothing, scaled, zone_config
from .setups import MIB

ZONES = (
    zone_config("DMA", 1, 4095, managed=3000),
    zone_config("DMA32", 4096, 8 * MIB),
    zone_config("Normal", 8192, 12 * MIB),
    zone_config("Normal", 16384, 8 * MIB, node=1),
    zone_config("Movable", 20480, 4 * MIB, node=1),
)
HOW = (
    Flag(0),
    Flag.ZERO,
    Flag.TOUCHED,
    Flag.ATOMIC,
    Flag.NORETRY | Flag.ZERO,
    Flag.MOVABLE_ZONE | Flag.ZERO,
    Flag.DMA32,
    Flag.DMA,
    Flag.NO_KSWAPD | Flag.NORETRY,
    Flag.COMPOUND | Flag.TOUCHED,
)


def tapes(rng: random.Random, vcpus: int, count: int) -> list[OperationBlock]:
    """Allocations that live long, freed here or by the next vCPU; together more than there is."""
    found = []
    handed: list[int] = []
    slots = iter(range(SLOTS))
    for vcpu in range(vcpus):
        parts: list[OperationBlock] = []
        live: list[int] = []
        others, handed = handed, []
        for _ in range(count):
            slot = next(slots)
            order = rng.choice((0,) * 6 + (1, 2, 3, 4, 6, 9, 9, 10))
            kind = rng.choice((0, 1, 1, 1, 2))
            parts.append(
                operations.allocate(slot, order=order, migratetype=kind, flags=rng.choice(HOW))
            )
            (handed if vcpu + 1 < vcpus and rng.random() < 0.2 else live).append(slot)
            if live and rng.random() < 0.3:
                # Not what was handed over: that may be freed by now.
                parts.append(operations.touch(rng.choice(live)))
            while live and rng.random() < 0.3:
                parts.append(operations.free(live.pop(rng.randrange(len(live)))))
            if others and rng.random() < 0.3:
                parts.append(operations.free(others.pop(0)))
            if rng.random() < 0.05:
                parts.append(operations.idle(rng.randrange(300_000_000)))
        parts += [operations.free(slot) for slot in others]
        found.append(operations.concatenate(parts))
    return found


@pytest.mark.parametrize("kernel", ["5.0", "6.12"])
@pytest.mark.parametrize("seed", range(3))
def test_many_vcpus_under_pressure(seed: int, kernel: str) -> None:
    vcpus = 4
    fed = Fed()
    config = GuestConfig(zones=ZONES, kernel=kernel, vcpus=vcpus)
    run = Run(Nothing(), fed, config, seed)
    simulation = run.machine.simulation
    count = scaled(900)
    for feed, tape in zip(fed.feeds, tapes(random.Random(seed), vcpus, count), strict=True):
        feed.blocks.append(tape)
    run.threads.start()
    simulation.begin_vcpus(0)
    assert run_tapes(simulation)
    assert simulation.allocations + simulation.failed == vcpus * count
    assert simulation.failed
    assert validate(run.machine) == []
    assert run.guest.violations == {}
    pages = run.machine.pages
    used = [pfn for pfn in simulation.slot_pfns() if pfn >= 0]
    assert simulation.allocations - simulation.frees == len(used)
    orders = [pages.state[pfn] & 15 for pfn in used]
    managed = sum(zone.managed_pages for zone in run.machine.zones)
    # What the zones do not manage is in use for ever.
    reserved = sum(zone.end_pfn - zone.start_pfn for zone in run.machine.zones) - managed
    in_use = run.machine.backing.used.value - reserved
    assert in_use == sum(1 << order for order in orders)
    assert not any(zone.lock.held for zone in run.machine.zones)
    free = sum(zone.free_pages for zone in run.machine.zones)
    on_pcp = sum(pcp.count for vcpu in simulation.vcpus for pcp in vcpu.pcps)
    assert free + on_pcp + in_use == managed
