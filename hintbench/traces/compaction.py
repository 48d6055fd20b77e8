"""What a recorded kcompactd did and when, for the model's own to do as much; who else drained.

The events show it from outside: it frees the source of every page that it moves, and drains
per-CPU lists. Which pages it would have moved in the model depends on the model's free lists.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Final

import numpy as np

from hintbench.core.constants import PAGEBLOCK_ORDER
from hintbench.core.tracelists import CompactionDrainWalk
from hintbench.kernel.compaction import CompactionRun
from hintbench.kernel.kswapd import DrainOfAll
from hintbench.traces.destinations import COMPACTION_GAP_NS

if TYPE_CHECKING:
    import numpy.typing as npt

    from hintbench.traces.events import Trace
    from hintbench.traces.history import PageHistory

DRAIN_PAUSE_NS: Final = 10_000_000
"""Between two drains by one thread at least; within one only the host makes a pause."""


def compaction_of(
    found: PageHistory,
    moves: npt.NDArray[np.int64],
    begin_ns: int,
    zone_of: npt.NDArray[np.int16],
) -> tuple[list[CompactionRun], list[DrainOfAll]]:
    """Gather the runs of kcompactd, and who else drained the per-CPU lists of all CPUs.

    Args:
        found: The trace, understood.
        moves: The rows at which it freed the source of a page that it moved, rising.
        begin_ns: The trace's own time that becomes the virtual time 0.
        zone_of: The index of each page's zone: one run goes through them one by one
            (kcompactd_do_work()), and here each is a run of its own.

    Returns:
        What it did in each run, and the drains of others.
    """
    trace = found.trace
    if trace.cpus == 1 and not len(moves):
        return [], []
    walk = CompactionDrainWalk(len(found.first), trace.cpus, COMPACTION_GAP_NS)
    for window in found.windows():
        walk.walk(window.low, window.action, window.settles, window.trace)
    of_others = np.array(walk.drained_of_others(), dtype=np.int64)
    owners = np.array(walk.owners_of_drained(), dtype=np.int64)
    flushed = np.array(walk.flushed(), dtype=np.int64)
    runs: list[CompactionRun] = []
    for run, next_row in _split(moves, np.diff(trace.time_ns[moves]) > COMPACTION_GAP_NS, trace):
        # Only a run for some order flushes its CPU's list behind the pageblocks that it has left.
        left_some = len(np.unique(trace.pfn[run] >> PAGEBLOCK_ORDER)) > 1
        proactive = left_some and not _any_between(flushed, run[0], next_row)
        for part, behind in _split(run, np.diff(zone_of[trace.pfn[run]]) != 0, trace, next_row):
            own = (of_others > part[0]) & (of_others < behind)
            own &= trace.time_ns[of_others] <= trace.time_ns[part[-1]] + COMPACTION_GAP_NS
            emptied_ns = _last_by_owner(owners[own], trace.time_ns[of_others[own]] - begin_ns)
            of_others, owners = of_others[~own], owners[~own]
            runs.append(
                CompactionRun(
                    (trace.time_ns[part] - begin_ns).tolist(),
                    trace.cpu[part].tolist(),
                    int(trace.pfn[part[0]]),
                    bool(own.any()),
                    proactive,
                    emptied_ns,
                )
            )
    # What is left of kcompactd's drains followed runs that moved nothing.
    rows = sorted([*of_others.tolist(), *walk.drained_by_tasks()])
    return runs, _drains_of_all(trace, rows, begin_ns)


def _split(
    rows: npt.NDArray[np.int64],
    cuts: npt.NDArray[np.bool_],
    trace: Trace,
    end: int | None = None,
) -> Iterator[tuple[npt.NDArray[np.int64], int]]:
    """Cut rows into pieces; each with the first row of the next piece, or the end."""
    if len(rows):
        bounds = np.flatnonzero(np.concatenate(([True], cuts, [True]))).tolist()
        for low, high in pairwise(bounds):
            last = len(trace) if end is None else end
            yield rows[low:high], int(rows[high]) if high < len(rows) else last


def _last_by_owner(
    owners: npt.NDArray[np.int64], times_ns: npt.NDArray[np.int64]
) -> dict[int, int]:
    """When the last page of each CPU's list was drained; times rise."""
    return dict(zip(owners.tolist(), times_ns.tolist(), strict=True))


def _any_between(rows: npt.NDArray[np.int64], low: int, high: int) -> bool:
    return bool(((rows > low) & (rows < high)).any())


def _drains_of_all(trace: Trace, rows: Sequence[int], begin_ns: int) -> list[DrainOfAll]:
    """What one thread drains of other CPUs' lists without a pause is one drain_all_pages()."""
    drains: list[DrainOfAll] = []
    pid, last_ns = -1, 0
    for row in rows:
        at_ns = int(trace.time_ns[row])
        if trace.pid[row] != pid or at_ns > last_ns + DRAIN_PAUSE_NS:
            drains.append(DrainOfAll(max(at_ns - begin_ns, 0), int(trace.cpu[row])))
        pid, last_ns = int(trace.pid[row]), at_ns
    return drains
