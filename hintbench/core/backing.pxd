from hintbench.core.clock cimport VirtualClock
from hintbench.core.measures cimport Integral


cdef class Backing:
    cdef unsigned long long[::1] words
    cdef unsigned char[::1] small_units, units_come_back
    cdef public bint huge_granule
    cdef VirtualClock clock
    cdef readonly Integral backed
    cdef readonly Integral reclaimed
    cdef readonly Integral used
    cdef readonly long long refaulted_pages
    cdef readonly long long small_refaults
    cdef readonly long long huge_refaults
    cdef readonly long long discarded_pages
    cdef readonly long long claimed_blocks, claimed_pages
    cdef public bint free_of_charge
    cdef public object split
    cdef long long[::1] discarded_ns
    cdef readonly long long[::1] refaulted_within
    cdef int _count_early(self, int pfn, int pages) except -1
    cdef Py_ssize_t fault(self, int pfn, int order) except -1
    cdef int backed_pages(self, int pfn, int order) except -1
    cdef int backed_block(self, int pfn, int order) except -1
    cpdef int count_range(self, int pfn, int pages) except -1
    cpdef bint is_huge(self, int pfn) except -1
    cdef int _back_unit(self, int unit) except -1
    cdef int _bring_units(self, int pfn, int order) except -1
    cdef int _bring_pages(self, int pfn, int order) except -1
    cdef int _split(self, int pfn, int order) except -1
    cpdef int discard(self, int pfn, int order, bint piecemeal=*) except -1
    cpdef int discard_range(self, int pfn, int pages, bint piecemeal) except -1
    cpdef int claim(self, int pfn, int order) except -1
    cpdef bint is_backed(self, int pfn) except -1
