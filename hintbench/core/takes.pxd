from hintbench.core.contexts cimport Context
from hintbench.core.simulation cimport Simulation


cdef class LockTakes:
    cdef Simulation simulation
    cdef readonly long long total, empty
    cdef readonly list own_locks
    cdef public list in_flight_flags
    cpdef unsigned long long held_by(self, long long number) except? 0
    cdef bint took
    cdef unsigned long long take_seen
    cdef int begin(self, Context context) except -1
    cpdef int end(self, Context context) except -1
    cdef unsigned long long in_hand(self) except? 0
