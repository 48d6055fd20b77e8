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

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np

from hintbench.core import tracepages, tracewords
from hintbench.core.constants import PAGEBLOCK_PAGES
from hintbench.core.tracepages import BUDDY, GIVE_BACK, HAND_OUT, OUT, PCP, RETURN, TAKE

if TYPE_CHECKING:
    import numpy.typing as npt

    from hintbench.trace_events import Trace

# Orders that 6.12 keeps on per-CPU lists; 5.0 only has order 0 there.
PCP_ORDERS: Final = {"6.12": 0b10_0000_1111, "5.0": 0b1}
COMPACTION_GAP_NS: Final = 100_000_000
"""Frees by kcompactd further apart than this belong to different runs of compaction."""


@dataclass(frozen=True, slots=True)
class Derived:
    """One thing that happened to a page and that no event says.

    Attributes:
        action: TAKE, HAND_OUT, GIVE_BACK or RETURN.
        pfn: The page.
        row: The event next to which it happened.
        after: Whether it happened behind that event rather than before it.
        reason: Why it is known: "compaction", "bulk" (alloc_pages_bulk), "direct" (past the
            per-CPU lists) or "lost" (some event must be missing).
        order: Order of the block; `pfn` is its first page.
    """

    action: int
    pfn: int
    row: int
    after: bool
    reason: str
    order: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class History:
    """A trace, understood.

    Attributes:
        trace: The trace.
        begin: First row that counts; before it the trace only tells where pages were.
        end: One past the last row that counts.
        action: For each row TAKE, HAND_OUT, GIVE_BACK, RETURN or NOTHING; uint8.
        order: The order of each row; batched frees of huge pages are printed as order 0; int8.
        claim: For each row whether a fallback claimed what it takes with its whole pageblock, which
            is of the allocation's migratetype from then on; bool.
        commit: For a free its row of mm_page_free_batched, when it reached the per-CPU list, or
            its own row; int64.
        derived: What happened in silence.
        first: Where each page was at `begin`: BUDDY, PCP, OUT, or UNKNOWN if it never says; uint8.
        last_row: The last row that mentions each page, or -1; int32.
        kernel: The preset that was assumed.
    """

    trace: Trace
    begin: int
    end: int
    action: npt.NDArray[np.uint8]
    order: npt.NDArray[np.int8]
    claim: npt.NDArray[np.bool_]
    commit: npt.NDArray[np.int64]
    derived: tuple[Derived, ...]
    first: npt.NDArray[np.uint8]
    last_row: npt.NDArray[np.int32]
    kernel: str

    def derived_counts(self) -> dict[str, int]:
        """Number of derived steps by reason."""
        counts: dict[str, int] = {}
        for step in self.derived:
            counts[step.reason] = counts.get(step.reason, 0) + 1
        return counts


def history(
    trace: Trace,
    free: npt.NDArray[np.bool_] | None = None,
    *,
    begin: int = 0,
    end: int | None = None,
    kernel: str = "6.12",
) -> History:
    """Follow every page of a trace.

    Args:
        trace: The trace.
        free: Whether each page was in a free block just before the row `begin`, if that is known.
        begin: First row that counts.
        end: One past the last row that counts, or None for all.
        kernel: Preset that says which orders per-CPU lists keep.
    """
    last = len(trace) if end is None else end
    commit, action, order = _pair_batched(trace)
    claim = _mark_takes(trace, action)
    pages = max(trace.page_count, 0 if free is None else len(free))
    walk = tracepages.PageWalk(pages, PCP_ORDERS[kernel])
    walk.walk(action, trace.pfn, order, 0, begin)
    if free is not None:
        known = np.zeros(pages, dtype=np.uint8)
        known[: len(free)] = free
        walk.set_free(known, begin)
    walk.walk(action, trace.pfn, order, begin, last)
    gaps = np.array(walk.missing(), dtype=np.int64).reshape(-1, 4)
    state, first, last_row = walk.states()
    derived = _ordinary_gaps(trace, action, commit, gaps)
    derived += _bulk(trace, action, gaps)
    derived += _Compaction(trace, action, order, commit, gaps, state, last_row, begin, last).steps()
    derived = _as_blocks(derived, trace, order)
    return History(
        trace, begin, last, action, order, claim, commit, tuple(derived), first, last_row, kernel
    )


def _pair_batched(
    trace: Trace,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint8], npt.NDArray[np.int8]]:
    """Match each mm_page_free_batched with its mm_page_free, so that no page counts twice."""
    kind = trace.kind
    action = np.zeros(len(trace), dtype=np.uint8)
    for name, what in (
        (tracewords.PAGE_ALLOC, HAND_OUT),
        (tracewords.PAGE_FREE, GIVE_BACK),
        (tracewords.ZONE_LOCKED, TAKE),
        (tracewords.PCPU_DRAIN, RETURN),
    ):
        action[kind == name] = what
    action[trace.pfn < 0] = tracepages.NOTHING
    rows = np.flatnonzero((kind == tracewords.PAGE_FREE) | (kind == tracewords.PAGE_FREE_BATCHED))
    by_page = rows[np.lexsort((rows, trace.pfn[rows]))]
    is_batched = kind[by_page] == tracewords.PAGE_FREE_BATCHED
    paired = np.zeros(len(by_page), dtype=bool)
    paired[1:] = (
        is_batched[1:] & ~is_batched[:-1] & (trace.pfn[by_page[1:]] == trace.pfn[by_page[:-1]])
    )
    commit = np.arange(len(trace), dtype=np.int64)
    order = trace.order.copy()
    batched = np.flatnonzero(paired)
    commit[by_page[batched - 1]] = by_page[batched]
    order[by_page[batched]] = trace.order[by_page[batched - 1]]
    # Without its mm_page_free (not recorded, or before the trace) the batched line is the free.
    action[by_page[is_batched & ~paired]] = GIVE_BACK
    return commit, action, order


def _mark_takes(trace: Trace, action: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    """Let an extfrag take its block, unless the zone-locked event before it said so already.

    A claim below order 9 ends in __rmqueue_smallest, which fires mm_page_alloc_zone_locked for
    the same block; a larger claim and a steal do not.

    Returns:
        For each row whether it takes a block that was claimed.
    """
    claim = np.zeros(len(trace), dtype=bool)
    for row in np.flatnonzero(trace.kind == tracewords.EXTFRAG):
        cpu = trace.cpu[row]
        before = row - 1
        while before >= 0 and (
            trace.cpu[before] != cpu or trace.kind[before] == tracewords.PCPU_DRAIN
        ):
            before -= 1
        told = (
            before >= 0
            and trace.kind[before] == tracewords.ZONE_LOCKED
            and trace.pfn[before] == trace.pfn[row]
        )
        action[row] = tracepages.NOTHING if told else TAKE
        claim[before if told else row] = trace.aux[row] & tracewords.AUX_CHANGE_OWNERSHIP != 0
    return claim


def _ordinary_gaps(
    trace: Trace,
    action: npt.NDArray[np.uint8],
    commit: npt.NDArray[np.int64],
    gaps: npt.NDArray[np.int64],
) -> list[Derived]:
    """Steps that follow from the event alone; frees of pages thought free are left to others."""
    steps = []
    for page, previous, row, state in gaps.tolist():
        what = int(action[row])
        if what == TAKE:
            if state == PCP and previous >= 0 and action[previous] == GIVE_BACK:
                steps.append(Derived(RETURN, page, int(commit[previous]), True, "direct"))
                continue
            if state == OUT:
                steps.append(Derived(GIVE_BACK, page, row, False, "lost"))
            steps.append(Derived(RETURN, page, row, False, "lost"))
        elif what in (HAND_OUT, RETURN):
            if state == BUDDY:
                steps.append(Derived(TAKE, page, row, False, "lost"))
            elif state == OUT:
                steps.append(Derived(GIVE_BACK, page, row, False, "lost"))
    return steps


def _bulk(
    trace: Trace, action: npt.NDArray[np.uint8], gaps: npt.NDArray[np.int64]
) -> list[Derived]:
    """Pages freed that nobody saw handed out: alloc_pages_bulk took them off a per-CPU list.

    They were taken together, so the step stands before the first of the frees that one task makes
    in a row.
    """
    bulk = gaps[(action[gaps[:, 2]] == GIVE_BACK) & (gaps[:, 3] == PCP)]
    if not len(bulk):
        return []
    frees = (trace.kind == tracewords.PAGE_FREE) | (trace.kind == tracewords.PAGE_FREE_BATCHED)
    steps = []
    for cpu in np.unique(trace.cpu[bulk[:, 2]]):
        rows = np.flatnonzero(trace.cpu == cpu)
        # A run goes on while the same task frees.
        breaks = ~frees[rows]
        breaks[1:] |= breaks[:-1] | (np.diff(trace.pid[rows]) != 0)
        index = np.arange(len(rows))
        run = np.maximum.accumulate(np.where(breaks, index, 0))
        some = bulk[trace.cpu[bulk[:, 2]] == cpu]
        at = np.searchsorted(rows, some[:, 2])
        first = np.maximum(run[at], np.searchsorted(rows, some[:, 1], side="right"))
        for (page, _, _, _), row in zip(some.tolist(), rows[first].tolist(), strict=True):
            steps.append(Derived(HAND_OUT, page, row, False, "bulk"))
    return steps


def _as_blocks(steps: list[Derived], trace: Trace, order: npt.NDArray[np.int8]) -> list[Derived]:
    """Join the steps of all pages of an event's block into one step of the whole block.

    Beside one event the steps then stand in the order in which a page can make them.
    """
    groups: dict[tuple[int, int, bool], list[Derived]] = {}
    for step in steps:
        groups.setdefault((step.row, step.action, step.after), []).append(step)
    rank = {GIVE_BACK: 0, RETURN: 1, TAKE: 2, HAND_OUT: 3}
    joined = []
    for (row, _, _), group in sorted(groups.items(), key=lambda item: rank[item[0][1]]):
        first, size = int(trace.pfn[row]), 1 << int(order[row])
        pages = {step.pfn for step in group}
        if size > 1 and pages == set(range(first, first + size)):
            joined.append(replace(group[0], pfn=first, order=int(order[row])))
        else:
            joined += group
    return joined


class _Compaction:
    """Finds the pages that compaction took, and when.

    kcompactd frees the source of every page it moved, without a batched line; the destination was
    isolated from the buddy just before. Sources and destinations are matched by number, in the
    order in which the free scanner goes: pageblocks downwards, inside a pageblock upwards
    (isolate_freepages). Pages freed by kcompactd that had no chance to be a destination earlier
    were isolated and not needed (release_free_list).
    """

    def __init__(
        self,
        trace: Trace,
        action: npt.NDArray[np.uint8],
        order: npt.NDArray[np.int8],
        commit: npt.NDArray[np.int64],
        gaps: npt.NDArray[np.int64],
        state: npt.NDArray[np.uint8],
        last_row: npt.NDArray[np.int32],
        begin: int,
        end: int,
    ) -> None:
        """Take the trace and what the walk found; see `History`."""
        self.trace = trace
        self.order = order
        self.state = state
        self.last_row = last_row
        silent = (action[gaps[:, 2]] == GIVE_BACK) & (gaps[:, 3] == BUDDY)
        self.silent = gaps[silent]
        self.twice = set(gaps[(action[gaps[:, 2]] == GIVE_BACK) & (gaps[:, 3] == PCP), 2].tolist())
        rows = np.arange(begin, end)
        by_compaction = (
            (action[begin:end] == GIVE_BACK)
            & (trace.flags[begin:end] & tracewords.BY_KCOMPACTD != 0)
            & (commit[begin:end] == rows)
        )
        self.frees = rows[by_compaction]
        gap = np.diff(trace.time_ns[self.frees]) > COMPACTION_GAP_NS
        self.bounds = (
            np.flatnonzero(np.concatenate(([True], gap, [True])))
            if len(self.frees)
            else np.zeros(1, dtype=np.int64)
        )

    def steps(self) -> list[Derived]:
        """The takes and hand-outs of all destinations."""
        episodes = [
            self.frees[low:high] for low, high in zip(self.bounds, self.bounds[1:], strict=False)
        ]
        starts = [int(rows[0]) for rows in episodes]
        ends = [int(rows[-1]) for rows in episodes]
        by_row = {int(row): (int(page), int(previous)) for page, previous, row, _ in self.silent}
        sources = []
        for rows, start in zip(episodes, starts, strict=True):
            # What was in the buddy when this episode began was isolated in it, and is no source.
            sources.append(
                [
                    row
                    for row in rows.tolist()
                    if self.order[row] == 0
                    and row not in self.twice
                    and (row not in by_row or any(by_row[row][1] < end < start for end in ends))
                ]
            )
        chosen: list[list[tuple[int, int, int]]] = [[] for _ in episodes]
        steps = []
        pending = [(page, previous, row) for page, previous, row, _ in self.silent.tolist()]
        # From the last episode back: what no earlier one can have taken goes first.
        for number in reversed(range(len(episodes))):
            before = ends[number - 1] if number else -1
            fitting = [
                one
                for one in pending
                if one[1] < ends[number] and starts[number] < one[2] and ends[number] < one[2]
            ]
            fitting.sort(key=lambda one: (one[1] < before, -one[1]))
            forced = sum(one[1] >= before for one in fitting)
            chosen[number] = fitting[: max(forced, len(sources[number]))]
            kept = set(chosen[number])
            pending = [one for one in pending if one not in kept]
        for page, _, row in pending:
            steps += _isolated(page, row, "compaction" if episodes else "lost")
        for number, rows in enumerate(sources):
            missing = len(rows) - len(chosen[number])
            if missing > 0:
                chosen[number] += self._never_mentioned(rows, starts[number], missing)
            steps += _matched(chosen[number], rows)
        return steps

    def _never_mentioned(
        self, sources: Sequence[int], start: int, missing: int
    ) -> list[tuple[int, int, int]]:
        """Destinations that no later event names, in the free scanner's order.

        Args:
            sources: Rows of the frees of the sources.
            start: First row of the episode.
            missing: How many there are.
        """
        quiet = (self.state == BUDDY) & (self.last_row < start)
        blocks = len(quiet) // PAGEBLOCK_PAGES
        of_block = quiet[: blocks * PAGEBLOCK_PAGES].reshape(blocks, PAGEBLOCK_PAGES)
        lowest = int(self.trace.pfn[list(sources)].max()) // PAGEBLOCK_PAGES + 1
        found: list[tuple[int, int, int]] = []
        for block in range(blocks - 1, lowest - 1, -1):
            # suitable_migration_target() leaves wholly free pageblocks alone.
            if len(found) >= missing:
                break
            if of_block[block].all() or not of_block[block].any():
                continue
            pages = np.flatnonzero(of_block[block]) + block * PAGEBLOCK_PAGES
            found += [(int(page), int(self.last_row[page]), 1 << 62) for page in pages]
        taken = found[:missing]
        for page, _, _ in taken:
            self.state[page] = OUT
        return taken


def _matched(destinations: list[tuple[int, int, int]], sources: Sequence[int]) -> list[Derived]:
    """Let each source have its destination right before it was freed."""
    scanned = sorted(destinations, key=lambda one: (-(one[0] // PAGEBLOCK_PAGES), one[0]))
    steps = []
    for number, (page, previous, row) in enumerate(scanned):
        at = sources[min(number, len(sources) - 1)]
        if at <= previous:
            later = np.searchsorted(np.asarray(sources), previous, side="right")
            at = sources[int(later)] if later < len(sources) else row
        steps += _isolated(page, min(at, row), "compaction")
    return steps


def _isolated(page: int, row: int, reason: str) -> list[Derived]:
    return [Derived(TAKE, page, row, False, reason), Derived(HAND_OUT, page, row, False, reason)]
