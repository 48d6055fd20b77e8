"""zone-confined-batching: rings, a timer, one zone's batch at a time, and a rescan."""

import pytest

from hintbench.operations import Flag
from hintbench.strategies.zone_confined_batching import ZoneConfinedBatching
from small_guest import BLOCK, MS, START, US, costs, host, zone

from .stage import block_at, free_storm, give, number_of, play, rest, take

DELAY = 1 * MS
SERVICE = 200 * US
"""From the report to the acknowledgement."""
SETTLED = 50 * MS
"""When the initial rescan is over."""


def confine(*tapes, latency=SERVICE, **given):
    """Run it with batches of four, a threshold of three, a delay of 1 ms, a host of 200 us."""
    given = {"batch": 4, "threshold": 3, "delay_ns": DELAY, **given}
    given.setdefault("host", host(device_latency_ns=latency))
    running = play(ZoneConfinedBatching, *tapes, **given)
    assert running.result.violations == {}
    if not running.result.metrics["refused_reports"]:
        assert running.result.metrics["lock_takes_per_batch"] in (2, None)
    assert running.machine.zones[0].isolated_pages == 0
    assert all(not running.strategy.rings[cpu] for cpu in running.guest.cpus)
    return running


def told(running, order=10):
    return [(pfn - START) >> order for pfn in running.strategy.told.set_units()]


def after(running):
    """What was told once the initial rescan was over: (time since then, blocks)."""
    return [
        (at - SETTLED, [number_of(pfn) for pfn, _ in batch])
        for at, batch in running.reports.batches
        if at >= SETTLED
    ]


class TestInitialFlush:
    def test_everything_is_told_in_batches_of_two_takes(self):
        running = confine([rest(SETTLED)])
        assert sorted(running.reports.blocks) == list(range(64))
        assert set(running.reports.sizes) == {4}
        assert running.result.metrics["strategy_lock_takes"] == 2 * 16
        assert told(running) == list(range(64))

    def test_a_rescan_looks_at_a_slice_under_one_hold(self):
        price = costs(head_lookup_ns=11)
        # Nothing is free, so that every look-up is in vain.
        tape = [take(range(63)), rest(SETTLED)]
        for units in (8, 64):
            metrics = confine(tape, slice_units=units, costs=price).result.metrics
            assert metrics["longest_hold_task_ns"] == units * 11

    def test_zones_without_a_whole_unit(self):
        zones = (zone(1, START, managed_pages=1000), zone(4, START + 4 * BLOCK, node=1))
        running = confine([rest(SETTLED)], [], zones=zones)
        assert sorted(running.reports.blocks) == [4, 5, 6, 7]


class TestTrigger:
    def test_the_timer_leaves_no_residue(self):
        running = confine([rest(SETTLED), take([0]), give([0]), rest(SETTLED)])
        assert after(running) == [(DELAY, [0])]

    def test_the_threshold_does_not_wait(self):
        running = confine([rest(SETTLED), take(range(3)), give(range(3)), rest(SETTLED)])
        assert after(running) == [(0, [0, 1, 2])]

    def test_the_timer_starts_with_the_first_capture(self):
        tape = [rest(SETTLED), take(range(2)), give([0]), rest(DELAY // 2), give([1])]
        running = confine([*tape, rest(SETTLED)])
        assert after(running) == [(DELAY, [0, 1])]

    def test_below_the_order_nothing_is_captured(self):
        running = confine([rest(SETTLED), take([0, 1], order=9), give([0]), rest(SETTLED)])
        assert after(running) == []

    def test_the_head_of_the_merged_block_is_captured(self):
        halves = [take([0, 1], order=9), give([1, 0])]
        running = confine([rest(SETTLED), *halves, rest(SETTLED)], kernel="5.0")
        assert after(running) == [(DELAY, [0])]

    def test_not_by_the_thread_that_freed(self):
        metrics = confine([rest(SETTLED), take([0]), give([0]), rest(SETTLED)]).result.metrics
        assert metrics["guest_cpu_hook_ns"] == 0
        assert metrics["lock_takes_task"] == metrics["strategy_lock_takes"]


class TestBatch:
    def test_isolated_until_acknowledged_then_told(self):
        seen = {}

        def look(guest):
            seen[guest.now - SETTLED] = guest.zones[0].isolated_pages // BLOCK

        looks = dict.fromkeys((SETTLED + SERVICE - US, SETTLED + SERVICE + US), look)
        tape = [rest(SETTLED), take(range(3)), give(range(3)), rest(SETTLED)]
        running = confine(tape, at=looks)
        assert seen == {SERVICE - US: 3, SERVICE + US: 0}
        assert told(running) == list(range(64))

    def test_they_go_to_the_tail(self):
        running = confine([rest(SETTLED), take([0]), give([0]), rest(SETTLED)])
        assert running.machine.zones[0].blocks_of(10, 1)[-1] == block_at(0)

    def test_a_batch_is_of_one_zone_not_of_one_zone_number(self):
        zones = (zone(4, START), zone(4, START + 4 * BLOCK, node=1))
        tape = [rest(SETTLED), take(range(6)), give([0, 3, 1, 4, 2, 5]), rest(SETTLED)]
        running = confine(tape, [], zones=zones, threshold=6)
        assert after(running) == [(0, [0, 1, 2]), (SERVICE, [4, 5, 6])]

    def test_no_more_than_the_cap(self):
        tape = [rest(SETTLED), take(range(6)), give(range(6)), rest(SETTLED)]
        running = confine(tape, threshold=6)
        assert [len(blocks) for _, blocks in after(running)] == [4, 2]
        assert running.result.metrics["peak_in_flight_bytes"] == 4 * 4 << 20

    def test_two_cpus_of_one_zone_take_turns(self):
        tapes = [
            [rest(SETTLED), take([3 * cpu + n for n in range(3)]), rest(100), *more]
            for cpu, more in enumerate(([give([0, 1, 2])], [give([3, 4, 5])]))
        ]
        running = confine(*[[*tape, rest(SETTLED)] for tape in tapes])
        assert [at for at, _ in after(running)] == [100, 100 + SERVICE]
        assert running.result.metrics["peak_in_flight_bytes"] <= 4 * 4 << 20

    def test_one_block_in_two_rings_is_told_once(self):
        tapes = [
            [rest(SETTLED), take([0]), give([0]), take([0]), rest(SETTLED)],
            [rest(SETTLED + 100), give([0]), rest(SETTLED)],
        ]
        running = confine(*tapes)
        assert [blocks for _, blocks in after(running)] == [[0]]
        assert running.result.metrics["strategy_empty_lock_takes"] == 1

    def test_split_after_capture(self):
        tape = [rest(SETTLED), take([0]), give([0]), take([1], order=4), rest(SETTLED)]
        running = confine(tape)
        assert after(running) == []
        assert told(running) == list(range(1, 64))

    @pytest.mark.parametrize("merges", [False, True])
    def test_what_merges_on_its_way_back_is_not_told(self, merges):
        tape = [
            rest(SETTLED),
            take([0, 1], order=9),
            give([0]),
            rest(DELAY + SERVICE // 2),
            *([give([1])] if merges else []),
            rest(SETTLED),
        ]
        running = confine(tape, min_order=9, kernel="5.0")
        sizes = [
            order for at, batch in running.reports.batches if at >= SETTLED for _, order in batch
        ]
        # The half that was freed meanwhile is captured, and found in the merged block.
        assert sizes == ([9, 10] if merges else [9])
        assert told(running, 9)[:2] == ([0, 1] if merges else [0, 2])


class TestRefusal:
    def test_refused_in_the_middle_of_a_batch_the_rest_waits_for_the_timer(self):
        """Four of ten blocks cannot be allocated, five cannot leave: two of seven may."""
        mark = 4 * BLOCK
        zones = (zone(10, low=mark, watermark_min=mark),)
        tape = [rest(SETTLED), take(range(6)), give([0, 1, 2]), rest(SETTLED)]
        running = confine(tape, zones=zones)
        assert after(running) == [(0, [0, 1]), (SERVICE + DELAY, [2])]
        assert running.result.metrics["isolation_refusals"] == 1

    def test_a_host_that_refuses(self):
        def accepts(answer):
            def change(guest):
                guest.host.accepts = answer

            return change

        at = {SETTLED - US: accepts(False), SETTLED + 5 * MS: accepts(True)}
        tape = [rest(SETTLED), take(range(3)), give(range(3)), rest(SETTLED)]
        running = confine(tape, at=at)
        # Then only the timer counts, and it doubles.
        assert [when for when, _ in after(running)] == [
            0,
            SERVICE + 2 * DELAY,
            2 * SERVICE + 6 * DELAY,
        ]
        assert told(running) == list(range(64))

    def test_a_full_ring_is_counted_and_a_rescan_finds_the_rest(self):
        tape = [rest(SETTLED), take(range(6)), give(range(6)), rest(SETTLED)]
        running = confine(tape, ring_entries=2)
        assert running.result.metrics["dropped_hints"] == 4
        assert told(running) == list(range(64))


class TestLowMemory:
    def stalled(self, **given):
        """Four blocks of eight are in flight, one is free; one more is asked for."""
        tape = [
            rest(SETTLED),
            take(range(7)),
            give(range(4)),
            rest(US),
            take([10], flags=Flag.TOUCHED),
        ]
        price = costs(direct_reclaim_ns=10 * US)
        running = confine(tape, zones=(zone(8),), costs=price, **{"threshold": 4, **given})
        return running.result.metrics

    def test_an_allocation_waits_for_the_zones_batch(self):
        metrics = self.stalled()
        assert metrics["blocking_failures"] == metrics["false_ooms"] == 0
        assert (metrics["stalls"], metrics["stall_ns"]) == (1, SERVICE - US)

    def test_not_when_nothing_is_in_flight(self):
        metrics = self.stalled(threshold=5)
        assert metrics["stalls"] == metrics["slow_paths"] == 0


class TestStop:
    def test_batches_come_back_and_rings_are_emptied(self):
        tapes = [
            [rest(SETTLED), take(range(3)), give(range(3))],
            [rest(SETTLED), take([3]), give([3])],
        ]
        running = confine(*tapes, ring_entries=8)
        assert [blocks for _, blocks in after(running)] == [[0, 1, 2]]

    @pytest.mark.parametrize("kick", ["vcpu-thread", "device-thread", "hypercall"])
    @pytest.mark.parametrize("acknowledge", ["interrupt", "poll"])
    def test_whoever_serves(self, kick, acknowledge):
        given = host(kick=kick, acknowledge=acknowledge, device_latency_ns=SERVICE, hypercall_ns=9)
        assert told(confine([rest(SETTLED)], host=given)) == list(range(64))

    @pytest.mark.parametrize("kernel", ["5.0", "6.12"])
    def test_after_a_free_storm_nothing_is_left_behind(self, kernel):
        running = confine(*free_storm(), kernel=kernel)
        whole = [number_of(block.pfn) for block in running.machine.zones[0].free_blocks(10)]
        assert set(whole) <= set(told(running))
