"""The operations of a modelled replay, made of a kernel trace's events, window by window.

The memory depends on the pages of the trace and on the size of a window, not on the trace's length.
"""

import cython

from hintbench.core import tracepages
from hintbench.core.traceevents import DEFERRED, SETTLES

if cython.compiled:
    from cython.cimports.hintbench.core.traceslots import DeferredFrees, SlotWalk
else:
    from hintbench.core.traceslots import DeferredFrees, SlotWalk

_C_TAKE = cython.declare(cython.int, tracepages.TAKE)
_C_HAND_OUT = cython.declare(cython.int, tracepages.HAND_OUT)
_C_GIVE_BACK = cython.declare(cython.int, tracepages.GIVE_BACK)
_C_RETURN = cython.declare(cython.int, tracepages.RETURN)
_C_DEFERRED = cython.declare(cython.int, DEFERRED)
_C_SETTLES = cython.declare(cython.int, SETTLES)
_C_GFP_BITS = cython.declare(cython.uint, 0xFFFF)
_C_TYPE_BIAS = cython.declare(cython.int, 128)


@cython.final
@cython.cclass
class TapeWalk:
    """Makes operations of allocations and frees, the latter when they reach the per-CPU lists.

    An allocation that refills its list happens with the last page of the refill: its own line comes
    later, and the host may take the vCPU away in between. So may it before a free drains its list.

    Args:
        page_count: pages that the trace can name.
        cpus: CPUs that it names.
        begin_ns: the trace's own time that becomes the virtual time 0.
        codes: four arrays of code words, uint32: of an allocation by its 16 bits of GFP flags; its
            migratetype by that of the event, from -128 on; its order; and, alone, that of a free.
    """

    slots: SlotWalk
    deferred: DeferredFrees
    cpus: cython.int
    begin_ns: cython.longlong
    by_flags: cython.uint[::1]
    by_type: cython.uint[::1]
    by_order: cython.uint[::1]
    free_code: cython.uint
    # The window's columns, and what is made of it, in the order in which it happens.
    pfn: cython.longlong[::1]
    time_ns: cython.longlong[::1]
    free_ns: cython.longlong[::1]
    cpu: cython.short[::1]
    settles: cython.uchar[::1]
    settled: cython.Py_ssize_t
    code_of: cython.uint[::1]
    slot_of: cython.int[::1]
    row_of: cython.int[::1]
    at_of: cython.longlong[::1]
    # By CPU: when the refill ended that the next allocation belongs to, or -1.
    refill_ns: cython.longlong[::1]
    written: cython.Py_ssize_t

    def __init__(self, page_count: int, cpus: int, begin_ns: int, codes: tuple) -> None:
        import numpy

        self.slots = SlotWalk(page_count)
        self.deferred = DeferredFrees(page_count)
        self.cpus = cpus
        self.refill_ns = memoryview(numpy.full(cpus, -1, dtype=numpy.int64))
        self.begin_ns = begin_ns
        self.by_flags = memoryview(codes[0])
        self.by_type = memoryview(codes[1])
        self.by_order = memoryview(codes[2])
        self.free_code = int(codes[3][0])

    def walk(self, window: object, silent: tuple, gone: object, free_ns: object) -> tuple:
        """Make the operations of the next window.

        Args:
            window: the events (`hintbench.traces.windows.Window`).
            silent: steps that no event tells of, as they follow each other: arrays of the row
                beside which each happened (int64), whether it did behind that (uint8), HAND_OUT or
                GIVE_BACK (uint8), first page (int64), order (int8), the page whose slot goes on
                with this one or -1 (int64), and an allocation's code (uint32).
            gone: rows whose event makes no operation, rising; int64.
            free_ns: when what is freed at each row goes to its list; int64.

        Returns:
            code (uint32), value (int32) and time_ns (int64) as in a tape, of one CPU after the
            other, and where each CPU's begin and the last one's end.
        """
        import numpy

        rows = len(window.action)
        orders = window.order[window.counting].astype(numpy.int64)
        acting = window.action[window.counting] != 0
        # Every page of a block empties a slot at most, and an allocation fills one.
        most = int((1 << orders[acting]).sum()) + int((1 << silent[4].astype(numpy.int64)).sum())
        most += 2 * rows + len(silent[0]) + self.deferred.waiting
        self.pfn = memoryview(window.trace.pfn)
        self.time_ns = memoryview(window.trace.time_ns)
        self.free_ns = memoryview(free_ns)
        self.cpu = memoryview(window.trace.cpu)
        self.settles = memoryview(window.settles)
        self.settled = 0
        code = numpy.empty(most, dtype=numpy.uint32)
        slot = numpy.empty(most, dtype=numpy.int32)
        row = numpy.empty(most, dtype=numpy.int32)
        at_ns = numpy.empty(most, dtype=numpy.int64)
        self.code_of, self.slot_of, self.row_of, self.at_of = (
            memoryview(code),
            memoryview(slot),
            memoryview(row),
            memoryview(at_ns),
        )
        self.written = 0
        self._walk(window, silent, gone)
        self._settle_until(rows - 1)
        return self._by_cpu()

    def slot_count(self) -> int:
        """Number of slots given out so far."""
        return self.slots.slot_count

    def in_use_at_start(self) -> tuple:
        """Blocks in use when the trace began: arrays of pfn, order and slot."""
        return self.slots.in_use_at_start()

    def _walk(self, window: object, silent: tuple, gone: object) -> None:
        actions: cython.uchar[::1] = memoryview(window.action)
        orders: cython.schar[::1] = memoryview(window.order)
        flags: cython.uint[::1] = memoryview(window.trace.flags)
        types: cython.schar[::1] = memoryview(window.trace.migratetype)
        beside: cython.longlong[::1] = memoryview(silent[0])
        behind: cython.uchar[::1] = memoryview(silent[1])
        left_out: cython.longlong[::1] = memoryview(gone)
        silents: cython.Py_ssize_t = len(silent[0])
        left_outs: cython.Py_ssize_t = len(gone)
        row: cython.Py_ssize_t
        first: cython.Py_ssize_t = window.begin
        last: cython.Py_ssize_t = window.end
        at: cython.Py_ssize_t = 0
        out_at: cython.Py_ssize_t = 0
        what: cython.int
        code: cython.uint
        for row in range(first, last):
            while at < silents and (beside[at] < row or (beside[at] == row and not behind[at])):
                self._silent_step(silent, at)
                at += 1
            what = actions[row]
            if what == _C_TAKE:
                self.refill_ns[self.cpu[row]] = self.time_ns[row]
            if what != _C_HAND_OUT and what != _C_GIVE_BACK:
                if what == _C_RETURN or self.settles[row] == _C_SETTLES:
                    self.refill_ns[self.cpu[row]] = -1
                continue
            if out_at < left_outs and left_out[out_at] == row:
                out_at += 1
                continue
            code = self.free_code
            if what == _C_HAND_OUT:
                code = self.by_flags[flags[row] & _C_GFP_BITS]
                code |= self.by_type[types[row] + _C_TYPE_BIAS] | self.by_order[orders[row]]
            self._step(row, what, self.pfn[row], orders[row], code)
            self.refill_ns[self.cpu[row]] = -1
        while at < silents:
            self._silent_step(silent, at)
            at += 1

    def _silent_step(self, silent: tuple, at: int) -> None:
        """One of the few steps that no event tells of."""
        row, _, what, pfn, order, source, code = (int(column[at]) for column in silent)
        if source >= 0:
            self.slots.move(source, pfn)
        else:
            self._step(row, what, pfn, order, code)

    @cython.cfunc
    @cython.exceptval(-1)
    def _step(
        self,
        row: cython.Py_ssize_t,
        what: cython.int,
        pfn: cython.longlong,
        order: cython.int,
        code: cython.uint,
    ) -> cython.int:
        """One block is handed out or given back."""
        at: cython.int
        slot: cython.int = -1
        at_ns: cython.longlong
        waits: cython.bint = self.settles[row] == _C_DEFERRED
        if what == _C_HAND_OUT:
            slot = self.slots.fill(pfn, order)
        else:
            self.slots.empty(pfn, order)
        if self.settled <= row:
            self._settle_until(row)
        for at in range(self.slots.emptied_count):
            if waits:
                self.deferred.wait(self.pfn[row], self.slots.emptied[at])
            else:
                self._write(row, self.free_ns[row], self.slots.emptied[at], self.free_code)
        if slot >= 0:
            at_ns = self.refill_ns[self.cpu[row]]
            self._write(row, at_ns if at_ns >= 0 else self.time_ns[row], slot, code)
        return 0

    @cython.cfunc
    @cython.exceptval(-1)
    def _settle_until(self, row: cython.Py_ssize_t) -> cython.int:
        """Frees whose batched line stands at this row or before it happen there."""
        cell: cython.int
        page: cython.longlong
        at: cython.Py_ssize_t
        for at in range(self.settled, row + 1):
            if self.settles[at] == _C_SETTLES:
                page = self.pfn[at]
                cell = self.deferred.first[page]
                self.deferred.first[page] = -1
                while cell >= 0:
                    self._write(at, self.free_ns[at], self.deferred.slot[cell], self.free_code)
                    cell = self.deferred.release(cell)
        if self.settled <= row:
            self.settled = row + 1
        return 0

    @cython.cfunc
    @cython.exceptval(-1)
    def _write(
        self,
        row: cython.Py_ssize_t,
        at_ns: cython.longlong,
        slot: cython.int,
        code: cython.uint,
    ) -> cython.int:
        self.code_of[self.written] = code
        self.slot_of[self.written] = slot
        self.row_of[self.written] = cython.cast(cython.int, row)
        self.at_of[self.written] = at_ns
        self.written += 1
        return 0

    def _by_cpu(self) -> tuple:
        """What was made, of one CPU after the other, each in its order."""
        import numpy

        count: cython.Py_ssize_t = self.written
        at: cython.Py_ssize_t
        to: cython.Py_ssize_t
        cpu: cython.int
        row: cython.int
        bounds = numpy.zeros(self.cpus + 1, dtype=numpy.int64)
        code = numpy.empty(count, dtype=numpy.uint32)
        value = numpy.empty(count, dtype=numpy.int32)
        time_ns = numpy.empty(count, dtype=numpy.int64)
        ends: cython.longlong[::1] = memoryview(bounds)
        codes: cython.uint[::1] = memoryview(code)
        values: cython.int[::1] = memoryview(value)
        times: cython.longlong[::1] = memoryview(time_ns)
        # A counting sort: each CPU's end becomes its place to write to, and then its end again.
        for at in range(count):
            ends[self.cpu[self.row_of[at]]] += 1
        bounds[1:] = numpy.cumsum(bounds[: self.cpus])
        bounds[0] = 0
        place = bounds.copy()
        places: cython.longlong[::1] = memoryview(place)
        for at in range(count):
            row = self.row_of[at]
            cpu = self.cpu[row]
            to = places[cpu]
            places[cpu] = to + 1
            codes[to] = self.code_of[at]
            values[to] = self.slot_of[at]
            times[to] = self.at_of[at] - self.begin_ns
        return code, value, time_ns, bounds
