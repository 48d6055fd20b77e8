from hintbench.core.clock cimport EventListener


cdef class Auditor(EventListener):
    cdef readonly int page_count
    cdef object complain
    cdef object notice
    cdef public object journal
    cdef public list page_calls
    cdef public unsigned char[::1] owner
    cdef public unsigned int[::1] stamp
    cdef public unsigned char[::1] untold
    cdef public unsigned char[::1] told_order
    cdef unsigned int serial
    cdef readonly long long events, allocations, frees, isolations
    cdef int event(self, long long time_ns, int cpu, int kind, int pfn, int order) except -1
    cdef int block_taken(self, int pfn, int order, int reason) except -1
    cpdef int give(self, int pfn, int order) except -1
    cpdef int discarded(self, int pfn, int pages) except -1
    cpdef int acknowledged(self, int pfn, int order) except -1
    cpdef int told_as(self, int pfn) except? -1
    cpdef int owner_of(self, int pfn, int pages, int owner) except? -1
    cpdef int first_untold(self, int pfn, int pages) except? -1
    cdef int _hand_out(self, int pfn, int order) except -1
    cdef int _take_from_owner(self, int pfn, int order) except -1
    cdef int _move(self, int pfn, int order, int before, int after, str what) except -1
    cdef int _refuse(self, int pfn, int order, int here, str what) except -1
