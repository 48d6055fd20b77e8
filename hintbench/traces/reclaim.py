"""When kswapd ended a run in a recorded kernel, as far as its trace shows it.

While kswapd runs, the low watermark is boosted, and pages come from the next lower zone although
the lists of the highest one hold some: get_page_from_freelist() looks at the watermark before it
looks at the lists. The first page that comes from the highest zone again shows that the boost, and
with it the run, has ended.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from hintbench.core import tracewords
from hintbench.core.tracesilence import ZONE_ENDS
from hintbench.traces.windows import WINDOW_ROWS, piece_of

if TYPE_CHECKING:
    import numpy.typing as npt

    from hintbench.traces.events import Trace

_ANY_ZONE: Final = np.uint32(tracewords.GFP_MOVABLE | tracewords.GFP_HIGHMEM)


def ends_of_kswapd(trace: Trace, begin: int, end: int) -> npt.NDArray[np.int64]:
    """When pages came from the highest zone again after a lower one, on the trace's own clock.

    Args:
        trace: The trace.
        begin: First row to look at.
        end: One past the last one.
    """
    times, zones = [], []
    for low in range(begin, end, WINDOW_ROWS):
        piece = piece_of(trace, low, min(low + WINDOW_ROWS, end))
        some = np.flatnonzero(
            (piece.kind == tracewords.PAGE_ALLOC)
            & (piece.order == 0)
            & ((piece.flags & _ANY_ZONE) == _ANY_ZONE)
        )
        zone = np.searchsorted(ZONE_ENDS, piece.pfn[some], side="right")
        # Only where the zone changes, and the events beside: few of very many.
        changes = np.flatnonzero(np.diff(zone)) if len(zone) else zone
        kept = np.unique(np.concatenate([changes, changes + 1, [0, len(zone) - 1]]))
        kept = kept[(kept >= 0) & (kept < len(zone))]
        times.append(piece.time_ns[some[kept]])
        zones.append(zone[kept])
    if not times:
        return np.zeros(0, dtype=np.int64)
    time_ns, zone = np.concatenate(times), np.concatenate(zones)
    if not len(zone):
        return time_ns
    back = np.flatnonzero((zone[:-1] < zone.max()) & (zone[1:] == zone.max()))
    # Somewhere in between.
    return (time_ns[back] + time_ns[back + 1]) // 2
