from hintbench.core.locks cimport LockTimeline
from hintbench.core.watermarks cimport ZoneMemory


cdef class FreeLists(ZoneMemory):
    cdef readonly LockTimeline lock
    cdef public object torn
    cpdef int free_order(self, int pfn) except -2
    cpdef int list_type(self, int pfn, int order) except -1
    cdef int _looked(self) except -1
