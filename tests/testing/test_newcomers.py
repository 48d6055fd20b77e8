"""What happens to those who name the wrong file, or whose strategy does what none should."""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import textwrap

import pytest

from hintbench import cli
from hintbench.cli import check_commands
from hintbench.config.defaults import CHECK_SCHEDULES, CHECK_SECONDS
from hintbench.errors import PluginError
from hintbench.plugins.finding import load_plugin
from hintbench.testing.runs.outcome import Outcome, Violation
from hintbench.testing.tasks import tasks_of
from program import hintbench, run_pytest

STRATEGY = '''
import asyncio, os, signal, sys
from hintbench import hookimpl
from hintbench.strategies.zone_confined_batching import ZoneConfinedBatching


class {cls}(ZoneConfinedBatching):
    """Does what none should."""

    name = "{name}"
    times = 0

    @hookimpl
    def page_freeing(self):
        {body}
'''
ROGUES = {
    "exits": ("sys.exit(3)", "page_freeing: SystemExit: 3 (exits.py:"),
    "interrupts": ("raise KeyboardInterrupt", "raises KeyboardInterrupt (interrupts.py:"),
    "cancels": ("raise asyncio.CancelledError", "page_freeing: CancelledError (cancels.py:"),
    "leaves": ("os._exit(0)", "its process ended with status 0 instead of answering"),
    "starves": (
        "def claims(self): raise OSError(12, 'Cannot allocate memory')\n"
        "        type(self).claims = claims",
        "needs more memory than there is",
    ),
    "crashes": ("os.kill(os.getpid(), signal.SIGSEGV)", "its process was killed by SIGSEGV"),
}
HARMLESS = {
    "wanders": "os.chdir('/')",
    "forks": "type(self).times += 1\n        if self.times == 1:\n            os.fork()",
}


def write(folder, name, body, cls="Mine"):
    (folder / f"{name}.py").write_text(STRATEGY.format(name=name, body=body, cls=cls))


@pytest.fixture(scope="module")
def checked(tmp_path_factory):
    """All of them in one command, by what it printed of each."""
    folder = tmp_path_factory.mktemp("rogues")
    for name, (body, _) in ROGUES.items():
        write(folder, name, body)
    for name, body in HARMLESS.items():
        write(folder, name, body)
    files = [f"{name}.py" for name in (*ROGUES, *HARMLESS)]
    effort = ("--schedules", "4", "--jobs", "1", "--json", "out.json")
    done = hintbench("check", *files, "none", *effort, cwd=folder)
    assert done.returncode == 1
    assert done.stderr == ""
    checks = json.loads((folder / "out.json").read_text())["checks"]
    return {each["strategy"]: each for each in checks}


@pytest.mark.parametrize("name", ROGUES)
def test_a_rogue_is_told_in_a_sentence(checked, name):
    assert ROGUES[name][1] in checked[f"{name}.py"]["error"]
    assert not checked[f"{name}.py"]["passed"]


@pytest.mark.parametrize("name", [*(f"{each}.py" for each in HARMLESS), "none"])
def test_the_others_are_kept(checked, name):
    assert (checked[name]["error"], checked[name]["passed"]) == ("", True)
    assert checked[name]["too_few"]


def test_who_deletes_the_folder_for_temporary_files_ends_nobody_elses_check(tmp_path):
    # A short path: sockets are made below it, whose names have 107 bytes at most. The strategy
    # deletes that very folder and no other, whatever the environment says there.
    doomed = tempfile.mkdtemp(prefix="doomed-")
    write(tmp_path, "deletes", f"__import__('shutil').rmtree({doomed!r}, ignore_errors=True)")
    command = [sys.executable, "-m", "hintbench", "check", "deletes.py", "none"]
    done = subprocess.run(
        [*command, "--schedules", "4", "--jobs", "1"],
        cwd=tmp_path,
        env={**os.environ, "TMPDIR": doomed},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    shutil.rmtree(doomed, ignore_errors=True)
    assert done.stderr == ""
    assert done.returncode == 0
    assert "none: no rule broken" in done.stdout


CONTRACTS = {
    "claims": ("def claims(self): pass", "claims: returned NoneType, not Claims"),
    "counts": (
        "def claims(self): return __import__('hintbench').Claims(min_order='nine')",
        "claims: ValueError: Claims: min_order is 'nine', must be a number in 0..10",
    ),
    "models": (
        "Parameters = type('P', (Strategy.Parameters,), {'__init__': lambda self, **_: 1 / 0})",
        "Parameters: ZeroDivisionError: division by zero",
    ),
    "declares": ("declared_failures = ['once']", "declared_failures: ['once'] is no mapping"),
    "explores": ("check_parameters = {'zz': 1}", "check_parameters: zz: "),
    "boots": ("kernels = ('4.4',)", "kernels: ('4.4',): name one or more of 6.12, 5.0"),
    "begins": ("def __init__(self, **given): pass", "__init__: does not call super()"),
}


def test_what_a_strategy_says_of_itself_is_its_own_fault(tmp_path):
    # Also where no socket can be made, whose name would lie below this folder.
    temporary = tmp_path / ("long" * 30)
    temporary.mkdir()
    for name, (body, _) in CONTRACTS.items():
        text = f"from hintbench import Strategy\n\n\nclass Mine(Strategy):\n    name = '{name}'\n"
        (tmp_path / f"{name}.py").write_text(text + textwrap.indent(body, "    "))
    files = [f"{name}.py" for name in CONTRACTS]
    environment = {**os.environ, "HINTBENCH_CORE": "interpreted", "TMPDIR": str(temporary)}
    done = subprocess.run(
        [sys.executable, "-m", "hintbench", "check", *files],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 1
    assert "note: the core runs interpreted" in done.stderr
    output = " ".join(done.stdout.split())
    for name, (_, message) in CONTRACTS.items():
        assert f"{name}.py: failed by its own fault: plugin '{name}': {message}" in output
    # Nothing was explored, so there is no table.
    assert "verdict" not in output


TWO = """
from hintbench.strategies.bitmap_and_spin import BitmapAndSpin

class First(BitmapAndSpin):
    name = "{}"

class Second(BitmapAndSpin):
    name = "{}"
"""


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (
            ["two.py"],
            2,
            "two.py defines 2 strategies: name one of them, two.py:First or two.py:Second",
        ),
        (["two.py", "-p", "two.py"], 2, "two.py defines 2 strategies: name one of them, two.py:"),
        (["two.py:Third"], 2, "two.py:Third: two.py has no strategy 'Third'"),
        (["load.py"], 2, "load.py defines no strategy, only the workload 'load'"),
        (["same", "-p", "same.py"], 1, "First and Second have one name, strategy 'same'"),
    ],
)
def test_files_that_define_not_one_strategy(arguments, status, message, tmp_path, monkeypatch):
    (tmp_path / "two.py").write_text(TWO.format("one", "two"))
    (tmp_path / "same.py").write_text(TWO.format("same", "same"))
    monkeypatch.chdir(tmp_path)
    assert cli.main(["new", "workload", "load"]) == 0
    done = hintbench("check", *arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (status, "")
    (line,) = done.stderr.splitlines()
    assert message in line


def test_two_of_one_name_are_refused_by_whoever_loads_them(tmp_path):
    (tmp_path / "same.py").write_text(TWO.format("same-again", "same-again"))
    with pytest.raises(PluginError, match="First and Second have one name"):
        load_plugin(str(tmp_path / "same.py"))


def test_the_help_says_what_is_explored(tmp_path):
    text = " ".join(hintbench("check", "--help", cwd=tmp_path).stdout.split())
    assert "half as many of a handful of operations" in text
    assert "a quarter as many (400 at most) of one tiny scenario" in text
    assert f"[default: {CHECK_SCHEDULES}]" in text
    assert f"[default: {CHECK_SECONDS}]" in text
    for schedules in (1_000, 4_000):
        tasks = dict(tasks_of(1, schedules, 10.0))
        assert len(tasks["handfuls"][0]) == schedules // 2
        assert tasks["search"][1] == min(400, schedules // 4)
        assert tasks["handfuls"][1] == tasks["search"][2] == 10.0 / 4
    assert "Exit status 0" in hintbench("replay", "--help", cwd=tmp_path).stdout


SUITE = """
from dataclasses import replace
from hintbench.strategies.zone_confined_batching import ZoneConfinedBatching
from hintbench.testing import StrategyConformance


class Slow(ZoneConfinedBatching):
    name = "slow"

    def claims(self):
        return replace(super().claims(), liveness_bound_ns=1)


class TestSlow(StrategyConformance):
    strategy = Slow
    parameters = {"batch": 3}
    schedules = 20
"""


def test_the_suite_saves_what_replay_shows_again(tmp_path):
    (tmp_path / "test_slow.py").write_text(SUITE)
    done = run_pytest("-q", "-k", "liveness", "--hintbench-save", "kept", cwd=tmp_path)
    # With CI set pytest repeats all of it in its summary.
    (file,) = set(re.findall(r"^again: hintbench replay (\S+)$", done.stdout, re.MULTILINE))
    assert file.startswith("kept/test_slow.py-liveness-")
    again = hintbench("replay", file, cwd=tmp_path)
    assert (again.returncode, again.stderr) == (0, "")
    assert "as saved" in again.stdout


def test_what_only_a_test_can_make_is_not_saved(tmp_path):
    made = SUITE.replace("    strategy = Slow\n", "    strategy = make\n").replace(
        "class TestSlow", "def make(**given):\n    return local()\n\n\nclass TestSlow"
    )
    local = "def local():\n    class Local(Slow):\n        name = 'local'\n\n    return Local()\n"
    (tmp_path / "test_slow.py").write_text(made + "\n\n" + local)
    done = run_pytest("-q", "-k", "liveness", cwd=tmp_path)
    assert "not saved: only this test can make the strategy" in done.stdout
    assert not (tmp_path / "counterexamples").exists()


def test_the_suite_says_that_few_schedules_prove_nothing(tmp_path):
    suite = ("--pyargs", "hintbench.testing.suite", "--strategy", "none", "-q")
    done = run_pytest(*suite, "--hintbench-schedules", "4", cwd=tmp_path)
    assert done.returncode == 0
    assert re.search(r"hintbench: none: \d+ schedules, too few to say", done.stdout)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The folder of a suite that has saved a counterexample where it does so by default."""
    folder = tmp_path_factory.mktemp("saved")
    (folder / "test_slow.py").write_text(SUITE)
    run_pytest("-q", "-k", "liveness", cwd=folder)
    return folder


@pytest.mark.parametrize("shown", [True, False])
def test_a_replay_with_a_fault_of_the_strategys_own(shown, saved, monkeypatch, capsys):
    (file,) = (saved / "counterexamples").iterdir()
    digest = json.loads(file.read_text())["digest"]
    violation = Violation("liveness", "untold", "late", 1, 0, "vCPU 0")
    outcome = Outcome({violation.key: violation} if shown else {}, digest=digest, error="it fell")
    monkeypatch.setattr(check_commands, "tell", lambda *_, **__: (["a step"], outcome))
    monkeypatch.chdir(saved)
    assert check_commands.run_replay(str(file), trace=False) == (0 if shown else 1)
    output = capsys.readouterr().out
    assert "the strategy's own fault: it fell" in output
    assert ("as saved" in output) == shown
