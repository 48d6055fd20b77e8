"""A replay is made window by window, and is the same with windows of any size."""

import numpy as np
import pytest

import hintbench
from hintbench import Workload
from hintbench.operations import concatenate
from hintbench.traces import SAMPLE, SAMPLE_PAGES, read_trace
from hintbench.traces.compaction import compaction_of
from hintbench.traces.compare import counted, refill_sizes
from hintbench.traces.history import page_history
from hintbench.traces.program import exact_program, modelled_program, replayed_rows
from hintbench.traces.state import read_page_flags
from recording import Recording, flags, hidden_pages

WHOLE = 1 << 40


class Given(Workload):
    """A program that was made beforehand."""

    name = "given"

    def __init__(self, program):
        super().__init__()
        self.made = program

    def program(self, setting):
        return self.made


def described(program):
    """All that the guest gets of a program, and what the program is held against."""
    start = program.initial
    zone_of = np.zeros(start.page_count, dtype=np.int16)
    high_min = np.full((len(program.tapes), 1), 100, dtype=np.int64)
    tapes = [concatenate(blocks) for blocks in program.tapes]
    return (
        program.slots,
        program.operations,
        [(tape.code.tolist(), tape.value.tolist(), tape.time_ns.tolist()) for tape in tapes],
        [column.tolist() for column in (start.in_use_pfn, start.in_use_order, start.in_use_slot)],
        [getattr(start.pcp, name).tolist() for name in ("cpu", "pfn", "order", "migratetype")],
        start.pageblock_type.tolist(),
        start.vmstat_ticks_ns,
        start.possible_ticks_ns,
        start.timer_phase_ns,
        [] if start.exact else compaction_of(start.history, start.moves, start.begin_ns, zone_of),
        start.history.derived,
        hidden_pages(start, zone_of, high_min).tolist(),
        [counted(start.history, action, with_derived=True) for action in (1, 2, 3, 4)],
        refill_sizes(start.history),
    )


@pytest.fixture(scope="module")
def sample():
    return read_trace(SAMPLE), read_page_flags(SAMPLE_PAGES)


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("rows", [1_000, 4_099])
def test_the_sample_trace(sample, rows, known):
    trace, free = sample
    given = {"vcpus": trace.cpus, "free": free if known else None}
    whole = modelled_program(trace, window_rows=WHOLE, **given)
    assert described(
        modelled_program(trace, window_rows=rows, kept_operations=0, **given)
    ) == described(whole)


@pytest.mark.parametrize("rows", [1_000, 4_099])
def test_an_exact_replay_of_the_sample_trace(sample, rows):
    trace, free = sample
    whole = exact_program(trace, free, vcpus=trace.cpus, window_rows=WHOLE)
    cut = exact_program(trace, free, vcpus=trace.cpus, window_rows=rows, kept_operations=0)
    expected = described(whole)
    assert described(cut) == expected
    times = [time_ns for _, _, times in expected[2] for time_ns in times[:-1]]
    assert len(set(times)) == len(times) == whole.operations


@pytest.mark.parametrize("rows", [1, 2, 3, 5])
def test_moves_and_deferred_frees_cross_windows(tmp_path, rows):
    recording = Recording().lock(16).alloc(16).compaction()
    recording.free(16).free(1030, 1, cpu=1).batched(1030, cpu=1).drain(1030, 1).batched(16)
    recording.alloc(600).alloc(600).extfrag(700, 0).drain(1026, task="kcompactd0-51", cpu=1)
    trace = recording.read(tmp_path)
    for free in (None, flags(2048, (1025, 1027), (1034, 1100))):
        whole = modelled_program(trace, vcpus=3, free=free, window_rows=WHOLE)
        cut = modelled_program(trace, vcpus=3, free=free, window_rows=rows, kept_operations=0)
        assert described(cut) == described(whole)
    whole = exact_program(trace, free, vcpus=3, window_rows=WHOLE)
    cut = exact_program(trace, free, vcpus=3, window_rows=rows, kept_operations=0)
    assert described(cut) == described(whole)


def test_a_burst_may_lie_in_two_windows(sample):
    """Takes and returns under one hold of the lock, whose tape is cut in the middle."""
    trace, free = sample
    digests = set()
    for rows in (WHOLE, 97):
        program = exact_program(trace, free, vcpus=trace.cpus, window_rows=rows, kept_operations=0)
        result = hintbench.run(workload=Given(program), guest="sample-trace")
        assert result.metrics["operations"] == program.operations
        digests.add(result.digest)
    assert len(digests) == 1


@pytest.mark.parametrize("rows", [1_000, WHOLE])
def test_what_each_event_does(sample, rows):
    trace, free = sample
    begin, end = replayed_rows(trace)
    known = {"begin": begin, "end": end}
    one = page_history(trace, free, window_rows=rows, **known)
    other = page_history(trace, free, window_rows=777, **known)
    for name in ("first", "last_row", "first_row", "first_action", "paired", "claims"):
        assert np.array_equal(getattr(one, name), getattr(other, name)), name
    for name in ("action", "order", "settles"):
        whole, pieces = (
            np.concatenate([getattr(window, name) for window in found.windows()])
            for found in (one, other)
        )
        assert np.array_equal(whole, pieces), name
    claimed = [window.low + row for window in other.windows() for row in window.claims.tolist()]
    assert claimed == one.claims.tolist()
    assert one.derived == other.derived


def test_a_cpu_that_rests_makes_nobody_wait_in_memory(tmp_path):
    """Only what the guest has come to is made, though CPU 1 asks for its next operation at once."""
    recording = Recording()
    for pfn in range(16, 116):
        recording.alloc(pfn)
    recording.alloc(200, cpu=1)
    program = modelled_program(recording.read(tmp_path), vcpus=2, window_rows=10)
    resting = next(program.tapes[1])
    assert resting.time_ns.tolist() == [100_000]
    busy = program.tapes[0]
    source = busy.gi_frame.f_locals["self"]
    next(busy)
    assert source._made == 0
    next(busy)
    assert source._made == 1
