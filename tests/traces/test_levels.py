"""pcp->high as a recording shows it: by the drains that frees set off, and by vmstat's decay."""

import numpy as np
import pytest

from hintbench.core.tracehigh import PcpHigh
from hintbench.core.tracelevels import BY_DECAY, DERIVED, IN_BACKGROUND, LevelWalk
from hintbench.core.tracepages import GIVE_BACK, HAND_OUT, RETURN, TAKE
from hintbench.traces.ticks import possible_ticks

BATCH, LEAST, MOST = 4, 16, 100
SECOND = 1_000_000_000


class Recorded:
    """One CPU and one zone of 1,000 pages, 600 of them free, far above the high watermark of 50."""

    def __init__(self, *possible, on_list=0, zone_free=600):
        self.lists = PcpHigh(
            1,
            1,
            np.array([[[BATCH, LEAST, MOST]]], dtype=np.int64),
            np.zeros((1, 1), dtype=np.int64),
            np.array([50], dtype=np.int64),
            np.array([zone_free], dtype=np.int64),
            np.array(possible, dtype=np.int64),
            np.zeros(len(possible), dtype=np.int16),
        )
        self.walk = LevelWalk(np.zeros(1000, dtype=np.int16), self.lists)
        self.on_list = list(range(on_list))
        self.used, self.buddy, self.now = [], list(range(on_list, 1000)), 0
        self.walk.start(
            np.array(self.on_list, dtype=np.int32),
            np.zeros(on_list, dtype=np.int8),
            np.zeros(on_list, dtype=np.int16),
        )

    def step(self, action, page, about=0, order=0):
        self.now += 1
        self.walk.walk(
            np.array([action], dtype=np.uint8),
            np.array([page], dtype=np.int64),
            np.array([order], dtype=np.int8),
            np.zeros(1, dtype=np.int16),
            np.array([self.now], dtype=np.int64),
            np.array([about], dtype=np.uint8),
        )
        return self

    def refill(self, pages):
        for _ in range(pages):
            self.on_list.append(self.buddy.pop())
            self.step(TAKE, self.on_list[-1])
        return self.hand_out(1)

    def hand_out(self, pages):
        for _ in range(pages):
            self.used.append(self.on_list.pop())
            self.step(HAND_OUT, self.used[-1])
        return self

    def give_back(self, pages, about=0):
        for _ in range(pages):
            self.on_list.append(self.used.pop())
            self.step(GIVE_BACK, self.on_list[-1], about)
        return self

    def drain(self, pages, about=0):
        for _ in range(pages):
            self.buddy.append(self.on_list.pop(0))
            self.step(RETURN, self.buddy[-1], about)
        return self

    def until(self, time_ns):
        self.now = time_ns
        return self

    @property
    def high(self):
        return self.lists.level(0, 0)

    @property
    def raised(self):
        return self.lists.raised_by(0, 0)


def test_refills_raise_it_by_what_they_take_and_no_further_than_high_max():
    recorded = Recorded()
    assert recorded.refill(4).high == LEAST + BATCH
    for pages in (8, 16, 32):
        recorded.refill(pages)
    assert recorded.refill(64).high == MOST


def test_no_refill_raises_it_below_the_high_watermark():
    recorded = Recorded(zone_free=50)
    assert recorded.refill(4).high == LEAST
    free = Recorded(zone_free=60)
    assert free.refill(4).high == LEAST + BATCH


def test_a_list_that_grows_without_a_drain_stood_higher_at_the_start():
    recorded = Recorded(on_list=30)
    recorded.used = [990, 991]
    recorded.hand_out(10).give_back(12)
    assert (recorded.high, recorded.raised) == (33, 3)
    more = Recorded(on_list=30)
    more.used = [990, 991, 992]
    more.give_back(3).drain(BATCH)
    assert (more.high, more.raised) == (33, 3)


def test_a_decay_shows_it_where_it_ends():
    recorded = Recorded(on_list=40).drain(5, BY_DECAY)
    assert (recorded.high, recorded.raised) == (35, 0)


def test_a_decay_that_would_have_drained_something_is_refuted():
    full = Recorded(SECOND, on_list=40).until(2 * SECOND).hand_out(1)
    assert full.lists.refuted_times() == [True]
    lean = Recorded(SECOND, on_list=40).hand_out(20).until(2 * SECOND).hand_out(1)
    assert lean.lists.refuted_times() == [False]
    assert lean.high == 35


def test_decays_after_which_the_list_could_not_have_grown_so_far_are_refuted():
    recorded = Recorded(SECOND, 2 * SECOND, on_list=80).hand_out(60)
    recorded.until(3 * SECOND).give_back(50).drain(BATCH)
    # 80, 70, 62: it is full at 70.
    assert recorded.high == 70
    assert recorded.lists.refuted_times() == [False, True]
    assert recorded.raised == 0


def test_a_list_that_was_full_before_a_decay_refutes_those_before_it():
    recorded = Recorded(SECOND, 2 * SECOND, on_list=80).hand_out(20).give_back(5)
    recorded.until(3 * SECOND).give_back(14).drain(9, BY_DECAY).hand_out(1)
    # 80 to 70 in this decay, so in none before.
    assert recorded.high == 70
    assert recorded.lists.refuted_times() == [True, True]


def test_what_a_drain_has_shown_is_not_undone():
    recorded = Recorded(SECOND, on_list=80).hand_out(60).until(2 * SECOND)
    recorded.give_back(50).drain(BATCH).hand_out(1)
    recorded.give_back(10, IN_BACKGROUND).drain(BATCH).hand_out(1)
    assert recorded.lists.refuted_times() == [False]


def test_a_page_beyond_the_guests_is_refused():
    with pytest.raises(IndexError, match="beyond the guest's"):
        Recorded().step(TAKE, 1000)


def test_vmstat_may_run_every_second_where_most_of_its_runs_were_seen():
    ms = 1_000_000
    seen = (
        np.array([2400, 3404, 4850], dtype=np.int64) * ms,
        np.array([7410], dtype=np.int64) * ms,
    )
    first, second = possible_ticks(seen, 100 * ms, 6_000 * ms)
    assert (first / ms).tolist() == [400, 1400, 5400]
    assert (second / ms).tolist() == [400, 1400, 2400, 3400, 4400, 5400]
    nothing = (np.zeros(0, dtype=np.int64),)
    assert [times.tolist() for times in possible_ticks(nothing, 0, 9 * SECOND)] == [[]]


def test_a_list_that_a_free_drains_is_no_shorter_than_high_min():
    """Where fewer pages are known, the others are those that no event ever names."""
    recorded = Recorded(on_list=LEAST - 5)
    recorded.hand_out(3).give_back(3)
    recorded.drain(BATCH).hand_out(1)
    assert recorded.lists.hidden_pages(0, 0) == 5
    assert recorded.lists.level(0, 0) == LEAST
    assert (
        Recorded(on_list=LEAST)
        .hand_out(3)
        .give_back(3)
        .drain(BATCH)
        .hand_out(1)
        .lists.hidden_pages(0, 0)
        == 0
    )


def test_a_free_past_the_list_is_no_drain_of_it():
    """free_one_page() after a trylock that failed: nothing is known of what else is on the list."""
    recorded = Recorded(on_list=5).hand_out(3)
    recorded.on_list.insert(0, recorded.used.pop())
    recorded.step(GIVE_BACK, recorded.on_list[0]).drain(1, DERIVED).hand_out(1)
    assert recorded.lists.hidden_pages(0, 0) == 0
    seen = Recorded(on_list=5).hand_out(3).give_back(1).drain(1).hand_out(1)
    assert seen.lists.hidden_pages(0, 0) == LEAST - 3
