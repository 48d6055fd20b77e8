"""What hooks return, and what they must not do from inside: refused by name, with the rule."""

import pytest

from faulty import TAPE, Faulty, fails
from hintbench import Origin, hookimpl
from small_guest import START, run, small_guest

NEVER = ["block_freed", "block_taken"]
ELSEWHERE = ["page_freeing", "page_allocated", "free_completed", "block_merged"]


class Watcher:
    """An observer."""

    name = "watcher"


def returning(base, hook, value):
    """A class of which one hook returns what ``value()`` gives."""

    def method(self):
        return value()

    method.__name__ = hook
    return type(base.__name__, (base,), {hook: hookimpl(method)})


async def later():
    """A coroutine that nobody awaits."""


class TestWaiting:
    @pytest.mark.parametrize("hook", NEVER)
    @pytest.mark.parametrize("value", [later, lambda: 7, lambda: False])
    def test_a_hook_that_never_waits(self, hook, value):
        error = fails(returning(Faulty, hook, value)())
        assert (error.plugin, error.hook) == ("faulty", hook)
        assert "may not wait" in str(error)
        assert "must return None" in str(error)

    @pytest.mark.parametrize("hook", NEVER)
    def test_beside_an_observer(self, hook):
        watcher = returning(Watcher, hook, lambda: None)()
        error = fails(returning(Faulty, hook, later)(), observers=[watcher])
        assert (error.plugin, error.hook) == ("faulty", hook)

    @pytest.mark.parametrize("hook", [*NEVER, *ELSEWHERE])
    @pytest.mark.parametrize("shared", [False, True])
    def test_an_observer(self, hook, shared):
        strategy = returning(Faulty, hook, lambda: None)() if shared else Faulty()
        error = fails(strategy, observers=[returning(Watcher, hook, later)()])
        assert (error.plugin, error.hook) == ("watcher", hook)
        assert "returned coroutine, but the hook is an observer's" in str(error)


class TestPutBack:
    class Back(Faulty):
        """Isolates a block and puts it back, with or without notification."""

        notify = False

        def __init__(self):
            super().__init__()
            self.freed = []

        @hookimpl
        async def guest_started(self, guest):
            zone = guest.zones[0]
            async with zone.lock:
                pass  # the hooks are attached with the first wait
            async with zone.lock:
                zone.put_back(zone.isolate(START), notify=self.notify)

        @hookimpl
        def block_freed(self, pfn, order, freed, origin):
            self.freed.append((pfn, order, freed.pfn, freed.order, Origin(origin)))

    def test_without_notification(self):
        strategy = self.Back()
        run(strategy, [])
        assert strategy.freed == []

    def test_with_notification(self):
        strategy = self.Back()
        strategy.notify = True
        run(strategy, [])
        assert strategy.freed == [(START, 10, START, 10, Origin.PUT_BACK)]

    class Inside(Faulty):
        """Isolates what was freed and puts it back at once."""

        notify = False

        @hookimpl
        def block_freed(self, zone, pfn):
            zone.put_back(zone.isolate(pfn), notify=self.notify)

    def test_inside_block_freed_without_notification(self):
        running = run(self.Inside(), TAPE)
        assert running.result.violations == {}
        assert running.machine.zones[0].isolations == 2  # 6.12 frees order 10 as two pageblocks

    def test_inside_block_freed_with_notification(self):
        strategy = self.Inside()
        strategy.notify = True
        error = fails(strategy)
        assert error.hook == "block_freed"
        assert "notify=True inside block_freed would fire it again (rule once" in str(error)

    @pytest.mark.parametrize("kernel", ["5.0", "6.12"])
    def test_a_merge_on_the_way_back_fires_no_block_merged(self, kernel):
        class Merging(Faulty):
            merged = ()

            @hookimpl
            async def guest_started(self, guest):
                zone = guest.zones[0]
                async with zone.lock:
                    pass
                async with zone.lock:
                    first = zone.allocate(9)
                    second = zone.isolate(first ^ 512)
                    zone.free(first, 9)
                    assert zone.put_back(second, notify=True) == 10

            @hookimpl
            def block_merged(self, pfn):
                self.merged = (*self.merged, pfn)

        running = run(strategy := Merging(), [], config=small_guest(kernel=kernel))
        assert (strategy.merged, running.result.violations) == ((), {})


def test_a_hook_that_raises_leaves_the_zone_open_to_edits():
    class Raising(Faulty):
        caught = False

        @hookimpl
        async def guest_started(self, guest):
            zone = guest.zones[0]
            async with zone.lock:
                pass
            async with zone.lock:
                try:
                    zone.isolate(START)
                except KeyError:
                    self.caught = True
                zone.rotate_to_front(zone.free_blocks(10)[-1])

        @hookimpl
        def block_taken(self):
            if not self.caught:
                raise KeyError

    # The block itself is lost between two lists: the strategy's own fault, and told as that.
    strategy = Raising()
    result = run(strategy, []).result
    assert strategy.caught
    assert set(result.violations) <= {"conservation"}
