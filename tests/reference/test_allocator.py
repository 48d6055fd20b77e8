"""The second model held to examples worked out by hand from the kernel's source, and to invariants.

Whoever doubts the core reads these first: an example says what the kernel does to its lists.
"""

from __future__ import annotations

import random

import pytest

from reference.allocator import ExternalFragmentation, ReferenceZone
from reference.lists import HIGHATOMIC, MOVABLE, RECLAIMABLE, UNMOVABLE
from reference.pcp import ReferencePcp

KERNELS = ("5.0", "6.12")
both_kernels = pytest.mark.parametrize("kernel", KERNELS)


def zone_of(kernel: str, blocks: int = 4, types: dict[int, int] | None = None) -> ReferenceZone:
    """A zone of whole pageblocks from pfn 0 on, with nothing free."""
    return ReferenceZone(0, [(0, 512 * blocks)], kernel, types)


# Merging, and where on its list a block goes.


@both_kernels
def test_a_freed_page_goes_to_the_head_and_merges_with_its_buddy(kernel):
    zone = zone_of(kernel)
    zone.free_one_page(0, 0)
    zone.free_one_page(2, 0)
    assert zone.all_lists() == {(0, MOVABLE): [2, 0]}
    assert zone.free_one_page(1, 0) == (0, 1)
    assert zone.all_lists() == {(0, MOVABLE): [2], (1, MOVABLE): [0]}
    assert zone.free_one_page(3, 0) == (0, 2)
    assert zone.all_lists() == {(2, MOVABLE): [0]}


@both_kernels
def test_a_page_whose_pair_would_merge_goes_to_the_tail(kernel):
    zone = zone_of(kernel)
    zone.free_one_page(2, 1)
    zone.free_one_page(8, 0)
    zone.free_one_page(0, 0)  # 1 is in use, but 2..3 is free: 0..3 may be whole soon
    assert zone.free_list(0, MOVABLE) == [8, 0]
    zone.free_one_page(16, 0)
    assert zone.free_list(0, MOVABLE) == [16, 8, 0]


@both_kernels
def test_the_second_largest_order_never_goes_to_the_tail_by_itself(kernel):
    zone = zone_of(kernel, blocks=8)
    zone.free_one_page(2048, 10)
    zone.free_one_page(512, 9)
    zone.free_one_page(1024, 9)  # 1536 is in use; order 9 is not asked about order 10's buddy
    assert zone.all_lists() == {(9, MOVABLE): [1024, 512], (10, MOVABLE): [2048]}


@both_kernels
def test_blocks_of_order_eight_look_at_the_buddy_of_order_nine(kernel):
    zone = zone_of(kernel)
    zone.free_one_page(512, 9)
    zone.free_one_page(1024, 8)
    zone.free_one_page(0, 8)
    assert zone.free_list(8, MOVABLE) == [1024, 0]


@both_kernels
def test_a_block_at_the_end_of_the_zone_does_not_merge_out_of_it(kernel):
    zone = ReferenceZone(512, [(512, 512)], kernel)
    assert zone.free_one_page(512, 9) == (512, 9)
    zone.validate()


def test_pageblocks_of_two_types_merge_and_6_12_retypes_the_buddy():
    zone = zone_of("6.12", types={0: UNMOVABLE})
    zone.free_one_page(512, 9)
    assert zone.free_one_page(0, 9) == (0, 10)
    assert zone.all_lists() == {(10, UNMOVABLE): [0]}
    assert zone.pageblock_type(512) == UNMOVABLE


def test_pageblocks_of_two_types_merge_and_5_0_leaves_their_types():
    zone = zone_of("5.0", types={0: UNMOVABLE})
    zone.free_one_page(512, 9)
    assert zone.free_one_page(0, 9) == (0, 10)
    assert zone.all_lists() == {(10, UNMOVABLE): [0]}
    assert zone.pageblock_type(512) == MOVABLE


def test_only_6_12_keeps_a_highatomic_pageblock_apart():
    for kernel, expected in (
        ("6.12", {(9, MOVABLE): [512], (9, HIGHATOMIC): [0]}),
        ("5.0", {(10, HIGHATOMIC): [0]}),
    ):
        zone = zone_of(kernel, types={0: HIGHATOMIC})
        zone.free_one_page(512, 9)
        zone.free_one_page(0, 9)
        assert zone.all_lists() == expected


def test_6_12_frees_a_block_of_order_ten_one_pageblock_at_a_time():
    zone = zone_of("6.12", types={0: UNMOVABLE})
    zone.free_block(0, 10)
    # First 0..511 as UNMOVABLE, then 512..1023 as MOVABLE, which retypes its buddy.
    assert zone.all_lists() == {(10, MOVABLE): [0]}
    assert zone.pageblock_type(0) == MOVABLE
    zone = zone_of("5.0", types={0: UNMOVABLE})
    zone.free_block(0, 10)
    assert zone.all_lists() == {(10, UNMOVABLE): [0]}


# Splitting.


@both_kernels
def test_expand_puts_upper_halves_at_the_heads(kernel):
    zone = zone_of(kernel)
    zone.free_one_page(0, 3)
    assert zone.rmqueue(0, MOVABLE) == 0
    assert zone.all_lists() == {(0, MOVABLE): [1], (1, MOVABLE): [2], (2, MOVABLE): [4]}
    assert [zone.rmqueue(0, MOVABLE) for _ in range(7)] == [1, 2, 3, 4, 5, 6, 7]
    assert zone.rmqueue(0, MOVABLE) is None


@both_kernels
def test_the_smallest_sufficient_order_serves_and_its_head_goes_first(kernel):
    zone = zone_of(kernel)
    for pfn, order in ((0, 4), (64, 2), (128, 2), (256, 1)):
        zone.free_one_page(pfn, order)
    assert zone.rmqueue(2, MOVABLE) == 128
    assert zone.rmqueue(2, MOVABLE) == 64
    assert zone.rmqueue(2, MOVABLE) == 0
    assert zone.all_lists() == {(1, MOVABLE): [256], (2, MOVABLE): [4], (3, MOVABLE): [8]}


# Fallback in 6.12: claim, then steal.


def test_a_large_block_is_claimed_whole():
    zone = zone_of("6.12")
    zone.free_one_page(0, 10)
    assert zone.rmqueue(0, UNMOVABLE) == 0
    assert zone.all_lists() == {(o, UNMOVABLE): [1 << o] for o in range(10)}
    assert [zone.pageblock_type(pfn) for pfn in (0, 512, 1024)] == [UNMOVABLE, UNMOVABLE, MOVABLE]
    assert zone.fragmentation == [ExternalFragmentation(0, 0, 10, UNMOVABLE, MOVABLE)]


def crowded(kernel: str, movable: int, blocks: int = 1) -> ReferenceZone:
    """A MOVABLE pageblock 0: free are 8..15, 32..39 and 64..127; ``movable`` pages of the rest are
    in use as MOVABLE, the others as something else."""
    zone = zone_of(kernel, blocks)
    for pfn, order in ((64, 6), (8, 3), (32, 3)):
        zone.free_one_page(pfn, order)
    assert zone.free_list(3, MOVABLE) == [32, 8]
    for pfn in range(512 - movable, 512):
        zone.mark_allocated(pfn, 0, MOVABLE)
    return zone


def test_a_pageblock_half_of_which_is_free_or_alike_is_claimed():
    # Free 80; not movable 512 - 80 - 256 = 176; together 256, just half.
    zone = crowded("6.12", movable=256)
    assert zone.rmqueue(3, UNMOVABLE) == 8
    # In pfn order, each to the tail: 8, 32; then the head is taken.
    assert zone.all_lists() == {(3, UNMOVABLE): [32], (6, UNMOVABLE): [64]}
    assert zone.pageblock_type(0) == UNMOVABLE
    # It began with the largest block, and names the page that came of it.
    assert zone.fragmentation == [ExternalFragmentation(8, 3, 6, UNMOVABLE, MOVABLE)]


def test_a_pageblock_of_others_is_not_claimed_but_stolen_from():
    zone = crowded("6.12", movable=257)
    assert zone.rmqueue(3, UNMOVABLE) == 32
    assert zone.all_lists() == {(3, MOVABLE): [8], (6, MOVABLE): [64]}
    assert zone.pageblock_type(0) == MOVABLE
    assert zone.fragmentation == [ExternalFragmentation(32, 3, 3, UNMOVABLE, MOVABLE)]


def test_movable_claims_only_blocks_of_order_four_and_up():
    zone = zone_of("6.12", blocks=1, types={0: UNMOVABLE})
    zone.free_one_page(0, 3)
    for pfn in range(16, 512):
        zone.mark_allocated(pfn, 0, MOVABLE)
    assert zone.rmqueue(1, MOVABLE) == 0  # stolen, though nearly all pages are movable
    assert zone.all_lists() == {(1, UNMOVABLE): [2], (2, UNMOVABLE): [4]}
    zone.free_one_page(0, 1)
    zone.free_one_page(8, 3)
    assert zone.rmqueue(1, MOVABLE) == 0  # order 4 now: claimed
    assert zone.pageblock_type(0) == MOVABLE
    assert zone.all_lists() == {(1, MOVABLE): [2], (2, MOVABLE): [4], (3, MOVABLE): [8]}


def test_the_fallback_table_is_asked_in_its_order():
    for start, first in (
        (UNMOVABLE, RECLAIMABLE),
        (MOVABLE, RECLAIMABLE),
        (RECLAIMABLE, UNMOVABLE),
    ):
        others = [mt for mt in (UNMOVABLE, MOVABLE, RECLAIMABLE) if mt != start]
        zone = zone_of("6.12", types={0: others[0], 512: others[1], 1024: start})
        zone.free_one_page(0, 8)
        zone.free_one_page(512, 8)
        zone.rmqueue(0, start)
        assert zone.fragmentation[0].fallback_type == first


def test_a_bulk_that_had_to_steal_does_not_try_to_claim_again():
    bulk = crowded("6.12", movable=300, blocks=8)
    one_by_one = crowded("6.12", movable=300, blocks=8)
    for zone in (bulk, one_by_one):
        zone.watermarks = (100, 5000, 10000)
    assert bulk.rmqueue_bulk(2, 3, UNMOVABLE) == [32, 36, 8]
    assert [one_by_one.rmqueue(2, UNMOVABLE) for _ in range(3)] == [32, 36, 8]
    assert one_by_one.all_lists() == bulk.all_lists()
    # Every attempt on a pageblock boosts the watermark: for the first page the blocks of order
    # 6 and 3; alone, the second page finds 6, 3 and 2, the third 6 and 3.
    assert bulk.watermark_boost == 2 * 512
    assert one_by_one.watermark_boost == (2 + 3 + 2) * 512


def test_a_bulk_goes_back_to_its_own_lists_after_a_claim():
    zone = zone_of("6.12")
    zone.free_one_page(0, 9)
    assert zone.rmqueue_bulk(8, 3, UNMOVABLE) == [0, 256]
    assert len(zone.fragmentation) == 1


@both_kernels
def test_boost_of_the_watermark(kernel):
    zone = ReferenceZone(0, [(0, 8192)], kernel, watermarks=(100, 200, 1000))
    for pfn in range(8, 512):
        zone.mark_allocated(pfn, 0, MOVABLE)
    for boost in (512, 1024, 1500, 1500):  # at most 150 % of the high watermark
        zone.free_one_page(0, 0)
        assert zone.rmqueue(0, UNMOVABLE) == 0
        assert zone.watermark_boost == boost
    zone.watermark_boost = 0
    zone.free_one_page(1024, 9)
    assert zone.rmqueue(0, UNMOVABLE) == 1024
    assert zone.watermark_boost == 0


def test_6_12_boosts_no_zone_of_less_than_four_pageblocks():
    for kernel, boost in (("5.0", 512), ("6.12", 0)):
        zone = ReferenceZone(0, [(0, 2047)], kernel, watermarks=(10, 20, 30))
        zone.free_one_page(0, 0)
        zone.rmqueue(0, UNMOVABLE)
        assert zone.watermark_boost == boost


def test_nofragment_takes_whole_pageblocks_or_nothing():
    zone = crowded("6.12", movable=0)
    assert zone.rmqueue(0, UNMOVABLE, nofragment=True) is None
    assert zone.rmqueue(0, UNMOVABLE) == 8
    zone = zone_of("6.12", blocks=1)
    zone.free_one_page(0, 9)
    assert zone.rmqueue(0, UNMOVABLE, nofragment=True) == 0
    assert zone.pageblock_type(0) == UNMOVABLE


def test_a_pageblock_across_the_zone_boundary_is_never_claimed_in_6_12():
    zone = ReferenceZone(1, [(1, 4095)], "6.12")
    zone.free_one_page(64, 6)
    assert zone.rmqueue(0, UNMOVABLE) == 64
    assert zone.pageblock_type(64) == MOVABLE
    assert zone.free_list(5, MOVABLE) == [96]


# Fallback in 5.0: pages change lists, and the search starts again.


def test_5_0_moves_the_pageblock_to_the_head_in_ascending_order():
    zone = crowded("5.0", movable=256)
    assert zone.rmqueue(3, UNMOVABLE) == 32
    assert zone.all_lists() == {(3, UNMOVABLE): [8], (6, UNMOVABLE): [64]}
    assert zone.pageblock_type(0) == UNMOVABLE
    assert zone.fragmentation == [ExternalFragmentation(64, 3, 6, UNMOVABLE, MOVABLE)]


def test_5_0_moves_the_pages_even_when_the_pageblock_keeps_its_type():
    zone = crowded("5.0", movable=257)
    assert zone.rmqueue(3, UNMOVABLE) == 32
    assert zone.all_lists() == {(3, UNMOVABLE): [8], (6, UNMOVABLE): [64]}
    assert zone.pageblock_type(0) == MOVABLE


def test_5_0_takes_the_smallest_block_for_a_movable_page():
    zone = zone_of("5.0", blocks=1, types={0: UNMOVABLE})
    zone.free_one_page(0, 3)
    zone.free_one_page(32, 1)
    assert zone.rmqueue(0, MOVABLE) == 32
    assert zone.all_lists() == {(0, MOVABLE): [33], (3, UNMOVABLE): [0]}
    assert zone.pageblock_type(0) == UNMOVABLE
    assert zone.fragmentation == [ExternalFragmentation(32, 0, 1, MOVABLE, UNMOVABLE)]


def test_5_0_takes_a_large_block_with_its_pageblocks():
    zone = zone_of("5.0")
    zone.free_one_page(0, 10)
    assert zone.rmqueue(0, UNMOVABLE) == 0
    assert zone.pageblock_type(512) == UNMOVABLE
    assert zone.all_lists() == {(o, UNMOVABLE): [1 << o] for o in range(10)}


def test_5_0_claims_what_the_zone_has_of_its_first_pageblock():
    zone = ReferenceZone(1, [(1, 4095)], "5.0")
    zone.free_one_page(64, 6)
    zone.free_one_page(16, 3)
    zone.free_one_page(256, 3)
    assert zone.rmqueue(0, UNMOVABLE) == 256
    # The scan starts at the block found, for the pageblock starts outside the zone.
    assert zone.free_list(6, UNMOVABLE) == [64]
    assert zone.free_list(3, MOVABLE) == [16]
    assert zone.pageblock_type(64) == UNMOVABLE


def test_5_0_does_not_scan_a_pageblock_that_ends_outside_the_zone():
    zone = ReferenceZone(0, [(0, 300)], "5.0")
    zone.free_one_page(64, 6)
    zone.free_one_page(16, 3)
    assert zone.rmqueue(0, UNMOVABLE) == 64
    assert zone.free_list(3, MOVABLE) == [16]
    assert zone.pageblock_type(64) == MOVABLE


# Invariants under random work.


@both_kernels
@pytest.mark.parametrize("seed", range(4))
def test_nothing_is_lost_and_everything_merges(kernel, seed):
    rng = random.Random(seed)
    managed = [(3, 700), (1024, 3072), (5000, 1000)]
    zone = ReferenceZone(1, managed, kernel, {1024: UNMOVABLE, 2048: RECLAIMABLE, 3072: HIGHATOMIC})
    zone.free_boot_memory()
    zone.validate()
    assert zone.free_pages == zone.managed_pages
    pcp = ReferencePcp(zone, batch=7, high_min=42, high_max=400)
    in_use: dict[int, int] = {}
    isolated: dict[int, int] = {}

    def pages(blocks: dict[int, int]) -> int:
        return sum(1 << order for order in blocks.values())

    for step in range(1200):
        choice = rng.random()
        if choice < (0.6 if step % 400 < 250 else 0.25):
            order = rng.choice((0, 0, 0, 0, 1, 2, 3, 4, 6, 9))
            migratetype = rng.choice((UNMOVABLE, MOVABLE, MOVABLE, RECLAIMABLE))
            pfn = pcp.allocate(order, migratetype) if pcp.caches(order) else None
            if pfn is None:
                pfn = zone.rmqueue(order, migratetype, nofragment=rng.random() < 0.3)
            if pfn is not None:
                in_use[pfn] = order
                zone.mark_allocated(pfn, order, migratetype)
        elif choice < 0.9 and in_use:
            pfn = rng.choice(sorted(in_use))
            order = in_use.pop(pfn)
            zone.mark_freed(pfn)
            if pcp.caches(order):
                pcp.free(pfn, order)
            else:
                zone.free_block(pfn, order)
        elif choice < 0.95 and zone.free:
            pfn = rng.choice(sorted(zone.free))
            order = zone.isolate(pfn)
            if order is not None:
                isolated[pfn] = order
        elif isolated:
            pfn = rng.choice(sorted(isolated))
            zone.put_back(pfn, isolated.pop(pfn), to_tail=rng.random() < 0.5)
        accounted = zone.free_pages + pcp.count + pages(in_use) + pages(isolated)
        assert accounted == zone.managed_pages
        if step % 20 == 0:
            zone.validate()
    for pfn, order in isolated.items():
        zone.put_back(pfn, order)
    for pfn, order in in_use.items():
        zone.free_block(pfn, order)
    pcp.drain_all()
    zone.validate()
    whole = ReferenceZone(1, managed, kernel)
    whole.free_boot_memory()
    if kernel == "5.0":
        assert zone.free_counts() == whole.free_counts()
