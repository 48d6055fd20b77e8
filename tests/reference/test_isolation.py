"""The second model's isolation and putting back, held to worked examples."""

from __future__ import annotations

import pytest

from reference.allocator import ReferenceZone
from reference.lists import MOVABLE, UNMOVABLE

both_kernels = pytest.mark.parametrize("kernel", ("5.0", "6.12"))


def zone_of(kernel: str, blocks: int = 4, types: dict[int, int] | None = None) -> ReferenceZone:
    """A zone of whole pageblocks from pfn 0 on, with nothing free."""
    return ReferenceZone(0, [(0, 512 * blocks)], kernel, types)


@both_kernels
def test_isolation_keeps_the_min_watermark(kernel):
    zone = ReferenceZone(0, [(0, 2048)], kernel, watermarks=(512, 600, 700))
    zone.free_one_page(0, 9)
    zone.free_one_page(1024, 9)
    assert zone.isolate(0) is None  # 1024 free is not more than 512 + 512
    zone.free_one_page(512, 0)
    assert zone.isolate(0) == 9
    assert zone.free_pages == 513


def test_only_5_0_counts_the_boost_against_isolation():
    for kernel, expected in (("5.0", None), ("6.12", 9)):
        zone = ReferenceZone(0, [(0, 2048)], kernel, watermarks=(0, 1, 2))
        zone.watermark_boost = 512
        zone.free_one_page(0, 10)
        assert zone.rmqueue(9, MOVABLE) == 0
        zone.free_one_page(1024, 9)
        assert zone.isolate(1024) == expected


@both_kernels
def test_isolation_of_half_a_pageblock_makes_it_movable(kernel):
    zone = zone_of(kernel, types={0: UNMOVABLE})
    zone.free_one_page(0, 8)
    zone.free_one_page(256, 3)
    zone.free_one_page(512, 3)
    assert zone.isolate(0) == 8
    assert zone.pageblock_type(0) == MOVABLE
    expected = {
        "6.12": {(3, MOVABLE): [512, 256]},
        "5.0": {(3, UNMOVABLE): [256], (3, MOVABLE): [512]},
    }
    assert zone.all_lists() == expected[kernel]


def test_isolation_in_6_12_moves_blocks_to_the_tail_of_their_own_list():
    zone = zone_of("6.12")
    for pfn, order in ((0, 8), (256, 3), (512, 3)):
        zone.free_one_page(pfn, order)
    zone.rmqueue(3, MOVABLE)
    zone.free_one_page(520, 3)
    zone.free_one_page(272, 3)
    assert zone.free_list(3, MOVABLE) == [272, 520, 256]
    zone.isolate(0)
    assert zone.free_list(3, MOVABLE) == [520, 256, 272]


@both_kernels
def test_isolation_below_half_a_pageblock_changes_no_type(kernel):
    zone = zone_of(kernel, types={0: UNMOVABLE})
    zone.free_one_page(0, 7)
    zone.free_one_page(256, 7)
    assert zone.isolate(0) == 7
    assert zone.pageblock_type(0) == UNMOVABLE


@both_kernels
def test_put_back_goes_to_the_tail_unless_told_otherwise(kernel):
    zone = zone_of(kernel, blocks=16)
    for pfn in (0, 1024, 2048, 3072):
        zone.free_one_page(pfn, 9)
    assert zone.isolate(2048) == 9
    zone.put_back(2048, 9)
    assert zone.free_list(9, MOVABLE) == [3072, 1024, 0, 2048]
    zone.isolate(1024)
    zone.put_back(1024, 9, to_tail=False)
    assert zone.free_list(9, MOVABLE) == [1024, 3072, 0, 2048]
