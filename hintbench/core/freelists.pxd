cimport cython

from hintbench.core.flags cimport UnitFlags
from hintbench.core.locks cimport LockTimeline
from hintbench.core.watermarks cimport ZoneMemory


cdef class FreeLists(ZoneMemory):
    cdef readonly LockTimeline lock
    cdef public object torn
    cdef public object violate
    cpdef int free_order(self, int pfn) except -2
    cpdef int list_type(self, int pfn, int order) except -1
    cdef int _order_at(self, int pfn) noexcept
    @cython.final
    cdef int _need_walk_lock(self) except -1
    @cython.final
    cdef inline bint _heads(self, int pfn, int state) noexcept
    @cython.final
    cdef inline bint _may_edit(self) noexcept
    @cython.final
    cdef int _need_lock(self, str what, int pfn) except -1
    cdef list _walk(self, int min_order, UnitFlags without, int limit, int look_at_most)
    cdef int _looked(self) except -1
