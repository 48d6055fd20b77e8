from hintbench.core.preemption cimport Preemptions


cdef class CostTable:
    cdef public long long pcp_hit_ns, pcp_free_ns, direct_path_ns, lock_take_ns, lock_handoff_ns
    cdef public long long block_hot_ns, block_cold_ns, list_walk_block_ns, head_lookup_ns
    cdef public long long page_visit_ns, clear_page_ns, memory_page_ns, refault_small_ns
    cdef public long long refault_huge_ns, touch_page_ns, zone_fallback_ns, direct_reclaim_ns
    cdef public long long reclaim_retries, kswapd_wake_ns, flag_ns


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


cdef class Winner:
    cdef readonly int size
    cdef readonly int leaves
    cdef int number_bits
    cdef long long latest
    cdef public long long[::1] keys
    cdef unsigned long long[::1] tree
    cdef int set(self, int number, long long key) except -1
