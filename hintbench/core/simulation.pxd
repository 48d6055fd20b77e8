from hintbench.core.backing cimport Backing
from hintbench.core.clock cimport VirtualClock, Winner
from hintbench.core.hooks cimport CoreHooks, HookPoint
from hintbench.core.measures cimport Latencies
from hintbench.core.pages cimport Pages
from hintbench.core.vcpu cimport Vcpu


cdef extern from *:
    """
    #if defined(__GNUC__) || defined(__clang__)
    /* The asm is empty. Without it gcc takes a function that only prefetches for one without
       effect, and drops the call. */
    #define HINTBENCH_PREFETCH(address) \
        do { __builtin_prefetch(address); __asm__ volatile (""); } while (0)
    #else
    #define HINTBENCH_PREFETCH(address) ((void) (address))
    #endif
    """
    void prefetch "HINTBENCH_PREFETCH"(const void *address) noexcept nogil


cdef class Simulation:
    cdef readonly VirtualClock clock
    cdef readonly Pages pages
    cdef readonly list zones
    cdef readonly list vcpus
    cdef readonly Winner winner
    cdef readonly Backing backing
    cdef readonly Latencies latencies
    cdef public CoreHooks hooks
    cdef public object driver
    cdef readonly int kernel
    cdef int[::1] slots
    cdef unsigned char[::1] zone_indices
    cdef readonly list events
    cdef long long next_event_ns
    cdef long long sequence
    cdef readonly int clearing
    cdef readonly int running
    cdef readonly long long progress
    cdef readonly long long last_ns
    cdef public bint fast_path
    cdef public bint claim_freed
    cdef public int claim_order
    # counters
    cdef public object truth
    cdef public long long operations, allocations, frees, touches, failed, refault_stall_ns
    cdef public long long kswapd_wakes, slow_paths
    cdef readonly long long[::1] taken_by_order, drained_by_order
    cdef readonly long long[::1] refills, drains
    cdef public long long exact_taken_again, exact_returned_again, exact_waits
    cpdef int requeue(self, Vcpu vcpu) except -1
    cpdef int block(self, Vcpu vcpu) except -1
    cdef int call_waiting_hook(self, Vcpu vcpu, object coroutine, str name, int after) except -1
    cdef object zone_at(self, int pfn)
    cdef int test_hook(self, HookPoint point, int pfn, int order) except -1
