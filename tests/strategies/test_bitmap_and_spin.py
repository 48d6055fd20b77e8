"""bitmap-and-spin: bits per unit, blocks that stay on the free list, and takers that spin."""

import pytest

from hintbench.strategies.bitmap_and_spin import BitmapAndSpin

from .fake_guest import BLOCK_PAGES, Guest

MS = 1_000_000
DELAY = 100 * MS


def block(number):
    return number * BLOCK_PAGES


def attach(guest=None, **parameters):
    guest = guest or Guest()
    return guest, guest.attach(BitmapAndSpin(**{"batch": 2, **parameters}))


def told(strategy):
    return sorted(strategy.told.units)


def serve(guest, duration=DELAY):
    guest.host.serves = True
    guest.run(duration)


class TestInitialFlush:
    def test_everything_is_told_but_what_the_gate_keeps(self):
        guest, strategy = attach()
        serve(guest)
        assert guest.host.reported() == [block(number) for number in range(8)]
        assert told(strategy) == list(range(8))
        assert guest.zones[0].lock.takes == 4, "one take per batch, none to return"
        assert len(guest.zones[0].free) == 8
        assert strategy.mid.units == set()

    def test_what_is_in_use_is_stale(self):
        guest = Guest()
        for number in (1, 2, 3, 4):
            del guest.zones[0].free[block(number)]
        guest, strategy = attach(guest)
        serve(guest)
        assert told(strategy) == [0, 5, 6, 7]
        assert strategy.pending.units == set()

    def test_a_batch_is_of_one_zone(self):
        guest, _ = attach(Guest(blocks=(4, 4), numbers=(2, 2), cpus=2))
        serve(guest)
        zones = [{pfn >= block(4) for pfn, order in batch} for batch in guest.host.batches]
        assert all(len(found) == 1 for found in zones)
        assert len(guest.host.reported()) == 8

    def test_a_zone_that_can_never_pass_is_left_alone(self):
        guest, strategy = attach(Guest(blocks=(2, 8), numbers=(0, 2)))
        serve(guest)
        assert list(strategy.works) == [1]
        assert min(guest.host.reported()) == block(2)


class TestTrigger:
    def settled(self, **parameters):
        guest, strategy = attach(**parameters)
        serve(guest)
        guest.host.batches.clear()
        return guest, strategy

    def test_one_candidate_waits_for_the_delay(self):
        guest, strategy = self.settled(batch=3)
        self.cycle(guest, strategy, 5)
        guest.run(DELAY - MS)
        assert guest.host.batches == []
        guest.run(MS)
        assert guest.host.reported() == [block(5)]

    def test_a_full_batch_does_not(self):
        guest, strategy = self.settled()
        self.cycle(guest, strategy, 5, 6)
        guest.run()
        assert guest.host.reported() == [block(5), block(6)]

    def test_what_is_told_is_not_told_again(self):
        guest, _ = self.settled()
        guest.run(10 * DELAY)
        assert guest.host.batches == []

    def cycle(self, guest, strategy, *numbers):
        for number in numbers:
            guest.take(block(number))
            strategy.told.clear(block(number))  # as the core does: forget="allocated"
        guest.give(*map(block, numbers))

    def test_a_merge_forgets_nothing(self):
        guest, strategy = self.settled(min_order=9)
        guest.take(block(3), order=9)
        strategy.told.clear(block(3), 9)
        guest.give(block(3), order=9)
        serve(guest)
        assert guest.host.batches == [[(block(3), 9)]], "only the half that was freed"

    def test_the_gate_leaves_a_batch_above_the_low_watermark(self):
        guest = Guest()
        guest.zones[0].watermark_low = 3 * BLOCK_PAGES
        guest, _ = attach(guest)
        for number in range(4):
            del guest.zones[0].free[block(number)]
        serve(guest)
        assert guest.host.batches == []
        for number in (0, 1):
            guest.give(block(number))
        guest.run(DELAY)
        assert [len(batch) for batch in guest.host.batches[:2]] == [1, 1], "room for one at a time"
        assert len(guest.host.reported()) == 6


class TestSpin:
    def in_flight(self, guest=None, **parameters):
        guest, strategy = attach(guest, **parameters)
        guest.run(DELAY)
        assert guest.host.batches == [[(0, 10), (block(1), 10)]]
        return guest, strategy

    def test_a_taker_waits_for_the_acknowledgement_then_forgets(self):
        guest, strategy = self.in_flight()
        wait = guest.hooks["page_allocated"](guest, 0, 5, 0)
        task = guest.spawn(wait, cpu=0, name="taker")
        guest.run()
        assert not task.done
        guest.host.finish()
        guest.run()
        assert task.done
        assert told(strategy) == [1]

    def test_another_unit_does_not_concern_it(self):
        guest, strategy = self.in_flight()
        narrowed = guest.filters["page_allocated"]
        assert narrowed.flags is strategy.mid
        assert narrowed.cost_ns == 1
        assert not narrowed.flags.any(block(2), 10)

    def test_a_spinner_takes_the_completion_itself(self):
        guest, _ = self.in_flight()
        guest.host.finish(interrupt=False)
        guest.tasks.clear()  # no worker gets a vCPU
        guest.take(0)
        assert guest.host.completions == []

    def test_the_worker_polls_when_no_interrupt_comes(self):
        guest, strategy = self.in_flight()
        guest.host.finish(interrupt=False)
        guest.run(MS)
        assert {0, 1} <= strategy.told.units

    def test_told_comes_before_not_mid(self):
        guest, strategy = self.in_flight()
        strategy.told.log = strategy.mid.log = log = []
        guest.host.finish()
        assert log == ["set", "clear"] * 2

    def test_nothing_is_told_when_the_host_fails_and_it_is_tried_again(self):
        guest, strategy = self.in_flight()
        guest.host.fails = True
        guest.host.finish()
        guest.run()
        assert strategy.mid.units == strategy.told.units == set()
        assert {0, 1} <= strategy.pending.units
        guest.run(2 * DELAY - MS)
        assert len(guest.host.batches) == 1, "the delay doubles"
        guest.host.fails = False
        serve(guest)
        assert len(told(strategy)) == 8

    def test_a_full_queue_unmarks_at_once(self):
        guest, strategy = attach()
        guest.host.room = 0
        guest.run(DELAY)
        assert strategy.mid.units == set()
        assert len(strategy.pending.units) == 8

    def test_half_a_block(self):
        guest, strategy = attach(batch=1, min_order=9)
        guest.run(DELAY)
        assert guest.host.batches == [[(0, 9)]]
        assert guest.zones[0].free[0] == 10, "it lies in an order-10 block, of which half is mid"
        assert strategy.mid.any(0, 10)
        assert not strategy.mid.any(512, 9)


class TestStop:
    @pytest.mark.parametrize("serves", [True, False])
    def test_it_waits_for_what_is_in_flight(self, serves):
        guest, strategy = attach()
        guest.run(DELAY)
        stop = guest.spawn(guest.hooks["guest_stopping"](guest), cpu=0, name="stop")
        guest.run(10 * MS)
        assert not stop.done
        if not serves:
            guest.host.finish(interrupt=False)
        guest.host.serves = serves
        guest.run(10 * MS)
        assert all(task.done for task in guest.tasks)
        assert strategy.mid.units == set()
        assert len(guest.host.batches) == 1, "nothing more is marked"

    def test_before_anything_was_told(self):
        guest, _ = attach()
        guest.call("guest_stopping")
        assert all(task.done for task in guest.tasks)
        guest.give(0)
        assert guest.host.batches == []
