"""Pages that lie on a per-CPU list all the time, so that no event ever names them.

vmstat's decay drains a list down to pcp->high, which is never below its minimum. Where fewer pages
than that are known to be left, the others were there all along.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from hintbench.core.tracelists import DecayWalk, OwnerWalk
from hintbench.core.tracepages import GIVE_BACK
from hintbench.core.traceslots import DeferredFrees
from hintbench.traces.steps import Steps, steps_in_order

if TYPE_CHECKING:
    import numpy.typing as npt

    from hintbench.traces.history import PageHistory
    from hintbench.traces.start import PcpPages
    from hintbench.traces.windows import Window


class HiddenPages:
    """Finds out how many pages the lists hold that are never named, at least.

    Args:
        pcp: What is known to be on the lists at the start.
        zone_of: The zone's index of each page; -1 where there is none.
        high_min: The minimum of pcp->high by CPU and zone [pages].
    """

    def __init__(
        self, pcp: PcpPages, zone_of: npt.NDArray[np.int16], high_min: npt.NDArray[np.int64]
    ) -> None:
        self._high_min = high_min
        self._lists = OwnerWalk(zone_of, *high_min.shape)
        self._lists.start(pcp.pfn, pcp.order, pcp.cpu)

    def follow(self, window: Window, steps: Steps, decay: npt.NDArray[np.uint8]) -> None:
        """Go on with what `list_steps` gives."""
        cpu = window.trace.cpu[steps.row]
        self._lists.walk(steps.action, steps.pfn, steps.order, cpu, decay[steps.row])

    def pages(self) -> npt.NDArray[np.int64]:
        """How many, by CPU and zone."""
        hidden = np.zeros(self._high_min.shape, dtype=np.int64)
        for cpu, index in np.ndindex(*hidden.shape):
            left = self._lists.least_left(cpu, index)
            if left is not None:
                hidden[cpu, index] = max(int(self._high_min[cpu, index]) - left, 0)
        return hidden


def list_steps(
    found: PageHistory,
) -> Iterator[tuple[Window, Steps, npt.NDArray[np.uint8]]]:
    """Go through what happened to the per-CPU lists of a trace.

    Args:
        found: The trace, understood.

    Yields:
        A window, its steps with frees when they reach the lists, and for each of its rows 1 where
        a drain belongs to a decay of vmstat's.
    """
    decays = DecayWalk(found.trace.cpus)
    deferred = DeferredFrees(len(found.first))
    for window in found.windows():
        yield window, _at_their_times(window, deferred), decays.walk(window.trace)


def _at_their_times(window: Window, deferred: DeferredFrees) -> Steps:
    """The steps of a window, with frees when they reach the per-CPU lists.

    Args:
        window: The window.
        deferred: The frees that wait for their batched line.
    """
    steps = steps_in_order(window)
    waits = (steps.action == GIVE_BACK) & ~steps.derived & window.deferred[steps.row]
    order = steps.order.astype(np.int32)
    row, order, index = deferred.order(
        (steps.row, order, waits.view(np.uint8)), window.settling, window.trace.pfn
    )
    told = index >= 0
    some = steps.only(index[told])
    action = np.full(len(row), GIVE_BACK, dtype=np.uint8)
    pfn = window.trace.pfn[row]
    derived = np.zeros(len(row), dtype=np.bool_)
    action[told], pfn[told], derived[told] = some.action, some.pfn, some.derived
    return Steps(row, action, pfn, order.astype(np.int8), derived)
