"""What `check` is given (modules, files that define one name), and what it saves."""

import subprocess
import sys

import pytest

TEMPLATE = '''"""A strategy in a file."""

from hintbench import Strategy, hookimpl


class Mine(Strategy):
    """Waits while it holds the lock."""

    name = "mine"

    @hookimpl
    def guest_started(self, guest):
        self.task = guest.spawn(self.work(guest), cpu=0, name="work")

    async def work(self, guest):
        zone = guest.zones[0]
        async with zone.lock:
            block = zone.isolate(zone.free_blocks(9, limit=1)[0].pfn)
            await self.tell(guest, block)
            zone.put_back(block)

    async def tell(self, guest, block):
        await WHAT  # here

    @hookimpl
    async def guest_stopping(self):
        await self.task.join()
'''
HERE = next(at for at, line in enumerate(TEMPLATE.splitlines(), 1) if line.endswith("# here"))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with two files that define one name."""
    monkeypatch.chdir(tmp_path)
    for name, what in (("one", "guest.host.report([block])"), ("two", "guest.sleep(10)")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine.py").write_text(TEMPLATE.replace("WHAT", what))
    (tmp_path / "mine_here.py").write_text(TEMPLATE.replace("WHAT", "guest.sleep(10)"))
    return tmp_path


def run(*arguments):
    command = [sys.executable, "-c", "from hintbench.cli import main; raise SystemExit(main())"]
    # As a console script: the current folder is not among those that are looked through.
    command[1:1] = ["-P"]
    found = subprocess.run(
        [*command, *arguments], capture_output=True, text=True, timeout=120, check=False
    )
    return found.returncode, found.stdout + found.stderr


def test_files_that_define_one_name_are_checked_side_by_side(folder):
    status, text = run("check", "one/mine.py", "two/mine.py", "--schedules", "20", "--jobs", "1")
    assert status == 1
    for name in ("one/mine.py", "two/mine.py"):
        assert f"{name}: refuted by atomic-context" in text
    saved = [path.name for path in (folder / "counterexamples").iterdir()]
    assert len(saved) == 2
    assert {name.partition("-")[0] for name in saved} == {"one_mine.py", "two_mine.py"}
    # The line that waits, although nothing of it runs when that is found out.
    assert f"mine.py:{HERE} in tell" in text


def test_counterexamples_of_one_rule_lie_side_by_side(folder):
    for delay in (10, 11):
        text = TEMPLATE.replace("WHAT", f"guest.sleep({delay})")
        (folder / "mine_here.py").write_text(text)
        assert run("check", "mine_here.py", "--schedules", "20", "--jobs", "1")[0] == 1
    assert len(list((folder / "counterexamples").iterdir())) == 2


def test_a_module_of_the_current_folder_is_found(folder):
    status, text = run("check", "mine_here:Mine", "--schedules", "20", "--jobs", "1")
    assert (status, "mine_here:Mine: refuted by atomic-context" in text) == (1, True)
    assert run("check", "no_such_module:Mine")[0] == 2


def test_the_suite_finds_a_module_of_the_current_folder(folder):
    suite = ["--pyargs", "hintbench.testing.suite", "--strategy", "mine_here:Mine"]
    found = subprocess.run(
        [sys.executable, "-P", "-m", "pytest", "-q", *suite, "--hintbench-schedules", "10"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert "test_rule[mine_here:Mine-atomic-context]" in found.stdout
    assert found.returncode == 1


def test_what_lies_in_the_current_folder_hides_no_module(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hintbench").mkdir()
    (tmp_path / "numpy.py").write_text("raise RuntimeError('not the one')")
    status, text = run("check", "none", "--schedules", "4")
    assert status == 0, text
    assert "none: no rule broken" in text
