"""Whose per-CPU lists the pages of a trace are on, by which pcp->high of a kernel is followed."""

import cython

from hintbench.core import constants, tracepages

if cython.compiled:
    from cython.cimports.hintbench.core.tracehigh import PcpHigh
else:
    from hintbench.core.tracehigh import PcpHigh

_C_TAKE = cython.declare(cython.int, tracepages.TAKE)
_C_HAND_OUT = cython.declare(cython.int, tracepages.HAND_OUT)
_C_GIVE_BACK = cython.declare(cython.int, tracepages.GIVE_BACK)
_C_RETURN = cython.declare(cython.int, tracepages.RETURN)
_C_COSTLY = cython.declare(cython.int, constants.PAGE_ALLOC_COSTLY_ORDER)
_C_PAGEBLOCK = cython.declare(cython.int, constants.PAGEBLOCK_ORDER)
# What a step is besides its action.
BY_DECAY = 1
IN_BACKGROUND = 2
DERIVED = 4
_C_BY_DECAY = cython.declare(cython.int, BY_DECAY)
_C_IN_BACKGROUND = cython.declare(cython.int, IN_BACKGROUND)
_C_DERIVED = cython.declare(cython.int, DERIVED)


@cython.final
@cython.cclass
class LevelWalk:
    """Follows which per-CPU list each page is on, and so pcp->high.

    Args:
        zone_of: the zone's index of each page, -1 where there is none; int16.
        high: pcp->high of each CPU and zone of the guest, where the trace begins.
    """

    zone_of: cython.short[::1]
    owner: cython.short[::1]
    refilling: cython.short[::1]
    high: PcpHigh

    def __init__(self, zone_of: object, high: PcpHigh) -> None:
        import numpy

        self.zone_of = memoryview(zone_of)
        self.owner = memoryview(numpy.full(len(self.zone_of), -1, dtype=numpy.int16))
        self.refilling = memoryview(numpy.full(high.cpus, -1, dtype=numpy.int16))
        self.high = high

    def start(self, pfn: object, order: object, cpu: object) -> None:
        """Blocks are on lists from the beginning.

        Args:
            pfn: first page of each; int32.
            order: int8.
            cpu: whose list; int16.
        """
        pages: cython.int[::1] = memoryview(pfn)
        sizes: cython.schar[::1] = memoryview(order)
        cpus: cython.short[::1] = memoryview(cpu)
        at: cython.Py_ssize_t
        zone: cython.int
        by: cython.int
        for at in range(len(pfn)):
            zone = self.zone_of[pages[at]]
            by = cpus[at]
            if zone < 0 or by >= self.high.cpus:
                continue
            self.owner[pages[at]] = by
            self.high.hold(by, zone, 1 << sizes[at])

    def walk(
        self,
        action: object,
        pfn: object,
        order: object,
        cpu: object,
        time_ns: object,
        about: object,
    ) -> None:
        """Follow the next steps: TAKE, HAND_OUT, GIVE_BACK and RETURN.

        Args:
            action: what each is; uint8.
            pfn: first page; int64.
            order: int8.
            cpu: the CPU that did it; int16.
            time_ns: int64.
            about: BY_DECAY, IN_BACKGROUND, DERIVED of each; uint8.
        """
        actions: cython.uchar[::1] = memoryview(action)
        pfns: cython.longlong[::1] = memoryview(pfn)
        orders: cython.schar[::1] = memoryview(order)
        doers: cython.short[::1] = memoryview(cpu)
        times: cython.longlong[::1] = memoryview(time_ns)
        kinds: cython.uchar[::1] = memoryview(about)
        step: cython.Py_ssize_t
        page: cython.longlong
        size: cython.longlong
        zone: cython.int
        by: cython.int
        for step in range(len(action)):
            page = pfns[step]
            by = doers[step]
            if page < 0 or page >= len(self.zone_of):
                raise IndexError("a page of the trace lies beyond the guest's")
            self.high.go_on(times[step])
            zone = self.zone_of[page]
            if zone < 0 or by >= self.high.cpus:
                continue
            size = 1 << orders[step]
            if actions[step] == _C_TAKE:
                self.high.zone_free[zone] -= size
            elif actions[step] == _C_RETURN:
                self.high.zone_free[zone] += size
            if orders[step] > _C_COSTLY and orders[step] != _C_PAGEBLOCK:
                continue
            if actions[step] == _C_TAKE:
                self._take(page, orders[step], by, zone, kinds[step], times[step])
            elif actions[step] == _C_RETURN:
                self._return(page, size, by, zone, kinds[step], times[step])
            else:
                self.high.settle(by, zone)
                if actions[step] == _C_HAND_OUT:
                    self._leave(page, size, by, zone)
                    if self.refilling[by] != zone:
                        self.high.free_count[by, zone] >>= 1
                else:
                    self.owner[page] = by
                    self.high.give_back(by, zone, orders[step], kinds[step] & _C_IN_BACKGROUND != 0)
                    self.high.pending_ns[by, zone] = times[step]
                self.refilling[by] = -1

    @cython.cfunc
    @cython.exceptval(check=False)
    def _leave(
        self, page: cython.longlong, size: cython.longlong, cpu: cython.int, zone: cython.int
    ) -> cython.int:
        """A page leaves the list that it is on, which may be another CPU's."""
        owner: cython.int = self.owner[page]
        if owner == -1:
            owner = cpu
        self.owner[page] = -1
        if owner >= 0:
            self.high.count[owner, zone] -= size
        return 0

    @cython.cfunc
    def _take(
        self,
        page: cython.longlong,
        order: cython.int,
        cpu: cython.int,
        zone: cython.int,
        about: cython.int,
        time_ns: cython.longlong,
    ) -> cython.int:
        """rmqueue_bulk(), after nr_pcp_alloc() at the first page; or a target of compaction."""
        size: cython.longlong = 1 << order
        self.high.settle(cpu, zone)
        if about & _C_IN_BACKGROUND and about & _C_DERIVED:
            # Compaction's targets are on no list: they are handed out from nowhere.
            self.owner[page] = -2
            return 0
        if self.high.zone_free[zone] + size <= self.high.zone_high[zone] + self.high.boost[zone]:
            self.high.below[zone] = True
        if self.refilling[cpu] != zone and not about & _C_DERIVED:
            if self.high.awake:
                self.high.refill_shows(zone, size, time_ns)
            self.high.refill(cpu, zone, order)
        self.refilling[cpu] = zone
        self.owner[page] = cpu
        self.high.count[cpu, zone] += size
        return 0

    @cython.cfunc
    def _return(
        self,
        page: cython.longlong,
        size: cython.longlong,
        cpu: cython.int,
        zone: cython.int,
        about: cython.int,
        time_ns: cython.longlong,
    ) -> cython.int:
        """A drained page: what set it off was the free before it, vmstat, or kcompactd."""
        if about & _C_BY_DECAY and self.owner[page] in (-1, cpu):
            self.high.begin_decay(cpu, zone)
            self._leave(page, size, cpu, zone)
            self.high.go_on_decaying(cpu, zone)
        else:
            if about & _C_DERIVED:
                # It never was on the list: a free past it, whose trylock had failed.
                self.high.pending[cpu, zone] = 0
            elif not about & _C_IN_BACKGROUND:
                self.high.drained[cpu, zone] += size
                self.high.pending_ns[cpu, zone] = time_ns
            self._leave(page, size, cpu, zone)
        self.refilling[cpu] = -1
        return 0
