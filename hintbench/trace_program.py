"""Tapes made of a kernel trace: a modelled replay, and an exact one.

*Modelled*: the allocations and frees of the trace, by CPU and time, drive the guest's own
per-CPU lists and buddy. *Exact*: every take, hand-out, give-back and return names the page that
the kernel chose, so that the free lists are those of the real machine.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np

from hintbench.core import tracepages, tracetext
from hintbench.core.constants import PAGEBLOCK_ORDER
from hintbench.core.tracepages import BUDDY, GIVE_BACK, HAND_OUT, OUT, PCP, RETURN, TAKE
from hintbench.errors import TraceError
from hintbench.operations import Flag, Operation, OperationBlock, encode
from hintbench.trace_history import PCP_ORDERS, History, history
from hintbench.trace_state import FreeBlocks, free_blocks
from hintbench.workload import Program

if TYPE_CHECKING:
    import numpy.typing as npt

    from hintbench.traces import Trace

BLOCK_OPERATIONS: Final = 1 << 16
UNKNOWN_TYPE: Final = 255
# vmstat_update() is due every second; with HZ=250 the timer wheel makes 1.024 s of it.
_TICK_NS: Final = 1_024_000_000
# An idle CPU's chain of ticks has stopped, and starts again about two seconds after it wakes.
_FIRST_TICK_NS: Final = 2 * _TICK_NS
_TICKS_AFTER_WAKING: Final = 6
_IDLE_NS: Final = 1_000_000_000
_SAME_TICK_NS: Final = 200_000_000
_OPERATION: Final = {
    TAKE: Operation.TAKE,
    HAND_OUT: Operation.HAND_OUT,
    GIVE_BACK: Operation.GIVE_BACK,
    RETURN: Operation.RETURN,
}


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
        alloc_factor: pcp->alloc_factor of each CPU, from the size of its first refill.
        vmstat_ticks_ns: For each CPU the times at which vmstat_update() decays its lists: those
            that the trace shows, and likely ones in between [virtual ns].
        begin_ns: The trace's own time that is the virtual time 0.
        end_ns: The virtual time of the last event.
        history: What the tapes were made from.
        derived: Steps without an event, by reason.
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
    alloc_factor: tuple[int, ...]
    vmstat_ticks_ns: tuple[npt.NDArray[np.int64], ...]
    begin_ns: int
    end_ns: int
    history: History
    derived: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class _Tape:
    """Operations of all CPUs in the order of the trace."""

    cpu: npt.NDArray[np.int16]
    code: npt.NDArray[np.uint32]
    value: npt.NDArray[np.int32]
    time_ns: npt.NDArray[np.int64]

    def programs(self, vcpus: int) -> tuple[Iterator[OperationBlock], ...]:
        return tuple(self._of(cpu) for cpu in range(vcpus))

    def _of(self, cpu: int) -> Iterator[OperationBlock]:
        rows = np.flatnonzero(self.cpu == cpu)
        for low in range(0, len(rows), BLOCK_OPERATIONS):
            some = rows[low : low + BLOCK_OPERATIONS]
            yield OperationBlock(self.code[some], self.value[some], self.time_ns[some])


def modelled_program(
    trace: Trace,
    *,
    vcpus: int,
    free: npt.NDArray[np.bool_] | None = None,
    kernel: str = "6.12",
) -> Program:
    """Let a trace's allocations and frees drive the modelled guest.

    A page freed twice in the trace's text (mm_page_free and mm_page_free_batched) is freed once,
    at the time of the batched line, when the kernel put it on the per-CPU list.

    Args:
        trace: The trace.
        vcpus: vCPUs of the guest.
        free: Which pages were free when /proc/kpageflags was dumped, if that is known; the
            replay then begins there.
        kernel: The guest's kernel preset.

    Raises:
        TraceError: When the guest has fewer vCPUs than the trace has CPUs.
    """
    _check_cpus(trace, vcpus)
    begin, end = replayed_rows(trace) if free is not None else (0, len(trace))
    found = history(trace, free, begin=begin, end=end, kernel=kernel)
    rows, is_free, pfn, order = _allocations_and_frees(found)
    pages_freed = int((1 << order[is_free == 1].astype(np.int64)).sum())
    walk = tracepages.SlotWalk(len(found.first), len(rows), pages_freed)
    operation, slot = walk.walk(is_free, pfn, order)
    if walk.slots() >= 1 << 31:
        raise TraceError("the trace has more allocations than slots can be numbered")
    last_entry = np.ones(len(operation), dtype=bool)
    last_entry[:-1] = operation[1:] != operation[:-1]
    allocates = last_entry & (is_free[operation] == 0)
    row = rows[operation]
    happens = np.where(allocates, row, found.commit[row])
    codes = np.full(len(operation), Operation.FREE, dtype=np.uint32)
    codes[allocates] = _allocation_codes(found, row[allocates], order[operation[allocates]])
    place = np.argsort(happens, kind="stable")
    tape = _Tape(
        trace.cpu[happens[place]],
        codes[place],
        slot[place].astype(np.int32),
        trace.time_ns[happens[place]] - _begin_ns(trace, begin),
    )
    in_use = walk.in_use_at_start()
    return Program(
        slots=walk.slots(),
        tapes=tape.programs(vcpus),
        operations=len(operation),
        initial=_start(found, free, in_use, exact=False),
    )


def exact_program(
    trace: Trace,
    free: npt.NDArray[np.bool_],
    *,
    vcpus: int,
    kernel: str = "6.12",
) -> Program:
    """Let a guest follow the kernel's own choices, page by page.

    The tapes begin where /proc/kpageflags was dumped and end at the second dump, if the markers
    of the trace say so. The time stamps of all operations are different and in the order of the
    trace, since the text only has microseconds.

    Args:
        trace: The trace.
        free: Which pages were free at the first dump (`trace_state.read_page_flags`).
        vcpus: vCPUs of the guest.
        kernel: The guest's kernel preset.

    Raises:
        TraceError: When the guest has fewer vCPUs than the trace has CPUs, or the page flags
            cover less than the trace names.
    """
    _check_cpus(trace, vcpus)
    if len(free) < trace.page_count:
        raise TraceError(
            f"the page flags cover {len(free)} pages, the trace names page"
            f" {trace.page_count - 1:#x}: they are not of one machine"
        )
    begin, end = replayed_rows(trace)
    found = history(trace, free, begin=begin, end=end, kernel=kernel)
    row, action, pfn, order = steps_in_order(found)
    operation = np.zeros(max(_OPERATION) + 1, dtype=np.uint32)
    for what, code in _OPERATION.items():
        operation[what] = code
    codes = encode(operation[action], order, np.clip(trace.migratetype[row], 0, 3))
    hands_out = action == HAND_OUT
    codes[hands_out] |= allocation_flags(trace.flags[row[hands_out]])
    tape = _Tape(
        trace.cpu[row],
        codes,
        pfn.astype(np.int32),
        _distinct_times(trace.time_ns[row] - _begin_ns(trace, begin)),
    )
    in_use = np.flatnonzero(found.first == OUT).astype(np.int32)
    none = np.full(len(in_use), -1, dtype=np.int32)
    return Program(
        slots=0,
        tapes=tape.programs(vcpus),
        operations=len(row),
        initial=_start(
            found, free, (in_use, np.zeros(len(in_use), dtype=np.int8), none), exact=True
        ),
    )


def replayed_rows(trace: Trace) -> tuple[int, int]:
    """The rows between the first and the second dump of /proc/kpageflags that markers tell of.

    Without markers all rows; without a second one, all rows behind the first.
    """
    first = trace.row_of_mark(["kpageflags-dumped"])
    if first is None:
        return 0, len(trace)
    second = trace.row_of_mark(["kpageflags-dumped"], after=first)
    return first + 1, len(trace) if second is None else second


def steps_in_order(
    found: History,
) -> tuple[
    npt.NDArray[np.int64], npt.NDArray[np.uint8], npt.NDArray[np.int64], npt.NDArray[np.int8]
]:
    """All that happened to pages, events and derived steps, in order.

    Returns:
        For each step the row it stands beside, its action, first page and order. A free of an
        order that per-CPU lists do not keep is followed by the return to the buddy.
    """
    trace = found.trace
    rows = np.flatnonzero(found.action[found.begin : found.end]) + found.begin
    action = found.action[rows]
    direct = rows[
        (action == GIVE_BACK) & (PCP_ORDERS[found.kernel] >> found.order[rows].astype(int) & 1 == 0)
    ]
    steps = found.derived
    row = np.concatenate([rows, direct, np.array([step.row for step in steps], dtype=np.int64)])
    # Before the event, the event, behind it.
    phase = np.concatenate(
        [
            np.ones(len(rows), dtype=np.int8),
            np.full(len(direct), 2, dtype=np.int8),
            np.array([3 if step.after else 0 for step in steps], dtype=np.int8),
        ]
    )
    actions = np.concatenate(
        [
            action,
            np.full(len(direct), RETURN, dtype=np.uint8),
            np.array([step.action for step in steps], dtype=np.uint8),
        ]
    )
    pfn = np.concatenate(
        [trace.pfn[rows], trace.pfn[direct], np.array([s.pfn for s in steps], dtype=np.int64)]
    )
    order = np.concatenate(
        [found.order[rows], found.order[direct], np.zeros(len(steps), dtype=np.int8)]
    )
    place = np.lexsort((np.arange(len(row)), phase, row))
    return row[place], actions[place], pfn[place], order[place]


def allocation_flags(gfp: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
    """Flags of operations for the flags of `hintbench.core.tracetext`.

    An allocation without __GFP_DIRECT_RECLAIM cannot block: with __GFP_HIGH it is GFP_ATOMIC,
    else it fails at once. What the kernel does not clear its owner writes. SLUB is known by
    asking for a compound block with NOWARN and NORETRY (allocate_slab) without __GFP_MOVABLE.
    """
    flags = np.zeros(len(gfp), dtype=np.uint32)

    def has(bits: int) -> npt.NDArray[np.bool_]:
        return (gfp & np.uint32(bits)) == bits

    flags |= np.where(has(tracetext.GFP_ZERO), Flag.ZERO, Flag.TOUCHED).astype(np.uint32)
    blocks = has(tracetext.GFP_DIRECT_RECLAIM)
    slab = (
        has(tracetext.GFP_COMP | tracetext.GFP_NOWARN | tracetext.GFP_NORETRY)
        & ~has(tracetext.GFP_MOVABLE)
    )
    for flag, when in (
        (Flag.COMPOUND, has(tracetext.GFP_COMP)),
        (Flag.SLAB, slab),
        (Flag.ATOMIC, ~blocks & has(tracetext.GFP_HIGH)),
        (Flag.NORETRY, has(tracetext.GFP_NORETRY) | (~blocks & ~has(tracetext.GFP_HIGH))),
        (Flag.NO_KSWAPD, ~has(tracetext.GFP_KSWAPD_RECLAIM)),
        (Flag.DMA, has(tracetext.GFP_DMA)),
        (Flag.DMA32, has(tracetext.GFP_DMA32)),
        (Flag.MOVABLE_ZONE, has(tracetext.GFP_MOVABLE | tracetext.GFP_HIGHMEM)),
    ):
        flags[when] |= np.uint32(flag)
    return flags


def vmstat_ticks(trace: Trace, begin: int, end: int) -> tuple[npt.NDArray[np.int64], ...]:
    """When vmstat_update() ran on each CPU, on the trace's own clock.

    Drains by a kworker show some runs. The timer is deferrable and stops when nothing is left to
    decay, so others are guessed: after a CPU wakes the first comes two seconds later, then one
    every 1.024 s, six in all (by then pcp->high has decayed to its minimum), none that would be
    within a period before one that was seen.
    """
    ticks = []
    by_worker = trace.flags & tracetext.BY_KWORKER != 0
    for cpu in range(trace.cpus):
        rows = np.flatnonzero(trace.cpu[begin:end] == cpu) + begin
        seen = rows[by_worker[rows] & (trace.kind[rows] == tracetext.PCPU_DRAIN)]
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


def _first_of_each(times: npt.NDArray[np.int64], gap_ns: int) -> npt.NDArray[np.int64]:
    """The times that come more than `gap_ns` after the one before."""
    return times[np.diff(times, prepend=times[:1] - gap_ns - 1) > gap_ns]


def _allocations_and_frees(
    found: History,
) -> tuple[
    npt.NDArray[np.int64], npt.NDArray[np.uint8], npt.NDArray[np.int64], npt.NDArray[np.int8]
]:
    """What fills and empties slots, in the order in which it happened."""
    row, action, pfn, order = steps_in_order(found)
    used = (action == HAND_OUT) | (action == GIVE_BACK)
    return (
        row[used],
        (action[used] == GIVE_BACK).astype(np.uint8),
        pfn[used],
        order[used],
    )


def _allocation_codes(
    found: History, rows: npt.NDArray[np.int64], order: npt.NDArray[np.int8]
) -> npt.NDArray[np.uint32]:
    """Codes of allocations; what has no event of its own is of movable or, in bulk, of any kind."""
    trace = found.trace
    told = trace.kind[rows] == tracetext.PAGE_ALLOC
    migratetype = np.where(told, trace.migratetype[rows], 0)
    by_compaction = trace.flags[rows] & tracetext.BY_KCOMPACTD != 0
    migratetype[~told & by_compaction] = 1
    flags = np.where(told, allocation_flags(trace.flags[rows]), np.uint32(Flag.TOUCHED))
    return encode(Operation.ALLOCATE, order, np.clip(migratetype, 0, 3), flags)


def _start(
    found: History,
    free: npt.NDArray[np.bool_] | None,
    in_use: tuple[npt.NDArray[np.int32], npt.NDArray[np.int8], npt.NDArray[np.int32]],
    *,
    exact: bool,
) -> TraceStart:
    """Gather what is known of the guest at the beginning."""
    trace, begin, end = found.trace, found.begin, found.end
    begin_ns = _begin_ns(trace, begin)
    known_pages = np.flatnonzero(found.first == BUDDY) if free is None else None
    del known_pages
    if free is not None:
        in_use = _with_silent_pages(found, free, in_use)
    return TraceStart(
        exact=exact,
        in_use_pfn=in_use[0],
        in_use_order=in_use[1],
        in_use_slot=in_use[2],
        pcp=_pcp_at_start(found),
        free=None if free is None else free_blocks(free),
        pageblock_type=_pageblock_types(found),
        page_count=len(found.first),
        cpus=trace.cpus,
        alloc_factor=_alloc_factors(found),
        vmstat_ticks_ns=tuple(
            times - begin_ns for times in vmstat_ticks(trace, begin, end)
        ),
        begin_ns=begin_ns,
        end_ns=int(trace.time_ns[end - 1]) - begin_ns if end else 0,
        history=found,
        derived=found.derived_counts(),
    )
