"""Hooks on the guest: where they fire, what they may do there, and that watching is free."""

import pytest

from hintbench import HookFilter, Strategy, hookimpl
from hintbench.operations import Flag, allocate, compute, free, idle
from hintbench.strategies.bitmap_and_spin import BitmapAndSpin
from hintbench.strategies.oracle import Oracle
from hintbench.strategies.percpu_array_v9 import PercpuArrayV9
from hintbench.strategies.zone_confined_batching import ZoneConfinedBatching
from small_guest import boot, host, run, small_guest

KERNELS = ["5.0", "6.12"]


def pages(slots, **given):
    return allocate(slots, flags=Flag.TOUCHED, **given)


class TestPlaces:
    def test_under_the_zone_lock_and_outside(self):
        locked = {}

        class Looking(Strategy):
            name = "looking"

        def look(hook):
            def called(self, guest):
                locked.setdefault(hook, set()).add(guest.zones[0].lock.held_here)

            called.__name__ = hook
            return hookimpl(called)

        hooks = ["page_freeing", "block_freed", "block_taken", "free_completed", "page_allocated"]
        for hook in hooks:
            setattr(Looking, hook, look(hook))
        run(Looking(), [pages([0], order=10), free([0])])
        assert locked == {
            "page_freeing": {False},
            "block_freed": {True},
            "block_taken": {True},
            "free_completed": {False},
            "page_allocated": {False},
        }

    def test_block_freed_fires_in_between_two_frees_of_one_drain(self):
        class Watching(Strategy):
            name = "watching"
            log = []

            @hookimpl
            def block_freed(self, zone, freed, order):
                self.log.append((zone.free_pages, freed.order, order))

        watching = Watching()
        config = small_guest(kernel="5.0")
        running = boot(watching, [pages(range(400)), free(range(400))], config=config)
        free_before = running.machine.zones[0].free_pages
        running.execute()
        batch = running.machine.simulation.vcpus[0].pcps[0].batch
        counts = [count for count, _, _ in watching.log]
        # 5.0 drains a batch when six batches are on the list, and again with every batch more.
        assert len(counts) >= 2 * batch
        assert counts == list(range(counts[0], counts[0] + len(counts)))
        assert counts[-1] < free_before
        assert {freed for _, freed, _ in watching.log} == {0}

    def test_6_12_frees_a_large_block_as_two_pageblocks(self):
        class Watching(Strategy):
            name = "watching"

            def __init__(self):
                super().__init__()
                self.log = []

            @hookimpl
            def block_freed(self, pfn, order, freed, origin):
                self.log.append((pfn - self.first, order, freed.pfn - self.first, freed.order))

            @hookimpl
            def page_allocated(self, pfn):
                self.first = pfn

        for kernel, expected in (
            ("5.0", [(0, 10, 0, 10)]),
            ("6.12", [(0, 9, 0, 9), (0, 10, 512, 9)]),
        ):
            watching = Watching()
            run(watching, [pages([0], order=10), free([0])], config=small_guest(kernel=kernel))
            assert watching.log == expected

    def test_observers_come_first(self):
        log = []

        class Watcher:
            def __init__(self, name):
                self.name = name

            @hookimpl
            def page_allocated(self):
                log.append(self.name)

        class Allocating(Strategy):
            name = "allocating"

            @hookimpl
            async def page_allocated(self, guest):
                log.append("strategy")
                async with guest.zones[0].lock:
                    log.append("locked")

        run(Allocating(), [pages([0])], observers=[Watcher("one"), Watcher("two")])
        assert log == ["one", "two", "strategy", "locked"]


class TestPageFreeing:
    def test_a_synchronous_call_holds_the_vcpu_and_the_block_is_nobodys(self):
        class Calling(Strategy):
            """Duyck's RFC of February 2019."""

            name = "calling"

            @hookimpl
            async def page_freeing(self, guest, pfn, order):
                from hintbench import Block

                await guest.host.hypercall([Block(pfn, order, guest.zone_of(pfn))])

            def hook_filters(self):
                return {"page_freeing": HookFilter(min_order=9)}

        service = host(hypercall_ns=2000, descriptor_ns=400, unmap_huge_ns=10_000)
        tape = [pages([0], order=9), pages([1]), free([0, 1]), compute([100])]
        result = run(Calling(), tape, config=small_guest(host=service)).result
        assert result.metrics["virtual_ns"] == 2000 + 10_400 + 100
        assert result.metrics["reported_blocks"] == 1
        assert result.metrics["discarded_bytes"] == 2 << 20
        assert result.metrics["lock_takes_per_batch"] == 0
        assert result.violations == {}


class Watcher:
    """Sees every block that a hook tells of."""

    def __init__(self):
        self.seen = 0

    @hookimpl
    def page_freeing(self, pfn):
        self.seen += 1

    @hookimpl
    def block_merged(self, pfn):
        self.seen += 1

    @hookimpl
    def block_freed(self, pfn):
        self.seen += 1

    @hookimpl
    def block_taken(self, pfn):
        self.seen += 1

    @hookimpl
    def page_allocated(self, pfn):
        self.seen += 1


BUSY = [
    [
        pages(range(first, first + 5000)),
        free(range(first, first + 5000)),
        pages([first], order=10),
        free([first]),
        idle([300_000_000]),
    ]
    for first in (0, 5000)
]
STRATEGIES = [BitmapAndSpin, PercpuArrayV9, ZoneConfinedBatching, Oracle]


class TestWhole:
    def config(self, kernel="6.12"):
        from hintbench import Costs, HostConfig

        return small_guest(2, kernel=kernel, costs=Costs(), host=HostConfig())

    @pytest.mark.parametrize("strategy", STRATEGIES)
    @pytest.mark.parametrize("kernel", KERNELS)
    def test_attached_but_off_is_none(self, strategy, kernel):
        config = self.config(kernel)
        off = run(strategy(), *BUSY, config=config, attached_but_off=True).result
        none = run(None, *BUSY, config=config).result
        assert off.digest == none.digest
        assert off.metrics == none.metrics

    @pytest.mark.parametrize("strategy", STRATEGIES)
    def test_watching_changes_nothing(self, strategy):
        alone = run(strategy(), *BUSY, config=self.config()).result
        watcher = Watcher()
        watched = run(strategy(), *BUSY, config=self.config(), observers=[watcher]).result
        assert watcher.seen > 10_000
        assert alone.digest == watched.digest
        assert alone.metrics == watched.metrics

    @pytest.mark.parametrize("strategy", STRATEGIES[:3])
    @pytest.mark.parametrize("kernel", KERNELS)
    def test_the_oracle_is_a_bound(self, strategy, kernel):
        config = self.config(kernel)
        parameters = {"threshold": 8} if strategy is not BitmapAndSpin else {}
        found = run(strategy(**parameters), *BUSY, config=config).result.metrics
        for order in (0, 9):
            bound = run(Oracle(at_order=order), *BUSY, config=config).result.metrics
            assert bound["retained_gib_s"] < found["retained_gib_s"]
            assert bound["virtual_ns"] <= found["virtual_ns"]
            assert bound["refault_stall_ns"] == 0

    def test_the_oracle_with_order_0_leaves_nothing(self):
        metrics = run(Oracle(), *BUSY, config=self.config()).result.metrics
        assert metrics["retained_end_bytes"] == 0
        assert metrics["host_cpu_ns"] == metrics["strategy_lock_takes"] == 0

    def test_the_oracle_of_an_order_leaves_pcp_and_fragments(self):
        metrics = run(Oracle(at_order=9), *BUSY, config=self.config()).result.metrics
        left = metrics["pcp_end_bytes"] + metrics["free_fragments_end_bytes"]
        assert 0 < metrics["retained_end_bytes"] <= left
