"""percpu-array-v9 decides as the posted code does, defects included."""

import pytest

from hintbench.strategies.percpu_array_v9 import PercpuArrayV9

from .fake_guest import BLOCK_PAGES, Guest

MS = 1_000_000


def block(number):
    return number * BLOCK_PAGES


def attach(guest, **parameters):
    """Attach v9 to a guest whose blocks are all in use."""
    strategy = guest.attach(PercpuArrayV9(**{"array_entries": 8, "threshold": 4, **parameters}))
    for zone in guest.zones:
        zone.free.clear()
    return strategy


def captured(strategy, cpu=0):
    array = strategy.arrays[cpu]
    return array.pfns[: array.index]


class TestCapture:
    def test_nothing_below_the_order(self):
        guest = Guest()
        strategy = attach(guest)
        guest.give(*range(BLOCK_PAGES - 1), order=0)
        assert captured(strategy) == []

    def test_the_page_that_completes_a_block_captures_its_head(self):
        guest = Guest()
        strategy = attach(guest)
        guest.give(*range(block(2), block(3)), order=0)
        assert captured(strategy) == [block(2)]

    def test_a_head_is_not_searched_for(self):
        guest = Guest()
        strategy = attach(guest)
        guest.give(block(2))
        guest.take(block(2))
        guest.give(block(2))
        assert captured(strategy) == [block(2), block(2)]

    def test_a_page_inside_is_searched_for(self):
        guest = Guest()
        strategy = attach(guest)
        for _ in range(2):
            guest.give(block(2), order=9)
            guest.give(block(2) + 512, order=9)
            guest.take(block(2))
        assert captured(strategy) == [block(2)]

    def test_the_search_knows_only_its_own_cpu(self):
        guest = Guest(cpus=2)
        strategy = attach(guest)
        for cpu in (0, 1):
            guest.give(block(2), order=9)
            guest.give(block(2) + 512, order=9, cpu=cpu)
            guest.take(block(2))
        assert captured(strategy, 0) == captured(strategy, 1) == [block(2)]

    def test_the_search_is_charged(self):
        guest = Guest()
        attach(guest, array_entries=256)
        guest.give(block(2), order=9)
        guest.give(block(2) + 512, order=9)
        assert guest.spent == 128

    def test_a_full_array_drops_and_the_drop_is_seen(self):
        guest = Guest(blocks=(6,))
        strategy = attach(guest, array_entries=4, threshold=5)
        guest.give(*map(block, range(6)))
        assert captured(strategy) == [block(number) for number in range(4)]
        assert guest.drops == {"array full": 2}

    def test_the_look_up_is_charged_for_every_page(self):
        guest = Guest()
        attach(guest)
        narrowed = guest.filters["block_freed"]
        assert (narrowed.min_order, narrowed.cost_ns) == (10, 11)


class TestHinting:
    def test_nothing_below_the_threshold(self):
        guest = Guest()
        attach(guest)
        guest.give(*map(block, range(3)))
        guest.run(1000 * MS)
        assert guest.host.batches == []

    def test_what_is_still_free_is_isolated_under_one_hold(self):
        guest = Guest()
        strategy = attach(guest)
        guest.give(*map(block, range(3)))
        guest.take(block(1))
        guest.give(block(3))
        assert guest.host.batches == [[(0, 10), (block(2), 10), (block(3), 10)]]
        assert guest.zones[0].lock.takes == 1
        assert guest.zones[0].free == {}
        assert captured(strategy) == []
        assert strategy.arrays[0].pfns == [0] * 8

    def test_a_stale_entry_is_walked_page_by_page(self):
        guest = Guest()
        attach(guest)
        guest.give(*map(block, range(3)))
        guest.take(block(1))
        guest.give(block(3))
        assert guest.zones[0].scanned == BLOCK_PAGES + 3

    def test_the_watermark_refuses_and_the_hint_is_lost(self):
        guest = Guest()
        strategy = attach(guest)
        guest.zones[0].watermark_min = 3 * BLOCK_PAGES
        guest.give(*map(block, range(4)))
        assert guest.host.batches == [[(0, 10)]]
        assert captured(strategy) == []

    def test_zones_of_one_number_make_the_lock_ping_pong(self):
        guest = Guest(blocks=(4, 4), numbers=(2, 2))
        attach(guest)
        for number in (0, 4, 1, 5):
            guest.give(block(number))
        assert [zone.lock.takes for zone in guest.zones] == [2, 2]

    def test_zones_of_different_numbers_are_sorted(self):
        guest = Guest(blocks=(4, 4), numbers=(1, 2))
        attach(guest)
        for number in (4, 0, 5, 1):
            guest.give(block(number))
        assert [zone.lock.takes for zone in guest.zones] == [1, 1]

    def test_no_memory_loses_all_hints_and_leaves_stale_slots(self):
        guest = Guest()
        strategy = attach(guest)
        guest.has_memory = False
        guest.give(*map(block, range(4)))
        assert captured(strategy) == []
        assert guest.drops == {"no memory for the result": 4}
        guest.take(block(2))
        guest.give(block(2), order=9)
        guest.give(block(2) + 512, order=9)
        assert captured(strategy) == []


class TestReturn:
    def hinted(self, **parameters):
        guest = Guest()
        attach(guest, **parameters)
        guest.give(*map(block, range(4)))
        return guest

    def test_the_interrupt_puts_back_without_the_lock(self):
        guest = self.hinted()
        guest.host.finish()
        assert len(guest.zones[0].free) == 4
        assert len(guest.zones[0].unlocked) == 4

    def test_locked_return_takes_it_once(self):
        guest = self.hinted(locked_return=True)
        guest.host.finish()
        assert len(guest.zones[0].free) == 4
        assert guest.zones[0].unlocked == []
        assert guest.zones[0].lock.takes == 2

    @pytest.mark.parametrize("locked", [False, True])
    def test_a_full_queue_puts_back_at_once(self, locked):
        guest = Guest()
        attach(guest, locked_return=locked)
        guest.host.room = 0
        guest.give(*map(block, range(4)))
        assert len(guest.zones[0].free) == 4
        assert bool(guest.zones[0].unlocked) is not locked

    def test_without_a_device_the_batch_leaks(self):
        guest = Guest()
        attach(guest)
        guest.host.attached = False
        guest.give(*map(block, range(4)))
        assert guest.zones[0].free == {}
        assert guest.host.batches == []

    def test_the_submitter_swallows_a_completion(self):
        guest = self.hinted()
        guest.host.finish(interrupt=False)
        guest.give(*map(block, range(4, 8)))
        guest.host.finish()
        assert sorted(guest.zones[0].free) == [block(number) for number in range(4, 8)]

    def test_an_interrupt_that_finds_nothing(self):
        guest = self.hinted()
        guest.host.finish(interrupt=False)
        guest.host.poll()
        assert guest.strategy._acknowledged() is None
        assert guest.oopses == ["completion-once"]

    def test_one_buffer_per_interrupt(self):
        guest = self.hinted()
        guest.give(*map(block, range(4, 8)))
        guest.host.finish(interrupt=False)
        guest.host.finish()
        assert len(guest.zones[0].free) == 4


def test_the_repair_is_not_declared_to_fail():
    declared = PercpuArrayV9().declared_failures
    assert "locked-lists" in declared
    assert set(declared) - set(PercpuArrayV9(locked_return=True).declared_failures) == {
        "locked-lists",
        "conservation",
    }
