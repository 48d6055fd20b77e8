"""A strategy at fault ends its run, and the error says which, where, and what happened."""

import pytest

from hintbench import Block, PluginError, Strategy, hookimpl
from hintbench.errors import TaskLeakError
from hintbench.operations import Flag, allocate, compute, free, idle
from small_guest import START, costs, run, small_guest

TAPE = [allocate([0], order=10, flags=Flag.TOUCHED), free([0])]
PCP_TAPE = [allocate(range(1024), flags=Flag.TOUCHED), free(range(1024))]


class Faulty(Strategy):
    """Has a fault in one hook."""

    name = "faulty"


def fails(strategy, *tapes, **given):
    """The error that the run ends with."""
    with pytest.raises(PluginError) as caught:
        run(strategy() if isinstance(strategy, type) else strategy, *(tapes or [TAPE]), **given)
    return caught.value


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
