"""What of the core must equal what of the reference."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from hintbench.core.constants import MIGRATE_TYPES, NR_PAGE_ORDERS, NR_PCP_LISTS
from reference.allocator import ReferenceZone
from reference.lists import MAX_PAGE_ORDER, PAGEBLOCK_PAGES
from reference.pcp import ReferencePcp
from reference.watermarks import zone_watermark_ok

if TYPE_CHECKING:
    from .driver import Bench


def lists_of(zone: Any) -> dict[tuple[int, int], list[int]]:
    """The free lists of a zone of the core that are not empty, by order and migratetype."""
    found = {}
    for order in range(NR_PAGE_ORDERS):
        for migratetype in range(MIGRATE_TYPES):
            pfns = zone.blocks_of(order, migratetype)
            if pfns:
                found[order, migratetype] = pfns
    return found


def compare_zone(zone: Any, expected: ReferenceZone) -> None:
    """Lists in their exact order, counters, pageblock types, marks."""
    assert lists_of(zone) == expected.all_lists()
    assert zone.free_counts() == expected.free_counts()
    assert zone.free_pages == expected.free_pages
    blocks = range(zone.start_pfn // PAGEBLOCK_PAGES, (zone.end_pfn - 1) // PAGEBLOCK_PAGES + 1)
    types = [zone.pages.pageblock_type[number] for number in blocks]
    assert types == [expected.pageblock_type(number * PAGEBLOCK_PAGES) for number in blocks]
    assert zone.watermark_boost == expected.watermark_boost
    if expected.kernel == "5.0":
        assert zone.reserved_highatomic == zone.free_highatomic == expected.reserved_highatomic
    assert zone.below_high == expected.below_high
    assert zone.reclaim_active == expected.reclaim_active


def compare_pcp(pcp: Any, expected: ReferencePcp) -> None:
    """A CPU's lists and what they adapt by."""
    lists = [pcp.pages_of(index) for index in range(NR_PCP_LISTS)]
    assert lists[: len(expected.lists)] == expected.lists
    assert not any(lists[len(expected.lists) :])
    assert pcp.count == expected.count
    got = (pcp.high, pcp.alloc_factor, pcp.free_count)
    assert got == (expected.high, expected.alloc_factor, expected.free_count)
    if expected.kernel == "6.12":
        assert pcp.previous_free_high_order == expected.previous_free_was_high_order


def compare_questions(bench: Bench, choose: Callable[[int], int]) -> None:
    """What strategies may ask of a zone, of random pages and marks.

    Args:
        bench: the guest.
        choose: a random number below its argument.
    """
    for zone, other in zip(bench.zones, bench.model.zones, strict=True):
        lists = other.lists
        pfn = zone.start_pfn + choose(zone.end_pfn - zone.start_pfn)
        head = next((h for h, b in lists.free.items() if h <= pfn < h + (1 << b.order)), None)
        block = zone.free_block_of(pfn)
        assert (block.pfn if block else None) == head
        assert zone.free_order(pfn) == (lists.free[pfn].order if pfn in lists.free else -1)
        mark, order, highest = choose(zone.managed_pages), choose(MAX_PAGE_ORDER + 1), choose(4)
        expected = zone_watermark_ok(lists, order, mark, highest)
        assert zone.watermark_ok(mark, order, highest) == expected
        least = choose(MAX_PAGE_ORDER + 1)
        walk = [
            (pfn, order)
            for (order, _), pfns in lists.all_lists().items()
            if order >= least
            for pfn in pfns
        ]
        assert [(block.pfn, block.order) for block in zone.free_blocks(least)] == walk
