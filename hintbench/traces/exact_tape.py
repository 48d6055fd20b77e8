"""The operations of an exact replay, which name the kernel's own choices, window by window."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from hintbench.core.traceslots import SlotWalk
from hintbench.operations import OperationBlock
from hintbench.traces.codes import exact_codes
from hintbench.traces.steps import steps_in_order
from hintbench.traces.tape import Blocks, Part

if TYPE_CHECKING:
    import numpy.typing as npt

    from hintbench.traces.history import PageHistory
    from hintbench.traces.windows import Window

_NO_MOVES = np.zeros(0, dtype=np.int64)


class ExactMaker:
    """Makes the operations of an exact replay; they need no slots.

    Args:
        found: The trace, understood.
        begin_ns: The trace's own time that becomes the virtual time 0.
    """

    def __init__(self, found: PageHistory, begin_ns: int) -> None:
        self.windows = found.windows()
        self.walk = SlotWalk(len(found.first))
        self.cpus = found.trace.cpus
        self.begin_ns = begin_ns
        self.latest_ns = -1

    def __iter__(self) -> Iterator[Part]:
        for window in self.windows:
            yield self._part(window)

    def slot_count(self) -> int:
        """None."""
        return 0

    def in_use_at_start(self) -> Blocks:
        """Blocks in use at the start that the windows so far free, in no slot."""
        pfn, order, _ = self.walk.in_use_at_start()
        return pfn, order, np.full(len(pfn), -1, dtype=np.int32)

    def _part(self, window: Window) -> Part:
        steps = steps_in_order(window)
        self.walk.follow(steps.action, steps.pfn, steps.order)
        time_ns = self._distinct(window.trace.time_ns[steps.row] - self.begin_ns)
        cpu = window.trace.cpu[steps.row]
        sort = np.argsort(cpu, kind="stable")
        bounds = np.searchsorted(cpu[sort], np.arange(self.cpus + 1))
        block = OperationBlock(
            exact_codes(window, steps)[sort], steps.pfn[sort].astype(np.int32), time_ns[sort]
        )
        return Part(block, bounds.tolist(), _NO_MOVES)

    def _distinct(self, time_ns: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Times that all differ, also from those of earlier windows, and keep their order.

        An event a nanosecond is never too many.
        """
        number = np.arange(1, len(time_ns) + 1, dtype=np.int64)
        later = np.maximum(np.maximum.accumulate(time_ns - number), self.latest_ns) + number
        if len(later):
            self.latest_ns = int(later[-1])
        return later
