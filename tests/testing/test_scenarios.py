"""Scenarios, counterexamples and shrinking."""

import json
import random
import re
import subprocess
import sys

import numpy as np
import pytest

from hintbench.errors import ResultFileError
from hintbench.operations import Operation
from hintbench.strategy import Strategy
from hintbench.testing.counterexamples.files import (
    Counterexample,
    SavedScenario,
    read_counterexample,
    save_counterexample,
    source_hash,
)
from hintbench.testing.counterexamples.shrinking import shrink
from hintbench.testing.counterexamples.stories import describe_violation, tell
from hintbench.testing.exploration import explore, run_scenario
from hintbench.testing.rules import RULES
from hintbench.testing.scenarios.dice import Dice
from hintbench.testing.scenarios.families import (
    OPERATIONS,
    draw_scenario,
    full_scenario,
    tiny_scenario,
)
from hintbench.testing.subjects import Subject

SEEDS = range(40)


def test_dice_draw_what_python_draws():
    dice, python = Dice(7), random.Random(7)
    for size in (*range(1, 70), 1 << 20, 4_000_000):
        for name, arguments in (
            ("randint", (-3, size)),
            ("randrange", (size,)),
            ("randrange", (2, 2 + size)),
            ("choice", (range(size),)),
            ("random", ()),
            ("getrandbits", (3,)),
        ):
            assert getattr(dice, name)(*arguments) == getattr(python, name)(*arguments)
    for name, arguments in (("randint", (2, 1)), ("randrange", (0,)), ("choice", ((),))):
        with pytest.raises((ValueError, IndexError)):
            getattr(dice, name)(*arguments)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_scenario_follows_from_its_seed(seed):
    one, other = draw_scenario(seed), draw_scenario(seed)
    assert SavedScenario.of(one) == SavedScenario.of(other)
    assert len(one.operations) >= OPERATIONS
    assert SavedScenario.of(draw_scenario(seed + 1_000)) != SavedScenario.of(one)


@pytest.mark.parametrize("seed", SEEDS)
def test_every_free_comes_after_its_allocation(seed):
    operations = draw_scenario(seed).operations
    kinds = operations.code & 15
    at = np.arange(len(operations))
    allocated = {int(operations.value[i]): i for i in at[kinds == Operation.ALLOCATE]}
    frees = at[kinds == Operation.FREE]
    assert len(frees) > 100
    assert all(allocated[int(operations.value[i])] < i for i in frees)


def test_no_scenario_hangs_or_fails_without_a_strategy():
    assert explore(Strategy, range(60), stop=False).error is None
    for scenario in (tiny_scenario(1, ("6.12",)), full_scenario(1, ("5.0",))):
        outcome = run_scenario(Strategy, scenario)
        assert (outcome.error, outcome.counts) == ("", {})


def test_one_scenario_has_one_digest_in_other_processes_too():
    here = run_scenario(Subject("bitmap-and-spin").maker(), draw_scenario(11)).digest
    code = (
        "from hintbench.testing.exploration import run_scenario\n"
        "from hintbench.testing.scenarios.families import draw_scenario\n"
        "from hintbench.testing.subjects import Subject\n"
        "print(run_scenario(Subject('bitmap-and-spin').maker(), draw_scenario(11)).digest)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == here


@pytest.fixture(scope="module")
def found():
    """The posted v9, refuted."""
    make = Subject("percpu-array-v9").maker()
    exploration = explore(make, range(1, 40), stop=False)
    key = ("locked-lists", "")
    violation, scenario = exploration.found[key]
    return make, key, violation, scenario


def test_a_violation_says_who_when_and_where(found):
    _, _, violation, _ = found
    assert violation.line.startswith("percpu_array_v9.py:")
    assert "_release" in violation.line
    assert violation.time_ns > 0
    assert "without the lock" in violation.text


def test_an_allocation_that_fails_is_told_in_the_kernels_words(found):
    make = found[0]
    outcomes = (run_scenario(make, draw_scenario(seed), frozenset(RULES)) for seed in range(1, 40))
    key = "no-false-oom", ""
    violation = next(each.violations[key] for each in outcomes if key in each.violations)
    assert re.search(r"order \d+ \(GFP_KERNEL(\|__GFP_[A-Z]+)*\) fails while", violation.text)


def test_shrinking_keeps_the_violation_and_only_makes_smaller(found):
    make, key, _, scenario = found
    small = shrink(make, scenario, key, seconds=3.0)
    assert small.size < scenario.size / 4
    assert key in run_scenario(make, small, stop_at=key).violations


def test_a_story_is_numbered_and_ends_with_the_violation(found):
    make, key, _, scenario = found
    lines, outcome = tell(make, scenario, key)
    assert "locked-lists: put_back of pfn" in lines[-1]
    described = describe_violation(outcome.violations[key])
    assert described[0].startswith("broken: locked-lists (S)")


@pytest.fixture
def saved(found, tmp_path):
    make, key, violation, scenario = found
    outcome = run_scenario(make, scenario, frozenset({"atomic-context"}), stop_at=key)
    path = tmp_path / "example.json"
    Counterexample(
        strategy="percpu-array-v9",
        source=source_hash(make),
        rule=key[0],
        kind=key[1],
        text=violation.text,
        digest=outcome.digest,
        scenario=SavedScenario.of(scenario),
    ).write(path)
    return path


def test_a_counterexample_comes_back_whole(saved, found):
    again = read_counterexample(saved).scenario.scenario()
    assert SavedScenario.of(again) == SavedScenario.of(found[3])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content.update(seed=1), "was edited"),
        (lambda content: content["scenario"].update(seed=99), "checksum"),
        (lambda content: content.update(hintbench="0.0.1"), "was written by hintbench 0.0.1"),
        (lambda content: content.update(counterexample=7), "schema 7"),
        (lambda content: content.pop("counterexample"), "is not a counterexample"),
        (lambda content: content["scenario"].update(operations=[[1]]), "was edited"),
    ],
)
def test_a_file_that_was_changed_is_refused(saved, change, message):
    content = json.loads(saved.read_text())
    change(content)
    saved.write_text(json.dumps(content))
    with pytest.raises(ResultFileError, match=message):
        read_counterexample(saved)


def test_what_is_no_counterexample_is_refused(tmp_path):
    with pytest.raises(ResultFileError, match="cannot be read"):
        read_counterexample(tmp_path / "missing.json")
    for text in ("{", "[" * 100_000):
        (tmp_path / "text").write_text(text)
        with pytest.raises(ResultFileError, match="not JSON"):
            read_counterexample(tmp_path / "text")


def test_no_counterexample_is_a_hidden_file(saved, tmp_path):
    example = read_counterexample(saved).model_copy(update={"strategy": "../mine.py,batch=1"})
    assert save_counterexample(example, tmp_path).name.startswith("mine.py-locked-lists-")
