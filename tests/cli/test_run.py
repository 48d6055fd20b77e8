"""`hintbench run` end to end: processes, results, plugins that fail, Ctrl-C."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest

from program import without_notes

SMALL = ("--memory", "64MiB", "--vcpus", "1")
QUICK = ("-w", "churn,operations=2000,final_idle_ns=1000")
BULK = ("-w", "bulk,operations=2000,final_idle_ns=1000")


def hintbench(*arguments, **options):
    """Run the command line in a process of its own."""
    options = {"capture_output": True, "text": True, "timeout": 120, **options}
    environment = {
        **os.environ,
        "HINTBENCH_DISABLE_PLUGINS": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        **options.pop("env", {}),
    }
    command = [sys.executable, "-m", "hintbench", *map(str, arguments)]
    return subprocess.run(command, env=environment, check=False, **options)


BROKEN = """
import os, signal, time
from hintbench import Strategy, hookimpl

class Raises(Strategy):
    "Raises."
    name = "raises"

    @hookimpl
    def guest_started(self, guest):
        raise ValueError("on purpose")

class Dies(Strategy):
    "Takes its process with it."
    name = "dies"

    @hookimpl
    def guest_started(self, guest):
        os.kill(os.getpid(), signal.SIGKILL)

class Waits(Strategy):
    "Interrupts whoever started it, as Ctrl-C does."
    name = "waits"

    @hookimpl
    def guest_started(self, guest):
        time.sleep(1)
        with open("signalled", "w") as file:
            file.write(repr(time.monotonic()))
        os.kill(int(os.environ["VICTIM"]), signal.SIGINT)
        time.sleep(50)
"""

LEAVES = """
import sys
from hintbench import Strategy, hookimpl


class Leaves(Strategy):
    name = "leaves"

    @hookimpl
    def page_allocated(self):
        sys.exit(0)
"""


@pytest.fixture
def broken(tmp_path):
    (tmp_path / "broken.py").write_text(BROKEN)
    return tmp_path


class TestRun:
    def test_results_do_not_depend_on_the_number_of_jobs(self, tmp_path):
        strategies = ("-s", "none", "-s", "zone-confined-batching", "-s", "oracle,at_order=9")
        found = {}
        for jobs in (1, 2):
            done = hintbench(
                *("run", *strategies, *QUICK, *BULK, *SMALL),
                *("--jobs", jobs, "--json", f"{jobs}.json", "--seed", 1, "--seed", 2),
                cwd=tmp_path,
            )
            assert (done.returncode, without_notes(done.stderr)) == (0, "")
            content = json.loads((tmp_path / f"{jobs}.json").read_text())
            found[jobs] = (
                [
                    {key: value for key, value in result.items() if key != "wall_seconds"}
                    for result in content["results"]
                ],
                done.stdout,
            )
        assert found[1] == found[2]
        assert len(found[1][0]) == 3 * 2 * 2
        assert len({result["digest"] for result in found[1][0]}) > 6

    def test_the_table_and_the_file(self, tmp_path):
        done = hintbench(
            *("run", "-s", "none", "-s", "oracle", *QUICK, *SMALL, "--json", "out.json"),
            cwd=tmp_path,
        )
        assert (done.returncode, without_notes(done.stderr)) == (0, "")
        content = json.loads((tmp_path / "out.json").read_text())
        assert content["schema"] == 1
        none, oracle = content["results"]
        assert none["metrics"]["throughput_ratio"] == 1.0
        assert oracle["metrics"]["alloc_p99_ns"] > 0
        assert re.search(r"^  none +1\.000 ", done.stdout, re.MULTILINE)
        assert "How to read it" in done.stdout

    def test_json_on_standard_output(self, tmp_path):
        done = hintbench("run", "-s", "none", *QUICK, *SMALL, "--json", "-", cwd=tmp_path)
        assert json.loads(done.stdout)["results"][0]["strategy"] == "none"
        assert "How to read it" in done.stderr

    @pytest.mark.parametrize("jobs", [1, 2])
    def test_a_plugin_that_raises_leaves_the_others_their_results(self, broken, jobs):
        done = hintbench(
            *("run", "-p", "broken.py", "-s", "none", "-s", "raises", *QUICK, *BULK, *SMALL),
            *("--jobs", jobs, "--json", "out.json"),
            cwd=broken,
        )
        assert done.returncode == 1
        error = without_notes(done.stderr)
        assert "plugin 'raises': guest_started: ValueError: on purpose" in error
        assert "Traceback" not in error
        content = json.loads((broken / "out.json").read_text())
        assert [result["workload"] for result in content["results"]] == ["churn", "bulk"]
        assert "failed" in done.stdout

    def test_a_plugin_that_exits_ends_nothing_but_its_cell(self, tmp_path):
        (tmp_path / "leaves.py").write_text(LEAVES)
        done = hintbench(
            *("run", "-p", "leaves.py", "-s", "none", "-s", "leaves", *QUICK, *SMALL, "--jobs", 1),
            cwd=tmp_path,
        )
        assert done.returncode == 1
        assert "plugin 'leaves': page_allocated: SystemExit: 0 (leaves.py:" in done.stderr
        assert "How to read it" in done.stdout

    def test_attached_but_off_is_none(self, tmp_path):
        strategies = ("-s", "none", "-s", "percpu-array-v9", "-s", "oracle")
        done = hintbench(
            *("run", *strategies, *QUICK, *SMALL, "--off", "--json", "out.json"), cwd=tmp_path
        )
        assert done.returncode == 0
        assert "attached but switched off" in done.stdout
        results = json.loads((tmp_path / "out.json").read_text())["results"]
        assert len({result["digest"] for result in results}) == 1

    def test_debug_shows_where_a_plugin_raised(self, broken):
        done = hintbench(
            "run", "-p", "broken.py", "-s", "raises", *QUICK, *SMALL, "--debug", cwd=broken
        )
        assert done.returncode == 1
        assert "Traceback" in done.stderr
        assert "broken.py" in done.stderr

    def test_a_killed_worker_is_named_and_replaced(self, broken):
        done = hintbench(
            *("run", "-p", "broken.py", "-s", "dies", "-s", "none", "-s", "oracle", *QUICK, *SMALL),
            *("--jobs", 2, "--json", "out.json"),
            cwd=broken,
        )
        assert done.returncode == 1
        assert re.search(r"a worker process was killed .*\(running dies on churn", done.stderr)
        assert done.stderr.count("dies on churn") == 1
        assert "killed by SIGKILL" in done.stderr
        content = json.loads((broken / "out.json").read_text())
        assert [result["strategy"] for result in content["results"]] == ["none", "oracle"]

    @pytest.mark.parametrize("jobs", [1, 2])
    def test_ctrl_c_keeps_what_was_finished(self, broken, jobs):
        command = [sys.executable, "-m", "hintbench", "run", "-p", "broken.py"]
        command += ["-s", "none", "-s", "waits", "-s", "oracle", *QUICK, *SMALL]
        command += ["--jobs", str(jobs), "--json", "out.json"]
        script = (
            "import os, sys; os.environ['VICTIM'] = str(os.getpid());"
            "os.execv(sys.argv[1], sys.argv[1:])"
        )
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        done = subprocess.run(
            [sys.executable, "-c", script, *command],
            cwd=broken,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == 130
        # Half a second is promised; a loaded machine gets four.
        signalled = float((broken / "signalled").read_text())
        assert time.monotonic() - signalled < 4
        content = json.loads((broken / "out.json").read_text())
        assert "none" in [result["strategy"] for result in content["results"]]
        assert "interrupted: " in done.stderr
        assert "Traceback" not in done.stderr
        assert "How to read it" in done.stdout

    @pytest.mark.parametrize("module", ["typer", "numpy"])
    def test_ctrl_c_while_it_is_still_being_imported(self, tmp_path, module):
        (tmp_path / f"{module}.py").write_text(
            "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(60)\n"
        )
        search = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
        done = hintbench("run", *QUICK, *SMALL, cwd=tmp_path, env={"PYTHONPATH": search})
        assert (done.returncode, done.stderr, done.stdout) == (130, "hintbench: stopped\n", "")

    def test_output_that_nobody_reads_any_more(self, tmp_path):
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        process = subprocess.Popen(
            [sys.executable, "-m", "hintbench", "list"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            cwd=tmp_path,
        )
        process.stdout.close()
        error = process.stderr.read().decode()
        process.stderr.close()
        assert process.wait(60) in (0, 1, -signal.SIGPIPE)
        assert "Traceback" not in error

    def test_a_terminal_that_knows_only_ascii(self, tmp_path):
        done = hintbench(
            "run", "-s", "none", *QUICK, *SMALL, cwd=tmp_path, env={"PYTHONIOENCODING": "ascii"}
        )
        assert done.returncode == 0
        assert "How to read it" in done.stdout


PRINTS = """
import os
from hintbench import Strategy, hookimpl

print("garbage")
os.write(1, b"more garbage")


class Prints(Strategy):
    name = "prints"

    def __init__(self, **given):
        super().__init__(**given)
        print("garbage")

    @hookimpl
    def guest_started(self):
        print("garbage of a hook")
        os.write(1, b"more garbage")
"""


class TestPrintingPlugins:
    @pytest.mark.parametrize("jobs", ["1", "2"])
    def test_results_stand_alone_on_standard_output(self, tmp_path, jobs):
        (tmp_path / "prints.py").write_text(PRINTS)
        done = hintbench(
            *("run", "-p", "prints.py", "-s", "none", "-s", "prints", *QUICK, *SMALL),
            *("--jobs", jobs, "--json", "-"),
            cwd=tmp_path,
        )
        assert done.returncode == 0, done.stderr
        results = json.loads(done.stdout)["results"]
        assert [result["strategy"] for result in results] == ["none", "prints"]
        assert "garbage of a hook" in done.stderr

    def test_nor_do_they_stand_in_the_table(self, tmp_path):
        (tmp_path / "prints.py").write_text(PRINTS)
        done = hintbench("run", "-p", "prints.py", "-s", "prints", *QUICK, *SMALL, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert "How to read it" in done.stdout
        assert "garbage" not in done.stdout

    def test_without_standard_error(self, tmp_path):
        (tmp_path / "prints.py").write_text(PRINTS)
        code = (
            "import os, sys; os.close(2); os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
        )
        command = ["run", "-p", "prints.py", "-s", "prints", *QUICK, *SMALL, "--json", "-"]
        done = subprocess.run(
            [sys.executable, "-c", code, "-m", "hintbench", *command],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            text=True,
            check=False,
            timeout=60,
        )
        assert (done.returncode, len(json.loads(done.stdout)["results"])) == (0, 1)


class TestOutput:
    """What becomes of output that nobody reads, or that cannot be written."""

    @pytest.mark.parametrize("command", [("list",), ("run", "-s", "none", *QUICK, *SMALL)])
    def test_a_full_disk(self, command):
        if not os.path.exists("/dev/full"):
            pytest.skip("there is no /dev/full")
        with open("/dev/full", "w") as full:
            done = hintbench(*command, capture_output=False, stdout=full, stderr=subprocess.PIPE)
        assert done.returncode == 2
        told = without_notes(done.stderr)
        assert told == "hintbench: standard output cannot be written: No space left on device\n"

    @pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
    def test_results_that_cannot_be_written_do_not_cost_the_table(self):
        done = hintbench("run", "-s", "none", *QUICK, *SMALL, "--json", "/dev/full")
        assert done.returncode == 2
        assert re.search(r"^  none +1\.000", done.stdout, re.MULTILINE)
        told = without_notes(done.stderr)
        assert told == "hintbench: /dev/full: cannot be written: No space left on device\n"

    def test_the_table_says_what_was_run(self):
        done = hintbench(
            "run",
            "-s",
            "none",
            *QUICK,
            *SMALL,
            "-n",
            "3",
            "--seed",
            "5",
            "--off",
            env={"COLUMNS": "200"},
        )
        guest, seeds, off = done.stdout.splitlines()[0].split("; ")
        assert guest == "guest default: 64 MiB, 1 vCPU, Linux 6.12"
        assert (seeds, off) == ("seeds 5 to 7", "every strategy is switched off")

    @pytest.mark.parametrize("command", [("list",), ("run", "-s", "none", *QUICK, *SMALL)])
    def test_a_reader_that_has_gone(self, command):
        reading, writing = os.pipe()
        os.close(reading)
        done = hintbench(*command, capture_output=False, stdout=writing, stderr=subprocess.PIPE)
        os.close(writing)
        assert (done.returncode, without_notes(done.stderr)) == (0, "")

    def test_no_output_at_all(self):
        code = (
            "import os, sys; os.close(1); os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
        )
        command = [sys.executable, "-c", code, "-m", "hintbench", "list"]
        done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False, timeout=60)
        assert (done.returncode, done.stderr) == (2, "hintbench: standard output is closed\n")
