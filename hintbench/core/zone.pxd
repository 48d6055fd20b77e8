from hintbench.core.buddy cimport Buddy
from hintbench.core.hooks cimport Block
from hintbench.core.locks cimport LockTimeline
from hintbench.core.measures cimport Integral


cdef class Zone(Buddy):
    cdef readonly str name
    cdef readonly int index
    cdef readonly int number
    cdef readonly int node
    cdef readonly LockTimeline lock
    cdef readonly long long managed_pages
    cdef public long long watermark_min, watermark_low, watermark_high
    cdef public long long[::1] lowmem_reserve
    cdef readonly long long isolated_pages
    cdef readonly long long held_pages
    cdef readonly long long isolations
    cdef readonly long long refusals
    cdef public object violate
    cdef public Integral in_flight
    cdef public object held
    cdef public object preempt
    cdef public object refuse_isolation
    cdef bint meets(self, int order, long long mark, int highest_zone, int reserve) noexcept
    cdef int allocate_block(self, int order, int migratetype) except -2
    cpdef int free_order(self, int pfn) except -2
    cpdef int list_type(self, int pfn, int order) except -1
    cdef bint _heads(self, int pfn, int state) noexcept
    cdef int _check_block(self, str what, long long pfn, long long order) except -1
    cdef int _need_lock(self, str what, int pfn) except -1
