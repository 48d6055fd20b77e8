from hintbench.core.contexts cimport Context


cdef class Accounts:
    cdef readonly dict cpu_ns
    cdef readonly dict longest_irqs_off_ns
    cdef readonly long long spin_ns, held_ns
    cpdef int book(self, Context context, long long now_ns) except -1
    cdef int waited(self, Context context, long long waited_ns) except -1
    cdef int irqs_off(self, str payer, long long since_ns, long long now_ns) except -1
