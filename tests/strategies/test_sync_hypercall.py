"""sync-hypercall: a call for each large free, and for each merge that reaches the order."""

import pytest

from hintbench.operations import Flag
from hintbench.strategies.sync_hypercall import SyncHypercall
from small_guest import START, US, costs, host, trace_lock

from .stage import FAST, give, play, rest, take

CALL = 10 * US


def tell(*tapes, **given):
    """Run it with calls of 10 us; the run with its `reports`, and no rule broken."""
    running = play(SyncHypercall, *tapes, **{"host": host(hypercall_ns=CALL), **given})
    assert running.result.violations == {}
    return running


def test_the_order_is_that_of_a_huge_page():
    assert SyncHypercall().parameters.model_dump() == {"order": 9}


class TestFree:
    def test_a_large_unit_is_told_before_it_is_on_any_list(self):
        tape = [take([0]), take([1], order=9), rest(US), give([0]), give([1])]
        running = tell(tape)
        assert running.reports.batches == [
            (1 * US, [(START, 10)]),
            (1 * US + CALL, [(running.reports.batches[1][1][0][0], 9)]),
        ]

    def test_the_freeing_vcpu_waits_for_the_host_and_no_lock_is_held(self):
        locks = []
        tape = [take([0]), rest(US), give([0]), rest(US)]
        running = tell(tape, before=lambda running: locks.append(trace_lock(running)))
        called = running.reports.times[0]
        assert [at for what, _, at in locks[0] if what == "take"][-1] == called + CALL

    def test_smaller_units_say_nothing_by_themselves(self):
        tape = [take(range(4), order=8), rest(US), give([1])]
        assert tell(tape).reports.batches == []

    def test_what_was_free_at_the_start_is_never_told(self):
        assert tell([rest(10**9)]).reports.batches == []

    def test_a_huge_page_is_told_though_it_stays_on_its_per_cpu_list(self):
        tape = [take([0], order=9), give([0]), take([0], order=9, flags=FAST | Flag.COMPOUND)]
        running = tell(tape)
        assert len(running.reports.batches) == 1
        assert running.result.metrics["refaulted_bytes"] > 0, "and handed out again, discarded"

    def test_there_is_no_memory_of_what_was_told(self):
        tape = [take([0]), give([0]), take([0]), give([0])]
        assert [batch for _, batch in tell(tape).reports.batches] == [[(START, 10)]] * 2


class TestMerge:
    def test_told_once_where_the_merge_reaches_the_order(self):
        # Eight blocks of order 7 make up 2 blocks of order 9, and those one of order 10.
        slots = range(8)
        tape = [take(slots, order=7), rest(US), give(slots)]
        running = tell(tape)
        assert [batch for _, batch in running.reports.batches] == [
            [(START, 9)],
            [(START + 512, 9)],
        ]

    def test_in_any_order_of_frees(self):
        slots = [3, 6, 0, 5, 1, 7, 2, 4]
        running = tell([take(range(8), order=7), rest(US), give(slots)])
        told = sorted(block for _, batch in running.reports.batches for block in batch)
        assert told == [(START, 9), (START + 512, 9)]

    def test_above_the_order_merges_say_nothing(self):
        tape = [take(range(8), order=7), rest(US), give(range(8))]
        assert [len(b) for _, b in tell(tape, order=10).reports.batches] == [1]
        assert len(tell(tape, order=8).reports.batches) == 4

    def test_the_lock_is_free_during_the_call(self):
        locks = []
        tape = [take(range(4), order=7), rest(US), give(range(4))]
        # The other vCPU takes a block in the middle of the call.
        other = [rest(US + CALL // 2), take([9])]
        running = tell(tape, other, before=lambda running: locks.append(trace_lock(running)))
        ((called, _),) = running.reports.batches
        inside = [
            cpu for what, cpu, at in locks[0] if what == "take" and called < at < called + CALL
        ]
        assert inside == [1]
        assert ("take", 0, called + CALL) in locks[0]

    def test_the_next_buddy_is_read_again_after_the_call(self):
        # The first quarter is assembled while the second lies free; or is taken during the call.
        tape = [take(range(2), order=7), take([2], order=8), rest(US)]
        tape += [give([2]), rest(2 * CALL), give(range(2))]
        running = tell(tape, [rest(9 * CALL)], order=8)
        assert running.machine.zones[0].blocks_of(8, 1) == []
        assert START in running.machine.zones[0].blocks_of(10, 1)
        thief = [rest(US + 3 * CALL + CALL // 2), take([9], order=8)]
        running = tell(tape, thief, order=8)
        assert running.machine.zones[0].blocks_of(8, 1) == [START], "its buddy is gone"


class TestCosts:
    def test_the_call_is_the_freeing_threads(self):
        tape = [take(range(8), order=7), rest(US), give(range(8))]
        metrics = tell(tape, costs=costs()).result.metrics
        assert metrics["guest_cpu_hook_ns"] >= 2 * CALL

    def test_2_mib_a_call(self):
        """Duyck's RFC: about 3,000 hypercalls give back 6 GB."""
        slots = range(48 * 16)
        metrics = tell([take(slots, order=6), give(slots)]).result.metrics
        assert metrics["host_calls"] == 48 * 2
        assert metrics["reported_bytes"] == 48 * 2 * 2 << 20

    def test_after_stopping_nothing_is_told(self):
        running = tell([rest(US)])
        zone = running.guest.zones[0]
        assert running.strategy.block_merged(zone, START, 9) is None
        with pytest.raises(StopIteration):
            running.strategy.page_freeing(START, 9).send(None)
        assert running.strategy.calls == 0

    def test_without_a_host_it_goes_on(self):
        def detach(running):
            running.guest.host.attached = False

        tape = [take(range(4), order=7), give(range(4))]
        assert tell(tape, before=detach).reports.batches == []
