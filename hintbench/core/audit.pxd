from hintbench.core.clock cimport EventListener
from hintbench.core.flags cimport UnitFlags


cdef extern from *:
    """
    /* Many pages at a time: eight in a word, and what is left of a range one by one. */
    #include <string.h>
    static CYTHON_INLINE int hintbench_first_other(
            const unsigned char *table, int first, int end, unsigned char value) {
        const unsigned long long wanted = value * 0x0101010101010101ULL;
        unsigned long long word[4];
        for (; end - first >= 32; first += 32) {
            memcpy(word, table + first, 32);
            if ((word[0] ^ wanted) | (word[1] ^ wanted) | (word[2] ^ wanted) | (word[3] ^ wanted))
                break;
        }
        for (; end - first >= 8; first += 8) {
            memcpy(word, table + first, 8);
            if (word[0] != wanted) break;
        }
        for (; first < end; first++) if (table[first] != value) return first;
        return -1;
    }
    static CYTHON_INLINE int hintbench_first_of(
            const unsigned char *table, int first, int end, unsigned char value) {
        const unsigned char *found = first < end
            ? (const unsigned char *) memchr(table + first, value, end - first) : 0;
        return found ? (int) (found - table) : -1;
    }
    static CYTHON_INLINE int hintbench_fill(
            unsigned char *table, int first, int end, unsigned char value) {
        if (end - first == 1) table[first] = value;
        else if (first < end) memset(table + first, value, end - first);
        return 0;
    }
    static CYTHON_INLINE int hintbench_fill_stamps(
            unsigned int *stamps, int first, int end, unsigned int stamp) {
        for (; first < end; first++) stamps[first] = stamp;
        return 0;
    }
    static CYTHON_INLINE int hintbench_is_stamped(
            const unsigned int *stamps, int first, int end, unsigned int stamp) {
        unsigned int differs = 0;
        for (; first < end; first++) differs |= stamps[first] ^ stamp;
        return !differs;
    }
    """
    int in_bytes "hintbench_first_other"(
        const unsigned char *table, int first, int end, unsigned char value) noexcept nogil
    int byte_in "hintbench_first_of"(
        const unsigned char *table, int first, int end, unsigned char value) noexcept nogil
    int fill_bytes "hintbench_fill"(
        unsigned char *table, int first, int end, unsigned char value) noexcept nogil
    int fill_numbers "hintbench_fill_stamps"(
        unsigned int *stamps, int first, int end, unsigned int stamp) noexcept nogil
    int are_equal "hintbench_is_stamped"(
        const unsigned int *stamps, int first, int end, unsigned int stamp) noexcept nogil


cdef inline int first_other(unsigned char[::1] table, int first, int end, int value) except? -1:
    return in_bytes(&table[0], first, end, value)


cdef inline int first_of(unsigned char[::1] table, int first, int end, int value) except? -1:
    return byte_in(&table[0], first, end, value)


cdef inline int fill(unsigned char[::1] table, int first, int end, int value) except -1:
    return fill_bytes(&table[0], first, end, value)


cdef inline int fill_stamps(
    unsigned int[::1] stamps, int first, int end, unsigned int stamp
) except -1:
    return fill_numbers(&stamps[0], first, end, stamp)


cdef inline bint is_stamped(
    unsigned int[::1] stamps, int first, int end, unsigned int stamp
) except -1:
    return are_equal(&stamps[0], first, end, stamp)


cdef class PageFollower:
    cdef object call
    cdef public bint armed
    cdef readonly UnitFlags flags
    cdef readonly int most_order
    cdef int event(self, int cpu, int kind, int pfn, int order) except -1


cdef class Auditor(EventListener):
    cdef readonly int page_count
    cdef object complain
    cdef object notice
    cdef public object journal
    cdef public list page_calls
    cdef public unsigned char[::1] owner
    cdef public unsigned int[::1] stamp
    cdef public unsigned char[::1] untold
    cdef public unsigned char[::1] told_order
    cdef unsigned int serial
    cdef readonly long long events, allocations, frees, isolations
    cdef int event(self, long long time_ns, int cpu, int kind, int pfn, int order) except -1
    cdef int block_taken(self, int pfn, int order, int reason) except -1
    cpdef int give(self, int pfn, int order) except -1
    cpdef int discarded(self, int pfn, int pages) except -1
    cpdef int acknowledged(self, int pfn, int order) except -1
    cpdef int told_as(self, int pfn) except? -1
    cpdef int owner_of(self, int pfn, int pages, int owner) except? -1
    cpdef int first_untold(self, int pfn, int pages) except? -1
    cdef int _hand_out(self, int pfn, int order) except -1
    cdef int _take_from_owner(self, int pfn, int order) except -1
    cdef int _find_empty(self, int pfn, int order, int end) except -1
    cdef int _move(self, int pfn, int order, int before, int after, str what) except -1
    cdef int _refuse(self, int pfn, int order, int here, str what) except -1
