from hintbench.core.watermarks cimport ZoneMemory


cdef class FreeLists(ZoneMemory):
    cpdef int free_order(self, int pfn) except -2
    cpdef int list_type(self, int pfn, int order) except -1
