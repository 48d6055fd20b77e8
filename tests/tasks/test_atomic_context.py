"""Waiting where nobody may wait, and for what virtual time does not know, ends the run."""

import asyncio

import pytest

from faulty import TAPE, Faulty, fails
from hintbench import hookimpl
from hintbench.operations import Flag, allocate, free, idle
from small_guest import host, run, small_guest


class TestAtomic:
    def test_awaiting_while_a_zone_lock_is_held(self):
        class Holding(Faulty):
            @hookimpl
            def guest_started(self, guest):
                guest.spawn(self.work(guest), cpu=0, name="worker")

            async def work(self, guest):
                async with guest.zones[0].lock:
                    await guest.sleep(1)

        error = fails(Holding)
        assert error.hook == "worker"
        assert "waits while it holds the lock of zone Normal (node 0) (rule atomic-context)" in str(
            error
        )

    @pytest.mark.parametrize(
        "what",
        [
            lambda guest: guest.zones[0].lock.acquire(),
            lambda guest: guest.host.report([]),
            lambda guest: guest.host.post([], lambda: None),
            lambda guest: guest.host.hypercall([]),
            lambda guest: guest.event().wait(),
            lambda guest: guest.spin_while(lambda: True),
        ],
    )
    def test_whatever_it_awaits(self, what):
        class Holding(Faulty):
            @hookimpl
            async def guest_started(self, guest):
                await guest.zones[0].lock.acquire()
                await what(guest)

        error = fails(Holding)
        assert (error.hook, "rule atomic-context" in str(error)) == ("guest_started", True)

    def test_ending_with_a_lock(self):
        class Holding(Faulty):
            @hookimpl
            async def page_allocated(self, guest):
                await guest.zones[0].lock.acquire()

        error = fails(Holding)
        assert error.hook == "page_allocated"
        assert "ended while it holds the lock" in str(error)

    @pytest.mark.parametrize("hook", ["page_freeing", "page_allocated", "free_completed"])
    @pytest.mark.parametrize(
        "what",
        [
            lambda guest: guest.sleep(1),
            lambda guest: guest.event().wait(),
            lambda guest: guest.host.report([]),
        ],
    )
    @pytest.mark.parametrize("kick", ["vcpu-thread", "device-thread"])
    def test_sleeping_in_an_atomic_hook(self, hook, what, kick):
        async def sleeping(self, guest):
            await what(guest)

        sleeping.__name__ = hook
        strategy = type("Sleeping", (Faulty,), {hook: hookimpl(sleeping)})
        error = fails(strategy, config=small_guest(host=host(kick=kick)))
        assert error.hook == hook
        assert f"in {hook} (rule atomic-context)" in str(error)

    def test_sleeping_with_interrupts_off(self):
        class Sleeping(Faulty):
            @hookimpl
            async def guest_started(self, guest):
                with guest.interrupts_off():
                    await guest.sleep(1)

        assert "sleeps with interrupts off (rule atomic-context)" in str(fails(Sleeping))

    def test_sleeping_in_an_acknowledgement(self):
        class Sleeping(Faulty):
            @hookimpl
            def guest_started(self, guest):
                post = guest.host.post([], lambda: guest.sleep(1))
                guest.spawn(post, cpu=0, name="poster")

        error = fails(Sleeping, [idle([1000])])
        assert error.hook == "acknowledgement"
        assert "sleeps in an interrupt (rule atomic-context)" in str(error)

    def test_sleeping_where_vmstat_frees(self):
        class Sleeping(Faulty):
            @hookimpl
            def free_completed(self, guest):
                return guest.sleep(1) if guest.now > 1_000_000_000 else None

        tape = [allocate(range(4000), flags=Flag.TOUCHED), free(range(4000)), idle([10**10])]
        error = fails(Sleeping, tape)
        assert error.hook == "free_completed"
        assert "sleeps in free_completed (rule atomic-context)" in str(error)

    def test_a_sleeping_allocation_is_only_a_violation(self):
        class Allocating(Faulty):
            @hookimpl
            async def free_completed(self, guest):
                assert await guest.allocate_buffer(4096)

        result = run(Allocating(), TAPE).result
        assert result.violations == {"atomic-context": 1}

    def test_block_merged_must_take_its_lock_again(self):
        class Losing(Faulty):
            @hookimpl
            async def block_merged(self, zone):
                zone.lock.release()

        error = fails(Losing)
        assert error.hook == "block_merged"
        assert "ended without the lock of the zone" in str(error)

    def test_also_where_vmstat_frees(self):
        class Losing(Faulty):
            @hookimpl
            def block_merged(self, guest, zone):
                return self.lose(zone) if guest.now > 1_000_000_000 else None

            async def lose(self, zone):
                zone.lock.release()

        tape = [allocate(range(4000), flags=Flag.TOUCHED), free(range(4000)), idle([10**10])]
        error = fails(Losing, tape)
        assert error.hook == "block_merged"
        assert "ended without the lock of the zone" in str(error)

    def test_no_list_edits_inside_block_taken(self):
        class Editing(Faulty):
            @hookimpl
            def block_taken(self, zone, pfn):
                zone.isolate(pfn + 1024)

        error = fails(Editing)
        assert error.hook == "block_taken"
        assert "no list edits inside block_taken" in str(error)


class TestForeignAwaitables:
    def test_a_sleep_of_asyncio(self):
        class Foreign(Faulty):
            @hookimpl
            async def guest_started(self):
                await asyncio.sleep(0)

        assert "guest_started: awaits NoneType: only the guest's" in str(fails(Foreign))

    def test_one_that_looks_for_a_loop(self):
        class Foreign(Faulty):
            @hookimpl
            async def page_allocated(self):
                await asyncio.sleep(1)

        assert "page_allocated: RuntimeError: no running event loop" in str(fails(Foreign))

    def test_any_object(self):
        class Odd:
            def __await__(self):
                yield 7

        class Foreign(Faulty):
            @hookimpl
            async def page_allocated(self):
                await Odd()

        assert "awaits int" in str(fails(Foreign))
