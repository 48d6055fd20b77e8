"""Results, their ratios, and the file that keeps them."""

import json
import os
import stat

import pytest

from hintbench.errors import ResultFileError
from hintbench.results import files
from hintbench.results.files import ResultFile, ResultWriter, load_results
from hintbench.results.result import Result, with_ratios


@pytest.fixture(autouse=True)
def version(monkeypatch):
    monkeypatch.setattr("hintbench.__version__", "9.9.9", raising=False)


def result(strategy="none", workload="churn", seed=1, throughput=100.0, **fields):
    metrics = {"throughput_ops_s": throughput, "alloc_p99_ns": 113}
    return Result(
        strategy=strategy,
        workload=workload,
        seed=seed,
        guest={"memory": 1 << 30},
        metrics=metrics | fields.pop("metrics", {}),
        digest="0123456789abcdef",
        **fields,
    )


class TestResult:
    def test_integers_stay_integers(self):
        found = result(metrics={"refaults": 3, "footprint_gib_s": 2.5, "ratio": None})
        assert type(found.metrics["refaults"]) is int
        assert type(found.metrics["footprint_gib_s"]) is float
        assert found.metrics["ratio"] is None

    def test_what_json_cannot_hold_does_not_apply(self):
        found = result(metrics={"ratio": float("nan"), "x": float("inf"), "y": -float("inf")})
        assert [found.metrics[name] for name in ("ratio", "x", "y")] == [None] * 3

    @pytest.mark.parametrize("digest", ["", "0123", "X" * 16, "0" * 17])
    def test_a_digest_is_16_hex_digits(self, digest):
        with pytest.raises(ValueError, match="digest"):
            Result(strategy="a", workload="b", seed=1, metrics={}, digest=digest)

    def test_violations_are_counted(self):
        assert result(violations={"returned": 2, "locked-lists": 3}).violation_count == 5


class TestRatios:
    def test_ratio_to_none_of_the_same_conditions(self):
        cells = [
            result("none", throughput=100.0),
            result("mine", throughput=90.0),
            result("mine", seed=2, throughput=90.0),
            result("mine", workload="bulk", throughput=90.0),
            result("mine", workload_parameters={"live": 2}, throughput=90.0),
        ]
        ratios = [one.metrics["throughput_ratio"] for one in with_ratios(cells)]
        assert ratios == [1.0, 0.9, None, None, None]

    def test_free_blocks_at_the_end_are_compared_too(self):
        cells = [
            result("none", metrics={"free_blocks_order9_end": 40}),
            result("mine", metrics={"free_blocks_order9_end": 30}),
            result("mine", seed=2, metrics={"free_blocks_order9_end": 30}),
        ]
        ratios = [one.metrics["free_blocks_order9_end_ratio"] for one in with_ratios(cells)]
        assert ratios == [1.0, 0.75, None]

    def test_no_division_by_nothing(self):
        cells = [result("none", throughput=0.0), result("mine", throughput=None)]
        assert [one.metrics["throughput_ratio"] for one in with_ratios(cells)] == [None, None]


class TestFile:
    def test_there_and_back(self, tmp_path):
        path = tmp_path / "results.json"
        cells = (result(), result("mine", violations={"returned": 1}, notes=["a µs"]))
        files.write_results(path, cells)
        assert load_results(path) == ResultFile(hintbench="9.9.9", results=cells)

    def test_the_documented_shape(self, tmp_path):
        path = tmp_path / "results.json"
        files.write_results(path, [result()])
        content = json.loads(path.read_text())
        assert (content["schema"], content["hintbench"]) == (1, "9.9.9")
        wanted = {"strategy", "workload", "seed", "guest", "metrics", "violations", "digest"}
        assert wanted <= content["results"][0].keys()

    @pytest.mark.parametrize(
        ("text", "match"),
        [
            ("", "not a result file"),
            ("[]", "has no entry 'schema'"),
            ('{"schema": 2, "hintbench": "3.0"}', "schema 2 was written by hintbench 3.0"),
            ('{"schema": 1, "hintbench": "1"}', "results: this entry is missing"),
            ('{"schema": 1, "hintbench": "1", "results": [{}]}', r"results\[0\]\.strategy"),
        ],
    )
    def test_what_is_no_result_file(self, tmp_path, text, match):
        path = tmp_path / "results.json"
        path.write_text(text)
        with pytest.raises(ResultFileError, match=match):
            load_results(path)

    def test_absent(self, tmp_path):
        with pytest.raises(ResultFileError, match="cannot be read"):
            load_results(tmp_path / "absent.json")

    def test_a_failing_write_keeps_the_old_file(self, tmp_path, monkeypatch):
        path = tmp_path / "results.json"
        path.write_text("old")

        def full(*_args, **_keywords):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("pathlib.Path.write_text", full)
        with pytest.raises(ResultFileError, match="No space left"):
            files.write_results(path, [result()])
        monkeypatch.undo()
        assert path.read_text() == "old"
        assert os.listdir(tmp_path) == ["results.json"]

    def test_a_link_stays_a_link(self, tmp_path):
        (tmp_path / "link.json").symlink_to(tmp_path / "real.json")
        files.write_text(tmp_path / "link.json", "x")
        assert (tmp_path / "link.json").is_symlink()
        assert (tmp_path / "real.json").read_text() == "x"

    def test_a_pipe_is_written_to_not_replaced(self, tmp_path):
        pipe = tmp_path / "pipe"
        os.mkfifo(pipe)
        reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
        try:
            files.write_text(pipe, "text")
            assert os.read(reader, 100) == b"text"
            assert stat.S_ISFIFO(pipe.stat().st_mode)
        finally:
            os.close(reader)


class TestWriter:
    def test_nothing_is_touched_before_the_first_result(self, tmp_path):
        path = tmp_path / "results.json"
        path.write_text("old")
        ResultWriter(path).close()
        assert path.read_text() == "old"

    def test_every_moment_a_whole_file(self, tmp_path, monkeypatch):
        monkeypatch.setattr(files, "_SECONDS_BETWEEN_WRITES", 0.0)
        path = tmp_path / "results.json"
        writer = ResultWriter(path)
        for count in range(1, 4):
            writer.update([result()] * count)
            assert len(load_results(path).results) == count

    def test_close_writes_what_was_held_back(self, tmp_path, monkeypatch):
        monkeypatch.setattr(files, "_SECONDS_BETWEEN_WRITES", 1e9)
        path = tmp_path / "results.json"
        writer = ResultWriter(path)
        writer.update([result()])
        writer.update([result()] * 2)
        assert len(load_results(path).results) == 1
        writer.close()
        assert len(load_results(path).results) == 2

    @pytest.mark.parametrize("name", ["", ".", "absent/results.json"])
    def test_unwritable_is_said_at_once(self, tmp_path, monkeypatch, name):
        monkeypatch.chdir(tmp_path)
        with pytest.raises(ResultFileError, match="cannot be written"):
            ResultWriter(name)


def test_an_older_file_stays_until_there_is_a_result(tmp_path):
    path = tmp_path / "results.json"
    path.write_text("older")
    writer = ResultWriter(path)
    writer.update([])
    writer.close()
    assert path.read_text() == "older"
