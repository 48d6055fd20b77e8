"""Locks that a strategy makes for itself: order, interrupts, and who leaves them taken."""

from pathlib import Path

import pytest

from hintbench import PluginError, SpinLock, hookimpl
from hintbench.operations import idle
from owning import TAPE, Own, working
from small_guest import US, costs, run, small_guest


class TestLocks:
    def test_who_comes_second_waits_for_the_first(self):
        seen = []

        async def first(self, guest):
            async with self.lock:
                guest.spend(5 * US)

        async def second(self, guest):
            guest.spend(US)
            async with self.lock:
                seen.append(guest.now)

        working(first, second)
        assert seen == [5 * US]

    def test_a_lock_inside_another_is_taken_where_it_stands(self):
        async def work(self, guest):
            zone = guest.zones[0]
            async with zone.lock:
                async with self.lock:
                    assert (zone.lock.held_here, self.lock.held_here) == (True, True)
                assert (zone.lock.held_here, self.lock.held_here) == (True, False)

        assert working(work).result.violations == {}

    def test_takes_of_own_locks_are_no_takes_of_zone_locks(self):
        async def work(self, guest):
            async with self.lock:
                pass
            with self.lock:
                pass

        assert working(work).result.metrics["strategy_lock_takes"] == 0

    def test_a_hook_takes_it_under_the_zone_lock(self):
        class Hooked(Own):
            works = ()
            taken = 0

            @hookimpl
            def block_freed(self):
                with self.lock:
                    self.taken += 1

        strategy = Hooked()
        assert run(strategy, TAPE).result.violations == {}
        assert strategy.taken == strategy.lock.takes > 0

    def test_names_are_not_given_twice(self):
        async def work(self, guest):
            with pytest.raises(ValueError, match="lock 'own' exists already"):
                guest.spinlock("own")
            assert isinstance(guest.spinlock("other"), SpinLock)

        working(work)

    @pytest.mark.parametrize("what", ["sleep", "report", "end"])
    def test_nothing_is_awaited_under_it(self, what):
        async def work(self, guest):
            await self.lock.acquire()
            if what == "sleep":
                await guest.sleep(1)
            elif what == "report":
                await guest.host.report([])

        with pytest.raises(PluginError, match=r"while it holds the lock 'own' .*atomic-context"):
            working(work)

    def test_memory_is_not_sought_under_it(self):
        async def work(self, guest):
            async with self.lock:
                await guest.allocate_buffer(8)

        assert working(work).result.violations == {"atomic-context": 1}

    @pytest.mark.parametrize("inner", ["async", "plain"])
    def test_it_is_not_taken_twice(self, inner):
        async def work(self, guest):
            async with self.lock:
                if inner == "plain":
                    with self.lock:
                        pass
                else:
                    await self.lock.acquire()

        with pytest.raises(PluginError, match=r"takes the lock 'own' while it holds it"):
            working(work)


class TestOrder:
    def test_both_ways_is_a_deadlock_in_waiting(self):
        async def one(self, guest):
            async with guest.zones[0].lock, self.lock:
                pass

        async def other(self, guest):
            await guest.sleep(US)
            async with self.lock, guest.zones[0].lock:
                pass

        assert working(one, other).result.violations == {"atomic-context": 1}

    def test_a_ring_of_three_is_one_too(self):
        def inside(outer, inner):
            async def work(self, guest):
                async with self.locks[outer], self.locks[inner]:
                    pass

            return work

        def prepare(self, guest):
            self.locks = [guest.spinlock(name) for name in "abc"]

        fine = (inside(0, 1), inside(1, 2), inside(0, 2), inside(0, 1))
        assert working(*fine, prepare=prepare).result.violations == {}
        ring = (inside(0, 1), inside(1, 2), inside(2, 0), inside(2, 0))
        assert working(*ring, prepare=prepare).result.violations == {"atomic-context": 1}

    def test_two_zones_locks_stay_forbidden(self):
        async def work(self, guest):
            zone = guest.zones[0]
            async with self.lock, zone.lock:
                await zone.lock.acquire()

        with pytest.raises(PluginError, match="asks for another lock while it holds the lock of"):
            working(work)


class TestInterrupts:
    def taking(self, in_hook):
        class Taking(Own):
            @hookimpl
            def block_freed(self):
                if in_hook:
                    with self.lock:
                        pass

            async def take(self, guest):
                await self.lock.acquire(interrupts_off=False)
                self.lock.release()

            works = (take,)

        return run(Taking(), TAPE).result.violations

    def test_a_lock_of_hooks_needs_interrupts_off(self):
        assert self.taking(in_hook=True) == {"irq-safe": 1}

    def test_a_lock_of_tasks_does_not(self):
        assert self.taking(in_hook=False) == {}

    def test_interrupts_off_by_hand_are_as_good(self):
        class ByHand(Own):
            @hookimpl
            def block_freed(self):
                with self.lock:
                    pass

            async def take(self, guest):
                with guest.interrupts_off():
                    await self.lock.acquire(interrupts_off=False)
                    self.lock.release()

            works = (take,)

        assert run(ByHand(), TAPE).result.violations == {}

    @pytest.mark.parametrize("late", [False, True])
    def test_a_lock_that_outlives_its_section_is_had_with_interrupts_on(self, late):
        """Whoever comes first, the hook that takes it or the task that keeps it."""

        async def keep(self, guest):
            await guest.sleep(50 * US if late else 1)
            with guest.interrupts_off():
                await self.lock.acquire(interrupts_off=False)
            guest.spend(10)
            self.lock.release()

        class Hooked(Own):
            works = (keep,)

            @hookimpl
            def block_freed(self):
                with self.lock:
                    pass

        tape = [idle([20 * US]), *TAPE, idle([100 * US])]
        assert run(Hooked(), tape).result.violations == {"irq-safe": 1}

    def test_inside_a_lock_that_keeps_them_off_they_are_off(self):
        class Hooked(Own):
            def prepare(self, guest):
                self.outer = guest.spinlock("outer")

            async def take(self, guest):
                async with self.outer:
                    await self.lock.acquire(interrupts_off=False)
                    self.lock.release()

            @hookimpl
            def block_freed(self):
                with self.lock:
                    pass

            works = (take,)

        assert run(Hooked(), TAPE).result.violations == {}

    @pytest.mark.parametrize(("interrupts_off", "found"), [(True, {}), (False, {"irq-safe": 1})])
    def test_a_hook_that_runs_in_interrupts_too_keeps_them_off(self, interrupts_off, found):
        class Hooked(Own):
            works = ()

            @hookimpl
            async def page_allocated(self):
                await self.lock.acquire(interrupts_off)
                self.lock.release()

        assert run(Hooked(), TAPE).result.violations == found

    @pytest.mark.parametrize("first", ["inside", "alone"])
    def test_who_waits_with_a_lock_that_interrupts_take_passes_that_on(self, first):
        """HARDIRQ-safe -> HARDIRQ-unsafe: a CPU has the outer one and waits for the inner."""

        async def inside(self, guest):
            await guest.sleep(5 if first == "alone" else 1)
            async with self.lock, self.inner:
                pass

        async def alone(self, guest):
            await guest.sleep(5 if first == "inside" else 1)
            await self.inner.acquire(interrupts_off=False)
            self.inner.release()

        class Hooked(Own):
            works = (inside, alone)

            def prepare(self, guest):
                self.inner = guest.spinlock("inner")

            @hookimpl
            def block_freed(self):
                with self.lock:
                    pass

        tapes = [*TAPE, idle([US])], [idle([US])]
        assert run(Hooked(), *tapes, config=small_guest(2)).result.violations == {"irq-safe": 1}

    def test_what_is_taken_inside_a_zones_lock_is_waited_for_by_interrupts(self):
        async def inside(self, guest):
            async with guest.zones[0].lock, self.lock:
                pass

        async def alone(self, guest):
            await self.lock.acquire(interrupts_off=False)
            self.lock.release()

        assert working(inside, alone).result.violations == {"irq-safe": 1}

    @pytest.mark.parametrize("price", [0, 10])
    def test_a_plain_hook_that_lets_them_in_below_a_lock(self, price):
        class Early(Own):
            works = ()

            @hookimpl
            def page_allocated(self, guest):
                with guest.interrupts_off():
                    self.lock.__enter__()
                self.lock.__exit__(None, None, None)

        config = small_guest(costs=costs(lock_take_ns=price))
        assert run(Early(), TAPE, config=config).result.violations == {"irq-safe": 1}


class TestPlainHooks:
    @pytest.mark.parametrize("whose", ["own", "zone"])
    def test_a_lock_left_taken_is_the_strategys_fault(self, whose):
        class Leaving(Own):
            works = ()

            @hookimpl
            def free_completed(self, guest):
                lock = self.lock if whose == "own" else guest.zones[0].lock
                lock.__enter__()

        found = {
            "own": r"free_completed: takes the lock 'own', which this CPU has held since",
            "zone": r"free_completed: left the lock of zone Normal \(node 0\) taken at",
        }
        with pytest.raises(PluginError, match=rf"{found[whose]} test_own_locks\.py:\d+"):
            run(Leaving(), [*TAPE, *TAPE])

    def test_the_line_is_that_of_the_lock_which_was_left(self):
        class Leaving(Own):
            works = ()

            def prepare(self, guest):
                self.other = guest.spinlock("other")

            @hookimpl
            def free_completed(self):
                if not self.lock.held:
                    self.lock.__enter__()  # here
                with self.other:
                    pass

        lines = Path(__file__).read_text(encoding="utf-8").splitlines()
        line = 1 + lines.index(" " * 20 + "self.lock.__enter__()  # here")
        # Nobody asks for it any more: that shows at the end.
        with pytest.raises(PluginError, match=rf"left the lock 'own' taken at \S+:{line} \(rule"):
            run(Leaving(), TAPE)

    @pytest.mark.parametrize("before", [False, True])
    def test_the_lock_that_a_hook_is_called_with_is_had_already(self, before):
        class Again(Own):
            works = ()

            @hookimpl
            def block_freed(self, zone):
                if before:
                    with self.lock:
                        pass
                with zone.lock:
                    pass

        with pytest.raises(PluginError, match="has held already: the allocator calls with it"):
            run(Again(), TAPE)
