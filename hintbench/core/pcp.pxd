from hintbench.core.pages cimport Pages
from hintbench.core.zone cimport Zone


cdef class PerCpuPages:
    cdef readonly Pages pages
    cdef readonly Zone zone
    cdef readonly int cpu
    cdef readonly int first_list
    cdef public long long count, batch, high, high_min, high_max
    cdef public int alloc_factor
    cdef public long long free_count
    cdef public bint previous_free_high_order
    cdef public bint free_high_batch
    cdef int list_of(self, int order, int migratetype) noexcept
    cdef int push(self, int pfn, int order, int migratetype) except -1
    cdef int type_of_freed(self, int pfn) except -1
    cdef int pop(self, int order, int migratetype) except -2
    cdef Py_ssize_t refill_size(self, int order) except -1
    cdef Py_ssize_t to_drain(self, int order) except -1
    cpdef Py_ssize_t decay(self) except -1
    cdef Py_ssize_t _clamped_high(self) noexcept
    cdef Py_ssize_t _drain_high(self, bint free_high) noexcept
    cdef int next_list(self, int pindex) except -1


cdef int pcp_index(int kernel, int order, int migratetype) noexcept
cdef int index_order(int pindex) noexcept
cdef bint pcp_allowed(int kernel, int order) noexcept
