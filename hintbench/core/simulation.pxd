from hintbench.core.backing cimport Backing
from hintbench.core.clock cimport VirtualClock, Winner, mix, play, where_of
from hintbench.core.constants cimport BUCKETS, CAUSES
from hintbench.core.hooks cimport CoreHooks, HookPoint
from hintbench.core.measures cimport Latencies, bucket_of, order_class
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
    cdef readonly int stepping
    cdef readonly long long progress
    cdef readonly long long last_ns
    cdef public bint fast_path
    cdef readonly int direct_orders
    cdef public bint claim_freed
    cdef public int claim_order
    # counters
    cdef public object truth
    cdef public long long operations, allocations, frees, failed, refault_stall_ns
    cdef public long long kswapd_wakes, slow_paths
    cdef readonly long long[::1] taken_by_order, drained_by_order
    cdef readonly long long[::1] refills, drains
    cdef public long long exact_taken_again, exact_returned_again, exact_waits
    cpdef int schedule(self, long long at_ns, int rank, int number, object callback) except -1
    cpdef int run_event(self) except -1
    cdef int check_stepping(self) except -1
    cpdef int requeue(self, Vcpu vcpu) except -1
    cpdef int block(self, Vcpu vcpu) except -1
    cdef int call_waiting_hook(self, Vcpu vcpu, object coroutine, str name, int after) except -1
    cdef object zone_at(self, int pfn)
    cdef int test_hook(self, HookPoint point, int pfn, int order) except -1


# A parameter is not counted up and down, as its attributes would be where they are passed on.
cdef inline int log_event(
    Simulation sim, long long time_ns, int cpu, int kind, int pfn, int order
) except -1:
    sim.clock.digest.state = mix(
        sim.clock.digest.state, time_ns, where_of(cpu, kind, pfn, order))
    sim.clock.digest.events += 1
    if sim.clock.digest.listener is not None:
        sim.clock.digest.listener.event(time_ns, cpu, kind, pfn, order)
    return 0


cdef inline int requeue_at(Simulation sim, int number, long long key) except -1:
    if key > sim.winner.latest:
        return sim.winner.set(number, key)
    sim.winner.keys[number] = key
    play(
        &sim.winner.tree[0], sim.winner.leaves + number, number, sim.winner.number_bits, key)
    return 0


# Latencies.add().
cdef inline int count_latency(Simulation sim, int order, int cause, long long ns) except -1:
    cdef int row = order_class(order) * CAUSES + cause
    sim.latencies.counts[row * BUCKETS + bucket_of(ns)] += 1
    sim.latencies.totals[row] += ns
    if ns > sim.latencies.maxima[row]:
        sim.latencies.maxima[row] = ns
    return 0


# Integral.change() of Backing.used.
cdef inline int change_used(Simulation sim, long long now_ns, long long pages) except -1:
    sim.backing.used.value += pages
    if sim.backing.used.value > sim.backing.used.peak:
        sim.backing.used.peak = sim.backing.used.value
    sim.backing.used.weighted += <double> pages * now_ns
    if sim.backing.used.sample_ns and now_ns >= sim.backing.used.next_sample_ns:
        sim.backing.used._sample(now_ns, sim.backing.used.value - pages)
    return 0
