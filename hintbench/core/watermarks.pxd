cimport cython

from hintbench.core.buddy cimport Buddy


cdef class ZoneMemory(Buddy):
    cdef readonly str name
    cdef readonly int index
    cdef readonly int number
    cdef readonly int node
    cdef readonly long long managed_pages
    cdef public long long watermark_min, watermark_low, watermark_high
    cdef public long long[::1] lowmem_reserve
    @cython.final
    cdef bint meets(self, int order, long long mark, int highest_zone, int reserve) noexcept
    @cython.final
    cdef bint meets_fast(self, int order, long long mark, int highest_zone, int reserve) noexcept
    @cython.final
    cdef bint may_isolate(self, int order) noexcept
    cdef int _check_block(self, str what, long long pfn, long long order) except -1
