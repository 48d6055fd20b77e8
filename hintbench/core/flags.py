"""Flags per unit: a mark on an aligned range of pages that outlives splits and merges.

A free block's head changes with every split and merge, its units do not; so a strategy keeps
what it knows (mid-hint, told, pending) by ``pfn >> order``.
"""

from collections.abc import Callable
from typing import Any

import cython
import numpy

if cython.compiled:
    from cython.cimports.hintbench.core.clock import VirtualClock
    from cython.cimports.hintbench.core.constants import MAX_PAGE_ORDER
else:
    from hintbench.core.clock import VirtualClock
    from hintbench.core.constants import MAX_PAGE_ORDER
_LINE_ORDER = cython.declare(cython.int, 9)
# Host threads are CPU -1.
_NOBODY = cython.declare(cython.int, -2)


@cython.final
@cython.cclass
class UnitFlags:
    """One named flag for every unit of ``1 << order`` pages.

    Setting, clearing and testing are single atomic operations, as ``set_bit()`` and friends. A
    flag is a bit, so 512 units share a cache line. To set or clear takes the line away from the CPU
    that wrote it last: if that is another one, ``flag_contended_ns`` is paid for the line, else
    ``flag_ns``. A test costs what its caller says, with :class:`HookFilter` or ``guest.spend``.

    A block is given by its first page and its order; one unit by any page of it. Blocks that are
    not inside the guest's memory, and orders above 10, are refused with ``ValueError``.

    Args:
        name: shown in messages.
        order: the unit's order.
        page_count: pages covered.
        guest: charged for what is done to the flags; spins in :meth:`wait_clear`.
        on_clear: called after units were cleared, to wake who waits for that.

    Attributes:
        count: how many units carry it.
        split: told of every change of an in-flight flag, else None; the model's own, as are
            ``guest``, ``on_clear`` and ``watcher``.
    """

    def __init__(
        self,
        name: str,
        order: int,
        page_count: int,
        guest: Any = None,
        on_clear: Callable[["UnitFlags"], None] | None = None,
    ) -> None:
        self.name = name
        self.order = order
        self.count = 0
        self.on_clear = on_clear
        self.guest = guest
        self.clock = None if guest is None else guest.machine.clock
        self.watcher = None
        self.split = None
        lines = (page_count >> order >> _LINE_ORDER) + 1
        writers = numpy.empty(lines, dtype=numpy.int16)
        writers.fill(_NOBODY)
        self.writers = memoryview(writers)
        self.units = memoryview(numpy.zeros((page_count >> order) + 1, dtype=numpy.uint8))

    def any_set(self, pfn: cython.int, order: cython.int) -> cython.int:
        """Whether a unit that overlaps the block of ``1 << order`` pages at ``pfn`` is set."""
        unit: cython.Py_ssize_t = pfn >> self.order
        last: cython.Py_ssize_t = (pfn + (1 << order) - 1) >> self.order
        while unit <= last:
            if self.units[unit]:
                return 1
            unit += 1
        return 0

    def all_set(self, pfn: cython.int, order: cython.int) -> cython.int:
        """Whether every unit that overlaps the block of ``1 << order`` pages at ``pfn`` is set."""
        unit: cython.Py_ssize_t = pfn >> self.order
        last: cython.Py_ssize_t = (pfn + (1 << order) - 1) >> self.order
        while unit <= last:
            if not self.units[unit]:
                return 0
            unit += 1
        return 1

    def forget(self, pfn: cython.int, order: cython.int) -> cython.int:
        """Clear every unit that overlaps the block; the number that were set."""
        unit: cython.Py_ssize_t = pfn >> self.order
        last: cython.Py_ssize_t = (pfn + (1 << order) - 1) >> self.order
        cleared: cython.int = 0
        while unit <= last:
            if self.units[unit]:
                self.units[unit] = 0
                cleared += 1
                if self.split is not None:
                    self.split.unmark(unit << self.order)
            unit += 1
        if cleared and self.clock is not None:
            # Whoever takes or allocates the block writes the line.
            self.writers[(pfn >> self.order) >> _LINE_ORDER] = self.clock.cpu
        self.count -= cleared
        return cleared

    def any(self, pfn: int, order: int = 0) -> bool:
        """Whether any unit that overlaps the block is set."""
        self._check(pfn, order)
        return self.any_set(pfn, order) != 0

    def test(self, pfn: int) -> bool:
        """Whether the unit that ``pfn`` lies in is set."""
        self._check(pfn, 0)
        return self.units[pfn >> self.order] != 0

    def all(self, pfn: int, order: int) -> bool:
        """Whether every unit that overlaps the block is set."""
        self._check(pfn, order)
        return self.all_set(pfn, order) != 0

    def set(self, pfn: int, order: int = 0) -> int:
        """Set every unit that overlaps the block; the number that were clear."""
        self._check(pfn, order)
        self._charge(pfn, order)
        changed: cython.int = 0
        unit: cython.Py_ssize_t = pfn >> self.order
        last: cython.Py_ssize_t = (pfn + (1 << order) - 1) >> self.order
        while unit <= last:
            if not self.units[unit]:
                self.units[unit] = 1
                changed += 1
                if self.split is not None:
                    self.split.mark(unit << self.order, self.order)
            unit += 1
        self.count += changed
        if self.watcher is not None:
            self.watcher.flag_set(self, pfn, order)
        return changed

    def clear(self, pfn: int, order: int = 0) -> int:
        """Clear every unit that overlaps the block and wake who waits for it.

        Returns:
            The number of units that were set.
        """
        self._check(pfn, order)
        self._charge(pfn, order)
        changed = self.forget(pfn, order)
        if self.watcher is not None:
            self.watcher.flag_cleared(self, pfn, order)
        if changed and self.on_clear is not None:
            self.on_clear(self)
        return changed

    def test_and_set(self, pfn: int) -> bool:
        """Set the unit of ``pfn``; True when it was set already."""
        return self.set(pfn, 0) == 0

    def find(self, start_pfn: int, end_pfn: int, limit: int = 0) -> list[int]:
        """The first pfns of set units in a range, ascending; charged per word looked at.

        Args:
            start_pfn: first page of the range.
            end_pfn: the first page behind it.
            limit: stop after so many; 0 for all.

        Raises:
            ValueError: the range is not one, or ``limit`` is negative.
        """
        if not 0 <= start_pfn <= end_pfn or limit < 0:
            raise ValueError(
                f"flags {self.name!r}: find from start_pfn {start_pfn:#x} to end_pfn {end_pfn:#x},"
                f" limit {limit}: none may be negative, nor the range end before it begins"
            )
        first: cython.Py_ssize_t = start_pfn >> self.order
        end: cython.Py_ssize_t = min((end_pfn - 1 >> self.order) + 1, len(self.units))
        unit: cython.Py_ssize_t = first
        most: cython.Py_ssize_t = limit
        found: list = []
        while unit < end:
            if self.units[unit]:
                found.append(unit << self.order)
                if len(found) == most:
                    end = unit + 1
            unit += 1
        if self.clock is not None:
            looked = max(end - first, 0)
            self.clock.now += self.clock.costs.flag_ns * (looked // 64 + len(found))
        return found

    async def wait_clear(
        self, pfn: int, order: int = 0, poll: Callable[[], None] | None = None
    ) -> None:
        """Spin until no unit that overlaps the block is set; woken by the clear.

        Args:
            pfn: first page of the block.
            order: its order.
            poll: called in the spinner's context whenever the host has a completion that nobody
                has fetched: what lets an acknowledgement through while every vCPU spins with
                interrupts off.
        """
        await self.guest.spin_while(lambda: self.any(pfn, order), poll)

    def set_units(self) -> list[int]:
        """The first pfn of every unit that is set, in order."""
        return [int(unit) << self.order for unit in numpy.flatnonzero(numpy.asarray(self.units))]

    def _charge(self, pfn: cython.int, order: cython.int) -> cython.int:
        """An atomic operation on each line that holds a flag of the block."""
        clock: VirtualClock = self.clock
        line: cython.Py_ssize_t = pfn >> self.order >> _LINE_ORDER
        last: cython.Py_ssize_t = (pfn + (1 << order) - 1) >> self.order >> _LINE_ORDER
        if clock is None:
            return 0
        while line <= last:
            if self.writers[line] == clock.cpu or self.writers[line] == _NOBODY:
                clock.now += clock.costs.flag_ns
            else:
                clock.now += clock.costs.flag_contended_ns
            self.writers[line] = clock.cpu
            line += 1
        return 0

    def _check(self, pfn: cython.longlong, order: cython.longlong) -> cython.int:
        if not 0 <= order <= MAX_PAGE_ORDER:
            raise ValueError(f"flags {self.name!r}: order is {order}, not in 0..{MAX_PAGE_ORDER}")
        if pfn < 0 or (pfn + (1 << order) - 1) >> self.order >= len(self.units):
            raise ValueError(
                f"flags {self.name!r}: pfn {pfn:#x} order {order} is outside the guest's memory"
            )
        return 0
