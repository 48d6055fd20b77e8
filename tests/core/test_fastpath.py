"""The fast paths change nothing but the time that a run takes: tapes with them and without."""

from __future__ import annotations

import random
from dataclasses import replace
from functools import cache
from typing import Any

import pytest

from hintbench.core.constants import MANY_VCPUS
from hintbench.core.hooks import CoreHooks, HookPoint
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
FEW, MOST = 0.04, 0.8
"""How many allocations are of higher orders."""
HOOKS = ("none", "puts back", "own pages", "all")


@cache
def tape(
    cpu: int, count: int, live_at_most: int, share: float, orders: tuple[int, ...]
) -> OperationBlock:
    """Order 0 and higher ones, and now and then what no fast path can do."""
    rng = random.Random(cpu)
    live: list[int] = []
    parts = []
    for slot in range(cpu * count, (cpu + 1) * count):
        rare = rng.random() < share
        parts.append(
            allocate(
                slot,
                order=rng.choice(orders) if rare else 0,
                migratetype=rng.randrange(3),
                flags=rng.choice(OTHER if rng.random() < 0.1 else PLAIN) | Flag.NORETRY,
            )
        )
        live.append(slot)
        if rare and rng.random() < 0.04 / share:
            parts.append(rng.choice((touch(live[0]), compute(rng.randrange(3000)))))
        while live and (len(live) > live_at_most or rng.random() < 0.49):
            parts.append(free(live.pop(rng.randrange(len(live)))))
    return concatenate(parts)


def facts(bench: Bench) -> dict[str, Any]:
    """All that a run leaves behind."""
    simulation: Simulation = bench.simulation
    counters = ("operations", "allocations", "frees", "failed", "progress", "clearing")
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
        "zones": [
            (zone.free_counts(), zone.below_high, zone.visits, zone.isolations, zone.refusals)
            for zone in simulation.zones
        ],
        "locks": [
            (zone.lock.takes_of, zone.lock.wait_ns, zone.lock.hold_ns, zone.lock.longest_hold_ns)
            for zone in simulation.zones
        ],
        "interrupts off": [zone.lock.longest_irqs_off_ns for zone in simulation.zones],
        "taken": list(simulation.taken_by_order),
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


def hooks_of(bench: Bench, which: str) -> CoreHooks:
    """Hooks of a strategy that waits for nothing."""
    clock = bench.machine.clock
    hooks = CoreHooks()

    def spend(*arguments: Any) -> None:
        clock.now += 30 + len(arguments)

    def puts_back(
        guest: Any, cpu: int, zone: Any, pfn: int, order: int, freed: Any, origin: int
    ) -> None:
        clock.now += 7
        block = zone.isolate(pfn)
        if block is not None:
            zone.put_back(block)

    def own_pages(
        guest: Any, cpu: int, zone: Any, pfn: int, order: int, freed: Any, origin: int
    ) -> None:
        block = zone.hold(0) if pfn & 2 else None
        if block is not None:
            zone.let_go(block)

    if which == "puts back":
        hooks.block_freed = HookPoint("block_freed", puts_back, 2, None, 3)
    if which == "own pages":
        # From inside, it is called again, for the block that it lets go itself.
        hooks.block_freed = HookPoint("block_freed", own_pages, 4)
    if which == "all":
        for name in ("page_freeing", "page_allocated", "free_completed"):
            setattr(hooks, name, HookPoint(name, spend, 1, None, 2))
        hooks.block_merged = HookPoint("block_merged", spend, 3)
        hooks.block_taken = HookPoint("block_taken", spend, 3)
    return hooks


def run(
    name: str,
    kernel: str,
    tapes: tuple[int, float, tuple[int, ...]],
    *,
    fast: bool,
    which: str = "none",
    vcpus: int = 0,
    count: int = 1500,
) -> dict[str, Any]:
    chosen = setup(name, kernel)
    bench = Bench(replace(chosen, vcpus=vcpus or chosen.vcpus))
    bench.simulation.fast_path = fast
    if which != "none":
        hooks = hooks_of(bench, which)
        bench.simulation.hooks = hooks
        for zone in bench.simulation.zones:
            zone.hooks = hooks
    for cpu, feed in enumerate(bench.feeds):
        feed.blocks.append(tape(cpu, scaled(count, slower=6), *tapes))
    assert run_tapes(bench.simulation)
    return facts(bench)


@both_kernels
@pytest.mark.parametrize("name", SETUPS)
@pytest.mark.parametrize("live_at_most", [40, 100_000])
def test_the_fast_path_changes_nothing(name: str, kernel: str, live_at_most: int) -> None:
    tapes = (live_at_most, FEW, (1, 2, 3, 9))
    assert run(name, kernel, tapes, fast=True) == run(name, kernel, tapes, fast=False)


@both_kernels
@pytest.mark.parametrize("vcpus", [MANY_VCPUS, MANY_VCPUS + 7, 2 * MANY_VCPUS + 1])
def test_of_many_vcpus_the_next_is_fetched_ahead(vcpus: int, kernel: str) -> None:
    guests = {"vcpus": vcpus, "count": 100}
    tapes = (8, FEW, (1, 2, 3))
    fast = run("one zone", kernel, tapes, fast=True, **guests)
    assert fast == run("one zone", kernel, tapes, fast=False, **guests)
    assert fast["counters"]["allocations"] > scaled(50, slower=6) * vcpus


@both_kernels
@pytest.mark.parametrize("name", SETUPS)
@pytest.mark.parametrize("which", HOOKS)
def test_the_path_of_higher_orders_changes_nothing(name: str, kernel: str, which: str) -> None:
    tapes = (12, MOST, (1, 2, 4, 5, 8, 9, 10))
    fast = run(name, kernel, tapes, fast=True, which=which)
    assert fast == run(name, kernel, tapes, fast=False, which=which)
    assert sum(fast["taken"][4:]) > 0
