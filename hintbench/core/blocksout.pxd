from hintbench.core.clock cimport VirtualClock
from hintbench.core.contexts cimport Context
from hintbench.core.scheduler cimport CoreScheduler


cpdef bint overlap(tuple blocks, int pfn, int pages) except? -1


cdef class BlockOut:
    cdef readonly int order
    cdef readonly long long at_ns
    cdef readonly Context holder
    cdef readonly bint went_on


cdef class BlocksOut:
    cdef CoreScheduler _scheduler
    cdef VirtualClock _clock
    cdef readonly dict blocks
    cdef list _open
    cdef int _goes_on(self, Context who) except -1
    cdef int _may_return(self, tuple blocks, Context who) except -1
