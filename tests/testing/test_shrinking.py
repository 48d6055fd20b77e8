"""The shrinker reaches what is known to be the least, and handfuls are small to begin with."""

from __future__ import annotations

import statistics

import numpy as np
import pytest

from hintbench.operations import Flag, Migratetype, Operation, encode
from hintbench.plugins.finding import find_strategy
from hintbench.testing.counterexamples.shrinking import shrink, shrink_within
from hintbench.testing.counterexamples.stories import tell
from hintbench.testing.exploration import explore_handfuls, run_scenario
from hintbench.testing.mutants import MUTANTS
from hintbench.testing.rules import RULES
from hintbench.testing.scenarios.families import draw_scenario
from hintbench.testing.scenarios.handfuls import handful_scenario
from hintbench.testing.scenarios.scenario import Fault, Operations, Scenario, join
from hintbench.testing.schedules.preemption import Preemption

V9 = find_strategy("percpu-array-v9")


def v9():
    return V9(**V9.check_parameters)


def blocks(slots, order, *, frees=True):
    """Allocate blocks on CPU 0, and free them."""
    slots = np.array(slots)
    code = int(encode(Operation.ALLOCATE, order, Migratetype.MOVABLE, int(Flag.TOUCHED)))
    codes = np.full(len(slots) * (1 + frees), int(encode(Operation.FREE)), dtype=np.uint32)
    codes[: len(slots)] = code
    zeros = np.zeros(len(codes), dtype=np.int64)
    values = np.concatenate([slots, slots] if frees else [slots]).astype(np.int32)
    return Operations(zeros.astype(np.int8), codes, values, zeros)


def seeded(noise: int) -> Scenario:
    """A residue of one block that v9 never tells, among many pages that nobody frees."""
    drawn = handful_scenario(1, ["6.12"])
    return drawn.but(
        operations=join([blocks(range(1, 1 + noise), 0, frees=False), blocks([0], 9)]),
        preemptions=(Preemption(0, 5, 1_000), Preemption(1, 3, 2_000)),
        faults=(Fault("host-stalls", 1, 5_000), Fault("interrupt", 1_000, 4, 0)),
        settle=True,
    )


def test_a_seeded_counterexample_shrinks_to_the_least():
    key = "liveness", "untold"
    scenario = seeded(60)
    assert key in run_scenario(v9, scenario, frozenset(RULES), stop_at=key).violations
    small = shrink(v9, scenario, key, seconds=30)
    # An allocation that splits a block, and its free, if that is needed at all.
    assert small.size <= 2
    assert not small.preemptions
    assert not small.faults
    assert key in run_scenario(v9, small, frozenset(RULES), stop_at=key).violations


def test_what_is_small_stays_as_it_is():
    key = "liveness", "untold"
    small = shrink(v9, seeded(0).but(preemptions=(), faults=()), key, seconds=30)
    again = shrink_within(v9, small, key, seconds=30)
    assert again.scenario.size == small.size
    assert not again.late


def test_without_time_nothing_shrinks():
    scenario = seeded(10)
    shrunk = shrink_within(v9, scenario, ("liveness", "untold"), seconds=-1.0)
    assert shrunk.scenario is scenario
    assert shrunk.late


def test_a_handful_is_that_of_its_seed():
    for seed in range(40):
        one, two = (handful_scenario(seed, ("6.12", "5.0")) for _ in range(2))
        assert one.size == two.size < 120
        assert one.operations.code.tolist() == two.operations.code.tolist()
        assert (one.preemptions, one.faults, one.guest) == (two.preemptions, two.faults, two.guest)


def test_handfuls_refute_v9_in_a_few_steps():
    found = explore_handfuls(v9, range(300), stop=False)
    assert found.error is None
    assert set(found.counts) <= set(v9().declared_failures)
    assert {"locked-lists", "atomic-context", "liveness", "returned", "one-zone"} <= set(
        found.counts
    )
    sizes = [shrink(v9, scenario, key, 2.0).size for key, (_, scenario) in found.found.items()]
    assert statistics.median(sizes) <= 12


def digests(make, scenarios):
    return [run_scenario(make, scenario, frozenset(RULES)).digest for scenario in scenarios]


@pytest.mark.parametrize("name", ["bitmap-and-spin", "zone-confined-batching", "percpu-array-v9"])
def test_a_run_leaves_nothing_behind(name):
    kind = find_strategy(name)
    scenarios = [draw_scenario(seed, kind.kernels) for seed in range(3)]
    scenarios += [handful_scenario(seed, kind.kernels) for seed in range(20)]

    def make():
        return kind(**kind.check_parameters)

    first = digests(make, scenarios)
    assert digests(make, scenarios) == first
    # After another strategy, one that is stopped in the middle, and in the other order.
    digests(MUTANTS["frees-what-it-found"], scenarios)
    for scenario in scenarios:
        run_scenario(MUTANTS["sleeps-in-the-completion"], scenario)
    assert digests(make, scenarios[::-1])[::-1] == first


def test_a_crashed_run_leaves_nothing_behind():
    class Crashes(V9):
        def block_freed(self, guest, cpu, pfn, freed):
            raise RuntimeError("on purpose")

        block_freed.__dict__.update(V9.block_freed.__dict__)

    scenarios = [handful_scenario(seed, V9.kernels) for seed in range(20)]
    first = digests(v9, scenarios)
    errors = [
        run_scenario(lambda: Crashes(**V9.check_parameters), each).error for each in scenarios
    ]
    assert any("on purpose" in error for error in errors)
    assert digests(v9, scenarios) == first


def test_a_story_tells_of_no_other_rule():
    key = "teardown", "isolated"
    kinds = V9.kernels
    scenarios = (draw_scenario(seed, kinds) for seed in range(1, 200))
    for scenario in scenarios:
        outcome = run_scenario(v9, scenario, frozenset(RULES), stop_at=key)
        if key in outcome.violations and len(outcome.counts) > 1:
            break
    all_of_it = "\n".join(tell(v9, scenario, key, everything=True)[0])
    story = "\n".join(tell(v9, scenario, key)[0])
    others = [rule for rule in outcome.counts if rule != key[0]]
    assert any(f"{rule}: " in all_of_it for rule in others)
    assert not any(f"{rule}: " in story for rule in others)
    assert f"{key[0]}: " in story
