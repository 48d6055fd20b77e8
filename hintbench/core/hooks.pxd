cimport cython

from hintbench.core.clock cimport VirtualClock
from hintbench.core.flags cimport UnitFlags


cdef class HookPoint:
    cdef readonly str name
    cdef public object function
    cdef readonly int min_order
    cdef readonly UnitFlags flags
    cdef readonly long long cost_ns
    cdef long long[::1] spent
    cdef Py_ssize_t begin(self, VirtualClock clock) except -1
    cdef int end(self, VirtualClock clock, long long begun) except -1
    cdef int charge_test(self, VirtualClock clock) except -1


cdef class CoreHooks:
    cdef public object guest
    cdef public HookPoint page_freeing, block_merged, block_freed, block_taken
    cdef public HookPoint free_completed, page_allocated, memory_low
    cdef public bint in_block_freed
    cdef public list forget_when_taken
    cdef public list forget_when_allocated


cdef class Block:
    cdef readonly int pfn
    cdef readonly int order
    cdef readonly object zone


cdef int check_range(str what, str name, long long value, long long least, long long most) except? -1
cdef int refuse_to_wait(HookPoint point, object result) except? -1
cdef Block make_block(int pfn, int order, object zone)
