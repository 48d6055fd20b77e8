"""The second model of the per-CPU lists and of the watermarks, held to worked examples."""

from __future__ import annotations

import pytest

from reference.allocator import ReferenceZone
from reference.lists import HIGHATOMIC, MOVABLE, RECLAIMABLE, UNMOVABLE
from reference.pcp import Drained, ReferencePcp
from reference.watermarks import (
    ReferenceWatermarks,
    ZoneSize,
    pcp_limits,
    zone_batchsize,
    zone_watermark_ok,
)


def large_zone(kernel: str, blocks: int = 32) -> ReferenceZone:
    """A zone whose pageblocks are all free and MOVABLE."""
    zone = ReferenceZone(0, [(0, 512 * blocks)], kernel)
    zone.free_boot_memory()
    return zone


# Refill.


def test_5_0_refills_one_batch_at_a_time_and_hands_out_in_ascending_order():
    pcp = ReferencePcp(large_zone("5.0"), batch=63, high_min=378, high_max=378)
    first = pcp.zone.free_list(10, MOVABLE)[0]
    assert [pcp.allocate(0, MOVABLE) for _ in range(63)] == list(range(first, first + 63))
    assert (pcp.count, pcp.holds) == (0, 1)
    assert pcp.allocate(0, MOVABLE) == first + 63
    assert (pcp.count, pcp.holds) == (62, 2)


def test_6_12_doubles_its_refills():
    pcp = ReferencePcp(large_zone("6.12"), batch=63, high_min=252, high_max=30000)
    refills = []
    while len(refills) < 8:
        before = pcp.holds
        pcp.allocate(0, MOVABLE)
        if pcp.holds > before:
            refills.append(pcp.count + 1)
    assert refills == [63, 126, 252, 504, 1008, 2016, 2016, 2016]
    # high grows by what is asked for, refill by refill.
    assert pcp.high == 252 + 63 + 126 + 252 + 504 + 1008 + 3 * 2016


def test_6_12_refills_no_more_than_fits_below_high():
    zone = large_zone("6.12")
    zone.below_high = True  # then high does not grow
    pcp = ReferencePcp(zone, batch=63, high_min=252, high_max=30000)
    assert [pcp.blocks_to_refill(0) for _ in range(4)] == [63, 126, 189, 189]
    assert (pcp.alloc_factor, pcp.high) == (2, 252)


@pytest.mark.parametrize(("order", "blocks"), [(1, 31), (2, 15), (3, 7), (9, 2)])
def test_6_12_refills_of_higher_orders(order, blocks):
    pcp = ReferencePcp(large_zone("6.12"), batch=63, high_min=252, high_max=30000)
    assert pcp.blocks_to_refill(order) == blocks
    assert pcp.alloc_factor == 0
    assert pcp.high == 252 + 63


def test_a_free_halves_the_next_refill():
    pcp = ReferencePcp(large_zone("6.12"), batch=63, high_min=252, high_max=30000)
    pcp.alloc_factor = 3
    pfn = pcp.zone.rmqueue(0, MOVABLE)
    pcp.free(pfn, 0)
    assert pcp.alloc_factor == 1
    assert pcp.blocks_to_refill(0) == 126


def test_an_empty_zone_gives_nothing():
    zone = ReferenceZone(0, [(0, 512)], "6.12")
    pcp = ReferencePcp(zone, batch=63, high_min=252, high_max=30000)
    assert pcp.allocate(0, MOVABLE) is None
    zone.free_one_page(0, 1)
    assert [pcp.allocate(0, MOVABLE) for _ in range(3)] == [0, 1, None]


# Free and drain.


def take(pcp: ReferencePcp, count: int, order: int = 0) -> list[int]:
    """Blocks straight from the zone, so that the lists stay as they are."""
    return pcp.zone.rmqueue_bulk(order, count, MOVABLE)


def test_freed_pages_are_hot_and_handed_out_last_in_first_out():
    pcp = ReferencePcp(large_zone("6.12"), batch=63, high_min=252, high_max=30000)
    pages = take(pcp, 3)
    for pfn in pages:
        pcp.free(pfn, 0)
    assert [pcp.allocate(0, MOVABLE) for _ in range(3)] == pages[::-1]


def test_6_12_drains_the_coldest_of_consecutive_frees_and_raises_high():
    pcp = ReferencePcp(large_zone("6.12"), batch=63, high_min=252, high_max=30000)
    pages = take(pcp, 600)
    for pfn in pages[:252]:
        pcp.free(pfn, 0)
    # count 252 >= high 252: min(free_count 252, 252 - 63) = 189 pages go, the first freed first.
    assert [drained.pfn for drained in pcp.drained] == pages[:189]
    assert (pcp.count, pcp.high, pcp.free_count) == (63, 252 + 63, 252)
    for pfn in pages[252:504]:
        pcp.free(pfn, 0)
    # count 315 >= high 315, free_count 504: 252 go.
    assert [drained.pfn for drained in pcp.drained] == pages[: 189 + 252]
    assert (pcp.count, pcp.high, pcp.holds) == (63, 504 + 63, 2)


def test_5_0_drains_a_batch_at_a_fixed_high():
    pcp = ReferencePcp(large_zone("5.0"), batch=63, high_min=378, high_max=378)
    pages = take(pcp, 500)
    for pfn in pages[:377]:
        pcp.free(pfn, 0)
    assert pcp.drained == []
    pcp.free(pages[377], 0)
    assert [drained.pfn for drained in pcp.drained] == pages[:63]
    assert pcp.count == 315


def test_5_0_goes_round_robin_and_starts_at_movable():
    zone = ReferenceZone(0, [(0, 2048)], "5.0", {0: UNMOVABLE, 1024: RECLAIMABLE})
    pcp = ReferencePcp(zone, batch=63, high_min=378, high_max=378)
    for pfn in (1, 3, 5, 7, 9, 513, 515, 517, 519, 521):
        pcp.free(pfn, 0)
    pcp.drain(6)
    # MOVABLE one; RECLAIMABLE is empty, so UNMOVABLE two; MOVABLE one; UNMOVABLE two.
    assert [drained.pfn for drained in pcp.drained] == [513, 1, 3, 515, 5, 7]
    assert pcp.lists == [[9], [521, 519, 517], []]


def test_5_0_takes_the_rest_from_the_only_list_that_has_any():
    pcp = ReferencePcp(ReferenceZone(0, [(0, 2048)], "5.0"), batch=63, high_min=378, high_max=378)
    for pfn in (1, 3, 5, 7, 9):
        pcp.free(pfn, 0)
    pcp.drain(4)
    assert [drained.pfn for drained in pcp.drained] == [1, 3, 5, 7]


def test_6_12_drains_one_list_after_the_other_from_the_list_of_the_last_free():
    zone = ReferenceZone(0, [(0, 2048)], "6.12", {0: UNMOVABLE, 1024: RECLAIMABLE})
    pcp = ReferencePcp(zone, batch=63, high_min=1000, high_max=1000)
    for pfn, order in ((1, 0), (3, 0), (513, 0), (515, 0), (1025, 0), (544, 2), (1536, 9)):
        pcp.free(pfn, order)
    pcp.drain(3, pindex=1)
    assert [drained.pfn for drained in pcp.drained] == [513, 515, 1025]
    pcp.drain(2, pindex=2)
    # The list of order 2 comes next; its four pages are two more than were asked for.
    assert pcp.drained[3:] == [Drained(544, 2, MOVABLE)]
    pcp.drain(4, pindex=12)
    assert pcp.drained[4:] == [Drained(1536, 9, MOVABLE)]
    pcp.drain(100, pindex=13)
    assert [drained.pfn for drained in pcp.drained[5:]] == [1, 3]
    assert pcp.count == 0


def test_the_type_is_the_pageblocks_when_6_12_drains_and_the_recorded_one_in_5_0():
    for kernel, expected in (("5.0", UNMOVABLE), ("6.12", MOVABLE)):
        zone = ReferenceZone(0, [(0, 1024)], kernel, {0: UNMOVABLE})
        pcp = ReferencePcp(zone, batch=63, high_min=378, high_max=378)
        pcp.free(1, 0)
        zone.set_pageblock_types(0, 9, MOVABLE)
        pcp.drain(1)
        assert pcp.drained == [Drained(1, 0, expected)]


def test_highatomic_pages_wait_among_the_movable_ones():
    for kernel in ("5.0", "6.12"):
        zone = ReferenceZone(0, [(0, 1024)], kernel, {0: HIGHATOMIC})
        pcp = ReferencePcp(zone, batch=63, high_min=378, high_max=378)
        pcp.free(1, 0)
        assert pcp.lists[MOVABLE] == [1]
        pcp.drain(1)
        assert pcp.drained == [Drained(1, 0, HIGHATOMIC)]


def test_a_run_of_high_order_frees_flushes_the_lists():
    pcp = ReferencePcp(large_zone("6.12"), batch=63, high_min=10000, high_max=30000)
    blocks = take(pcp, 12, order=3)
    for pfn in blocks[:8]:
        pcp.free(pfn, 3)
    assert (pcp.count, pcp.free_count) == (64, 64)
    pcp.free(blocks[8], 3)  # free_count 64 >= 63, the one before was of high order too
    assert pcp.count == 0
    assert [drained.pfn for drained in pcp.drained] == blocks[:9]
    pcp.free(blocks[9], 3)
    # Few pages are left alone where the CPU's cache is large (PCPF_FREE_HIGH_BATCH) ...
    assert pcp.count == 8
    pcp.free_high_batch = False
    pcp.free(blocks[10], 3)  # ... and flushed where it is not
    assert pcp.count == 0


def test_a_flush_shrinks_high_and_huge_pages_do_not_flush():
    pcp = ReferencePcp(large_zone("6.12"), batch=63, high_min=252, high_max=30000)
    pcp.high = 9000
    blocks = take(pcp, 12, order=3)
    for pfn in blocks[:9]:
        pcp.free(pfn, 3)
    assert pcp.high == 9000 - 2016
    for pfn in take(pcp, 4, order=9):
        pcp.free(pfn, 9)
    assert pcp.count == 4 * 512
    assert pcp.free_count == 72 + 4 * 512  # it grows while below 2016: the last step passes it


def test_below_the_high_watermark_freed_pages_go_back_and_high_shrinks():
    zone = large_zone("6.12")
    zone.watermarks = (100, 200, 10**6)
    zone.below_high = True
    pcp = ReferencePcp(zone, batch=63, high_min=252, high_max=30000)
    pcp.high = 1000
    for pfn in take(pcp, 252):
        pcp.free(pfn, 0)
    # Each free took max(free_count, batch) off high.
    assert pcp.high == 252
    assert [drained.pfn for drained in pcp.drained] == list(range(189))
    assert zone.below_high
    zone.watermarks = (100, 200, 300)
    pcp.high = 1000
    for pfn in take(pcp, 189):
        pcp.free(pfn, 0)
    assert not zone.below_high


def test_reclaim_limits_the_lists_to_four_batches():
    zone = large_zone("6.12")
    zone.reclaim_active = True
    pcp = ReferencePcp(zone, batch=63, high_min=5000, high_max=30000)
    for pfn in take(pcp, 252):
        pcp.free(pfn, 0)
    assert pcp.count == 63


# Drain by time and by force.


def test_decay_takes_an_eighth_or_what_two_thousand_pages_allow():
    pcp = ReferencePcp(large_zone("6.12"), batch=63, high_min=252, high_max=30000)
    pcp.high = 8000
    for pfn in take(pcp, 5000):
        pcp.free(pfn, 0)
    assert pcp.count == 5000
    assert pcp.decay() is True
    # max(5000 - 2016, 8000 - 1000, 252)
    assert (pcp.high, pcp.count, pcp.holds) == (7000, 5000, 0)
    pcp.high = 5200
    assert pcp.decay() is True
    assert (pcp.high, pcp.count) == (4550, 4550)
    assert pcp.holds == 8  # 450 pages in pieces of 63, a hold of the lock each
    pcp.high = pcp.high_min
    while pcp.decay():
        pass
    assert pcp.count == 252


def test_drain_all_holds_the_lock_for_two_thousand_pages_at_most():
    for kernel, holds in (("5.0", 1), ("6.12", 3)):
        pcp = ReferencePcp(large_zone(kernel), batch=63, high_min=30000, high_max=30000)
        for pfn in take(pcp, 5000):
            pcp.free(pfn, 0)
        pcp.drain_all()
        assert (pcp.count, pcp.holds) == (0, holds)
        assert pcp.zone.free_counts() == large_zone(kernel).free_counts()


# Sizes and watermarks.


@pytest.mark.parametrize(
    ("mebibytes", "batch"), [(15, 0), (128, 7), (256, 15), (512, 31), (1024, 63), (65536, 63)]
)
def test_batch_by_zone_size(mebibytes, batch):
    assert zone_batchsize(mebibytes * 256) == batch


def test_limits_of_the_lists():
    assert pcp_limits("5.0", 262144, 5000, 4) == (63, 378, 378)
    assert pcp_limits("5.0", 3840, 27, 4) == (1, 0, 0)  # as /proc/zoneinfo shows for ZONE_DMA
    assert pcp_limits("6.12", 243996, 13858, 1) == (63, 13858, 30499)
    assert pcp_limits("6.12", 3840, 220, 4) == (1, 55, 120)


def test_in_a_small_zone_5_0_keeps_no_page_at_all():
    batch, high, _ = pcp_limits("5.0", 3840, 27, 4)
    pcp = ReferencePcp(large_zone("5.0"), batch, high, high)
    pcp.free(take(pcp, 1)[0], 0)
    assert (pcp.count, len(pcp.drained)) == (0, 1)


def test_min_free_kbytes_of_plain_guests():
    for gibibytes, kilobytes in ((4, 8192), (16, 16384)):
        zones = [ZoneSize(2, gibibytes << 18)]
        assert ReferenceWatermarks(zones, "6.12", huge_pages=False).min_free_kbytes == kilobytes
    zones = [ZoneSize(2, 512 << 18)]
    assert ReferenceWatermarks(zones, "5.0", huge_pages=False).min_free_kbytes == 65536
    assert ReferenceWatermarks(zones, "6.12", huge_pages=False).min_free_kbytes == 92681


def test_huge_pages_raise_the_watermarks_as_on_a_real_guest():
    """A guest of 1 GiB showed 176/220/264 and 11087/13858/16629, when it managed less at boot."""
    marks = ReferenceWatermarks([ZoneSize(0, 3840), ZoneSize(1, 241_100)], "6.12", huge_pages=True)
    assert marks.min_free_kbytes == 4 * 22 * 512
    assert marks.marks == [(176, 220, 264), (11087, 13858, 16629)]


def test_too_small_a_guest_has_no_huge_pages():
    """A guest of 512 MiB showed 22/27/32 and 659/823/987."""
    marks = ReferenceWatermarks([ZoneSize(0, 3840), ZoneSize(1, 112_620)], "6.12", huge_pages=True)
    assert marks.marks[0] == (22, 27, 32)
    assert marks.marks[1] == (659, 823, 987)


def test_the_raise_stops_at_a_twentieth_of_what_lies_above_the_high_watermarks():
    sizes = [ZoneSize(0, 3840), ZoneSize(1, 140_000), ZoneSize(2, 10_000)]
    plain = ReferenceWatermarks(sizes, "6.12", huge_pages=False)
    above = sum(size.managed - mark[2] for size, mark in zip(sizes, plain.marks, strict=True))
    marks = ReferenceWatermarks(sizes, "6.12", huge_pages=True)
    assert above // 20 < 33 * 512
    assert marks.min_free_kbytes == above // 20 * 4


def test_movable_zones_in_the_two_kernels():
    sizes = [ZoneSize(2, 300_000), ZoneSize(3, 100_000)]
    old, new = (ReferenceWatermarks(sizes, kernel, huge_pages=False) for kernel in ("5.0", "6.12"))
    # Only what GFP_USER may use decides min_free_kbytes: sqrt(300000 * 4 * 16) = 4381.
    assert old.min_free_kbytes == new.min_free_kbytes == 4381
    assert [mark[0] for mark in old.marks] == [1095 * 3 // 4, 1095 // 4]
    assert [mark[0] for mark in new.marks] == [1095, 97]


def test_lowmem_reserve():
    sizes = [ZoneSize(0, 3840), ZoneSize(1, 780_000), ZoneSize(2, 1_300_000), ZoneSize(3, 64_000)]
    marks = ReferenceWatermarks(sizes, "6.12", huge_pages=False)
    assert marks.lowmem_reserve == [
        [0, 780_000 // 256, 2_080_000 // 256, 2_144_000 // 256],
        [0, 0, 1_300_000 // 256, 1_364_000 // 256],
        [0, 0, 0, 2000],
        [0, 0, 0, 0],
    ]


def test_watermark_of_single_pages_and_of_blocks():
    zone = ReferenceZone(0, [(0, 2048)], "6.12")
    zone.lowmem_reserve = [0, 10, 20, 30]
    zone.free_one_page(0, 6)
    zone.free_one_page(512, 6)
    assert zone_watermark_ok(zone, 0, 127, 0)
    assert not zone_watermark_ok(zone, 0, 128, 0)
    assert zone_watermark_ok(zone, 0, 97, 3)
    assert not zone_watermark_ok(zone, 0, 98, 3)
    assert zone_watermark_ok(zone, 6, 127 - 63, 0)
    assert not zone_watermark_ok(zone, 6, 128 - 63, 0)
    assert not zone_watermark_ok(zone, 7, 0, 0)


def test_reserves_below_the_min_watermark():
    for kernel in ("5.0", "6.12"):
        zone = ReferenceZone(0, [(0, 2048)], kernel)
        zone.free_one_page(0, 6)
        # Half for __GFP_HIGH, and a quarter of the rest for those who cannot wait.
        assert not zone_watermark_ok(zone, 0, 127, 0, min_reserve=True)
        assert zone_watermark_ok(zone, 0, 126, 0, min_reserve=True)
        assert zone_watermark_ok(zone, 0, 168, 0, min_reserve=True, non_block=True)
        assert not zone_watermark_ok(zone, 0, 171, 0, min_reserve=True, non_block=True)
        assert zone_watermark_ok(zone, 0, 80, 0, non_block=True) is (kernel == "5.0")


def test_the_highatomic_reserve_is_not_for_everyone():
    zone = ReferenceZone(0, [(0, 2048)], "6.12", {0: HIGHATOMIC})
    zone.free_one_page(0, 3)
    zone.free_one_page(512, 2)
    assert not zone_watermark_ok(zone, 0, 4, 0)
    assert zone_watermark_ok(zone, 0, 3, 0)
    assert zone_watermark_ok(zone, 0, 11, 0, non_block=True)
    assert not zone_watermark_ok(zone, 3, 0, 0, non_block=True)
    assert zone_watermark_ok(zone, 3, 4, 0, highatomic=True)
    # 5.0 takes the whole pageblock off, however much of it is free.
    zone = ReferenceZone(0, [(0, 2048)], "5.0", {0: HIGHATOMIC})
    zone.free_one_page(0, 3)
    zone.free_one_page(512, 9)
    assert not zone_watermark_ok(zone, 0, 8, 0)
    assert zone_watermark_ok(zone, 0, 7, 0)
    assert zone_watermark_ok(zone, 3, 500, 0, non_block=True)
