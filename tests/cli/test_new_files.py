"""`hintbench new`: what it writes runs."""

import json

from program import hintbench, without_notes

QUICK = ("-w", "churn,operations=2000,final_idle_ns=1000")


class TestNewStrategy:
    def test_what_new_strategy_writes_works(self, tmp_path):
        hintbench("new", "strategy", "mine", cwd=tmp_path)
        found = hintbench(
            *("run", "-s", "none", "-s", "mine.py", *QUICK, "--memory", "1GiB"),
            *("--json", "out.json"),
            cwd=tmp_path,
        )
        assert (found.returncode, without_notes(found.stderr)) == (0, "")
        none, mine = json.loads((tmp_path / "out.json").read_text())["results"]
        assert none["metrics"]["reported_blocks"] == 0
        assert mine["metrics"]["reported_blocks"] > 50
        assert mine["violations"] == {}


class TestNewWorkload:
    def test_what_new_workload_writes_works(self, tmp_path):
        hintbench("new", "workload", "mine", cwd=tmp_path)
        found = hintbench(
            *("run", "-s", "none", "-s", "bitmap-and-spin"),
            *("-w", "mine.py,operations=20000,rest_ns=1000000", "--memory", "256MiB"),
            *("--json", "out.json"),
            cwd=tmp_path,
        )
        assert (found.returncode, without_notes(found.stderr)) == (0, "")
        none, spin = json.loads((tmp_path / "out.json").read_text())["results"]
        assert none["metrics"]["operations"] >= 20_000
        assert spin["metrics"]["reported_blocks"] > 20

    def test_a_guest_too_small_for_it_is_told(self, tmp_path):
        hintbench("new", "workload", "mine", cwd=tmp_path)
        found = hintbench(
            *("run", "-p", "mine.py", "-s", "none", "-w", "mine,order=10,share=0.01"),
            *("--memory", "128MiB"),
            cwd=tmp_path,
        )
        assert found.returncode == 2
        assert "has no block of order 10 for every vCPU" in found.stderr
