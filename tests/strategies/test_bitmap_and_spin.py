"""bitmap-and-spin: bits per unit, blocks that stay on the free list, and takers that spin."""

import numpy
import pytest

from hintbench import hookimpl
from hintbench.operations import Flag, Operation, encode
from hintbench.strategies.bitmap_and_spin import BitmapAndSpin
from hintbench.strategies.zone_confined_batching import ZoneConfinedBatching
from hintbench.testing.exploration import run_scenario
from hintbench.testing.scenarios.guests import small_guest as layout
from hintbench.testing.scenarios.scenario import Fault, Operations, Scenario
from small_guest import BLOCK, MS, START, US, costs, host, zone

from .stage import FAST, block_at, free_storm, give, number_of, play, rest, take

DELAY = 1 * MS
SERVICE = 200 * US
"""From the post to the acknowledgement."""
SETTLED = 50 * MS
"""When everything that was free at the start has been told."""


def spin(*tapes, latency=SERVICE, **given):
    """Run it with batches of four units, a delay of 1 ms, and a host that takes 200 us."""
    given = {"batch": 4, "delay_ns": DELAY, **given}
    given.setdefault("host", host(device_latency_ns=latency))
    given.setdefault("costs", costs(context_spin_wake_ns=100))
    running = play(BitmapAndSpin, *tapes, **given)
    assert running.result.violations == {}
    if not running.result.metrics["refused_reports"]:
        assert running.result.metrics["lock_takes_per_batch"] in (1, None)
    assert running.strategy.mid.count == 0
    return running


def units(flags, order=10):
    return [(pfn - START) >> order for pfn in flags.set_units()]


class TestInitialFlush:
    def test_everything_is_told_in_batches_of_one_take(self):
        running = spin([rest(SETTLED)])
        assert sorted(running.reports.blocks) == list(range(64))
        assert set(running.reports.sizes) == {4}
        assert running.result.metrics["strategy_lock_takes"] == 16
        assert units(running.strategy.told) == list(range(64))
        assert running.machine.zones[0].nr_free[10] == 64, "nothing has left the free list"

    def test_neighbours_are_joined(self):
        assert spin([rest(SETTLED)]).result.metrics["discards"] == 16

    def test_what_is_in_use_is_stale(self):
        running = spin([take(range(8)), rest(SETTLED)])
        assert sorted(running.reports.blocks) == list(range(8, 64))
        assert running.strategy.pending.count == 0

    def test_a_batch_is_of_one_zone(self):
        zones = (zone(6, START), zone(6, START + 8 * BLOCK, node=1))
        running = spin([rest(SETTLED)], [], zones=zones)
        for _, batch in running.reports.batches:
            assert len({number_of(pfn) // 8 for pfn, _ in batch}) == 1
        assert len(running.reports.blocks) == 12

    def test_a_zone_that_can_never_pass_the_gate_is_left_alone(self):
        zones = (zone(3, name="DMA32"), zone(8, START + 8 * BLOCK))
        running = spin([rest(SETTLED)], zones=zones)
        assert sorted(running.reports.blocks) == list(range(8, 16))

    def test_the_gate_keeps_a_batch_above_the_low_watermark(self):
        small = (zone(16, low=160),)
        # Five blocks are free: one may be marked, as long as four stay.
        running = spin([take(range(10)), rest(SETTLED)], zones=small)
        assert set(running.reports.sizes) == {1}


class TestSpinning:
    """Blocks 0..7 are in use; 8..23 are mid from 1 ms on, and acknowledged 200 us later."""

    given = {"batch": 16}
    used = take(range(8))
    inside = rest(DELAY + 50 * US)
    wait_ns = SERVICE - 50 * US + 100

    def spun(self, *tapes, **given):
        running = spin(*tapes, **{**self.given, **given})
        return running.result.metrics["alloc_spin_total_ns"], running.strategy

    def test_a_taker_waits_for_the_acknowledgement_and_what_it_has_is_not_told(self):
        spun, strategy = self.spun([self.used, self.inside, take([50])])
        assert spun == self.wait_ns
        assert units(strategy.told)[0] == 9

    def test_one_that_comes_later_does_not(self):
        spun, _ = self.spun([self.used, rest(SETTLED), take([50])])
        assert spun == 0

    def test_a_page_of_a_block_that_was_split(self):
        tape = [self.used, self.inside, take([50], order=0), take([51], order=0)]
        spun, strategy = self.spun(tape)
        # The refill took both from block 8; the second is taken when the spin is over.
        assert spun == self.wait_ns
        assert units(strategy.told)[0] == 9

    def test_a_page_that_another_cpus_refill_took(self):
        later = rest(DELAY + 60 * US)
        tapes = [
            [self.used, self.inside, take([50], order=0)],
            [later, take([60], order=0), take([61], order=0)],
        ]
        spun, strategy = self.spun(*tapes)
        assert spun == 2 * self.wait_ns - 10 * US
        assert units(strategy.told)[0] == 9

    def test_all_vcpus_at_once(self):
        tapes = [[self.inside, take([50 + cpu], order=4)] for cpu in range(4)]
        spun, _ = self.spun([self.used, *tapes[0]], *tapes[1:])
        assert spun == 4 * self.wait_ns

    def test_a_larger_block_waits_for_every_unit_in_it(self):
        spun, strategy = self.spun([self.used, self.inside, take([50])], min_order=9)
        assert spun == self.wait_ns
        assert units(strategy.told, 9)[0] == 18

    def test_a_unit_that_was_drained_back_while_mid_and_taken_by_another(self):
        """CPU 0 refills both halves of block 8, and waits; CPU 1 drains the one on its list."""
        mark = 50 * 1024
        tapes = [
            [self.used, self.inside, take([50], order=9)],
            [
                rest(DELAY + 70 * US),
                take(range(60, 65)),
                take([65], flags=Flag.TOUCHED),  # has to reclaim, and fails
                take([66], order=9, flags=Flag.TOUCHED | Flag.ATOMIC),
            ],
        ]
        spun, strategy = self.spun(
            *tapes, min_order=9, batch=2, zones=(zone(64, low=mark + 64, watermark_min=mark),)
        )
        assert spun == 2 * self.wait_ns - 20 * US
        assert units(strategy.told, 9) == []
        assert 17 not in units(strategy.pending, 9)

    @pytest.mark.parametrize(("order", "waits"), [(10, True), (0, False)])
    def test_a_block_of_which_one_half_is_in_flight(self, order, waits):
        """The upper half is told, then the lower one is freed, and they merge."""
        tape = [
            rest(SETTLED),
            take([0, 1], order=9),
            give([1]),
            rest(DELAY + 20 * US),
            give([0]),
            rest(30 * US),
            take([2], order=order),
        ]
        spun, _ = self.spun(tape, kernel="5.0", min_order=9)
        assert spun == (self.wait_ns if waits else 0)


class TestTold:
    def test_freed_again_it_is_told_again(self):
        running = spin([rest(SETTLED), take(range(2)), give([0]), rest(SETTLED)])
        assert running.reports.since(SETTLED) == [0]
        assert running.result.metrics["redundant_reported_bytes"] == 0

    def test_what_is_told_is_not_told_again(self):
        assert spin([rest(2 * SETTLED)]).reports.since(SETTLED // 2) == []

    @pytest.mark.parametrize("order", [9, 10])
    def test_a_merge_forgets_nothing(self, order):
        """One half of a told block was used: only that is told again, if a half is a unit."""
        tape = [rest(SETTLED), take([0], order=9), give([0]), rest(SETTLED)]
        running = spin(tape, min_order=order, kernel="5.0")
        assert running.machine.zones[0].nr_free[10] == 64
        again = [batch for at, batch in running.reports.batches if at >= SETTLED]
        assert again == [[(block_at(63), order)]]

    def test_one_candidate_waits_for_the_delay(self):
        running = spin([rest(SETTLED), take([0]), give([0]), rest(SETTLED)])
        assert running.reports.times[-1] == SETTLED + DELAY

    def test_a_full_batch_does_not(self):
        running = spin([rest(SETTLED), take(range(4)), give(range(4)), rest(SETTLED)])
        assert running.reports.times[-1] == SETTLED
        assert running.reports.sizes[-1] == 4

    def test_a_candidate_that_was_taken_since_is_left_out(self):
        tape = [rest(SETTLED), take(range(2)), give(range(2)), take([2]), rest(SETTLED)]
        running = spin(tape)
        assert len(running.reports.since(SETTLED)) == 1
        assert running.result.metrics["strategy_empty_lock_takes"] == 0

    def test_a_pass_that_finds_only_such_is_an_empty_take(self):
        tape = [rest(SETTLED), take([0]), give([0]), take([0]), rest(SETTLED)]
        running = spin(tape)
        assert running.reports.since(SETTLED) == []
        assert running.result.metrics["strategy_empty_lock_takes"] == 1


class TestFailure:
    def test_a_host_that_refuses(self):
        def refuse(guest):
            guest.host.accepts = False

        def accept(guest):
            guest.host.accepts = True

        at = {SETTLED - US: refuse, SETTLED + 6 * MS: accept}
        running = spin([rest(SETTLED), take([0]), give([0]), rest(2 * SETTLED)], at=at)
        times = [at - SETTLED for at in running.reports.times if at >= SETTLED]
        # After 1 ms, then after 2 and 4 ms more: 200 us each for the answer.
        assert times == [DELAY, 3 * DELAY + SERVICE, 7 * DELAY + 2 * SERVICE]
        assert 0 in units(running.strategy.told)

    def test_a_full_queue(self):
        def crowd(guest):
            guest.host._outstanding += guest.host.config.queue_capacity

        def leave(guest):
            guest.host._outstanding -= guest.host.config.queue_capacity

        at = {SETTLED - US: crowd, SETTLED + 2 * MS: leave}
        running = spin([rest(SETTLED), take([0]), give([0]), rest(2 * SETTLED)], at=at)
        assert len(running.reports.since(SETTLED)) == 1
        assert running.result.metrics["refused_reports"] == 1
        assert 0 in units(running.strategy.told)


class TestEnd:
    def test_stopping_waits_for_what_is_in_flight(self):
        running = spin([rest(DELAY + 50 * US)], blocks=40, batch=16)
        assert running.reports.sizes == [16]
        assert running.strategy.told.count == 16

    @pytest.mark.parametrize("acknowledge", ["interrupt", "poll"])
    @pytest.mark.parametrize("kick", ["vcpu-thread", "device-thread", "hypercall"])
    def test_whoever_serves(self, kick, acknowledge):
        given = host(kick=kick, acknowledge=acknowledge, device_latency_ns=SERVICE, hypercall_ns=50)
        running = spin([rest(SETTLED)], host=given)
        assert running.strategy.told.count == 64

    @pytest.mark.parametrize("kernel", ["5.0", "6.12"])
    def test_after_a_free_storm_nothing_is_left_behind(self, kernel):
        running = spin(*free_storm(), kernel=kernel)
        zone_ = running.machine.zones[0]
        whole = [block.pfn for block in zone_.free_blocks(10)]
        assert set(whole) <= set(running.strategy.told.set_units())
        assert running.strategy.pending.count == 0


class TestContext:
    def test_interrupts_are_off_from_marking_to_posting(self):
        """An interrupt on the worker's CPU in between could spin for what it interrupted."""
        marked = []

        class Looking(BitmapAndSpin):
            name = "looking"

            async def _mark(self, zone, candidates):
                units = await super()._mark(zone, candidates)
                marked.append(self.guest.scheduler.current.interrupts_off)
                return units

            @hookimpl
            def guest_started(self, guest):
                super().guest_started(guest)

        play(Looking(batch=4, delay_ns=DELAY), [rest(SETTLED)])
        assert marked
        assert set(marked) == {1}


class TestQueueThatAllocates:
    """virtqueue_add_split() with VIRTIO_RING_F_INDIRECT_DESC: alloc_indirect_split(), kmalloc().

    Every second block is free, and two are told in one request: two descriptors.
    """

    def explored(self, make, *faults):
        blocks = range(14)
        steps = [(Operation.ALLOCATE, 10, block, 0) for block in blocks]
        # What is freed last is first on its list, where the page comes from.
        steps += [(Operation.FREE, 0, block, 0) for block in reversed(blocks) if block % 2]
        steps += [(Operation.IDLE_UNTIL, 0, 0, 8 * MS)]
        scenario = Scenario(
            guest=layout("6.12", "one", "fast", 1),
            operations=Operations(
                vcpu=numpy.zeros(len(steps), dtype=numpy.int8),
                code=numpy.array(
                    [encode(what, order, 1, FAST) for what, order, _, _ in steps], numpy.uint32
                ),
                value=numpy.array([slot for _, _, slot, _ in steps], dtype=numpy.int32),
                time_ns=numpy.array([time_ns for *_, time_ns in steps], dtype=numpy.int64),
            ),
            faults=faults,
            settle=True,
        )
        told = []
        outcome = run_scenario(make, scenario, told=lambda what, text: told.append(what))
        assert told.count("fault") == len(faults)
        return outcome

    def spinning(self):
        return BitmapAndSpin(**{**BitmapAndSpin.check_parameters, "batch": 4})

    def test_a_page_for_the_table_may_be_one_just_marked(self):
        """Then the only CPU that could kick spins for an answer to what it has not posted."""
        outcome = self.explored(self.spinning, Fault("queue-allocates", 1))
        assert list(outcome.counts) == ["progress-under-spin"]

    def test_a_queue_that_needs_no_table_is_what_it_asks_for(self):
        assert self.explored(self.spinning).counts == {}

    def test_who_isolates_does_not_care(self):
        def make():
            return ZoneConfinedBatching(**ZoneConfinedBatching.check_parameters)

        assert self.explored(make, Fault("queue-allocates", 1)).counts == {}
