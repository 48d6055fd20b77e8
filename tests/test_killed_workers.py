"""Workers of a run that are killed: told, their runs repeated, and the others kept."""

import json
import os
import re
import signal
import sys
import time
from pathlib import Path

import pytest

from stopped import QUICK, SMALL, Command, stoppable

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")


@pytest.fixture
def folder(tmp_path):
    return stoppable(tmp_path)


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
