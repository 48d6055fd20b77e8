"""pcp->high in a recorded kernel: how high it stood at the start, and when vmstat decayed it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hintbench.core import tracewords
from hintbench.core.tracelevels import BY_DECAY, DERIVED, IN_BACKGROUND, LevelWalk
from hintbench.core.tracelists import DecayWalk
from hintbench.core.traceslots import DeferredFrees
from hintbench.traces.hidden import steps_at_their_times

if TYPE_CHECKING:
    import numpy.typing as npt

    from hintbench.traces.history import PageHistory
    from hintbench.traces.start import PcpPages


def pcp_levels(
    found: PageHistory,
    pcp: PcpPages,
    zone_of: npt.NDArray[np.int16],
    bounds: npt.NDArray[np.int64],
    zone_high: npt.NDArray[np.int64],
    zone_free: npt.NDArray[np.int64],
    possible_ns: dict[int, list[int]],
) -> tuple[npt.NDArray[np.int64], dict[int, list[int]]]:
    """Follow pcp->high along a trace.

    Args:
        found: The trace, understood.
        pcp: What is known to be on the lists at the start.
        zone_of: The zone's index of each page; -1 where there is none.
        bounds: batch, high_min and high_max by CPU and zone [pages].
        zone_high: The high watermark of each zone [pages].
        zone_free: The free pages of each zone at the start.
        possible_ns: By CPU the times at which vmstat may have decayed its lists without anything
            to drain [ns, of the trace's own clock].

    Returns:
        By CPU and zone how much higher than the list was full pcp->high stood at the start
        [pages], and by CPU those times that what the lists held does not refute.
    """
    cpus, zones, _ = bounds.shape
    times = np.array([at for cpu in possible_ns for at in possible_ns[cpu]], dtype=np.int64)
    whose = np.array([cpu for cpu in possible_ns for _ in possible_ns[cpu]], dtype=np.int16)
    rising = np.argsort(times, kind="stable")
    times, whose = times[rising], whose[rising]
    walk = LevelWalk(zone_of, cpus, zones, bounds, zone_high, zone_free.copy(), times, whose)
    for cpu, pfn, order in zip(pcp.cpu.tolist(), pcp.pfn.tolist(), pcp.order.tolist(), strict=True):
        walk.start(pfn, order, cpu)
    decays = DecayWalk(found.trace.cpus)
    deferred = DeferredFrees(len(found.first))
    for window in found.windows():
        decay = decays.walk(window.trace)
        steps = steps_at_their_times(window, deferred)
        flags = window.trace.flags[steps.row]
        in_background = flags & (tracewords.BY_KWORKER | tracewords.BY_KCOMPACTD) != 0
        about = (
            decay[steps.row] * BY_DECAY + in_background * IN_BACKGROUND + steps.derived * DERIVED
        )
        walk.walk(
            steps.action,
            steps.pfn,
            steps.order,
            window.trace.cpu[steps.row],
            window.trace.time_ns[steps.row],
            about.astype(np.uint8),
        )
    raised = np.array(
        [[walk.raised_by(cpu, zone) for zone in range(zones)] for cpu in range(cpus)],
        dtype=np.int64,
    ).reshape(cpus, zones)
    kept: dict[int, list[int]] = {cpu: [] for cpu in possible_ns}
    for at, cpu, refuted in zip(times.tolist(), whose.tolist(), walk.refuted_times(), strict=True):
        if not refuted:
            kept[cpu].append(at)
    return raised, kept
