"""kcompactd: which pages it moves, where to, and what it leaves to the per-CPU lists."""

from types import SimpleNamespace

import pytest

from hintbench import hookimpl
from hintbench.compaction import Compaction, CompactionStep
from hintbench.compaction_scanners import Scanners
from hintbench.core.constants import BUDDY, IN_USE, KIND_MASK, RANK_TASK
from hintbench.core.migration import isolate_free_blocks, movable_pages
from hintbench.operations import Flag, allocate, free, idle
from hintbench.validation import validate
from small_guest import MS, START, Silent, boot, small_guest, zone

PAGEBLOCK = 512
MOVABLE = {"migratetype": 1, "flags": Flag.TOUCHED}


def fragmented(strategy=None):
    """32 MiB: below a movable page in 64 is in use, in the upper half every second one."""
    pages = range(8000)
    kept = [page for page in pages if page % (64 if page < 4096 else 2) == 0]
    tape = [
        allocate(pages, order=0, **MOVABLE),
        free(sorted(set(pages) - set(kept))),
        idle([100 * MS]),
    ]
    return boot(strategy or Silent(), tape, config=small_guest(zones=(zone(8, low=40),)))


def compact(running, pages, at_ms=50, **given):
    """Let kcompactd move some pages, and the guest run to its end."""
    step = CompactionStep(at_ms * MS, 0, START, pages, last=True, **given)
    running.threads.compact([step])
    running.result = running.execute()
    return running


def used(running):
    """Which slots hold which pages."""
    slots = running.machine.simulation.slot_pfns()
    return {slot: int(pfn) for slot, pfn in enumerate(slots) if pfn >= 0}


def moved_by(running):
    """Where pages were that have moved, and where they are now, by slot."""
    before, after = used(compact(fragmented(), 0)), used(running)
    moved = [slot for slot in before if before[slot] != after[slot]]
    return {slot: before[slot] for slot in moved}, {slot: after[slot] for slot in moved}


def test_pages_move_from_the_lower_half_to_the_top():
    running = compact(fragmented(), 16)
    before, after = moved_by(running)
    assert len(before) == 16
    assert max(before.values()) < START + 8 * PAGEBLOCK
    assert min(after.values()) >= START + 15 * PAGEBLOCK
    assert running.result.violations == {}
    assert validate(running.machine) == []


def test_pageblocks_whose_pages_have_moved_are_free_blocks():
    running = compact(fragmented(), 16)
    before, _ = moved_by(running)
    blocks = {pfn & -PAGEBLOCK for pfn in before.values()}
    assert len(blocks) == 2, "those which the fast search finds, free in part"
    pages = running.machine.pages
    assert all(pages.state[pages.head_of(pfn)] & KIND_MASK == BUDDY for pfn in blocks)


def test_every_pages_owner_still_frees_it():
    running = fragmented()
    running.threads.compact([CompactionStep(50 * MS, 0, START, 32, last=True)])
    result = running.execute()
    assert result.violations == {}
    assert len(set(used(running).values())) == 64 + 1952


def test_kernel_pages_stay():
    running = boot(
        Silent(),
        [allocate(range(64), order=0, migratetype=0, flags=Flag.TOUCHED), idle([100 * MS])],
        config=small_guest(zones=(zone(8, low=40),)),
    )
    before = used(compact(running, 8))
    assert all(running.machine.pages.state[pfn] == IN_USE for pfn in before.values())


def test_the_free_scanner_respects_the_min_watermark():
    zone = compact(fragmented(), 0).machine.zones[0]
    first, end = START + 10 * PAGEBLOCK, START + 11 * PAGEBLOCK
    zone.set_watermarks(zone.free_pages, zone.free_pages, minimum=zone.free_pages - 3)
    assert len(isolate_free_blocks(zone, first, end, 32)) == 2, "until three above are left"
    assert isolate_free_blocks(zone, first, end, 32) == []


def test_the_fast_search_takes_a_block_of_the_top_quarter():
    zone = compact(fragmented(), 0).machine.zones[0]
    scanners = Scanners(zone)
    # The kept pages are lone ones above, so that only what lies past them is free in larger blocks.
    largest = max(order for order in range(9) if zone.blocks_of(order, 1))
    pfn = scanners.search_free(32)
    assert pfn in [block for block, _ in scanners.isolated]
    assert pfn >= START + 12 * PAGEBLOCK
    assert scanners.isolated[0][1] == scanners.search_order <= largest
    assert scanners.missing(32) <= 0 or len(scanners.isolated) > 1, "it looks around the block"


def test_a_failing_search_begins_one_order_lower_the_next_time():
    zone = compact(fragmented(), 0).machine.zones[0]
    zone.set_watermarks(zone.free_pages, zone.free_pages, minimum=zone.free_pages)
    scanners = Scanners(zone)
    assert scanners.search_free(32) == -1
    assert (scanners.search_order, scanners.failures, scanners.isolated) == (7, 1, [])


def test_what_was_set_aside_and_not_used_waits_for_the_end_of_the_run():
    """The kernel's list of isolated pages lasts as long as compact_zone(), not a cluster of 32."""
    running = fragmented()
    compaction = Compaction(running.threads)
    zone = running.machine.zones[0]
    left = []

    async def both():
        await compaction.run(0, zone, 3, last=False, drain_all=False)
        left.append(list(compaction.scanners[zone].isolated))
        await compaction.run(0, zone, 3, last=True, drain_all=False)
        left.append(list(compaction.scanners[zone].isolated))

    running.machine.simulation.schedule(
        50 * MS,
        RANK_TASK,
        0,
        lambda: running.threads.scheduler.spawn(both(), 0, "kcompactd", kernel=True),
    )
    assert running.execute().violations == {}
    assert sum(1 << order for _, order in left[0]) > 0
    assert left[1] == []
    assert validate(running.machine) == []


def test_all_per_cpu_lists_are_drained_behind_a_run_through_the_zone():
    pcp = compact(fragmented(), 4).machine.simulation.vcpus[0].pcps[0]
    assert pcp.count > 0
    pcp = compact(fragmented(), 4, drain_all=True).machine.simulation.vcpus[0].pcps[0]
    assert pcp.count == 0


def test_scanners_that_meet_end_the_run():
    running = fragmented()
    compaction = Compaction(running.threads)
    scanners = Scanners(running.machine.zones[0])
    scanners.migrate_pfn = scanners.free_pfn
    assert scanners.met
    assert scanners.next_sources(32) == []
    assert list(scanners.targets()) == []
    assert compaction.moved_pages == 0


def test_a_proactive_run_drains_no_list_behind_a_pageblock():
    """compact_zone() flushes for `cc->order > 0` only; compaction_proactiveness passes -1."""
    for_an_order = compact(fragmented(), 16).machine.simulation.vcpus[0].pcps[0]
    proactive = compact(fragmented(), 16, proactive=True).machine.simulation.vcpus[0].pcps[0]
    assert for_an_order.count == 0
    assert proactive.count >= 16


def test_a_proactive_run_begins_at_the_zones_start_and_searches_no_free_list():
    running = compact(fragmented(), 16, proactive=True)
    before, after = moved_by(running)
    first = sorted(used(compact(fragmented(), 0)).values())[:16]
    assert sorted(before.values()) == first, "linearly, from the zone's first page on"
    assert min(after.values()) >= START + 15 * PAGEBLOCK


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
    scanners.search_source()
    assert (scanners.migrate_pfn, scanners.failures) == (hole & -PAGEBLOCK, 0)
    scanners.skip.add(hole >> 9)
    scanners.search_source()
    assert scanners.failures == 1, "pageblocks that were looked at do not count, nor does order 2"


def test_a_search_for_sources_that_fails_goes_back_to_the_lowest_it_had_found():
    zone_ = compact(fragmented(), 0).machine.zones[0]
    scanners = Scanners(zone_)
    found = []
    while not scanners.failures:
        scanners.search_source()
        scanners.skip.add(scanners.migrate_pfn >> 9)
        found.append(scanners.migrate_pfn)
    assert len(found) > 2
    assert found[-1] & -PAGEBLOCK == min(found[:-1])
    assert scanners.fast_start_pfn == zone_.end_pfn
    assert scanners.next_sources(1)[0] & -PAGEBLOCK not in {pfn & -PAGEBLOCK for pfn in found}


def test_single_pages_that_were_asked_for_as_compound_ones_can_be_moved():
    """`if (order && (gfp_flags & __GFP_COMP))`: a folio of one page is no compound page."""
    flags = Flag.COMPOUND | Flag.TOUCHED
    tape = [
        allocate([0, 1], order=[0, 1], migratetype=1, flags=flags),
        idle([1 * MS]),
    ]
    running = boot(Silent(), tape, config=small_guest(zones=(zone(8, low=40),)))
    running.execute()
    single, pair = (used(running)[slot] for slot in (0, 1))
    guest = running.guest
    assert [guest.is_compound(pfn) for pfn in (single, pair, pair + 1)] == [False, True, True]
    assert movable_pages(running.machine.pages, single, single + 1, 1) == [single]
    assert movable_pages(running.machine.pages, pair, pair + 1, 1) == []


class Counting(Silent):
    """Counts what compaction allocates and frees."""

    name = "counting"

    @hookimpl
    def guest_started(self, guest):
        self.guest, self.allocated, self.freed = guest, [], []

    @hookimpl
    def page_allocated(self, pfn):
        if self.guest.now >= 50 * MS:
            self.allocated.append(pfn)

    @hookimpl
    def page_freeing(self, pfn):
        if self.guest.now >= 50 * MS:
            self.freed.append(pfn)


def test_hooks_see_destinations_and_sources():
    strategy = Counting()
    before, after = moved_by(compact(fragmented(strategy=strategy), 16))
    assert set(after.values()) == set(strategy.allocated)
    assert set(before.values()) <= set(strategy.freed)


@pytest.mark.parametrize("name", ["bitmap-and-spin", "page-reporting", "sync-hypercall"])
def test_strategies_keep_their_rules(name):
    from hintbench.plugins import find_strategy

    running = compact(fragmented(strategy=find_strategy(name)()), 32, drain_all=True)
    assert running.result.violations == {}
