from hintbench.core.contexts cimport Context
from hintbench.core.scheduler cimport CoreScheduler


cdef class InterruptsOff:
    cdef CoreScheduler scheduler
    cdef Context context
    cdef long long since_ns
    cdef unsigned long long locks
