"""What happened to the pages of a trace, including what the kernel does without an event.

A page goes buddy -> per-CPU list (mm_page_alloc_zone_locked) -> handed out (mm_page_alloc) ->
per-CPU list (mm_page_free) -> buddy (mm_page_pcpu_drain). Where an event finds a page elsewhere,
something happened in silence:

* a steal, or the claim of a whole pageblock, takes a block with mm_page_alloc_extfrag alone;
* compaction takes its destinations without any event. Each of its sources, which kcompactd frees
  one by one, has such a destination; those that are never mentioned again are found by counting;
* alloc_pages_bulk hands pages out (to vmalloc, to splice) without mm_page_alloc;
* a free whose trylock of the per-CPU lists failed goes straight to the buddy, without a drain.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from hintbench.core import tracepages, tracewords
from hintbench.core.traceevents import EventWalk
from hintbench.core.tracepages import GIVE_BACK
from hintbench.traces.destinations import Compaction
from hintbench.traces.gaps import Derived, Gap, as_blocks, bulk_steps, ordinary_steps
from hintbench.traces.windows import (
    WINDOW_ROWS,
    DerivedSteps,
    Window,
    piece_of,
    windows_of,
)

if TYPE_CHECKING:
    import numpy.typing as npt

    from hintbench.traces.events import Trace

# Orders that 6.12 keeps on per-CPU lists; 5.0 only has order 0 there.
PCP_ORDERS: Final = {"6.12": 0b10_0000_1111, "5.0": 0b1}


@dataclass(frozen=True, slots=True, eq=False)
class PageHistory:
    """A trace, understood; all that is kept is of pages and of derived steps.

    Attributes:
        trace: The trace.
        begin: First row that counts; before it the trace only tells where pages were.
        end: One past the last row that counts.
        derived: What happened in silence.
        first: Where each page was at `begin`: BUDDY, PCP, OUT, or UNKNOWN if it never says; uint8.
        last_row: The last row that mentions each page, or -1; int32.
        first_row: The first row that counts and mentions each page, or -1; int32.
        first_action: What that row does; uint8.
        actions: All that some row does, also before `begin` and behind `end`.
        kernel: The preset that was assumed.
        paired: A bit for each row, set when it and another one are the two lines of one free;
            uint8.
        claims: The rows at which a fallback claimed what it takes with its whole pageblock, which
            is of the allocation's migratetype from then on; int64, ascending.
        window_rows: Events that `windows` looks at together.
    """

    trace: Trace
    begin: int
    end: int
    derived: tuple[Derived, ...]
    first: npt.NDArray[np.uint8]
    last_row: npt.NDArray[np.int32]
    first_row: npt.NDArray[np.int32]
    first_action: npt.NDArray[np.uint8]
    actions: frozenset[int]
    kernel: str
    paired: npt.NDArray[np.uint8]
    claims: npt.NDArray[np.int64]
    window_rows: int

    def derived_counts(self) -> dict[str, int]:
        """Number of derived steps by reason."""
        counts: dict[str, int] = {}
        for step in self.derived:
            counts[step.reason] = counts.get(step.reason, 0) + 1
        return counts

    def silent(self) -> DerivedSteps:
        """The derived steps as columns; those beside one row stay in their order."""
        row = np.array([step.row for step in self.derived], dtype=np.int64)
        sort = np.argsort(row, kind="stable")
        return DerivedSteps(
            row[sort],
            np.array([step.after for step in self.derived], dtype=np.bool_)[sort],
            np.array([step.action for step in self.derived], dtype=np.uint8)[sort],
            np.array([step.pfn for step in self.derived], dtype=np.int64)[sort],
            np.array([step.order for step in self.derived], dtype=np.int8)[sort],
        )

    def windows(self) -> Iterator[Window]:
        """Go through all events again, in windows."""
        return windows_of(self)


def page_history(
    trace: Trace,
    free: npt.NDArray[np.bool_] | None = None,
    *,
    begin: int = 0,
    end: int | None = None,
    kernel: str = "6.12",
    window_rows: int = WINDOW_ROWS,
) -> PageHistory:
    """Follow every page of a trace. Of single events nothing is kept; `windows` looks again.

    Args:
        trace: The trace.
        free: Whether each page was in a free block just before the row `begin`, if that is known.
        begin: First row that counts.
        end: One past the last row that counts, or None for all.
        kernel: Preset that says which orders per-CPU lists keep.
        window_rows: Events that are looked at together.
    """
    last = len(trace) if end is None else end
    follower = _Follower(trace, free, begin, last, kernel, window_rows)
    return PageHistory(**follower.page_history())


class _Follower:
    """The first pass over a trace."""

    def __init__(
        self,
        trace: Trace,
        free: npt.NDArray[np.bool_] | None,
        begin: int,
        end: int,
        kernel: str,
        window_rows: int,
    ) -> None:
        self.trace, self.begin, self.end = trace, begin, end
        self.kernel, self.window_rows = kernel, window_rows
        self.paired = np.zeros(len(trace) // 8 + 1, dtype=np.uint8)
        pages = max(trace.page_count, 0 if free is None else len(free))
        self.events = EventWalk(pages, trace.cpus, self.paired, True)
        self.walk = tracepages.PageWalk(pages, PCP_ORDERS[kernel])
        self.gaps: list[Gap] = []
        self.compacted: list[npt.NDArray[np.int64]] = [np.zeros(0, dtype=np.int64)]
        self.actions: set[int] = set()
        self._follow(0, begin)
        if free is not None:
            known = np.zeros(pages, dtype=np.uint8)
            known[: len(free)] = free
            self.walk.set_free(known, begin)
            self.gaps.clear()
        self.walk.begin()
        self._follow(begin, len(trace))

    def page_history(self) -> dict[str, Any]:
        """The fields of a `PageHistory`."""
        state, first, last_row = self.walk.states()
        first_row, first_action = self.walk.first_events()
        return {
            "trace": self.trace,
            "begin": self.begin,
            "end": self.end,
            "derived": tuple(self._derived(state, last_row)),
            "first": first,
            "last_row": last_row,
            "first_row": first_row,
            "first_action": first_action,
            "actions": frozenset(self.actions),
            "kernel": self.kernel,
            "paired": self.paired,
            "claims": np.unique(np.array(self.events.claimed(), dtype=np.int64)),
            "window_rows": self.window_rows,
        }

    def _derived(
        self, state: npt.NDArray[np.uint8], last_row: npt.NDArray[np.int32]
    ) -> list[Derived]:
        frees = np.concatenate(self.compacted)
        frees = frees[self.paired[frees >> 3] >> (frees & 7).astype(np.uint8) & 1 == 0]
        derived = ordinary_steps(self.trace, self.paired, self.gaps)
        derived += bulk_steps(self.trace, self.gaps)
        derived += Compaction(self.trace, self.gaps, frees, state, last_row).steps()
        return as_blocks(derived, self.trace, self.paired)

    def _follow(self, begin: int, end: int) -> None:
        """Look at the rows begin..end-1, of which those before `self.end` move pages."""
        for low in range(begin, end, self.window_rows):
            self._window(low, min(low + self.window_rows, end))

    def _window(self, low: int, high: int) -> None:
        piece = piece_of(self.trace, low, high)
        action, order, _, run = self.events.walk(low, piece)
        counts = min(max(self.end - low, 0), high - low)
        self.walk.walk(action, piece.pfn, order, counts, low)
        for page, previous, row, state in self.walk.missing():
            at = row - low
            self.gaps.append(Gap(page, previous, row, state, int(action[at]), int(run[at])))
        self.actions.update(np.flatnonzero(np.bincount(action)).tolist())
        if low >= self.begin:
            by_compaction = (action[:counts] == GIVE_BACK) & (
                piece.flags[:counts] & tracewords.BY_KCOMPACTD != 0
            )
            self.compacted.append(np.flatnonzero(by_compaction) + low)
