"""Tapes made of a kernel trace: a modelled replay, and an exact one.

*Modelled*: the allocations and frees of the trace, by CPU and time, drive the guest's own
per-CPU lists and buddy. *Exact*: every take, hand-out, give-back and return names the page that
the kernel chose, so that the free lists are those of the real machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from hintbench.core import tracepages, tracewords
from hintbench.core.tracepages import GIVE_BACK, HAND_OUT, RETURN, TAKE
from hintbench.errors import TraceError
from hintbench.operations import Flag, Operation, OperationBlock, encode, idle_until
from hintbench.trace_contradictions import check_page_flags
from hintbench.trace_fit import check_cpus, name_of
from hintbench.trace_history import History, history
from hintbench.trace_start import begin_time_ns, end_time_ns, pcp_type, start_of
from hintbench.trace_steps import Steps, steps_in_order
from hintbench.workload import Program

if TYPE_CHECKING:
    import numpy.typing as npt

    from hintbench.trace_events import Trace

BLOCK_OPERATIONS: Final = 1 << 16
_OPERATION: Final = {
    TAKE: Operation.TAKE,
    HAND_OUT: Operation.HAND_OUT,
    GIVE_BACK: Operation.GIVE_BACK,
    RETURN: Operation.RETURN,
}


@dataclass(frozen=True, slots=True, eq=False)
class _Slots:
    """Which slot each allocation fills and each free empties.

    Attributes:
        operation: For each entry the step among the allocations and frees; int32.
        slot: The slot; int32.
        count: Number of slots.
    """

    operation: npt.NDArray[np.int32]
    slot: npt.NDArray[np.int32]
    count: int


@dataclass(frozen=True, slots=True, eq=False)
class _Tape:
    """Operations of all CPUs in the order of the trace, which lasts until `end_ns`."""

    cpu: npt.NDArray[np.int16]
    code: npt.NDArray[np.uint32]
    value: npt.NDArray[np.int32]
    time_ns: npt.NDArray[np.int64]
    end_ns: int

    def programs(self, vcpus: int) -> tuple[Iterator[OperationBlock], ...]:
        return tuple(self._of(cpu) for cpu in range(vcpus))

    def _of(self, cpu: int) -> Iterator[OperationBlock]:
        rows = np.flatnonzero(self.cpu == cpu)
        for low in range(0, len(rows), BLOCK_OPERATIONS):
            some = rows[low : low + BLOCK_OPERATIONS]
            yield OperationBlock(self.code[some], self.value[some], self.time_ns[some])
        yield idle_until([self.end_ns])


def modelled_program(
    trace: Trace,
    *,
    vcpus: int,
    free: npt.NDArray[np.bool_] | None = None,
    free_at_end: npt.NDArray[np.bool_] | None = None,
    movable: npt.NDArray[np.bool_] | None = None,
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
        free_at_end: Which pages were free at the second dump, to compare with.
        movable: Which pages were on an LRU list at the first dump (`trace_state.read_lru_pages`).
        kernel: The guest's kernel preset.

    Raises:
        TraceError: When the guest has fewer vCPUs than the trace has CPUs, or the page flags are
            not of this trace.
    """
    check_cpus(trace, vcpus)
    begin, end = replayed_rows(trace) if free is not None else (0, len(trace))
    found = history(trace, free, begin=begin, end=end, kernel=kernel)
    if free is not None:
        check_page_flags(found, free)
    used, moved = _without_compaction(found, steps_in_order(found))
    walk, in_use = _slots(found, used, moved)
    return Program(
        slots=walk.count,
        # Before the tape, which is as long as the trace: what this needs is gone by then.
        initial=start_of(
            found,
            free,
            in_use,
            free_at_end,
            exact=False,
            movable=movable,
            moves=used.row[moved >= 0],
        ),
        tapes=_modelled_tape(found, used, walk).programs(vcpus),
        operations=len(walk.operation),
    )


def _modelled_tape(found: History, used: Steps, walk: _Slots) -> _Tape:
    """Allocations, and frees when they reach the per-CPU lists, in the order of the trace."""
    trace = found.trace
    row = used.row[walk.operation]
    # An allocation's last entry fills its slot; all other entries empty one.
    fills = used.action[walk.operation] == HAND_OUT
    fills[:-1] &= walk.operation[1:] != walk.operation[:-1]
    codes = np.full(len(row), Operation.FREE, dtype=np.uint32)
    filling = walk.operation[fills]
    filled = np.empty(len(filling), dtype=np.uint32)
    for low in range(0, len(filling), BLOCK_OPERATIONS):
        some = slice(low, low + BLOCK_OPERATIONS)
        filled[some] = _allocation_codes(found, used.only(filling[some]))
    codes[fills] = filled
    happens = np.where(fills, row, found.commit[row])
    place = np.argsort(happens, kind="stable")
    happens = happens[place]
    return _Tape(
        trace.cpu[happens],
        codes[place],
        walk.slot[place],
        trace.time_ns[happens] - begin_time_ns(trace, found.begin),
        end_time_ns(trace, found.begin, found.end),
    )


def exact_program(
    trace: Trace,
    free: npt.NDArray[np.bool_],
    *,
    vcpus: int,
    free_at_end: npt.NDArray[np.bool_] | None = None,
    movable: npt.NDArray[np.bool_] | None = None,
    kernel: str = "6.12",
    check: bool = False,
) -> Program:
    """Let a guest follow the kernel's own choices, page by page.

    The tapes begin where /proc/kpageflags was dumped and end at the second dump, if the markers
    of the trace say so. The time stamps of all operations are different and in the order of the
    trace, since the text only has microseconds.

    Args:
        trace: The trace.
        free: Which pages were free at the first dump (`trace_state.read_page_flags`).
        vcpus: vCPUs of the guest.
        free_at_end: Which pages were free at the second dump, to compare with.
        movable: Which pages were on an LRU list at the first dump (`trace_state.read_lru_pages`).
        kernel: The guest's kernel preset.
        check: Ask the model at every choice what it would have chosen.

    Raises:
        TraceError: When the guest has fewer vCPUs than the trace has CPUs, or the page flags
            cover less than the trace names or are not of this trace.
    """
    check_cpus(trace, vcpus)
    if len(free) < trace.page_count:
        raise TraceError(
            f"the page flags cover {len(free)} pages, {name_of(trace)} names page"
            f" {trace.page_count - 1:#x}: they are not of one machine"
        )
    begin, end = replayed_rows(trace)
    found = history(trace, free, begin=begin, end=end, kernel=kernel)
    check_page_flags(found, free)
    steps = steps_in_order(found)
    tape = _Tape(
        trace.cpu[steps.row],
        _exact_codes(found, steps),
        steps.pfn.astype(np.int32),
        _distinct_times(trace.time_ns[steps.row] - begin_time_ns(trace, begin)),
        end_time_ns(trace, begin, end),
    )
    used = steps.only((steps.action == HAND_OUT) | (steps.action == GIVE_BACK))
    in_use = _slots(found, used, np.full(len(used.row), -1, dtype=np.int64))[1]
    in_use = (in_use[0], in_use[1], np.full(len(in_use[0]), -1, dtype=np.int32))
    return Program(
        slots=0,
        tapes=tape.programs(vcpus),
        operations=len(steps.row),
        initial=start_of(
            found, free, in_use, free_at_end, exact=True, movable=movable, check=check
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


def allocation_flags(gfp: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
    """Flags of operations for the flags of `hintbench.core.tracewords`.

    An allocation without __GFP_DIRECT_RECLAIM cannot block: with __GFP_HIGH it is GFP_ATOMIC,
    else it fails at once. What the kernel does not clear its owner writes. SLUB is known by
    asking for a compound block with NOWARN and NORETRY (allocate_slab) without __GFP_MOVABLE.
    """
    flags = np.zeros(len(gfp), dtype=np.uint32)

    def has(bits: int) -> npt.NDArray[np.bool_]:
        return (gfp & np.uint32(bits)) == bits

    flags |= np.where(has(tracewords.GFP_ZERO), Flag.ZERO, Flag.TOUCHED).astype(np.uint32)
    blocks = has(tracewords.GFP_DIRECT_RECLAIM)
    slab = has(tracewords.GFP_COMP | tracewords.GFP_NOWARN | tracewords.GFP_NORETRY) & ~has(
        tracewords.GFP_MOVABLE
    )
    for flag, when in (
        (Flag.COMPOUND, has(tracewords.GFP_COMP)),
        (Flag.SLAB, slab),
        (Flag.ATOMIC, ~blocks & has(tracewords.GFP_HIGH)),
        (Flag.NORETRY, has(tracewords.GFP_NORETRY) | (~blocks & ~has(tracewords.GFP_HIGH))),
        (Flag.NO_KSWAPD, ~has(tracewords.GFP_KSWAPD_RECLAIM)),
        (Flag.DMA, has(tracewords.GFP_DMA)),
        (Flag.DMA32, has(tracewords.GFP_DMA32)),
        (Flag.MOVABLE_ZONE, has(tracewords.GFP_MOVABLE | tracewords.GFP_HIGHMEM)),
    ):
        flags[when] |= np.uint32(flag)
    return flags


def _without_compaction(found: History, steps: Steps) -> tuple[Steps, npt.NDArray[np.int64]]:
    """Allocations and frees, with each page that compaction moved as one step.

    The model's own kcompactd moves as many pages, those of its choice. For the tapes the owner of
    a page only goes on with another one: the step that hands the destination out becomes the move,
    and the free of its source goes; so do pages that compaction took and did not need.

    Returns:
        The steps, and for each one the page that was left, or -1 when it is no move.
    """
    trace = found.trace
    used = steps.only((steps.action == HAND_OUT) | (steps.action == GIVE_BACK))
    row = used.row
    by_compaction = (
        used.derived
        & (used.action == HAND_OUT)
        & (trace.flags[row] & tracewords.BY_KCOMPACTD != 0)
        & (found.action[row] == GIVE_BACK)
        & (found.commit[row] == row)
    )
    # Taken and given back by compaction itself, for want of something to move there.
    unused = by_compaction & (trace.pfn[row] == used.pfn)
    moves = by_compaction & ~unused & (used.order == 0) & (found.order[row] == 0)
    index = np.flatnonzero(moves)
    # A source has one destination; what else stands beside its free was handed out otherwise.
    _, first = np.unique(row[index], return_index=True)
    index = index[first]
    moved = np.full(len(row), -1, dtype=np.int64)
    moved[index] = trace.pfn[row[index]]
    gone = unused | (~used.derived & np.isin(row, np.concatenate([row[index], row[unused]])))
    return used.only(~gone), moved[~gone]


def _slots(
    found: History, used: Steps, moved: npt.NDArray[np.int64]
) -> tuple[_Slots, tuple[npt.NDArray[np.int32], npt.NDArray[np.int8], npt.NDArray[np.int32]]]:
    """Number the slots; the second part is what was in use at the start: pfn, order, slot.

    Args:
        found: The trace, understood.
        used: Allocations, frees and moves, in order.
        moved: For each the page that a move leaves, or -1.
    """
    what = np.where(used.action == GIVE_BACK, tracepages.EMPTY, tracepages.FILL).astype(np.uint8)
    what[moved >= 0] = tracepages.MOVE
    leaving = what != tracepages.FILL
    pages = int((1 << used.order[leaving].astype(np.int64)).sum())
    walk = tracepages.SlotWalk(len(found.first), len(what), pages)
    operation, slot = walk.walk(what, used.pfn, used.order, moved)
    return _Slots(operation, slot, walk.slots()), walk.in_use_at_start()


def _allocation_codes(found: History, steps: Steps) -> npt.NDArray[np.uint32]:
    """Codes of allocations. Compaction takes movable pages, alloc_pages_bulk unmovable ones."""
    trace = found.trace
    by_compaction = trace.flags[steps.row] & tracewords.BY_KCOMPACTD != 0
    migratetype = np.where(
        steps.derived, by_compaction.astype(np.int8), pcp_type(trace.migratetype[steps.row])
    )
    return _encode(Operation.ALLOCATE, steps, migratetype, _flags(found, steps))


def _exact_codes(found: History, steps: Steps) -> npt.NDArray[np.uint32]:
    """Codes of the operations that name their page."""
    operation = np.zeros(max(_OPERATION) + 1, dtype=np.uint32)
    for action, code in _OPERATION.items():
        operation[action] = code
    flags = np.where(steps.action == HAND_OUT, _flags(found, steps), np.uint32(0))
    taken = (steps.action == TAKE) & ~steps.derived
    flags[taken & found.claim[steps.row]] = Flag.CLAIM
    fallback = taken & ((found.trace.kind[steps.row] == tracewords.EXTFRAG) | (flags != 0))
    chosen = (steps.action == TAKE) | (steps.action == HAND_OUT)
    flags[fallback | (chosen & steps.derived)] |= np.uint32(Flag.SILENT)
    migratetype = np.where(steps.derived, 1, pcp_type(found.trace.migratetype[steps.row]))
    return _encode(operation[steps.action], steps, migratetype, flags)


def _encode(
    operation: npt.ArrayLike,
    steps: Steps,
    migratetype: npt.NDArray[np.integer],
    flags: npt.NDArray[np.integer],
) -> npt.NDArray[np.uint32]:
    """Pack code words from arrays that are too narrow for their bits to be moved."""
    return encode(
        operation, steps.order.astype(int), migratetype.astype(int), flags.astype(np.int64)
    )


def _flags(found: History, steps: Steps) -> npt.NDArray[np.uint32]:
    """How each block was asked for; one that nobody announced is written by its owner."""
    told = allocation_flags(found.trace.flags[steps.row])
    return np.where(steps.derived, np.uint32(Flag.TOUCHED), told).astype(np.uint32)


def _distinct_times(times_ns: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Times that all differ and keep their order; an event a nanosecond is never too many."""
    number = np.arange(len(times_ns), dtype=np.int64)
    return np.maximum.accumulate(times_ns - number) + number
