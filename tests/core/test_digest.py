"""The digest stands for the whole history: it sees every change, and nothing that is none."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hintbench
from hintbench.config.experiment import Experiment
from hintbench.config.guest import GuestConfig
from hintbench.core import BUILD
from hintbench.core.clock import Digest
from hintbench.matrix import run_experiment
from hintbench.plugins.finding import find_strategy, find_workload

from .driver import scaled

Event = tuple[int, int, int, int, int]
FIELDS = ("time_ns", "cpu", "kind", "pfn", "order")
MOST = (1 << 62, 255, 15, (1 << 31) - 1, 10)
LEAST = (0, -1, 1, 0, 0)

events = st.tuples(*(st.integers(least, most) for least, most in zip(LEAST, MOST, strict=True)))
histories = st.lists(events, min_size=1, max_size=20)


def digest_of(history: list[Event], seed: int = 1) -> str:
    digest = Digest(seed)
    for event in history:
        digest.record(*event)
    assert digest.events == len(history)
    return digest.hexadecimal()


@settings(max_examples=scaled(200), deadline=None, derandomize=True)
@given(histories, st.data())
def test_every_field_of_every_event_counts(history: list[Event], data: st.DataObject) -> None:
    expected = digest_of(history)
    for at, event in enumerate(history):
        for field, value in enumerate(event):
            other = data.draw(st.integers(LEAST[field], MOST[field]), FIELDS[field])
            if other != value:
                changed = [*history]
                changed[at] = (*event[:field], other, *event[field + 1 :])  # type: ignore[assignment]
                assert digest_of(changed) != expected


def test_neighbouring_values_have_digests_of_their_own() -> None:
    """Fields do not run into each other."""
    near = [(0, 1, 2, 3, 999), (-1, 0, 1, 7, 255), range(1, 16), (0, 1, 2, 255, 256), range(11)]
    digests = {digest_of([event]) for event in product(*near)}
    assert len(digests) == 5 * 5 * 15 * 5 * 11


@settings(max_examples=scaled(100), deadline=None, derandomize=True)
@given(histories)
def test_order_and_number_of_events_count(history: list[Event]) -> None:
    expected = digest_of(history)
    assert digest_of(history) == expected
    assert digest_of(history, seed=2) != expected
    assert digest_of([*history, history[-1]]) != expected
    assert digest_of(history[:-1]) != expected
    turned = history[::-1]
    assert (digest_of(turned) == expected) == (turned == history)


def test_a_digest_is_16_hexadecimal_digits() -> None:
    rng = random.Random(1)
    for _ in range(300):
        text = digest_of([(rng.randrange(1 << 40), 0, 1, rng.randrange(1 << 20), 0)])
        assert len(text) == 16
        assert int(text, 16) < 1 << 64


def test_a_known_history_keeps_its_digest() -> None:
    """On any machine, in any build; a deliberate change of the digest changes this too."""
    assert digest_of([]) == "01635f5558ff5c2e"
    assert digest_of([(12, 0, 3, 4096, 9), (1 << 40, -1, 8, 512, 10)]) == "b4798a3e85a52acc"


# Whole runs.

GUEST: dict[str, Any] = {"memory": 64 << 20, "vcpus": 2}
Cell = tuple[str, str, str]
CELLS: list[Cell] = [
    ("none", "churn", "6.12"),
    ("none", "zones", "5.0"),
    ("none", "page-fault1", "6.12"),
    ("percpu-array-v9", "bulk", "5.0"),
    ("percpu-array-v9", "repeat", "6.12"),
    ("bitmap-and-spin", "rand", "6.12"),
    ("bitmap-and-spin", "bulk", "5.0"),
    ("zone-confined-batching", "rand", "5.0"),
    ("zone-confined-batching", "slab", "6.12"),
    ("oracle", "bulk", "6.12"),
]
# So small that little memory is enough to have something reported.
PARAMETERS: dict[str, dict[str, Any]] = {
    "page-fault1": {"mapping_mib": 4},
    "bulk": {"order": 5},
    "repeat": {"order": 9},
    "rand": {"order": 4},
    "percpu-array-v9": {"min_order": 6, "threshold": 4, "array_entries": 16},
    "bitmap-and-spin": {"min_order": 9, "delay_ns": 100_000, "poll_ns": 50_000},
    "zone-confined-batching": {"min_order": 9, "threshold": 4, "delay_ns": 100_000},
}


def facts(strategy: str, workload: str, kernel: str, seed: int = 5) -> dict[str, Any]:
    """All that a small run tells but the time it took."""
    tape = find_workload(workload)(
        operations=600, final_idle_ns=10_000_000, **PARAMETERS.get(workload, {})
    )
    told = find_strategy(strategy)(**PARAMETERS.get(strategy, {}))
    result = hintbench.run(told, tape, GuestConfig(kernel=kernel, **GUEST), seed)
    return result.model_dump(mode="json", include={"digest", "metrics", "violations"})


def facts_of_all_cells() -> list[dict[str, Any]]:
    return [facts(*cell) for cell in CELLS]


SCRIPT = """
import json, sys
sys.path[:0] = {paths!r}
from core.test_digest import BUILD, facts_of_all_cells
print(json.dumps([BUILD, facts_of_all_cells()]))
"""


@cache
def facts_elsewhere(core: str | None) -> tuple[str, list[dict[str, Any]]]:
    """The cells in a process of its own, with a build of the core; which build that was."""
    tests = Path(__file__).resolve().parent.parent
    package = Path(hintbench.__file__).resolve().parent.parent
    environment = {key: value for key, value in os.environ.items() if key != "HINTBENCH_CORE"}
    if core is not None:
        environment["HINTBENCH_CORE"] = core
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SCRIPT.format(paths=[str(package), str(tests)])],
        env={**environment, "PYTHONHASHSEED": "77"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    build, found = json.loads(done.stdout)
    return build, found


@pytest.fixture(scope="module")
def here() -> list[dict[str, Any]]:
    return facts_of_all_cells()


def test_a_run_repeats_itself(here: list[dict[str, Any]]) -> None:
    assert facts_of_all_cells() == here
    assert len({each["digest"] for each in here}) == len(CELLS)
    assert facts(*CELLS[0], seed=6)["digest"] != here[0]["digest"]


def test_most_of_these_runs_report_something(here: list[dict[str, Any]]) -> None:
    for (strategy, _, _), each in zip(CELLS, here, strict=True):
        assert (strategy == "none") == (each["metrics"]["reported_blocks"] == 0)


def test_another_process_has_the_same_history(here: list[dict[str, Any]]) -> None:
    build, found = facts_elsewhere(os.environ.get("HINTBENCH_CORE"))
    assert build == BUILD
    assert found == here


@pytest.mark.parametrize("core", ["interpreted", None])
def test_another_build_has_the_same_history(core: str | None, here: list[dict[str, Any]]) -> None:
    """The interpreted core beside the compiled one, and that beside the checked one."""
    build, found = facts_elsewhere(core)
    if build == BUILD:
        pytest.skip(f"this is the {build} core, as it is here")
    assert found == here


def test_the_number_of_workers_changes_nothing() -> None:
    experiment = Experiment.model_validate(
        {
            "strategies": [{"name": "none"}, {"name": "bitmap-and-spin"}],
            "workloads": [
                {"name": "bulk", "parameters": {"order": 4, "operations": 600}},
                {"name": "rand", "parameters": {"order": 5, "operations": 600}},
            ],
            "seeds": [1, 2],
            "guest": GUEST,
        }
    )
    found = []
    for jobs in (1, 2):
        outcomes = run_experiment(experiment, jobs)
        assert all(outcome.failure is None for outcome in outcomes), outcomes
        found.append([outcome.result and outcome.result.digest for outcome in outcomes])
    assert found[0] == found[1]
    assert len(set(found[0])) == 8
