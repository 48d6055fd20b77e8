"""Pageblocks that 6.12 sets aside for atomic allocations of more than a page."""

import numpy as np
import pytest

from hintbench import hookimpl
from hintbench.core.constants import HIGHATOMIC
from hintbench.operations import Flag, allocate, free, idle
from hintbench.validation import validate
from small_guest import MS, Silent, boot, small_guest, zone

PAGES = 56 * 1024
"""A zone of 224 MiB: a hundredth of it, 573 pages, makes two pageblocks."""
ATOMIC = {"migratetype": 0, "flags": Flag.ATOMIC | Flag.TOUCHED}
MOVABLE = {"migratetype": 1, "flags": Flag.TOUCHED}


def filled(*more, blocks=56, low=1000, kernel="6.12", left=900, strategy=None):
    """All but `left` pages are in use, which is below the low watermark; then what is given."""
    pages = blocks * 1024 - left
    tape = [allocate(range(pages), order=0, **MOVABLE), *more, idle([10 * MS])]
    config = small_guest(zones=(zone(blocks, low=low),), kernel=kernel)
    running = boot(strategy or Silent(), tape, config=config)
    running.result = running.execute()
    assert running.result.violations == {}
    assert validate(running.machine) == []
    return running.machine.zones[0], running


def reserved(zone_):
    """The pageblocks that are set aside."""
    types = np.asarray(zone_.pages.pageblock_type)
    return int(np.count_nonzero(types[zone_.start_pfn >> 9 : zone_.end_pfn >> 9] == HIGHATOMIC))


def test_a_request_of_the_slow_path_sets_its_pageblock_aside():
    zone_, running = filled(allocate([PAGES], order=3, **ATOMIC))
    pfn = int(running.machine.simulation.slot_pfns()[PAGES])
    assert reserved(zone_) == 1
    assert zone_.pages.pageblock_type[pfn >> 9] == HIGHATOMIC
    assert zone_.reserved_highatomic == 512
    lists = sum(len(zone_.blocks_of(order, HIGHATOMIC)) << order for order in range(11))
    assert zone_.free_highatomic == lists > 0


@pytest.mark.parametrize(
    ("order", "flags"),
    [(0, Flag.ATOMIC), (3, Flag.NORETRY), (3, Flag(0))],
    ids=["single pages", "may block, no retry", "may block"],
)
def test_no_other_request_does(order, flags):
    zone_, _ = filled(allocate([PAGES], order=order, migratetype=0, flags=flags | Flag.TOUCHED))
    assert (reserved(zone_), zone_.reserved_highatomic) == (0, 0)


def test_nor_one_above_the_low_watermark():
    zone_, _ = filled(allocate([PAGES], order=3, **ATOMIC), left=4000)
    assert reserved(zone_) == 0


def test_small_zones_have_no_reserve():
    """`(zone_managed_pages(zone) / 100) < pageblock_nr_pages`."""
    zone_, _ = filled(allocate([PAGES], order=3, **ATOMIC), blocks=49)
    assert reserved(zone_) == 0


def test_5_0_is_left_without_one():
    zone_, _ = filled(allocate([PAGES], order=3, **ATOMIC), kernel="5.0")
    assert reserved(zone_) == 0


def test_at_most_a_hundredth_of_the_zone_rounded_up():
    zone_, _ = filled(*(allocate([PAGES + n], order=5, **ATOMIC) for n in range(12)))
    assert 1 <= reserved(zone_) <= 2
    assert zone_.reserved_highatomic == 512 * reserved(zone_) <= 1024


def test_later_ones_are_served_from_the_reserve():
    first, _ = filled(allocate([PAGES], order=5, **ATOMIC))
    zone_, running = filled(
        allocate([PAGES], order=5, **ATOMIC), allocate([PAGES + 1], order=5, **ATOMIC)
    )
    slots = running.machine.simulation.slot_pfns()
    pfns = [int(slots[PAGES + number]) for number in range(2)]
    assert [zone_.pages.pageblock_type[pfn >> 9] for pfn in pfns] == [HIGHATOMIC] * 2
    assert zone_.free_highatomic == first.free_highatomic - 32


def test_freed_pages_of_the_reserve_go_back_to_it():
    zone_, _ = filled(allocate([PAGES], order=5, **ATOMIC), free([PAGES]))
    used, _ = filled(allocate([PAGES], order=5, **ATOMIC))
    assert zone_.free_highatomic == used.free_highatomic + 32


def test_before_a_blocking_allocation_fails_the_reserve_goes_back():
    """unreserve_highatomic_pageblock(ac, true), in should_reclaim_retry(): "Before OOM"."""
    more = range(PAGES + 1, PAGES + 400)
    asked = []

    class Listening(Silent):
        @hookimpl
        def memory_low(self, zone):
            asked.append(zone.reserved_highatomic)

    zone_, running = filled(
        allocate([PAGES], order=3, **ATOMIC),
        allocate(more, order=0, **MOVABLE),
        low=600,
        left=590,
        strategy=Listening(),
    )
    assert set(asked) == {0}, "while some is left, nobody is asked"
    slots = running.machine.simulation.slot_pfns()
    assert (reserved(zone_), zone_.reserved_highatomic, zone_.free_highatomic) == (0, 0, 0)
    block = int(slots[PAGES]) >> 9
    assert zone_.pages.pageblock_type[block] == 1, "as the allocation in need wants it"
    assert any(int(slots[slot]) >> 9 == block for slot in more)
