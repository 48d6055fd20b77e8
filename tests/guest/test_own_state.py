"""Guarded state, atomics and per-CPU numbers that a strategy makes for itself."""

import pytest

from owning import TAPE, Own, working
from small_guest import US, boot, costs


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
