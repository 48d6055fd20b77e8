"""Operation tapes: what the vCPUs of a guest do, as blocks of three numpy arrays.

Slots belong to the whole guest: an allocation fills one, a free on any vCPU waits until its slot is
filled and empties it, a touch touches all pages of one. A failed allocation leaves its slot such
that touches and the next free of it do nothing.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from hintbench.core import constants

ORDER_SHIFT: Final = 4
MIGRATETYPE_SHIFT: Final = 8
MAX_SLOTS: Final = 1 << 31
Codes: TypeAlias = npt.NDArray[np.uint32]


class Operation(IntEnum):
    """What one entry of a tape does; the four from TAKE on occur only in exact trace replay."""

    ALLOCATE = constants.ALLOCATE
    FREE = constants.FREE
    TOUCH = constants.TOUCH
    COMPUTE = constants.COMPUTE  # the vCPU is busy, but can be interrupted
    IDLE = constants.IDLE  # the vCPU has nothing to do: kernel tasks run on it for free
    TAKE = constants.TAKE
    RETURN = constants.RETURN
    HAND_OUT = constants.HAND_OUT
    GIVE_BACK = constants.GIVE_BACK
    IDLE_UNTIL = constants.IDLE_UNTIL  # as IDLE, up to a virtual time


class Migratetype(IntEnum):
    """Migratetypes as numbered since Linux 4.4."""

    UNMOVABLE = constants.UNMOVABLE
    MOVABLE = constants.MOVABLE
    RECLAIMABLE = constants.RECLAIMABLE
    HIGHATOMIC = constants.HIGHATOMIC


class Flag(IntFlag):
    """How an allocation is made; one with neither ATOMIC nor NORETRY may block."""

    ZERO = constants.FLAG_ZERO  # the guest clears the pages, and touches them by that
    TOUCHED = constants.FLAG_TOUCHED  # the owner writes them at once; no cost of clearing
    COMPOUND = constants.FLAG_COMPOUND
    SLAB = constants.FLAG_SLAB  # in use, though the reference count is 0
    ATOMIC = constants.FLAG_ATOMIC  # GFP_ATOMIC: may not block, uses the reserves
    NORETRY = constants.FLAG_NORETRY  # no __GFP_DIRECT_RECLAIM: fails at once
    DMA = constants.FLAG_DMA  # only from ZONE_DMA
    DMA32 = constants.FLAG_DMA32  # from ZONE_DMA32 or below
    MOVABLE_ZONE = constants.FLAG_MOVABLE_ZONE  # also from ZONE_MOVABLE
    NO_KSWAPD = constants.FLAG_NO_KSWAPD  # without __GFP_KSWAPD_RECLAIM
    CLAIM = constants.FLAG_CLAIM  # of TAKE: the pageblock becomes of this migratetype
    SILENT = constants.FLAG_SILENT  # of TAKE and HAND_OUT: no choice that a model could foretell


USER_PAGE: Final = Flag.ZERO | Flag.MOVABLE_ZONE
"""GFP_HIGHUSER_MOVABLE | __GFP_ZERO: an anonymous page."""
HUGE_PAGE: Final = USER_PAGE | Flag.COMPOUND | Flag.NORETRY | Flag.NO_KSWAPD
"""GFP_TRANSHUGE_LIGHT, as a page fault asks for a huge page where nobody advised one.

That is defrag=madvise without madvise(): neither compaction nor reclaim is tried.
"""
KERNEL_PAGE: Final = Flag.TOUCHED
"""GFP_KERNEL: the kernel's own memory, written but not cleared."""
SLAB_PAGE: Final = Flag.TOUCHED | Flag.COMPOUND | Flag.SLAB
"""What SLUB asks the page allocator for."""

_ALL_FLAGS: Final = int(sum(Flag))
_DTYPES: Final = {"code": np.uint32, "value": np.int32, "time_ns": np.int64}


@dataclass(frozen=True, slots=True, eq=False)
class OperationBlock:
    """A stretch of a tape.

    Attributes:
        code: Operation in bits 0..3, order in 4..7, migratetype in 8..10, flags above; uint32.
        value: Slot, or pfn in exact trace replay; int32.
        time_ns: Earliest start (0: at once), duration of compute and idle, or up to when the vCPU
            is idle [virtual ns]; int64.
    """

    code: Codes
    value: npt.NDArray[np.int32]
    time_ns: npt.NDArray[np.int64]

    def __post_init__(self) -> None:
        for name, dtype in _DTYPES.items():
            array = getattr(self, name)
            if not isinstance(array, np.ndarray) or array.dtype != dtype or array.ndim != 1:
                raise ValueError(f"{name} must be a one-dimensional array of {np.dtype(dtype)}")
        if not len(self.code) == len(self.value) == len(self.time_ns):
            raise ValueError("code, value and time_ns must be equally long")

    def __len__(self) -> int:
        return len(self.code)

    @property
    def operation(self) -> npt.NDArray[np.integer]:
        """The operation of each entry."""
        return self.code & 15

    @property
    def order(self) -> npt.NDArray[np.integer]:
        """The order of each entry; only allocations have one, and a migratetype and flags."""
        return self.code >> ORDER_SHIFT & 15

    @property
    def migratetype(self) -> npt.NDArray[np.integer]:
        """The migratetype of each entry."""
        return self.code >> MIGRATETYPE_SHIFT & 7

    @property
    def flags(self) -> npt.NDArray[np.integer]:
        """The flags of each entry, comparable with `Flag`."""
        return self.code & _ALL_FLAGS


def encode(
    operation: npt.ArrayLike,
    order: npt.ArrayLike = 0,
    migratetype: npt.ArrayLike = 0,
    flags: npt.ArrayLike = 0,
) -> Codes:
    """Pack code words. Arguments are scalars or arrays, which are broadcast.

    Args:
        operation: What each does, of `Operation`.
        order: 0..10.
        migratetype: Of `Migratetype`.
        flags: Of `Flag`, or-ed together.

    Raises:
        ValueError: An argument is out of its range; the message names it.
    """
    _check_range("operation", np.asarray(operation), max(Operation))
    _check_range("order", np.asarray(order), constants.MAX_PAGE_ORDER)
    _check_range("migratetype", np.asarray(migratetype), max(Migratetype))
    bits = np.asarray(flags)
    if bits.dtype.kind not in "iu" or (bits & ~_ALL_FLAGS).any():
        raise ValueError("flags must be made of Flag")
    shifted = np.asarray(order) << ORDER_SHIFT | np.asarray(migratetype) << MIGRATETYPE_SHIFT
    return np.asarray(np.asarray(operation) | shifted | bits, dtype=np.uint32)


def allocate(
    slots: npt.ArrayLike,
    *,
    order: npt.ArrayLike = 0,
    migratetype: npt.ArrayLike = Migratetype.MOVABLE,
    flags: npt.ArrayLike = Flag.ZERO,
    time_ns: npt.ArrayLike = 0,
) -> OperationBlock:
    """Fill each slot with a block. Arguments but the slots may be one value for all of them.

    Args:
        slots: One for each allocation.
        order: Each block has 2**order pages.
        migratetype: Of `Migratetype`.
        flags: How it is asked for, of `Flag`.
        time_ns: Not before this virtual time [ns].

    Raises:
        ValueError: An argument is out of its range.
    """
    return _block(encode(Operation.ALLOCATE, order, migratetype, flags), slots, time_ns)


def free(slots: npt.ArrayLike, time_ns: npt.ArrayLike = 0) -> OperationBlock:
    """Free what each slot holds, waiting for it to be allocated if it is not yet.

    Args:
        slots: One for each free.
        time_ns: Not before this virtual time [ns].
    """
    return _block(encode(Operation.FREE), slots, time_ns)


def touch(slots: npt.ArrayLike, time_ns: npt.ArrayLike = 0) -> OperationBlock:
    """Touch all pages of what each slot holds.

    Args:
        slots: One for each touch.
        time_ns: Not before this virtual time [ns].
    """
    return _block(encode(Operation.TOUCH), slots, time_ns)


def compute(duration_ns: npt.ArrayLike) -> OperationBlock:
    """Keep the vCPU busy; interrupts are taken meanwhile.

    Args:
        duration_ns: For how long, one operation each [virtual ns].
    """
    return _passing(Operation.COMPUTE, "duration_ns", duration_ns)


def idle(duration_ns: npt.ArrayLike) -> OperationBlock:
    """Leave the vCPU without work: tasks run on it for free.

    Args:
        duration_ns: For how long, one operation each [virtual ns].
    """
    return _passing(Operation.IDLE, "duration_ns", duration_ns)


def idle_until(time_ns: npt.ArrayLike) -> OperationBlock:
    """Leave the vCPU without work up to a virtual time; nothing when that has passed.

    Args:
        time_ns: Until when, one operation each [virtual ns since the tapes began].
    """
    return _passing(Operation.IDLE_UNTIL, "time_ns", time_ns)


def concatenate(blocks: Iterable[OperationBlock]) -> OperationBlock:
    """Join blocks one after the other.

    Args:
        blocks: Any number of them; none give an empty block.
    """
    parts = tuple(blocks) or (_block(encode(Operation.FREE), (), 0),)
    return OperationBlock(
        *(np.concatenate([getattr(part, name) for part in parts]) for name in _DTYPES)
    )


def interleave(first: OperationBlock, second: OperationBlock) -> OperationBlock:
    """Alternate between two blocks.

    Args:
        first: Whose operations come first, third ...
        second: As long as that.

    Raises:
        ValueError: They are not equally long.
    """
    if len(first) != len(second):
        raise ValueError(f"blocks of {len(first)} and {len(second)} operations cannot alternate")
    pairs = ((getattr(first, name), getattr(second, name)) for name in _DTYPES)
    return OperationBlock(*(np.column_stack(pair).ravel() for pair in pairs))


def _passing(operation: Operation, name: str, time_ns: npt.ArrayLike) -> OperationBlock:
    """Build a block of operations that use no slot; `name` is that of the argument."""
    _check_range(name, np.asarray(time_ns), constants.NEVER - 1)
    return _block(encode(operation), np.zeros_like(time_ns, np.int32), time_ns)


def _block(code: Codes, slots: npt.ArrayLike, time_ns: npt.ArrayLike) -> OperationBlock:
    """Build a block with one operation a slot; scalars among the rest are repeated."""
    value, time = np.atleast_1d(np.asarray(slots)), np.asarray(time_ns)
    _check_range("slots", value, MAX_SLOTS - 1)
    _check_range("time_ns", time, constants.NEVER - 1)
    codes, times = np.broadcast_to(code, len(value)), np.broadcast_to(time, len(value))
    return OperationBlock(codes.copy(), value.astype(np.int32), times.astype(np.int64))


def _check_range(name: str, array: npt.NDArray[np.integer], most: int) -> None:
    """Refuse anything but whole numbers in a range; an empty array may have any kind."""
    if array.size and (array.dtype.kind not in "iu" or array.min() < 0 or array.max() > most):
        raise ValueError(f"{name} must be whole numbers in 0..{most}")
