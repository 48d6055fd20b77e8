"""Code words of operations that are made of a trace's steps."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Final

import numpy as np

from hintbench.core import tracewords
from hintbench.core.constants import NR_PAGE_ORDERS
from hintbench.core.tracepages import GIVE_BACK, HAND_OUT, RETURN, TAKE
from hintbench.operations import Flag, Operation, encode
from hintbench.traces.start import pcp_type

if TYPE_CHECKING:
    import numpy.typing as npt

    from hintbench.traces.steps import Steps
    from hintbench.traces.windows import Window

_OPERATION: Final = {
    TAKE: Operation.TAKE,
    HAND_OUT: Operation.HAND_OUT,
    GIVE_BACK: Operation.GIVE_BACK,
    RETURN: Operation.RETURN,
}


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


@cache
def code_tables() -> tuple[npt.NDArray[np.uint32], ...]:
    """Code words of `allocation_codes` for a compiled loop: the parts of one are or-ed together.

    Returns:
        The operation and its flags by the 16 bits of an event's GFP flags, the migratetype by that
        of the event from -128 on, the order, and, as an array of one, the word of a free.
    """
    gfp = allocation_flags(np.arange(1 << 16, dtype=np.uint32))
    types = pcp_type(np.arange(-128, 128, dtype=np.int16).astype(np.int8))
    return (
        encode(Operation.ALLOCATE, flags=gfp.astype(np.int64)),
        encode(0, migratetype=types.astype(int)),
        encode(0, order=np.arange(NR_PAGE_ORDERS)),
        encode(np.array([int(Operation.FREE)])),
    )


def allocation_codes(found: Window, steps: Steps) -> npt.NDArray[np.uint32]:
    """Codes of allocations. Compaction takes movable pages, alloc_pages_bulk unmovable ones."""
    trace = found.trace
    by_compaction = trace.flags[steps.row] & tracewords.BY_KCOMPACTD != 0
    migratetype = np.where(
        steps.derived, by_compaction.astype(np.int8), pcp_type(trace.migratetype[steps.row])
    )
    return _encode(Operation.ALLOCATE, steps, migratetype, _flags(found, steps))


def exact_codes(found: Window, steps: Steps) -> npt.NDArray[np.uint32]:
    """Codes of the operations that name their page."""
    operation = np.zeros(max(_OPERATION) + 1, dtype=np.uint32)
    for action, code in _OPERATION.items():
        operation[action] = code
    flags = np.where(steps.action == HAND_OUT, _flags(found, steps), np.uint32(0))
    taken = (steps.action == TAKE) & ~steps.derived
    flags[taken & np.isin(steps.row, found.claims)] = Flag.CLAIM
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


def _flags(found: Window, steps: Steps) -> npt.NDArray[np.uint32]:
    """How each block was asked for; one that nobody announced is written by its owner."""
    told = allocation_flags(found.trace.flags[steps.row])
    return np.where(steps.derived, np.uint32(Flag.TOUCHED), told).astype(np.uint32)
