cimport cython

from hintbench.core.contexts cimport Context
from hintbench.core.scheduler cimport CoreScheduler


cdef class CoreEvent:
    cdef CoreScheduler _scheduler
    cdef long long _wake_ns
    cdef list _waiters
    cdef bint _set


cdef class Waiter:
    cdef CoreEvent event
    cdef long long timeout_ns
    cdef Context context
    cdef long long token
    @cython.final
    cdef bint waits(self) except -1
