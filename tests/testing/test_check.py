"""`hintbench check` and `hintbench replay`, and the suite for pytest, as a user has them."""

import json
import re
import shutil
import textwrap
from pathlib import Path

import pytest

from hintbench import Claims
from hintbench.cli.check_report import print_check
from hintbench.cli.report_notes import open_console
from hintbench.testing.checking import SHORT, Check
from hintbench.testing.comparisons import compare
from hintbench.testing.counterexamples.telling import Told
from hintbench.testing.exploration import Exploration, explore, explore_handfuls
from hintbench.testing.rules import RULES
from hintbench.testing.subjects import Subject
from hintbench.testing.verdicts import judge
from program import hintbench

ROOT = Path(__file__).parents[2]

FAULTS = {
    "raises": ("block_freed", "def block_freed(self): raise OSError('no')", "OSError: no"),
    "exits": ("block_freed", "def block_freed(self): raise SystemExit(0)", "SystemExit"),
    "floods": (
        "guest_started",
        # Zeroes that nobody has written take room in the address space only: no time, and no
        # harm where nothing limits it.
        "def guest_started(self): self.all = [bytes(1 << 30) for _ in range(64)]",
        "MemoryError",
    ),
}


def write_plugin(folder, name, body):
    text = "from hintbench import Strategy, hookimpl\n\n\nclass Made(Strategy):\n"
    text += f"    name = '{name}'\n"
    text += textwrap.indent(f"@hookimpl\n{body}\n", "    ")
    (folder / f"{name}.py").write_text(text)


def test_the_posted_v9_is_refuted_as_it_declares(tmp_path):
    done = hintbench(
        "check", "percpu-array-v9", "--schedules", "320", "--json", "out.json", cwd=tmp_path
    )
    assert done.returncode == 0, done.stdout + done.stderr
    check = json.loads((tmp_path / "out.json").read_text())["checks"][0]
    assert list(check["verdicts"]) == list(RULES)
    declared = {rule for rule, each in check["verdicts"].items() if each["verdict"] == "declared"}
    assert {"locked-lists", "atomic-context", "liveness", "bounded-hold", "once"} <= declared
    assert check["verdicts"]["owned-while-reported"]["verdict"] == "holds"
    assert check["verdicts"]["no-discard-in-use"]["verdict"] == "holds"
    assert check["schedules_with_reports"] > check["schedules"] / 2


def test_a_broken_promise_is_told_saved_and_replayed(tmp_path):
    (tmp_path / "wrong.py").write_text(
        textwrap.dedent(
            '''
            from hintbench.strategies.percpu_array_v9 import PercpuArrayV9

            class Wrong(PercpuArrayV9):
                """v9, which declares nothing."""
                name = "wrong"
                declared_failures = {}
            '''
        )
    )
    done = hintbench("check", "wrong", "-p", "wrong.py", "--schedules", "100", cwd=tmp_path)
    assert done.returncode == 1
    assert "refuted by" in done.stdout
    saved = sorted((tmp_path / "counterexamples").iterdir())
    assert saved
    again = hintbench("replay", str(saved[0]), cwd=tmp_path)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "as saved" in again.stdout
    whole = hintbench("replay", str(saved[0]), "--trace", cwd=tmp_path)
    assert len(whole.stdout) >= len(again.stdout)


@pytest.fixture(scope="module")
def refuted(tmp_path_factory):
    """A folder where check has refuted a plugin, by its name and by its file."""
    folder = tmp_path_factory.mktemp("refuted")
    (folder / "wrong.py").write_text(
        "from hintbench.strategies.percpu_array_v9 import PercpuArrayV9\n\n\n"
        "class Wrong(PercpuArrayV9):\n"
        "    name = 'wrong'\n"
        "    declared_failures = {}\n"
    )
    for arguments in (("wrong", "-p", "wrong.py"), ("wrong.py", "--save", "by-file")):
        done = hintbench("check", *arguments, "--schedules", "20", cwd=folder)
        assert "refuted by" in done.stdout, done.stdout + done.stderr
    return folder


@pytest.mark.parametrize("saved", ["counterexamples", "by-file"])
class TestReplayElsewhere:
    """A counterexample names its plugin as check was told it, from the folder where that ran."""

    def first(self, folder):
        return sorted(folder.glob("*.json"))[0]

    def test_from_another_folder(self, refuted, saved, tmp_path):
        done = hintbench("replay", str(self.first(refuted / saved)), cwd=tmp_path)
        assert (done.returncode, done.stderr) == (0, "")
        assert "as saved" in done.stdout

    def test_beside_the_plugin(self, refuted, saved, tmp_path):
        folder, elsewhere = tmp_path / "folder", tmp_path / "elsewhere"
        folder.mkdir()
        elsewhere.mkdir()
        shutil.copy(refuted / "wrong.py", folder)
        shutil.copy(self.first(refuted / saved), folder / "one.json")
        done = hintbench("replay", "../folder/one.json", cwd=elsewhere)
        assert (done.returncode, done.stderr) == (0, "")

    def test_with_the_plugin_given(self, refuted, saved, tmp_path):
        shutil.copy(self.first(refuted / saved), tmp_path / "one.json")
        done = hintbench("replay", "one.json", "-p", str(refuted / "wrong.py"), cwd=tmp_path)
        assert (done.returncode, done.stderr) == (0, "")

    def test_what_is_not_found_is_asked_for(self, refuted, saved, tmp_path):
        shutil.copy(self.first(refuted / saved), tmp_path / "one.json")
        done = hintbench("replay", "one.json", cwd=tmp_path)
        assert done.returncode == 2
        assert "needs the plugin 'wrong.py'" in done.stderr
        assert done.stderr.endswith("name it with -p PATH/wrong.py\n")


@pytest.mark.parametrize("name", FAULTS)
def test_a_strategy_at_fault_is_told_and_the_others_are_kept(name, tmp_path):
    _, body, message = FAULTS[name]
    write_plugin(tmp_path, name, body)
    done = hintbench(
        *("check", name, "none", "-p", f"{name}.py", "--schedules", "20", "--json", "out.json"),
        cwd=tmp_path,
    )
    assert done.returncode == 1
    assert message in done.stdout
    checks = json.loads((tmp_path / "out.json").read_text())["checks"]
    assert [each["passed"] for each in checks] == [False, True]


def test_a_constructor_at_fault_is_told_and_the_others_are_kept(tmp_path):
    text = (
        "from hintbench import Strategy\n\n\n"
        "class Breaks(Strategy):\n"
        "    name = 'breaks'\n\n"
        "    def __init__(self, *arguments, **keywords):\n"
        "        raise OSError('no')\n"
    )
    (tmp_path / "breaks.py").write_text(text)
    done = hintbench(
        *("check", "breaks", "none", "-p", "breaks.py", "--schedules", "20", "--json", "out.json"),
        cwd=tmp_path,
    )
    assert done.returncode == 1
    assert "OSError: no" in done.stdout
    checks = json.loads((tmp_path / "out.json").read_text())["checks"]
    assert [each["passed"] for each in checks] == [False, True]


def test_what_a_strategy_prints_is_not_ours(tmp_path):
    text = (
        "import os\n"
        "from hintbench.strategies.zone_confined_batching import ZoneConfinedBatching\n"
        "from hintbench import hookimpl\n\n"
        "print('garbage')\n"
        "os.write(1, b'more garbage')\n\n\n"
        "class Prints(ZoneConfinedBatching):\n"
        "    name = 'prints'\n\n"
        "    @hookimpl\n"
        "    def block_freed(self, cpu, pfn, order):\n"
        "        print('garbage')\n"
        "        super().block_freed(cpu, pfn, order)\n"
    )
    (tmp_path / "prints.py").write_text(text)
    done = hintbench(
        *("check", "prints", "-p", "prints.py", "--schedules", "20", "--json", "-"), cwd=tmp_path
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "garbage" not in done.stdout
    assert json.loads(done.stdout)["checks"][0]["passed"]
    assert "no-discard-in-use" in done.stderr


def test_a_strategy_that_reports_nothing_does_not_pass(tmp_path):
    write_plugin(tmp_path, "lazy", "def block_freed(self): pass")
    done = hintbench(
        *("check", "lazy", "none", "-p", "lazy.py", "--schedules", "20", "--json", "out.json"),
        cwd=tmp_path,
    )
    assert done.returncode == 1
    assert "lazy: reported nothing in any of" in " ".join(done.stdout.split())
    assert "check_parameters" in done.stdout
    checks = json.loads((tmp_path / "out.json").read_text())["checks"]
    assert [each["passed"] for each in checks] == [False, True]


def test_a_strategy_that_claims_to_report_nothing_must_not(tmp_path):
    text = (
        "from hintbench import Claims\n"
        "from hintbench.strategies.oracle import Oracle\n\n\n"
        "class Quiet(Oracle):\n"
        "    name = 'quiet'\n\n"
        "    def claims(self):\n"
        "        return Claims(reports_nothing=True)\n"
    )
    (tmp_path / "quiet.py").write_text(text)
    done = hintbench("check", "oracle", "quiet.py", "--schedules", "10", cwd=tmp_path)
    assert done.returncode == 1
    assert "oracle: no rule broken" in done.stdout
    assert "claims to report nothing, and reported in" in " ".join(done.stdout.split())


def readme_strategy(folder):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    (folder / "mine.py").write_text(blocks[0])
    return folder / "mine.py"


def template(folder):
    assert hintbench("new", "strategy", "yours", cwd=folder).returncode == 0
    return folder / "yours.py"


@pytest.mark.parametrize("write", [template, readme_strategy])
def test_what_newcomers_begin_with_reports_and_is_not_refuted(write, tmp_path):
    make = Subject(str(write(tmp_path))).maker()
    long = explore(make, range(3_000_000, 3_000_120), stop=False)
    short = explore_handfuls(make, range(3_000_000, 3_000_200), stop=False)
    for explored in (long, short):
        assert (explored.counts, explored.error) == ({}, None)
        assert explored.with_reports > explored.schedules / 2
    assert compare(make, 3_000_000).counts == {}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["check", "bitmap-and-spn"], "did you mean 'bitmap-and-spin'?"),
        (["check", "none", "--schedules", "0"], "hintbench: --schedules: 0 must be at least 1\n"),
        (["check", "none", "--seconds", "-2"], "hintbench: --seconds: -2 must be above 0\n"),
        (["check", "none", "--seconds", "nan"], "hintbench: --seconds: nan must be above 0\n"),
        (["check", "none", "--seed", "-1"], "hintbench: --seed: -1 is out of range 0..4294967295"),
        (["check", "none", "--jobs", "0"], "--jobs: '0' is not a number in 1..1024"),
        (["check", "none", "--jobs", "-3"], "--jobs: '-3' is not a number in 1..1024"),
        (["check", "none", "--json", "no/folder/out.json"], "out.json: cannot be written"),
        (["check", "none", "--save", "file/folder"], "--save file/folder: cannot be written"),
        (["check", "os:path"], "has no strategy"),
        (["check", "no.such.module:X"], "cannot be imported"),
        (["check", "bitmap-and-spin,batch=0"], "batch"),
        (["replay", "missing.json"], "cannot be read"),
    ],
)
def test_wrong_input(arguments, message, tmp_path):
    (tmp_path / "file").touch()
    done = hintbench(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("size", "told"),
    [
        (0, "no operation, delay or fault"),
        (1, "1 operation, delay or fault"),
        (2, "2 operations, delays and faults"),
    ],
)
def test_what_there_is_one_of_is_told_so(size, told, monkeypatch, capsys):
    counterexample = Told(("once", ""), None, [], size)
    exploration = Exploration(schedules=1, with_reports=1, coverage={"reports": 1, "faults": 2})
    verdicts = judge(exploration, Claims(), {}, cut_short=False)
    check = Check("mine", verdicts, exploration, counterexamples=[counterexample], seed=1)
    monkeypatch.setenv("COLUMNS", "200")
    print_check(open_console(highlight=False), check, {})
    output = capsys.readouterr().out
    assert f"1 counterexample; the median one has {told}\n" in output
    assert f"once, shrunk to {told}:" in output
    assert "1 schedule (1 with reports) from seed 1 in 0.0 s: 1 report, no contended take" in output
    assert "no interrupt, 2 faults" in output


@pytest.mark.parametrize(
    ("size", "seconds", "told"),
    [
        (897, 0.92, " (shrinking stopped after 0.9 s; more --jobs leave more time to it)"),
        (897, 0.0, ""),
        (SHORT, 0.92, ""),
    ],
)
def test_a_story_that_had_no_time_to_become_short_says_so(size, seconds, told, capsys, monkeypatch):
    check = Check("mine", counterexamples=[Told(("once", ""), None, [], size, seconds)])
    monkeypatch.setenv("COLUMNS", "200")
    print_check(open_console(highlight=False), check, {})
    title = f"once, shrunk to {size} operations, delays and faults{told}:"
    assert title in capsys.readouterr().out.splitlines()
