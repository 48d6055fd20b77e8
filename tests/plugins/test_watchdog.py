"""A plugin that hangs is named, wherever it does so, and nothing of the process is changed."""

import itertools
import signal
import threading
import time

import pytest

import hintbench
from hintbench import Program, Strategy, Workload, hookimpl
from hintbench.errors import PluginHangError
from hintbench.operations import Flag, allocate, free
from hintbench.plugins import watchdog
from hintbench.plugins.finding import load_plugin
from small_guest import Silent, run, small_guest

TAPE = [allocate([0], order=10, flags=Flag.TOUCHED), free([0])]
HOW = r"hang \(line \d+\): no return within 1 s"


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(watchdog, "_SECONDS_BETWEEN_LOOKS", 0.05)
    monkeypatch.setattr(watchdog, "LIMIT_SECONDS", 1)
    monkeypatch.setattr("hintbench.runner.PROGRAM_LIMIT_SECONDS", 1)


def hang():
    while True:
        pass


class Hanging(Strategy):
    """Hangs in a hook or in a task."""

    name = "hanging"
    where = "hook"

    @hookimpl
    def guest_started(self, guest):
        if self.where == "task":
            guest.spawn(self.work(), cpu=0, name="worker")

    @hookimpl
    def page_allocated(self):
        hang()

    async def work(self):
        hang()


class Endless(Workload):
    """Hangs while it is laid out, or in a tape."""

    name = "endless"
    where = "program"

    def program(self, setting):
        if self.where == "program":
            hang()
        return Program(1, (self.tape(),) * setting.vcpus, operations=0)

    def tape(self):
        yield from TAPE
        hang()


@pytest.mark.parametrize("where", ["hook", "task"])
def test_a_strategy(where):
    strategy = Hanging()
    strategy.where = where
    began = time.monotonic()
    with pytest.raises(PluginHangError, match=HOW) as caught:
        run(strategy, TAPE)
    assert caught.value.plugin == "hanging"
    assert time.monotonic() - began < 3


@pytest.mark.parametrize("where", ["program", "tape"])
def test_a_workload(where):
    workload = Endless()
    workload.where = where
    with pytest.raises(PluginHangError, match=HOW) as caught:
        hintbench.run(Silent, workload, small_guest())
    assert caught.value.plugin == "endless"


def test_a_plugin_that_is_loaded(tmp_path, monkeypatch):
    monkeypatch.setattr("hintbench.plugins.finding.LOAD_LIMIT_SECONDS", 1)
    path = tmp_path / "endless.py"
    path.write_text("while True:\n    pass\n")
    with pytest.raises(PluginHangError, match=r"endless\.py'.*\(line \d\): no return within 1 s"):
        load_plugin(str(path))


def test_a_task_that_lets_no_time_pass():
    class Still(Strategy):
        name = "still"

        @hookimpl
        def guest_started(self, guest):
            guest.spawn(self.work(guest), cpu=0, name="worker")

        async def work(self, guest):
            while True:
                await guest.sleep(0)

    with pytest.raises(PluginHangError, match=r"virtual time has stood still for 1 s.*sleep\(0\)"):
        run(Still(), TAPE)


@pytest.mark.parametrize("base", [Strategy, Workload])
def test_a_constructor(base):
    def construct(self):
        hang()

    body = {"name": "slow", "__init__": construct, "program": lambda self, setting: None}
    slow = type("Slow", (base,), body)
    given = (slow, Endless) if base is Strategy else (Silent, slow)
    with pytest.raises(PluginHangError, match="plugin 'slow'.*" + HOW):
        hintbench.run(*given, small_guest())


def test_progress_is_not_a_hang():
    steps = itertools.count()
    end = time.monotonic() + 0.5
    with watchdog.watch(lambda: "busy", lambda: next(steps)):
        while time.monotonic() < end:
            pass
    assert next(steps) > 1, "nobody has looked whether it gets on"


def test_the_timer_that_there_was_comes_back():
    rang = []
    before = signal.signal(signal.SIGALRM, lambda *_: rang.append("rang"))
    try:
        signal.setitimer(signal.ITIMER_REAL, 60, 30)
        run(None, TAPE)
        with watchdog.watch(lambda: "quick"):
            time.sleep(0.01)
        left, interval = signal.getitimer(signal.ITIMER_REAL)
        assert 0 < left <= 60 - 0.01
        assert interval == 30
        signal.raise_signal(signal.SIGALRM)
        assert rang == ["rang"]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_a_timer_that_ran_out_meanwhile_rings_afterwards():
    rang, steps = [], itertools.count()
    before = signal.signal(signal.SIGALRM, lambda *_: rang.append("rang"))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        with watchdog.watch(lambda: "busy", lambda: next(steps)):
            time.sleep(0.15)
            assert not rang
        end = time.monotonic() + 60
        while not rang and time.monotonic() < end:
            time.sleep(0.001)
        assert rang == ["rang"]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_no_timer_is_left_behind():
    run(None, TAPE)
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_a_thread_is_told_that_nobody_watches():
    caught = []

    def simulate():
        with pytest.warns(RuntimeWarning, match="will not be noticed: only the main thread"):
            caught.append(run(None, TAPE).result.digest)

    thread = threading.Thread(target=simulate)
    thread.start()
    thread.join()
    assert caught == [run(None, TAPE).result.digest]
