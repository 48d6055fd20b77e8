"""A trace's history as one sequence of steps: events, and what must have happened between them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hintbench.core.tracepages import GIVE_BACK, RETURN
from hintbench.trace_history import PCP_ORDERS, History

if TYPE_CHECKING:
    import numpy.typing as npt


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


def steps_in_order(found: History) -> Steps:
    """All that happened to pages, events and derived steps, in order.

    A free of an order that per-CPU lists do not keep is followed by the return to the buddy.
    """
    trace = found.trace
    rows = np.flatnonzero(found.action[found.begin : found.end]) + found.begin
    action = found.action[rows]
    kept = PCP_ORDERS[found.kernel] >> found.order[rows].astype(int) & 1
    direct = rows[(action == GIVE_BACK) & (kept == 0)]
    steps = found.derived
    # Before the event, the event, behind it.
    phase = np.repeat([1, 2], [len(rows), len(direct)]).tolist()
    phase += [3 if step.after else 0 for step in steps]
    row = np.concatenate([rows, direct, np.array([step.row for step in steps], dtype=np.int64)])
    merged = Steps(
        row,
        np.concatenate(
            [
                action,
                np.full(len(direct), RETURN, dtype=np.uint8),
                np.array([step.action for step in steps], dtype=np.uint8),
            ]
        ),
        np.concatenate(
            [trace.pfn[rows], trace.pfn[direct], np.array([s.pfn for s in steps], dtype=np.int64)]
        ),
        np.concatenate(
            [
                found.order[rows],
                found.order[direct],
                np.array([step.order for step in steps], dtype=np.int8),
            ]
        ),
        np.arange(len(row)) >= len(rows) + len(direct),
    )
    return merged.only(np.lexsort((np.arange(len(row)), phase, row)))
