from hintbench.core.scheduler cimport CoreScheduler
from hintbench.core.zone cimport Zone


cdef class HoldMeter:
    cdef Zone zone
    cdef long long bound
    cdef long long visits
    cdef object exceeded


cdef class RefusalMeter:
    cdef Zone zone
    cdef object refused, before
    cdef long long isolations, refusals


cdef class HookTakes:
    cdef CoreScheduler scheduler
    cdef object taken, before
