"""page-reporting: requests, passes, budget, the order of lists, and what is forgotten when."""

import pytest

from hintbench.operations import Migratetype
from hintbench.strategies.page_reporting import PageReporting, State
from hintbench.tasks.jiffies import timer_fires_ns
from small_guest import BLOCK, MS, SECOND, START, US, host, zone

from .stage import block_at, give, number_of, play, rest, take

DELAY = 2 * SECOND
FIRST = timer_fires_ns(0, DELAY)
"""When the initial flush begins."""
SERVICE = 100 * US


def report(*tapes, **given):
    """Run it as it is; the run with its `reports`, and no rule broken."""
    given.setdefault("host", host(device_latency_ns=SERVICE))
    running = play(PageReporting, *tapes, **given)
    assert running.result.violations == {}
    assert all(each.isolated_pages == 0 for each in running.machine.zones)
    return running


def told(running):
    return [number_of(pfn) for pfn in running.strategy.reported.set_units()[:: BLOCK // 512]]


def on_list(running, order=10, migratetype=Migratetype.MOVABLE, index=0):
    return [number_of(pfn) for pfn in running.machine.zones[index].blocks_of(order, migratetype)]


def test_constants_are_the_kernels():
    assert PageReporting().parameters.model_dump() == {
        "order": 9,
        "delay_ns": 2 * SECOND,
        "capacity": 32,
        "tail": True,
        "flush": False,
    }
    assert [(state.name, state.value) for state in State] == [
        ("IDLE", 0),
        ("REQUESTED", 1),
        ("ACTIVE", 2),
    ]


class TestRequest:
    def test_registering_asks_for_a_first_pass(self):
        running = report([rest(10 * SECOND)])
        assert running.reports.times == [FIRST, FIRST + SERVICE]
        assert running.reports.sizes == [32, 32]
        assert running.strategy.state.peek() is State.IDLE, "and nothing asks for another"

    def test_a_free_asks_for_one_pass_however_many_follow(self):
        tape = [take(range(4)), rest(5 * SECOND)]
        tape += [give([0]), rest(SECOND), give([1]), rest(10 * SECOND)]
        running = report(tape)
        again = timer_fires_ns(5 * SECOND, DELAY)
        assert running.reports.times == [FIRST, FIRST + SERVICE, again]
        assert running.reports.sizes == [32, 28, 2]

    def test_a_free_during_a_pass_asks_for_another_after_it(self):
        late = 40 * MS
        # While the last call of the pass is under way.
        tape = [take(range(4)), rest(FIRST + 50 * MS), give([0]), rest(10 * SECOND)]
        running = report(tape, [], host=host(device_latency_ns=late))
        ended = FIRST + 2 * late
        assert running.reports.times[:2] == [FIRST, FIRST + late]
        assert running.reports.times[2:] == [timer_fires_ns(ended, DELAY)]

    def test_smaller_blocks_ask_for_nothing(self):
        # Block 0 in pages of order 8; two of the four never merge with their buddies.
        tape = [take(range(60)), take(range(60, 76), order=8), rest(5 * SECOND)]
        tape += [give([60, 62]), rest(5 * SECOND)]
        running = report(tape)
        assert len(running.reports.times) == 0, "what is left is behind the watermark gate"

    def test_below_the_order_nothing_notifies(self):
        tape = [take(range(4), order=8), rest(5 * SECOND), give([1, 3]), rest(5 * SECOND)]
        assert len(report(tape).reports.times) == 2
        tape[-1:-1] = [rest(SECOND), give([0])]  # merges with 1 to order 9
        assert len(report(tape).reports.times) == 3

    def test_a_smaller_order_is_a_parameter(self):
        tape = [take(range(4), order=8), rest(5 * SECOND), give([1]), rest(5 * SECOND)]
        running = report(tape, order=8)
        assert running.reports.batches[-1][1] == [(START + 256, 8)]

    def test_no_delay_is_run_to_completion(self):
        running = report([rest(SECOND)], delay_ns=0, capacity=1)
        assert running.reports.times[-1] < SECOND
        assert sorted(running.reports.blocks) == list(range(64))

    def test_flush_starts_at_once_and_goes_on_to_the_end(self):
        running = report([rest(SECOND)], flush=True, capacity=1)
        assert running.reports.times[0] == 0
        assert sorted(running.reports.blocks) == list(range(64))
        assert running.strategy.state.peek() is State.IDLE

    def test_flush_does_not_hurry_where_nothing_could_be_told(self):
        def no_memory(running):
            async def wait_in_vain(size):
                await running.guest.sleep(10 * MS)
                return False

            running.guest.allocate_buffer = wait_in_vain

        # The free in the middle of the pass asks for another.
        tape = [take(range(2)), rest(5 * MS), give([0]), rest(3 * SECOND)]
        running = report(tape, flush=True, before=no_memory)
        passes = [at for at, _, name in running.guest.marks if name == "page_reporting_process"]
        assert passes == [0, timer_fires_ns(10 * MS, DELAY)]

    def test_what_the_host_has_from_the_start_is_not_told(self):
        tape = [take([0]), rest(5 * SECOND), give([0]), rest(5 * SECOND)]
        running = report(tape, discarded_at_start=True)
        assert running.reports.sizes == [1]


class TestBatches:
    def test_a_full_batch_goes_when_one_more_block_is_met(self):
        assert report([rest(5 * SECOND)], blocks=64).reports.sizes == [32, 32]
        assert report([rest(5 * SECOND)], blocks=65).reports.sizes == [32, 32, 1]
        assert report([take([0]), rest(5 * SECOND)]).reports.sizes == [32, 31]

    def test_the_scatter_list_is_filled_from_its_end(self):
        running = report([rest(5 * SECOND)], blocks=40)
        assert [pfn for _, batch in running.reports.batches for pfn, _ in batch] == [
            block_at(number) for number in [*range(31, -1, -1), *range(39, 31, -1)]
        ]

    def test_it_goes_back_to_the_tail_in_that_order(self):
        running = report([rest(5 * SECOND)], blocks=40)
        assert on_list(running) == [*range(31, -1, -1), *range(39, 31, -1)]
        assert told(running) == list(range(40))

    def test_or_to_the_head_as_before_5_10(self):
        """__putback_isolated_page() left that to buddy_merge_likely() up to 47b6a24a2382."""
        running = report([rest(5 * SECOND)], blocks=40, tail=False)
        assert on_list(running) == [*range(32, 40), *range(32)]
        assert told(running) == list(range(40))

    def test_orders_and_types_share_a_batch_zones_never(self):
        tape = [
            take([0], order=9),
            take([1], order=9, migratetype=Migratetype.UNMOVABLE),
            rest(5 * SECOND),
        ]
        zones = (zone(8, START), zone(8, START + 8 * BLOCK, name="Normal", node=1))
        running = report(tape, [], zones=zones, capacity=4)
        for _, batch in running.reports.batches:
            assert len({pfn < START + 8 * BLOCK for pfn, _ in batch}) == 1
        first = running.reports.batches[0][1]
        assert {order for _, order in first} == {9, 10}

    def test_lists_are_walked_by_order_then_type(self):
        kinds = (Migratetype.RECLAIMABLE, Migratetype.UNMOVABLE, Migratetype.MOVABLE)
        tape = [take([slot], order=8, migratetype=kind) for slot, kind in enumerate(kinds)]
        seen = []

        def look(guest):
            for order in (8, 9):
                for kind in Migratetype:
                    seen.extend(block.pfn for block in guest.zones[0].free_list(order, kind))

        running = report([*tape, rest(5 * SECOND)], order=8, at={SECOND: look})
        (_, batch), *_ = running.reports.batches
        assert [order for _, order in reversed(batch)] == [8] * 3 + [9] * 3 + [10] * 26
        assert [pfn for pfn, _ in reversed(batch)][:6] == seen
        types = running.machine.pages.pageblock_type
        assert {types[pfn >> 9] for pfn in seen} == {Migratetype.MOVABLE}, "isolation retypes"

    def test_two_takes_of_the_lock_per_batch(self):
        running = report([rest(5 * SECOND)], blocks=64)
        # One list with 64 blocks, no 33rd behind the second batch: isolate, return and go on,
        # return; nothing is taken for empty lists.
        assert running.result.metrics["strategy_lock_takes"] == 3


class TestBudget:
    def test_a_sixteenth_of_the_list_and_one_more_call_in_a_pass(self):
        running = report([rest(60 * SECOND)], blocks=65, capacity=1)
        by_pass = {}
        for at in running.reports.times:
            by_pass[at // SECOND] = by_pass.get(at // SECOND, 0) + 1
        # ceil(65 / 16) + 1 calls in each pass, 2 s apart; the last has what is left.
        assert list(by_pass.values()) == [6] * 10 + [5]
        assert sorted(running.reports.blocks) == list(range(65))

    def test_an_idle_guest_is_told_in_about_30_s(self):
        """Duyck's comment in page_reporting_cycle(): about 30 s for all of an idle system."""
        # 8 GiB: 2048 blocks, more than one budget of 512 / 16 calls.
        running = report([rest(60 * SECOND)], blocks=2048)
        assert sorted(running.reports.blocks) == list(range(2048))
        assert 24 * SECOND < running.reports.times[-1] < 36 * SECOND
        for number in range(17):
            begin, end = (FIRST + number * DELAY, FIRST + (number + 1) * DELAY)
            calls = sum(begin <= at < end for at in running.reports.times)
            assert calls <= -(-2048 // 512) + 1

    def test_the_search_goes_on_where_it_ended(self):
        running = report([rest(5 * SECOND)], blocks=64, capacity=1)
        # Six blocks told (0..5) in the first pass, five more in the second that begins in time.
        assert on_list(running)[0] == len(running.reports.blocks)


class TestForgetting:
    def again(self, *between, **given):
        tape = [take(range(8)), rest(5 * SECOND), *between, rest(5 * SECOND)]
        running = report(tape, **given)
        return [batch for at, batch in running.reports.batches if at > 5 * SECOND]

    def test_allocation_forgets(self):
        assert self.again(give([0])) == [[(block_at(0), 10)]]
        # The told block at the head of the list is taken, and told again.
        assert self.again(take([60]), give([60])) == [[(block_at(39), 10)]]

    def test_a_split_forgets_both_halves(self):
        (batch,) = self.again(take([60], order=9), give([0]))
        assert sorted(batch) == [(block_at(0), 10), (block_at(39) + 512, 9)]

    def test_a_merge_forgets(self):
        tape = [take([0], order=9), rest(5 * SECOND), give([0]), rest(5 * SECOND)]
        running = report(tape)
        assert running.reports.batches[-1][1] == [(START, 10)]

    def test_what_merges_on_its_return_is_not_flagged(self):
        late = 40 * MS
        tape = [take([0], order=9), rest(FIRST + 10 * MS), give([0]), rest(10 * SECOND)]
        running = report(tape, [], host=host(device_latency_ns=late), capacity=64)
        first, *later = running.reports.batches
        assert (START + 512, 9) in first[1]
        # The min watermark kept the last block of all out of the first batch.
        assert [batch[0] for _, batch in later] == [(START, 10)]

    def test_nor_where_it_is_the_lower_half(self):
        late = 40 * MS
        # Of block 0 the lower half is in flight when the upper one is freed.
        tape = [take(range(2), order=9), give([0]), rest(FIRST + 10 * MS), give([1])]
        given = {"host": host(device_latency_ns=late), "capacity": 64}
        running = report([*tape, rest(10 * SECOND)], [], **given)
        first, *later = running.reports.batches
        assert (START, 9) in first[1]
        assert (START, 10) in [block for _, batch in later for block in batch]

    def test_put_back_asks_for_nothing(self):
        assert len(report([rest(60 * SECOND)]).reports.times) == 2


class TestGates:
    @pytest.mark.parametrize(("spare", "told"), [(1, True), (0, False)])
    def test_the_gate_is_low_and_a_batch_of_the_order(self, spare, told):
        low = 64 * BLOCK - (32 << 9) - spare
        running = report([rest(5 * SECOND)], zones=(zone(64, low=low),))
        assert bool(running.reports.times) == told

    @pytest.mark.parametrize(("spare", "told"), [(1, True), (0, False)])
    def test_the_gate_counts_in_blocks_of_the_order(self, spare, told):
        low = 64 * BLOCK - (32 << 10) - spare
        running = report([rest(5 * SECOND)], zones=(zone(64, low=low),), order=10)
        assert bool(running.reports.times) == told

    def test_a_zone_behind_the_gate_does_not_end_the_pass(self):
        zones = (
            zone(16, START, name="DMA32", low=16 * BLOCK - 512),
            zone(64, START + 16 * BLOCK),
        )
        running = report([rest(5 * SECOND)], zones=zones)
        assert sorted(running.reports.blocks) == list(range(16, 80))

    def test_the_boost_counts_as_low(self):
        def boost(running):
            running.machine.zones[0].watermark_boost = 512

        low = 64 * BLOCK - (32 << 9) - 512
        zones = (zone(64, low=low),)
        assert report([rest(5 * SECOND)], zones=zones, before=boost).reports.times == []

    def test_the_min_watermark_ends_a_list_at_the_refused_block(self):
        # Just past the gate, and min is 32 pages below low: 16 blocks may be taken.
        low = 64 * BLOCK - (32 << 9) - 1
        running = report([rest(5 * SECOND)], zones=(zone(64, low=low),))
        assert running.reports.sizes == [16]
        assert on_list(running)[:2] == [16, 17], "the refused block comes first"

    def test_the_lowmem_reserve_is_not_counted(self):
        zones = (
            zone(64, 0x1000, name="DMA32", low=160),
            zone(1024, 0x1000 + 64 * BLOCK, name="Normal"),
        )
        running = report([rest(30 * SECOND)], zones=zones)
        assert running.machine.zones[0].lowmem_reserve[2] > 0
        assert any(pfn < 0x1000 + 64 * BLOCK for _, b in running.reports.batches for pfn, _ in b)


class TestErrors:
    def test_after_an_error_the_pass_ends_and_nothing_asks_for_another(self):
        def refuse(running):
            running.guest.host.accepts = False

        tape = [take([0]), rest(9 * SECOND), give([0]), rest(5 * SECOND)]
        running = report(tape, before=refuse)
        assert running.reports.times == [FIRST, timer_fires_ns(9 * SECOND, DELAY)]
        assert running.reports.sizes == [32, 32]
        assert told(running) == []
        assert running.strategy.state.peek() is State.IDLE

    @pytest.mark.parametrize("blocks", [16, 64], ids=["in the leftover", "in a full batch"])
    def test_an_error_keeps_the_pass_from_lists_and_zones_behind_it(self, blocks):
        def refuse(running):
            running.guest.host.accepts = False

        zones = (
            zone(blocks, START, name="DMA32"),
            zone(64, START + blocks * BLOCK),
        )
        # A list of order 9 before that of order 10.
        tape = [take([0], order=9), rest(5 * SECOND)]
        running = report(tape, zones=zones, before=refuse, capacity=20)
        assert len(running.reports.sizes) == 1
        assert all(pfn < START + blocks * BLOCK for pfn, _ in running.reports.batches[0][1])

    def test_without_memory_for_the_scatter_list_the_pass_does_nothing(self):
        """kmalloc_array() fails: goto err_out, and the state is idle again."""

        def no_memory(running):
            running.guest.buffer_fails = lambda: True

        running = report([rest(5 * SECOND)], before=no_memory)
        assert running.reports.times == []
        assert running.strategy.state.peek() is State.IDLE

    def test_without_a_device_nothing_is_lost(self):
        def detach(running):
            running.guest.host.attached = False

        running = report([rest(5 * SECOND)], before=detach)
        assert running.reports.times == []
        assert len(on_list(running)) == 64


class TestStopping:
    def test_a_pending_pass_is_cancelled(self):
        running = report([rest(SECOND)])
        assert running.reports.times == []
        assert running.strategy.work.done

    def test_after_it_frees_ask_for_nothing(self):
        running = report([rest(10 * SECOND)])
        running.strategy.block_freed(0)
        assert running.strategy.state.peek() is State.IDLE

    def test_a_running_pass_ends_first_and_does_not_ask_again(self):
        running = report([rest(FIRST + 50 * US)], capacity=1, blocks=64)
        assert len(running.reports.times) == 4 + 1
        assert running.strategy.work.done
