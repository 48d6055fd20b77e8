"""pcp->high in a recorded kernel: how high it stood at the start, and when vmstat decayed it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hintbench.core import tracewords
from hintbench.core.tracehigh import PcpHigh
from hintbench.core.tracelevels import BY_DECAY, DERIVED, IN_BACKGROUND, LevelWalk

if TYPE_CHECKING:
    import numpy.typing as npt

    from hintbench.kernel.kswapd import KswapdRun
    from hintbench.traces.reclaim import KswapdRuns
    from hintbench.traces.start import PcpPages
    from hintbench.traces.steps import Steps
    from hintbench.traces.windows import Window


class PcpLevels:
    """Follows pcp->high along a trace.

    Args:
        pcp: What is known to be on the lists at the start.
        zone_of: The zone's index of each page; -1 where there is none.
        bounds: batch, high_min and high_max by CPU and zone [pages].
        zone_high: The high watermark of each zone [pages].
        zone_free: The free pages of each zone at the start.
        possible_ns: By CPU the times at which vmstat may have decayed its lists without anything
            to drain [ns, of the trace's own clock].
        factors: pcp->alloc_factor at the start, by CPU and zone.
        kswapd: What gathers when kswapd ran.
    """

    def __init__(
        self,
        pcp: PcpPages,
        zone_of: npt.NDArray[np.int16],
        bounds: npt.NDArray[np.int64],
        zone_high: npt.NDArray[np.int64],
        zone_free: npt.NDArray[np.int64],
        possible_ns: dict[int, list[int]],
        factors: npt.NDArray[np.int64],
        kswapd: KswapdRuns,
    ) -> None:
        self._kswapd = kswapd
        self._cpus, self._zones, _ = bounds.shape
        times = np.array([at for cpu in possible_ns for at in possible_ns[cpu]], dtype=np.int64)
        whose = np.array([cpu for cpu in possible_ns for _ in possible_ns[cpu]], dtype=np.int16)
        rising = np.argsort(times, kind="stable")
        self._times, self._whose = times[rising], whose[rising]
        self._possible_cpus = tuple(possible_ns)
        self._high = PcpHigh(
            *(self._cpus, self._zones, bounds, factors.copy(), zone_high, zone_free.copy()),
            *(self._times, self._whose, kswapd),
        )
        self._walk = LevelWalk(zone_of, self._high)
        self._walk.start(pcp.pfn, pcp.order, pcp.cpu)

    def follow(self, window: Window, steps: Steps, decay: npt.NDArray[np.uint8]) -> None:
        """Go on with what `list_steps` gives."""
        flags = window.trace.flags[steps.row]
        in_background = flags & (tracewords.BY_KWORKER | tracewords.BY_KCOMPACTD) != 0
        about = (
            decay[steps.row] * BY_DECAY + in_background * IN_BACKGROUND + steps.derived * DERIVED
        )
        self._walk.walk(
            steps.action,
            steps.pfn,
            steps.order,
            window.trace.cpu[steps.row],
            window.trace.time_ns[steps.row],
            about.astype(np.uint8),
        )

    def kswapd_runs(self) -> list[KswapdRun]:
        """When kswapd ran, on the trace's own clock."""
        return self._kswapd.runs

    def raised(self) -> npt.NDArray[np.int64]:
        """How much higher than its list was full each pcp->high stood, by CPU and zone [pages]."""
        levels = [
            [self._high.raised_by(cpu, zone) for zone in range(self._zones)]
            for cpu in range(self._cpus)
        ]
        return np.array(levels, dtype=np.int64).reshape(self._cpus, self._zones)

    def hidden(self) -> npt.NDArray[np.int64]:
        """Pages that no event names, but that a list must have had when a free drained it."""
        pages = [
            [self._high.hidden_pages(cpu, zone) for zone in range(self._zones)]
            for cpu in range(self._cpus)
        ]
        return np.array(pages, dtype=np.int64).reshape(self._cpus, self._zones)

    def decays(self) -> dict[int, list[int]]:
        """By CPU those of the possible times that what the lists held does not refute."""
        kept: dict[int, list[int]] = {cpu: [] for cpu in self._possible_cpus}
        refuted = self._high.refuted_times()
        for at, cpu, gone in zip(self._times.tolist(), self._whose.tolist(), refuted, strict=True):
            if not gone:
                kept[cpu].append(at)
        return kept
