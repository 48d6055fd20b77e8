"""What a kernel trace says about single pages: where each one is, and which slot holds it.

Two passes over the events, in order, with one small state a page. They only find out; what
follows from it is decided in `hintbench.trace_history`.
"""

import cython

# Where a page is.
UNKNOWN = 0
BUDDY = 1
PCP = 2
OUT = 3

# What happens to a block of pages; the kinds of events of `hintbench.core.tracetext` lead to it.
TAKE = 1
HAND_OUT = 2
GIVE_BACK = 3
RETURN = 4
NOTHING = 0

# What an operation does to slots.
FILL = 0
EMPTY = 1
MOVE = 2

_C_UNKNOWN = cython.declare(cython.int, UNKNOWN)
_C_BUDDY = cython.declare(cython.int, BUDDY)
_C_PCP = cython.declare(cython.int, PCP)
_C_OUT = cython.declare(cython.int, OUT)
_C_TAKE = cython.declare(cython.int, TAKE)
_C_HAND_OUT = cython.declare(cython.int, HAND_OUT)
_C_GIVE_BACK = cython.declare(cython.int, GIVE_BACK)
_C_FILL = cython.declare(cython.int, FILL)
_C_EMPTY = cython.declare(cython.int, EMPTY)


@cython.final
@cython.cclass
class PageWalk:
    """Follows every page from state to state and notes where an event is missing.

    Args:
        page_count: pages that the trace can name.
        pcp_orders: bit n is set when per-CPU lists cache order n; other orders go straight back.
    """

    state: cython.uchar[::1]
    first: cython.uchar[::1]
    last: cython.int[::1]
    pcp_orders: cython.int
    gaps: list

    def __init__(self, page_count: int, pcp_orders: int) -> None:
        import numpy

        self.state = memoryview(numpy.zeros(page_count, dtype=numpy.uint8))
        self.first = memoryview(numpy.zeros(page_count, dtype=numpy.uint8))
        self.last = memoryview(numpy.full(page_count, -1, dtype=numpy.int32))
        self.pcp_orders = pcp_orders
        self.gaps = []

    def walk(self, action: object, pfn: object, order: object, begin: int, end: int) -> None:
        """Follow the events ``begin .. end - 1``.

        Args:
            action: TAKE, HAND_OUT, GIVE_BACK, RETURN or NOTHING of each event; uint8.
            pfn: first page of each event's block; int64.
            order: order of each event's block; int8.
            begin: first event.
            end: one past the last event.
        """
        what: cython.uchar[::1] = memoryview(action)
        where: cython.longlong[::1] = memoryview(pfn)
        size: cython.schar[::1] = memoryview(order)
        row: cython.Py_ssize_t
        first_row: cython.Py_ssize_t = begin
        last_row: cython.Py_ssize_t = end
        if not 0 <= begin <= end <= min(len(action), len(pfn), len(order)):
            raise ValueError("begin and end must be rows of the trace")
        for row in range(first_row, last_row):
            if what[row]:
                self._block(row, what[row], where[row], size[row])

    @cython.cfunc
    @cython.exceptval(-1)
    def _block(
        self,
        row: cython.Py_ssize_t,
        action: cython.int,
        pfn: cython.longlong,
        order: cython.int,
    ) -> cython.int:
        """Move the pages of one block to their new state."""
        page: cython.Py_ssize_t
        expected: cython.int = _C_PCP
        new: cython.int = _C_PCP
        if pfn < 0 or pfn + (1 << order) > self.state.shape[0]:
            raise IndexError("a page of the trace lies beyond the pages that were declared")
        if action == _C_TAKE:
            expected = _C_BUDDY
        elif action == _C_HAND_OUT:
            new = _C_OUT
        elif action == _C_GIVE_BACK:
            expected = _C_OUT
            if not self.pcp_orders >> order & 1:
                new = _C_BUDDY
        else:
            new = _C_BUDDY
        for page in range(pfn, pfn + (1 << order)):
            if self.state[page] != expected:
                if self.state[page] == _C_UNKNOWN:
                    self.first[page] = cython.cast(cython.uchar, expected)
                else:
                    self.gaps.append((page, self.last[page], row, self.state[page]))
            self.state[page] = cython.cast(cython.uchar, new)
            self.last[page] = cython.cast(cython.int, row)
        return 0

    def set_free(self, free: object, row: int) -> None:
        """Declare at `row` which pages are in the buddy; the others keep or lose their state.

        Args:
            free: one byte a page, not 0 when the page is in a free block.
            row: the row before which this is known.
        """
        known: cython.uchar[::1] = memoryview(free)
        page: cython.Py_ssize_t
        for page in range(min(known.shape[0], self.state.shape[0])):
            if known[page]:
                self.state[page] = cython.cast(cython.uchar, _C_BUDDY)
                self.first[page] = cython.cast(cython.uchar, _C_BUDDY)
                self.last[page] = cython.cast(cython.int, row - 1)
            else:
                if self.state[page] == _C_BUDDY:
                    self.state[page] = cython.cast(cython.uchar, _C_UNKNOWN)
                self.first[page] = self.state[page]
        del self.gaps[:]

    def missing(self) -> list:
        """Where a page was not where the event needs it: (page, its last row, row, its state)."""
        return self.gaps

    def states(self) -> tuple:
        """Three arrays over the pages: state now, state at first, row of the last event."""
        import numpy

        return numpy.asarray(self.state), numpy.asarray(self.first), numpy.asarray(self.last)


@cython.final
@cython.cclass
class SlotWalk:
    """Gives every allocation a slot and finds the slots that each free empties.

    Args:
        page_count: pages that the trace can name.
        operations: number of operations to come.
        pages_freed: pages that all frees and moves together leave.
    """

    page_slot: cython.int[::1]
    left: cython.int[::1]
    slot_count: cython.int
    operation_of: cython.int[::1]
    slot_of: cython.int[::1]
    written: cython.Py_ssize_t
    start_pfn: cython.int[::1]
    start_order: cython.schar[::1]
    start_slot: cython.int[::1]
    starts: cython.Py_ssize_t

    def __init__(self, page_count: int, operations: int, pages_freed: int) -> None:
        import numpy

        # A slot is filled once and emptied at most once, by a free or by a second allocation.
        most = 2 * (operations + pages_freed)
        self.page_slot = memoryview(numpy.full(page_count, -1, dtype=numpy.int32))
        self.left = memoryview(numpy.zeros(most, dtype=numpy.int32))
        self.operation_of = memoryview(numpy.zeros(most, dtype=numpy.int32))
        self.slot_of = memoryview(numpy.zeros(most, dtype=numpy.int32))
        self.start_pfn = memoryview(numpy.zeros(pages_freed, dtype=numpy.int32))
        self.start_order = memoryview(numpy.zeros(pages_freed, dtype=numpy.int8))
        self.start_slot = memoryview(numpy.zeros(pages_freed, dtype=numpy.int32))
        self.slot_count = 0
        self.written = self.starts = 0

    def walk(self, what: object, pfn: object, order: object, source: object) -> tuple:
        """Assign the slots of all operations, which must be in the order in which they happened.

        A block that is freed in parts empties its slot with the last part; one that is allocated
        over pages never freed empties their slots first.

        Args:
            what: FILL, EMPTY, or MOVE: the slot of page `source` goes on with page `pfn`; uint8.
            pfn: first page; int64.
            order: order; int8.
            source: for MOVE the page that was left; int64.

        Returns:
            Two arrays, operation and slot, with an entry for every slot filled or emptied. The
            last entry of an allocation is the slot it fills; those before it are emptied.
        """
        import numpy

        kinds: cython.uchar[::1] = memoryview(what)
        where: cython.longlong[::1] = memoryview(pfn)
        size: cython.schar[::1] = memoryview(order)
        left: cython.longlong[::1] = memoryview(source)
        pages: cython.longlong = len(self.page_slot)
        operation: cython.Py_ssize_t
        if not len(what) == len(pfn) == len(order) == len(source):
            raise ValueError("what, pfn, order and source must be equally long")
        for operation in range(len(what)):
            if where[operation] < 0 or where[operation] + (1 << size[operation]) > pages:
                raise IndexError("a page of the trace lies beyond the pages that were declared")
            if kinds[operation] == _C_FILL:
                self._allocate(operation, where[operation], size[operation])
            elif kinds[operation] == _C_EMPTY:
                self._free(operation, where[operation], size[operation])
            elif 0 <= left[operation] < pages:
                self._move(left[operation], where[operation])
        return (
            numpy.asarray(self.operation_of)[: self.written],
            numpy.asarray(self.slot_of)[: self.written],
        )

    @cython.cfunc
    @cython.exceptval(-1)
    def _write(self, operation: cython.Py_ssize_t, slot: cython.int) -> cython.int:
        self.operation_of[self.written] = cython.cast(cython.int, operation)
        self.slot_of[self.written] = slot
        self.written += 1
        return 0

    @cython.cfunc
    @cython.exceptval(-1)
    def _allocate(
        self, operation: cython.Py_ssize_t, pfn: cython.longlong, order: cython.int
    ) -> cython.int:
        page: cython.Py_ssize_t
        slot: cython.int
        for page in range(pfn, pfn + (1 << order)):
            slot = self.page_slot[page]
            if slot >= 0 and self.left[slot] > 0:
                # Its free was lost. The entry is a free, since its slot is filled already.
                self.left[slot] = 0
                self._write(operation, slot)
            self.page_slot[page] = self.slot_count
        self.left[self.slot_count] = 1 << order
        self._write(operation, self.slot_count)
        self.slot_count += 1
        return 0

    @cython.cfunc
    @cython.exceptval(-1)
    def _free(
        self, operation: cython.Py_ssize_t, pfn: cython.longlong, order: cython.int
    ) -> cython.int:
        page: cython.Py_ssize_t
        slot: cython.int
        unknown: cython.int = 0
        for page in range(pfn, pfn + (1 << order)):
            if self.page_slot[page] < 0:
                unknown += 1
        if unknown == 1 << order:
            self._start(pfn, order)
        elif unknown:
            for page in range(pfn, pfn + (1 << order)):
                if self.page_slot[page] < 0:
                    self._start(page, 0)
        for page in range(pfn, pfn + (1 << order)):
            slot = self.page_slot[page]
            if self.left[slot] > 0:
                self.left[slot] -= 1
                if self.left[slot] == 0:
                    self._write(operation, slot)
        return 0

    @cython.cfunc
    @cython.exceptval(-1)
    def _move(self, source: cython.longlong, pfn: cython.longlong) -> cython.int:
        """What the slot of one page holds lives on in another."""
        if self.page_slot[source] < 0:
            self._start(source, 0)
        self.page_slot[pfn] = self.page_slot[source]
        self.page_slot[source] = -1
        return 0

    @cython.cfunc
    @cython.exceptval(-1)
    def _start(self, pfn: cython.longlong, order: cython.int) -> cython.int:
        """A block in use when the trace began gets the next slot."""
        page: cython.Py_ssize_t
        for page in range(pfn, pfn + (1 << order)):
            self.page_slot[page] = self.slot_count
        self.left[self.slot_count] = 1 << order
        self.start_pfn[self.starts] = cython.cast(cython.int, pfn)
        self.start_order[self.starts] = cython.cast(cython.schar, order)
        self.start_slot[self.starts] = self.slot_count
        self.starts += 1
        self.slot_count += 1
        return 0

    def slots(self) -> int:
        """Number of slots given out."""
        return self.slot_count

    def in_use_at_start(self) -> tuple:
        """Blocks in use when the trace began: arrays of pfn, order and slot."""
        import numpy

        return (
            numpy.asarray(self.start_pfn)[: self.starts].copy(),
            numpy.asarray(self.start_order)[: self.starts].copy(),
            numpy.asarray(self.start_slot)[: self.starts].copy(),
        )
