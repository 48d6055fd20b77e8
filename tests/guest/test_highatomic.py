"""Pageblocks that are set aside for atomic allocations of more than a page."""

import numpy as np
import pytest

from hintbench.core.constants import HIGHATOMIC
from hintbench.guest.validation import validate
from hintbench.operations import Flag, allocate, free, idle
from small_guest import MS, Silent, boot, small_guest, zone

PAGES = 56 * 1024
"""A zone of 224 MiB: a hundredth of it, 573 pages, makes two pageblocks."""
ATOMIC = {"migratetype": 0, "flags": Flag.ATOMIC | Flag.TOUCHED}
MOVABLE = {"migratetype": 1, "flags": Flag.TOUCHED}


def filled(*more, blocks=56, low=1000, kernel="6.12", left=900):
    """All but `left` pages are in use, which is below the low watermark; then what is given."""
    pages = blocks * 1024 - left
    tape = [allocate(range(pages), order=0, **MOVABLE), *more, idle([10 * MS])]
    config = small_guest(zones=(zone(blocks, low=low),), kernel=kernel)
    running = boot(Silent(), tape, config=config)
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


class TestIn50:
    """reserve_highatomic_pageblock() of Linux 5.0 (since 4.4, commit 0aaa29a56e4f)."""

    OLD = "5.0"

    def test_zones_of_any_size_have_a_reserve(self):
        zone_, running = filled(allocate([PAGES], order=3, **ATOMIC), blocks=49, kernel=self.OLD)
        pfn = int(running.machine.simulation.slot_pfns()[PAGES])
        assert zone_.pages.pageblock_type[pfn >> 9] == HIGHATOMIC
        assert (reserved(zone_), zone_.reserved_highatomic) == (1, 512)

    @pytest.mark.parametrize("flags", [Flag.NORETRY, Flag(0)], ids=["no retry", "may block"])
    def test_only_alloc_harder_sets_one_aside(self, flags):
        given = {"order": 3, "migratetype": 0, "flags": flags | Flag.TOUCHED}
        assert reserved(filled(allocate([PAGES], **given), kernel=self.OLD)[0]) == 0

    def test_at_most_a_hundredth_of_the_zone_and_a_pageblock(self):
        """`max_managed = (zone->managed_pages / 100) + pageblock_nr_pages`: three of 573 + 512."""
        more = [allocate([PAGES + n], order=5, **ATOMIC) for n in range(40)]
        zone_, _ = filled(*more, kernel=self.OLD, left=4000, low=4200)
        assert reserved(zone_) == 3

    def test_all_of_it_counts_as_in_use_whatever_is_free(self):
        """`free_pages -= z->nr_reserved_highatomic`, in __isolate_free_page() as well."""
        zone_, _ = filled(
            allocate([PAGES], order=3, **ATOMIC), kernel=self.OLD, left=4000, low=4200
        )
        mark = zone_.free_pages - 512
        assert zone_.watermark_ok(mark - 1)
        assert not zone_.watermark_ok(mark)
        block = next(iter(zone_.free_blocks(9)))
        with zone_.lock:
            zone_.watermark_min = mark - 512
            assert zone_.isolate(block.pfn) is None
            zone_.watermark_min -= 1
            assert zone_.isolate(block.pfn) is not None

    def test_single_pages_are_judged_without_the_reserve(self):
        """zone_watermark_fast(): "the caller ... will uselessly search the free list"."""
        zone_, running = filled(
            allocate([PAGES], order=3, **ATOMIC),
            allocate([PAGES + 1], order=0, **MOVABLE),
            kernel=self.OLD,
            left=990,
        )
        slots = running.machine.simulation.slot_pfns()
        assert int(slots[PAGES + 1]) >= 0
        assert 990 - 8 - 512 < zone_.watermark_min < 990 - 8
        assert reserved(zone_) == 1, "nobody had to ask for it"

    def test_a_page_is_drained_to_the_type_that_its_pageblock_had_when_it_was_freed(self):
        """get_pcppage_migratetype(): not the list's type, nor the pageblock's of the drain."""
        # The order-3 block is of a pageblock whose first 72 pages are in use.
        left = 440
        last = range(PAGES - left - 1, PAGES - left - 451, -1)
        given = {"kernel": self.OLD, "left": left, "low": 460}
        before, _ = filled(allocate([PAGES], order=3, **ATOMIC), **given)
        zone_, _ = filled(allocate([PAGES], order=3, **ATOMIC), free(last), **given)
        listed = [
            sum(len(each.blocks_of(order, HIGHATOMIC)) << order for order in range(11))
            for each in (before, zone_)
        ]
        assert 400 < listed[0] < left - 8 < listed[1] <= 512 - 8, "by the movable list"
        assert reserved(zone_) == 1

    def test_the_reserve_goes_back_before_a_blocking_allocation_fails(self):
        more = range(PAGES + 1, PAGES + 400)
        zone_, running = filled(
            allocate([PAGES], order=3, **ATOMIC),
            allocate(more, order=0, **MOVABLE),
            kernel=self.OLD,
            low=600,
            left=590,
        )
        assert (reserved(zone_), zone_.reserved_highatomic, zone_.free_highatomic) == (0, 0, 0)
        block = int(running.machine.simulation.slot_pfns()[PAGES]) >> 9
        assert zone_.pages.pageblock_type[block] == 1


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
    """unreserve_highatomic_pageblock(ac, true), in should_reclaim_retry()."""
    more = range(PAGES + 1, PAGES + 400)
    zone_, running = filled(
        allocate([PAGES], order=3, **ATOMIC),
        allocate(more, order=0, **MOVABLE),
        low=600,
        left=590,
    )
    slots = running.machine.simulation.slot_pfns()
    assert (reserved(zone_), zone_.reserved_highatomic, zone_.free_highatomic) == (0, 0, 0)
    block = int(slots[PAGES]) >> 9
    assert zone_.pages.pageblock_type[block] == 1, "as the allocation in need wants it"
    assert any(int(slots[slot]) >> 9 == block for slot in more)
