from hintbench.core.clock cimport VirtualClock


cdef class LockTimeline


cdef class LockRequest:
    cdef readonly LockTimeline lock
    cdef readonly bint interrupts_off
    cdef bint asked


cdef class LockMeter:
    cdef readonly LockMeter before
    cdef int taken(self, LockTimeline lock) except -1
    cdef int released(self, LockTimeline lock) except -1


cdef class LockTimeline:
    cdef VirtualClock clock
    cdef readonly str name
    cdef public bint of_zone
    cdef public long long available_ns
    cdef public long long granted_ns
    cdef readonly long long requested_ns
    cdef public long long holder
    cdef public bint held
    cdef public int last_cpu
    cdef long long[::1] irqs_off_until_ns
    cdef readonly long long takes, contended
    cdef long long[::1] wait_by_payer, hold_by_payer, takes_by_payer, longest_hold_by_payer
    cdef long long[::1] longest_irqs_off_by_payer
    cdef readonly long long longest_wait_ns
    cdef public object observer
    cdef public LockMeter meter
    cdef public object taken_in_place
    cdef public object taken_again
    cdef public object left_in_place
    # behind what every take looks at
    cdef public bint of_strategy, interrupts_on
    cpdef Py_ssize_t take(self) except -1
    cpdef Py_ssize_t release(self) except -1
    cdef int _refuse_take(self) except -1
    cdef int _refuse_release(self) except -1
    cdef int _tell_taken(self) except -1
    cdef int _tell_released(self) except -1
