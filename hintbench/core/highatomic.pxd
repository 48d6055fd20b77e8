from hintbench.core.zone cimport Zone

cdef bint may_reserve(Zone zone) noexcept
cdef int reserve(Zone zone, int pfn, int order) except? -1
cpdef bint unreserve(Zone zone, int migratetype) except? -1
