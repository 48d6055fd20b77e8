"""block_merged: the merge goes on where it was, whatever happened while the lock was free."""

import pytest

from hintbench import Origin, Strategy, hookimpl
from hintbench.operations import Flag, allocate, concatenate, free, idle
from small_guest import costs, run, small_guest, zone

KERNELS = ["5.0", "6.12"]


def pages(slots, **given):
    return allocate(slots, flags=Flag.TOUCHED, **given)


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

    def test_a_block_that_is_put_back_merges_in_silence(self):
        """Also when its caller asks to be notified as of any other free."""

        class PuttingBack(Merging):
            @hookimpl
            def guest_started(self, guest):
                self.freed = []
                guest.spawn(self.work(guest, guest.zones[0]), cpu=0, name="work")

            async def work(self, guest, zone):
                await guest.sleep(1_000)
                async with zone.lock:
                    (half,) = [block for block in zone.free_blocks(9) if block.order == 9]
                    zone.isolate(half.pfn)
                await guest.sleep(10_000)
                self.freed.clear()
                async with zone.lock:
                    assert zone.put_back(half, notify=True) == 10

            @hookimpl
            def block_freed(self, order, origin):
                self.freed.append((order, origin))

        halves = [pages([0, 1], order=9), free([0]), idle([5_000]), free([1]), idle([20_000])]
        putting = PuttingBack()
        run(putting, halves, config=small_guest(kernel="5.0"))
        assert putting.freed == [(10, Origin.PUT_BACK)]
        assert putting.log == []

    def test_vmstat_calls_it_too(self):
        merging = Merging()
        tape = [pages(range(4000)), free(range(4000)), idle([10**10])]
        running = run(merging, tape)
        late = [entry for entry in merging.log if entry[1] > 10**9]
        assert late
        assert running.result.violations == {}
