"""When alloc_pages_bulk took which pages, as far as the lists that they left show it.

It fires no event: that a page was handed out shows when it is freed, maybe much later and on
another CPU. The page behind it that was handed out next says better when it left, and whose list.
A page of which nothing is heard again is found like that alone: kernel stacks, four pages at a
time, of processes that outlive the recording.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

import numpy as np

from hintbench.core import tracewords
from hintbench.core.tracepages import HAND_OUT, OUT
from hintbench.core.tracesilence import PassedOverWalk
from hintbench.traces.gaps import Derived
from hintbench.traces.hidden import list_steps
from hintbench.traces.start import pageblock_types, pcp_type

if TYPE_CHECKING:
    import numpy.typing as npt

    from hintbench.traces.history import PageHistory
    from hintbench.traces.windows import Window

BULK: Final = "bulk"


def with_departures(found: PageHistory) -> PageHistory:
    """Put what alloc_pages_bulk took where the lists show that it left.

    Args:
        found: The trace, understood.

    Returns:
        The same with other derived steps: those of single unmovable pages, which is what vmalloc
        asks for, stand before the hand-out that passed them over.
    """
    walk = PassedOverWalk(pageblock_types(found), len(found.first), found.trace.cpus)
    # Also what came before the dump of page flags put pages on lists.
    for window, steps, _ in list_steps(replace(found, begin=0)):
        rows = steps.row
        migratetype = pcp_type(window.trace.migratetype[rows])
        shows = _shows_type(window, rows) & ~steps.derived
        cpu = window.trace.cpu[rows]
        walk.walk(steps, window.low, cpu, migratetype, shows.view(np.uint8))
    return _moved(found, walk)


def _shows_type(window: Window, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Whether rows say of which type their pageblock is from then on.

    Claims do, drains, and takes from a list of their own type. The type changes unseen where a
    block is isolated to be reported.
    """
    kind = window.trace.kind[rows]
    plain = (kind == tracewords.ZONE_LOCKED) | (kind == tracewords.PCPU_DRAIN)
    return plain | np.isin(rows, window.claims)


def _moved(found: PageHistory, walk: PassedOverWalk) -> PageHistory:
    """The trace with the derived steps of `walk` at the rows where it found them."""
    better = {(page, row): (passed, place) for page, row, passed, place in walk.left()}
    kept, placed = [], []
    for step in found.derived:
        one = better.get((step.pfn, step.row)) if _is_of_one_page(step) else None
        if one is None:
            kept.append(step)
        else:
            placed.append((one, step.pfn))
    placed += [((row, place), page) for page, row, place in walk.never_again(found.last_row)]
    first = found.first.copy()
    # What had left before the beginning was in use there.
    first[[page for (row, _), page in placed if row < found.begin]] = OUT
    steps = [
        Derived(HAND_OUT, page, row, False, BULK)
        for (row, _), page in sorted(placed)
        if found.begin <= row < found.end
    ]
    return replace(found, derived=(*kept, *steps), first=first)


def _is_of_one_page(step: Derived) -> bool:
    return step.reason == BULK and step.action == HAND_OUT and step.order == 0
