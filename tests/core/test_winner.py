"""The tournament tree that says whose turn it is, beside min()."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hintbench.core.clock import Winner
from hintbench.core.constants import NEVER
from hintbench.core.simulation import Simulation

from .driver import Bench, Setup, scaled, zone_config

ZONES = (zone_config("Normal", 0, 4096, marks=(0, 0, 0)),)


def simulation_of(vcpus: int) -> Simulation:
    """A simulation in which no vCPU has anything to do."""
    simulation = Bench(Setup(ZONES, vcpus=vcpus)).simulation
    for number in range(vcpus):
        simulation.set_clock(number, NEVER)
    return simulation


@pytest.mark.parametrize("vcpus", [1, 2, 3, 4, 5, 7, 8, 9, 31, 64, 100, 256])
def test_the_lowest_clock_wins_and_ties_go_to_the_lowest_number(vcpus: int) -> None:
    simulation = simulation_of(vcpus)
    clocks = [NEVER] * vcpus
    rng = random.Random(vcpus)
    for _ in range(scaled(2000, 4)):
        number = rng.randrange(vcpus)
        clocks[number] = rng.choice((NEVER, rng.randrange(8), rng.randrange(1 << 54)))
        simulation.set_clock(number, clocks[number])
        assert simulation.clock_of(number) == clocks[number]
        assert simulation.winner.first() == clocks.index(min(clocks))


@settings(max_examples=scaled(100, 4), deadline=None, derandomize=True)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=20))
def test_turns_come_in_the_order_of_the_clocks(clocks: list[int]) -> None:
    """Taking the winner out again and again sorts, stably."""
    simulation = simulation_of(len(clocks))
    for number, clock in enumerate(clocks):
        simulation.set_clock(number, clock)
    turns = []
    for _ in clocks:
        turns.append(simulation.winner.first())
        simulation.set_clock(turns[-1], NEVER)
    assert turns == sorted(range(len(clocks)), key=lambda number: clocks[number])


def test_nobody_runs_before_the_start() -> None:
    winner = Winner(5)
    assert list(winner.keys) == [NEVER] * winner.leaves
    assert winner.first() == 0
    assert winner.leaves == 8


def test_a_clock_that_cannot_be_told_from_never_is_refused() -> None:
    """Below the clock stands the vCPU's number, so the fewer vCPUs, the later a clock may be."""
    simulation = simulation_of(256)
    simulation.set_clock(3, NEVER >> 8)
    assert simulation.winner.first() == 3
    with pytest.raises(OverflowError, match="too late"):
        simulation.set_clock(3, (NEVER >> 8) + 1)
