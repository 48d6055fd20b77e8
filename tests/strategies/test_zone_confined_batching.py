"""zone-confined-batching: rings, a timer, one zone's batch at a time, and a rescan."""

import pytest

from hintbench.strategies.zone_confined_batching import ZoneConfinedBatching

from .fake_guest import BLOCK_PAGES, Guest

MS = 1_000_000
DELAY = 100 * MS


def block(number):
    return number * BLOCK_PAGES


def attach(guest=None, **parameters):
    guest = guest or Guest()
    return guest, guest.attach(ZoneConfinedBatching(**{"batch": 4, "threshold": 3, **parameters}))


def settled(guest=None, **parameters):
    """A guest whose initial rescan is over; its host serves, its books are empty."""
    guest, strategy = attach(guest, **parameters)
    guest.host.serves = True
    guest.run(DELAY)
    assert guest.host.reported() == sorted(pfn for zone in guest.zones for pfn in zone.free)
    guest.host.batches.clear()
    for zone in guest.zones:
        zone.lock.takes = 0
    return guest, strategy


def cycle(guest, strategy, *numbers, cpu=0):
    """Allocate and free whole blocks; what leaves its list is no longer told."""
    for number in numbers:
        guest.take(block(number))
        strategy.told.clear(block(number), 10)
    guest.give(*map(block, numbers), cpu=cpu)


class TestTrigger:
    def test_the_timer_leaves_no_residue(self):
        guest, strategy = settled()
        cycle(guest, strategy, 5)
        guest.run(DELAY - MS)
        assert guest.host.batches == []
        guest.run(MS)
        assert guest.host.reported() == [block(5)]

    def test_the_threshold_does_not_wait(self):
        guest, strategy = settled()
        cycle(guest, strategy, 4, 5, 6)
        guest.run()
        assert guest.host.reported() == [block(4), block(5), block(6)]

    def test_below_the_order_nothing_is_captured(self):
        guest, _ = settled()
        guest.take(0, order=9)
        guest.run(10 * DELAY)
        assert guest.host.batches == []


class TestBatch:
    def test_one_take_to_isolate_and_one_to_return(self):
        guest, strategy = settled()
        cycle(guest, strategy, 4, 5, 6)
        guest.run()
        assert guest.zones[0].lock.takes == 2
        assert guest.zones[0].unlocked == []
        assert len(guest.zones[0].free) == 8

    def test_isolated_until_acknowledged(self):
        guest, strategy = settled()
        guest.host.serves = False
        cycle(guest, strategy, 4, 5, 6)
        guest.run(10 * DELAY)
        assert len(guest.zones[0].free) == 5
        guest.host.finish()
        guest.run()
        assert len(guest.zones[0].free) == 8
        assert {4, 5, 6} <= strategy.told.units

    def test_a_batch_is_of_one_zone_not_of_one_zone_number(self):
        guest, strategy = settled(Guest(blocks=(4, 4), numbers=(2, 2)))
        for number in (1, 5, 2, 6):
            cycle(guest, strategy, number)
        guest.run(DELAY)
        assert guest.host.batches == [
            [(block(1), 10), (block(2), 10)],
            [(block(5), 10), (block(6), 10)],
        ]

    def test_no_more_than_the_cap(self):
        guest, strategy = settled(batch=2)
        cycle(guest, strategy, *range(5))
        guest.run(DELAY)
        assert [len(batch) for batch in guest.host.batches] == [2, 2, 1]

    def test_one_block_in_two_rings_is_told_once(self):
        guest, strategy = settled(Guest(cpus=2))
        for cpu in (0, 1):
            cycle(guest, strategy, 3, cpu=cpu)
        guest.run(DELAY)
        assert guest.host.reported() == [block(3)]

    def test_split_after_capture(self):
        guest, strategy = settled()
        cycle(guest, strategy, 3)
        guest.take(block(3), order=9)
        guest.run(DELAY)
        assert guest.host.batches == []

    @pytest.mark.parametrize("merges", [False, True])
    def test_what_merges_on_its_way_back_is_not_told(self, merges):
        guest, strategy = settled(min_order=9)
        guest.take(block(3), order=9)
        guest.zones[0].free.pop(block(3) + 512)
        strategy.told.clear(block(3), 10)
        guest.host.serves = False
        guest.give(block(3), order=9)
        guest.run(DELAY)
        if merges:
            guest.zones[0].insert(block(3) + 512, 9)
        guest.host.finish()
        guest.run()
        assert strategy.told.any(block(3), 9) is not merges


class TestRefusal:
    def test_the_watermark_keeps_the_rest_for_later(self):
        guest, strategy = settled()
        guest.zones[0].watermark_min = 7 * BLOCK_PAGES
        cycle(guest, strategy, 1, 2, 3)
        guest.run()
        assert guest.host.reported() == [block(1)]
        assert strategy.rings[0] == [block(2), block(3)]
        takes = guest.zones[0].lock.takes
        guest.run(DELAY - MS)
        assert guest.zones[0].lock.takes == takes, "it waits for the timer"
        guest.zones[0].watermark_min = 0
        guest.run(MS)
        assert guest.host.reported() == [block(1), block(2), block(3)]

    def test_a_host_that_fails(self):
        guest, strategy = settled()
        guest.host.fails = True
        cycle(guest, strategy, 1, 2, 3)
        guest.run()
        assert len(guest.zones[0].free) == 8
        assert not {1, 2, 3} & strategy.told.units
        assert guest.host.batches == [[(block(number), 10) for number in (1, 2, 3)]]
        guest.run(2 * DELAY - MS)
        assert len(guest.host.batches) == 1, "the delay doubles"
        guest.host.fails = False
        guest.run(MS)
        assert {1, 2, 3} <= strategy.told.units

    def test_a_full_ring_is_counted_and_a_rescan_finds_the_rest(self):
        guest, strategy = settled(ring_entries=2)
        cycle(guest, strategy, *range(5))
        assert guest.drops == {"ring full": 3}
        guest.run(2 * DELAY)
        assert guest.host.reported() == [block(number) for number in range(5)]

    def test_a_rescan_looks_at_a_slice_under_one_hold(self):
        guest, strategy = settled(ring_entries=1, slice_units=2)
        cycle(guest, strategy, 0, 7)
        guest.run(2 * DELAY)
        takes = guest.zones[0].lock.takes
        assert guest.host.reported() == [0, block(7)]
        assert takes == 2 + 4 + 1, "block 0 from the ring, four slices, block 7 back"


class TestLowMemory:
    def test_it_waits_for_the_zones_batch(self):
        guest, strategy = settled()
        guest.host.serves = False
        cycle(guest, strategy, 1, 2, 3)
        guest.run()
        low = guest.spawn(
            guest.hooks["memory_low"](guest, guest.zones[0]), cpu=0, name="allocation"
        )
        guest.run(DELAY)
        assert not low.done
        guest.host.finish()
        guest.run()
        assert low.done
        assert len(guest.zones[0].free) == 8

    def test_it_does_not_wait_for_nothing(self):
        guest, _ = settled()
        assert guest.hooks["memory_low"](guest, guest.zones[0]) is None


class TestStop:
    def test_rings_are_emptied_and_batches_come_back(self):
        guest, strategy = settled(Guest(cpus=2))
        guest.host.serves = False
        cycle(guest, strategy, 1, 2, 3)
        guest.run()
        cycle(guest, strategy, 4, cpu=1)
        stop = guest.spawn(guest.hooks["guest_stopping"](guest), cpu=0, name="stop")
        guest.run(10 * DELAY)
        assert not stop.done
        while not stop.done:
            guest.host.finish()
            guest.run()
        assert all(task.done for task in guest.tasks)
        assert strategy.rings == [[], []]
        assert len(guest.zones[0].free) == 8

    def test_nothing_is_captured_afterwards(self):
        guest, strategy = settled()
        guest.call("guest_stopping")
        cycle(guest, strategy, 1, 2, 3)
        guest.run(10 * DELAY)
        assert guest.host.batches == []
        assert strategy.rings == [[]]
