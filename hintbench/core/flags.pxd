cdef class UnitFlags:
    cdef readonly str name
    cdef readonly int order
    cdef readonly long long count
    cdef public object on_clear
    cdef public object guest
    cdef public object watcher
    cdef public object split
    cdef unsigned char[::1] units
    cdef short[::1] writers
    cdef int any_set(self, int pfn, int order) except -1
    cdef int all_set(self, int pfn, int order) except -1
    cdef int forget(self, int pfn, int order) except -1
