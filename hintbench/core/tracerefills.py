"""What the first refill of each per-CPU list tells of the state that the lists were in."""

from typing import Any

import cython

from hintbench.core import constants, tracepages

_C_TAKE = cython.declare(cython.int, tracepages.TAKE)
_C_GIVE_BACK = cython.declare(cython.int, tracepages.GIVE_BACK)
_C_SCALE = cython.declare(cython.int, constants.PCP_BATCH_SCALE_MAX)


@cython.final
@cython.cclass
class AllocFactorWalk:
    """Finds pcp->alloc_factor as it was at the beginning, by CPU and zone.

    nr_pcp_alloc() doubles a refill of single pages for each refill since something was freed;
    each free takes that back by half. How many pages the first refill brings shows it.

    Args:
        zone_of: the zone's index of each page, -1 where there is none; int16.
        batch: by CPU and zone, pcp->batch [pages]; int64.
    """

    zone_of: cython.short[::1]
    batch: cython.longlong[:, ::1]
    factor: cython.schar[:, ::1]
    frees: cython.int[:, ::1]
    pages: cython.longlong[::1]
    zone: cython.short[::1]
    unknown: cython.int

    def __init__(self, zone_of: object, batch: Any) -> None:
        import numpy

        self.zone_of = memoryview(zone_of)
        self.batch = memoryview(batch)
        # -1: not known yet.
        self.factor = memoryview(numpy.full(batch.shape, -1, dtype=numpy.int8))
        self.frees = memoryview(numpy.zeros(batch.shape, dtype=numpy.int32))
        # By CPU: pages of the refill that goes on, and its zone or -1.
        self.pages = memoryview(numpy.zeros(len(batch), dtype=numpy.int64))
        self.zone = memoryview(numpy.full(len(batch), -1, dtype=numpy.int16))
        self.unknown = batch.size

    def walk(self, steps: Any, cpu: object) -> None:
        """Follow the next steps (`hintbench.traces.steps.Steps`), until everything is known.

        Args:
            steps: the steps, with frees when they reach the lists.
            cpu: of each step; int16.
        """
        actions: cython.uchar[::1] = memoryview(steps.action)
        pfns: cython.longlong[::1] = memoryview(steps.pfn)
        orders: cython.schar[::1] = memoryview(steps.order)
        derived: cython.uchar[::1] = memoryview(steps.derived.view("u1"))
        cpus: cython.short[::1] = memoryview(cpu)
        at: cython.Py_ssize_t
        by: cython.int
        zone: cython.int
        for at in range(len(actions)):
            by = cpus[at]
            if self.unknown == 0:
                return
            if derived[at] or by >= len(self.batch):
                continue
            zone = self.zone_of[pfns[at]] if 0 <= pfns[at] < len(self.zone_of) else -1
            if actions[at] == _C_TAKE and orders[at] == 0 and zone >= 0:
                if self.zone[by] != zone:
                    self._end(by)
                    self.zone[by] = cython.cast(cython.short, zone)
                self.pages[by] += 1
                continue
            self._end(by)
            if actions[at] == _C_GIVE_BACK and zone >= 0:
                self.frees[by, zone] += 1

    @cython.cfunc
    @cython.exceptval(check=False)
    def _end(self, cpu: cython.int) -> cython.int:
        """A refill has ended, if one was going on."""
        zone: cython.int = self.zone[cpu]
        factor: cython.int = 0
        if zone < 0:
            return 0
        if self.factor[cpu, zone] < 0:
            self.unknown -= 1
            while factor < _C_SCALE and self.batch[cpu, zone] << factor < self.pages[cpu]:
                factor += 1
            # Each free since the beginning has halved it.
            factor = min(factor << min(self.frees[cpu, zone], _C_SCALE), _C_SCALE)
            self.factor[cpu, zone] = cython.cast(cython.schar, factor)
        self.pages[cpu] = 0
        self.zone[cpu] = -1
        return 0

    def is_done(self) -> bool:
        """Whether nothing is left to find out."""
        return self.unknown == 0

    def factors(self) -> Any:
        """pcp->alloc_factor by CPU and zone; 0 where no refill tells of it; int64."""
        import numpy

        return numpy.maximum(numpy.asarray(self.factor), 0).astype(numpy.int64)
