"""Finding the pages that compaction took: of its destinations no event tells."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import numpy as np

from hintbench.core.constants import PAGEBLOCK_PAGES
from hintbench.core.tracepages import BUDDY, GIVE_BACK, HAND_OUT, OUT, PCP, TAKE
from hintbench.traces.gaps import Derived, Gap

if TYPE_CHECKING:
    import numpy.typing as npt

    from hintbench.traces.events import Trace

COMPACTION_GAP_NS: Final = 100_000_000
"""Frees by kcompactd further apart than this belong to different runs of compaction."""


class Compaction:
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
        gaps: Sequence[Gap],
        frees: npt.NDArray[np.int64],
        state: npt.NDArray[np.uint8],
        last_row: npt.NDArray[np.int32],
    ) -> None:
        """Take the trace and what the walk found; see `PageHistory`.

        Args:
            trace: The trace.
            gaps: Where a page was not where an event needs it.
            frees: Rows at which kcompactd frees something without a batched line.
            state: Where each page is at the end; pages found to be in use are marked so.
            last_row: The last row that mentions each page.
        """
        self.trace = trace
        self.state = state
        self.last_row = last_row
        missing = [gap for gap in gaps if gap.action == GIVE_BACK]
        self.silent = [(gap.page, gap.previous, gap.row) for gap in missing if gap.state == BUDDY]
        self.twice = {gap.row for gap in missing if gap.state == PCP}
        self.frees = frees
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
        by_row = {int(row): (int(page), int(previous)) for page, previous, row in self.silent}
        sources = []
        for rows, start in zip(episodes, starts, strict=True):
            # What was in the buddy when this episode began was isolated in it, and is no source.
            sources.append(
                [
                    row
                    for row in rows.tolist()
                    if self.trace.order[row] == 0
                    and row not in self.twice
                    and (row not in by_row or any(by_row[row][1] < end < start for end in ends))
                ]
            )
        chosen: list[list[tuple[int, int, int]]] = [[] for _ in episodes]
        steps = []
        pending = list(self.silent)
        # From the last episode back: what no earlier one can have taken goes first.
        by_itself = set(self.frees.tolist())
        for number in reversed(range(len(episodes))):
            before = ends[number - 1] if number else -1
            fitting = [
                one
                for one in pending
                if one[1] < ends[number]
                and starts[number] < one[2]
                and (ends[number] < one[2] or one[2] not in by_itself)
            ]
            # In no other episode: back in the buddy since the last, or freed before this one ends.
            only_here = [one for one in fitting if one[1] >= before or one[2] <= ends[number]]
            others = sorted(set(fitting).difference(only_here), key=lambda one: -one[1])
            most = max(len(only_here), len(sources[number]))
            chosen[number] = (only_here + others)[:most]
            kept = set(chosen[number])
            pending = [one for one in pending if one not in kept]
        for page, _, row in pending:
            steps += _isolated(page, row, "compaction" if episodes else "lost")
        for number, moved in enumerate(sources):
            missing = len(moved) - len(chosen[number])
            if missing > 0:
                chosen[number] += self._never_mentioned(moved, starts[number], missing)
            steps += _matched(chosen[number], moved)
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
    """Let each source have a destination of its own, right before it is freed.

    Args:
        destinations: Page, the last row that mentions it before, and the next one.
        sources: Rows of the frees of the sources, rising.
    """
    last = sources[-1] if sources else -1
    waiting = sorted(destinations, key=lambda one: (-(one[0] // PAGEBLOCK_PAGES), one[0]))
    steps = []
    for source, after in zip(sources, [*sources[1:], last + 1], strict=True):
        free = [one for one in waiting if one[1] < source <= one[2]]
        if free:
            # The next in the scanner's order, unless one is used again before the next source.
            taken = next((one for one in free if one[2] < after), free[0])
            steps += _isolated(taken[0], source, "compaction")
            waiting.remove(taken)
    for page, previous, row in waiting:
        steps += _isolated(page, min(last, row) if previous < last else row, "compaction")
    return steps


def _isolated(page: int, row: int, reason: str) -> list[Derived]:
    return [Derived(TAKE, page, row, False, reason), Derived(HAND_OUT, page, row, False, reason)]
