"""When kswapd ran in a recorded kernel, as far as its trace shows it.

No event tells, as long as it frees nothing. But while the watermarks are boosted, pages come from
the next lower zone although the lists of the highest one hold some: get_page_from_freelist() looks
at the watermark before it looks at the lists. The first page that comes from the highest zone
again, although no more of it is free than its boosted low watermark, shows that the run has ended;
so does a list that is refilled from there then.
And while balance_pgdat() is at work (ZONE_RECLAIM_ACTIVE) the per-CPU lists are kept to four
batches: a free that drains so short a list shows that it is, one that does not drain a longer one
that it is not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from hintbench.core import tracewords
from hintbench.core.constants import MOVABLE, PAGEBLOCK_ORDER, PAGEBLOCK_PAGES
from hintbench.core.tracesilence import ZONE_ENDS
from hintbench.kernel.kswapd import KswapdRun
from hintbench.traces.windows import WINDOW_ROWS, piece_of

if TYPE_CHECKING:
    import numpy.typing as npt

    from hintbench.traces.events import Trace

_LATEST_NS: Final = 100_000_000
"""What a wake-up has not led to by then it did not lead to: kswapd's own short sleep, HZ/10."""
_NEVER: Final = (1 << 63) - 1
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


def fallbacks(
    trace: Trace, begin: int, end: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Allocations that fell back to another migratetype inside a pageblock.

    Args:
        trace: The trace.
        begin: First row to look at.
        end: One past the last one.

    Returns:
        When, with which page, and whether that boosted the watermarks for certain: it claimed.
    """
    rows = np.flatnonzero(trace.kind[begin:end] == tracewords.EXTFRAG) + begin
    order = trace.aux[rows] & tracewords.AUX_ORDER_MASK
    rows, order = rows[order < PAGEBLOCK_ORDER], order[order < PAGEBLOCK_ORDER]
    # should_try_claim_block(); what took a smaller block has stolen it.
    claimed = (order >= PAGEBLOCK_ORDER // 2) | (trace.migratetype[rows] != MOVABLE)
    return trace.time_ns[rows], trace.pfn[rows], claimed


class KswapdRuns:
    """Gathers what shows when a recorded kswapd ran.

    Args:
        wakes: When, in which zone (index), and whether for certain, a fallback boosted; rising.
        ends_ns: When the highest zone gave pages again; rising.
        low: The low watermark of each zone [pages].
        high: The high one.
    """

    def __init__(
        self,
        wakes: list[tuple[int, int, bool]],
        ends_ns: list[int],
        low: npt.NDArray[np.int64],
        high: npt.NDArray[np.int64],
    ) -> None:
        # A run that ends in the nanosecond of a wake-up was another one's.
        self._turns = sorted(
            [(at, True, zone, sure) for at, zone, sure in wakes]
            + [(at, False, len(low) - 1, True) for at in ends_ns]
        )
        self._next = 0
        self._low = low
        self._most = np.maximum(high * 3 // 2, PAGEBLOCK_PAGES)
        self._woken_ns = 0
        self._boosted_ns = 0
        self._begin_ns: int | None = None
        self._active_ns = 0
        self.boost = np.zeros(len(low), dtype=np.int64)
        self.awake = False
        self.runs: list[KswapdRun] = []

    def follow(self, now_ns: int, free: memoryview) -> int:
        """Go on to a time.

        Args:
            now_ns: The time.
            free: Free pages of each zone now.

        Returns:
            When to be called again.
        """
        if self.awake and now_ns > self._woken_ns + _LATEST_NS:
            self._sleep()
        while self._next < len(self._turns) and self._turns[self._next][0] <= now_ns:
            at_ns, is_wake, zone, sure = self._turns[self._next]
            self._next += 1
            if is_wake:
                self._wake(at_ns, zone, sure)
            elif self.awake and free[zone] <= self._low[zone] + self.boost[zone]:
                self._end(at_ns)
        if self._next < len(self._turns):
            return self._turns[self._next][0]
        return self._woken_ns + _LATEST_NS + 1 if self.awake else _NEVER

    def refilled(self, at_ns: int, zone: int, free: int) -> None:
        """A list is refilled while it may be awake.

        Args:
            at_ns: When.
            zone: From which zone.
            free: Pages of the highest zone that were free before.
        """
        highest = len(self._low) - 1
        boost = self.boost[highest]
        if not boost or free > self._low[highest] + boost:
            return
        if zone == highest:
            # Somewhere in between.
            self._end((max(self._boosted_ns, self._woken_ns) + at_ns) // 2)
        elif free > self._low[highest]:
            self._boosted_ns = at_ns

    def active(self, at_ns: int) -> None:
        """A free shows that balance_pgdat() is at work."""
        if self._begin_ns is None:
            self._begin_ns = at_ns
        self._active_ns = max(at_ns, self._active_ns)

    def idle(self, at_ns: int) -> None:
        """A free shows that it is not."""
        if self._begin_ns is not None and at_ns > self._active_ns:
            self._end((at_ns + self._active_ns) // 2)

    def _wake(self, at_ns: int, zone: int, sure: bool) -> None:
        if sure:
            self.boost[zone] = min(self.boost[zone] + PAGEBLOCK_PAGES, self._most[zone])
        if not self.awake:
            self.awake = True
            self._woken_ns = at_ns
            self._begin_ns = None
            self._active_ns = 0

    def _end(self, at_ns: int) -> None:
        self.runs.append(KswapdRun(self._woken_ns, self._begin_ns, at_ns))
        self._sleep()

    def _sleep(self) -> None:
        self.awake = False
        self.boost[:] = 0
