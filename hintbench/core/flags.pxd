from hintbench.core.clock cimport VirtualClock


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
    cdef VirtualClock clock
    cdef int any_set(self, int pfn, int order) except -1
    cdef int all_set(self, int pfn, int order) except -1
    cdef int forget(self, int pfn, int order) except -1
    cdef int _charge(self, int pfn, int order) except -1
    cdef int _check(self, long long pfn, long long order) except -1
