"""When a free that drains its list happened: with the last page that it drained.

The line of a free says that it began. The host takes vCPUs away, before a drain and in the middle
of it, and until the last page is back the others see a zone that lacks some.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hintbench.core import tracewords
from hintbench.core.tracelists import AT_ONCE_NS

if TYPE_CHECKING:
    import numpy.typing as npt

    from hintbench.traces.events import Trace
    from hintbench.traces.windows import Window

_AHEAD = 4096


def times_of_frees(trace: Trace, end: int, window: Window) -> npt.NDArray[np.int64]:
    """The time of each row of a window, or that of the end of the drain right behind it on its CPU.

    Args:
        trace: The whole trace.
        end: One past the last of its rows that count.
        window: Some of its rows.

    Returns:
        Times on the trace's own clock. A drain is a free's if the same task makes both; one with
        which a worker begins is vmstat's.
    """
    piece = window.trace
    times = piece.time_ns.copy()
    for cpu in np.unique(piece.cpu):
        rows = np.flatnonzero(piece.cpu == cpu) + window.low
        behind = _until_no_drain(trace, int(cpu), window.low + len(piece.cpu), end)
        rows = np.concatenate([rows, behind])
        kind, pid, time_ns = trace.kind[rows], trace.pid[rows], trace.time_ns[rows]
        drains = kind == tracewords.PCPU_DRAIN
        by_worker = trace.flags[rows] & tracewords.BY_KWORKER != 0
        frees = (kind == tracewords.PAGE_FREE) | (kind == tracewords.PAGE_FREE_BATCHED)
        at_once = np.diff(time_ns) < AT_ONCE_NS
        first = np.flatnonzero(
            frees[:-1] & drains[1:] & (pid[:-1] == pid[1:]) & (at_once | ~by_worker[1:])
        )
        # Where the drain does not go on any more.
        ends = np.append(np.flatnonzero(~drains[1:] | (pid[:-1] != pid[1:])), len(rows) - 1)
        last = ends[np.searchsorted(ends, first, side="right")]
        mine = rows[first] < window.low + len(piece.cpu)
        times[rows[first[mine]] - window.low] = time_ns[last[mine]]
    return times


def _until_no_drain(trace: Trace, cpu: int, row: int, end: int) -> npt.NDArray[np.int64]:
    """The rows of a CPU from a row on, as far as they go on draining."""
    found = [np.zeros(0, dtype=np.int64)]
    while row < end:
        high = min(row + _AHEAD, end)
        rows = np.flatnonzero(trace.cpu[row:high] == cpu) + row
        others = np.flatnonzero(trace.kind[rows] != tracewords.PCPU_DRAIN)
        if len(others):
            return np.concatenate([*found, rows[: others[0]]])
        found.append(rows)
        row = high
    return np.concatenate(found)
