cdef class Pages:
    cdef readonly int page_count
    cdef int next_list
    cdef int last_list
    cdef int[::1] links
    cdef public int[:] next
    cdef public int[:] prev
    cdef public unsigned char[::1] state
    cdef public unsigned char[::1] pageblock_type
    cdef public short[::1] pageblock_cpu
    cdef readonly long long retyped
    cpdef int new_lists(self, int count) except -1
    cdef int add_head(self, int head, int pfn) except -1
    cdef int add_tail(self, int head, int pfn) except -1
    cdef int retype(self, Py_ssize_t block, int migratetype) except -1
    cdef int remove(self, int pfn) except -1
    cpdef int head_of(self, int pfn) except -2
