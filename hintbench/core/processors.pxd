cimport cython

from hintbench.core.accounts cimport Accounts
from hintbench.core.clock cimport VirtualClock
from hintbench.core.contexts cimport Context, Cpu
from hintbench.core.simulation cimport Simulation


cdef class Processors:
    cdef Simulation simulation
    cdef VirtualClock clock
    cdef long long[::1] irqs_off_until_ns
    cdef object driver
    cdef Accounts accounts
    cdef long long interrupt_ns, switch_ns
    cdef readonly list cpus, hooks
    cdef readonly long long interrupts_taken
    cpdef int make_ready(self, Context context, long long at_ns) except -1
    cdef int _ready(self, Context context) except -1
    cdef int _dispatch(self, Context context) except -1
    cdef int _save_tape(self, int number) except -1
    cdef int _restore_tape(self, int number) except -1
    cdef bint postpone(self, int number) except -1
    cdef int keep_out(self, int number, long long until_ns) except -1
    cdef int wake_tape(self, int number, long long at_ns) except -1
    cdef int vacate(self, Context context) except -1
    cpdef int release_soon(self, int number) except -1
    cdef int _release(self, int number) except -1
    cdef bint _blocked(self, int number) except -1
    cdef bint _takes_interrupts(self, int number) except -1
    cdef int _interrupt(self, int number, str name, object handler) except -1
    cdef int end_interrupt(self, Context context) except -1
    cdef bint _in_guest(self, int number) except -1
    cdef int _delay(self, int number, long long cost_ns) except -1
    cdef int interrupts_were_off(self, int number, long long since_ns, str payer) except -1


cdef class Ready:
    cdef Processors processors
    cdef Context context


cdef class Release:
    cdef Processors processors
    cdef int number


cdef class Raise:
    cdef Processors processors
    cdef int number
    cdef str name
    cdef object handler
