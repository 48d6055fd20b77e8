"""Which slot each allocation of a kernel trace fills and each free empties, window by window.

The memory depends on the pages of the trace, not on its length.
"""

import cython

# What an operation does to slots.
FILL = 0
EMPTY = 1
MOVE = 2

_C_FILL = cython.declare(cython.int, FILL)
_C_EMPTY = cython.declare(cython.int, EMPTY)


@cython.final
@cython.cclass
class SlotWalk:
    """Gives every allocation a slot and finds the slots that each free empties.

    What a slot holds is kept in a record while some page still belongs to it. Slots have numbers
    in the order in which they are first used; records are used again.

    Args:
        page_count: pages that the trace can name.
    """

    page_record: cython.int[::1]
    slot: cython.int[::1]
    left: cython.int[::1]
    pages: cython.int[::1]
    unused: cython.int[::1]
    unused_count: cython.Py_ssize_t
    slot_count: cython.longlong
    operation_of: cython.int[::1]
    slot_of: cython.int[::1]
    written: cython.Py_ssize_t
    starts: list

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
        self.operation_of = memoryview(numpy.zeros(0, dtype=numpy.int32))
        self.slot_of = memoryview(numpy.zeros(0, dtype=numpy.int32))
        self.slot_count = 0
        self.written = 0
        self.starts = []

    def walk(self, what: object, pfn: object, order: object, source: object, most: int) -> tuple:
        """Assign the slots of the next operations, in the order in which they happened.

        A block that is freed in parts empties its slot with the last part; one that is allocated
        over pages never freed empties their slots first.

        Args:
            what: FILL, EMPTY, or MOVE: the slot of page `source` goes on with page `pfn`; uint8.
            pfn: first page; int64.
            order: order; int8.
            source: for MOVE the page that was left; int64.
            most: pages of all these blocks together.

        Returns:
            Two arrays, operation and slot, with an entry for every slot filled or emptied. The
            last entry of an allocation is the slot it fills; those before it are emptied.
        """
        import numpy

        kinds: cython.uchar[::1] = memoryview(what)
        where: cython.longlong[::1] = memoryview(pfn)
        size: cython.schar[::1] = memoryview(order)
        left: cython.longlong[::1] = memoryview(source)
        pages: cython.longlong = len(self.page_record)
        operation: cython.Py_ssize_t
        if not len(what) == len(pfn) == len(order) == len(source):
            raise ValueError("what, pfn, order and source must be equally long")
        # Every page of an operation empties a slot at most, and an allocation fills one.
        entries = numpy.empty((2, most + len(what)), dtype=numpy.int32)
        self.operation_of = memoryview(entries[0])
        self.slot_of = memoryview(entries[1])
        self.written = 0
        for operation in range(len(what)):
            if where[operation] < 0 or where[operation] + (1 << size[operation]) > pages:
                raise IndexError("a page of the trace lies beyond the pages that were declared")
            if kinds[operation] == _C_FILL:
                self._allocate(operation, where[operation], size[operation])
            elif kinds[operation] == _C_EMPTY:
                self._free(operation, where[operation], size[operation])
            elif 0 <= left[operation] < pages:
                self._move(left[operation], where[operation])
        if self.slot_count > 0x7FFFFFFF:
            raise OverflowError("a trace cannot have more than 2**31 allocations")
        return entries[0, : self.written], entries[1, : self.written]

    @cython.cfunc
    @cython.exceptval(check=False)
    def _write(self, operation: cython.Py_ssize_t, record: cython.int) -> cython.int:
        self.operation_of[self.written] = cython.cast(cython.int, operation)
        self.slot_of[self.written] = self.slot[record]
        self.written += 1
        return 0

    @cython.cfunc
    @cython.exceptval(check=False)
    def _leave(self, page: cython.Py_ssize_t) -> cython.int:
        """A page no longer belongs to its record."""
        record: cython.int = self.page_record[page]
        if record >= 0:
            self.pages[record] -= 1
            if self.pages[record] == 0:
                self.unused[self.unused_count] = record
                self.unused_count += 1
        return 0

    @cython.cfunc
    @cython.exceptval(check=False)
    def _new(self, pfn: cython.longlong, order: cython.int) -> cython.int:
        """The next slot holds a block."""
        page: cython.Py_ssize_t
        self.unused_count -= 1
        record: cython.int = self.unused[self.unused_count]
        self.slot[record] = cython.cast(cython.int, self.slot_count)
        self.slot_count += 1
        self.left[record] = self.pages[record] = 1 << order
        for page in range(pfn, pfn + (1 << order)):
            self._leave(page)
            self.page_record[page] = record
        return record

    @cython.cfunc
    @cython.exceptval(check=False)
    def _allocate(
        self, operation: cython.Py_ssize_t, pfn: cython.longlong, order: cython.int
    ) -> cython.int:
        page: cython.Py_ssize_t
        record: cython.int
        for page in range(pfn, pfn + (1 << order)):
            record = self.page_record[page]
            if record >= 0 and self.left[record] > 0:
                # Its free was lost. The entry is a free, since its slot is filled already.
                self.left[record] = 0
                self._write(operation, record)
        self._write(operation, self._new(pfn, order))
        return 0

    @cython.cfunc
    @cython.exceptval(-1)
    def _free(
        self, operation: cython.Py_ssize_t, pfn: cython.longlong, order: cython.int
    ) -> cython.int:
        page: cython.Py_ssize_t
        record: cython.int
        unknown: cython.int = 0
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
                    self._write(operation, record)
        return 0

    @cython.cfunc
    @cython.exceptval(-1)
    def _move(self, source: cython.longlong, pfn: cython.longlong) -> cython.int:
        """What the slot of one page holds lives on in another."""
        record: cython.int
        if self.page_record[source] < 0:
            self._start(source, 0)
        record = self.page_record[source]
        self.pages[record] += 1
        self._leave(pfn)
        self.page_record[pfn] = record
        self._leave(source)
        self.page_record[source] = -1
        return 0

    @cython.cfunc
    @cython.exceptval(-1)
    def _start(self, pfn: cython.longlong, order: cython.int) -> cython.int:
        """A block in use when the trace began gets the next slot."""
        slot = self.slot_count
        self._new(pfn, order)
        self.starts.append((pfn, order, slot))
        return 0

    def slots(self) -> int:
        """Number of slots given out."""
        return self.slot_count

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

    first: cython.int[::1]
    last: cython.int[::1]
    following: cython.int[::1]
    slot: cython.int[::1]
    unused: cython.int
    waiting: cython.Py_ssize_t

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
        self._reserve(most)
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
                    cell = self._release(cell)
                end_at += 1
            if at == count:
                break
            if waits[at]:
                self._wait(pages[rows[at]], slots[at])
            else:
                new_row[written] = rows[at]
                new_slot[written] = slots[at]
                new_index[written] = at
                written += 1
        return row_out[:written], slot_out[:written], index_out[:written]

    def count(self) -> int:
        """How many wait now."""
        return self.waiting

    @cython.cfunc
    @cython.exceptval(check=False)
    def _wait(self, page: cython.longlong, slot: cython.int) -> cython.int:
        cell: cython.int = self.unused
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

    @cython.cfunc
    @cython.exceptval(check=False)
    def _release(self, cell: cython.int) -> cython.int:
        """Give a cell back; the one behind it."""
        behind: cython.int = self.following[cell]
        self.following[cell] = self.unused
        self.unused = cell
        self.waiting -= 1
        return behind

    def _reserve(self, most: int) -> None:
        """Have room for so many that wait at once."""
        import numpy

        have = len(self.slot)
        if most <= have:
            return
        room = max(most, 2 * have)
        slot = numpy.zeros(room, dtype=numpy.int32)
        following = numpy.arange(1, room + 1, dtype=numpy.int32)
        slot[:have] = self.slot
        following[:have] = self.following
        following[room - 1] = self.unused
        self.slot = memoryview(slot)
        self.following = memoryview(following)
        self.unused = have
