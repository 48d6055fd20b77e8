"""The state of one simulation, shared by the steps of :mod:`hintbench.core.machine`."""

import array
import heapq
from collections.abc import Callable
from typing import Any

import cython
import numpy

from hintbench.core.clock import refuse_plugin
from hintbench.core.hugepages import zeros

if cython.compiled:
    from cython.cimports.hintbench.core.clock import VirtualClock, Winner
    from cython.cimports.hintbench.core.constants import (
        MAX_PAGE_ORDER,
        NEVER,
        NR_PAGE_ORDERS,
        PAYER_THREAD,
        SLOT_EMPTY,
    )
    from cython.cimports.hintbench.core.hooks import HookPoint
    from cython.cimports.hintbench.core.measures import Latencies
    from cython.cimports.hintbench.core.pcp import pcp_allowed
    from cython.cimports.hintbench.core.vcpu import IN_HOOK, Vcpu
else:
    from hintbench.core.clock import VirtualClock, Winner
    from hintbench.core.constants import (
        MAX_PAGE_ORDER,
        NEVER,
        NR_PAGE_ORDERS,
        PAYER_THREAD,
        SLOT_EMPTY,
    )
    from hintbench.core.hooks import HookPoint
    from hintbench.core.measures import Latencies
    from hintbench.core.pcp import pcp_allowed
    from hintbench.core.vcpu import IN_HOOK, Vcpu

# Refills and drains are counted by size up to this many pages. The kernel moves at most
# 63 << PCP_BATCH_SCALE_MAX pages at a time, and one huge page more.
LARGEST_BULK = 4095


@cython.final
@cython.cclass
class Simulation:
    """Zones, vCPUs, slots, the host's backing, the event queue, and the counters.

    Args:
        clock: virtual time.
        pages: the page arrays.
        zones: by index.
        vcpus: by number.
        backing: the host's side of every page.
        kernel: the preset.
        slots: how many slots the tapes use.
        hooks: the hooks of the run, a :class:`CoreHooks`.
        driver: who runs coroutines, a :class:`hintbench.tasks.scheduler.Scheduler`.
        truth: asked at each choice of an exact replay, a
            :class:`hintbench.traces.truth.AllocatorTruth`; None: nobody is.
        latencies: where latencies are counted; None: in tables of its own.

    Attributes:
        fast_path: whether :mod:`hintbench.core.fastpath` and :mod:`hintbench.core.directpath` may
            be taken; the results are the same.
        stepping: the vCPU whose step is under way; -1: none, an event's perhaps.
        direct_orders: a bit for each order that the per-CPU lists do not hold.
    """

    def __init__(
        self,
        clock: VirtualClock,
        pages: Any,
        zones: list[Any],
        vcpus: list[Any],
        backing: Any,
        kernel: int,
        slots: int,
        hooks: Any = None,
        driver: Any = None,
        truth: Any = None,
        latencies: Any = None,
    ) -> None:
        self.clock = clock
        self.pages = pages
        self.zones = zones
        self.vcpus = vcpus
        self.backing = backing
        self.kernel = kernel
        self.winner = Winner(len(vcpus))
        self.latencies = Latencies() if latencies is None else latencies
        self.hooks = hooks
        self.driver = driver
        # Explored runs are so short that numpy.full(), which is Python, would show.
        empty = zeros(max(slots, 1), dtype=numpy.int32)
        empty.fill(SLOT_EMPTY)
        self.slots = memoryview(empty)
        indices = numpy.empty(pages.page_count >> MAX_PAGE_ORDER, dtype=numpy.uint8)
        indices.fill(255)
        for zone in zones:
            first = zone.start_pfn >> MAX_PAGE_ORDER
            indices[first : ((zone.end_pfn - 1) >> MAX_PAGE_ORDER) + 1] = zone.index
        self.zone_indices = memoryview(indices)
        self.events = []
        self.next_event_ns = NEVER
        self.sequence = 0
        self.clearing = 0
        self.running = 0
        self.stepping = -1
        self.progress = 0
        self.last_ns = 0
        self.fast_path = True
        self.direct_orders = sum(
            1 << order for order in range(NR_PAGE_ORDERS) if not pcp_allowed(kernel, order)
        )
        self.claim_freed = False
        self.claim_order = 0
        self.operations = 0
        self.allocations = 0
        self.frees = 0
        self.failed = 0
        self.refault_stall_ns = 0
        self.truth = truth
        self.kswapd_wakes = 0
        self.slow_paths = 0
        self.exact_taken_again = 0
        self.exact_returned_again = 0
        self.exact_waits = 0
        self.taken_by_order = memoryview(array.array("q", [0] * NR_PAGE_ORDERS))
        self.drained_by_order = memoryview(array.array("q", [0] * NR_PAGE_ORDERS))
        self.refills = memoryview(numpy.zeros(LARGEST_BULK + 1, dtype=numpy.int64))
        self.drains = memoryview(numpy.zeros(LARGEST_BULK + 1, dtype=numpy.int64))

    # -- who runs next --------------------------------------------------------------------------

    def requeue(self, vcpu: Vcpu) -> cython.int:
        """The vCPU goes on when its clock is the lowest."""
        self.winner.set(vcpu.number, self.clock.now)
        return 0

    def block(self, vcpu: Vcpu) -> cython.int:
        """The vCPU waits until somebody wakes it."""
        self.winner.set(vcpu.number, NEVER)
        return 0

    def wake(self, number: int, at_ns: int) -> None:
        """A vCPU that waits goes on at ``at_ns``."""
        if cython.compiled and self.clock.guarded:
            refuse_plugin("time of a vCPU")
        self.winner.set(number, at_ns)

    def clock_of(self, number: int) -> int:
        """A vCPU's clock, ``NEVER`` while it waits."""
        return self.winner.keys[number]

    def set_clock(self, number: int, at_ns: int) -> None:
        """Move a vCPU's clock (a kick, an interrupt, a task that used the CPU)."""
        if cython.compiled and self.clock.guarded:
            refuse_plugin("time of a vCPU")
        self.winner.set(number, at_ns)

    def record(self, time_ns: int, cpu: int, kind: int, pfn: int, order: int) -> None:
        """An event enters the digest (:meth:`hintbench.core.clock.Digest.add`)."""
        self.clock.digest.add(time_ns, cpu, kind, pfn, order)

    def add_latency(self, order: int, cause: int, ns: int) -> None:
        """A latency enters the histograms (:meth:`hintbench.core.measures.Latencies.add`)."""
        self.latencies.add(order, cause, ns)

    def add_used(self, now_ns: int, pages: int) -> None:
        """So many more pages are backed and in the guest's use, or fewer."""
        self.backing.used.change(now_ns, pages)

    def schedule(
        self,
        at_ns: cython.longlong,
        rank: cython.int,
        number: cython.int,
        callback: "Callable[[], None]",
    ) -> cython.int:
        """Have ``callback`` run at a virtual time.

        Args:
            at_ns: when.
            rank: of events at the same time, host 0 runs before interrupt 1 before task 2; all
                before the vCPUs.
            number: next tie-breaker: the CPU.
            callback: called without arguments.
        """
        self.sequence += 1
        heapq.heappush(self.events, (at_ns, rank, number, self.sequence, callback))
        if at_ns < self.next_event_ns:
            self.next_event_ns = at_ns
        return 0

    def run_event(self) -> cython.int:
        """Run the first event of the queue."""
        event: tuple = heapq.heappop(self.events)
        at_ns: cython.longlong = event[0]
        delay_ns: cython.longlong
        self.next_event_ns = self.events[0][0] if self.events else NEVER
        self.progress += 1
        if self.clock.preemptions is not None:
            delay_ns = self.clock.preemptions.at_event()
            if delay_ns:
                heapq.heappush(self.events, (at_ns + delay_ns, *event[1:]))
                self.next_event_ns = self.events[0][0]
                return 0
        self.clock.now = at_ns
        self.stepping = -1
        event[4]()
        return 0

    def check_stepping(self) -> cython.int:
        """Others may be stepped inside a vCPU's step, but not that vCPU.

        Raises:
            RuntimeError: its clock is still among those that are compared.
        """
        if self.stepping >= 0 and self.winner.keys[self.stepping] < NEVER:
            raise RuntimeError(
                f"vCPU {self.stepping} is being stepped already, and cannot be stepped inside that"
                " step: put its clock off first"
            )
        return 0

    # -- hooks ----------------------------------------------------------------------------------

    def test_hook(self, point: HookPoint, pfn: cython.int, order: cython.int) -> cython.int:
        """Whether a block concerns a hook; the test's cost is charged either way."""
        if point.cost_ns:
            point.charge_test(self.clock)
        if order < point.min_order:
            return 0
        return point.flags is None or point.flags.any_set(pfn, order)

    def call_waiting_hook(
        self, vcpu: Vcpu, coroutine: object, name: str, after: cython.int
    ) -> cython.int:
        """A hook wants to wait: its coroutine runs as the vCPU until it ends.

        Returns:
            1 when it ended at once and the operation goes on with phase ``after`` now; 0 when
            the vCPU waits.
        """
        vcpu.phase = IN_HOOK
        vcpu.after = after
        vcpu.coroutine = coroutine
        vcpu.hook = name
        if self.driver.start_hook(vcpu):
            vcpu.phase = after
            self.clock.payer = PAYER_THREAD
            return 1
        return 0

    def zone_at(self, pfn: cython.int) -> object:
        """page_zone()."""
        return self.zones[self.zone_indices[pfn >> MAX_PAGE_ORDER]]

    def zone_of(self, pfn: int) -> Any:
        """page_zone(), from Python; a pfn that no zone spans belongs to the nearest below it."""
        if not 0 <= pfn < self.pages.page_count:
            raise ValueError(f"zone_of: pfn {pfn:#x} is outside the guest's memory")
        index = self.zone_indices[pfn >> MAX_PAGE_ORDER]
        if index != 255:
            return self.zones[index]
        below = [zone for zone in self.zones if zone.start_pfn <= pfn]
        return below[len(below) - 1] if below else self.zones[0]

    def slot_pfns(self) -> Any:
        """The slots as an array (a copy)."""
        return numpy.array(self.slots)

    def fill_slot(self, slot: int, pfn: int) -> None:
        """Put a page in use into a slot before the tapes start."""
        self.slots[slot] = pfn

    def begin_vcpus(self, at_ns: int) -> None:
        """All tapes start."""
        self.running = len(self.vcpus)
        for vcpu in self.vcpus:
            self.winner.set(vcpu.number, at_ns)

    def count_bulks(self, which: str) -> dict[int, int]:
        """How many refills (``"refills"``) or drains there were by number of pages."""
        counts = numpy.asarray(self.refills if which == "refills" else self.drains)
        return {int(size): int(counts[size]) for size in numpy.flatnonzero(counts)}


# What the steps call: in C the same, inline (simulation.pxd).
if cython.compiled:
    from cython.cimports.hintbench.core.simulation import (
        change_used,
        count_latency,
        log_event,
        requeue_at,
    )
else:
    change_used = Simulation.add_used
    count_latency = Simulation.add_latency
    log_event = Simulation.record
    requeue_at = Simulation.set_clock
