"""What a kernel trace says about single pages: where each one is.

One pass over the events, in order, with one small state a page. It only finds out; what follows
from it is decided in `hintbench.traces.history`.
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

_C_UNKNOWN = cython.declare(cython.int, UNKNOWN)
_C_BUDDY = cython.declare(cython.int, BUDDY)
_C_PCP = cython.declare(cython.int, PCP)
_C_OUT = cython.declare(cython.int, OUT)
_C_TAKE = cython.declare(cython.int, TAKE)
_C_HAND_OUT = cython.declare(cython.int, HAND_OUT)
_C_GIVE_BACK = cython.declare(cython.int, GIVE_BACK)


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
    first_row: cython.int[::1]
    first_action: cython.uchar[::1]
    pcp_orders: cython.int
    gaps: list

    def __init__(self, page_count: int, pcp_orders: int) -> None:
        import numpy

        self.state = memoryview(numpy.zeros(page_count, dtype=numpy.uint8))
        self.first = memoryview(numpy.zeros(page_count, dtype=numpy.uint8))
        self.last = memoryview(numpy.full(page_count, -1, dtype=numpy.int32))
        self.first_row = memoryview(numpy.full(page_count, -1, dtype=numpy.int32))
        self.first_action = memoryview(numpy.zeros(page_count, dtype=numpy.uint8))
        self.pcp_orders = pcp_orders
        self.gaps = []

    def walk(self, action: object, pfn: object, order: object, end: int, low: int) -> None:
        """Follow the first `end` of some events.

        Args:
            action: TAKE, HAND_OUT, GIVE_BACK, RETURN or NOTHING of each event; uint8.
            pfn: first page of each event's block; int64.
            order: order of each event's block; int8.
            end: how many to follow.
            low: number of the first one in the whole trace.
        """
        what: cython.uchar[::1] = memoryview(action)
        where: cython.longlong[::1] = memoryview(pfn)
        size: cython.schar[::1] = memoryview(order)
        row: cython.Py_ssize_t
        rows: cython.Py_ssize_t = end
        first: cython.Py_ssize_t = low
        if not 0 <= end <= min(len(action), len(pfn), len(order)):
            raise ValueError("end must be a number of these events")
        for row in range(rows):
            if what[row]:
                self._block(first + row, what[row], where[row], size[row])

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
            if self.first_row[page] < 0:
                self.first_row[page] = cython.cast(cython.int, row)
                self.first_action[page] = cython.cast(cython.uchar, action)
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

    def begin(self) -> None:
        """Forget which event came first: only the coming ones count."""
        page: cython.Py_ssize_t
        for page in range(self.first_row.shape[0]):
            self.first_row[page] = -1

    def missing(self) -> list:
        """Where a page was not where an event needs it: (page, its last row, row, its state).

        Each is told once.
        """
        gaps = self.gaps
        self.gaps = []
        return gaps

    def states(self) -> tuple:
        """Three arrays over the pages: state now, state at first, row of the last event."""
        import numpy

        return numpy.asarray(self.state), numpy.asarray(self.first), numpy.asarray(self.last)

    def first_events(self) -> tuple:
        """Two arrays over the pages: row of the first event that counts, or -1, and its action."""
        import numpy

        return numpy.asarray(self.first_row), numpy.asarray(self.first_action)
