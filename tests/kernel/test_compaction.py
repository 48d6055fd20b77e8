"""kcompactd: which pages it moves, where to, and what it leaves to the per-CPU lists."""

from functools import partial

import pytest

from fragmented_guest import MOVABLE, compact, fragmented, moved_by, run_of, used
from hintbench import hookimpl
from hintbench.core.constants import BUDDY, IN_USE, KIND_MASK, RANK_TASK
from hintbench.core.migration import movable_pages
from hintbench.guest.validation import validate
from hintbench.kernel.compaction import Compaction
from hintbench.kernel.compaction_scanners import Scanners
from hintbench.operations import Flag, allocate, free, idle
from small_guest import MS, START, Silent, boot, small_guest, zone

PAGEBLOCK = 512


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


def test_a_run_that_takes_longer_has_the_next_wait():
    """kcompactd of a node is one thread: the next run finds the scanners where this one ends."""
    told = []

    class Recorded(Compaction):
        def _begin(self, zone, run):
            told.append(("begins", run.drain_all, self.simulation.clock.now))
            super()._begin(zone, run)

        def _begin_next(self, node):
            told.append(("over", self.simulation.clock.now))
            super()._begin_next(node)

    running = fragmented()
    recorded = Recorded(running.threads.frees)
    zone = running.machine.zones[0]
    for run in (run_of(8, drain_all=True), run_of(8, at_ms=51)):
        begin = partial(recorded.start, zone, run)
        running.machine.simulation.schedule(run.begin_ns, RANK_TASK, 0, begin)
    running.execute()
    assert [what for what, *_ in told] == ["begins", "over", "begins", "over"]
    assert told[1][1] > run_of(8, at_ms=51).begin_ns, "the first was still at work then"
    assert told[2] == ("begins", False, told[1][1])


def test_kernel_pages_stay():
    running = boot(
        Silent(),
        [allocate(range(64), order=0, migratetype=0, flags=Flag.TOUCHED), idle([100 * MS])],
        config=small_guest(zones=(zone(8, low=40),)),
    )
    before = used(compact(running, 8))
    assert all(running.machine.pages.state[pfn] == IN_USE for pfn in before.values())


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
