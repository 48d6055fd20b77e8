"""The scanners of compaction: what they find, and how they search for it."""

from types import SimpleNamespace

from fragmented_guest import compact, fragmented
from hintbench.core.migration import isolate_free_blocks
from hintbench.kernel.compaction_scanners import Scanners
from small_guest import START

PAGEBLOCK = 512


def test_the_free_scanner_respects_the_min_watermark():
    zone = compact(fragmented(), 0).machine.zones[0]
    first, end = START + 10 * PAGEBLOCK, START + 11 * PAGEBLOCK
    zone.set_watermarks(zone.free_pages, zone.free_pages, minimum=zone.free_pages - 3)
    blocks, stopped = isolate_free_blocks(zone, first, end, 32)
    assert len(blocks) == 2, "until three above are left"
    assert isolate_free_blocks(zone, stopped, end, 32) == ([], stopped)


def test_a_block_beyond_the_stride_is_not_seen():
    """isolate_freepages_block(): `blockpfn += stride`."""
    zone = compact(fragmented(), 0).machine.zones[0]
    first, end = START + 10 * PAGEBLOCK, START + 11 * PAGEBLOCK
    every, _ = isolate_free_blocks(zone, first, first + 64, 512, 4)
    assert every == [], "every second page is free, and every fourth is looked at"
    blocks, stopped = isolate_free_blocks(zone, first + 1, end, 4, 4)
    assert blocks == [(first + 1 + 4 * at, 0) for at in range(4)]
    assert stopped == first + 1 + 3 * 4 + 1


def isolated(scanners):
    """What a search has set aside, in the order in which it is used."""
    return [(pfn, order) for order, blocks in enumerate(scanners.isolated) for pfn in blocks]


def test_the_fast_search_takes_a_block_of_the_top_quarter():
    zone = compact(fragmented(), 0).machine.zones[0]
    scanners = Scanners(zone)
    # The kept pages are lone ones above, so that only what lies past them is free in larger blocks.
    largest = max(order for order in range(9) if zone.blocks_of(order, 1))
    scanners.search_free(32)
    assert min(pfn for pfn, _ in isolated(scanners)) >= START + 12 * PAGEBLOCK
    assert (scanners.isolated[scanners.search_order], scanners.failures) != ([], 1)
    assert scanners.search_order <= largest
    assert scanners.free_pages >= 32 or len(isolated(scanners)) > 1, "it looks around the block"


def test_every_search_for_free_blocks_is_as_deep_as_half_a_pageblock():
    """compact_init_free_pfn is 0 as long as no direct compaction has gone through the zone."""
    low = [START + 8 * page for page in range(200)]
    high = START + 15 * PAGEBLOCK
    lists = {3: [high, *low]}
    zone_ = SimpleNamespace(
        start_pfn=START,
        end_pfn=START + 16 * PAGEBLOCK,
        blocks_of=lambda order, migratetype: lists.get(order, []),
        rotate_to_front=lambda block: None,
    )
    scanners = Scanners(zone_)
    asked = []
    scanners._isolate = lambda first, *_: asked.append(first) or first
    scanners.free_pfn -= PAGEBLOCK
    scanners.search_free(1)
    assert asked[0] == high, "behind 200 others, from the tail on"


def test_a_failing_search_begins_one_order_lower_the_next_time():
    zone = compact(fragmented(), 0).machine.zones[0]
    zone.set_watermarks(zone.free_pages, zone.free_pages, minimum=zone.free_pages)
    scanners = Scanners(zone)
    found = max(order for order in range(9) if zone.blocks_of(order, 1))
    scanners.search_free(32)
    assert (scanners.failures, isolated(scanners)) == (1, [])
    assert scanners.search_order == found - 1, "from where a block was found that may not be taken"


def test_a_split_block_is_used_up_before_the_next():
    """compaction_alloc() takes the smallest block, and puts its halves first (6.12)."""
    zone = compact(fragmented(), 0).machine.zones[0]
    scanners = Scanners(zone)
    scanners.isolated[2].extend([64, 128])
    assert [scanners.take_page() for _ in range(5)] == [64, 65, 66, 67, 128]
    scanners.put_page(64)
    assert scanners.take_page() == 64, "compaction_free() puts it first"
    assert scanners.release() == [(129, 0), (130, 1)]
    assert (scanners.take_page(), scanners.free_pages) == (-1, 0)


def test_a_pageblock_is_begun_with_32_pages_and_finished_with_all_others():
    """`finish_pageblock`; list_add() puts the last page first."""
    scanners = Scanners(compact(fragmented(), 0).machine.zones[0])
    start = START + 10 * PAGEBLOCK
    first = scanners.next_sources(start, 512)
    assert first == sorted(first, reverse=True)
    assert (len(first), scanners.migrate_pfn) == (32, first[0] + 1)
    scanners.finish_pageblock = True
    rest = scanners.next_sources(scanners.migrate_pfn, 512)
    assert (len(rest), rest[0], min(rest) > max(first)) == (224, start + 510, True)
    assert scanners.migrate_pfn == start + PAGEBLOCK
    assert scanners.cached_migrate_pfn == start + 2 * PAGEBLOCK, "update_cached_migrate()"


def test_skip_hints_outlast_scanners_that_met():
    """reset_cached_positions() clears none, and kcompactd sets no compact_blockskip_flush."""
    scanners = Scanners(compact(fragmented(), 0).machine.zones[0])
    scanners.skip.add(9)
    scanners.reset()
    scanners.begin(proactive=False)
    assert scanners.skip == {9}


def test_the_search_for_sources_goes_down_to_order_3():
    """fast_find_migrateblock(): `order >= PAGE_ALLOC_COSTLY_ORDER`, in the first half."""
    hole = START + 2 * PAGEBLOCK + 8
    lists = {3: [hole], 2: [START + PAGEBLOCK + 4]}
    lone = SimpleNamespace(
        start_pfn=START,
        end_pfn=START + 16 * PAGEBLOCK,
        blocks_of=lambda order, migratetype: lists.get(order, []),
    )
    scanners = Scanners(lone)
    assert (scanners.search_source(), scanners.failures) == (hole & -PAGEBLOCK, 0)
    scanners.skip.add(hole >> 9)
    scanners.search_source()
    assert scanners.failures == 1, "pageblocks that were looked at do not count, nor does order 2"


def test_the_head_of_a_list_that_was_found_goes_behind_the_others():
    """move_freelist_tail() leaves only the last entry where it is."""
    zone_ = compact(fragmented(), 0).machine.zones[0]
    order = max(order for order in range(3, 9) if len(zone_.blocks_of(order, 1)) > 1)
    blocks = zone_.blocks_of(order, 1)
    Scanners(zone_)._move_behind(blocks, 0, order)
    assert zone_.blocks_of(order, 1) == [*blocks[1:], blocks[0]]


def test_a_search_for_sources_that_fails_goes_back_once_to_the_lowest_it_had_found():
    """reinit_migrate_pfn(): fast_start_pfn is ULONG_MAX from then on."""
    zone_ = compact(fragmented(), 0).machine.zones[0]
    scanners = Scanners(zone_)
    found = []
    while not scanners.failures:
        found.append(scanners.search_source())
        scanners.skip.add(found[-1] >> 9)
    assert len(found) > 2
    assert found[-1] & -PAGEBLOCK == min(found[:-1])
    assert scanners.migrate_pfn == found[-1]
    sources = []
    while not sources:
        sources = scanners.next_sources(scanners.migrate_pfn, 1)
    assert sources[0] & -PAGEBLOCK not in {pfn & -PAGEBLOCK for pfn in found}
    scanners.search_source()
    assert scanners.migrate_pfn > sources[0], "not again"
