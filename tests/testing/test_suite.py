"""The suite that other people's plugins run under pytest."""

import re
import textwrap

import pytest

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
