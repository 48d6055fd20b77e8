cimport cython

from hintbench.core.freelists cimport FreeLists
from hintbench.core.measures cimport Integral


cdef class Zone(FreeLists):
    cdef readonly long long isolated_pages
    cdef readonly long long held_pages
    cdef readonly long long allocated_pages
    cdef readonly long long isolations
    cdef readonly long long refusals
    cdef readonly int isolated_from
    cdef readonly dict own_blocks
    cdef public object kept
    cdef public Integral in_flight
    cdef public object held
    cdef public object named
    cdef public object refuse_isolation
    cdef int allocate_block(self, int order, int migratetype) except -2
    @cython.final
    cdef inline bint _heads(self, int pfn, int state) noexcept
    @cython.final
    cdef inline bint _may_edit(self) noexcept
    @cython.final
    cdef int _need_lock(self, str what, int pfn) except -1
