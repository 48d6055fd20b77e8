"""What narrowing a hook costs and spares, and flags that the guest forgets by itself."""

import pytest

from hintbench import HookFilter, Strategy, hookimpl
from hintbench.operations import Flag, allocate, free
from small_guest import START, run

KERNELS = ["5.0", "6.12"]


def pages(slots, **given):
    return allocate(slots, flags=Flag.TOUCHED, **given)


class Narrow(Strategy):
    """Counts the calls of every hook that can be narrowed."""

    name = "narrow"

    def __init__(self, **narrowed):
        super().__init__()
        self.narrowed = narrowed
        self.calls = []
        self.flags = None

    @hookimpl
    def guest_started(self, guest):
        self.flags = guest.flags("some", order=10)
        self.flags.set(START)

    def hook_filters(self):
        made = {}
        for hook, filters in self.narrowed.items():
            flags = {"flags": self.flags} if filters.pop("flagged", False) else {}
            made[hook] = HookFilter(**filters, **flags)
        return made

    @hookimpl
    def page_freeing(self, pfn, order):
        self.calls.append(("page_freeing", pfn, order))

    @hookimpl
    def block_merged(self, pfn, order):
        self.calls.append(("block_merged", pfn, order))

    @hookimpl
    def block_freed(self, pfn, order):
        self.calls.append(("block_freed", pfn, order))

    @hookimpl
    def block_taken(self, pfn, order):
        self.calls.append(("block_taken", pfn, order))

    @hookimpl
    def page_allocated(self, pfn, order):
        self.calls.append(("page_allocated", pfn, order))


class Watcher:
    """Sees everything, whatever the strategy is narrowed to."""

    def __init__(self):
        self.calls = []

    page_freeing = Narrow.page_freeing
    block_merged = Narrow.block_merged
    block_freed = Narrow.block_freed
    block_taken = Narrow.block_taken
    page_allocated = Narrow.page_allocated


NARROWABLE = ["page_freeing", "block_merged", "block_freed", "block_taken", "page_allocated"]
# 7 blocks of order 4 and two of order 10, freed again: they merge.
TAPE = [
    pages(range(7), order=4),
    pages([7, 8], order=10),
    free([7, 8]),
    free(range(7)),
]


class TestNarrowing:
    def counted(self, hook, observers=(), **filters):
        narrow = Narrow(**({hook: filters} if filters else {}))
        running = run(narrow, TAPE, observers=observers)
        found = [(pfn, order) for called, pfn, order in narrow.calls if called == hook]
        return found, running.result.metrics["virtual_ns"]

    @pytest.mark.parametrize("shared", [False, True])
    @pytest.mark.parametrize("hook", NARROWABLE)
    def test_by_order(self, hook, shared):
        everything, _ = self.counted(hook)
        watcher = Watcher()
        found, _ = self.counted(hook, observers=[watcher] * shared, min_order=6)
        assert found == [(pfn, order) for pfn, order in everything if order >= 6]
        assert 0 < len(found) < len(everything)
        if shared:
            seen = [(pfn, order) for called, pfn, order in watcher.calls if called == hook]
            assert seen == everything

    @pytest.mark.parametrize("hook", NARROWABLE)
    def test_by_flag(self, hook):
        everything, _ = self.counted(hook)
        found, _ = self.counted(hook, flagged=True)
        assert found == [(pfn, order) for pfn, order in everything if pfn < START + 1024]
        other = [each for each in everything if each not in found]
        assert bool(found) or bool(other)

    @pytest.mark.parametrize("shared", [False, True])
    @pytest.mark.parametrize("hook", NARROWABLE)
    def test_the_test_costs_whether_it_hits_or_not(self, hook, shared):
        everything, before = self.counted(hook)
        observers = [Watcher()] * shared
        _, after = self.counted(hook, observers, min_order=6, cost_ns=3)
        assert after - before == 3 * len(everything)


class TestForgetting:
    def flags_of(self, forget, *tape):
        class Flagging(Strategy):
            name = "flagging"

            @hookimpl
            def guest_started(self, guest):
                self.flags = guest.flags("some", order=9, forget=forget)
                for pfn in range(START, START + 64 * 1024, 512):
                    self.flags.set(pfn)

        flagging = Flagging()
        run(flagging, list(tape))
        return 128 - flagging.flags.count

    def test_never(self):
        assert self.flags_of("never", pages([0], order=10), free([0])) == 0

    def test_when_allocated_only_the_units_of_the_page(self):
        assert self.flags_of("allocated", pages([0], order=10)) == 2
        assert self.flags_of("allocated", pages([0], order=9)) == 1
        assert self.flags_of("allocated", pages([0], order=0)) == 1

    def test_when_taken_those_of_the_block_that_was_cut(self):
        assert self.flags_of("taken", pages([0], order=10)) == 2
        assert self.flags_of("taken", pages([0], order=4)) == 2

    def test_allocated_is_forgotten_after_the_hook_has_waited(self):
        class Late(Strategy):
            name = "late"

            @hookimpl
            def guest_started(self, guest):
                self.flags = guest.flags("told", order=10, forget="allocated")

            @hookimpl
            async def page_allocated(self, guest, pfn):
                async with guest.zones[0].lock:
                    self.flags.set(pfn)

        late = Late()
        run(late, [pages([0])])
        assert late.flags.count == 0
