"""Per-page state: one flat array a field, nine bytes a page.

A page is its pfn.  ``next`` and ``prev`` are ``page->lru``: circular doubly linked lists as in
``include/linux/list.h``, whose heads are extra elements behind the last page, so that neither
adding nor removing has a special case.  Both are views of one array, ``links``, in which the two
of a page lie side by side: they are needed together, and would be two cache misses apart.
``state`` holds a kind and an order for the *head* of every block (free, on a per-CPU list, in use,
isolated ...) and zero for every other page; the enclosing block of any page is found by looking at
the aligned heads above it (:meth:`head_of`).
"""

from collections.abc import Iterator
from typing import Any

import cython
import numpy

from hintbench.core.hugepages import zeros

if cython.compiled:
    from cython.cimports.hintbench.core.constants import (
        MAX_PAGE_ORDER,
        NR_PAGE_ORDERS,
        ORDER_MASK,
        PAGEBLOCK_ORDER,
    )
else:
    from hintbench.core.constants import (
        MAX_PAGE_ORDER,
        NR_PAGE_ORDERS,
        ORDER_MASK,
        PAGEBLOCK_ORDER,
    )

STATES = 256
HEADS_PIECE_PAGES = 1 << 22
"""What :meth:`Pages.heads` looks at in one go."""


@cython.final
@cython.cclass
class Pages:
    """The arrays of all pages of a guest.

    Args:
        page_count: one more than the highest pfn; rounded up to whole blocks of the top order.
        list_heads: how many list heads will be asked for with :meth:`new_lists`.

    Attributes:
        retyped: the sum of all that :meth:`retype` has changed, each times the pageblock's number
            and one: what :meth:`weigh_types` has grown by, unless somebody else has written a type.
    """

    def __init__(self, page_count: int, list_heads: int) -> None:
        top = 1 << MAX_PAGE_ORDER
        page_count = (page_count + top - 1) // top * top
        self.page_count = page_count
        self.next_list = page_count
        self.last_list = page_count + list_heads
        links = zeros(2 * (page_count + list_heads), dtype=numpy.int32)
        self.links = memoryview(links)
        self.next = memoryview(links[0::2])
        self.prev = memoryview(links[1::2])
        self.state = memoryview(zeros(page_count, dtype=numpy.uint8))
        blocks = page_count >> PAGEBLOCK_ORDER
        types = numpy.empty(blocks, dtype=numpy.uint8)
        types.fill(1)
        self.pageblock_type = memoryview(types)
        nobody = numpy.empty(blocks, dtype=numpy.int16)
        nobody.fill(-1)
        self.pageblock_cpu = memoryview(nobody)
        self.retyped = 0

    def new_lists(self, count: cython.int) -> cython.int:
        """Make ``count`` empty lists; the number of the first is returned, the rest follow it."""
        first: cython.int = self.next_list
        head: cython.int
        if first + count > self.last_list:
            raise ValueError(f"new_lists: no room for {count} more list heads")
        for head in range(first, first + count):
            self.next[head] = head
            self.prev[head] = head
        self.next_list = first + count
        return first

    def add_head(self, head: cython.int, pfn: cython.int) -> cython.int:
        """list_add()."""
        # Twice a pfn needs more than 31 bits in a guest of more than 4 TiB.
        page: cython.Py_ssize_t = 2 * cython.cast(cython.Py_ssize_t, pfn)
        before: cython.Py_ssize_t = 2 * cython.cast(cython.Py_ssize_t, head)
        first: cython.Py_ssize_t = self.links[before]
        self.links[page] = cython.cast(cython.int, first)
        self.links[page + 1] = head
        self.links[2 * first + 1] = pfn
        self.links[before] = pfn
        return 0

    def add_tail(self, head: cython.int, pfn: cython.int) -> cython.int:
        """list_add_tail()."""
        page: cython.Py_ssize_t = 2 * cython.cast(cython.Py_ssize_t, pfn)
        after: cython.Py_ssize_t = 2 * cython.cast(cython.Py_ssize_t, head)
        last: cython.Py_ssize_t = self.links[after + 1]
        self.links[page] = head
        self.links[page + 1] = cython.cast(cython.int, last)
        self.links[2 * last] = pfn
        self.links[after + 1] = pfn
        return 0

    def remove(self, pfn: cython.int) -> cython.int:
        """list_del()."""
        page: cython.Py_ssize_t = 2 * cython.cast(cython.Py_ssize_t, pfn)
        after: cython.Py_ssize_t = self.links[page]
        before: cython.Py_ssize_t = self.links[page + 1]
        self.links[2 * before] = cython.cast(cython.int, after)
        self.links[2 * after + 1] = cython.cast(cython.int, before)
        return 0

    def retype(self, block: cython.Py_ssize_t, migratetype: cython.int) -> cython.int:
        """set_pageblock_migratetype()."""
        before: cython.int = self.pageblock_type[block]
        self.retyped += (migratetype - before) * (block + 1)
        self.pageblock_type[block] = migratetype
        return 0

    def weigh_types(self) -> int:
        """The types of all pageblocks, each times the block's number and one, summed up."""
        block: cython.Py_ssize_t
        total: cython.longlong = 0
        for block in range(self.page_count >> PAGEBLOCK_ORDER):
            total += self.pageblock_type[block] * (block + 1)
        return total

    def head_of(self, pfn: cython.int) -> cython.int:
        """The head of the block that ``pfn`` lies in, -1 for a reserved or absent page.

        At most one head can enclose a page, since blocks are disjoint and aligned.
        """
        order: cython.int
        head: cython.int
        state: cython.int
        if pfn < 0 or pfn >= self.page_count:
            return -1
        for order in range(NR_PAGE_ORDERS):
            head = pfn & ~((1 << order) - 1)
            state = self.state[head]
            if state and (state & ORDER_MASK) >= order:
                return head
        return -1

    def heads(self, start_pfn: int, end_pfn: int) -> Iterator[tuple[Any, Any]]:
        """The heads of all blocks of a range, in pieces: a guest of 1 TiB has 268 million pages.

        Args:
            start_pfn: first page.
            end_pfn: the page after the last.

        Yields:
            Arrays of pfns, ascending, and of their state bytes.
        """
        states = numpy.asarray(self.state)
        for first in range(start_pfn, end_pfn, HEADS_PIECE_PAGES):
            piece = states[first : min(first + HEADS_PIECE_PAGES, end_pfn)]
            # Of a byte array nonzero() itself takes four times as long.
            places = numpy.flatnonzero(piece != 0)
            yield places + first, piece[places]

    def count_heads(self, start_pfn: int, end_pfn: int) -> list[int]:
        """How many heads of a range have each state byte.

        Args:
            start_pfn: first page.
            end_pfn: the page after the last.
        """
        counts = numpy.zeros(STATES, dtype=numpy.int64)
        for _, states in self.heads(start_pfn, end_pfn):
            counts += numpy.bincount(states, minlength=STATES)
        return [int(count) for count in counts]

    def list_pages(self, head: int) -> list[int]:
        """The pfns of a list from its head on; for tests and `hintbench.validate`.

        Raises:
            ValueError: a link does not lead back.
        """
        found = []
        here = self.next[head]
        before = head
        while here != head:
            if self.prev[here] != before or len(found) > self.page_count:
                raise ValueError(f"list {head}: pfn {here:#x} does not link back to {before:#x}")
            found.append(here)
            before = here
            here = self.next[here]
        if self.prev[head] != before:
            raise ValueError(f"list {head}: its tail is {self.prev[head]:#x}, not {before:#x}")
        return found
