"""What a recorded kcompactd did and when, for the model's own to do as much.

The events show it from outside: it frees the source of every page that it moves, and drains
per-CPU lists. Which pages it would have moved in the model depends on the model's free lists.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from hintbench.compaction import COMPACT_CLUSTER_MAX, CompactionStep
from hintbench.core.tracelists import OthersWalk
from hintbench.traces.destinations import COMPACTION_GAP_NS

if TYPE_CHECKING:
    import numpy.typing as npt

    from hintbench.traces.history import PageHistory


def compaction_of(
    found: PageHistory, moves: npt.NDArray[np.int64], begin_ns: int
) -> tuple[CompactionStep, ...]:
    """Gather the steps of kcompactd.

    Args:
        found: The trace, understood.
        moves: The rows at which it freed the source of a page that it moved, rising.
        begin_ns: The trace's own time that becomes the virtual time 0.

    Returns:
        Clusters of pages to move, each at the time of its first.
    """
    trace = found.trace
    if not len(moves):
        return ()
    bounds = np.flatnonzero(
        np.concatenate(([True], np.diff(trace.time_ns[moves]) > COMPACTION_GAP_NS, [True]))
    )
    drained = _drained_of_others(found)
    steps = []
    for low, high in pairwise(bounds.tolist()):
        run = moves[low:high]
        next_row = moves[high] if high < len(moves) else len(trace)
        drains_all = bool(((drained > run[0]) & (drained < next_row)).any())
        for at in range(0, len(run), COMPACT_CLUSTER_MAX):
            cluster = run[at : at + COMPACT_CLUSTER_MAX]
            last = at + COMPACT_CLUSTER_MAX >= len(run)
            steps.append(
                CompactionStep(
                    int(trace.time_ns[cluster[0]]) - begin_ns,
                    int(trace.cpu[cluster[0]]),
                    int(trace.pfn[cluster[0]]),
                    len(cluster),
                    last,
                    last and drains_all,
                )
            )
    return tuple(steps)


def _drained_of_others(found: PageHistory) -> npt.NDArray[np.int64]:
    """Rows at which kcompactd drains a page that another CPU had put on its list.

    It drains its own CPU's lists behind every pageblock, and everybody's after a run that went
    through the whole zone.
    """
    walk = OthersWalk(len(found.first))
    for window in found.windows():
        walk.walk(window.low, window.action, window.settles, window.trace)
    return np.array(walk.drained(), dtype=np.int64)
