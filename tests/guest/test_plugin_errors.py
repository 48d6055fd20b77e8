"""A strategy at fault ends its run, and the error says which, where, and what happened."""

import asyncio
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

from faulty import TAPE, Faulty, fails
from hintbench import Block, PluginError, hookimpl
from hintbench.errors import TaskLeakError
from hintbench.operations import Flag, allocate, compute, free, idle
from hintbench.plugins.finding import make
from small_guest import MS, START, costs, run, small_guest

HOOKS = [
    "guest_started",
    "page_freeing",
    "block_freed",
    "block_taken",
    "free_completed",
    "page_allocated",
    "guest_stopping",
]


class TestExceptions:
    @pytest.mark.parametrize("hook", HOOKS)
    def test_in_a_hook(self, hook):
        def broken(self):
            raise KeyError("lost")

        broken.__name__ = hook
        strategy = type("Broken", (Faulty,), {hook: hookimpl(broken)})
        error = fails(strategy)
        assert (error.plugin, error.hook) == ("faulty", hook)
        assert isinstance(error.__cause__, KeyError)
        assert f"plugin 'faulty': {hook}: KeyError: 'lost' (test_plugin_errors.py:" in str(error)

    def test_in_a_hook_that_takes_all_arguments(self):
        class Broken(Faulty):
            @hookimpl
            def page_allocated(self, guest, cpu, pfn, order):
                raise KeyError(pfn)

        assert fails(Broken).hook == "page_allocated"

    def test_in_a_hook_under_another_name(self):
        class Broken(Faulty):
            @hookimpl(specname="page_allocated")
            def given_out(self):
                return 1 / 0

        assert fails(Broken).hook == "page_allocated"

    def test_in_a_hook_that_an_observer_shares(self):
        class Broken(Faulty):
            @hookimpl
            def page_allocated(self):
                return 1 / 0

        class Watcher:
            @hookimpl
            def page_allocated(self):
                pass

        assert fails(Broken, observers=[Watcher()]).plugin == "faulty"

    def test_in_an_observer(self):
        class Watcher:
            name = "watcher"

            @hookimpl
            def page_allocated(self):
                return 1 / 0

        error = fails(Faulty, observers=[Watcher()])
        assert (error.plugin, error.hook) == ("watcher", "page_allocated")

    @pytest.mark.parametrize("hook", ["page_freeing", "free_completed", "page_allocated"])
    def test_in_a_coroutine_of_a_hook(self, hook):
        async def broken(self, guest):
            async with guest.zones[0].lock:
                pass
            raise KeyError("lost")

        broken.__name__ = hook
        strategy = type("Broken", (Faulty,), {hook: hookimpl(broken)})
        assert fails(strategy).hook == hook

    def test_in_hook_filters(self):
        class Broken(Faulty):
            def hook_filters(self):
                return 1 / 0

        assert fails(Broken).hook == "hook_filters"

    def test_in_a_task(self):
        class Broken(Faulty):
            @hookimpl
            def guest_started(self, guest):
                guest.spawn(self.work(guest), cpu=0, name="worker/3")

            async def work(self, guest):
                await guest.sleep(1)
                raise ValueError

        error = fails(Broken)
        assert (error.hook, str(error.__cause__)) == ("worker/3", "")

    def test_in_an_acknowledgement(self):
        class Broken(Faulty):
            @hookimpl
            def guest_started(self, guest):
                block = Block(START, 10, guest.zones[0])
                guest.spawn(guest.host.post([block], lambda: 1 / 0), cpu=0, name="poster")

        error = fails(Broken, [idle([1000])])
        assert error.hook == "acknowledgement"
        assert isinstance(error.__cause__, ZeroDivisionError)

    @pytest.mark.parametrize("waits", [False, True])
    def test_in_a_hook_that_vmstat_calls(self, waits):
        class Broken(Faulty):
            @hookimpl
            def free_completed(self, guest):
                if guest.now < 1_000_000_000:
                    return None
                if waits:
                    return self.later(guest)
                raise KeyError("lost")

            async def later(self, guest):
                async with guest.zones[0].lock:
                    pass
                raise KeyError("lost")

        tape = [allocate(range(4000), flags=Flag.TOUCHED), free(range(4000)), idle([10**10])]
        error = fails(Broken, tape)
        assert error.hook == "free_completed"

    @pytest.mark.parametrize("value", [True, 7, "x"])
    def test_a_hook_that_returns_something_else(self, value):
        class Broken(Faulty):
            @hookimpl
            def page_allocated(self):
                return value

        assert "returned" in str(fails(Broken))
        assert "None or a coroutine" in str(fails(Broken))


class TestEnd:
    def test_a_task_that_survives_guest_stopping_by_a_second(self):
        class Leaking(Faulty):
            @hookimpl
            def guest_started(self, guest):
                guest.spawn(guest.sleep(1_100_000_000), cpu=0, name="worker/0")
                guest.spawn(guest.sleep(900_000_000), cpu=0, name="worker/1")

            @hookimpl
            def guest_stopping(self):
                """Forgets to end them."""

        with pytest.raises(
            TaskLeakError, match=r"'faulty': guest_stopping: still alive.*worker/0;"
        ):
            run(Leaking(), [compute([1000])])

    def test_what_a_task_does_on_the_way_out_changes_nothing(self):
        class Exits(Faulty):
            @hookimpl
            def guest_started(self, guest):
                guest.spawn(self.work(guest), cpu=0, name="worker")

            async def work(self, guest):
                try:
                    await guest.event().wait()
                finally:
                    sys.exit(3)

            @hookimpl
            def guest_stopping(self):
                """Forgets to end it."""

        with pytest.raises(TaskLeakError, match=r"still alive.*worker"):
            run(Exits(), [compute([1000])])

    def test_a_guest_started_that_never_ends(self):
        class Endless(Faulty):
            @hookimpl
            async def guest_started(self, guest):
                while True:
                    await guest.sleep(1_000_000_000)

        assert "guest_started: does not end within two virtual minutes" in str(fails(Endless))

    def test_a_guest_started_that_waits_for_nothing(self):
        class Stuck(Faulty):
            @hookimpl
            async def guest_started(self, guest):
                await guest.event().wait()

        error = fails(Stuck, config=small_guest(kernel="5.0"))
        assert "guest_started: waits for something that never happens" in str(error)


def test_hooks_fire_from_the_first_await_of_guest_started_on():
    class Early(Faulty):
        @hookimpl
        async def guest_started(self, guest):
            self.taken = []
            zone = guest.zones[0]
            async with zone.lock:
                block = zone.isolate(START)
                zone.put_back(block)

        @hookimpl
        def block_taken(self, pfn):
            self.taken.append(pfn)

    early = Early()
    run(early, [], config=small_guest(costs=costs(task_switch_ns=5)))
    assert early.taken == [START]


class Working(Faulty):
    """Does something in a task."""

    @hookimpl
    def guest_started(self, guest):
        self.guest = guest
        guest.spawn(self.work(), cpu=0, name="worker")


def line_of(text):
    """The line of this file that ends so."""
    lines = Path(__file__).read_text(encoding="utf-8").splitlines()
    (number,) = (number for number, line in enumerate(lines, 1) if line.endswith(text))
    return number


class TestHabits:
    """What people are used to from elsewhere is refused with what would be right."""

    @pytest.mark.parametrize(
        "wait",
        [
            lambda guest: guest.sleep(0.05),
            lambda guest: guest.event().wait(0.05),
            lambda guest: guest.event().wait(timeout_ns=0.05),
        ],
    )
    def test_seconds(self, wait):
        class Seconds(Working):
            async def work(self):
                await wait(self.guest)

        error = str(fails(Seconds))
        assert "0.05 is not a whole number of nanoseconds, e.g. 50_000_000 for 50 ms" in error

    def test_times_of_numpy(self):
        class Numpy(Working):
            async def work(self):
                await self.guest.sleep(np.int64(MS))

        assert run(Numpy(), TAPE).result.violations == {}

    def test_the_plugins_own_line_is_named(self):
        class Spawns(Faulty):
            @hookimpl
            def guest_started(self, guest):
                self.helper(guest)

            def helper(self, guest):
                guest.spawn(self.work(), cpu=77, name="worker")  # the line

            async def work(self):
                pass

        error = str(fails(Spawns))
        place = f"(test_plugin_errors.py:{line_of('  # the line')})"
        assert error.endswith(f"spawn 'worker': CPU 77 is not one of 0..0 {place}")

    def test_pages_are_no_blocks(self):
        class Pages(Working):
            async def work(self):
                await self.guest.host.report([5])  # no block

        error = str(fails(Pages))
        assert "5 is not a Block: report what isolate() or free_blocks() returned" in error
        assert f"test_plugin_errors.py:{line_of('report([5])  # no block')}" in error

    def test_a_single_block_is_no_list(self):
        class Single(Working):
            async def work(self):
                await self.guest.host.report(5)

        assert "TypeError: 5 is no list: report [block], also of a single one" in str(fails(Single))

    def test_a_cpu_is_a_number(self):
        class Spawns(Faulty):
            @hookimpl
            def guest_started(self, guest):
                guest.spawn(guest.sleep(1), cpu="0", name="worker")

        assert "spawn 'worker': cpu='0' is no CPU's number" in str(fails(Spawns))

    def test_what_a_cpu_has_is_not_replaced(self):
        class Counts(Faulty):
            @hookimpl
            def guest_started(self, guest):
                guest.per_cpu(int)[0] += 1

        assert "TypeError: PerCpu: what a CPU has is changed, not" in str(fails(Counts))

    def test_a_function_that_was_not_called(self):
        class Uncalled(Faulty):
            @hookimpl
            def guest_started(self, guest):
                guest.spawn(self.work, cpu=0, name="worker")

            async def work(self):
                pass

        assert "work is not a coroutine: call it, as in work()" in str(fails(Uncalled))

    def test_asyncio(self):
        class Asyncio(Working):
            async def work(self):
                await asyncio.sleep(1)

        error = str(fails(Asyncio))
        assert "no running event loop (test_plugin_errors.py:" in error
        assert "await guest.sleep(ns), not asyncio's" in error

    def test_parameters_by_position(self):
        class Positional(Faulty):
            name = "positional"

            def __init__(self, parameters):
                super().__init__()

        with pytest.raises(PluginError, match=r"by name, def __init__\(self, \*\*given\)"):
            make("strategy", Positional)

    @pytest.mark.parametrize("then", ["ends", "fails"])
    def test_a_forgotten_await(self, then):
        class Forgetful(Working):
            async def work(self):
                self.guest.host.report([])  # forgotten
                if then == "fails":
                    raise KeyError

        error = fails(Forgetful)
        assert error.plugin == "faulty"
        place = f"(test_plugin_errors.py:{line_of('report([])  # forgotten')})"
        assert "coroutine 'Host.report' was never awaited: write await before the call" in str(
            error
        )
        assert str(error).endswith(place)

    def test_other_warnings_are_shown(self):
        class Warns(Working):
            async def work(self):
                warnings.warn("of something else", RuntimeWarning, stacklevel=1)

        with pytest.warns(RuntimeWarning, match="of something else"):
            run(Warns(), TAPE)
