from hintbench.core.flags cimport UnitFlags


cdef class HookPoint:
    cdef readonly str name
    cdef readonly object function
    cdef readonly int min_order
    cdef readonly UnitFlags flags
    cdef readonly long long cost_ns


cdef class CoreHooks:
    cdef public object guest
    cdef public HookPoint page_freeing, block_merged, block_freed, block_taken
    cdef public HookPoint free_completed, page_allocated, memory_low
    cdef public list forget_when_taken
    cdef public list forget_when_allocated


cdef class Block:
    cdef readonly int pfn
    cdef readonly int order
    cdef readonly object zone


cdef Block make_block(int pfn, int order, object zone)
