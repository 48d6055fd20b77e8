"""When vmstat's work items ran in a recorded kernel, as far as its trace shows it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from hintbench.core import tracewords
from hintbench.jiffies import GRID_NS
from hintbench.traces.windows import WINDOW_ROWS, piece_of

if TYPE_CHECKING:
    import numpy.typing as npt

    from hintbench.traces.events import Trace

# vmstat_update() is due every second; with HZ=250 the timer wheel makes 1.024 s of it.
_TICK_NS: Final = 1_024_000_000
# An idle CPU's chain of ticks has stopped, and starts again about two seconds after it wakes.
_FIRST_TICK_NS: Final = 2 * _TICK_NS
_TICKS_AFTER_WAKING: Final = 6
_IDLE_NS: Final = 1_000_000_000
_SAME_TICK_NS: Final = 200_000_000
# From a timer's jiffy until its work item drains the first page, on a CPU that is free for it.
_TIMER_LATENCY_NS: Final = 1_000_000


def vmstat_ticks(trace: Trace, begin: int, end: int) -> tuple[npt.NDArray[np.int64], ...]:
    """When vmstat_update() ran on each CPU, on the trace's own clock.

    Drains by a kworker show some runs. The timer is deferrable and stops when nothing is left to
    decay, so others are guessed: after a CPU wakes the first comes two seconds later, then one
    every 1.024 s, six in all (by then pcp->high has decayed to its minimum), none that would be
    within a period before one that was seen.
    """
    ticks = []
    last_ns = trace.time_ns[end - 1] if end else 0
    for observed, waking in zip(
        _beginnings(trace, begin, end, _SAME_TICK_NS, drains=True),
        _beginnings(trace, begin, end, _IDLE_NS, drains=False),
        strict=True,
    ):
        stops = np.append(waking[1:] + _FIRST_TICK_NS, last_ns)
        guessed = (
            waking[:, None] + _FIRST_TICK_NS + _TICK_NS * np.arange(_TICKS_AFTER_WAKING)[None, :]
        )
        guessed = guessed[guessed < stops[: len(waking), None]]
        after = np.searchsorted(observed, guessed - _SAME_TICK_NS)
        far = np.append(observed, np.iinfo(np.int64).max)[after] - guessed >= _TICK_NS
        before = np.append(np.iinfo(np.int64).min // 2, observed)[
            np.searchsorted(observed, guessed)
        ]
        far &= guessed - before >= _TICK_NS // 2
        ticks.append(np.sort(np.concatenate([observed, guessed[far]])).astype(np.int64))
    return tuple(ticks)


def timer_phase_ns(trace: Trace, begin: int, end: int) -> int:
    """When the multiples of 8 jiffies fall on which timers of about a second fire.

    vmstat's work items drain lists right after their timer, unless their CPU idled or was busy:
    the millisecond of the wheel's period in which most of them began is the one.

    Returns:
        A time in 0..32 ms, on the trace's own clock modulo that; 0 when nothing shows it.
    """
    began = np.concatenate(
        [
            np.zeros(0, dtype=np.int64),
            *_beginnings(trace, begin, end, _SAME_TICK_NS, drains=True),
        ]
    )
    if not len(began):
        return 0
    phases = np.sort(began % GRID_NS)
    around = np.concatenate([phases, phases + GRID_NS])
    followers = np.searchsorted(around, phases + _TIMER_LATENCY_NS) - np.arange(len(phases))
    return int(phases[np.argmax(followers)])


def _beginnings(
    trace: Trace, begin: int, end: int, gap_ns: int, *, drains: bool
) -> list[npt.NDArray[np.int64]]:
    """By CPU the times of events that come more than `gap_ns` after the one before.

    Args:
        trace: The trace.
        begin: First row to look at.
        end: One past the last one.
        gap_ns: How far apart.
        drains: Look at drains by kworkers, instead of all that is by no kworker.
    """
    cpus = trace.cpus
    found: list[list[npt.NDArray[np.int64]]] = [[] for _ in range(cpus)]
    last_ns: list[int | None] = [None] * cpus
    for low in range(begin, end, WINDOW_ROWS):
        piece = piece_of(trace, low, min(low + WINDOW_ROWS, end))
        by_worker = piece.flags & tracewords.BY_KWORKER != 0
        some = by_worker & (piece.kind == tracewords.PCPU_DRAIN) if drains else ~by_worker
        for cpu in range(cpus):
            times = piece.time_ns[some & (piece.cpu == cpu)]
            if len(times):
                last = last_ns[cpu]
                before = int(times[0]) - gap_ns - 1 if last is None else last
                found[cpu].append(times[np.diff(times, prepend=before) > gap_ns])
                last_ns[cpu] = int(times[-1])
    return [np.concatenate([np.zeros(0, dtype=np.int64), *parts]) for parts in found]
