"""`hintbench.run`: one simulation from Python, as the README shows it."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import hintbench
from hintbench import GuestConfig, Result, Strategy, hookimpl
from hintbench.config.defaults import STRATEGIES
from hintbench.errors import HintbenchError, PluginError, UnknownNameError
from hintbench.plugins.finding import find_strategy, find_workload, load_plugin

ROOT = Path(__file__).parents[1]
SMALL = GuestConfig(memory=256 << 20, vcpus=2)


def small(workload: str, **parameters: object) -> hintbench.Workload:
    """A workload of a few thousand operations, with little idle time at the end."""
    return find_workload(workload)(operations=5_000, final_idle_ns=300_000_000, **parameters)


def test_result_is_typed_and_complete() -> None:
    result = hintbench.run("none", small("churn"), SMALL, seed=3)
    assert isinstance(result, Result)
    assert (result.strategy, result.workload, result.seed) == ("none", "churn", 3)
    assert result.metrics["operations"] >= 5_000
    assert re.fullmatch("[0-9a-f]{16}", result.digest)
    assert result.guest["memory"] == 256 << 20
    assert result.violations == {}


# The unit that a name ends with, and the names of plain numbers: each must be one or the other.
UNITS = {
    r".+_ns": "virtual nanoseconds",
    r".+_bytes": "bytes",
    r"(footprint|reclaimed|retained(_\w+)?)_gib_s": "GiB times seconds",
    r".+_ops_s": "operations a virtual second",
    r".+_ratio|refault_ratio_\d+_s": "a share or a quotient",
    r".+_ns_per_gib": "virtual nanoseconds for each GiB reclaimed",
    r"(discards|host_calls|vcpu_kicks)_per_gib": "a number for each GiB reclaimed",
    r"(strategy_)?lock_takes_per_(batch|reported_block)": "a number for each batch or block",
}
COUNTS = {
    *(
        "installs",
        "operations",
        "allocations",
        "frees",
        "refaults",
        "discards",
        "host_calls",
        "vcpu_kicks",
    ),
    *("failed_allocations", "blocking_failures", "nonblocking_failures", "false_ooms", "stalls"),
    *("slow_paths", "kswapd_wakes", "isolation_refusals", "dropped_hints", "refused_reports"),
    *("reported_batches", "reported_blocks", "free_blocks_order9_end", "lock_contended"),
    *("lock_takes", "strategy_lock_takes", "strategy_empty_lock_takes"),
    *(f"lock_takes_{payer}" for payer in ("thread", "task", "interrupt", "hook", "kernel")),
    *("exact_waits", "exact_taken_again", "exact_returned_again"),
}


def test_names_of_metrics_carry_their_unit() -> None:
    for name in hintbench.run("none", small("churn"), SMALL).metrics:
        units = [unit for pattern, unit in UNITS.items() if re.fullmatch(pattern, name)]
        assert len(units) + (name in COUNTS) == 1, f"{name}: {units or 'no unit'}"


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("workload", ["churn", "slab", "zones", "repeat"])
def test_every_strategy_runs_and_ends_in_order(strategy: str, workload: str) -> None:
    result = hintbench.run(strategy, small(workload), SMALL)
    allowed = {"percpu-array-v9": {"locked-lists", "atomic-context", "completion-once", "teardown"}}
    assert set(result.violations) <= allowed.get(strategy, set())


def test_class_instance_and_name_are_the_same() -> None:
    found = find_strategy("zone-confined-batching")
    digests = {
        hintbench.run(each, small("churn"), SMALL).digest
        for each in ("zone-confined-batching", found, found())
    }
    assert len(digests) == 1


def test_same_seed_same_digest_other_seed_other_digest() -> None:
    first, second, other = (
        hintbench.run("bitmap-and-spin", small("churn"), SMALL, seed=seed).digest
        for seed in (5, 5, 6)
    )
    assert first == second != other


def test_digest_is_the_same_in_another_process() -> None:
    program = (
        "import hintbench; from hintbench.plugins.finding import find_workload as f;"
        "w = f('churn')(operations=5000, final_idle_ns=300000000);"
        "g = hintbench.GuestConfig(memory=256 << 20, vcpus=2);"
        "print(hintbench.run('percpu-array-v9', w, g, seed=2).digest)"
    )
    seen = {
        subprocess.run(
            [sys.executable, "-c", program],
            check=True,
            capture_output=True,
            text=True,
            env={"PYTHONHASHSEED": seed, "PATH": ""},
        ).stdout.strip()
        for seed in ("0", "77")
    }
    here = hintbench.run("percpu-array-v9", small("churn"), SMALL, seed=2).digest
    assert seen == {here}


@pytest.mark.parametrize("strategy", [each for each in STRATEGIES if each != "none"])
def test_attached_but_off_is_none(strategy: str) -> None:
    off = hintbench.run(strategy, small("zones"), SMALL, attached_but_off=True)
    assert off.digest == hintbench.run("none", small("zones"), SMALL).digest


def test_strategies_take_back_what_none_leaves() -> None:
    retained = {
        name: hintbench.run(name, find_workload("memhog")(), "default").metrics["retained_gib_s"]
        for name in STRATEGIES
    }
    assert retained["oracle"] < retained["bitmap-and-spin"] < retained["percpu-array-v9"]
    assert retained["percpu-array-v9"] < retained["none"]


def test_isolation_takes_the_lock_twice_a_batch_the_bit_once() -> None:
    bit, batching = (
        hintbench.run(name, find_workload("memhog")(), "default").metrics
        for name in ("bitmap-and-spin", "zone-confined-batching")
    )
    assert bit["lock_takes_per_batch"] < 1.2
    assert 1.9 < batching["lock_takes_per_batch"] < 2.3


def readme_strategy() -> str:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    return next(block for block in blocks if "class Mine" in block)


def test_strategy_of_the_readme_works(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(readme_strategy())
    load_plugin(str(path))
    result = hintbench.run("mine", small("churn"), SMALL)
    assert result.violations == {}
    assert result.metrics["reported_blocks"] > 50


def test_unknown_name_names_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'bitmap-and-spin'"):
        hintbench.run("bitmap-and-spn", small("churn"), SMALL)


class Careless(Strategy):
    """Raises in a hook that the core calls under the zone lock."""

    name = "careless"

    @hookimpl
    def block_freed(self, pfn: int) -> None:
        """Fail."""
        raise KeyError(pfn)


def test_exception_in_a_core_hook_names_plugin_hook_and_cause() -> None:
    with pytest.raises(PluginError, match=r"plugin 'careless': block_freed: KeyError"):
        hintbench.run(Careless, small("churn"), SMALL)


def test_names_come_with_parameters_as_on_the_command_line() -> None:
    given = hintbench.run(
        "zone-confined-batching,min_order=10", "churn,operations=5000,final_idle_ns=1000", SMALL
    )
    assert given.strategy_parameters["min_order"] == 10
    assert given.workload_parameters["operations"] == 5000
    sample = ROOT / "hintbench" / "data" / "sample-trace.txt.gz"
    replay = hintbench.run("none", f"trace:{sample}", "sample-trace")
    assert replay.workload_parameters["path"] == str(sample)


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"strategy": 3}, "strategy: 3 is none: pass a name, a subclass of Strategy"),
        ({"strategy": int}, "strategy: <class 'int'> is none"),
        ({"workload": None}, "workload: None is none"),
        ({"seed": "x"}, "seed: 'x' is not a whole number"),
        ({"seed": 1 << 63}, "is not a whole number in 0..9223372036854775807"),
        ({"strategy": "none,"}, "strategy 'none,' cannot be read"),
        ({"workload": "churn,operations=0"}, "operations"),
    ],
)
def test_wrong_arguments_are_refused(given: dict[str, Any], match: str) -> None:
    with pytest.raises(HintbenchError, match=match):
        hintbench.run(**{"workload": small("churn"), "guest": SMALL, **given})
