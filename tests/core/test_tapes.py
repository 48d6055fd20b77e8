"""How a vCPU reads its tape: in pieces that nobody can tell."""

from __future__ import annotations

from typing import Any

import numpy
import pytest

from hintbench.core.machine import run_tapes
from hintbench.operations import (
    Operation,
    OperationBlock,
    allocate,
    compute,
    concatenate,
    encode,
    free,
    idle_until,
)

from .driver import Bench
from .setups import setup

PIECE = 2048


def tape() -> OperationBlock:
    """Of more than three pieces; its times begin in the second."""
    rounds = [allocate(numpy.arange(9)), compute(numpy.arange(40, 47)), free(numpy.arange(9))]
    many = rounds * (PIECE // 25 + 3)
    timed = [idle_until(900_000 + 77 * numpy.arange(20))]
    return concatenate([*many, *timed, *many, *timed, *many, *rounds])


def run(*blocks: OperationBlock) -> tuple[Any, ...]:
    """Where the tape ends."""
    bench = Bench(setup("one zone", "6.12"))
    bench.feeds[0].blocks.extend(blocks)
    assert run_tapes(bench.simulation)
    simulation = bench.simulation
    return (
        bench.machine.clock.digest.hexadecimal(),
        simulation.operations,
        simulation.last_ns,
        simulation.progress,
        simulation.vcpus[0].idle_ns,
    )


@pytest.mark.parametrize("size", [1, 500, PIECE - 1, PIECE, PIECE + 1, 2 * PIECE])
def test_it_does_not_matter_where_blocks_end(size: int) -> None:
    whole = tape()
    assert len(whole) > 3 * PIECE
    blocks = [
        OperationBlock(
            whole.code[at : at + size], whole.value[at : at + size], whole.time_ns[at : at + size]
        )
        for at in range(0, len(whole), size)
    ]
    assert run(*blocks) == run(whole)


def test_arrays_with_gaps_and_arrays_that_nobody_may_write() -> None:
    whole = tape()
    gaps = [numpy.repeat(each, 2)[::2] for each in (whole.code, whole.value, whole.time_ns)]
    for each in gaps:
        each.setflags(write=False)
    assert run(OperationBlock(*gaps)) == run(whole)


@pytest.mark.parametrize("before", [0, 1, PIECE - 3])
def test_a_recorded_lock_hold_is_not_cut_where_a_piece_ends(before: int) -> None:
    count = PIECE + 500
    bench = Bench(setup("one zone", "6.12"))
    computes = compute(numpy.ones(before, dtype=numpy.int64))
    codes = numpy.full(count, encode(Operation.TAKE), dtype=numpy.uint32)
    pfns = numpy.arange(count, dtype=numpy.int32)
    takes = OperationBlock(codes, pfns, numpy.zeros(count, dtype=numpy.int64))
    bench.feeds[0].blocks.append(concatenate([computes, takes]))
    assert run_tapes(bench.simulation)
    (zone,) = bench.simulation.zones
    assert zone.lock.takes == 1
    assert bench.simulation.operations == count
