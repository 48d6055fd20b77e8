"""The guest's state when the replay of a trace begins, inferred from the trace itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from hintbench.core import tracewords
from hintbench.core.constants import PAGEBLOCK_ORDER
from hintbench.core.tracepages import HAND_OUT, NOTHING, PCP, RETURN
from hintbench.jiffies import GRID_NS
from hintbench.trace_compaction import compaction_of
from hintbench.trace_compare import compare
from hintbench.trace_history import History
from hintbench.trace_load import load
from hintbench.trace_state import UNKNOWN_TYPE, FreeBlocks, free_blocks

if TYPE_CHECKING:
    import numpy.typing as npt

    from hintbench.boot import Machine
    from hintbench.compaction import CompactionStep
    from hintbench.trace_events import Trace

# vmstat_update() is due every second; with HZ=250 the timer wheel makes 1.024 s of it.
_TICK_NS: Final = 1_024_000_000
# An idle CPU's chain of ticks has stopped, and starts again about two seconds after it wakes.
_FIRST_TICK_NS: Final = 2 * _TICK_NS
_TICKS_AFTER_WAKING: Final = 6
_IDLE_NS: Final = 1_000_000_000
_SAME_TICK_NS: Final = 200_000_000
# From a timer's jiffy until its work item drains the first page, on a CPU that is free for it.
_TIMER_LATENCY_NS: Final = 1_000_000


@dataclass(frozen=True, slots=True, eq=False)
class PcpPages:
    """Blocks on per-CPU lists when the trace began, as far as the trace shows them.

    They stand in the order of (CPU, list, place); place 0 is the head, which is handed out first.
    Blocks handed out before their list's first refill come first, those drained without ever
    being seen before are its cold end.

    Attributes:
        cpu: Whose list; int16.
        pfn: First page; int32.
        order: int8.
        migratetype: The list's; int8.
    """

    cpu: npt.NDArray[np.int16]
    pfn: npt.NDArray[np.int32]
    order: npt.NDArray[np.int8]
    migratetype: npt.NDArray[np.int8]

    def __len__(self) -> int:
        return len(self.pfn)

    def pages(self, cpu: int) -> int:
        """Pages on the lists of one CPU, of all zones."""
        return int((1 << self.order[self.cpu == cpu].astype(np.int64)).sum())


@dataclass(frozen=True, slots=True, eq=False)
class TraceStart:
    """The guest's state when a trace's replay begins: `Program.initial`.

    Attributes:
        exact: Whether the tapes name pages (TAKE, HAND_OUT, GIVE_BACK, RETURN).
        in_use_pfn: Blocks in use from the start; int32.
        in_use_order: Their orders; int8.
        in_use_slot: The slots they fill, -1 when nothing ever frees them; int32.
        pcp: What is on the per-CPU lists.
        free: The free blocks, or None when unknown: then all else is free.
        pageblock_type: Migratetype of each pageblock as first seen, UNKNOWN_TYPE if never; uint8.
        page_count: Pages that the trace names: the guest must have as many.
        cpus: CPUs of the trace.
        vmstat_ticks_ns: By CPU the times at which vmstat_update() decays its lists: those that
            the trace shows, and likely ones in between; none in an exact replay [virtual ns].
        timer_phase_ns: A time at which the kernel's timer wheel stands at its beginning, as far as
            one can see when its work items ran [virtual ns].
        begin_ns: The trace's own time that is the virtual time 0.
        end_ns: The virtual time at which the replay ends.
        history: What the tapes were made from.
        free_at_end: Whether each page was free when the trace ended, if somebody dumped that.
        movable: Whether each page was on an LRU list at the start, so that compaction and claims
            take it for movable; None when unknown: then all that is in use is.
        check: Whether an exact replay asks the model at every choice what it would have chosen.
        compaction: What kcompactd did; nothing in an exact replay, which follows it anyway.
    """

    exact: bool
    in_use_pfn: npt.NDArray[np.int32]
    in_use_order: npt.NDArray[np.int8]
    in_use_slot: npt.NDArray[np.int32]
    pcp: PcpPages
    free: FreeBlocks | None
    pageblock_type: npt.NDArray[np.uint8]
    page_count: int
    cpus: int
    vmstat_ticks_ns: dict[int, list[int]]
    timer_phase_ns: int
    begin_ns: int
    end_ns: int
    history: History
    free_at_end: npt.NDArray[np.bool_] | None = None
    movable: npt.NDArray[np.bool_] | None = None
    check: bool = False
    compaction: tuple[CompactionStep, ...] = ()

    def load(self, machine: Machine) -> None:
        """Put a booted guest whose zones are empty into this state.

        Args:
            machine: The guest.

        Raises:
            TraceError: When the guest has other pages than the machine that was traced.
        """
        load(self, machine)

    def compare(self, machine: Machine) -> tuple[dict[str, int | float | None], list[str]]:
        """Compare a guest at the end of the replay with the kernel that was recorded.

        Args:
            machine: The guest.

        Returns:
            Metrics, and lines to print.
        """
        return compare(self, machine)


def start_of(
    found: History,
    free: npt.NDArray[np.bool_] | None,
    in_use: tuple[npt.NDArray[np.int32], npt.NDArray[np.int8], npt.NDArray[np.int32]],
    free_at_end: npt.NDArray[np.bool_] | None,
    *,
    exact: bool,
    movable: npt.NDArray[np.bool_] | None = None,
    check: bool = False,
    moves: npt.NDArray[np.int64] | None = None,
) -> TraceStart:
    """Gather what is known of the guest at the beginning.

    Args:
        found: The trace, understood.
        free: Which pages were free, if that is known.
        in_use: Blocks in use that the trace frees: pfn, order, slot.
        free_at_end: Which pages were free at the end, if that is known.
        exact: Whether the tapes name pages.
        movable: Which pages were on an LRU list, if that is known.
        check: Whether the model is asked at every choice what it would have chosen.
        moves: Rows at which compaction freed what it had moved; None: it is not modelled.
    """
    trace, begin, end = found.trace, found.begin, found.end
    begin_ns = begin_time_ns(trace, begin)
    pcp = _pcp_at_start(found)
    if free is not None:
        in_use = _with_silent_pages(found, free, in_use, pcp)
    ticks: dict[int, list[int]] = {}
    if not exact:
        for cpu, times in enumerate(vmstat_ticks(trace, begin, end)):
            ticks[cpu] = (times[times >= begin_ns] - begin_ns).tolist()
    return TraceStart(
        exact=exact,
        in_use_pfn=in_use[0],
        in_use_order=in_use[1],
        in_use_slot=in_use[2],
        pcp=pcp,
        free=None if free is None else free_blocks(free),
        pageblock_type=_pageblock_types(found),
        page_count=len(found.first),
        cpus=trace.cpus,
        vmstat_ticks_ns=ticks,
        timer_phase_ns=(timer_phase_ns(trace, begin, end) - begin_ns) % GRID_NS,
        begin_ns=begin_ns,
        end_ns=end_time_ns(trace, begin, end),
        history=found,
        free_at_end=free_at_end,
        movable=movable,
        check=check,
        compaction=() if moves is None else compaction_of(found, moves, begin_ns),
    )


def begin_time_ns(trace: Trace, begin: int) -> int:
    """The trace's own time that becomes the virtual time 0."""
    return int(trace.time_ns[min(begin, len(trace) - 1)])


def end_time_ns(trace: Trace, begin: int, end: int) -> int:
    """The virtual time until which a replay lasts: the trace's last event, or the second dump.

    Args:
        trace: The trace.
        begin: First row that is replayed.
        end: One past the last one; where a marker says that the page flags were dumped, its row.
    """
    last = int(trace.time_ns[begin : min(end, len(trace) - 1) + 1].max(initial=0))
    return max(last - begin_time_ns(trace, begin), 0)


def vmstat_ticks(trace: Trace, begin: int, end: int) -> tuple[npt.NDArray[np.int64], ...]:
    """When vmstat_update() ran on each CPU, on the trace's own clock.

    Drains by a kworker show some runs. The timer is deferrable and stops when nothing is left to
    decay, so others are guessed: after a CPU wakes the first comes two seconds later, then one
    every 1.024 s, six in all (by then pcp->high has decayed to its minimum), none that would be
    within a period before one that was seen.
    """
    ticks = []
    by_worker = trace.flags & tracewords.BY_KWORKER != 0
    for cpu in range(trace.cpus):
        rows = np.flatnonzero(trace.cpu[begin:end] == cpu) + begin
        seen = rows[by_worker[rows] & (trace.kind[rows] == tracewords.PCPU_DRAIN)]
        observed = _first_of_each(trace.time_ns[seen], _SAME_TICK_NS)
        busy = trace.time_ns[rows[~by_worker[rows]]]
        waking = _first_of_each(busy, _IDLE_NS)
        stops = np.append(waking[1:] + _FIRST_TICK_NS, trace.time_ns[end - 1] if end else 0)
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
    drains = (trace.flags & tracewords.BY_KWORKER != 0) & (trace.kind == tracewords.PCPU_DRAIN)
    rows = np.flatnonzero(drains[begin:end]) + begin
    if not len(rows):
        return 0
    began = [
        _first_of_each(trace.time_ns[rows[trace.cpu[rows] == cpu]], _SAME_TICK_NS)
        for cpu in range(trace.cpus)
    ]
    phases = np.sort(np.concatenate(began) % GRID_NS)
    around = np.concatenate([phases, phases + GRID_NS])
    followers = np.searchsorted(around, phases + _TIMER_LATENCY_NS) - np.arange(len(phases))
    return int(phases[np.argmax(followers)])


def _first_of_each(times: npt.NDArray[np.int64], gap_ns: int) -> npt.NDArray[np.int64]:
    """The times that come more than `gap_ns` after the one before."""
    return times[np.diff(times, prepend=times[:1] - gap_ns - 1) > gap_ns]


def _pcp_at_start(found: History) -> PcpPages:
    """Blocks that an event finds on a per-CPU list before anything put them there."""
    trace = found.trace
    rows = np.flatnonzero(found.action[found.begin : found.end] != NOTHING) + found.begin
    # Of most pages no event concerns a list at first: they need not be sorted.
    rows = rows[found.first[trace.pfn[rows]] == PCP]
    _, index = np.unique(trace.pfn[rows], return_index=True)
    first_rows = rows[index]
    on_list = np.isin(found.action[first_rows], (HAND_OUT, RETURN))
    first_rows = first_rows[on_list]
    # What was handed out stood at the head, what was drained at the tail, the last one first.
    is_cold = found.action[first_rows] == RETURN
    place = np.where(is_cold, 2 * len(trace) - first_rows, first_rows)
    parts = [
        (
            trace.cpu[first_rows],
            trace.pfn[first_rows],
            found.order[first_rows],
            pcp_type(trace.migratetype[first_rows]),
            place,
        )
    ]
    # Put there between the trace's beginning and `begin`, and not mentioned since.
    pages = np.flatnonzero((found.first == PCP) & (found.last_row < found.begin))
    pages = pages[found.last_row[pages] >= 0]
    before = found.last_row[pages]
    types = _pageblock_types(found)[pages >> PAGEBLOCK_ORDER]
    parts.append(
        (
            trace.cpu[before],
            pages,
            np.zeros(len(pages), dtype=np.int8),
            np.where(types == UNKNOWN_TYPE, 1, types),
            len(trace) - before // 2,
        )
    )
    cpu, pfn, order, migratetype, place = (
        np.concatenate(column) for column in zip(*parts, strict=True)
    )
    sort = np.lexsort((place, migratetype, order, cpu))
    return PcpPages(
        cpu[sort].astype(np.int16),
        pfn[sort].astype(np.int32),
        order[sort].astype(np.int8),
        migratetype[sort].astype(np.int8),
    )


def pcp_type(migratetype: npt.NDArray[np.int8]) -> npt.NDArray[np.int8]:
    """Migratetypes that the guest knows: CMA and ISOLATE count as movable, unknown as unmovable."""
    return np.where(migratetype > 3, 1, np.maximum(migratetype, 0)).astype(np.int8)


def _with_silent_pages(
    found: History,
    free: npt.NDArray[np.bool_],
    in_use: tuple[npt.NDArray[np.int32], npt.NDArray[np.int8], npt.NDArray[np.int32]],
    pcp: PcpPages,
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int8], npt.NDArray[np.int32]]:
    """Add the pages that are neither free nor ever mentioned: they are in use for good."""
    rest = np.ones(len(found.first), dtype=bool)
    rest[: len(free)] = ~np.asarray(free, dtype=bool)
    for pfns, orders in ((in_use[0], in_use[1]), (pcp.pfn, pcp.order)):
        for order in np.unique(orders):
            heads = pfns[orders == order]
            rest[(heads[:, None] + np.arange(1 << int(order))).ravel()] = False
    silent = np.flatnonzero(rest).astype(np.int32)
    return (
        np.concatenate([in_use[0], silent]),
        np.concatenate([in_use[1], np.zeros(len(silent), dtype=np.int8)]),
        np.concatenate([in_use[2], np.full(len(silent), -1, dtype=np.int32)]),
    )


def _pageblock_types(found: History) -> npt.NDArray[np.uint8]:
    """The type of each pageblock as the first event shows it that depends on it."""
    trace = found.trace
    kind = trace.kind[: found.end]
    extfrag = kind == tracewords.EXTFRAG
    rows = np.flatnonzero(
        (kind == tracewords.ZONE_LOCKED) | (kind == tracewords.PCPU_DRAIN) | extfrag
    )
    fallback = trace.aux[rows] >> tracewords.AUX_MIGRATETYPE_SHIFT & 7
    seen = np.where(extfrag[rows], fallback, trace.migratetype[rows])
    # The zone-locked line of a claim comes right before its extfrag, with the new type already.
    age = 2 * rows - 3 * extfrag[rows]
    sort = np.argsort(age, kind="stable")
    blocks, index = np.unique(trace.pfn[rows[sort]] >> PAGEBLOCK_ORDER, return_index=True)
    types = np.full((len(found.first) >> PAGEBLOCK_ORDER) + 1, UNKNOWN_TYPE, dtype=np.uint8)
    types[blocks] = pcp_type(seen[sort][index])
    return types
