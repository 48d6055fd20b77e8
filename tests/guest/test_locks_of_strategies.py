"""Locks as strategies take them, blocks of their own, names of flags, and validate()."""

from functools import partial

import pytest

import hintbench
from hintbench import Block, PluginError, Strategy, hookimpl
from hintbench.operations import Flag, allocate, free, idle
from small_guest import START, run, small_guest

TAPE = [allocate([0], order=10, flags=Flag.TOUCHED), free([0])]


class Acting(Strategy):
    """Does something in a task at the start."""

    name = "acting"

    @hookimpl
    async def guest_started(self, guest):
        self.guest, self.zone = guest, guest.zones[0]
        await self.act(guest, guest.zones[0])


def acting(act, *tapes, **given):
    """Run a strategy whose start is ``act(self, guest, zone)``."""
    strategy = type("Acting", (Acting,), {"act": act})()
    return run(strategy, *tapes, **given)


class TestLocks:
    @pytest.mark.parametrize("leave", ["release", "never taken"])
    def test_a_body_that_lost_the_lock_is_told(self, leave):
        async def act(self, guest, zone):
            async with zone.lock:
                zone.lock.release()

        async def plain(self, guest, zone):
            with zone.lock:
                zone.lock.release()

        for body in (act, plain):
            with pytest.raises(PluginError, match=r"RuntimeError: .*nobody holds it"):
                acting(body)

    def test_an_error_in_the_body_is_the_one_that_is_told(self):
        async def act(self, guest, zone):
            async with zone.lock:
                zone.lock.release()
                raise KeyError("first")

        with pytest.raises(PluginError, match="KeyError: 'first'"):
            acting(act)

    def test_the_lock_may_be_dropped_and_taken_again_inside(self):
        async def act(self, guest, zone):
            async with zone.lock:
                zone.lock.release()
                await zone.lock.acquire()

        assert acting(act).result.metrics["strategy_lock_takes"] == 2

    def test_nobody_releases_the_lock_of_another(self):
        async def act(self, guest, zone):
            lock = zone.lock
            lock.take()
            clock = guest.machine.clock
            clock.context += 1
            try:
                with pytest.raises(RuntimeError, match=r"but .* holds it"):
                    lock.release()
            finally:
                clock.context -= 1
            lock.release()

        acting(act)

    def test_takes_in_place_count_as_the_strategys(self):
        class Plain(Strategy):
            name = "plain"

            @hookimpl
            def free_completed(self, guest):
                with guest.zones[0].lock:
                    guest.zones[0].free_blocks(10, limit=1)

        metrics = run(Plain(), TAPE).result.metrics
        assert metrics["strategy_lock_takes"] == metrics["strategy_empty_lock_takes"] == 1

    def test_takes_in_place_by_a_hook_that_finds_something_are_not_empty(self):
        class Holding(Strategy):
            name = "holding"

            @hookimpl
            def free_completed(self, guest):
                with guest.zones[0].lock:
                    self.block = guest.zones[0].hold(9)

        metrics = run(Holding(), TAPE).result.metrics
        assert metrics["strategy_lock_takes"] == 1
        assert metrics["strategy_empty_lock_takes"] == 0

    def test_a_walk_along_a_list_needs_the_lock_and_a_look_at_a_page_does_not(self):
        async def look(self, guest, zone):
            assert zone.free_order(START) == 10
            assert zone.free_block_of(START + 5).pfn == START
            assert zone.list_empty(0, 1)
            assert guest.page_ref_count(START) == 0

        async def walk(self, guest, zone):
            assert zone.free_blocks(10)
            assert zone.free_list(10, 1)

        async def walk_with_it(self, guest, zone):
            async with zone.lock:
                found = zone.free_blocks(10) + zone.free_list(10, 1)
            assert found

        assert acting(look).result.violations == {}
        assert acting(walk).result.violations == {"locked-lists": 2}
        assert acting(walk_with_it).result.violations == {}

    def test_a_host_that_reads_the_guests_memory_has_no_lock_of_the_guests(self):
        async def act(self, guest, zone):
            async def read():
                assert zone.free_blocks(10)

            await guest.spawn(read(), cpu=-1, name="host").join()

        assert acting(act).result.violations == {}

    @pytest.mark.parametrize("useful", [False, True])
    def test_takes_in_place_that_find_nothing_are_empty(self, useful):
        async def act(self, guest, zone):
            await guest.host.post([Block(START, 10, zone)], self.acknowledged)

        def acknowledged(self):
            with self.zone.lock:
                block = self.zone.isolate(START) if useful else None
            if block:
                with self.zone.lock:
                    self.zone.put_back(block)

        strategy = type("Handling", (Acting,), {"act": act, "acknowledged": acknowledged})()
        metrics = run(strategy, [idle([10**6])]).result.metrics
        assert metrics["strategy_lock_takes"] == (2 if useful else 1)
        assert metrics["strategy_empty_lock_takes"] == (0 if useful else 1)


class TestOwnBlocks:
    def test_with_the_lock(self):
        async def act(self, guest, zone):
            async with zone.lock:
                pfn = zone.allocate(9)
            await guest.sleep(1)
            async with zone.lock:
                zone.free(pfn, 9)

        assert acting(act).result.violations == {}

    def test_without_the_lock(self):
        async def act(self, guest, zone):
            zone.free(zone.allocate(0), 0)

        assert acting(act).result.violations == {"locked-lists": 2}

    def test_what_is_not_held_is_not_freed(self):
        async def act(self, guest, zone):
            async with zone.lock:
                with pytest.raises(ValueError, match="does not head a block in use"):
                    zone.free(START, 10)

        assert acting(act).result.violations == {}

    def test_what_it_did_not_allocate_is_not_its_to_free(self):
        async def act(self, guest, zone):
            async with zone.lock:
                mine, whole = zone.allocate(0), zone.hold(9)
                zone.free(whole.pfn, 9)
                zone.free(mine, 0)
            assert zone.allocated_pages == 0

        assert acting(act).result.violations["returned"] == 1

    def test_not_inside_block_taken(self):
        class Editing(Strategy):
            name = "editing"

            @hookimpl
            def block_taken(self, zone):
                zone.allocate(0)

        with pytest.raises(PluginError, match="no list edits inside block_taken"):
            run(Editing(), TAPE)


def test_a_name_of_flags_is_given_once():
    async def act(self, guest, zone):
        guest.flags("told", order=9)
        guest.flags("told", order=10)

    with pytest.raises(PluginError, match="flags 'told' exist already"):
        acting(act)


def test_validate_takes_what_a_hook_is_given():
    found = []

    async def act(self, guest, zone):
        found.append(hintbench.validate(guest))
        guest.machine.pages.state[START] = 0
        found.append(hintbench.validate(guest))
        guest.machine.pages.state[START] = 0x1A
        found.append(hintbench.validate(guest.machine))

    acting(act)
    assert (found[0], found[2]) == ([], [])
    assert len(found[1]) > 0


class TestPost:
    class Posting(Acting):
        """Two reports whose acknowledgements come together."""

        calls = 0
        same = True

        async def act(self, guest, zone):
            for number in range(2):
                handler = self.handle if self.same else partial(self.handle)
                await guest.host.post([Block(START + 1024 * number, 10, zone)], handler)

        def handle(self):
            self.calls += 1
            while self.guest.host.poll() is not None:
                pass

    @pytest.mark.parametrize("same", [True, False])
    def test_answers_share_an_interrupt_if_the_handlers_are_equal(self, same):
        strategy = self.Posting()
        strategy.same = same
        # With interrupts off until both have come.
        config = small_guest(host=hintbench.HostConfig(kick="device-thread"))

        async def act(guest, zone):
            with guest.interrupts_off():
                await self.Posting.act(strategy, guest, zone)
                guest.spend(10**8)
                await guest.step()

        strategy.act = act
        run(strategy, [idle([10**9])], config=config)
        assert strategy.calls == (1 if same else 2)


class TestMemoryLow:
    def test_every_zone_in_every_round(self):
        from hintbench import ZoneConfig

        asked = []

        class Asked(Strategy):
            name = "asked"

            @hookimpl
            def memory_low(self, guest, zone):
                asked.append(zone.name)

        zones = tuple(
            ZoneConfig(name=name, start_pfn=start, spanned_pages=8192)
            for name, start in (("DMA32", 0x10000), ("Normal", 0x20000))
        )
        costs = hintbench.Costs(reclaim_retries=3)
        tape = [allocate(range(20), order=10)]
        run(Asked(), tape, config=small_guest(zones=zones, costs=costs))
        # Costly orders get one round; each failed allocation asks for both zones.
        assert asked[:4] == ["Normal", "DMA32", "Normal", "DMA32"]
        asked.clear()
        tape = [allocate(range(17_000))]
        config = small_guest(zones=zones, costs=costs)
        metrics = run(Asked(), tape, config=config).result.metrics
        assert len(asked) == 6 * metrics["failed_allocations"] > 0
