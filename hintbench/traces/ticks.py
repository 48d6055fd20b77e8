"""When vmstat's work items ran in a recorded kernel, as far as its trace shows it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from hintbench.core import tracewords
from hintbench.core.tracelists import DecayWalk
from hintbench.tasks.jiffies import GRID_NS
from hintbench.traces.windows import WINDOW_ROWS, piece_of

if TYPE_CHECKING:
    import numpy.typing as npt

    from hintbench.traces.events import Trace

# vmstat_update() is due every second, and round_jiffies_relative() has it at a whole one.
_TICK_NS: Final = 1_000_000_000
# Its timer is deferrable: it fires when its CPU does something, and drains then begin.
_LATE_NS: Final = 64_000_000
_SAME_TICK_NS: Final = 200_000_000
# From a timer's jiffy until its work item drains the first page, on a CPU that is free for it.
_TIMER_LATENCY_NS: Final = 1_000_000


def seen_ticks(trace: Trace, begin: int, end: int) -> tuple[npt.NDArray[np.int64], ...]:
    """When vmstat_update() drained lists on each CPU, on the trace's own clock: a kworker did.

    What a kworker drains right after it freed something follows from that free.
    """
    return tuple(_beginnings(trace, begin, end, _SAME_TICK_NS, drains=True))


def possible_ticks(
    seen: tuple[npt.NDArray[np.int64], ...], begin_ns: int, end_ns: int
) -> tuple[npt.NDArray[np.int64], ...]:
    """When it may have decayed pcp->high on each CPU and found nothing to drain.

    That is every second, where most of those lie that were seen; not within half a second of one.
    What the lists held then refutes many of them (`hintbench.traces.levels`).

    Args:
        seen: By CPU the times at which it drained something.
        begin_ns: When the replay begins.
        end_ns: When it ends.
    """
    every = np.sort(np.concatenate([np.zeros(0, dtype=np.int64), *seen]) % _TICK_NS)
    if not len(every):
        return tuple(every for _ in seen)
    around = np.concatenate([every, every + _TICK_NS])
    phase = int(every[np.argmax(np.searchsorted(around, every + _LATE_NS) - np.arange(len(every)))])
    seconds = np.arange(begin_ns + (phase - begin_ns) % _TICK_NS, end_ns, _TICK_NS)
    possible = []
    for times in seen:
        known = np.concatenate(
            [[np.iinfo(np.int64).min // 2], times, [np.iinfo(np.int64).max // 2]]
        )
        after = np.searchsorted(known, seconds)
        near = np.minimum(known[after] - seconds, seconds - known[after - 1]) <= _TICK_NS // 2
        possible.append(seconds[~near].astype(np.int64))
    return tuple(possible)


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
        drains: Look at drains with which kworkers begin, instead of all that is by no kworker.
    """
    cpus = trace.cpus
    found: list[list[npt.NDArray[np.int64]]] = [[] for _ in range(cpus)]
    last_ns: list[int | None] = [None] * cpus
    decays = DecayWalk(cpus)
    for low in range(begin, end, WINDOW_ROWS):
        piece = piece_of(trace, low, min(low + WINDOW_ROWS, end))
        by_worker = piece.flags & tracewords.BY_KWORKER != 0
        some = decays.walk(piece).view(np.bool_) if drains else ~by_worker
        for cpu in range(cpus):
            times = piece.time_ns[some & (piece.cpu == cpu)]
            if len(times):
                last = last_ns[cpu]
                before = int(times[0]) - gap_ns - 1 if last is None else last
                found[cpu].append(times[np.diff(times, prepend=before) > gap_ns])
                last_ns[cpu] = int(times[-1])
    return [np.concatenate([np.zeros(0, dtype=np.int64), *parts]) for parts in found]
