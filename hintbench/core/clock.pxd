from cpython.ref cimport PyObject
from hintbench.core.preemption cimport Preemptions


cdef extern from "Python.h":
    PyObject *PyEval_GetGlobals()


cdef extern from *:
    """
    /* Digest.add() and Winner.set() of clock.py, for the callers in other modules. */
    static CYTHON_INLINE unsigned long long hintbench_mix(
            unsigned long long state, unsigned long long when, unsigned long long where) {
        state = (state ^ when) * 0x9E3779B97F4A7C15ULL;
        state ^= state >> 29;
        state = (state ^ where) * 0xC2B2AE3D27D4EB4FULL;
        return state ^ (state >> 32);
    }
    static CYTHON_INLINE unsigned long long hintbench_where(int cpu, int kind, int pfn, int order) {
        unsigned long long who = (unsigned int) (((cpu + 1) << 8) | (kind << 4) | order);
        return (who << 32) | ((unsigned int) pfn & 0x7FFFFFFFu);
    }
    static CYTHON_INLINE void hintbench_play(
            unsigned long long *tree, int node, int number, int number_bits, long long key) {
        unsigned long long other;
        unsigned long long best = (unsigned long long) key << number_bits;
        best |= (unsigned long long) number;
        tree[node] = best;
        while (node > 1) {
            other = tree[node ^ 1];
            best = other < best ? other : best;
            node >>= 1;
            tree[node] = best;
        }
    }
    """
    unsigned long long mix "hintbench_mix"(
        unsigned long long state, long long when, unsigned long long where) noexcept nogil
    unsigned long long where_of "hintbench_where"(
        int cpu, int kind, int pfn, int order) noexcept nogil
    void play "hintbench_play"(
        unsigned long long *tree, int node, int number, int number_bits, long long key
    ) noexcept nogil


cdef class CostTable:
    cdef public long long pcp_hit_ns, pcp_free_ns, direct_path_ns, lock_take_ns, lock_handoff_ns
    cdef public long long block_hot_ns, block_cold_ns, list_walk_block_ns, head_lookup_ns
    cdef public long long page_visit_ns, clear_page_ns, memory_page_ns, refault_small_ns
    cdef public long long refault_huge_ns, touch_page_ns, zone_fallback_ns, direct_reclaim_ns
    cdef public long long reclaim_retries, kswapd_wake_ns, flag_ns
    cdef public long long flag_contended_ns
    cdef readonly long long changes


cdef class EventListener:
    cdef int event(self, long long time_ns, int cpu, int kind, int pfn, int order) except -1
    cdef int block_taken(self, int pfn, int order, int reason) except -1


cdef class Digest:
    cdef unsigned long long state
    cdef public EventListener listener
    cdef readonly long long events
    cdef int add(self, long long time_ns, int cpu, int kind, int pfn, int order) except -1


cdef class VirtualClock:
    cdef public long long now
    cdef public int cpu
    cdef public int payer
    cdef public long long context
    cdef readonly Digest digest
    cdef readonly CostTable costs
    cdef public Preemptions preemptions
    cdef public bint guarded


cdef class Winner:
    cdef readonly int size
    cdef readonly int leaves
    cdef int number_bits
    cdef long long latest
    cdef public long long[::1] keys
    cdef unsigned long long[::1] tree
    cdef int set(self, int number, long long key) except -1


cdef inline int add_event(
    Digest digest, long long time_ns, int cpu, int kind, int pfn, int order
) except -1:
    digest.state = mix(digest.state, time_ns, where_of(cpu, kind, pfn, order))
    digest.events += 1
    if digest.listener is not None:
        digest.listener.event(time_ns, cpu, kind, pfn, order)
    return 0
