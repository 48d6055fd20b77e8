"""`hintbench compare`: which results belong together, and what differs for real."""

import json
import random

import pytest

import hintbench
from hintbench import cli
from hintbench.results.comparison import compare
from hintbench.results.directions import better, is_known
from hintbench.results.files import ResultFile
from hintbench.results.result import Result, with_ratios

METRICS = {"alloc_p99_ns": 1000, "reclaimed_gib_s": 2.0, "reported_blocks": 10, "false_ooms": 0}


def result(strategy="mine", workload="churn", seed=1, digest="0123456789abcdef", **changes):
    fields = {
        name: changes.pop(name)
        for name in ("violations", "guest", "strategy_parameters", "workload_parameters")
        if name in changes
    }
    fields.setdefault("guest", {"memory": 1 << 30, "costs": {"pcp_hit_ns": 10}})
    return Result(
        strategy=strategy,
        workload=workload,
        seed=seed,
        metrics={**METRICS, **changes},
        digest=digest,
        **fields,
    )


def file(*results):
    return ResultFile(hintbench="9.9.9", results=results)


def told(found):
    return {(one.cell, one.metric): one for one in found.differences}


class TestOneSeed:
    def test_what_is_the_same_is_not_shown(self):
        found = compare(file(result(), result("other")), file(result(), result("other")))
        assert (found.differences, found.other_events, found.notes) == ([], [], [])
        assert found.cells == ["mine on churn", "other on churn"]

    @pytest.mark.parametrize(
        ("metric", "value", "verdict", "ratio"),
        [
            ("alloc_p99_ns", 1001, "worse", 1.001),
            ("alloc_p99_ns", 500, "better", 0.5),
            ("reclaimed_gib_s", 3.0, "better", 1.5),
            ("reclaimed_gib_s", 1.0, "worse", 0.5),
            ("reported_blocks", 20, "changed", 2.0),
            ("false_ooms", 1, "worse", None),
            ("alloc_p99_ns", None, "changed", None),
        ],
    )
    def test_ratio_and_direction(self, metric, value, verdict, ratio):
        (one,) = compare(file(result()), file(result(**{metric: value}))).differences
        assert (one.cell, one.metric, one.verdict) == ("mine on churn", metric, verdict)
        assert (one.base, one.new) == (METRICS[metric], value)
        assert one.ratio == (pytest.approx(ratio) if ratio else None)
        assert one.half_width is None

    def test_a_newly_broken_rule_is_worse_and_a_mended_one_better(self):
        broken, right = file(result(violations={"returned": 3})), file(result())
        (worse,) = compare(right, broken).differences
        (mended,) = compare(broken, right).differences
        assert (worse.metric, worse.verdict, worse.base, worse.new) == (
            *("violations.returned", "worse", 0, 3),
        )
        assert (mended.verdict, mended.new) == ("better", 0)

    def test_other_events_with_the_same_metrics_are_told(self):
        found = compare(file(result()), file(result(digest="f" * 16)))
        assert (found.differences, found.other_events) == ([], ["mine on churn"])

    def test_the_largest_change_of_a_cell_stands_first(self):
        found = compare(file(result()), file(result(alloc_p99_ns=1100, reclaimed_gib_s=1.0)))
        assert [one.metric for one in found.differences] == ["reclaimed_gib_s", "alloc_p99_ns"]

    def test_patterns_choose_metrics(self):
        base, new = file(result()), file(result(alloc_p99_ns=1, reclaimed_gib_s=1.0))
        assert [one.metric for one in compare(base, new, ["alloc_*"]).differences] == [
            "alloc_p99_ns"
        ]
        with pytest.raises(hintbench.HintbenchError, match="'alloc' matches no metric"):
            compare(base, new, ["alloc"])

    def test_metrics_of_one_version_are_named_and_not_compared(self):
        found = compare(file(result(old_ns=1)), file(result(new_ns=2)))
        assert found.differences == []
        assert found.notes == [
            "metrics that only the base file has: old_ns",
            "metrics that only the new file has: new_ns",
        ]


class TestCells:
    def test_cells_of_one_file_are_named(self):
        found = compare(file(result(), result("gone")), file(result(), result("come")))
        assert (found.only_base, found.only_new) == (["gone on churn"], ["come on churn"])
        assert found.cells == ["mine on churn"]

    def test_nothing_in_common_is_an_error(self):
        with pytest.raises(hintbench.HintbenchError, match="nothing to compare"):
            compare(file(result("gone")), file(result("come")))
        with pytest.raises(hintbench.HintbenchError, match="nothing to compare"):
            compare(file(result(seed=1)), file(result(seed=2)))

    def test_parameters_tell_cells_apart_and_name_them(self):
        base, new = (
            file(*(result(strategy_parameters={"order": n, "same": 1}, x_ns=n * k) for n in (4, 9)))
            for k in (1, 2)
        )
        assert set(told(compare(base, new))) == {
            ("mine,order=4 on churn", "x_ns"),
            ("mine,order=9 on churn", "x_ns"),
        }

    def test_another_guest_is_another_cell(self):
        small, large = result(guest={"memory": 1}), result(guest={"memory": 2})
        found = compare(file(small, large), file(large))
        assert found.cells == ["mine on churn, guest memory=2"]
        assert found.only_base == ["mine on churn, guest memory=1"]

    def test_a_changed_default_is_compared_and_told(self):
        base, new = (
            file(
                result(strategy_parameters={"delay_ns": delay, "same": 1}, alloc_p99_ns=worse),
                result("other"),
            )
            for delay, worse in ((50, 1000), (200, 3000))
        )
        found = compare(base, new)
        assert [(one.metric, one.verdict) for one in found.differences] == [
            ("alloc_p99_ns", "worse")
        ]
        assert (found.only_base, found.only_new) == ([], [])
        assert found.notes == ["mine on churn: settings changed: mine.delay_ns 50 -> 200"]

    def test_a_setting_that_one_version_lacks_keeps_nothing_from_being_compared(self):
        newer = {"memory": 1 << 30, "costs": {"pcp_hit_ns": 10, "new_ns": 5}}
        found = compare(file(result()), file(result(guest=newer, alloc_p99_ns=1)))
        assert [one.metric for one in found.differences] == ["alloc_p99_ns"]
        (note,) = found.notes
        assert note.endswith("taken for equal: guest.costs.new_ns")


class TestSeeds:
    def both(self, before, after, **more):
        return compare(
            file(*(result(seed=seed, alloc_p99_ns=v) for seed, v in enumerate(before))),
            file(*(result(seed=seed, alloc_p99_ns=v, **more) for seed, v in enumerate(after))),
        )

    def test_what_chance_may_have_made_is_left_out_and_counted(self):
        found = self.both([100, 110, 90, 105], [101, 108, 92, 103])
        assert (found.differences, found.by_chance, found.seeds) == ([], 1, 4)

    def test_seeds_are_paired(self):
        # Far smaller than the spread over the seeds, but the same direction for every one.
        found = self.both([100, 200, 300, 400], [101, 202.1, 303, 404.1])
        (one,) = found.differences
        assert one.verdict == "worse"
        assert one.ratio == pytest.approx(1.0102, abs=1e-4)
        assert 0 < one.half_width < 0.01

    def test_the_order_of_the_seeds_is_nothing(self):
        base = file(*(result(seed=seed, alloc_p99_ns=seed) for seed in (1, 2, 3)))
        new = file(*(result(seed=seed, alloc_p99_ns=seed) for seed in (3, 1, 2)))
        assert compare(base, new).differences == []

    def test_the_interval_is_that_of_the_paired_t_test(self):
        from scipy import stats

        before, after = [100, 104, 98, 103], [111, 113, 110, 116]
        (one,) = self.both(before, after).differences
        interval = stats.ttest_rel(after, before).confidence_interval(0.95)
        assert one.half_width == pytest.approx((interval.high - interval.low) / 2 / 101.25)

    def test_many_tries_find_nothing_by_chance(self):
        draws = random.Random(1)
        base, new = (
            file(
                *(
                    result(seed=seed, **{f"m{k}_ns": draws.uniform(1, 2) for k in range(200)})
                    for seed in range(4)
                )
            )
            for _ in range(2)
        )
        found = compare(base, new)
        assert found.by_chance > 190
        assert len(found.differences) <= 2

    def test_seeds_of_one_file_only_are_told(self):
        base = file(*(result(seed=seed) for seed in (1, 2, 3)))
        found = compare(base, file(*(result(seed=seed) for seed in (2, 3, 4))))
        assert found.notes == ["mine on churn: only 2 of its seeds are in both files"]
        assert found.seeds == 2


class TestDirections:
    @pytest.mark.parametrize(
        ("workload", "guest"),
        [
            ("trace,exact=true,check=true", "sample-trace"),
            ("memhog,operations=2000", {"memory": "256MiB", "vcpus": 2}),
        ],
    )
    def test_every_metric_has_one_rule(self, workload, guest):
        found = hintbench.run(strategy="bitmap-and-spin", workload=workload, guest=guest)
        (ratios,) = with_ratios([found])
        assert [name for name in ratios.metrics if not is_known(name)] == []

    def test_some_directions(self):
        higher = ["throughput_ratio", "reclaimed_gib_s", "free_blocks_order9_end"]
        lower = ["alloc_p99_ns", "retained_gib_s", "lock_wait_hook_ns", "violations.returned"]
        neither = ["operations", "reported_bytes", "somebody_elses_metric"]
        assert {better(name) for name in higher} == {"higher"}
        assert {better(name) for name in lower} == {"lower"}
        assert {better(name) for name in neither} == {None}


class TestCommand:
    @pytest.fixture
    def compared(self, tmp_path, capsys, monkeypatch):
        monkeypatch.chdir(tmp_path)

        def run(base, new, *arguments):
            for name, content in (("base.json", base), ("new.json", new)):
                text = (
                    content if isinstance(content, str) else content.model_dump_json(by_alias=True)
                )
                (tmp_path / name).write_text(text)
            status = cli.main(["compare", "base.json", "new.json", *arguments])
            return status, *capsys.readouterr()

        return run

    def test_no_difference(self, compared):
        status, output, error = compared(file(result()), file(result()), "--fail-above", "0%")
        assert (status, error) == (0, "")
        assert output.endswith("\nno difference in 1 cell\n")

    def test_the_table(self, compared):
        new = file(result(alloc_p99_ns=1100, reclaimed_gib_s=2.5, reported_blocks=9))
        status, output, _ = compared(file(result(), result("gone")), new)
        assert status == 0
        lines = [" ".join(line.split()) for line in output.splitlines()]
        assert lines[:2] == [
            "base base.json (hintbench 9.9.9)",
            "new new.json (hintbench 9.9.9)",
        ]
        assert "mine on churn" in lines
        assert "alloc_p99_ns 1 µs 1.1 µs 1.1000 worse" in lines
        assert "reclaimed_gib_s 2 2.5 1.2500 better" in lines
        assert "reported_blocks 10 9 0.9000 changed" in lines
        assert "only in base: gone on churn" in lines
        assert "1 better, 1 worse, 1 changed, in 1 of 1 cell" in lines
        assert "false_ooms" not in output

    @pytest.mark.parametrize(
        ("changes", "limit", "status"),
        [
            ({"alloc_p99_ns": 1019}, "2%", 0),
            ({"alloc_p99_ns": 1021}, "2%", 1),
            ({"alloc_p99_ns": 1021}, "2.5 %", 0),
            ({"alloc_p99_ns": 500}, "2%", 0),
            ({"reclaimed_gib_s": 1.9}, "2%", 1),
            ({"reclaimed_gib_s": 9.0}, "2%", 0),
            ({"reported_blocks": 99}, "2%", 0),
            ({"false_ooms": 1}, "99%", 1),
            ({"violations": {"returned": 1}}, "99%", 1),
        ],
    )
    def test_fail_above(self, compared, changes, limit, status):
        found, _, error = compared(file(result()), file(result(**changes)), "--fail-above", limit)
        assert found == status
        assert (f"got worse by more than {limit}" in error) == bool(status)
        assert error.count("\n") == status

    def test_what_cannot_be_compared_does_not_pass_the_gate(self, compared):
        base, new = file(result(), result("gone")), file(result())
        assert compared(base, new)[0] == 0
        status, _, error = compared(base, new, "--fail-above", "2%")
        assert status == 1
        assert "1 cell of the base file cannot be compared" in error

    def test_several_seeds_show_their_interval(self, compared):
        base, new = (
            file(*(result(seed=seed, alloc_p99_ns=v) for seed, v in enumerate(values)))
            for values in ([100, 110, 90], [200, 211, 189])
        )
        status, output, _ = compared(base, new, "--fail-above", "50%")
        assert status == 1
        assert "±0.0248" in output
        assert "95 % of it" in output

    @pytest.mark.parametrize(
        ("content", "match"),
        [
            ("{", "new.json: not a result file"),
            ("[]", "new.json: not a result file"),
            ('{"schema": 7, "hintbench": "3.0"}', "schema 7 was written by hintbench 3.0"),
            ('{"schema": 1, "hintbench": "3.0"}', "new.json: results"),
            ('{"schema": 1, "hintbench": "3.0", "results": []}', "nothing to compare"),
            (json.dumps({"schema": 1, "hintbench": "1", "results": [{"seed": 1}]}), "results"),
        ],
    )
    def test_what_is_no_result_file_is_refused_in_a_sentence(self, compared, content, match):
        status, output, error = compared(file(result()), content)
        assert (status, output) == (2, "")
        assert match in error
        assert error.count("\n") == 1

    def test_a_missing_file_and_a_wrong_percentage(self, compared, capsys):
        assert cli.main(["compare", "absent.json", "absent.json"]) == 2
        assert "absent.json: cannot be read" in capsys.readouterr().err
        status, output, error = compared(file(result()), file(result()), "--fail-above", "2")
        assert (status, output) == (2, "")
        assert "--fail-above: '2' is not a percentage such as 2%" in error
