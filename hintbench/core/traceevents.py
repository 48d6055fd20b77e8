"""What every event of a kernel trace does to its block, found out window by window.

It depends on earlier events of the same page and CPU, of which a little is carried on: the memory
depends on the pages and CPUs of the trace, not on its length.
"""

import cython

from hintbench.core import tracepages, tracewords

# How a free stands to its line of mm_page_free_batched.
ALONE = 0
DEFERRED = 1
SETTLES = 2

_C_NOTHING = cython.declare(cython.int, tracepages.NOTHING)
_C_TAKE = cython.declare(cython.int, tracepages.TAKE)
_C_HAND_OUT = cython.declare(cython.int, tracepages.HAND_OUT)
_C_GIVE_BACK = cython.declare(cython.int, tracepages.GIVE_BACK)
_C_RETURN = cython.declare(cython.int, tracepages.RETURN)
_C_ALLOC = cython.declare(cython.int, tracewords.PAGE_ALLOC)
_C_FREE = cython.declare(cython.int, tracewords.PAGE_FREE)
_C_BATCHED = cython.declare(cython.int, tracewords.PAGE_FREE_BATCHED)
_C_LOCKED = cython.declare(cython.int, tracewords.ZONE_LOCKED)
_C_DRAIN = cython.declare(cython.int, tracewords.PCPU_DRAIN)
_C_EXTFRAG = cython.declare(cython.int, tracewords.EXTFRAG)
_C_CLAIM = cython.declare(cython.int, tracewords.AUX_CHANGE_OWNERSHIP)


@cython.final
@cython.cclass
class EventWalk:
    """Goes through the events of a trace, in order, once.

    An mm_page_free and the mm_page_free_batched of the same page behind it are one free. Only the
    second one shows that they are: the first pass over a trace learns it, later ones know it.

    Args:
        page_count: pages that the trace can name.
        cpus: CPUs that it names.
        paired: a bit for each row, set when it is one of two lines of the same free.
        learning: whether this is the first pass, which sets those bits.
    """

    pending_order: cython.schar[::1]
    pending_row: cython.int[::1]
    paired: cython.uchar[::1]
    learning: cython.bint
    last_kind: cython.int[::1]
    last_pfn: cython.longlong[::1]
    last_row: cython.longlong[::1]
    run_row: cython.longlong[::1]
    run_pid: cython.int[::1]
    run_free: cython.schar[::1]
    claims: list

    def __init__(self, page_count: int, cpus: int, paired: object, learning: bool) -> None:
        import numpy

        self.pending_order = memoryview(numpy.full(page_count, -1, dtype=numpy.int8))
        rows = page_count if learning else 0
        self.pending_row = memoryview(numpy.zeros(rows, dtype=numpy.int32))
        self.paired = memoryview(paired)
        self.learning = learning
        self.last_kind = memoryview(numpy.zeros(cpus, dtype=numpy.int32))
        self.last_pfn = memoryview(numpy.zeros(cpus, dtype=numpy.int64))
        self.last_row = memoryview(numpy.zeros(cpus, dtype=numpy.int64))
        self.run_row = memoryview(numpy.zeros(cpus, dtype=numpy.int64))
        self.run_pid = memoryview(numpy.zeros(cpus, dtype=numpy.int32))
        # -1: no row of this CPU was seen.
        self.run_free = memoryview(numpy.full(cpus, -1, dtype=numpy.int8))
        self.claims = []

    def walk(self, low: int, trace: object) -> tuple:
        """Follow the next events.

        Args:
            low: number of the first one in the whole trace.
            trace: the events: a `Trace` of only these rows.

        Returns:
            Four arrays over these events: what each does (TAKE, HAND_OUT, GIVE_BACK, RETURN or
            NOTHING), its order, whether it is ALONE, DEFERRED or SETTLES (a first pass does not
            know what is DEFERRED), and the first row of the run of frees by one task that it
            belongs to on its CPU.
        """
        import numpy

        count: cython.Py_ssize_t = len(trace)
        action = numpy.zeros(count, dtype=numpy.uint8)
        order = trace.order.copy()
        settles = numpy.zeros(count, dtype=numpy.uint8)
        run = numpy.zeros(count if self.learning else 0, dtype=numpy.int64)
        if count:
            self._walk(
                low,
                count,
                (trace.kind, trace.pfn, trace.order, trace.cpu, trace.pid, trace.aux),
                (action, order, settles, run),
            )
        return action, order, settles, run

    def claimed(self) -> list:
        """Rows of the takes whose whole pageblock was claimed."""
        return self.claims

    def _walk(self, low: int, count: int, columns: tuple, outputs: tuple) -> None:
        kinds: cython.uchar[::1] = memoryview(columns[0])
        pfns: cython.longlong[::1] = memoryview(columns[1])
        orders: cython.schar[::1] = memoryview(columns[2])
        cpus: cython.short[::1] = memoryview(columns[3])
        pids: cython.int[::1] = memoryview(columns[4])
        aux: cython.int[::1] = memoryview(columns[5])
        action: cython.uchar[::1] = memoryview(outputs[0])
        sizes: cython.schar[::1] = memoryview(outputs[1])
        settles: cython.uchar[::1] = memoryview(outputs[2])
        run: cython.longlong[::1] = memoryview(outputs[3])
        first: cython.longlong = low
        row: cython.longlong
        at: cython.Py_ssize_t
        rows: cython.Py_ssize_t = count
        kind: cython.int
        what: cython.int
        cpu: cython.int
        pfn: cython.longlong
        known: cython.bint = not self.learning
        pages: cython.longlong = len(self.pending_order)
        cpu_count: cython.int = len(self.last_kind)
        for at in range(rows):
            kind = kinds[at]
            pfn = pfns[at]
            cpu = cpus[at]
            row = first + at
            if pfn >= pages or cpu < 0 or cpu >= cpu_count:
                raise IndexError("an event is of a page or CPU beyond those that were declared")
            if not known:
                run[at] = self._run(row, cpu, pids[at], kind == _C_FREE or kind == _C_BATCHED)
            what = _C_NOTHING
            if pfn < 0:
                pass
            elif kind == _C_ALLOC:
                what = _C_HAND_OUT
            elif kind == _C_LOCKED:
                what = _C_TAKE
            elif kind == _C_DRAIN:
                what = _C_RETURN
            elif kind == _C_FREE:
                what = _C_GIVE_BACK
                self.pending_order[pfn] = orders[at]
                if not known:
                    self.pending_row[pfn] = cython.cast(cython.int, row)
                elif self.paired[row >> 3] >> (row & 7) & 1:
                    settles[at] = DEFERRED
            elif kind == _C_BATCHED:
                if self.pending_order[pfn] < 0:
                    # Without its mm_page_free (not recorded, or before the trace) it is the free.
                    what = _C_GIVE_BACK
                else:
                    # Batched frees of huge pages are printed as order 0.
                    sizes[at] = self.pending_order[pfn]
                    self.pending_order[pfn] = -1
                    settles[at] = SETTLES
                    if not known:
                        self._pair(pfn, row)
            elif kind == _C_EXTFRAG:
                what = self._fallback(row, pfn, cpu, aux[at])
            action[at] = cython.cast(cython.uchar, what)
            if kind != _C_DRAIN:
                self.last_kind[cpu] = kind
                self.last_pfn[cpu] = pfn
                self.last_row[cpu] = row

    @cython.cfunc
    @cython.exceptval(check=False)
    def _run(
        self, row: cython.longlong, cpu: cython.int, pid: cython.int, is_free: cython.bint
    ) -> cython.longlong:
        """A run goes on while the same task frees."""
        if not is_free or self.run_free[cpu] != 1 or self.run_pid[cpu] != pid:
            self.run_row[cpu] = row
        self.run_free[cpu] = is_free
        self.run_pid[cpu] = pid
        return self.run_row[cpu]

    @cython.cfunc
    @cython.exceptval(check=False)
    def _pair(self, pfn: cython.longlong, row: cython.longlong) -> cython.int:
        before: cython.longlong = self.pending_row[pfn]
        self.paired[before >> 3] |= cython.cast(cython.uchar, 1 << (before & 7))
        self.paired[row >> 3] |= cython.cast(cython.uchar, 1 << (row & 7))
        return 0

    @cython.cfunc
    @cython.exceptval(-1)
    def _fallback(
        self, row: cython.longlong, pfn: cython.longlong, cpu: cython.int, aux: cython.int
    ) -> cython.int:
        """An extfrag takes its block, unless the zone-locked event before it said so already.

        A claim below order 9 ends in __rmqueue_smallest, which fires mm_page_alloc_zone_locked for
        the same block; a larger claim and a steal do not.
        """
        told: cython.bint = self.last_kind[cpu] == _C_LOCKED and self.last_pfn[cpu] == pfn
        if self.learning and aux & _C_CLAIM:
            self.claims.append(self.last_row[cpu] if told else row)
        return _C_NOTHING if told else _C_TAKE
