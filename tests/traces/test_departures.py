"""What per-CPU lists show of pages that left them in silence, and of the refills before."""

import numpy as np
import pytest

from hintbench.core.tracerefills import AllocFactorWalk
from hintbench.traces.departures import with_departures
from hintbench.traces.history import page_history
from hintbench.traces.load import in_order_of_leaving
from hintbench.traces.program import modelled_program
from hintbench.traces.state import FreeBlocks
from hintbench.traces.steps import Steps
from hintbench.traces.ticks import seen_ticks
from recording import KERNEL_PAGE, Recording, flags, tape

KERNEL = {"kind": 0, "gfp": KERNEL_PAGE}
STACK = (17, 18, 19, 20)


def silent(recording, tmp_path, **options):
    """The silent hand-outs: the page, and the line before which each stands."""
    found = with_departures(page_history(recording.read(tmp_path), **options))
    assert all(step.reason == "bulk" and not step.after for step in found.derived)
    return [(step.pfn, step.row) for step in found.derived]


@pytest.fixture
def forked():
    """CPU 1 refills its list, and takes four pages of it in silence before page 21."""
    recording = Recording()
    for pfn in (16, *STACK, 21, 22):
        recording.lock(pfn, kind=0, cpu=1)
    return recording.alloc(16, cpu=1, **KERNEL).alloc(21, cpu=1, **KERNEL)


class TestDepartures:
    def test_they_left_before_the_page_behind_them(self, forked, tmp_path):
        for pfn in reversed(STACK):
            forked.free(pfn, cpu=0, task="kworker/0:1-9")
        assert silent(forked, tmp_path) == [(pfn, 8) for pfn in STACK]

    def test_they_are_allocated_where_their_list_is(self, forked, tmp_path):
        for pfn in reversed(STACK):
            forked.free(pfn, cpu=0, task="kworker/0:1-9")
        program = modelled_program(forked.read(tmp_path), vcpus=2)
        assert [name for name, *_ in tape(program, 1)] == ["ALLOCATE"] * 6
        assert [name for name, *_ in tape(program, 0)] == ["FREE"] * 4

    def test_also_when_nobody_ever_frees_them(self, forked, tmp_path):
        assert silent(forked, tmp_path) == [(pfn, 8) for pfn in STACK]

    def test_not_when_they_turn_out_to_be_there_still(self, forked, tmp_path):
        for pfn in STACK:
            forked.alloc(pfn, cpu=1, **KERNEL)
        assert silent(forked, tmp_path) == []

    def test_nor_when_they_are_drained(self, forked, tmp_path):
        for pfn in STACK:
            forked.drain(pfn, kind=0, cpu=1)
        assert silent(forked, tmp_path) == []

    def test_a_pageblock_is_of_the_type_that_a_drain_shows(self, tmp_path):
        """Isolated to be reported, it has become movable: page 17 goes to another list."""
        recording = Recording().lock(17, kind=0).alloc(17, **KERNEL).drain(40, kind=1)
        recording.lock(600, kind=0).lock(601, kind=0).alloc(600, **KERNEL)
        recording.free(17).alloc(601, **KERNEL)
        assert silent(recording, tmp_path) == []

    def test_another_cpu_says_nothing_of_this_list(self, tmp_path):
        recording = Recording()
        for pfn in (16, *STACK, 21):
            recording.lock(pfn, kind=0, cpu=1)
        recording.alloc(21, cpu=0, **KERNEL)
        assert silent(recording, tmp_path) == []

    def test_nor_does_the_list_of_another_type(self, tmp_path):
        recording = Recording()
        for pfn in STACK:
            recording.lock(pfn, kind=0, cpu=1)
        recording.lock(600, cpu=1).lock(601, cpu=1).alloc(600, cpu=1)
        assert silent(recording, tmp_path) == []

    def test_a_page_that_came_past_the_list_says_nothing(self, tmp_path):
        recording = Recording()
        for pfn in (16, *STACK):
            recording.lock(pfn, kind=0, cpu=1)
        recording.alloc(16, cpu=1, **KERNEL)
        recording.lock(40, kind=0, cpu=1).alloc(40, cpu=1, **KERNEL)
        assert silent(recording, tmp_path) == []

    def test_why_movable_pages_left_is_not_known(self, tmp_path):
        recording = Recording()
        for pfn in (16, *STACK, 21, 22):
            recording.lock(pfn, cpu=1)
        recording.alloc(16, cpu=1).alloc(21, cpu=1)
        assert silent(recording, tmp_path) == []

    def test_a_page_that_was_put_before_them_came_later(self, tmp_path):
        """Nothing behind them was handed out; but page 30 cannot have been there when they left."""
        recording = Recording().lock(30, kind=0).alloc(30, **KERNEL)
        for pfn in (16, *STACK):
            recording.lock(pfn, kind=0)
        recording.alloc(16, **KERNEL).free(30)
        for pfn in reversed(STACK):
            recording.free(pfn, task="cat-7")
        assert silent(recording, tmp_path) == [(pfn, 8) for pfn in STACK]

    def test_lots_of_a_splice_leave_one_after_the_other(self, tmp_path):
        recording = Recording()
        for pfn in (16, 17):
            recording.lock(pfn, kind=0)
        for pfn in (16, 17, 17, 16):
            recording.free(pfn, task="cat-7")
        # In the order of the stack, each lot before its first free.
        assert silent(recording, tmp_path) == [(16, 2), (17, 2), (17, 4), (16, 4)]

    def test_what_left_before_the_dump_was_in_use_then(self, forked, tmp_path):
        forked.mark("kpageflags-dumped /tmp/kpf0")
        for pfn in STACK:
            forked.free(pfn, cpu=0)
        trace, free = forked.read(tmp_path), flags(64, (23, 40))
        assert silent(forked, tmp_path, free=free, begin=10) == []
        initial = modelled_program(trace, vcpus=2, free=free).initial
        assert set(STACK) <= set(initial.in_use_pfn.tolist())
        assert set(initial.pcp.pfn.tolist()) == {22}

    def test_what_left_later_was_on_its_list_at_the_dump(self, tmp_path):
        recording = Recording()
        for pfn in (16, *STACK, 21, 22):
            recording.lock(pfn, kind=0, cpu=1)
        recording.mark("kpageflags-dumped /tmp/kpf0")
        recording.alloc(16, cpu=1, **KERNEL).alloc(21, cpu=1, **KERNEL)
        for pfn in STACK:
            recording.free(pfn, cpu=0)
        free = flags(64, (23, 40))
        pcp = modelled_program(recording.read(tmp_path), vcpus=2, free=free).initial.pcp
        assert pcp.pfn.tolist() == [16, *STACK, 21, 22]
        assert set(pcp.cpu.tolist()) == {1}


def test_a_refill_ends_when_its_last_page_is_taken(tmp_path):
    """The line of the allocation may come much later, if the host took the vCPU away."""
    recording = Recording().lock(16).lock(17).alloc(16, wait=5_000).alloc(17)
    entries = tape(modelled_program(recording.read(tmp_path), vcpus=1))
    assert [time for *_, time in entries] == [1_000, 5_002_000]


def test_what_a_kworker_drains_for_its_own_free_is_no_tick(tmp_path):
    kworker = {"task": "kworker/0:1-9"}
    recording = Recording().alloc(16).alloc(17)
    recording.free(16, **kworker).drain(40, **kworker)
    recording.drain(41, wait=900_000, **kworker)
    trace = recording.read(tmp_path)
    assert seen_ticks(trace, 0, len(trace))[0].tolist() == [trace.time_ns[4]]


def test_a_probe_that_the_kworker_hit_before_is_no_free(tmp_path):
    kworker = {"task": "kworker/0:1-9"}
    recording = Recording().alloc(16).mark("pass over", **kworker).drain(40, **kworker)
    trace = recording.read(tmp_path)
    assert seen_ticks(trace, 0, len(trace))[0].tolist() == [trace.time_ns[2]]


def test_free_blocks_stand_as_they_were_taken():
    first_row = np.full(4096, -1, dtype=np.int32)
    first_row[[1030, 2100, 9]] = 7, 3, 5
    blocks = FreeBlocks(
        np.array([8, 512, 1024, 2048], dtype=np.int32), np.array([3, 9, 9, 9], dtype=np.int8)
    )
    stood = in_order_of_leaving(blocks, first_row)
    assert stood.pfn.tolist() == [2048, 8, 1024, 512]
    assert stood.order.tolist() == [9, 3, 9, 9]


class TestAllocFactor:
    """pcp->alloc_factor before the first refill; batch is 4."""

    def factor(self, *steps):
        """What (action, pages) steps of CPU 0 show; actions are "take", "free" and "use"."""
        actions = [code for code, count in steps for _ in range(count)]
        walk = AllocFactorWalk(np.zeros(100, dtype=np.int16), np.array([[4], [4]], dtype=np.int64))
        codes = {"take": 1, "use": 2, "free": 3}
        count = len(actions)
        walk.walk(
            Steps(
                np.arange(count),
                np.array([codes[action] for action in actions], dtype=np.uint8),
                np.arange(count),
                np.zeros(count, dtype=np.int8),
                np.zeros(count, dtype=np.bool_),
            ),
            np.zeros(count, dtype=np.int16),
        )
        assert not walk.is_done()  # of CPU 1 nothing is known
        return walk.factors().tolist()

    @pytest.mark.parametrize(("pages", "factor"), [(4, 0), (8, 1), (128, 5), (3, 0), (15, 2)])
    def test_a_refill_shows_it(self, pages, factor):
        assert self.factor(("take", pages), ("use", 1)) == [[factor], [0]]

    def test_each_free_before_has_halved_it(self):
        assert self.factor(("free", 1), ("take", 8), ("use", 1)) == [[2], [0]]
        assert self.factor(("free", 2), ("take", 8), ("use", 1)) == [[4], [0]]
        assert self.factor(("free", 9), ("take", 4), ("use", 1)) == [[0], [0]]

    def test_later_refills_say_nothing(self):
        assert self.factor(("take", 4), ("use", 1), ("take", 8), ("use", 1)) == [[0], [0]]

    def test_a_refill_that_goes_on_is_not_over(self):
        assert self.factor(("take", 16)) == [[0], [0]]
