cimport cython

from hintbench.core.locks cimport LockTimeline


cdef class Park:
    cdef readonly str kind
    cdef readonly object register
    cdef readonly object outcome
    cdef bint asked


cdef class Step:
    cdef bint asked


cdef class Context:
    cdef readonly object coroutine
    cdef readonly int role, cpu
    cdef readonly long long number
    cdef public str name
    cdef public int interrupts_off, atomic
    cdef public str parked
    cdef Park park
    cdef readonly long long token
    cdef readonly long long parked_at
    cdef long long delay_ns, booked_ns
    cdef public long long irqs_off_ns
    cdef readonly LockTimeline pending_lock
    cdef bint pending_irqs_on
    cdef public object outcome
    cdef public str payer
    cdef bint took
    cdef unsigned long long take_seen
    cdef readonly list joiners
    @cython.final
    cdef inline int rank_of(self) noexcept
    @cython.final
    cdef inline bint is_of_kernel(self) except -1


cdef class Cpu:
    cdef readonly Context occupant, interrupt
    cdef readonly list runnable, interrupts
    cdef long long free_at, saved, began, interrupted_at
    cdef bint woken, was_busy, postponed
    cdef int suspended
    @cython.final
    cdef inline bint is_taken(self) noexcept
