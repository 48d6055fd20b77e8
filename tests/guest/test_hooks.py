"""Hooks on the guest: where they fire, what they may do there, and what narrowing costs."""

import pytest

from hintbench import HookFilter, Strategy, hookimpl
from hintbench.operations import Flag, allocate, compute, concatenate, free, idle
from hintbench.strategies.bitmap_and_spin import BitmapAndSpin
from hintbench.strategies.oracle import Oracle
from hintbench.strategies.percpu_array_v9 import PercpuArrayV9
from hintbench.strategies.zone_confined_batching import ZoneConfinedBatching
from small_guest import START, boot, costs, host, run, small_guest, zone

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


class Merging(Strategy):
    """Drops the zone lock in block_merged, as arch_merge_page() of that RFC did."""

    name = "merging"

    def __init__(self, drops_ns=1000, order=None):
        super().__init__()
        self.drops_ns, self.order = drops_ns, order
        self.log = []

    @hookimpl
    def block_merged(self, guest, zone, cpu, pfn, order):
        self.log.append((cpu, guest.now, pfn, order))
        return self.drop(guest, zone) if self.order in (None, order) else None

    async def drop(self, guest, zone):
        zone.lock.release()
        end = guest.now + self.drops_ns
        guest.spend(self.drops_ns)
        await guest.spin_while(lambda: False)
        assert guest.now == end
        await zone.lock.acquire()


class TestBlockMerged:
    """Order 4 goes past the per-CPU lists; four blocks of one order-6 block are in use."""

    def merged(self, *tapes, first=(4, 4, 4, 4), **given):
        first = [pages(range(len(first)), order=list(first)), *tapes[0]]
        merging = Merging(**given)
        running = run(merging, first, *tapes[1:], config=small_guest(len(tapes)))
        assert running.result.violations == {}
        return running, merging

    def test_the_loop_goes_on_where_it_was(self):
        running, merging = self.merged([free([0, 1, 2, 3])])
        orders = [order for _, _, _, order in merging.log]
        assert orders == [5, 5, 6, 7, 8, 9, 10]
        assert running.machine.zones[0].nr_free[10] == 64
        assert running.result.metrics["virtual_ns"] == 7 * 1000

    def test_what_was_freed_meanwhile_is_merged_with(self):
        # CPU 0 merges 0 with 1; while it has dropped the lock CPU 1 frees their buddy.
        _running, merging = self.merged(
            [free([0, 1])], [free([2], time_ns=100)], first=(4, 4, 5), order=5
        )
        assert [(cpu, order) for cpu, _, _, order in merging.log] == [
            (0, order) for order in range(5, 11)
        ]

    def test_whoever_merges_last_merges_with_the_other(self):
        # While CPU 0 has dropped the lock CPU 1 merges 2 with 3, and drops it as well.
        _running, merging = self.merged([free([0, 1])], [free([2, 3], time_ns=100)], order=5)
        assert [(cpu, at, order) for cpu, at, _, order in merging.log] == [
            (0, 0, 5),
            (1, 100, 5),
            *((1, 1100, order) for order in range(6, 11)),
        ]

    def test_what_was_taken_meanwhile_is_not(self):
        # 2 and 3 are free when CPU 0 merges 0 with 1, but CPU 1 takes 3 in between.
        _running, merging = self.merged(
            [free([2, 3, 0]), idle([10_000]), free([1]), idle([5000]), free([4])],
            [pages([4], order=5, time_ns=11_500)],
            order=5,
        )
        # 2 + 3 merge at 0, 0 + 1 at 11,000 with the lock dropped up to 12,000.
        assert [(at, order) for _, at, _, order in merging.log] == [
            (0, 5),
            (11_000, 5),
            *((17_000, order) for order in range(6, 11)),
        ]

    def test_the_lock_is_free_meanwhile(self):
        running, _merging = self.merged(
            [free([0, 1])], [pages([4], order=5, time_ns=500)], drops_ns=100_000
        )
        assert running.result.metrics["lock_wait_ns"] == 0

    @pytest.mark.parametrize("kernel", KERNELS)
    @pytest.mark.parametrize("order", [0, 2, 4, 9])
    def test_four_vcpus_that_all_drop_it(self, kernel, order):
        """The merge of one must not be taken for another's."""

        def tape(cpu):
            slots = list(range(cpu * 600 >> order, (cpu + 1) * 600 >> order))
            rounds = []
            for step in (1, -1, 1):
                rounds += [pages(slots, order=order), free(slots[::step])]
            return [concatenate(rounds)]

        merging = Merging(drops_ns=70)
        config = small_guest(
            4,
            kernel=kernel,
            zones=(zone(4, low=200),),
            costs=costs(pcp_hit_ns=5, pcp_free_ns=7, block_hot_ns=3, block_cold_ns=11),
        )
        running = run(merging, *(tape(cpu) for cpu in range(4)), config=config)
        assert running.result.violations == {}
        assert len({cpu for cpu, _, _, _ in merging.log}) == 4

    def test_vmstat_calls_it_too(self):
        merging = Merging()
        tape = [pages(range(4000)), free(range(4000)), idle([10**10])]
        running = run(merging, tape)
        late = [entry for entry in merging.log if entry[1] > 10**9]
        assert late
        assert running.result.violations == {}


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
        watched = run(strategy(), *BUSY, config=self.config(), observers=[Watcher()]).result
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
