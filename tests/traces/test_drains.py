"""When a free that drains its list counts: with the last page of its drain."""

from types import SimpleNamespace

import pytest

from hintbench.traces.drains import times_of_frees
from hintbench.traces.windows import piece_of
from recording import Recording

PAGE, OTHER = 0x4000, 0x5000


def moved(recording, tmp_path, rows=None):
    """By row, how much later than its line it counts [us]; in windows of so many rows."""
    trace = recording.read(tmp_path)
    found = []
    for low in range(0, len(trace), rows or len(trace)):
        piece = piece_of(trace, low, min(low + (rows or len(trace)), len(trace)))
        times = times_of_frees(trace, len(trace), SimpleNamespace(low=low, trace=piece))
        found += ((times - piece.time_ns) // 1_000).tolist()
    return found


@pytest.mark.parametrize("rows", [None, 1, 2, 3])
def test_a_free_counts_when_its_drain_has_ended(tmp_path, rows):
    recording = Recording().free(PAGE).batched(PAGE)
    recording.drain(PAGE, wait=4_000).alloc(OTHER, cpu=1).drain(PAGE + 1).free(OTHER)
    assert moved(recording, tmp_path, rows) == [0, 4_002, 0, 0, 0, 0]


def test_only_the_last_free_before_a_drain_has_set_it_off(tmp_path):
    recording = Recording().free(PAGE).free(PAGE + 1).drain(PAGE, wait=10)
    assert moved(recording, tmp_path) == [0, 10, 0]


def test_a_drain_by_another_task_is_not_the_frees_own(tmp_path):
    recording = Recording().free(PAGE).drain(PAGE, task="kworker/0:1-50")
    assert moved(recording, tmp_path) == [0, 0]


def test_a_workers_drain_much_later_is_vmstats(tmp_path):
    worker = {"task": "kworker/0:1-50"}
    at_once = Recording().free(PAGE, **worker).drain(PAGE, wait=5, **worker)
    assert moved(at_once, tmp_path) == [5, 0]
    later = Recording().free(PAGE, **worker).drain(PAGE, wait=900_000, **worker)
    assert moved(later, tmp_path) == [0, 0]
