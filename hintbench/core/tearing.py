"""An edit of the free lists that nobody locked, part by part.

Under its lock an edit of a free list is one thing to everybody else.  Without it every load and
store counts, so here __free_one_page() and the isolation stand as the parts that another CPU can
come between: find the buddy, unlink it, set head flag and order, read the next entry, write the
links, read the count, write it.
"""

from collections.abc import Callable

import cython

if cython.compiled:
    from cython.cimports.hintbench.core.constants import (
        BUDDY,
        EVENT_PUT_BACK,
        ISOLATED,
        MAX_PAGE_ORDER,
        PAGEBLOCK_ORDER,
        REASON_ISOLATION,
        REASON_MERGE,
        TAIL,
    )
    from cython.cimports.hintbench.core.preemption import Preemptions
    from cython.cimports.hintbench.core.zone import Zone
else:
    from hintbench.core.constants import (
        BUDDY,
        EVENT_PUT_BACK,
        ISOLATED,
        MAX_PAGE_ORDER,
        PAGEBLOCK_ORDER,
        REASON_ISOLATION,
        REASON_MERGE,
        TAIL,
    )
    from hintbench.core.preemption import Preemptions
    from hintbench.core.zone import Zone

Preempt = Callable[[str], None]


@cython.final
@cython.cclass
class Between:
    """Stands between two parts of an edit, and has others run there if the schedule says so.

    Args:
        preemptions: the schedule.
        late: called with the name of the part that comes and for how long others run [virtual ns].
        done: called after the last part.
    """

    def __init__(
        self,
        preemptions: Preemptions,
        late: Callable[[str, int], None],
        done: Callable[[], None],
    ) -> None:
        self.preemptions = preemptions
        self.late = late
        self.done = done

    def __call__(self, part: str) -> None:
        """Before a part, or after the last with ""."""
        delay_ns: cython.longlong
        if not part:
            self.done()
            return
        delay_ns = self.preemptions.at_edit()
        if delay_ns:
            self.late(part, delay_ns)


class Tear:
    """What a :class:`Zone` carries out its unlocked edits with, when it is given one.

    Args:
        preempt: called between any two parts of an edit, with the name of the one that comes, and
            after the last with ""; others may run inside. A `Between` does not leave the core
            where nobody is to come between.
        looked: called after a look at the free lists without the lock; others may run inside.
    """

    __slots__ = ("looked", "preempt")

    def __init__(self, preempt: Preempt, looked: Callable[[], None]) -> None:
        self.preempt = preempt
        self.looked = looked

    def put_back(self, zone: Zone, pfn: int, order: int, tail: bool) -> int:
        """As :func:`put_back_torn`."""
        return put_back_torn(zone, pfn, order, tail, self.preempt)

    def isolate(self, zone: Zone, pfn: int, order: int) -> int:
        """As :func:`isolate_torn`."""
        return isolate_torn(zone, pfn, order, self.preempt)


def put_back_torn(
    zone: Zone, pfn: cython.int, order: cython.int, tail: cython.bint, preempt: object
) -> cython.int:
    """__free_one_page() of an isolated block without the lock; the order after merging.

    Args:
        zone: the block's zone.
        pfn: its first page.
        order: its order.
        tail: whether to link it at the tail.
        preempt: called between any two parts, with the name of the one that comes, and after the
            last with ""; others may run inside.
    """
    pages = zone.pages
    free: cython.longlong
    buddy: cython.int
    origin: cython.int = pfn
    freed_order: cython.int = order
    migratetype: cython.int = pages.pageblock_type[pfn >> PAGEBLOCK_ORDER]
    zone.charge_block(pfn)
    preempt("read free_pages")
    free = zone.free_pages
    preempt("write free_pages")
    zone.free_pages = free + (1 << order)
    pages.state[pfn] = TAIL
    while order < MAX_PAGE_ORDER:
        preempt("look at the buddy")
        buddy = pfn ^ (1 << order)
        if pages.state[buddy] != (BUDDY | order):
            break
        preempt("unlink the buddy")
        _unlink(zone, buddy, order, preempt)
        pages.state[buddy] = TAIL
        zone.call_block_taken(buddy, order, REASON_MERGE)
        pfn &= buddy
        order += 1
    preempt("set head flag and order")
    pages.state[pfn] = BUDDY | order
    preempt("read the next entry")
    _link(zone, pfn, zone.list_of(order, migratetype), tail, preempt)
    zone.clock.digest.add(zone.clock.now, zone.clock.cpu, EVENT_PUT_BACK, origin, freed_order)
    preempt("read nr_free")
    count: cython.int = zone.nr_free[order]
    preempt("write nr_free")
    zone.nr_free[order] = count + 1
    preempt("")
    return order


def isolate_torn(zone: Zone, pfn: cython.int, order: cython.int, preempt: object) -> cython.int:
    """__isolate_free_page() without the lock: unlink, clear the head flag, count."""
    free: cython.longlong
    zone.charge_block(pfn)
    preempt("unlink the block")
    _unlink(zone, pfn, order, preempt)
    zone.pages.state[pfn] = ISOLATED | order
    zone.call_block_taken(pfn, order, REASON_ISOLATION)
    preempt("read free_pages")
    free = zone.free_pages
    preempt("write free_pages")
    zone.free_pages = free - (1 << order)
    preempt("")
    return 0


@cython.cfunc
def _link(
    zone: Zone, pfn: cython.int, head: cython.int, tail: cython.bint, preempt: object
) -> cython.int:
    """list_add() or list_add_tail(), the neighbour read before the links are written."""
    pages = zone.pages
    neighbour: cython.int = pages.prev[head] if tail else pages.next[head]
    preempt("write the links")
    if tail:
        pages.next[pfn] = head
        pages.prev[pfn] = neighbour
        pages.next[neighbour] = pfn
        pages.prev[head] = pfn
    else:
        pages.next[pfn] = neighbour
        pages.prev[pfn] = head
        pages.prev[neighbour] = pfn
        pages.next[head] = pfn
    return 0


@cython.cfunc
def _unlink(zone: Zone, pfn: cython.int, order: cython.int, preempt: object) -> cython.int:
    """list_del(), and the count of the list's order."""
    pages = zone.pages
    before: cython.int = pages.prev[pfn]
    after: cython.int = pages.next[pfn]
    preempt("write the neighbours")
    pages.next[before] = after
    pages.prev[after] = before
    count: cython.int = zone.nr_free[order]
    preempt("write nr_free")
    zone.nr_free[order] = count - 1
    return 0
