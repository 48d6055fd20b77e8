"""When memory runs short: kswapd, direct reclaim, memory_low, OOM."""

from types import SimpleNamespace

import pytest

from hintbench import Origin, Strategy, hookimpl
from hintbench.core.bulk import take_block
from hintbench.kernel.draining import drain_all_pages
from hintbench.kernel.false_ooms import would_serve
from hintbench.kernel.kswapd import DrainOfAll
from hintbench.operations import Flag, Migratetype, allocate, compute, free, idle
from small_guest import SECOND, START, boot, costs, run, small_guest, zone

# 16 blocks of 4 MiB; an allocation may go down to the low watermark, a second try to min.
BLOCKS = 16
PAGES = BLOCKS * 1024
LOW, MIN = 160, 128
SMALL = (zone(BLOCKS, low=LOW),)
RECLAIM = 10_000


def pages(slots, *, flags=Flag.TOUCHED, **given):
    return allocate(slots, flags=flags, **given)


def tight(vcpus=1, kernel="6.12", **given):
    given = {"direct_reclaim_ns": RECLAIM, **given}
    return small_guest(vcpus, kernel=kernel, zones=SMALL, costs=costs(**given))


BIG = pages(range(BLOCKS - 1), order=10)
"""All but one block of the zone, which has 1,024 pages free then."""
BIG_FROM_SLOT_20 = pages(range(20, 20 + BLOCKS - 1), order=10)
SLOT = BLOCKS


class TestKswapd:
    def test_below_the_low_watermark_it_is_woken(self):
        config = tight(kswapd_wake_ns=500)
        # These leave 1,024 - 864 = 160 pages, which is the low watermark.
        fits = [pages([SLOT + n], order=order) for n, order in enumerate((8, 8, 8, 6, 5))]
        assert run(None, [BIG, *fits], config=config).result.metrics["kswapd_wakes"] == 0
        low = pages([SLOT + 5], order=4, flags=Flag.TOUCHED | Flag.NORETRY)
        metrics = run(None, [BIG, *fits, low], config=config).result.metrics
        assert metrics["kswapd_wakes"] == metrics["slow_paths"] == 1
        assert metrics["failed_allocations"] == 0
        assert metrics["virtual_ns"] == 500

    def test_not_by_one_that_must_not_wake_it(self):
        flags = Flag.TOUCHED | Flag.NORETRY | Flag.NO_KSWAPD
        metrics = run(None, [BIG, pages([SLOT], order=10, flags=flags)], config=tight()).result
        assert metrics.metrics["kswapd_wakes"] == 0
        assert metrics.metrics["slow_paths"] == 1


class TestFailingAtOnce:
    @pytest.mark.parametrize("flag", [Flag.NORETRY, Flag.ATOMIC])
    def test_neither_waits_for_reclaim(self, flag):
        class Listening(Strategy):
            name = "listening"

            @hookimpl
            def memory_low(self):
                raise AssertionError("not for one that may not block")

        tape = [BIG, pages([SLOT], order=10, flags=Flag.TOUCHED | flag)]
        metrics = run(Listening(), tape, config=tight()).result.metrics
        assert metrics["failed_allocations"] == 1
        assert metrics["blocking_failures"] == 0
        assert metrics["virtual_ns"] == 0

    def test_an_atomic_one_uses_the_reserves(self):
        def left(flags, kernel="6.12"):
            few = pages(range(SLOT, SLOT + 1024), order=0, flags=Flag.TOUCHED | flags)
            running = run(None, [BIG, few], config=tight(kernel=kernel))
            return running.machine.zones[0].free_pages

        # The refill that goes below the mark is the last one.
        batch = 15
        assert MIN - batch <= left(Flag.NORETRY, "5.0") <= MIN
        assert MIN // 4 - 32 <= left(Flag.ATOMIC, "5.0") <= MIN // 2


class TestDirectReclaim:
    @pytest.mark.parametrize(("order", "rounds"), [(0, 5), (3, 5), (4, 1), (10, 1)])
    def test_it_gives_up_after_its_retries(self, order, rounds):
        config = tight(kernel="5.0", reclaim_retries=5)
        # 1,024 - 896 leaves the min watermark.
        few = [pages([SLOT + n], order=size) for n, size in enumerate((9, 8, 7))]
        tape = [BIG, *few, pages([SLOT + 3], order=order)]
        metrics = run(None, tape, config=config).result.metrics
        assert metrics["failed_allocations"] == metrics["blocking_failures"] == 1
        # After each round but the last it sleeps for as long.
        assert metrics["virtual_ns"] == (2 * rounds - 1) * RECLAIM
        assert metrics["false_ooms"] == 0
        assert metrics["alloc_slow_path_total_ns"] == 0, "only what succeeds has a latency"

    def test_it_drains_every_cpus_lists(self):
        # CPU 1 frees a block page by page: its last pages stay on its list.
        scattered = range(SLOT, SLOT + 900)
        tapes = [
            [BIG, compute([1000]), pages([5000], order=10)],
            [compute([10]), pages(scattered), free(scattered)],
        ]
        for kernel in ("5.0", "6.12"):
            zones = (zone(BLOCKS, low=LOW, watermark_min=0),)
            config = small_guest(
                2, kernel=kernel, zones=zones, costs=costs(direct_reclaim_ns=RECLAIM)
            )
            running = run(None, tapes[0][:-1], tapes[1], config=config)
            assert running.result.metrics["pcp_end_bytes"] > 0
            metrics = run(None, *tapes, config=config).result.metrics
            assert metrics["failed_allocations"] == 0
            assert metrics["virtual_ns"] == 1000 + RECLAIM
            assert metrics["alloc_slow_path_total_ns"] == RECLAIM
            assert metrics["pcp_end_bytes"] == 0
            assert metrics["stalls"] == 0, "the strategy had nothing"


class TestDrainingAllLists:
    """drain_all_pages(): by the caller since 6.0 (443c2accd1b6), before by a work item a CPU."""

    class Watching(Strategy):
        name = "watching"

        def __init__(self):
            super().__init__()
            self.drained = []

        @hookimpl
        def block_freed(self, guest, cpu, origin):
            if origin == Origin.PCP_DRAIN and guest.now >= RECLAIM:
                self.drained.append((cpu, guest.now))

    def drained(self, kernel, wake_ns):
        """Both CPUs have pages on their lists; CPU 0 runs out of memory."""
        tapes = [
            [pages(range(10)), free(range(10)), BIG_FROM_SLOT_20, pages([99], order=10)],
            [pages(range(100, 110)), free(range(100, 110))],
        ]
        zones = (zone(BLOCKS, low=LOW, watermark_min=0),)
        prices = costs(direct_reclaim_ns=RECLAIM, task_wake_ns=wake_ns)
        config = small_guest(2, kernel=kernel, zones=zones, costs=prices)
        watching = self.Watching()
        metrics = run(watching, *tapes, config=config).result.metrics
        assert metrics["failed_allocations"] == 0
        assert metrics["pcp_end_bytes"] == 0
        return watching.drained

    def test_in_6_12_the_reclaiming_thread_does_it(self):
        assert {cpu for cpu, _ in self.drained("6.12", 700)} == {0}

    def test_in_5_0_each_cpu_its_own(self):
        found = self.drained("5.0", 700)
        assert {cpu for cpu, _ in found} == {0, 1}
        assert min(now for _, now in found) > RECLAIM, "it is woken first"

    @pytest.mark.parametrize("kernel", ["5.0", "6.12"])
    def test_a_replay_drains_when_the_recorded_kernel_did(self, kernel):
        """Linux drains for those who got some pages back; a recording shows whether they did."""
        tapes = [
            [pages(range(10)), free(range(10)), BIG_FROM_SLOT_20, pages([99], order=10)],
            [pages(range(100, 110)), free(range(100, 110)), idle([1_000_000])],
        ]
        config = small_guest(2, kernel=kernel, zones=(zone(BLOCKS, low=LOW, watermark_min=0),))
        for drains in [], [DrainOfAll(900_000, 1)]:
            running = boot(None, *tapes, config=config)
            running.threads.reclaim([], drains)
            metrics = running.execute().metrics
            assert metrics["failed_allocations"] == 1, "it comes too early for a drain"
            assert (metrics["pcp_end_bytes"] == 0) == bool(drains)

    def test_one_at_a_time(self):
        """mutex_trylock(&pcpu_drain_mutex): whoever comes meanwhile goes on at once."""
        running = boot(None, [pages(range(4)), free(range(4))], config=tight())
        running.threads.draining = True
        with pytest.raises(StopIteration):
            drain_all_pages(running.threads, 0).send(None)


class Keeping(Strategy):
    """Isolates two blocks at the start, and gives them back when and if a test says so."""

    name = "keeping"

    def __init__(self, gives_back_ns=None, when_low=False, after_ns=0):
        super().__init__()
        self.gives_back_ns, self.when_low, self.after_ns = gives_back_ns, when_low, after_ns
        self.log = []

    @hookimpl
    async def guest_started(self, guest):
        self.guest = guest
        zone = guest.zones[0]
        async with zone.lock:
            self.blocks = [zone.isolate(START), zone.isolate(START + 1024)]
        if self.gives_back_ns is not None:
            guest.spawn(self.later(), cpu=len(guest.cpus) - 1, name="later")

    async def later(self):
        await self.guest.sleep(self.gives_back_ns)
        await self.give_back()

    async def give_back(self):
        zone = self.guest.zones[0]
        async with zone.lock:
            while self.blocks:
                zone.put_back(self.blocks.pop())
        self.log.append(("back", self.guest.now))

    @hookimpl
    def memory_low(self, guest, zone):
        self.log.append(("low", guest.now))
        return self.after() if self.when_low else None

    async def after(self):
        await self.guest.sleep(self.after_ns)
        await self.give_back()

    @hookimpl
    async def guest_stopping(self):
        await self.give_back()


class TestMemoryLow:
    """Two of 16 blocks are in the strategy's hands; 14 are asked for."""

    tape = [pages(range(14), order=10), compute([100])]

    def test_a_false_oom(self):
        running = run(Keeping(), self.tape, config=tight())
        assert running.result.metrics["blocking_failures"] == 1
        assert running.result.metrics["false_ooms"] == 1
        assert running.result.metrics["stalls"] == 0
        assert running.result.violations == {"no-false-oom": 1}

    @pytest.mark.parametrize(
        ("order", "serves"), [(0, True), (3, True), (6, True), (7, False), (8, False)]
    )
    def test_what_is_in_hand_serves_above_the_min_watermark_only(self, order, serves):
        """__zone_watermark_ok(): 64 pages are free, 128 in hand, more than 128 have to be left."""
        running = boot(None, [compute([100])], config=tight())
        only = running.guest.zones[0]
        with only.lock:
            for each in (*(10,) * (BLOCKS - 1), 9, 8, 6):
                take_block(running.machine.simulation, only, 0, each)  # others'
            only.allocate(7)
        assert (only.free_pages, only.pages_in_hand) == (64, 128)
        vcpu = SimpleNamespace(zonelist=[only], highest_zone=only.number, order=order)
        assert would_serve(vcpu) is serves
        only.lowmem_reserve[only.number] = 64
        assert not would_serve(vcpu)

    @pytest.mark.parametrize("free_highatomic", [0, 64])
    def test_what_is_free_may_be_the_block_and_what_is_in_hand_the_mark(self, free_highatomic):
        """A free block of order 6, and 128 pages in hand of which none is that large."""
        running = boot(None, [compute([100])], config=tight())
        only = running.guest.zones[0]
        with only.lock:
            for each in (*(10,) * (BLOCKS - 1), 9, 8, 6):
                take_block(running.machine.simulation, only, 0, each)  # others'
            for _ in range(8):
                only.allocate(4)
        assert (only.free_pages, only.pages_in_hand) == (64, 128)
        vcpu = SimpleNamespace(zonelist=[only], highest_zone=only.number, order=6)
        if free_highatomic:
            # unusable_free_pages(): those in the reserve serve nobody else.
            only.free_highatomic = free_highatomic
        assert would_serve(vcpu) is not bool(free_highatomic)

    def test_a_failure_that_is_not_false(self):
        tape = [pages(range(13), order=10), pages([14], order=10, flags=Flag.NORETRY)]
        result = run(Keeping(), tape, config=tight()).result
        assert result.metrics["failed_allocations"] == 1
        assert result.metrics["false_ooms"] == 0
        assert result.violations == {}

    def test_what_comes_back_makes_it_a_stall(self):
        keeping = Keeping(when_low=True, after_ns=3000)
        result = run(keeping, self.tape, config=tight()).result
        assert keeping.log[:2] == [("low", RECLAIM), ("back", RECLAIM + 3000)]
        assert result.metrics["failed_allocations"] == 0
        assert result.metrics["stalls"] == 1
        assert result.metrics["stall_ns"] == RECLAIM + 3000
        assert result.metrics["alloc_slow_path_max_ns"] == RECLAIM + 3000
        assert result.metrics["virtual_ns"] == RECLAIM + 3000 + 100
        assert result.violations == {}

    def test_so_does_what_comes_back_while_reclaim_waits(self):
        keeping = Keeping(gives_back_ns=RECLAIM + 500)
        # Order 3 may be retried: low at 10,000, back at 10,500, found at 30,000.
        few = [pages([20 + n], order=order) for n, order in enumerate((8, 8, 8, 7))]
        tape = [pages(range(13), order=10), *few, pages([25], order=3), pages([26], order=3)]
        config = tight(2, reclaim_retries=4)
        result = run(keeping, tape, [idle([SECOND // 1000])], config=config).result
        assert keeping.log[:2] == [("low", RECLAIM), ("back", RECLAIM + 500)]
        assert keeping.log[2] == ("low", 3 * RECLAIM)
        assert result.metrics["stalls"] == 1
        assert result.metrics["stall_ns"] == 3 * RECLAIM

    def test_while_it_sleeps_tasks_have_the_vcpu(self):
        class Working(Keeping):
            @hookimpl
            def memory_low(self, guest):
                guest.spawn(self.work(), cpu=0, name="work")
                return self.after()

            async def work(self):
                self.guest.spend(100)
                self.log.append(("worked", self.guest.now))

        working = Working(after_ns=3000)
        run(working, self.tape, config=tight())
        assert working.log[:2] == [("worked", RECLAIM + 100), ("back", RECLAIM + 3000)]

    def test_a_task_that_was_ready_before_runs_when_it_sleeps(self):
        class Working(Keeping):
            @hookimpl
            async def memory_low(self, guest):
                guest.spawn(self.work(), cpu=0, name="work")
                async with guest.zones[0].lock:
                    pass
                await self.after()

            async def work(self):
                self.log.append(("worked", self.guest.now))

        working = Working(after_ns=3000)
        run(working, self.tape, config=tight())
        assert working.log[:2] == [("worked", RECLAIM), ("back", RECLAIM + 3000)]

    def test_every_zone_that_may_serve_it_is_asked(self):
        class Listening(Strategy):
            name = "listening"
            asked = []

            @hookimpl
            def memory_low(self, zone):
                self.asked.append(zone.name)

        zones = (zone(4, name="DMA32"), zone(4, START + 8192), zone(4, START + 16384, "Movable"))
        config = small_guest(zones=zones, costs=costs(direct_reclaim_ns=RECLAIM))
        run(Listening(), [pages(range(9), order=10)], config=config)
        # The ninth and, before, what the watermarks of the two zones forbade.
        assert set(Listening.asked) == {"DMA32", "Normal"}
        assert Listening.asked[:2] == ["Normal", "DMA32"]


def test_an_unmovable_allocation_falls_back():
    tape = [pages(range(100), migratetype=Migratetype.UNMOVABLE)]
    assert run(None, tape).result.metrics["failed_allocations"] == 0
