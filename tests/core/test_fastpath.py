"""The fast path changes nothing but the time that a run takes: tapes with it and without."""

from __future__ import annotations

import random
from typing import Any

import pytest

from hintbench.core.machine import run_tapes
from hintbench.core.simulation import Simulation
from hintbench.operations import Flag, OperationBlock, allocate, compute, concatenate, free, touch

from .driver import Bench, scaled
from .setups import both_kernels, setup

SETUPS = ["one zone", "four zones", "two nodes", "all types", "small lists", "high watermarks"]
PLAIN = (
    Flag(0),
    Flag.ZERO,
    Flag.TOUCHED,
    Flag.ATOMIC,
    Flag.MOVABLE_ZONE | Flag.TOUCHED,
    Flag.COMPOUND | Flag.ZERO,
)
OTHER = (Flag.SLAB, Flag.DMA32)


def tape(cpu: int, count: int, live_at_most: int) -> OperationBlock:
    """Order 0 for the most part, and now and then what only the other path can do."""
    rng = random.Random(cpu)
    live: list[int] = []
    parts = []
    for slot in range(cpu * count, (cpu + 1) * count):
        rare = rng.random() < 0.04
        parts.append(
            allocate(
                slot,
                order=rng.choice((1, 2, 3, 9)) if rare else 0,
                migratetype=rng.randrange(3),
                flags=rng.choice(OTHER if rng.random() < 0.1 else PLAIN) | Flag.NORETRY,
            )
        )
        live.append(slot)
        if rare:
            parts.append(rng.choice((touch(live[0]), compute(rng.randrange(3000)))))
        while live and (len(live) > live_at_most or rng.random() < 0.49):
            parts.append(free(live.pop(rng.randrange(len(live)))))
    return concatenate(parts)


def facts(bench: Bench) -> dict[str, Any]:
    """All that a run leaves behind."""
    simulation: Simulation = bench.simulation
    counters = ("operations", "allocations", "frees", "touches", "failed", "progress", "clearing")
    return {
        "digest": bench.machine.clock.digest.hexadecimal(),
        "events": bench.machine.clock.digest.events,
        "clocks": (bench.machine.clock.now, simulation.last_ns),
        "slots": simulation.slot_pfns().tolist(),
        "counters": {name: getattr(simulation, name) for name in counters},
        "bulks": [simulation.count_bulks(which) for which in ("refills", "drains")],
        "latencies": [
            (simulation.latencies.histogram(None, cause), simulation.latencies.max_ns(None, cause))
            for cause in range(6)
        ],
        "used": (simulation.backing.used.value, simulation.backing.used.page_seconds(1 << 40)),
        "zones": [(zone.free_counts(), zone.below_high, zone.visits) for zone in simulation.zones],
        "pcps": [
            (
                [pcp.pages_of(pindex) for pindex in range(14)],
                (pcp.count, pcp.high, pcp.alloc_factor, pcp.free_count),
                pcp.previous_free_high_order,
            )
            for vcpu in simulation.vcpus
            for pcp in vcpu.pcps
        ],
    }


def run(name: str, kernel: str, live_at_most: int, fast: bool) -> dict[str, Any]:
    bench = Bench(setup(name, kernel))
    bench.simulation.fast_path = fast
    for cpu, feed in enumerate(bench.feeds):
        feed.blocks.append(tape(cpu, scaled(1500, slower=6), live_at_most))
    assert run_tapes(bench.simulation)
    return facts(bench)


@both_kernels
@pytest.mark.parametrize("name", SETUPS)
@pytest.mark.parametrize("live_at_most", [40, 100_000])
def test_the_fast_path_changes_nothing(name: str, kernel: str, live_at_most: int) -> None:
    assert run(name, kernel, live_at_most, fast=True) == run(name, kernel, live_at_most, fast=False)
