"""The core beside an independent, slow model: the same lists after every operation."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hintbench import operations
from hintbench.core.freeing import run_drain
from hintbench.core.machine import run_tapes
from hintbench.core.vcpu import Drain
from hintbench.guest.validation import validate
from hintbench.operations import OperationBlock
from reference.guest import Request
from reference.lists import HIGHATOMIC, MOVABLE, RECLAIMABLE, UNMOVABLE

from .driver import Bench, Setup, scaled, zone_config
from .player import Player, play
from .setups import KERNELS, RESERVED_TYPES, SETUPS, both_kernels, setup


@both_kernels
@pytest.mark.parametrize("name", SETUPS)
def test_random_operations(name: str, kernel: str) -> None:
    play(Bench(setup(name, kernel)), seed=1, steps=scaled(1500))


@both_kernels
def test_random_operations_beside_a_reserve(kernel: str) -> None:
    zones = SETUPS["all types"]["zones"]
    play(Bench(Setup(zones, kernel, types=RESERVED_TYPES)), seed=1, steps=scaled(1500))


@pytest.mark.long
@both_kernels
@pytest.mark.parametrize("seed", range(2, 8))
@pytest.mark.parametrize("name", SETUPS)
def test_many_random_operations(name: str, seed: int, kernel: str) -> None:
    play(Bench(setup(name, kernel)), seed=seed, steps=scaled(6000))


@pytest.mark.long
@both_kernels
@pytest.mark.parametrize("seed", range(2, 8))
def test_many_random_operations_beside_a_reserve(seed: int, kernel: str) -> None:
    zones = SETUPS["all types"]["zones"]
    play(Bench(Setup(zones, kernel, types=RESERVED_TYPES)), seed=seed, steps=scaled(6000))


@st.composite
def guests(draw: st.DrawFn) -> Setup:
    """Small guests of one or two zones, with every kind of per-CPU list and watermark."""
    kernel = draw(st.sampled_from(KERNELS))
    zones = []
    start = 0
    for name in draw(st.sampled_from((("Normal",), ("DMA32", "Normal"), ("Normal", "Movable")))):
        pages = draw(st.integers(1200, 4096))
        first = start + draw(st.sampled_from((0, 0, 1, 300)))
        least = draw(st.integers(0, 60))
        marks = (least, least + draw(st.integers(0, 60)), least + draw(st.integers(60, 200)))
        zones.append(zone_config(name, first, pages, marks=draw(st.sampled_from((marks, None)))))
        start = (first + pages + 2047) & ~1023
    kinds = (UNMOVABLE, MOVABLE, RECLAIMABLE, HIGHATOMIC)
    types = draw(st.dictionaries(st.integers(0, start // 512 - 1), st.sampled_from(kinds)))
    batch = draw(st.sampled_from((1, 3, 7, 31)))
    # As zone_set_pageset_high_and_batch() would have it.
    least = batch * (6 if kernel == "5.0" else draw(st.integers(4, 8)))
    most = least if kernel == "5.0" else least + draw(st.integers(0, 20 * batch))
    return Setup(
        tuple(zones),
        kernel,
        draw(st.integers(1, 2)),
        types,
        draw(st.sampled_from((None, (batch, least, most)))),
        draw(st.booleans()),
    )


requests = st.builds(
    Request,
    st.sampled_from((0, 0, 0, *range(11))),
    st.sampled_from((UNMOVABLE, MOVABLE, RECLAIMABLE)),
    st.integers(1, 3),
    st.booleans(),
    st.just(False),
)
places = st.integers(0, 1 << 16)
actions = st.one_of(
    st.tuples(st.just("allocate"), requests, st.integers(1, 60)),
    st.tuples(st.just("free"), places, st.integers(1, 60)),
    st.tuples(st.just("isolate"), places, st.integers(0, 10)),
    st.tuples(st.just("put back"), places, st.booleans()),
    st.tuples(st.just("background"), places, st.booleans()),
)


def act(bench: Bench, action: tuple[str, Any, Any]) -> None:
    """One action; what a number points at depends on what there is."""
    name, what, how = action
    if name == "allocate":
        for number in range(how):
            bench.allocate(number % bench.setup.vcpus, what)
            bench.compare()
    elif name == "free":
        for number in range(how):
            if bench.slots:
                slots = list(bench.slots)
                bench.free(number % bench.setup.vcpus, slots[what % len(slots)])
                bench.compare()
    elif name == "isolate":
        index = what % len(bench.zones)
        blocks = bench.zones[index].free_blocks(how)
        if blocks:
            bench.isolate(index, blocks[what % len(blocks)].pfn)
    elif name == "put back":
        if bench.isolated:
            bench.put_back(what % len(bench.isolated), how)
    elif how:
        bench.decay(what % bench.setup.vcpus)
    else:
        bench.kswapd()
    bench.compare()


@settings(
    max_examples=scaled(60),
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
@given(guests(), st.lists(actions, max_size=30))
def test_any_operations_in_any_guest(guest: Setup, plan: list[tuple[str, Any, Any]]) -> None:
    bench = Bench(guest)
    bench.compare()
    for action in plan:
        act(bench, action)
    assert validate(bench.machine) == []


# Not only step by step.


def recorded(seed: int, count: int) -> OperationBlock:
    """A tape that allocates and frees at random; it does not wait for itself."""
    rng = random.Random(seed)
    live: list[int] = []
    parts = []
    for slot in range(count):
        order = rng.choice((0,) * 8 + (1, 2, 3, 5, 9, 10))
        parts.append(
            operations.allocate(
                slot, order=order, migratetype=rng.randrange(3), flags=operations.Flag.NORETRY
            )
        )
        live.append(slot)
        while live and rng.random() < 0.48:
            parts.append(operations.free(live.pop(rng.randrange(len(live)))))
    return operations.concatenate(parts)


@both_kernels
def test_a_whole_tape_ends_where_its_single_operations_do(kernel: str) -> None:
    tape = recorded(3, scaled(1500))
    whole, single = (Bench(setup("one zone", kernel)) for _ in range(2))
    whole.feeds[0].blocks.append(tape)
    assert run_tapes(whole.simulation)
    pfns: dict[int, int | None] = {}
    for code, slot, order, migratetype in zip(
        tape.operation, tape.value, tape.order, tape.migratetype, strict=True
    ):
        if code == operations.Operation.ALLOCATE:
            request = Request(int(order), int(migratetype), may_block=False)
            pfns[int(slot)] = single.model.allocate(0, request)
        elif (pfn := pfns.pop(int(slot))) is not None:
            single.model.free(0, pfn)
    whole.model = single.model
    whole.compare()
    for at in range(len(tape)):
        part = slice(at, at + 1)
        single.run(0, OperationBlock(tape.code[part], tape.value[part], tape.time_ns[part]))
    single.compare()
    digests = [each.machine.clock.digest.hexadecimal() for each in (whole, single)]
    assert digests[0] == digests[1]


# vmstat, without the thread that drives it.


@pytest.mark.parametrize("name", ["small lists", "large lists", "high watermarks"])
def test_decay_drains_in_pieces_of_a_batch(name: str) -> None:
    bench = Bench(setup(name, "6.12"))
    player = Player(bench, random.Random(7))
    decayed = 0
    for _ in range(scaled(60)):
        for _ in range(5):
            player.step()
        for vcpu, row in zip(bench.simulation.vcpus, bench.model.pcps, strict=True):
            for pcp, other in zip(vcpu.pcps, row, strict=True):
                holds = other.holds
                takes = pcp.zone.lock.takes
                left = pcp.decay()
                while left > 0:
                    drain = Drain()
                    with pcp.zone.lock:
                        drain.begin(pcp, min(left, pcp.batch), 0)
                        assert run_drain(bench.simulation, drain)
                    left -= pcp.batch
                other.decay()
                assert pcp.zone.lock.takes - takes == other.holds - holds
                decayed += other.holds - holds
        bench.compare()
    assert decayed
