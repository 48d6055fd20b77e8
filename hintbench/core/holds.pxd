cimport cython

from hintbench.core.locks cimport LockMeter, LockTimeline
from hintbench.core.scheduler cimport CoreScheduler
from hintbench.core.zone cimport Zone


cdef class HoldMeter(LockMeter):
    cdef tuple zones
    cdef long long bound
    cdef long long visits
    cdef object exceeded
    cdef int taken(self, LockTimeline lock) except -1
    cdef int released(self, LockTimeline lock) except -1
    @cython.final
    cdef long long _looked_at(self) noexcept


cdef class RefusalMeter(LockMeter):
    cdef Zone zone
    cdef object refused
    cdef long long isolations, refusals
    cdef int taken(self, LockTimeline lock) except -1
    cdef int released(self, LockTimeline lock) except -1


cdef class HookTakes(LockMeter):
    cdef CoreScheduler scheduler
    cdef object taken_by_hook
    cdef int taken(self, LockTimeline lock) except -1
    cdef int released(self, LockTimeline lock) except -1
