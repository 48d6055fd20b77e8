"""What tapes are commonly made of: random draws, shuffles, ranges of slots, mappings.

Nothing here depends on how numpy turns raw draws into numbers, which it does not promise between
versions: the raw stream of PCG64 is stable, and the rest is integer arithmetic.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from hintbench.operations import (
    HUGE_PAGE,
    USER_PAGE,
    Flag,
    Migratetype,
    OperationBlock,
    allocate,
    encode,
    free,
)

BLOCK_OPERATIONS: Final = 65_536
"""About how many operations a block should hold: few enough to stay in the cache."""
HUGE_PAGE_ORDER: Final = 9
HUGE_PAGE_PAGES: Final = 1 << HUGE_PAGE_ORDER

Indices = npt.NDArray[np.int64]


class Draws:
    """A stream of random whole numbers, the same on every machine and with every numpy."""

    def __init__(self, seed: int, *stream: int) -> None:
        """Start a stream.

        Args:
            seed: The seed of the run.
            *stream: Numbers that tell this stream from others of the same seed, such as the vCPU.
        """
        self._generator = np.random.PCG64([seed, *stream])

    def raw(self, count: int) -> npt.NDArray[np.uint64]:
        """Draw numbers below 2**64.

        Args:
            count: How many.
        """
        return np.asarray(self._generator.random_raw(count), dtype=np.uint64)

    def below(self, bound: npt.ArrayLike, count: int) -> Indices:
        """Draw numbers from 0 to just under a bound.

        Args:
            bound: The bound, at most 2**32, or one for each draw.
            count: How many numbers.
        """
        upper = self.raw(count) >> np.uint64(32)
        scaled = upper * np.asarray(bound, dtype=np.uint64) >> np.uint64(32)
        return scaled.astype(np.int64)

    def choose(self, weights: Sequence[int], count: int) -> Indices:
        """Draw indices, each as often as its weight says.

        Args:
            weights: Whole weights, not all 0, together at most 2**32.
            count: How many indices.
        """
        edges = np.cumsum(np.asarray(weights, dtype=np.int64))
        drawn = self.below(edges[-1], count)
        return np.searchsorted(edges, drawn, side="right").astype(np.int64)


class Shuffle:
    """A random order of 0..size-1 that takes no memory, however many there are.

    Calling it maps positions to what stands there. It mixes the bits of a number in steps that can
    each be undone, and repeats that while the result is not below `size`; so no two positions meet.
    """

    def __init__(self, size: int, draws: Draws) -> None:
        """Choose an order.

        Args:
            size: How many numbers to shuffle, at most 2**31.
            draws: Where the order comes from.
        """
        self._size = np.uint64(size)
        bits = max(2, (size - 1).bit_length())
        self._mask = np.uint64((1 << bits) - 1)
        self._shift = np.uint64((bits + 1) // 2)
        keys = draws.raw(8) & self._mask
        self._steps = [(keys[i] | np.uint64(1), keys[i + 4]) for i in range(4)]

    def __call__(self, positions: npt.ArrayLike) -> Indices:
        """Look up what stands at positions.

        Args:
            positions: In 0..size-1.
        """
        values = self._mix(np.asarray(positions, dtype=np.uint64))
        outside = np.flatnonzero(values >= self._size)
        while outside.size:
            again = self._mix(values[outside])
            values[outside] = again
            outside = outside[again >= self._size]
        return values.astype(np.int64)

    def _mix(self, values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
        for factor, summand in self._steps:
            values = (values * factor + summand) & self._mask
            values = values ^ (values >> self._shift)
        return values


def user_flags(order: int, zero: bool = True) -> Flag:
    """Flags of a user's block, which is compound above order 0.

    Args:
        order: Its order.
        zero: Whether the guest clears it.
    """
    flags = USER_PAGE if zero else Flag.MOVABLE_ZONE
    return flags | Flag.COMPOUND if order else flags


def spans(start: int, stop: int, most: int = BLOCK_OPERATIONS) -> Iterator[tuple[int, int]]:
    """Cut a range into pieces that fit a block.

    Args:
        start: First number.
        stop: The number after the last.
        most: The largest piece.

    Yields:
        First number of a piece, and the number after its last.
    """
    for first in range(start, stop, most):
        yield first, min(first + most, stop)


def pieces(make: Callable[[Indices], OperationBlock], slots: Indices) -> Iterator[OperationBlock]:
    """Do one thing with each of many slots.

    Args:
        make: What is done, such as `operations.free`.
        slots: With which, in this order.

    Yields:
        Blocks of at most `BLOCK_OPERATIONS`.
    """
    for first, last in spans(0, len(slots)):
        yield make(slots[first:last])


def allocate_coded(codes: npt.ArrayLike, slots: npt.ArrayLike) -> OperationBlock:
    """Allocate slots with packed codes.

    Args:
        codes: As `operations.encode` packs them; they repeat if they are fewer than the slots.
        slots: One for each allocation.
    """
    value = np.asarray(slots, dtype=np.int32)
    pattern = np.atleast_1d(np.asarray(codes, dtype=np.uint32))
    # Rows of the pattern: numpy's own resize takes twenty times as long.
    rows = -(-len(value) // len(pattern))
    code = np.broadcast_to(pattern, (rows, len(pattern))).ravel()[: len(value)].copy()
    return OperationBlock(code, value, np.zeros(len(value), dtype=np.int64))


def allocate_range(
    start: int,
    stop: int,
    *,
    order: int = 0,
    migratetype: Migratetype = Migratetype.MOVABLE,
    flags: Flag = USER_PAGE,
) -> Iterator[OperationBlock]:
    """Fill slots, one after the other.

    Args:
        start: The first slot.
        stop: The slot after the last.
        order: Of every block.
        migratetype: Of every block.
        flags: Of every allocation.

    Yields:
        Blocks of at most `BLOCK_OPERATIONS`.
    """
    for first, last in spans(start, stop):
        slots = np.arange(first, last)
        yield allocate(slots, order=order, migratetype=migratetype, flags=flags)


def free_range(start: int, stop: int) -> Iterator[OperationBlock]:
    """Free slots, one after the other.

    Args:
        start: The first slot.
        stop: The slot after the last.

    Yields:
        Blocks of at most `BLOCK_OPERATIONS`.
    """
    for first, last in spans(start, stop):
        yield free(np.arange(first, last))


class AnonymousMapping:
    """Anonymous memory of a process: ranges of 2 MiB, each one huge page or 512 small ones.

    A fault on a range's first page also allocates its page table (pte_alloc_one; a huge page
    deposits one), so every range costs one unmovable page more. Unmapping frees the pages in the
    order of their addresses and then the page tables (unmap_vmas, free_pgtables).

    Attributes:
        slots: How many slots the mapping uses.
        stop: The slot after its last.
    """

    PAGES_A_RANGE: Final = HUGE_PAGE_PAGES + 1
    """What a range takes of the guest's memory [pages of 4 KiB]."""

    def __init__(self, first_slot: int, huge: npt.NDArray[np.bool_]) -> None:
        """Lay a mapping out.

        Args:
            first_slot: Where its slots begin.
            huge: For each range whether it is a huge page.
        """
        self._huge = huge
        self._tables = first_slot
        self._pages = first_slot + len(huge)
        counts = np.where(huge, 1, HUGE_PAGE_PAGES)
        self._offsets = np.concatenate(([0], np.cumsum(counts)))
        self.slots = len(huge) + int(self._offsets[-1])
        self.stop = first_slot + self.slots

    def fault_in(self) -> Iterator[OperationBlock]:
        """Touch every page for the first time, in the order of the addresses."""
        for first, last in spans(0, len(self._huge), BLOCK_OPERATIONS // HUGE_PAGE_PAGES):
            yield self._fault_in_ranges(first, last)

    def unmap(self) -> Iterator[OperationBlock]:
        """Give everything back."""
        yield from free_range(self._pages, self.stop)
        yield from free_range(self._tables, self._pages)

    def _fault_in_ranges(self, first: int, last: int) -> OperationBlock:
        huge = self._huge[first:last]
        offsets = self._offsets[first : last + 1]
        # Each page moves back by the page tables of its own and all earlier ranges.
        tables = offsets[:-1] - offsets[0] + np.arange(len(huge))
        is_page = np.ones(int(offsets[-1] - offsets[0]) + len(huge), dtype=np.bool_)
        is_page[tables] = False
        slots = np.empty(len(is_page), dtype=np.int64)
        slots[tables] = np.arange(first, last) + self._tables
        slots[is_page] = np.arange(offsets[0], offsets[-1]) + self._pages
        code = np.where(is_page, _SMALL_FAULT, _TABLE_FAULT)
        code[tables[huge] + 1] = _HUGE_FAULT
        return allocate_coded(code, slots)


_SMALL_FAULT: Final = encode(0, 0, Migratetype.MOVABLE, USER_PAGE)
_HUGE_FAULT: Final = encode(0, HUGE_PAGE_ORDER, Migratetype.MOVABLE, HUGE_PAGE)
_TABLE_FAULT: Final = encode(0, 0, Migratetype.UNMOVABLE, Flag.ZERO)
