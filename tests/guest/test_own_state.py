"""Locks, guarded state, atomics and per-CPU numbers that a strategy makes for itself."""

from pathlib import Path

import pytest

from hintbench import PluginError, SpinLock, Strategy, hookimpl
from hintbench.operations import Flag, allocate, free, idle
from small_guest import US, boot, costs, run, small_guest

TAPE = [allocate([0], order=10, flags=Flag.TOUCHED), free([0])]


class Own(Strategy):
    """Makes what it needs, and does something in a task or two."""

    name = "own"

    @hookimpl
    def guest_started(self, guest):
        self.guest = guest
        self.lock = guest.spinlock("own")
        self.prepare(guest)
        for cpu, work in enumerate(self.works):
            guest.spawn(work(self, guest), cpu=cpu, name=f"work/{cpu}")

    def prepare(self, guest):
        """Make more."""


def working(*works, **members):
    """A run of a strategy with a task on each CPU."""
    config = small_guest(len(works), costs=members.pop("costs", costs()))
    strategy = type("Working", (Own,), {"works": works, **members})()
    tapes = [[idle([1])] for _ in works]
    return run(strategy, *tapes, config=config)


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
        with pytest.raises(PluginError, match=rf"{found[whose]} test_own_state\.py:\d+"):
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


class TestGuarded:
    def test_nothing_stands_in_the_way_of_a_run(self):
        state = []

        async def work(self, guest):
            assert guest.guarded(state, by=self.lock) is state

        working(work)

    def test_what_cannot_change_or_is_no_lock_is_refused(self):
        async def work(self, guest):
            with pytest.raises(TypeError, match=r"3 cannot change.*guest\.atomic\(\)"):
                guest.guarded(3, by=self.lock)
            with pytest.raises(TypeError, match="not a lock"):
                guest.guarded([], by="own")

        working(work)


class TestAtomics:
    def test_operations(self):
        async def work(self, guest):
            count = guest.atomic(1)
            assert (count.add(), count.add(-2), count.read()) == (2, 0, 0)
            count.set(7)
            assert (count.exchange(8), count.peek()) == (7, 8)
            assert (count.compare_exchange(7, 9), count.peek()) == (8, 8)
            assert (count.compare_exchange(8, 9), count.peek()) == (8, 9)

        working(work)

    def test_a_line_that_another_cpu_wrote_is_dear(self):
        spent = []

        def prepare(self, guest):
            self.count = guest.atomic(0)

        async def first(self, guest):
            for _ in range(2):
                before = guest.now
                self.count.add()
                spent.append(guest.now - before)

        async def second(self, guest):
            await guest.sleep(US)
            await first(self, guest)

        working(first, second, prepare=prepare, costs=costs(flag_ns=1, flag_contended_ns=50))
        assert spent == [1, 1, 50, 1]

    def test_a_spinner_sees_what_is_written(self):
        def prepare(self, guest):
            self.state = guest.atomic("busy")

        async def spinner(self, guest):
            await guest.spin_while(lambda: self.state.read() == "busy")
            assert guest.now == 3 * US

        async def other(self, guest):
            await guest.sleep(3 * US)
            self.state.set("idle")

        working(spinner, other, prepare=prepare)

    def test_what_it_cannot_be(self):
        async def work(self, guest):
            with pytest.raises(TypeError, match="a list can change without a call"):
                guest.atomic([])
            with pytest.raises(TypeError, match="whole numbers"):
                guest.atomic("idle").add()
            with pytest.raises(TypeError, match="read"):
                bool(guest.atomic(0))

        working(work)


class TestPerCpuNumbers:
    def test_each_cpu_changes_its_own(self):
        def prepare(self, guest):
            self.count = guest.per_cpu(int)

        async def work(self, guest):
            assert self.count.add(2 + guest.cpu) == 2 + guest.cpu
            assert self.count.exchange(5 + guest.cpu) == 2 + guest.cpu
            await guest.sleep(US)
            assert self.count.total() == 11
            assert self.count.peek() == (5, 6)

        working(work, work, prepare=prepare)

    def test_only_numbers_and_only_on_a_cpu(self):
        def prepare(self, guest):
            self.lists, self.count = guest.per_cpu(list), guest.per_cpu(int)
            guest.spawn(self.on_the_host(), cpu=-1, name="host")

        async def on_the_host(self):
            with pytest.raises(ValueError, match="a thread of the host"):
                self.count.add()

        async def work(self, guest):
            for use in (self.lists.add, lambda: self.count.exchange("1"), self.lists.total):
                with pytest.raises(TypeError, match="whole number"):
                    use()

        working(work, prepare=prepare, on_the_host=on_the_host)


def test_locks_and_order_do_not_outlive_a_run():
    class Making(Own):
        works = ()

    for _ in range(2):
        running = boot(Making(), TAPE)
        running.execute()
        assert [lock.name for lock in running.scheduler.takes.own_locks] == ["lock 'own'"]
