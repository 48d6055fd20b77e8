"""The guest's state when the replay of a trace begins, inferred from the trace itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from hintbench.core import tracewords
from hintbench.core.constants import PAGEBLOCK_ORDER
from hintbench.core.tracepages import HAND_OUT, PCP, RETURN
from hintbench.tasks.jiffies import GRID_NS
from hintbench.traces.compare import compare
from hintbench.traces.history import PageHistory
from hintbench.traces.load import load
from hintbench.traces.state import UNKNOWN_TYPE, FreeBlocks, free_blocks
from hintbench.traces.steps import steps_in_order
from hintbench.traces.ticks import possible_ticks, seen_ticks, timer_phase_ns
from hintbench.traces.windows import piece_of

if TYPE_CHECKING:
    import numpy.typing as npt

    from hintbench.guest.boot import Machine
    from hintbench.kernel.compaction import CompactionRun
    from hintbench.kernel.kswapd import DrainOfAll, KswapdRun
    from hintbench.traces.events import Trace


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
            the trace shows, and behind `load` also others; none in an exact replay [virtual ns].
        possible_ticks_ns: By CPU times at which it may have found nothing to drain; `load` adds
            those to `vmstat_ticks_ns` that the lists of that time do not refute [virtual ns].
        timer_phase_ns: A time at which the kernel's timer wheel stands at its beginning, as far as
            one can see when its work items ran [virtual ns].
        begin_ns: The trace's own time that is the virtual time 0.
        end_ns: The virtual time at which the replay ends.
        history: What the tapes were made from.
        free_at_end: Whether each page was free when the trace ended, if somebody dumped that.
        movable: Whether each page was on an LRU list at the start, so that compaction and claims
            take it for movable; None when unknown: then all that is in use is.
        check: Whether an exact replay asks the model at every choice what it would have chosen.
        kswapd_runs: When kswapd ran, as far as the trace shows it: `load` adds them; nothing in an
            exact replay [virtual ns].
        moves: Rows at which compaction freed what it had moved; None in an exact replay, which
            follows it anyway.
        compaction: What kcompactd did: `load` adds it, and
        drains_of_all: when others drained all per-CPU lists.
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
    possible_ticks_ns: dict[int, list[int]]
    timer_phase_ns: int
    begin_ns: int
    end_ns: int
    history: PageHistory
    free_at_end: npt.NDArray[np.bool_] | None = None
    movable: npt.NDArray[np.bool_] | None = None
    check: bool = False
    kswapd_runs: list[KswapdRun] = field(default_factory=list)
    moves: npt.NDArray[np.int64] | None = None
    compaction: list[CompactionRun] = field(default_factory=list)
    drains_of_all: list[DrainOfAll] = field(default_factory=list)

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
    found: PageHistory,
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
    possible: dict[int, list[int]] = {}
    if not exact:
        seen = seen_ticks(trace, begin, end)
        end_ns = begin_ns + end_time_ns(trace, begin, end)
        for cpu, (times, others) in enumerate(
            zip(seen, possible_ticks(seen, begin_ns, end_ns), strict=True)
        ):
            ticks[cpu] = (times[times >= begin_ns] - begin_ns).tolist()
            possible[cpu] = (others - begin_ns).tolist()
    return TraceStart(
        exact=exact,
        in_use_pfn=in_use[0],
        in_use_order=in_use[1],
        in_use_slot=in_use[2],
        pcp=pcp,
        free=None if free is None else free_blocks(free),
        pageblock_type=pageblock_types(found),
        page_count=len(found.first),
        cpus=trace.cpus,
        vmstat_ticks_ns=ticks,
        possible_ticks_ns=possible,
        timer_phase_ns=(timer_phase_ns(trace, begin, end) - begin_ns) % GRID_NS,
        begin_ns=begin_ns,
        end_ns=end_time_ns(trace, begin, end),
        history=found,
        free_at_end=free_at_end,
        movable=movable,
        check=check,
        moves=moves,
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


def _pcp_at_start(found: PageHistory) -> PcpPages:
    """Blocks that an event finds on a per-CPU list before anything put them there."""
    trace = found.trace
    listed, first_rows, action, order_of = _first_of_listed(found)
    # What was handed out stood at the head, what was drained at the tail, the last one first.
    is_cold = action == RETURN
    place = np.where(is_cold, 2 * len(trace) - first_rows, first_rows)
    parts = [
        (
            trace.cpu[first_rows],
            listed,
            order_of,
            pcp_type(trace.migratetype[first_rows]),
            place,
        )
    ]
    # Put there between the trace's beginning and `begin`, and not mentioned since.
    pages = np.flatnonzero((found.first == PCP) & (found.last_row < found.begin))
    pages = np.setdiff1d(pages[found.last_row[pages] >= 0], listed)
    before = found.last_row[pages]
    types = pageblock_types(found)[pages >> PAGEBLOCK_ORDER]
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


def _first_of_listed(
    found: PageHistory,
) -> tuple[
    npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.uint8], npt.NDArray[np.int8]
]:
    """The first steps of blocks that were on a per-CPU list at first, if they leave it.

    Returns:
        The pages, rising, and of each the step's row, what it does, and its order.
    """
    wanted = found.first == PCP
    rows, actions, orders, pages = [], [], [], []
    for window in found.windows():
        # Of most pages no event concerns a list at first: they need not be sorted.
        steps = steps_in_order(window)
        steps = steps.only(wanted[steps.pfn])
        page, index = np.unique(steps.pfn, return_index=True)
        steps = steps.only(index)
        wanted[page] = False
        pages.append(page)
        rows.append(steps.row + window.low)
        actions.append(steps.action)
        orders.append(steps.order)
    if not rows:
        none = np.zeros(0, dtype=np.int64)
        return none, none, none.astype(np.uint8), none.astype(np.int8)
    page = np.concatenate(pages)
    by_page = np.argsort(page)
    action = np.concatenate(actions)[by_page]
    leaves = (action == HAND_OUT) | (action == RETURN)
    return (
        page[by_page][leaves],
        np.concatenate(rows)[by_page][leaves],
        action[leaves],
        np.concatenate(orders)[by_page][leaves],
    )


def pcp_type(migratetype: npt.NDArray[np.int8]) -> npt.NDArray[np.int8]:
    """Migratetypes that the guest knows: CMA and ISOLATE count as movable, unknown as unmovable."""
    return np.where(migratetype > 3, 1, np.maximum(migratetype, 0)).astype(np.int8)


def _with_silent_pages(
    found: PageHistory,
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


def pageblock_types(found: PageHistory) -> npt.NDArray[np.uint8]:
    """The type of each pageblock as the first event shows it that depends on it."""
    types = np.full((len(found.first) >> PAGEBLOCK_ORDER) + 1, UNKNOWN_TYPE, dtype=np.uint8)
    ages = np.full(len(types), np.iinfo(np.int64).max)
    for low in range(0, found.end, found.window_rows):
        piece = piece_of(found.trace, low, min(low + found.window_rows, found.end))
        extfrag = piece.kind == tracewords.EXTFRAG
        rows = np.flatnonzero(
            (piece.kind == tracewords.ZONE_LOCKED) | (piece.kind == tracewords.PCPU_DRAIN) | extfrag
        )
        block = piece.pfn[rows] >> PAGEBLOCK_ORDER
        # The zone-locked line of a claim comes right before its extfrag, with the new type already.
        age = 2 * (rows + low) - 3 * extfrag[rows]
        older = age < ages[block]
        rows, block, age = rows[older], block[older], age[older]
        sort = np.argsort(age, kind="stable")
        blocks, index = np.unique(block[sort], return_index=True)
        first = rows[sort][index]
        fallback = piece.aux[first] >> tracewords.AUX_MIGRATETYPE_SHIFT & 7
        seen = np.where(extfrag[first], fallback, piece.migratetype[first])
        types[blocks] = pcp_type(seen)
        ages[blocks] = age[sort][index]
    return types
