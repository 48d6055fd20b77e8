"""Ctrl-C, SIGTERM and SIGKILL, sent to real processes at many moments."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")

# Half a second is promised; a loaded machine gets four.
PATIENCE_SECONDS = 4
SMALL = ("--memory", "64MiB", "--vcpus", "1")
QUICK = ("-w", "churn,operations=2000,final_idle_ns=1000")

PLUGINS = """
import os, time
from hintbench import Program, Strategy, Workload, hookimpl, operations


class Python(Strategy):
    "Stays in a loop of its own."
    name = "python"

    @hookimpl
    def guest_started(self, guest):
        open(f"begun-{os.getpid()}", "w").close()
        while True:
            pass


class Program_(Workload):
    "Stays in a loop while it is laid out."
    name = "laid-out"

    def program(self, setting):
        open(f"begun-{os.getpid()}", "w").close()
        while True:
            pass


class Delayed(Workload):
    "Waits while there is a file `slow`."
    name = "delayed"

    def program(self, setting):
        open(f"begun-{os.getpid()}", "w").close()
        end = time.monotonic() + 20
        while os.path.exists("slow") and time.monotonic() < end:
            time.sleep(0.01)
        slots = [0] * 300
        block = operations.interleave(operations.allocate(slots), operations.free(slots))
        return Program(1, (iter([block]),) * setting.vcpus, operations=600)


class Core(Workload):
    "Keeps the compiled core busy."
    name = "core"

    def program(self, setting):
        slots = [0] * 30_000
        block = operations.interleave(operations.allocate(slots), operations.free(slots))

        def tape():
            open(f"begun-{os.getpid()}", "w").close()
            while True:
                yield block

        return Program(1, (tape(),) * setting.vcpus, operations=1)


class Hungry(Strategy):
    "Is out of memory."
    name = "hungry"

    @hookimpl
    def guest_started(self, guest):
        import resource
        resource.setrlimit(resource.RLIMIT_AS, (3 << 29, 3 << 29))
        self.much = bytearray(1 << 33)
"""


class Command:
    """A command in a session of its own, as a shell starts it."""

    def __init__(self, folder, *arguments, **options):
        self.folder = folder
        environment = {
            **os.environ,
            "HINTBENCH_DISABLE_PLUGINS": "1",
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            **options.pop("env", {}),
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", "hintbench", *map(str, arguments)],
            cwd=folder,
            env=environment,
            start_new_session=True,
            text=True,
            **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options},
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.communicate()

    def begun(self, count=1):
        """The processes in which plugins have begun, once there are so many."""
        end = time.monotonic() + 60
        while time.monotonic() < end:
            found = [int(path.name[6:]) for path in self.folder.glob("begun-*")]
            if len(found) >= count:
                return found
            assert self.process.poll() is None, self.process.communicate()
            time.sleep(0.01)
        raise AssertionError("the plugin has not begun")

    def stop(self, number=signal.SIGINT, to_group=True):
        """Send a signal as a terminal does; exit status, what was printed, errors."""
        began = time.monotonic()
        if to_group:
            os.killpg(self.process.pid, number)
        else:
            os.kill(self.process.pid, number)
        output, error = self.process.communicate(timeout=30)
        assert time.monotonic() - began < PATIENCE_SECONDS
        return self.process.returncode, output, error

    def nobody_is_left(self):
        """Whether the whole group ends."""
        end = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < end:
            try:
                os.killpg(self.process.pid, 0)
            except ProcessLookupError:
                return True
            time.sleep(0.02)
        return False


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "plugins.py").write_text(PLUGINS)
    return tmp_path


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


def wait_for(condition):
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


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


@pytest.mark.parametrize("idle", [0.0, 0.1, 0.3])
def test_a_worker_that_is_killed_is_told(folder, idle):
    arguments = ("run", "-p", "plugins.py", "-s", "none", "-s", "oracle", "-s", "python")
    options = (*QUICK, *SMALL, "--jobs", 2, "--json", "out.json")
    with Command(folder, *arguments, *options) as command:
        killed: list[int] = []
        while len(killed) < 2:
            # Its run is begun once more, in another process.
            (worker,) = set(command.begun(len(killed) + 1)) - set(killed)
            time.sleep(idle)
            os.kill(worker, signal.SIGKILL)
            killed.append(worker)
        output, error = command.process.communicate(timeout=60)
        assert command.process.returncode == 1
        assert re.search(r"a worker process was killed by SIGKILL .*\(running python on chu", error)
        assert "a second one was killed by SIGKILL" in error
        assert len(command.begun()) == 2
        assert re.search(r"^  python +failed", output, re.MULTILINE)
        results = json.loads((folder / "out.json").read_text())["results"]
        assert [one["strategy"] for one in results] == ["none", "oracle"]


def test_a_run_whose_worker_was_killed_comes_out_the_same(folder):
    shared = ("run", "-p", "plugins.py", "-w", "delayed", *SMALL, "-s", "none")
    undisturbed = Command(folder, *shared, "--jobs", 1, "--json", "alone.json")
    with undisturbed as command:
        _, error = command.process.communicate(timeout=60)
        assert command.process.returncode == 0, error
    for begun in folder.glob("begun-*"):
        begun.unlink()
    (folder / "slow").touch()
    with Command(folder, *shared, "-s", "oracle", "--jobs", 2, "--json", "out.json") as command:
        workers = command.begun(2)
        os.kill(workers[0], signal.SIGKILL)
        (folder / "slow").unlink()
        _, error = command.process.communicate(timeout=60)
        assert command.process.returncode == 0, error
        assert re.search("note: a worker process was killed by SIGKILL .* was repeated", error)
        assert error.count("was repeated in another") == 1
    alone, both = (
        json.loads((folder / name).read_text())["results"] for name in ("alone.json", "out.json")
    )
    assert [one["strategy"] for one in both] == ["none", "oracle"]
    assert both[0]["digest"] == alone[0]["digest"]


def test_workers_that_are_killed_while_they_start(folder):
    """Every cell is either finished or, when it has met two of them, marked as failed."""
    arguments = ("run", "-p", "plugins.py", "-s", "none", "-s", "oracle", *QUICK, *SMALL)
    with Command(folder, *arguments, "--jobs", 2, "--json", "out.json") as command:
        killed: set[int] = set()
        while len(killed) < 3:
            assert command.process.poll() is None
            for worker in {*workers_of(command.process.pid)} - killed:
                os.kill(worker, signal.SIGKILL)
                killed.add(worker)
            time.sleep(0.005)
        _, error = command.process.communicate(timeout=60)
        assert command.process.returncode == 1
        marked = len(re.findall("a second one was killed by SIGKILL", error))
        more = sum(int(count) for count in re.findall(r"and (\d+) more\)", error))
        file = folder / "out.json"
        finished = len(json.loads(file.read_text())["results"]) if file.exists() else 0
        assert marked
        assert marked + more + finished == 2


def workers_of(parent):
    """Processes that multiprocessing has started for a parent."""
    path = Path(f"/proc/{parent}/task/{parent}/children")
    if not path.exists():
        pytest.skip("this system does not list a process's children")
    found = []
    for child in path.read_text().split():
        try:
            with open(f"/proc/{child}/cmdline", "rb") as file:
                if b"spawn_main" in file.read():
                    found.append(int(child))
        except OSError:
            continue
    return found


def test_a_worker_that_runs_out_of_memory(folder):
    arguments = ("run", "-p", "plugins.py", "-s", "none", "-s", "hungry", *QUICK, *SMALL)
    with Command(folder, *arguments, "--jobs", 2, "--json", "out.json") as command:
        output, error = command.process.communicate(timeout=60)
        assert command.process.returncode == 1
        assert "MemoryError" in error or "not enough memory" in error
        assert re.search(r"^  hungry +failed", output, re.MULTILINE)
        results = json.loads((folder / "out.json").read_text())["results"]
        assert [one["strategy"] for one in results] == ["none"]


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
