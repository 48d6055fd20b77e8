"""Ctrl-C, SIGTERM and SIGKILL, sent to real processes at many moments."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from stopped import QUICK, SMALL, Command, stoppable, wait_for

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")


@pytest.fixture
def folder(tmp_path):
    return stoppable(tmp_path)


BUSY = {
    "hook": ("-s", "none", "-s", "python", *QUICK),
    "core": ("-s", "none", *QUICK, "-w", "core"),
    "program": ("-s", "none", *QUICK, "-w", "laid-out"),
}


@pytest.mark.parametrize("where", BUSY)
@pytest.mark.parametrize("jobs", [1, 2])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["int", "term"])
def test_run_keeps_what_was_finished(folder, where, jobs, number):
    arguments = ("run", "-p", "plugins.py", *BUSY[where], *SMALL)
    with Command(folder, *arguments, "--jobs", jobs, "--json", "out.json") as command:
        command.begun()
        wait_for((folder / "out.json").exists)
        status, output, error = command.stop(number, to_group=number == signal.SIGINT)
        assert status == 128 + number
        assert "interrupted: 1 of 2 cells are finished" in error
        assert "Traceback" not in error
        assert "How to read it" in output
        results = json.loads((folder / "out.json").read_text())["results"]
        assert [(one["strategy"], one["workload"]) for one in results] == [("none", "churn")]
        assert command.nobody_is_left()
    assert not list(folder.glob("*.partial"))


def commands(folder):
    """Every command that takes a while, and what it needs."""
    text = folder / "trace.txt"
    line = b"  a-1 [000] .... %d.%06d: mm_page_alloc: page=0x0 pfn=0x%x order=0 migratetype=0"
    line += b" gfp_flags=GFP_KERNEL\n"
    with text.open("wb") as file:
        for second in range(60):
            file.writelines(line % (second, place, place) for place in range(20_000))
    return {
        "run": ("run", "--jobs", 2, "--json", "out.json"),
        "check": ("check", "percpu-array-v9", "--jobs", 2, "--json", "out.json"),
        "import": ("trace", "import", text, "-o", "out.trace"),
        "info": ("trace", "info", text),
        "replay": ("run", "-s", "none", "-w", f"trace:{text}", "--jobs", 1),
        "speed": ("speed",),
        "scale": ("speed", "--scale"),
    }


@pytest.mark.parametrize("name", ["run", "check", "import", "info", "replay", "speed", "scale"])
@pytest.mark.parametrize("seconds", [0.15, 0.3, 0.5, 0.9, 1.5])
@pytest.mark.long
def test_every_command_stops_at_any_time(tmp_path, name, seconds):
    with Command(tmp_path, *commands(tmp_path)[name]) as command:
        time.sleep(seconds)
        if command.process.poll() is not None:
            pytest.skip("it was done before")
        status, _, error = command.stop()
        if "Traceback" in error:
            # Before the first line of `hintbench.__main__.main`, Ctrl-C is Python's own affair.
            assert error.rstrip().endswith("KeyboardInterrupt")
            assert "in main\n" not in error
        else:
            assert status in (0, 130), error
        assert command.nobody_is_left()
    assert not list(tmp_path.glob("*.partial"))


def test_json_to_a_full_disk(folder):
    if not os.path.exists("/dev/full"):
        pytest.skip("there is no /dev/full")
    arguments = ("run", "-s", "none", *QUICK, *SMALL, "--json", "/dev/full")
    with Command(folder, *arguments) as command:
        _, error = command.process.communicate(timeout=60)
        assert command.process.returncode == 2
        assert "hintbench: /dev/full: cannot be written: No space left on device" in error
        assert "Traceback" not in error


def test_the_first_line_only(folder):
    with Command(folder, "run", "-s", "none", *QUICK, *SMALL) as command:
        command.process.stdout.readline()
        command.process.stdout.close()
        error = command.process.stderr.read()
        assert command.process.wait(60) == 0
        assert "Traceback" not in error
        command.process.stdout = None


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["int", "term"])
def test_a_check_tells_what_it_has_found_so_far(tmp_path, number):
    plugin = """
import time
from hintbench import hookimpl
from hintbench.strategies.zone_confined_batching import ZoneConfinedBatching


class Third(ZoneConfinedBatching):
    "Says when it has been explored for a while, and is not done soon after."
    name = "third"
    times = 0

    @hookimpl
    def guest_started(self, guest):
        super().guest_started(guest)
        Third.times += 1
        if Third.times == 100:
            open(f"begun-{self.times}", "w").close()
        if Third.times >= 100:
            time.sleep(0.05)
"""
    (tmp_path / "third.py").write_text(plugin)
    arguments = ("check", "none", "third", "zone-bitmap", "-p", "third.py", "--json", "out.json")
    # The second is stopped, the third never begins.
    options = ("--schedules", 400, "--jobs", 1)
    with Command(tmp_path, *arguments, *options) as command:
        command.begun()
        status, output, error = command.stop(number)
        assert status == 128 + number
        assert "stopped" in error
        assert command.nobody_is_left()
    checks = json.loads((tmp_path / "out.json").read_text())["checks"]
    assert [one["strategy"] for one in checks] == ["none", "third"]
    assert [one["interrupted"] for one in checks] == [False, True]
    assert [one["error"] for one in checks] == ["", ""]
    if number == signal.SIGTERM:  # it ends the workers too, with what they know
        return
    assert [one["verdicts"]["returned"]["verdict"] for one in checks] == ["holds", "so far"]
    assert not checks[1]["passed"]
    assert checks[1]["schedules"] >= 99
    assert f"third (interrupted after {checks[1]['schedules']:,} schedules)" in output


INTERRUPTED = """
import sys
import hintbench.cli

def main():
    exec("raise KeyboardInterrupt")

hintbench.cli.main = main
from hintbench.__main__ import main
sys.exit(main())
"""


def test_an_interrupt_in_the_text_that_a_dataclass_is_made_of_ends_as_any_other(tmp_path):
    """Python would end by the signal, with no status of its own, although it was caught."""
    (tmp_path / "interrupted.py").write_text(INTERRUPTED)
    done = subprocess.run(
        [sys.executable, "-m", "interrupted"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *filter(None, sys.path)])},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (130, "hintbench: stopped\n")
