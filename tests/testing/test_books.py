"""The auditor's books, preemptions, and free lists that are looked through."""

import pytest

from hintbench.config.costs import Costs
from hintbench.core.audit import Auditor, PageFollower
from hintbench.core.blocksout import overlap
from hintbench.core.clock import CostTable, VirtualClock
from hintbench.core.consistency import list_fault
from hintbench.core.constants import (
    EVENT_ALLOCATED,
    EVENT_FREED,
    EVENT_ISOLATED,
    EVENT_PUT_BACK,
    EVENT_RETURNED,
    EVENT_TAKEN,
    IN_USE,
    MIGRATE_TYPES,
    OWNER_BUDDY,
    OWNER_CALLER,
    RECLAIMABLE,
)
from hintbench.core.flags import UnitFlags
from hintbench.core.hooks import Block
from hintbench.core.preemption import EndlessRunError, Preemptions
from hintbench.core.tearing import Between, Tear
from hintbench.strategy import Strategy
from hintbench.testing.exploration import run_scenario
from hintbench.testing.runs.explored import ExploredRun
from hintbench.testing.scenarios.families import draw_scenario, tiny_scenario
from hintbench.testing.schedules.preemption import EDIT, HOLD, STEP, Preemption

LEGAL = {
    ("buddy", EVENT_TAKEN): "outside",
    ("buddy", EVENT_ISOLATED): "strategy",
    ("outside", EVENT_RETURNED): "buddy",
    ("outside", EVENT_ALLOCATED): "caller",
    ("caller", EVENT_FREED): "outside",
    ("strategy", EVENT_PUT_BACK): "buddy",
}
EVENTS = sorted({event for _, event in LEGAL})
PATHS = {
    "buddy": (),
    "outside": (EVENT_TAKEN,),
    "caller": (EVENT_TAKEN, EVENT_ALLOCATED),
    "strategy": (EVENT_ISOLATED,),
}


class Books:
    """An auditor behind a digest, as in a run."""

    def __init__(self):
        self.complaints = []
        self.auditor = Auditor(64, lambda *what: self.complaints.append(what))
        self.clock = VirtualClock(CostTable(**Costs().model_dump()))
        self.clock.digest.listener = self.auditor
        self.auditor.give(0, 4)

    def book(self, *events, pfn=0, order=2):
        for event in events:
            self.clock.digest.record(0, 0, event, pfn, order)
        return self


@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize("owner", PATHS)
def test_every_transition_is_legal_or_refused(owner, event):
    books = Books().book(*PATHS[owner])
    assert books.complaints == []
    books.book(event)
    legal = (owner, event) in LEGAL
    assert (books.complaints == []) is legal
    if not legal:
        assert books.complaints[0][:2] == ("conservation", "owners")


def test_one_page_of_a_block_is_enough():
    books = Books().book(EVENT_TAKEN, pfn=3, order=0)
    books.book(EVENT_ISOLATED)
    assert [rule for rule, *_ in books.complaints] == ["conservation"]
    assert "pfn 0x3 is on a per-CPU list or in transit" in books.complaints[0][2]


def test_a_discard_of_a_page_in_use_is_seen_and_its_owner_finds_it_empty():
    books = Books().book(EVENT_TAKEN, EVENT_ALLOCATED)
    books.auditor.discarded(8, 4)
    assert books.complaints == []
    books.auditor.discarded(2, 1)
    assert [each[:2] for each in books.complaints] == [("no-discard-in-use", "discard")]
    books.book(EVENT_FREED)
    assert books.complaints[1][:2] == ("no-discard-in-use", "contents")


def test_what_is_freed_is_untold_until_it_is_discarded_or_used():
    books = Books().book(EVENT_TAKEN, EVENT_ALLOCATED, EVENT_FREED, EVENT_RETURNED)
    assert books.auditor.first_untold(0, 16) == 0
    books.auditor.discarded(0, 2)
    assert books.auditor.first_untold(0, 16) == 2
    books.book(EVENT_TAKEN, EVENT_ALLOCATED)
    assert books.auditor.first_untold(0, 16) == -1


def test_an_acknowledged_block_is_known_by_its_order():
    books = Books()
    assert books.auditor.told_as(0) == -1
    books.auditor.acknowledged(0, 2)
    assert books.auditor.told_as(0) == 2


def test_who_follows_pages_hears_of_what_is_marked_or_of_all_once_armed():
    heard = []
    books, flags = Books(), UnitFlags("mid", 2, 16)
    follower = PageFollower(lambda cpu, kind, pfn, order: heard.append((kind, pfn)))
    books.auditor.page_calls = [(follower,)] * (max(EVENTS) + 1)
    books.book(EVENT_TAKEN, pfn=0, order=0)
    assert heard == [(EVENT_TAKEN, 0)]  # armed at first
    follower.follow(flags, 0)
    books.book(EVENT_TAKEN, pfn=4, order=0)
    flags.set(4)
    books.book(EVENT_TAKEN, pfn=8, order=0)
    books.book(EVENT_TAKEN, pfn=6, order=1)
    books.book(EVENT_RETURNED, pfn=4, order=0)
    assert len(heard) == 1
    books.book(EVENT_TAKEN, pfn=5, order=0)
    assert heard.pop() == (EVENT_TAKEN, 5)
    follower.armed = True
    books.book(EVENT_RETURNED, pfn=8, order=0)
    assert heard.pop() == (EVENT_RETURNED, 8)


@pytest.mark.parametrize(
    ("pfn", "pages", "overlaps"),
    [(0, 4, False), (0, 5, True), (7, 1, True), (8, 8, False), (15, 2, True), (18, 1, False)],
)
def test_blocks_overlap_a_range_if_they_share_a_page(pfn, pages, overlaps):
    blocks = (Block(4, 2, None), Block(16, 1, None))
    assert overlap(blocks, pfn, pages) is overlaps
    assert not overlap((), pfn, pages)


def test_preemptions_come_at_their_numbers_and_once():
    preemptions = Preemptions([(2, 3, 70), (2, 1, 50)])
    assert [preemptions.at_edit() for _ in range(5)] == [50, 0, 70, 0, 0]
    assert preemptions.taken == 2
    assert preemptions.edits == 5


@pytest.mark.parametrize("wrong", [(4, 1, 1), (-1, 1, 1), (0, 0, 1), (0, 1, -1)])
def test_preemptions_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match="out of range"):
        Preemptions([wrong])


def test_a_run_without_end_is_ended():
    scenario = draw_scenario(7)

    def shorten(run):
        run.preemptions.most_steps = 100

    outcome = run_scenario(Strategy, scenario, attach=shorten)
    assert "no end after 100 steps" in outcome.error
    assert issubclass(EndlessRunError, RuntimeError)


def test_a_delay_changes_the_run_and_the_same_delay_does_not():
    scenario = draw_scenario(7).but(preemptions=(), faults=())
    runs = []
    plain = run_scenario(Strategy, scenario, attach=runs.append).digest
    steps = int(runs[0].preemptions.steps)
    holds = int(runs[0].preemptions.holds)
    assert steps > 1_000 and holds > 50

    def digest(point, number):
        late = scenario.but(preemptions=(Preemption(point, number, 40_000),))
        return run_scenario(Strategy, late).digest

    for point, number in ((STEP, steps // 2), (HOLD, holds // 2)):
        assert digest(point, number) == digest(point, number) != plain


def zone_of_a_run():
    runs = []
    scenario = draw_scenario(3).but(preemptions=(), faults=())
    assert run_scenario(Strategy, scenario, attach=runs.append).counts == {}
    return runs[0].machine.zones[0]


def test_lists_in_order_have_no_fault():
    assert list_fault(zone_of_a_run()) is None


def test_every_broken_list_is_noticed():
    zone = zone_of_a_run()
    order = next(order for order in range(10, -1, -1) if zone.nr_free[order])
    block = zone.free_blocks(order)[0]
    pages = zone.pages

    def broken(change, mend):
        change()
        fault = list_fault(zone)
        mend()
        assert list_fault(zone) is None
        return fault

    before = pages.prev[block.pfn]
    state = pages.state[block.pfn]
    free = zone.free_pages

    def set_prev(value):
        pages.prev[block.pfn] = value

    def set_state(value):
        pages.state[block.pfn] = value

    def set_free(value):
        zone.free_pages = value

    def set_next(value):
        pages.next[block.pfn] = value

    where = f"free list of order {order} of zone {zone.name} (node {zone.node})"
    kind, text = broken(lambda: set_prev(block.pfn), lambda: set_prev(before))
    assert kind == "links"
    assert f"{where}: pfn {block.pfn:#x} does not lead back" in text
    kind, text = broken(lambda: set_state(state - 1), lambda: set_state(state))
    assert kind == "heads"
    assert f"{where}: pfn {block.pfn:#x} is no free block of that order" in text
    kind, text = broken(lambda: set_free(free + 1), lambda: set_free(free))
    assert kind == "count"
    assert text.startswith(f"zone {zone.name} (node {zone.node}) counts {free + 1} free pages")
    after = pages.next[block.pfn]
    other = zone.first_list + MIGRATE_TYPES * 9 + RECLAIMABLE
    kind, text = broken(lambda: set_next(other), lambda: set_next(after))
    assert kind == "links"
    assert f"{where} runs into the RECLAIMABLE free list of order 9 of zone" in text
    behind = zone.first_list + MIGRATE_TYPES * 11
    kind, text = broken(lambda: set_next(behind), lambda: set_next(after))
    assert kind == "links"
    assert text.endswith("runs into a list of another zone or of a CPU")


@pytest.mark.parametrize("odd", [0, 1, 63, 64, 65, 130, 511, 1023])
def test_one_page_among_many_is_found(odd):
    complaints = []
    auditor = Auditor(2048, lambda *complaint: complaints.append(complaint))
    auditor.give(1024, 10)
    assert auditor.owner_of(1024, 1024, OWNER_BUDDY) == -1
    auditor.owner[1024 + odd] = OWNER_CALLER
    assert auditor.owner_of(1024, 1024, OWNER_BUDDY) == 1024 + odd
    assert auditor.owner_of(2000, 100, OWNER_BUDDY) == max(2048 if odd < 976 else 1024 + odd, 2000)
    auditor.untold[1024 + odd] = 1
    assert auditor.first_untold(1024, 1024) == 1024 + odd
    assert auditor.first_untold(1024, odd) == -1
    auditor.stamp[1024 + odd] = 7
    auditor.stamp[1024] = 7
    auditor.discarded(1024, 1024)
    assert [complaint[:2] for complaint in complaints] == [("no-discard-in-use", "discard")]
    assert complaints[0][3] == 1024 + odd
    assert not any(auditor.stamp[1024 : 1024 + odd + 1])


class Silent(Strategy):
    """Does nothing, so that a run of it can be played with."""

    name = "silent"


def test_a_block_on_the_list_of_another_type_is_noticed():
    """__add_to_free_list() of 6.12 warns of it, and so do all that take a block off a list."""
    for kernel, found in (("6.12", "type"), ("5.0", None)):
        run = ExploredRun(Silent(), tiny_scenario(1, (kernel,)), [])
        zone = run.guest.zones[0]
        run.machine.pages.pageblock_type[zone.start_pfn >> 9] = RECLAIMABLE
        fault = list_fault(zone)
        assert (fault[0] if fault else None) == found
        if found:
            assert f"pfn {zone.start_pfn:#x} is of a pageblock of type RECLAIMABLE" in fault[1]


def deferring(rules):
    """A run in which one block that seemed forgotten comes back, and what is told by then."""
    run = ExploredRun(Silent(), tiny_scenario(1, ("6.12",)), [], tolerated=frozenset(rules))
    zone = run.guest.zones[0]
    for rule in rules:
        run.defer((rule, "while it was away", "", zone.start_pfn, 1024), 0, [zone.start_pfn])
    run.put_back(zone, zone.start_pfn, 10)
    return run.outcome.counts


def test_a_block_that_comes_back_breaks_all_that_waited_for_it():
    rules = ("bounded-in-flight", "no-false-oom")
    assert deferring(rules) == dict.fromkeys(rules, 1)
    assert deferring(rules[:1]) == {rules[0]: 1}


def test_what_was_deferred_is_told_of_the_time_when_it_happened():
    rule = "no-false-oom"
    run = ExploredRun(Silent(), tiny_scenario(1, ("6.12",)), [], tolerated=frozenset({rule}))
    pfn, clock = run.guest.zones[0].start_pfn, run.machine.clock
    clock.now = 7_000
    run.defer((rule, "an allocation fails", "", pfn, 1024), 0, [pfn])
    assert not run.outcome.violations
    clock.now = 9_000
    run.put_back(run.guest.zones[0], pfn, 10)
    violation = run.outcome.violations[rule, ""]
    assert violation.time_ns == 7_000
    assert violation.text == "an allocation fails; what it had in hand comes back at 9,000 ns"


def test_a_declared_leak_excuses_nothing_else():
    rules = frozenset({"returned", "no-false-oom"})
    run = ExploredRun(Silent(), tiny_scenario(1, ("6.12",)), [], tolerated=rules)
    pfn = run.guest.zones[0].start_pfn
    run.defer(("no-false-oom", "an allocation fails", "", pfn, 1024), 0, [pfn])
    assert run.outcome.counts == {"no-false-oom": 1}


@pytest.mark.parametrize("pages", [1, 2, 7, 8, 9, 31, 32, 33, 40, 75, 512])
def test_a_page_of_somebody_elses_is_found_wherever_it_lies_in_a_range(pages):
    auditor = Auditor(1024, lambda *_: None)
    first = 3
    for pfn in range(first, first + pages):
        auditor.give(pfn, 0)
    assert auditor.owner_of(first, pages, OWNER_BUDDY) == -1
    assert auditor.owner_of(first, pages + 1, OWNER_BUDDY) == first + pages
    assert auditor.owner_of(first - 1, pages, OWNER_BUDDY) == first - 1
    for pfn in range(first, first + pages):
        auditor.owner[pfn] = OWNER_CALLER
        assert auditor.owner_of(first, pages, OWNER_BUDDY) == pfn
        auditor.give(pfn, 0)


def test_what_is_free_at_the_start_is_untold_and_nothing_else():
    auditor = Auditor(1024, lambda *_: None)
    free = [(0, 3), (16, 0), (512, 9)]
    for pfn, order in free:
        auditor.give(pfn, order)
    auditor.all_untold()
    pages = {pfn + at for pfn, order in free for at in range(1 << order)}
    assert [pfn for pfn in range(1024) if auditor.untold[pfn]] == sorted(pages)


def test_between_two_parts_others_run_only_where_the_schedule_says_so():
    late, done = [], []
    between = Between(
        Preemptions([(EDIT, 2, 500)]), lambda *what: late.append(what), lambda: done.append(1)
    )
    for part in ("read", "write", "count", ""):
        between(part)
    assert late == [("write", 500)]
    assert done == [1]


def test_a_look_without_the_lock_lets_others_in_whatever_it_finds():
    tolerated = frozenset({"locked-lists"})
    run = ExploredRun(Silent(), tiny_scenario(1, ("6.12",)), [], tolerated=tolerated)
    zone = run.guest.zones[0]
    looks = []
    (block, *_) = zone.free_blocks(0)
    zone.torn = Tear(lambda *_: None, lambda: looks.append(1))
    assert zone.free_blocks(0, limit=1)
    assert zone.free_block_of(block.pfn) is not None
    assert len(looks) == 2
    run.machine.pages.state[block.pfn] = IN_USE
    assert zone.free_block_of(block.pfn) is None
    assert zone.free_list(10, RECLAIMABLE) == []
    assert len(looks) == 4
    with zone.lock:
        zone.free_blocks(0)
        zone.free_block_of(block.pfn)
    assert len(looks) == 4
