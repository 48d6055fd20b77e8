"""`run -n SEEDS`: means and their intervals, in the table, in the file, and by themselves."""

import json

import pytest
from scipy import stats

from hintbench import cli
from hintbench.results.files import load_results
from hintbench.results.seeds import beyond_chance, chance_of, interval


class TestStatistics:
    def test_the_interval_is_students(self):
        values = [3, 5, 4, 8]
        expected = stats.t.interval(0.95, 3, stats.tmean(values), stats.sem(values))
        found = interval(values)
        assert found.mean == 5
        assert (found.low, found.high) == pytest.approx(expected)

    def test_equal_values_leave_no_doubt(self):
        assert interval([7, 7, 7]) == (7, 7, 7)

    def test_one_value_has_no_interval(self):
        with pytest.raises(ValueError, match="at least two"):
            interval([7])

    def test_the_chance_is_that_of_the_t_test(self):
        differences = [1.0, 2.0, 0.5, 1.5]
        assert chance_of(differences) == pytest.approx(stats.ttest_1samp(differences, 0).pvalue)
        assert chance_of([2, 2]) == 0
        assert chance_of([0, 0]) == 1

    def test_one_of_many_must_be_less_likely_than_one_alone(self):
        assert beyond_chance([0.04]) == [True]
        assert beyond_chance([0.04, *[0.9] * 9]) == [False] * 10
        assert beyond_chance([]) == []


SMALL = ["-s", "none", "-s", "bitmap-and-spin", "-w", "churn,operations=2000,final_idle_ns=1000000"]


@pytest.fixture
def run_main(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        fixed = ["--memory", "64MiB", "--vcpus", "1", "--jobs", "1"]
        status = cli.main(["run", *SMALL, *fixed, *arguments])
        return status, *capsys.readouterr()

    return run


class TestCommand:
    def test_the_file_has_every_seed_and_their_means(self, run_main, tmp_path):
        status, output, _ = run_main("-n", "3", "--json", "out.json")
        assert status == 0
        found = load_results(tmp_path / "out.json")
        assert [one.seed for one in found.results if one.strategy == "none"] == [1, 2, 3]
        none, spin = found.summaries
        assert (none.strategy, spin.strategy) == ("none", "bitmap-and-spin")
        assert spin.seeds == (1, 2, 3)
        busy = [one.metrics["busy_ns"] for one in found.results if one.strategy != "none"]
        mean = spin.metrics["busy_ns"]
        assert mean.mean == pytest.approx(sum(busy) / 3)
        expected = stats.t.interval(0.95, 2, stats.tmean(busy), stats.sem(busy))
        assert (mean.low, mean.high) == pytest.approx(expected)
        assert "±" in output
        assert "the mean of 3 seeds" in " ".join(output.split())

    def test_one_seed_has_no_interval(self, run_main, tmp_path):
        status, output, _ = run_main("-n", "1", "--json", "out.json")
        assert status == 0
        assert "±" not in output
        assert json.loads((tmp_path / "out.json").read_text())["summaries"] == []

    def test_seeds_begin_where_seed_says(self, run_main, tmp_path):
        assert run_main("-n", "2", "--seed", "40", "--json", "out.json")[0] == 0
        found = load_results(tmp_path / "out.json")
        assert [summary.seeds for summary in found.summaries] == [(40, 41)] * 2

    def test_a_narrow_terminal_shows_the_intervals_too(self, run_main, monkeypatch):
        monkeypatch.setenv("COLUMNS", "50")
        _, output, _ = run_main("-n", "3")
        assert "±" in output

    @pytest.mark.parametrize(
        ("arguments", "match"),
        [
            (["-n", "0"], "-n: '0' is not a number in 1..1000"),
            (["-n", "few"], "-n: 'few' is not a number in 1..1000"),
            (["-n", "2", "--seed", "1", "--seed", "2"], "-n and --seed: give the number"),
            (["-n", "2", "--seed", "x"], "--seed: 'x' is not a whole number"),
        ],
    )
    def test_wrong_numbers(self, run_main, arguments, match):
        status, output, error = run_main(*arguments)
        assert (status, output) == (2, "")
        assert match in error
        assert error.count("\n") == 1
