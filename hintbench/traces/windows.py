"""A trace's history in windows: each holds some thousand events, and what was derived beside them.

What a window says of an event depends on earlier ones; `hintbench.core.traceevents` carries that
over. So the memory of a pass depends on the trace's pages and the size of a window alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from hintbench.core import tracewords
from hintbench.core.traceevents import DEFERRED, SETTLES, EventWalk
from hintbench.traces.events import Trace

if TYPE_CHECKING:
    import numpy.typing as npt

    from hintbench.traces.history import PageHistory

WINDOW_ROWS: Final = 1 << 18
"""Events in a window: few enough for its arrays to stay small beside a guest's."""


@dataclass(frozen=True, slots=True, eq=False)
class DerivedSteps:
    """What happened in silence, ordered by row.

    Attributes:
        row: The event next to which it happened; int64.
        after: Whether it happened behind that event; bool.
        action: uint8.
        pfn: int64.
        order: int8.
    """

    row: npt.NDArray[np.int64]
    after: npt.NDArray[np.bool_]
    action: npt.NDArray[np.uint8]
    pfn: npt.NDArray[np.int64]
    order: npt.NDArray[np.int8]

    def between(self, low: int, high: int) -> DerivedSteps:
        """Those at the rows low..high-1, which are counted from low on."""
        first, last = np.searchsorted(self.row, (low, high)).tolist()
        some = self.only(slice(first, last))
        return DerivedSteps(some.row - low, some.after, some.action, some.pfn, some.order)

    def only(self, which: slice | npt.NDArray[np.integer]) -> DerivedSteps:
        """Some of them, by index."""
        return DerivedSteps(
            self.row[which],
            self.after[which],
            self.action[which],
            self.pfn[which],
            self.order[which],
        )


@dataclass(frozen=True, slots=True, eq=False)
class Window:
    """Some events of a trace, understood. Rows are counted from its first event on.

    Attributes:
        low: The number of its first event in the whole trace.
        trace: The events.
        begin: First row that counts.
        end: One past the last row that counts.
        action: What each row does, also those that do not count; uint8.
        order: The order of each row; int8.
        settles: Whether each row is ALONE, or a free that is DEFERRED until it SETTLES, which is
            the line of mm_page_free_batched; uint8.
        silent: The derived steps beside these events.
        claims: The rows that claim what they take with its whole pageblock; int64.
        kernel: The preset that was assumed.
    """

    low: int
    trace: Trace
    begin: int
    end: int
    action: npt.NDArray[np.uint8]
    order: npt.NDArray[np.int8]
    settles: npt.NDArray[np.uint8]
    silent: DerivedSteps
    claims: npt.NDArray[np.int64]
    kernel: str

    @property
    def counting(self) -> slice:
        """The rows that count."""
        return slice(self.begin, self.end)

    @property
    def deferred(self) -> npt.NDArray[np.bool_]:
        """The rows of frees that reach the per-CPU lists later."""
        return self.settles == DEFERRED

    @property
    def settling(self) -> npt.NDArray[np.int64]:
        """The rows at which the free of their page does."""
        return np.flatnonzero(self.settles == SETTLES)


def piece_of(trace: Trace, low: int, high: int) -> Trace:
    """The events low..high-1 of a trace; nothing is copied."""
    return Trace(**{name: getattr(trace, name)[low:high] for name in tracewords.COLUMNS})


def windows_of(found: PageHistory) -> Iterator[Window]:
    """Go through a trace whose pairs of frees and derived steps are known.

    Args:
        found: The trace, understood.
    """
    trace = found.trace
    events = EventWalk(len(found.first), trace.cpus, found.paired, False)
    silent = found.silent()
    for low in range(0, len(trace), found.window_rows):
        high = min(low + found.window_rows, len(trace))
        piece = piece_of(trace, low, high)
        action, order, settles, _ = events.walk(low, piece)
        begin = min(max(found.begin - low, 0), high - low)
        end = min(max(found.end - low, begin), high - low)
        yield Window(
            low,
            piece,
            begin,
            end,
            action,
            order,
            settles,
            silent.between(low, high),
            found.claims[slice(*np.searchsorted(found.claims, (low, high)))] - low,
            found.kernel,
        )


def committed_row(trace: Trace, paired: npt.NDArray[np.uint8], row: int) -> int:
    """The row of mm_page_free_batched of a free, or its own.

    Args:
        trace: The trace.
        paired: The bits of `EventWalk`.
        row: The free's row.
    """
    if trace.kind[row] != tracewords.PAGE_FREE or not is_paired(paired, row):
        return row
    return _nearest(trace, tracewords.PAGE_FREE_BATCHED, row, 1)


def order_at(trace: Trace, paired: npt.NDArray[np.uint8], row: int) -> int:
    """The order of an event; batched frees of huge pages are printed as order 0.

    Args:
        trace: The trace.
        paired: The bits of `EventWalk`.
        row: The event's row.
    """
    if trace.kind[row] == tracewords.PAGE_FREE_BATCHED and is_paired(paired, row):
        row = _nearest(trace, tracewords.PAGE_FREE, row, -1)
    return int(trace.order[row])


def is_paired(paired: npt.NDArray[np.uint8], row: int) -> bool:
    """Whether a row is one of two lines of the same free."""
    return bool(paired[row >> 3] >> (row & 7) & 1)


def _nearest(trace: Trace, kind: int, row: int, direction: int) -> int:
    """The nearest row of a kind that is of the same page; there must be one."""
    pfn, size = trace.pfn[row], 64
    at = row
    while True:
        some = slice(at + 1, at + 1 + size) if direction > 0 else slice(max(at - size, 0), at)
        hits = np.flatnonzero((trace.pfn[some] == pfn) & (trace.kind[some] == kind))
        if len(hits):
            return some.start + int(hits[0 if direction > 0 else -1])
        at += size if direction > 0 else -size
        size *= 2
