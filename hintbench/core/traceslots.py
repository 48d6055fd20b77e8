"""Which slot each allocation of a kernel trace fills and each free empties, window by window.

The memory depends on the pages of the trace, not on its length.
"""

import cython

from hintbench.core import constants, tracepages

_C_HAND_OUT = cython.declare(cython.int, tracepages.HAND_OUT)
_C_GIVE_BACK = cython.declare(cython.int, tracepages.GIVE_BACK)
_FEWEST_CELLS = 1024
_C_LARGEST = cython.declare(cython.int, constants.MAX_PAGE_ORDER)


@cython.final
@cython.cclass
class SlotWalk:
    """Gives every allocation a slot and finds the slots that each free empties.

    What a slot holds is kept in a record while some page still belongs to it. Slots have numbers
    in the order in which they are first used; records are used again.

    Args:
        page_count: pages that the trace can name.
    """

    def __init__(self, page_count: int) -> None:
        import numpy

        # Each record has a page, but for the one that is being made.
        records = page_count + 1
        self.page_record = memoryview(numpy.full(page_count, -1, dtype=numpy.int32))
        self.slot = memoryview(numpy.zeros(records, dtype=numpy.int32))
        self.left = memoryview(numpy.zeros(records, dtype=numpy.int32))
        self.pages = memoryview(numpy.zeros(records, dtype=numpy.int32))
        self.unused = memoryview(numpy.arange(records, dtype=numpy.int32)[::-1].copy())
        self.unused_count = records
        self.emptied = memoryview(numpy.zeros(1 << constants.MAX_PAGE_ORDER, dtype=numpy.int32))
        self.emptied_count = 0
        self.slot_count = 0
        self.starts = []

    def follow(self, action: object, pfn: object, order: object) -> None:
        """Go through allocations and frees of which only the blocks in use at the start matter.

        Args:
            action: HAND_OUT, GIVE_BACK, or what does not concern slots; uint8.
            pfn: first page; int64.
            order: order; int8.
        """
        actions: cython.uchar[::1] = memoryview(action)
        where: cython.longlong[::1] = memoryview(pfn)
        size: cython.schar[::1] = memoryview(order)
        at: cython.Py_ssize_t
        if not len(action) == len(pfn) == len(order):
            raise ValueError("action, pfn and order must be equally long")
        for at in range(len(action)):
            if actions[at] == _C_HAND_OUT:
                self.fill(where[at], size[at])
            elif actions[at] == _C_GIVE_BACK:
                self.empty(where[at], size[at])

    def _check(self, pfn: cython.longlong, order: cython.int) -> cython.int:
        pages: cython.longlong = self.page_record.shape[0]
        if pfn < 0 or order < 0 or order > _C_LARGEST or pfn + (1 << order) > pages:
            raise IndexError("a page of the trace lies beyond the pages that were declared")
        return 0

    def _note(self, record: cython.int) -> cython.int:
        self.emptied[self.emptied_count] = self.slot[record]
        self.emptied_count += 1
        return 0

    def _leave(self, page: cython.Py_ssize_t) -> cython.int:
        """A page no longer belongs to its record."""
        record: cython.int = self.page_record[page]
        if record >= 0:
            self.pages[record] -= 1
            if self.pages[record] == 0:
                self.unused[self.unused_count] = record
                self.unused_count += 1
        return 0

    def _new(self, pfn: cython.longlong, order: cython.int) -> cython.int:
        """The next slot holds a block."""
        page: cython.Py_ssize_t
        if self.slot_count > 0x7FFFFFFE:
            raise OverflowError("a trace cannot have more than 2**31 allocations")
        self.unused_count -= 1
        record: cython.int = self.unused[self.unused_count]
        self.slot[record] = cython.cast(cython.int, self.slot_count)
        self.slot_count += 1
        self.left[record] = self.pages[record] = 1 << order
        for page in range(pfn, pfn + (1 << order)):
            self._leave(page)
            self.page_record[page] = record
        return record

    def fill(self, pfn: cython.longlong, order: cython.int) -> cython.int:
        """A block is allocated: the slot that it fills.

        Slots of pages that were never freed are `emptied` first.
        """
        page: cython.Py_ssize_t
        record: cython.int
        self._check(pfn, order)
        self.emptied_count = 0
        for page in range(pfn, pfn + (1 << order)):
            record = self.page_record[page]
            if record >= 0 and self.left[record] > 0:
                # Its free was lost.
                self.left[record] = 0
                self._note(record)
        record = self._new(pfn, order)
        return self.slot[record]

    def empty(self, pfn: cython.longlong, order: cython.int) -> cython.int:
        """A block is freed; in parts, the last one of them has its slot `emptied`."""
        page: cython.Py_ssize_t
        record: cython.int
        unknown: cython.int = 0
        self._check(pfn, order)
        self.emptied_count = 0
        for page in range(pfn, pfn + (1 << order)):
            if self.page_record[page] < 0:
                unknown += 1
        if unknown == 1 << order:
            self._start(pfn, order)
        elif unknown:
            for page in range(pfn, pfn + (1 << order)):
                if self.page_record[page] < 0:
                    self._start(page, 0)
        for page in range(pfn, pfn + (1 << order)):
            record = self.page_record[page]
            if self.left[record] > 0:
                self.left[record] -= 1
                if self.left[record] == 0:
                    self._note(record)
        return 0

    def move(self, source: cython.longlong, pfn: cython.longlong) -> cython.int:
        """What the slot of one page holds lives on in another."""
        record: cython.int
        self._check(source, 0)
        self._check(pfn, 0)
        if self.page_record[source] < 0:
            self._start(source, 0)
        record = self.page_record[source]
        self.pages[record] += 1
        self._leave(pfn)
        self.page_record[pfn] = record
        self._leave(source)
        self.page_record[source] = -1
        return 0

    def _start(self, pfn: cython.longlong, order: cython.int) -> cython.int:
        """A block in use when the trace began gets the next slot."""
        slot = self.slot_count
        self._new(pfn, order)
        self.starts.append((pfn, order, slot))
        return 0

    def in_use_at_start(self) -> tuple:
        """Blocks in use when the trace began: arrays of pfn, order and slot."""
        import numpy

        pfn, order, slot = numpy.array(self.starts, dtype=numpy.int64).reshape(-1, 3).T
        return pfn.astype(numpy.int32), order.astype(numpy.int8), slot.astype(numpy.int32)


@cython.final
@cython.cclass
class DeferredFrees:
    """Lets frees wait for the line of mm_page_free_batched, when they reach the per-CPU list.

    Args:
        page_count: pages that the trace can name.
    """

    def __init__(self, page_count: int) -> None:
        import numpy

        self.first = memoryview(numpy.full(page_count, -1, dtype=numpy.int32))
        self.last = memoryview(numpy.full(page_count, -1, dtype=numpy.int32))
        self.following = memoryview(numpy.zeros(0, dtype=numpy.int32))
        self.slot = memoryview(numpy.zeros(0, dtype=numpy.int32))
        self.unused = -1
        self.waiting = 0

    def order(self, entries: tuple, settling: object, pfns: object) -> tuple:
        """Put the entries of a window into the order in which they happen.

        Args:
            entries: arrays of row, slot, and of 1 where the entry waits; in the order of rows.
            settling: rows at which the free of their page happens, rising; int64.
            pfns: page of every row.

        Returns:
            Three arrays: row, slot, and which of the entries it is, -1 when it waited.
        """
        import numpy

        rows: cython.longlong[::1] = memoryview(entries[0])
        slots: cython.int[::1] = memoryview(entries[1])
        waits: cython.uchar[::1] = memoryview(entries[2])
        ends: cython.longlong[::1] = memoryview(settling)
        pages: cython.longlong[::1] = memoryview(pfns)
        count: cython.Py_ssize_t = len(entries[0])
        end_count: cython.Py_ssize_t = len(settling)
        most = self.waiting + count
        row_out = numpy.empty(most, dtype=numpy.int64)
        slot_out = numpy.empty(most, dtype=numpy.int32)
        index_out = numpy.empty(most, dtype=numpy.int64)
        new_row: cython.longlong[::1] = memoryview(row_out)
        new_slot: cython.int[::1] = memoryview(slot_out)
        new_index: cython.longlong[::1] = memoryview(index_out)
        written: cython.Py_ssize_t = 0
        at: cython.Py_ssize_t
        end_at: cython.Py_ssize_t = 0
        cell: cython.int
        page: cython.longlong
        for at in range(count + 1):
            while end_at < end_count and (at == count or ends[end_at] <= rows[at]):
                page = pages[ends[end_at]]
                cell = self.first[page]
                self.first[page] = -1
                while cell >= 0:
                    new_row[written] = ends[end_at]
                    new_slot[written] = self.slot[cell]
                    new_index[written] = -1
                    written += 1
                    cell = self.release(cell)
                end_at += 1
            if at == count:
                break
            if waits[at]:
                self.wait(pages[rows[at]], slots[at])
            else:
                new_row[written] = rows[at]
                new_slot[written] = slots[at]
                new_index[written] = at
                written += 1
        return row_out[:written], slot_out[:written], index_out[:written]

    def count(self) -> int:
        """How many wait now."""
        return self.waiting

    def wait(self, page: cython.longlong, slot: cython.int) -> cython.int:
        """A free of what a slot holds waits for the batched line of a page."""
        cell: cython.int
        if self.unused < 0:
            self._grow()
        cell = self.unused
        self.unused = self.following[cell]
        self.slot[cell] = slot
        self.following[cell] = -1
        if self.first[page] < 0:
            self.first[page] = cell
        else:
            self.following[self.last[page]] = cell
        self.last[page] = cell
        self.waiting += 1
        return 0

    def release(self, cell: cython.int) -> cython.int:
        """Give a cell back; the one behind it."""
        behind: cython.int = self.following[cell]
        self.following[cell] = self.unused
        self.unused = cell
        self.waiting -= 1
        return behind

    def _grow(self) -> None:
        """Have room for twice as many that wait at once."""
        import numpy

        have = len(self.slot)
        room = max(_FEWEST_CELLS, 2 * have)
        slot = numpy.zeros(room, dtype=numpy.int32)
        following = numpy.arange(1, room + 1, dtype=numpy.int32)
        slot[:have] = self.slot
        following[:have] = self.following
        following[room - 1] = self.unused
        self.slot = memoryview(slot)
        self.following = memoryview(following)
        self.unused = have
