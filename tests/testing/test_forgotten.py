"""An await that is missing is the strategy's own fault, told at once, whoever runs it."""

import gc
import textwrap
import time
import warnings
from pathlib import Path

import pytest

from hintbench import Strategy, hookimpl
from hintbench.errors import PluginError
from hintbench.plugins import watchdog
from hintbench.plugins.forgotten import forgotten_awaits
from hintbench.strategies.zone_confined_batching import ZoneConfinedBatching
from hintbench.testing.checking import check_here
from hintbench.testing.exploration import explore, run_scenario
from hintbench.testing.scenarios.families import draw_scenario
from program import hintbench, run_pytest
from small_guest import run


def line_of(text):
    """The line of this file that ends so."""
    lines = Path(__file__).read_text(encoding="utf-8").splitlines()
    (number,) = (number for number, line in enumerate(lines, 1) if line.endswith(text))
    return f"(test_forgotten.py:{number})"


class Forgetful(ZoneConfinedBatching):
    """Starts a task."""

    name = "forgetful"

    @hookimpl
    def guest_started(self, guest):
        super().guest_started(guest)
        guest.spawn(self.forget(guest), cpu=0, name="forgets")


class KeepsTheReport(Forgetful):
    """What it takes for an answer is a coroutine, which lives as long as the function."""

    async def forget(self, guest):
        answer = guest.host.report([])  # kept
        await guest.sleep(1_000)
        assert answer


class Spins(Forgetful):
    """Nothing ever lets anybody else go on."""

    async def forget(self, guest):
        while guest.now < 1_000_000:
            guest.sleep(1_000)  # in a loop


class BreaksARule(Forgetful):
    """A rule is broken while what was not awaited is still alive."""

    async def forget(self, guest):
        answer = guest.sleep(1_000)  # and then a rule is broken
        (zone, *_) = guest.zones
        with zone.lock:
            self.lost = zone.isolate(zone.free_blocks(9)[0].pfn)
        zone.put_back(self.lost)
        assert answer


class BreaksARuleFirst(Forgetful):
    """The await is to come, but for the rule that is broken before it."""

    async def forget(self, guest):
        later = guest.sleep(1_000)
        (zone, *_) = guest.zones
        with zone.lock:
            self.lost = zone.isolate(zone.free_blocks(9)[0].pfn)
        zone.put_back(self.lost)
        await later


class TakesNoLock(Forgetful):
    """A request for a lock is no coroutine, but told like one."""

    async def forget(self, guest):
        guest.zones[0].lock.acquire()  # a lock


def small(strategy_class):
    return lambda: strategy_class(**strategy_class.check_parameters)


@pytest.mark.parametrize(
    ("strategy_class", "what", "where"),
    [
        (KeepsTheReport, "Host.report", "report([])  # kept"),
        (Spins, "Guest.sleep", "sleep(1_000)  # in a loop"),
        (BreaksARule, "Guest.sleep", "and then a rule is broken"),
        (TakesNoLock, "acquire", "acquire()  # a lock"),
    ],
)
def test_it_is_the_strategys_own_fault(strategy_class, what, where, monkeypatch):
    monkeypatch.setattr(watchdog, "LIMIT_SECONDS", 60)
    began = time.monotonic()
    check = check_here(small(strategy_class), schedules=3)
    assert check.error == (
        f"plugin 'forgetful': coroutine '{what}' was never awaited: write await before the call"
        f" {line_of(where)}"
    )
    assert not check.exploration.counts
    # At the next look, a second later, not when it would be a hang.
    assert time.monotonic() - began < 20


def test_what_was_still_to_be_awaited_is_no_fault():
    found = explore(small(BreaksARuleFirst), range(3))
    assert found.error is None
    assert found.counts


PLUGIN = """
from hintbench import Strategy, hookimpl
from hintbench.strategies.zone_confined_batching import ZoneConfinedBatching


class Forgetful(ZoneConfinedBatching):
    name = "forgetful"

    @hookimpl
    def guest_started(self, guest):
        super().guest_started(guest)
        guest.spawn(self.work(guest), cpu=0, name="works")

    async def work(self, guest):
        while True:
            guest.sleep(1_000)
"""


@pytest.mark.parametrize(
    "command",
    [
        ("check", "forgetful", "-p", "forgetful.py", "--jobs", "1"),
        ("run", "-s", "forgetful", "-w", "page-fault1", "-p", "forgetful.py"),
    ],
)
def test_the_command_line(command, tmp_path):
    (tmp_path / "forgetful.py").write_text(PLUGIN)
    done = hintbench(*command, cwd=tmp_path)
    assert done.returncode == 1
    told = " ".join((done.stdout + done.stderr).split())
    assert "coroutine 'Guest.sleep' was never awaited: write await before the call" in told
    assert "(forgetful.py:16)" in told
    assert "Warning" not in told


def test_the_suite(tmp_path):
    (tmp_path / "test_forgetful.py").write_text(
        PLUGIN
        + textwrap.dedent(
            """

            from hintbench.testing import StrategyConformance


            class TestForgetful(StrategyConformance):
                strategy = Forgetful
                schedules = 3
            """
        )
    )
    done = run_pytest("-q", "-k", "something", cwd=tmp_path)
    assert done.returncode == 1
    assert "coroutine 'Guest.sleep' was never awaited" in done.stdout
    assert "(test_forgetful.py:16)" in done.stdout


def test_other_warnings_and_how_coroutines_are_made_stay_as_they_were():
    async def nothing():
        """A coroutine."""

    with pytest.warns(RuntimeWarning, match="never awaited") as told:
        with forgotten_awaits() as found:
            nothing()
        assert len(found) == 1
        nothing()
    # Where it was made is told inside only.
    assert [str(each.message) for each in told] == [
        f"coroutine '{nothing.__qualname__}' was never awaited"
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with forgotten_awaits() as found:
            nothing()
    assert len(found) == 1


def test_a_run_that_is_given_up_leaves_nothing_to_warn_of():
    class GivesUp(ZoneConfinedBatching):
        name = "gives-up"

        @hookimpl
        async def guest_started(self, guest):
            guest.spawn(self.work(), cpu=0, name="never begins")
            raise KeyError("no")

        async def work(self):
            """It would come after guest_started."""

    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        with pytest.raises(PluginError, match="KeyError"):
            run(GivesUp(), [])
        gc.collect()
    assert not [each for each in told if "never awaited" in str(each.message)]


def test_a_call_that_raised_has_thrown_its_coroutine_away():
    """What the call says is of more use than that its argument was not awaited."""

    class Swaps(Strategy):
        """Has the arguments the wrong way round."""

        name = "swaps"

        @hookimpl
        def guest_started(self, guest):
            guest.spawn("work", self.work(), cpu=0)

        async def work(self):
            """Does nothing."""

    with pytest.raises(PluginError, match=r"spawn") as raised:
        run(Swaps(), [])
    assert "never awaited" not in str(raised.value)
    outcome = run_scenario(Swaps, draw_scenario(1))
    assert "spawn" in outcome.error
    assert "never awaited" not in outcome.error
