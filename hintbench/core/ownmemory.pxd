cimport cython

from hintbench.core.freelists cimport FreeLists


cdef class OwnMemory(FreeLists):
    cdef readonly long long held_pages
    cdef readonly long long allocated_pages
    cdef readonly long long refusals
    cdef readonly dict own_blocks
    cdef public object held
    cdef public object kept
    cdef public object named
    @cython.final
    cdef int allocate_block(self, int order, int migratetype) except -2
    @cython.final
    cdef int free_block(self, int pfn, int order) except -1
