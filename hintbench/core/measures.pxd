from hintbench.core.constants cimport BUCKETS, SUB_BUCKET_BITS


cdef extern from *:
    """
    #if defined(__GNUC__) || defined(__clang__)
    #define HINTBENCH_BIT_LENGTH(value) (64 - __builtin_clzll((unsigned long long) (value)))
    #else
    static int HINTBENCH_BIT_LENGTH(unsigned long long value) {
        int length = 0;
        while (value) { value >>= 1; length++; }
        return length;
    }
    #endif
    """
    int bit_length "HINTBENCH_BIT_LENGTH"(long long value) noexcept nogil


cdef int refuse_negative(long long ns) except? -1

# The functions of these names in measures.py, for the callers in other modules.
cdef inline int order_class(int order) noexcept:
    if order == 0:
        return 0
    if order <= 3:
        return 1
    if order <= 8:
        return 2
    return 3 if order == 9 else 4


cdef inline int bucket_of(long long ns) except -1:
    cdef int shift
    if ns < (2 << SUB_BUCKET_BITS):
        if ns < 0:
            return refuse_negative(ns)
        return <int> ns
    shift = bit_length(ns) - SUB_BUCKET_BITS - 1
    ns >>= shift
    if shift * (1 << SUB_BUCKET_BITS) + ns >= BUCKETS:
        return BUCKETS - 1
    return shift * (1 << SUB_BUCKET_BITS) + <int> ns


cdef class Latencies:
    cdef long long[::1] counts
    cdef long long[::1] totals
    cdef long long[::1] maxima
    cdef int add(self, int order, int cause, long long ns) except -1


cdef class Integral:
    cdef readonly long long value
    cdef readonly long long peak
    cdef double weighted
    cdef list samples
    cdef long long next_sample_ns
    cdef long long sample_ns
    cdef int change(self, long long now_ns, long long delta) except -1
    cdef int _sample(self, long long now_ns, long long before) except -1
    cdef int _end_stretch(self, list samples, long long value) except -1
