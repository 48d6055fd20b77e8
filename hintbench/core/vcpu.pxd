from hintbench.core.fallback cimport FallbackMode
from hintbench.core.pcp cimport PerCpuPages
from hintbench.core.zone cimport Zone


cdef class Drain:
    cdef readonly PerCpuPages pcp
    cdef readonly long long left
    cdef int pindex
    cdef long long batch_free
    cdef bint in_list
    cdef int order, pfn
    cdef readonly long long drained
    cdef readonly object waiting
    cdef int merge_pfn, merge_order, merge_type
    cpdef int begin(self, PerCpuPages pcp, long long count, int pindex) except -1
    cdef int next_pfn(self) except -2
    cdef int _next_list(self) except -1
    cdef int keep_merge(self, Zone zone) except -1
    cdef int resume_merge(self, Zone zone, int origin, int freed_pfn, int freed_order) except -1


cdef class Vcpu:
    # what every step looks at stands together, in two or three cache lines: there may be 256 of these
    cdef readonly int number
    cdef public int phase
    cdef readonly int order
    cdef bint timed
    cdef readonly long long position, length
    cdef public bint idle
    cdef readonly bint clearing
    cdef int judged_zone
    cdef bint avoids_fragments
    cdef readonly int preferred_node
    cdef public int after
    cdef readonly list zonelist
    cdef readonly list pcps
    # the tape
    cdef unsigned long long[::1] words
    cdef const long long[::1] times
    cdef object blocks
    cdef const unsigned int[::1] codes
    cdef const int[::1] values
    cdef const long long[::1] block_times
    cdef Py_ssize_t piece_at, block_length, room
    # the operation in hand
    cdef readonly int node
    cdef readonly long long started
    cdef readonly int migratetype, slot, pfn, zone_at, highest_zone
    cdef int waits_behind
    cdef readonly unsigned int flags
    cdef public bint no_fragment, slow
    cdef readonly bint several_nodes
    cdef public long long lock_wait, spin, slow_path
    cdef readonly long long irqs_off_ns
    cdef readonly int piece_end
    cdef public bint woken
    cdef readonly long long idle_ns, finished_ns
    cdef readonly Drain drain
    cdef readonly FallbackMode mode
    cdef public object coroutine
    cdef public str hook
    cdef int next_block(self) except -1
    cdef int _unpack(self) except -1


cdef enum:
    READY = 0
    FIND_ZONE = 1
    REFILL = 2
    DIRECT_TAKE = 3
    HAND_OVER = 4
    FINISH_ALLOCATION = 5
    COMMIT_FREE = 6
    DRAIN = 7
    DRAIN_AGAIN = 8
    DIRECT_FREE = 9
    DIRECT_AGAIN = 10
    DONE = 11
    IN_HOOK = 12
    SLOW_PATH = 13
    FINISHED = 14
    EXACT = 15
    EXACT_AGAIN = 16
    RESERVE = 17
