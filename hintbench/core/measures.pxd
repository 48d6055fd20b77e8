cdef class Latencies:
    cdef long long[::1] counts
    cdef long long[::1] totals
    cdef long long[::1] maxima
    cdef int add(self, int order, int cause, long long ns) except -1


cdef class Integral:
    cdef readonly long long value
    cdef readonly long long peak
    cdef double weighted
    cdef long long weighted_low
    cdef list samples
    cdef long long next_sample_ns
    cdef long long sample_ns
    cdef int change(self, long long now_ns, long long delta) except -1
