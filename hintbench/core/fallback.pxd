from hintbench.core.buddy cimport Buddy


cdef class FallbackMode:
    cdef int mode

cdef int rmqueue(Buddy zone, int order, int migratetype, bint no_fragment, FallbackMode mode) except? -1
cdef int move_free_blocks(Buddy zone, int start_pfn, int new_type) except? -1
cdef int move_pageblock_5_0(Buddy zone, int pfn, int new_type) except? -1
cdef int mark_isolated(Buddy zone, int pfn, int order) except? -1
