"""The suite that other people's plugins run under pytest."""

import re
import subprocess
import sys
import textwrap

import pytest

from hintbench.testing.rules import RULES
from program import run_pytest


def test_one_broken_rule_fails_one_test(tmp_path):
    (tmp_path / "test_slow.py").write_text(
        textwrap.dedent(
            """
            from dataclasses import replace
            from hintbench.strategies.zone_confined_batching import ZoneConfinedBatching
            from hintbench.testing import StrategyConformance


            class Slow(ZoneConfinedBatching):
                name = "slow"

                def claims(self):
                    return replace(super().claims(), liveness_bound_ns=1)


            class TestSlow(StrategyConformance):
                strategy = Slow
                schedules = 20
            """
        )
    )
    done = run_pytest("-q", "-rs", cwd=tmp_path)
    assert "slow breaks liveness" in done.stdout
    assert re.search(r"^1 failed, 1 passed, \d+ skipped", done.stdout, re.MULTILINE)
    assert re.search(r"slow: not broken in \d+ schedules, after which another", done.stdout)


def test_the_suite_takes_a_function_and_its_parameters(tmp_path):
    (tmp_path / "test_mine.py").write_text(
        textwrap.dedent(
            """
            from hintbench.strategies.bitmap_and_spin import BitmapAndSpin
            from hintbench.testing import StrategyConformance

            made = []


            def make(**given):
                made.append(given)
                return BitmapAndSpin(**{**BitmapAndSpin.check_parameters, **given})


            class TestMine(StrategyConformance):
                strategy = make
                parameters = {"batch": 3}
                schedules = 10


            def test_it_was_called_with_them():
                assert made
                assert all(given == {"batch": 3} for given in made)
            """
        )
    )
    done = run_pytest("-q", "-k", "explored or with_them or locked-lists", cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    assert "3 passed" in done.stdout


def test_seed_nought_is_a_seed(tmp_path):
    (tmp_path / "test_mine.py").write_text(
        textwrap.dedent(
            """
            from hintbench.strategies.bitmap_and_spin import BitmapAndSpin
            from hintbench.testing import StrategyConformance


            class TestMine(StrategyConformance):
                strategy = BitmapAndSpin
                schedules = 4

                def test_seed(self, hintbench_check):
                    assert hintbench_check.seed == 0
            """
        )
    )
    done = run_pytest("-q", "-k", "seed", "--hintbench-seed", "0", cwd=tmp_path)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("option", "value"),
    [("schedules", "0"), ("schedules", "x"), ("seconds", "0"), ("seconds", "nan"), ("seed", "-1")],
)
def test_the_suites_options_are_read_strictly(option, value, tmp_path):
    done = run_pytest(f"--hintbench-{option}={value}", cwd=tmp_path)
    assert done.returncode == 4
    assert f"'{value}' is not a number" in done.stderr


def test_where_counterexamples_go_is_a_folder(tmp_path):
    (tmp_path / "file").touch()
    done = run_pytest("--hintbench-save=file", cwd=tmp_path)
    assert done.returncode == 4
    assert "'file' is not a folder" in done.stderr


@pytest.mark.parametrize("what", ["'bitmap-and-spin'", "7", "dict", "None"])
def test_what_is_no_strategy_is_told_in_one_sentence(what, tmp_path):
    (tmp_path / "test_mine.py").write_text(
        textwrap.dedent(
            f"""
            from hintbench.testing import StrategyConformance


            class TestMine(StrategyConformance):
                strategy = {what}
            """
        )
    )
    done = run_pytest("-q", "-k", "something", cwd=tmp_path)
    assert done.returncode == 1
    assert "set `strategy` to the class of the strategy that is to be checked" in done.stdout
    assert "Traceback" not in done.stdout
    assert "conformance.py" not in done.stdout


def test_the_suite_by_name(tmp_path):
    done = run_pytest(
        *("--pyargs", "hintbench.testing.suite", "--strategy", "zone-confined-batching"),
        *("--hintbench-schedules", "40", "--strict-markers"),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stdout
    # It guards no state by a lock of its own.
    assert f"{len(RULES)} passed, 1 skipped" in done.stdout
    # What is waited for, before anything is.
    assert "explores for up to 20 s: zone-confined-batching\n" in done.stdout


def test_the_suite_as_a_class_under_xdist(tmp_path):
    (tmp_path / "test_mine.py").write_text(
        "from hintbench.testing import StrategyConformance\n"
        "from hintbench.strategies.bitmap_and_spin import BitmapAndSpin\n\n\n"
        "class TestMine(StrategyConformance):\n"
        "    strategy = BitmapAndSpin\n"
        "    schedules = 30\n"
    )
    done = run_pytest("-q", "-n", "2", "--strict-markers", cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    # Nor has it any state of each CPU.
    assert f"{len(RULES) - 1} passed, 2 skipped" in done.stdout


def test_a_suite_that_checked_nothing_fails(tmp_path):
    (tmp_path / "test_lazy.py").write_text(
        textwrap.dedent(
            '''
            from hintbench import Claims, Strategy
            from hintbench.testing import StrategyConformance


            class Lazy(Strategy):
                """Claims much and does nothing."""

                name = "lazy"
                declared_failures = {"locked-lists": "not shown by anything"}

                def claims(self):
                    return Claims(min_order=9, liveness_bound_ns=1_000_000)


            class TestLazy(StrategyConformance):
                strategy = Lazy
                schedules = 10
            '''
        )
    )
    done = run_pytest("-q", cwd=tmp_path)
    assert done.returncode == 1
    assert "reported nothing" in done.stdout
    assert "declares to break locked-lists, but none of" in done.stdout
    assert "lazy breaks liveness" in done.stdout


def test_without_a_strategy_the_suite_refuses(tmp_path):
    done = run_pytest("--pyargs", "hintbench.testing.suite", cwd=tmp_path)
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "--strategy NAME" in done.stderr


WRONG_STRATEGIES = [
    ("bitmap-and-spn", "did you mean 'bitmap-and-spin'?"),
    ("absent.py", "no such file"),
    ("broken.py", "broken.py:1: SyntaxError"),
    ("no.such.module:X", "cannot be imported"),
    ("bitmap-and-spin,batch=0", "batch"),
]


@pytest.mark.parametrize(("strategy", "message"), WRONG_STRATEGIES)
def test_a_strategy_that_is_none_is_one_usage_error(strategy, message, tmp_path):
    (tmp_path / "broken.py").write_text("def (:\n")
    done = run_pytest(
        "--pyargs", "hintbench.testing.suite", "--strategy", strategy, "-q", cwd=tmp_path
    )
    assert done.returncode == pytest.ExitCode.USAGE_ERROR, done.stdout
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith(f"ERROR: --strategy {strategy}: ")
    assert message in line
    assert "Traceback" not in done.stdout


def test_beside_other_tests_it_is_one_error_too(tmp_path):
    (tmp_path / "test_other.py").write_text("def test_other(): pass\n")
    done = run_pytest(
        *("test_other.py", "--pyargs", "hintbench.testing.suite", "--strategy", "nnoe", "-q"),
        cwd=tmp_path,
    )
    assert done.returncode != 0
    assert "unknown strategy 'nnoe'" in done.stdout
    assert "1 error in" in done.stdout


def test_the_plugin_loads_nothing_heavy():
    code = (
        "import sys, hintbench.testing.plugin;"
        "heavy = {'numpy', 'pydantic', 'hintbench.runner', 'hintbench.named_run'};"
        "assert not heavy & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
