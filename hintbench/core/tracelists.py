"""What a kernel trace says about per-CPU lists, window by window: whose pages, refills, decays.

Every walk carries a little over from one window to the next: by page and by CPU.
"""

from typing import Any

import cython

from hintbench.core import tracepages, tracewords
from hintbench.core.traceevents import DEFERRED, SETTLES

AT_ONCE_NS = 100_000
PAUSE_NS = 100_000_000

_C_NOTHING = cython.declare(cython.int, tracepages.NOTHING)
_C_TAKE = cython.declare(cython.int, tracepages.TAKE)
_C_GIVE_BACK = cython.declare(cython.int, tracepages.GIVE_BACK)
_C_RETURN = cython.declare(cython.int, tracepages.RETURN)
_C_FREE = cython.declare(cython.int, tracewords.PAGE_FREE)
_C_BATCHED = cython.declare(cython.int, tracewords.PAGE_FREE_BATCHED)
_C_DRAIN = cython.declare(cython.int, tracewords.PCPU_DRAIN)
_C_EXTFRAG = cython.declare(cython.int, tracewords.EXTFRAG)
_C_BY_KWORKER = cython.declare(cython.uint, tracewords.BY_KWORKER)
_C_BY_KCOMPACTD = cython.declare(cython.uint, tracewords.BY_KCOMPACTD)
_C_DEFERRED = cython.declare(cython.int, DEFERRED)
_C_SETTLES = cython.declare(cython.int, SETTLES)
_C_AT_ONCE_NS = cython.declare(cython.longlong, AT_ONCE_NS)
_C_PAUSE_NS = cython.declare(cython.longlong, PAUSE_NS)


@cython.final
@cython.cclass
class DecayWalk:
    """Finds the drains with which a worker begins: vmstat's, while others follow from a free.

    Args:
        cpus: CPUs of the trace.
    """

    drained: cython.uchar[::1]
    follows: cython.uchar[::1]
    freed: cython.uchar[::1]
    pid: cython.int[::1]
    time_ns: cython.longlong[::1]

    def __init__(self, cpus: int) -> None:
        import numpy

        self.drained = memoryview(numpy.zeros(cpus, dtype=numpy.uint8))
        self.follows = memoryview(numpy.zeros(cpus, dtype=numpy.uint8))
        self.freed = memoryview(numpy.zeros(cpus, dtype=numpy.uint8))
        self.pid = memoryview(numpy.zeros(cpus, dtype=numpy.int32))
        self.time_ns = memoryview(numpy.zeros(cpus, dtype=numpy.int64))

    def walk(self, trace: Any) -> Any:
        """Whether each of the next events is such a drain: an array of 0 and 1."""
        import numpy

        cpus: cython.short[::1] = memoryview(trace.cpu)
        kinds: cython.uchar[::1] = memoryview(trace.kind)
        flags: cython.uint[::1] = memoryview(trace.flags)
        pids: cython.int[::1] = memoryview(trace.pid)
        times: cython.longlong[::1] = memoryview(trace.time_ns)
        decays = numpy.zeros(len(trace), dtype=numpy.uint8)
        decay: cython.uchar[::1] = memoryview(decays)
        row: cython.Py_ssize_t
        cpu: cython.int
        is_drain: cython.bint
        for row in range(len(trace)):
            cpu = cpus[row]
            is_drain = kinds[row] == _C_DRAIN and flags[row] & _C_BY_KWORKER != 0
            if is_drain and (not self.drained[cpu] or times[row] - self.time_ns[cpu] > _C_PAUSE_NS):
                # Each drain is of the kind of its run's first.
                self.follows[cpu] = (
                    self.freed[cpu]
                    and self.pid[cpu] == pids[row]
                    and times[row] - self.time_ns[cpu] < _C_AT_ONCE_NS
                )
            decay[row] = is_drain and not self.follows[cpu]
            self.drained[cpu] = is_drain
            self.freed[cpu] = kinds[row] == _C_FREE or kinds[row] == _C_BATCHED or is_drain
            self.pid[cpu] = pids[row]
            self.time_ns[cpu] = times[row]
        return decays


@cython.final
@cython.cclass
class OwnerWalk:
    """Follows how many pages the lists of each CPU and zone hold, and their least after decays.

    A page belongs to the CPU that put it on its list last; a CPU also drains the lists of others
    (drain_all_pages).

    Args:
        zone_of: the zone's index of each page, -1 where there is none; int16.
        cpus: CPUs of the guest.
        zones: its zones.
    """

    zone_of: cython.short[::1]
    owner: cython.short[::1]
    known: cython.longlong[::1]
    least: cython.longlong[::1]
    decayed: cython.uchar[::1]
    least_known: cython.longlong
    cpus: cython.int
    zones: cython.int

    def __init__(self, zone_of: object, cpus: int, zones: int) -> None:
        import numpy

        self.zone_of = memoryview(zone_of)
        self.owner = memoryview(numpy.full(len(self.zone_of), -1, dtype=numpy.int16))
        self.known = memoryview(numpy.zeros(cpus * zones, dtype=numpy.int64))
        self.least_known = numpy.iinfo(numpy.int64).max
        self.least = memoryview(numpy.full(cpus * zones, self.least_known, dtype=numpy.int64))
        self.decayed = memoryview(numpy.zeros(cpus * zones, dtype=numpy.uint8))
        self.cpus = cpus
        self.zones = zones

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
        for at in range(len(pfn)):
            self.owner[pages[at]] = cpus[at]
            zone = self.zone_of[pages[at]]
            if zone >= 0 and cpus[at] < self.cpus:
                self.known[cpus[at] * self.zones + zone] += 1 << sizes[at]

    def walk(self, action: object, pfn: object, order: object, cpu: object, decay: object) -> None:
        """Follow the next steps: TAKE, HAND_OUT, GIVE_BACK and RETURN.

        Args:
            action: what each is; uint8.
            pfn: first page; int64.
            order: int8.
            cpu: the CPU that did it; int16.
            decay: 1 where a RETURN belongs to a decay of vmstat's; uint8.
        """
        actions: cython.uchar[::1] = memoryview(action)
        pfns: cython.longlong[::1] = memoryview(pfn)
        orders: cython.schar[::1] = memoryview(order)
        cpus: cython.short[::1] = memoryview(cpu)
        decays: cython.uchar[::1] = memoryview(decay)
        pages: cython.longlong = len(self.zone_of)
        step: cython.Py_ssize_t
        page: cython.longlong
        cell: cython.Py_ssize_t
        owner: cython.int
        puts: cython.bint
        is_decay: cython.bint
        for step in range(len(action)):
            page = pfns[step]
            if page < 0 or page >= pages:
                raise IndexError("a page of the trace lies beyond the guest's")
            puts = actions[step] == _C_TAKE or actions[step] == _C_GIVE_BACK
            if puts or self.owner[page] < 0:
                self.owner[page] = cpus[step]
            owner = self.owner[page]
            if owner >= self.cpus or self.zone_of[page] < 0:
                continue
            cell = owner * self.zones + self.zone_of[page]
            is_decay = actions[step] == _C_RETURN and decays[step] != 0
            if not is_decay:
                self._end(cell)
            self.known[cell] += (1 << orders[step]) if puts else -(1 << orders[step])
            # 2: the last page so far was drained by the list's own CPU.
            self.decayed[cell] = (2 if cpus[step] == owner else 1) if is_decay else 0

    @cython.cfunc
    @cython.exceptval(check=False)
    def _end(self, cell: cython.Py_ssize_t) -> cython.int:
        """Whatever drain went on has ended with the page before."""
        if self.decayed[cell] == 2 and self.known[cell] < self.least[cell]:
            self.least[cell] = self.known[cell]
        self.decayed[cell] = 0
        return 0

    def least_left(self, cpu: int, zone: int) -> int | None:
        """Pages known to be left on one CPU's list of a zone after its deepest decay, if any."""
        cell = cpu * self.zones + zone
        self._end(cell)
        least = self.least[cell]
        return None if least == self.least_known else least


@cython.final
@cython.cclass
class RefillWalk:
    """Counts refills by their number of blocks.

    Args:
        cpus: CPUs of the trace.
    """

    key: cython.longlong[::1]
    length: cython.longlong[::1]
    sizes: dict

    def __init__(self, cpus: int) -> None:
        import numpy

        self.key = memoryview(numpy.full(cpus, -1, dtype=numpy.int64))
        self.length = memoryview(numpy.zeros(cpus, dtype=numpy.int64))
        self.sizes = {}

    def walk(self, action: object, order: object, trace: object) -> None:
        """Follow the next events: what each does, its order, and the events themselves."""
        actions: cython.uchar[::1] = memoryview(action)
        orders: cython.schar[::1] = memoryview(order)
        cpus: cython.short[::1] = memoryview(trace.cpu)
        kinds: cython.uchar[::1] = memoryview(trace.kind)
        types: cython.schar[::1] = memoryview(trace.migratetype)
        row: cython.Py_ssize_t
        cpu: cython.int
        key: cython.longlong
        for row in range(len(action)):
            if kinds[row] == _C_EXTFRAG and actions[row] == _C_NOTHING:
                # The line of a claim belongs to the take before it.
                continue
            cpu = cpus[row]
            # Steals interrupt no refill, and are of the type that was asked for.
            key = orders[row] << 8 | types[row] & 0xFF if actions[row] == _C_TAKE else -1
            if key != self.key[cpu]:
                self._end(cpu)
                self.key[cpu] = key
            self.length[cpu] += 1

    @cython.cfunc
    def _end(self, cpu: cython.int) -> cython.int:
        if self.key[cpu] >= 0:
            length = self.length[cpu]
            self.sizes[length] = self.sizes.get(length, 0) + 1
        self.length[cpu] = 0
        return 0

    def counts(self) -> dict:
        """Number of refills by size, when all events were followed."""
        cpu: cython.int
        for cpu in range(len(self.key)):
            self._end(cpu)
            self.key[cpu] = -1
        return self.sizes


@cython.final
@cython.cclass
class CompactionDrainWalk:
    """Finds the drains that empty lists: those of other CPUs, and of kcompactd its own.

    Args:
        page_count: pages that the trace can name.
        cpus: CPUs of the trace.
        gap_ns: how far apart two of its runs are at least; one flush a run is looked for.
    """

    put_by: cython.short[::1]
    newest: cython.longlong[::1]
    lowest: cython.longlong[::1]
    highest: cython.longlong[::1]
    hot: cython.uchar[::1]
    of_others: list
    owners: list
    by_tasks: list
    flushes: list
    gap_ns: cython.longlong
    last_ns: cython.longlong

    def __init__(self, page_count: int, cpus: int, gap_ns: int) -> None:
        import numpy

        self.put_by = memoryview(numpy.full(page_count, -1, dtype=numpy.int16))
        self.newest = memoryview(numpy.full(cpus, -1, dtype=numpy.int64))
        self.lowest = memoryview(numpy.full(cpus, -1, dtype=numpy.int64))
        self.highest = memoryview(numpy.full(cpus, -1, dtype=numpy.int64))
        self.hot = memoryview(numpy.zeros(cpus, dtype=numpy.uint8))
        self.of_others = []
        self.owners = []
        self.by_tasks = []
        self.flushes = []
        self.gap_ns = gap_ns
        self.last_ns = -gap_ns

    def walk(self, low: int, action: object, settles: object, trace: object) -> None:
        """Follow the next events.

        Args:
            low: number of the first one in the whole trace.
            action: what each does; uint8.
            settles: whether each is ALONE, DEFERRED or SETTLES; uint8.
            trace: the events.
        """
        actions: cython.uchar[::1] = memoryview(action)
        ends: cython.uchar[::1] = memoryview(settles)
        cpus: cython.short[::1] = memoryview(trace.cpu)
        pfns: cython.longlong[::1] = memoryview(trace.pfn)
        flags: cython.uint[::1] = memoryview(trace.flags)
        times: cython.longlong[::1] = memoryview(trace.time_ns)
        row: cython.Py_ssize_t
        cpu: cython.int
        pfn: cython.longlong
        by_compaction: cython.bint
        for row in range(len(action)):
            if ends[row] == _C_DEFERRED:
                continue
            cpu = cpus[row]
            pfn = pfns[row]
            by_compaction = flags[row] & _C_BY_KCOMPACTD != 0
            if by_compaction and actions[row] == _C_RETURN:
                if self.put_by[pfn] >= 0 and self.put_by[pfn] != cpu:
                    self.of_others.append(low + row)
                    self.owners.append(self.put_by[pfn])
                if self.lowest[cpu] < 0 or pfn < self.lowest[cpu]:
                    self.lowest[cpu] = pfn
                if pfn > self.highest[cpu]:
                    self.highest[cpu] = pfn
                if self.newest[cpu] == pfn:
                    self.hot[cpu] = True
                self.put_by[pfn] = -1
                continue
            if self.lowest[cpu] >= 0:
                self._end(cpu, low + row, times[row])
            if ends[row] == _C_SETTLES or (actions[row] == _C_TAKE or actions[row] == _C_GIVE_BACK):
                self.put_by[pfn] = cpu
                if by_compaction:
                    self.newest[cpu] = pfn
            elif actions[row] != _C_NOTHING:
                if actions[row] == _C_RETURN and self.put_by[pfn] >= 0 and self.put_by[pfn] != cpu:
                    self.by_tasks.append(low + row)
                self.put_by[pfn] = -1

    @cython.cfunc
    def _end(self, cpu: cython.int, row: cython.longlong, time_ns: cython.longlong) -> cython.int:
        """A drain by kcompactd has ended before `row`: did it leave anything of that zone?

        One that a free set off begins with that page's list, and may get to its head as well, but
        leaves other lists; what it leaves lies among what it took.
        """
        page: cython.longlong
        empty: cython.bint = self.hot[cpu] and time_ns - self.last_ns > self.gap_ns
        if empty:
            for page in range(self.lowest[cpu], self.highest[cpu]):
                if self.put_by[page] == cpu:
                    empty = False
                    break
        if empty:
            self.flushes.append(row - 1)
        if (self.flushes and time_ns - self.last_ns <= self.gap_ns) or empty:
            self.last_ns = time_ns
        self.lowest[cpu] = -1
        self.highest[cpu] = -1
        self.hot[cpu] = False
        return 0

    def drained_of_others(self) -> list:
        """The rows at which it drained a page that another CPU had put on its list, rising."""
        return self.of_others

    def owners_of_drained(self) -> list:
        """The CPU whose list each of these was on."""
        return self.owners

    def drained_by_tasks(self) -> list:
        """The rows at which anybody else did, rising: drain_all_pages() of direct reclaim."""
        return self.by_tasks

    def flushed(self) -> list:
        """Rows behind which its own CPU's list of a zone was empty, at least one of each run."""
        return self.flushes
