"""Pages that leave a per-CPU list without an event, and what shows that they did.

A list is a stack. rmqueue_pcplist() takes the first page, a free puts one before it, and
rmqueue_bulk() fills an empty list from the front to the back. So when a page is handed out that has
others before it, those had left.
"""

from typing import Any

import cython

from hintbench.core import constants, tracepages

_C_TAKE = cython.declare(cython.int, tracepages.TAKE)
_C_HAND_OUT = cython.declare(cython.int, tracepages.HAND_OUT)
_C_GIVE_BACK = cython.declare(cython.int, tracepages.GIVE_BACK)
_C_PAGEBLOCK_ORDER = cython.declare(cython.int, constants.PAGEBLOCK_ORDER)
ZONE_ENDS = (1 << 12, 1 << 20)
"""The pfns at which a PC's ZONE_DMA and ZONE_DMA32 end: 16 MiB and 4 GiB."""
_C_DMA_END = cython.declare(cython.longlong, ZONE_ENDS[0])
_C_DMA32_END = cython.declare(cython.longlong, ZONE_ENDS[1])
_ZONES = 3
_C_ZONES = cython.declare(cython.int, _ZONES)
# MIGRATE_PCPTYPES: unmovable, movable, reclaimable.
_TYPES = 3
_C_TYPES = cython.declare(cython.int, _TYPES)
_C_UNMOVABLE = cython.declare(cython.int, constants.UNMOVABLE)
_C_MOVABLE = cython.declare(cython.int, constants.MOVABLE)


@cython.final
@cython.cclass
class PassedOverWalk:
    """Follows the order-0 lists of all CPUs, and notes which of their pages were passed over.

    Args:
        pageblock_type: migratetype of each pageblock at the beginning; uint8. It is written to.
        page_count: pages that the trace can name.
        cpus: CPUs that it names.
    """

    pageblock_type: cython.uchar[::1]
    first: cython.int[::1]
    list_of: cython.int[::1]
    before: cython.int[::1]
    behind: cython.int[::1]
    passed: cython.longlong[::1]
    height: cython.longlong[::1]
    put: cython.longlong[::1]
    leaving: cython.longlong[::1]
    taken_last: cython.longlong[::1]
    found: list

    def __init__(self, pageblock_type: object, page_count: int, cpus: int) -> None:
        import numpy

        def each(count: int, value: int, dtype: object) -> object:
            return memoryview(numpy.full(count, value, dtype=dtype))

        self.pageblock_type = memoryview(pageblock_type)
        self.first = each(cpus * _ZONES * _TYPES, -1, numpy.int32)
        # By page: its list, its neighbours there, the row of the page that was handed out from
        # behind it, its height in the stack, the row that put it there, and that which it leaves
        # beside in silence together with others.
        self.list_of = each(page_count, -1, numpy.int32)
        self.before = each(page_count, -1, numpy.int32)
        self.behind = each(page_count, -1, numpy.int32)
        self.passed = each(page_count, -1, numpy.int64)
        self.height = each(page_count, 0, numpy.int64)
        self.put = each(page_count, -1, numpy.int64)
        self.leaving = each(page_count, -1, numpy.int64)
        # By CPU: the page whose take was the last step, or -1.
        self.taken_last = each(cpus, -1, numpy.int64)
        self.found = []

    def walk(
        self, steps: Any, low: int, cpu: object, migratetype: object, shows_type: object
    ) -> None:
        """Follow the next steps, with frees when they reach the lists.

        Args:
            steps: `hintbench.traces.steps.Steps`, whose rows are counted from `low` on.
            low: number of the first row in the whole trace.
            cpu: of each step; int16.
            migratetype: of each step's event, as the guest knows it; int8.
            shows_type: 1 where that is the type of the whole pageblock from then on; uint8.
        """
        rows: cython.longlong[::1] = memoryview(steps.row)
        actions: cython.uchar[::1] = memoryview(steps.action)
        pfns: cython.longlong[::1] = memoryview(steps.pfn)
        orders: cython.schar[::1] = memoryview(steps.order)
        derived: cython.uchar[::1] = memoryview(steps.derived.view("u1"))
        cpus: cython.short[::1] = memoryview(cpu)
        types: cython.schar[::1] = memoryview(migratetype)
        shows: cython.uchar[::1] = memoryview(shows_type)
        at: cython.Py_ssize_t
        page: cython.longlong
        for at in range(len(actions)):
            page = pfns[at]
            if page < 0 or page + (1 << orders[at]) > len(self.list_of):
                raise IndexError("a page of the trace lies beyond the pages that were declared")
            if shows[at]:
                self.pageblock_type[page >> _C_PAGEBLOCK_ORDER] = cython.cast(
                    cython.uchar, types[at]
                )
            if derived[at] and actions[at] == _C_HAND_OUT and self.leaving[page] != low + rows[at]:
                self._announce(pfns, rows, derived, at, low)
            self._step(
                low + rows[at],
                actions[at],
                page,
                orders[at],
                cpus[at],
                types[at],
                derived[at] != 0,
            )

    @cython.cfunc
    @cython.exceptval(-1)
    def _announce(
        self,
        pfns: cython.longlong[::1],
        rows: cython.longlong[::1],
        derived: cython.uchar[::1],
        at: cython.Py_ssize_t,
        low: cython.longlong,
    ) -> cython.int:
        """Mark the pages that leave beside one row: they leave together."""
        row: cython.longlong = rows[at]
        while at < len(rows) and rows[at] == row and derived[at]:
            self.leaving[pfns[at]] = low + row
            at += 1
        return 0

    @cython.cfunc
    @cython.exceptval(-1)
    def _step(
        self,
        row: cython.longlong,
        action: cython.int,
        page: cython.longlong,
        order: cython.int,
        cpu: cython.int,
        migratetype: cython.int,
        derived: cython.bint,
    ) -> cython.int:
        """One step of one block; only single pages are followed from list to list."""
        each: cython.longlong
        for each in range(page, page + (1 << order)):
            if self.passed[each] >= 0:
                self._resolve(each, row, derived and action == _C_HAND_OUT)
        if order != 0:
            self.taken_last[cpu] = -1
            return 0
        if action == _C_HAND_OUT and derived and self.list_of[page] >= 0:
            self.found.append((page, row, self._covered_at(page, row), -self.height[page]))
        elif action == _C_HAND_OUT and self.taken_last[cpu] != page:
            self._pass_over(self._list(cpu, page, migratetype), page, row)
        self._remove(page)
        self.taken_last[cpu] = -1
        if not derived and action == _C_TAKE:
            self._put_last(self._list(cpu, page, migratetype), page, row)
            # A page that is handed out right after its take came past the lists, or alone.
            self.taken_last[cpu] = page
        elif not derived and action == _C_GIVE_BACK:
            migratetype = self.pageblock_type[page >> _C_PAGEBLOCK_ORDER]
            self._put_first(self._list(cpu, page, migratetype), page, row)
        return 0

    @cython.cfunc
    @cython.exceptval(-1)
    def _resolve(
        self, page: cython.longlong, row: cython.longlong, left: cython.bint
    ) -> cython.int:
        """What happens to a page that was passed over: only one that was in use had left."""
        if left:
            self.found.append((page, row, self.passed[page], -self.height[page]))
        self.passed[page] = -1
        return 0

    @cython.cfunc
    @cython.exceptval(-1)
    def _pass_over(
        self, key: cython.int, page: cython.longlong, row: cython.longlong
    ) -> cython.int:
        """Take off its list whatever stands before a page that is handed out.

        vmalloc asks alloc_pages_bulk for unmovable pages; why others left in silence is not known.
        """
        ahead: cython.longlong
        if self.list_of[page] != key:
            return 0
        while self.first[key] != page:
            ahead = self.first[key]
            self._remove(ahead)
            if key % _C_TYPES != _C_UNMOVABLE:
                continue
            self.passed[ahead] = row
        return 0

    @cython.cfunc
    @cython.exceptval(-1)
    def _covered_at(self, page: cython.longlong, row: cython.longlong) -> cython.longlong:
        """The row at which another page was put before this one, which had left by then."""
        key: cython.int = self.list_of[page]
        other: cython.longlong = page
        while other != self.first[key]:
            other = self.before[other]
            if self.leaving[other] != row:
                return self.put[other] if self.put[other] > self.put[page] else row
        return row

    @cython.cfunc
    @cython.exceptval(-1)
    def _list(self, cpu: cython.int, page: cython.longlong, migratetype: cython.int) -> cython.int:
        zone: cython.int = 0 if page < _C_DMA_END else 1 if page < _C_DMA32_END else 2
        # What is in a HIGHATOMIC pageblock, or in one of unknown type, goes to the movable ones.
        kind: cython.int = migratetype if migratetype < _C_TYPES else _C_MOVABLE
        return (cpu * _C_ZONES + zone) * _C_TYPES + kind

    @cython.cfunc
    @cython.exceptval(-1)
    def _put_first(
        self, key: cython.int, page: cython.longlong, row: cython.longlong
    ) -> cython.int:
        """The lists are rings without a head: the one before the first is the last."""
        old: cython.int = self.first[key]
        self.height[page] = self.height[old] + 1 if old >= 0 else 0
        self._link(key, page, row)
        if old >= 0:
            self.first[key] = cython.cast(cython.int, page)
        return 0

    @cython.cfunc
    @cython.exceptval(-1)
    def _put_last(self, key: cython.int, page: cython.longlong, row: cython.longlong) -> cython.int:
        first: cython.int = self.first[key]
        self.height[page] = self.height[self.before[first]] - 1 if first >= 0 else 0
        return self._link(key, page, row)

    @cython.cfunc
    @cython.exceptval(-1)
    def _link(self, key: cython.int, page: cython.longlong, row: cython.longlong) -> cython.int:
        """Put a page between the last and the first of a list."""
        first: cython.int = self.first[key]
        self.list_of[page] = key
        self.put[page] = row
        self.passed[page] = -1
        if first < 0:
            self.first[key] = cython.cast(cython.int, page)
            self.before[page] = self.behind[page] = cython.cast(cython.int, page)
            return 0
        last: cython.int = self.before[first]
        self.before[page], self.behind[page] = last, first
        self.behind[last] = self.before[first] = cython.cast(cython.int, page)
        return 0

    @cython.cfunc
    @cython.exceptval(-1)
    def _remove(self, page: cython.longlong) -> cython.int:
        """Take a page off its list, if it is on one."""
        key: cython.int = self.list_of[page]
        if key < 0:
            return 0
        before: cython.int = self.before[page]
        behind: cython.int = self.behind[page]
        if behind == page:
            self.first[key] = -1
        else:
            self.behind[before], self.before[behind] = behind, before
            if self.first[key] == page:
                self.first[key] = behind
        self.list_of[page] = -1
        return 0

    def left(self) -> list:
        """Pages that left in silence, and whose list says more of when.

        Returns:
            (page, row beside which the silent step stood, row before which it belongs, place among
            those that leave there) of each.
        """
        return self.found

    def never_again(self, last_row: object) -> list:
        """Pages that were passed over, and that no row names behind the one that listed them.

        Args:
            last_row: the last row that names each page; int32.

        Returns:
            (page, row before which it had left, place among those that leave there) of each.
        """
        last: cython.int[::1] = memoryview(last_row)
        return [
            (page, self.passed[page], -self.height[page])
            for page in range(len(self.passed))
            if self.passed[page] >= 0 and last[page] <= self.put[page]
        ]
