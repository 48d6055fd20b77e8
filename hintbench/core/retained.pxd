from hintbench.core.backing cimport Backing
from hintbench.core.clock cimport VirtualClock
from hintbench.core.measures cimport Integral
from hintbench.core.pages cimport Pages


cdef class RetainedSplit:
    cdef readonly int min_order
    cdef Backing backing
    cdef Pages pages
    cdef VirtualClock clock
    cdef readonly Integral fragments, whole, isolated, marked
    cdef dict marks
    cdef int freed(self, int pfn, int order, int freed_pfn, int freed_order) except -1
    cdef int taken(self, int pfn, int block_order, int order) except -1
    cdef int change_isolated(self, int pfn, int order, int sign) except -1
    cdef int count_backed(self, int pfn, int order) except -1
    cdef int _add(self, int state, int pages) except -1
    cdef int _backed_whole(self, int pfn, int order) except -1
    cdef int _recount(self, int pfn, int pages) except -1
