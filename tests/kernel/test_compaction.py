"""kcompactd: which pages it moves, where to, and what it leaves to the per-CPU lists."""

from functools import partial
from types import SimpleNamespace

import pytest

from hintbench import hookimpl
from hintbench.core.constants import BUDDY, IN_USE, KIND_MASK, RANK_TASK
from hintbench.core.migration import isolate_free_blocks, movable_pages
from hintbench.guest.validation import validate
from hintbench.kernel.compaction import CompactionRun
from hintbench.kernel.compaction_scanners import Scanners
from hintbench.operations import Flag, allocate, free, idle
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


def run_of(pages, at_ms=50, cpus=None, **given):
    """A run that frees the source of a page every 10 us."""
    times = [at_ms * MS + 10_000 * page for page in range(pages)]
    return CompactionRun(times, cpus or [0] * pages, START, **given)


def compact(running, pages, at_ms=50, **given):
    """Let kcompactd move some pages, and the guest run to its end."""
    if pages:
        running.threads.compact([run_of(pages, at_ms, **given)])
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
    running.threads.compact([run_of(32)])
    result = running.execute()
    assert result.violations == {}
    assert len(set(used(running).values())) == 64 + 1952


def test_one_thread_ends_a_run_before_it_begins_the_next():
    running = fragmented()
    first, second = run_of(32), run_of(8)
    running.threads.compact([first, second])
    begins = [event[0] for event in running.machine.simulation.events if event[1] == RANK_TASK]
    assert sorted(begins) == [first.begin_ns, first.freed_ns[-1]]
    assert second.begin_ns < first.freed_ns[-1]


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


def test_destinations_are_there_before_any_source_is_freed():
    """migrate_pages_batch() unmaps all of a batch, and moves them then."""
    strategy = Counting()
    compact(fragmented(strategy=strategy), 16)
    told = strategy.told
    assert [what for what, _ in told[:1]] == ["allocated"]
    batches = "".join(what[0] for what, _ in told)
    assert batches.startswith("a" * 8 + "f" * 8), "the first pageblock has eight"


def test_what_was_set_aside_and_not_used_is_allocated_and_freed_at_the_end():
    """release_free_list(): mark_allocated(), then __free_pages() as anybody's pages."""
    strategy = Counting()
    running = compact(fragmented(strategy=strategy), 3)
    left = [pfn for what, pfn in strategy.told if what == "allocated"]
    back = [pfn for what, pfn in strategy.told if what == "freed"]
    _, after = moved_by(running)
    unused = set(left) - set(after.values())
    assert unused
    assert unused <= set(back)
    assert validate(running.machine) == []


def test_kcompactd_goes_on_where_it_is_put():
    """Each page is freed on the CPU that the recording names."""
    strategy = Counting()
    pages = range(1200)
    tape = [
        allocate(pages, order=0, **MOVABLE),
        free(sorted(set(pages) - set(pages[::64]))),
        idle([100 * MS]),
    ]
    config = small_guest(vcpus=2, zones=(zone(8, low=40),))
    running = boot(strategy, tape, [idle([100 * MS])], config=config)
    compact(running, 8, cpus=[0] * 4 + [1] * 4, proactive=True)
    assert strategy.freed_by[:8] == [0] * 4 + [1] * 4


def test_all_per_cpu_lists_are_drained_behind_a_run_through_the_zone():
    pcp = compact(fragmented(), 4).machine.simulation.vcpus[0].pcps[0]
    assert pcp.count > 0
    pcp = compact(fragmented(), 4, drain_all=True).machine.simulation.vcpus[0].pcps[0]
    assert pcp.count == 0


def test_each_list_is_drained_when_the_recorded_one_was():
    """Linux goes from CPU to CPU, and the host may take its vCPU away in between."""
    pages = range(5000, 5010)
    tape = [allocate(pages, order=0, **MOVABLE), free(pages), idle([100 * MS])]
    config = small_guest(vcpus=2, zones=(zone(8, low=40),))
    mine = [allocate(range(64), order=0, **MOVABLE), idle([100 * MS])]
    running = boot(Silent(), mine, tape, config=config)
    simulation = running.machine.simulation
    seen = {}

    def look(at_ms):
        seen[at_ms] = [vcpu.pcps[0].count > 0 for vcpu in simulation.vcpus]

    for at_ms in (49, 59, 61, 69, 71):
        simulation.schedule(at_ms * MS, RANK_TASK, 0, partial(look, at_ms))
    compact(running, 8, drain_all=True, emptied_ns={0: 60 * MS, 1: 70 * MS})
    assert seen[49] == [True, True]
    assert seen[59] == [True, True]
    assert seen[61] == [False, True]
    assert seen[69] == [False, True]
    assert seen[71] == [False, False]


def test_a_run_behind_which_all_lists_are_drained_ends_where_its_scanners_meet():
    """kcompactd_do_work() drains them behind a run without success: its scanners have met."""
    as_many, _ = moved_by(compact(fragmented(), 8))
    running = compact(fragmented(), 8, drain_all=True)
    until_met, now = moved_by(running)
    assert len(as_many) == 8
    # 32 MiB: every page that is in use in the lower half has moved to the upper one.
    lower = [pfn for pfn in used(compact(fragmented(), 0)).values() if pfn < START + 4096]
    assert len(lower) == 64
    assert set(lower) <= set(until_met.values())
    assert min(now.values()) >= START + 4096
    assert validate(running.machine) == []


def test_scanners_that_meet_end_the_run():
    scanners = Scanners(compact(fragmented(), 0).machine.zones[0])
    scanners.migrate_pfn = scanners.free_pfn
    assert scanners.met
    assert scanners.next_sources(scanners.migrate_pfn, 32) == []
    assert list(scanners.targets()) == []


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
        self.guest, self.told, self.freed_by = guest, [], []

    @hookimpl
    def page_allocated(self, pfn):
        if self.guest.now >= 49 * MS:
            self.told.append(("allocated", pfn))

    @hookimpl
    def page_freeing(self, cpu, pfn):
        if self.guest.now >= 49 * MS:
            self.told.append(("freed", pfn))
            self.freed_by.append(cpu)


def test_hooks_see_destinations_and_sources():
    strategy = Counting()
    before, after = moved_by(compact(fragmented(strategy=strategy), 16))
    assert set(after.values()) <= {pfn for what, pfn in strategy.told if what == "allocated"}
    assert set(before.values()) <= {pfn for what, pfn in strategy.told if what == "freed"}


@pytest.mark.parametrize("name", ["bitmap-and-spin", "page-reporting", "sync-hypercall"])
def test_strategies_keep_their_rules(name):
    from hintbench.plugins.finding import find_strategy

    running = compact(fragmented(strategy=find_strategy(name)()), 32, drain_all=True)
    assert running.result.violations == {}
