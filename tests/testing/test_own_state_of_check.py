"""A stranger's strategy with locks and state of its own is checked as any other."""

import json
from importlib import import_module
from pathlib import Path

import pytest

from hintbench import Strategy, hookimpl
from hintbench.testing.exploration import explore, run_scenario
from hintbench.testing.mutants import MUTANTS
from hintbench.testing.scenarios.families import draw_scenario
from program import hintbench

STRANGER = '''
from hintbench import Claims, HookFilter, Strategy, hookimpl


class Stranger(Strategy):
    """Tells of freed blocks, one at a time; a list of them, under a lock of its own."""

    name = "stranger"
    declared_failures = {"no-false-oom": "nothing makes an allocation wait"}

    @hookimpl
    def guest_started(self, guest):
        self.guest, self.stop = guest, guest.event()
        self.lock = guest.spinlock("freed")
        self.freed = guest.guarded([], by=self.lock)
        self.told = guest.atomic(0)
        self.task = guest.spawn(self.work(), cpu=0, name="work")

    def hook_filters(self):
        return {"block_freed": HookFilter(min_order=9)}

    @hookimpl
    def block_freed(self, pfn):
        with self.lock:
            self.freed.append(pfn)

    async def work(self):
        while not await self.stop.wait(timeout_ns=100_000):
            while (pfn := await self.next()) is not None:
                await self.tell(self.guest.zone_of(pfn), pfn)

    async def next(self):
        %s

    async def tell(self, zone, pfn):
        async with zone.lock:
            block = zone.isolate(pfn) if zone.free_order(pfn) >= 9 else None
        if block is not None:
            if await self.guest.host.report([block]):
                self.told.add()
            async with zone.lock:
                zone.put_back(block)

    @hookimpl
    async def guest_stopping(self):
        self.stop.set()
        await self.task.join()

    def claims(self):
        return Claims(min_order=9, one_zone=True)
'''
RIGHT = """async with self.lock:
            return self.freed.pop() if self.freed else None"""
WRONG = """if self.told.read() and not self.freed:
            return None
        async with self.lock:
            return self.freed.pop() if self.freed else None"""


def test_a_strangers_list_without_its_lock_is_refuted(tmp_path):
    text = STRANGER % WRONG
    (tmp_path / "stranger.py").write_text(text)
    done = hintbench(
        *("check", "stranger.py", "--schedules", "8", "--jobs", "1", "--json", "out.json"),
        cwd=tmp_path,
    )
    assert done.returncode == 1
    check = json.loads((tmp_path / "out.json").read_text())["checks"][0]
    assert check["error"] == ""
    assert check["verdicts"]["locked-state"]["verdict"] == "broken"
    line = 1 + text.splitlines().index("        if self.told.read() and not self.freed:")
    assert f"stranger.py:{line} in next" in done.stdout
    assert "work touches what the lock 'freed' guards, without it" in done.stdout


def test_with_its_lock_it_is_not():
    names = {"__name__": __name__}
    exec(STRANGER % RIGHT, names)
    exploration = explore(names["Stranger"], range(1, 21), stop=False)
    assert exploration.error is None
    assert set(exploration.counts) <= {"no-false-oom"}
    assert exploration.with_reports > 10


class Swaps(Strategy):
    """Lets go of the lock that it is called with, and has another."""

    name = "swaps"

    @hookimpl
    def guest_started(self, guest):
        self.own = guest.spinlock("own")

    @hookimpl
    def block_freed(self, zone):
        if not self.own.held:
            zone.lock.release()
            self.own.take()


def test_one_lock_for_another_is_the_hooks_fault():
    outcomes = (run_scenario(Swaps, draw_scenario(seed)) for seed in range(1, 20))
    outcome = next(outcome for outcome in outcomes if outcome.violations or outcome.error)
    (violation,) = outcome.violations.values()
    assert violation.rule == "locked-lists"
    assert violation.text == "block_freed let go of the lock that it was called with"


class Publishes(Strategy):
    """Makes a list, lets another task have it, and goes on as if it were its own."""

    name = "publishes"

    @hookimpl
    async def guest_started(self, guest):
        self.lock = guest.spinlock("own")
        self.listed = guest.guarded([], by=self.lock)
        self.listed.append(1)
        if self.shares:
            await guest.spawn(self.look(), cpu=0, name="look").join()
        self.listed.append(2)

    async def look(self):
        async with self.lock:
            self.listed.append(3)


@pytest.mark.parametrize("shares", [False, True])
def test_what_another_has_seen_is_published(shares):
    strategy = type("Publishes", (Publishes,), {"shares": shares})
    found = run_scenario(strategy, draw_scenario(1)).counts
    assert found == ({"locked-state": 1} if shares else {})


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("keeps-its-list-locked", "self.lock.__enter__()"),
        ("keeps-a-zone-locked", "zone.lock.__enter__()"),
        ("locks-its-list-twice", "return await super().splice()"),
        ("restores-too-early", "with self.guest.interrupts_off():"),
    ],
)
def test_misused_locks_are_told_with_their_line(name, line):
    mutant = MUTANTS[name]
    outcomes = (run_scenario(mutant, draw_scenario(seed)) for seed in range(1, 20))
    outcome = next(outcome for outcome in outcomes if outcome.violations)
    (violation,) = outcome.violations.values()
    assert violation.rule == mutant.breaks[0]
    file, _, rest = violation.line.partition(":")
    source = Path(import_module(mutant.__module__).__file__)
    assert file == source.name
    lines = source.read_text(encoding="utf-8").splitlines()
    assert lines[int(rest.split()[0]) - 1].strip() == line
