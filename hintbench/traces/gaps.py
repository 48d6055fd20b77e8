"""Where a trace's event finds a page elsewhere than it should be, and what follows from that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from hintbench.core import tracewords
from hintbench.core.tracepages import BUDDY, GIVE_BACK, HAND_OUT, OUT, PCP, RETURN, TAKE
from hintbench.traces.windows import committed_row, order_at

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from hintbench.traces.events import Trace


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


@dataclass(frozen=True, slots=True)
class Gap:
    """A page was not where an event needs it.

    Attributes:
        page: The page.
        previous: The last row that moved it, or -1.
        row: The event's row.
        state: Where it was.
        action: What the event does.
        run: The first row of the frees in a row by the event's task on its CPU.
    """

    page: int
    previous: int
    row: int
    state: int
    action: int
    run: int


def ordinary_steps(
    trace: Trace, paired: npt.NDArray[np.uint8], gaps: Sequence[Gap]
) -> list[Derived]:
    """Steps that follow from the event alone; frees of pages thought free are left to others."""
    frees = (tracewords.PAGE_FREE, tracewords.PAGE_FREE_BATCHED)
    steps = []
    for gap in gaps:
        page, row, previous = gap.page, gap.row, gap.previous
        if gap.action == TAKE:
            # On a per-CPU list it was put there by a take or a free.
            if gap.state == PCP and previous >= 0 and trace.kind[previous] in frees:
                at = committed_row(trace, paired, previous)
                steps.append(Derived(RETURN, page, at, True, "direct"))
                continue
            if gap.state == OUT:
                steps.append(Derived(GIVE_BACK, page, row, False, "lost"))
            steps.append(Derived(RETURN, page, row, False, "lost"))
        elif gap.action in (HAND_OUT, RETURN):
            if gap.state == BUDDY:
                steps.append(Derived(TAKE, page, row, False, "lost"))
            elif gap.state == OUT:
                steps.append(Derived(GIVE_BACK, page, row, False, "lost"))
    return steps


def bulk_steps(trace: Trace, gaps: Sequence[Gap]) -> list[Derived]:
    """Pages freed that nobody saw handed out: alloc_pages_bulk took them off a per-CPU list.

    They were taken together, so the step stands before the first of the frees that one task makes
    in a row; where such a row has frees of a page twice, the second one begins another lot (splice
    reads a file 16 pages at a time and frees them).
    """
    bulk = [gap for gap in gaps if gap.action == GIVE_BACK and gap.state == PCP]
    steps = []
    run = first = -1
    for gap in sorted(bulk, key=lambda gap: (int(trace.cpu[gap.row]), gap.row)):
        if gap.run != run:
            run = first = gap.run
        if gap.previous >= first:
            first = gap.row
        steps.append(Derived(HAND_OUT, gap.page, first, False, "bulk"))
    return steps


def as_blocks(steps: list[Derived], trace: Trace, paired: npt.NDArray[np.uint8]) -> list[Derived]:
    """Join the steps of all pages of an event's block into one step of the whole block.

    Beside one event the steps then stand in the order in which a page can make them.
    """
    groups: dict[tuple[int, int, bool], list[Derived]] = {}
    for step in steps:
        groups.setdefault((step.row, step.action, step.after), []).append(step)
    rank = {GIVE_BACK: 0, RETURN: 1, TAKE: 2, HAND_OUT: 3}
    joined = []
    for (row, _, _), group in sorted(groups.items(), key=lambda item: rank[item[0][1]]):
        order = order_at(trace, paired, row)
        first, size = int(trace.pfn[row]), 1 << max(order, 0)
        pages = {step.pfn for step in group}
        if size > 1 and pages == set(range(first, first + size)):
            joined.append(replace(group[0], pfn=first, order=order))
        else:
            joined += group
    return joined
