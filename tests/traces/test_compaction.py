"""What a recording shows of kcompactd, and of others who drained the lists of all CPUs."""

import numpy as np
import pytest

from hintbench.traces.compaction import DRAIN_PAUSE_NS, compaction_of
from hintbench.traces.program import modelled_program
from recording import Recording

KCOMPACTD = {"task": "kcompactd0-51", "cpu": 1}
ZONE_OF = (np.arange(2048) >= 1024).astype(np.int16)
PAUSE_US = DRAIN_PAUSE_NS // 1_000
GAP_US = 200_000


def understood(recording, tmp_path):
    """The runs, as pages and whether all lists were drained; and the drains of others [us]."""
    start = modelled_program(recording.read(tmp_path), vcpus=2).initial
    runs, drains = compaction_of(start.history, start.moves, start.begin_ns, ZONE_OF)
    return (
        [(run.pfn, len(run.freed_ns), run.drain_all) for run in runs],
        [(drain.begin_ns // 1_000, drain.cpu) for drain in drains],
    )


def listed(*pages):
    """CPU 0 has put pages on its list, and CPU 1 one."""
    recording = Recording()
    for page in (*pages, 700):
        recording.alloc(page, cpu=int(page == 700))
    for page in (*pages, 700):
        recording.free(page, cpu=int(page == 700)).batched(page, cpu=int(page == 700))
    return recording


def test_a_drain_of_another_cpus_list_is_one_of_all(tmp_path):
    recording = listed(600, 601, 602)
    first = recording.now
    for page in (600, 601, 700):
        recording.drain(page, cpu=1)
    assert understood(recording, tmp_path) == ([], [(first + 1 - 1_000_001, 1)])


def test_ones_own_list_is_drained_all_the_time(tmp_path):
    recording = listed(600, 601).drain(600, cpu=0).drain(700, cpu=1)
    assert understood(recording, tmp_path) == ([], [])


@pytest.mark.parametrize(
    ("task", "wait", "drains"),
    [
        ("work-200", PAUSE_US, 1),
        ("work-200", PAUSE_US + 1, 2),
        ("work-201", 1, 2),
    ],
)
def test_two_drains_are_by_two_threads_or_far_apart(tmp_path, task, wait, drains):
    recording = listed(600, 601).drain(600, cpu=1).drain(601, cpu=1, task=task, wait=wait)
    assert len(understood(recording, tmp_path)[1]) == drains


def moving(recording, *pages):
    """kcompactd frees the sources of pages."""
    for page in pages:
        recording.free(page, **KCOMPACTD)
    return recording


def with_users(*pages):
    recording = listed(600)
    for page in pages:
        recording.alloc(page)
    return recording


def test_kcompactd_goes_from_zone_to_zone(tmp_path):
    recording = moving(with_users(512, 513, 1024), 513, 512, 1024)
    assert understood(recording, tmp_path)[0] == [(513, 2, False), (1024, 1, False)]


def test_the_zone_behind_which_it_drained_is_the_one_that_it_went_through(tmp_path):
    recording = moving(with_users(512, 1024), 512).drain(600, **KCOMPACTD)
    moving(recording, 1024)
    assert understood(recording, tmp_path) == ([(512, 1, True), (1024, 1, False)], [])


def test_each_cpus_list_was_empty_with_its_last_page(tmp_path):
    recording = moving(with_users(512), 512)
    for page, cpu in ((601, 0), (602, 0), (900, 2)):
        recording.alloc(page, cpu=cpu).free(page, cpu=cpu).batched(page, cpu=cpu)
    began = recording.now
    for page, wait in ((600, 1), (601, 10), (900, 500), (602, 1_000)):
        recording.drain(page, wait=wait, **KCOMPACTD)
    start = modelled_program(recording.read(tmp_path), vcpus=3).initial
    (run,), _ = compaction_of(start.history, start.moves, start.begin_ns, ZONE_OF)
    last_us = {0: 1_511, 2: 511}
    expected = {cpu: (began + us) * 1_000 - start.begin_ns for cpu, us in last_us.items()}
    assert run.emptied_ns == expected
    assert run.drain_all


def test_a_drain_by_kcompactd_long_behind_a_run_is_of_one_that_moved_nothing(tmp_path):
    recording = moving(with_users(512), 512).drain(600, wait=GAP_US, **KCOMPACTD)
    runs, drains = understood(recording, tmp_path)
    assert runs == [(512, 1, False)]
    assert [cpu for _, cpu in drains] == [1]


def test_what_it_drained_before_its_first_run_as_well(tmp_path):
    recording = with_users(512).drain(600, **KCOMPACTD)
    moving(recording.mark("later", wait=GAP_US), 512)
    runs, drains = understood(recording, tmp_path)
    assert (runs, [cpu for _, cpu in drains]) == ([(512, 1, False)], [1])
