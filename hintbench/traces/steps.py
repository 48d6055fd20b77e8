"""A trace's history as one sequence of steps: events, and what must have happened between them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hintbench.core.constants import NR_PAGE_ORDERS
from hintbench.core.tracepages import GIVE_BACK, RETURN
from hintbench.traces.history import PCP_ORDERS

if TYPE_CHECKING:
    import numpy.typing as npt

    from hintbench.traces.windows import Window


@dataclass(frozen=True, slots=True, eq=False)
class Steps:
    """What happened to blocks, in order.

    Attributes:
        row: The trace's row that each step stands beside; int64.
        action: TAKE, HAND_OUT, GIVE_BACK or RETURN; uint8.
        pfn: First page; int64.
        order: int8.
        derived: Whether no event says so.
    """

    row: npt.NDArray[np.int64]
    action: npt.NDArray[np.uint8]
    pfn: npt.NDArray[np.int64]
    order: npt.NDArray[np.int8]
    derived: npt.NDArray[np.bool_]

    def only(self, which: npt.NDArray[np.integer] | npt.NDArray[np.bool_]) -> Steps:
        """Some of the steps, by index or mask."""
        return Steps(
            self.row[which],
            self.action[which],
            self.pfn[which],
            self.order[which],
            self.derived[which],
        )

    def with_inserted(self, at: npt.NDArray[np.integer], others: Steps) -> Steps:
        """Other steps put between these.

        Args:
            at: For each of them the index before which it goes, ascending.
            others: The steps.
        """
        return Steps(
            np.insert(self.row, at, others.row),
            np.insert(self.action, at, others.action),
            np.insert(self.pfn, at, others.pfn),
            np.insert(self.order, at, others.order),
            np.insert(self.derived, at, others.derived),
        )


def steps_in_order(found: Window) -> Steps:
    """All that happened to pages, events and derived steps, in order.

    A free of an order that per-CPU lists do not keep is followed by the return to the buddy.

    Args:
        found: A window of a trace, understood.
    """
    trace = found.trace
    rows = np.flatnonzero(found.action[found.begin : found.end]) + found.begin
    events = Steps(
        rows,
        found.action[rows],
        trace.pfn[rows],
        found.order[rows],
        np.zeros(len(rows), dtype=np.bool_),
    )
    kept = np.array([PCP_ORDERS[found.kernel] >> order & 1 for order in range(NR_PAGE_ORDERS)])
    direct = rows[(events.action == GIVE_BACK) & (kept[events.order] == 0)]
    silent = found.silent
    if not len(direct) and not len(silent.row):
        return events
    row = np.concatenate([direct, silent.row])
    # Beside an event: what came before it, then its own return to the buddy, then what came behind.
    phase = np.concatenate([np.full(len(direct), 2), np.where(silent.after, 3, 0)])
    between = Steps(
        row,
        np.concatenate([np.full(len(direct), RETURN, dtype=np.uint8), silent.action]),
        np.concatenate([trace.pfn[direct], silent.pfn]),
        np.concatenate([found.order[direct], silent.order]),
        np.arange(len(row)) >= len(direct),
    )
    place = np.lexsort((np.arange(len(row)), phase, row))
    # They are few beside the events, which stand in order already: nothing that long is sorted.
    at = np.where(
        phase == 0, np.searchsorted(rows, row, "left"), np.searchsorted(rows, row, "right")
    )
    return events.with_inserted(at[place], between.only(place))
