"""What a recorded kcompactd did and when, for the model's own to do as much.

The events show it from outside: it frees the source of every page that it moves, and drains
per-CPU lists. Which pages it would have moved in the model depends on the model's free lists.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from hintbench.core.constants import PAGEBLOCK_ORDER
from hintbench.core.tracelists import CompactionDrainWalk
from hintbench.kernel.compaction import CompactionRun
from hintbench.traces.destinations import COMPACTION_GAP_NS

if TYPE_CHECKING:
    import numpy.typing as npt

    from hintbench.traces.history import PageHistory


def compaction_of(
    found: PageHistory, moves: npt.NDArray[np.int64], begin_ns: int
) -> tuple[CompactionRun, ...]:
    """Gather the runs of kcompactd.

    Args:
        found: The trace, understood.
        moves: The rows at which it freed the source of a page that it moved, rising.
        begin_ns: The trace's own time that becomes the virtual time 0.

    Returns:
        What it did in each.
    """
    trace = found.trace
    if not len(moves):
        return ()
    bounds = np.flatnonzero(
        np.concatenate(([True], np.diff(trace.time_ns[moves]) > COMPACTION_GAP_NS, [True]))
    )
    of_others, flushed = _drains_of_compaction(found)
    runs = []
    for low, high in pairwise(bounds.tolist()):
        run = moves[low:high]
        next_row = moves[high] if high < len(moves) else len(trace)
        drains_all = _any_between(of_others, run[0], next_row)
        # Only a run for some order flushes its CPU's list behind the pageblocks that it has left.
        left_some = len(np.unique(trace.pfn[run] >> PAGEBLOCK_ORDER)) > 1
        proactive = left_some and not _any_between(flushed, run[0], next_row)
        runs.append(
            CompactionRun(
                (trace.time_ns[run] - begin_ns).tolist(),
                trace.cpu[run].tolist(),
                int(trace.pfn[run[0]]),
                drains_all,
                proactive,
            )
        )
    return tuple(runs)


def _any_between(rows: npt.NDArray[np.int64], low: int, high: int) -> bool:
    return bool(((rows > low) & (rows < high)).any())


def _drains_of_compaction(
    found: PageHistory,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Rows at which kcompactd drains a page of another CPU's list, and where it empties its own.

    It drains its own CPU's lists behind every pageblock, and everybody's after a run that went
    through the whole zone; neither when it compacts proactively, for no order.
    """
    walk = CompactionDrainWalk(len(found.first), found.trace.cpus, COMPACTION_GAP_NS)
    for window in found.windows():
        walk.walk(window.low, window.action, window.settles, window.trace)
    return (
        np.array(walk.drained_of_others(), dtype=np.int64),
        np.array(walk.flushed(), dtype=np.int64),
    )
