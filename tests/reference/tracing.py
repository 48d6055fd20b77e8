"""The second model, telling ftrace what it does: events as Linux 6.12 prints them.

Where each tracepoint fires, in ``mm/page_alloc.c`` of 6.12:

* ``mm_page_alloc_zone_locked`` in ``__rmqueue_smallest()``, so neither for a block that is stolen
  nor for a pageblock that is claimed whole: those have ``mm_page_alloc_extfrag`` alone;
* ``mm_page_alloc`` at the end of ``__alloc_pages()``;
* ``mm_page_free`` in ``free_pages_prepare()``, ``mm_page_free_batched`` in
  ``free_unref_folios()``: the whole batch is prepared first, then put on the per-CPU lists;
* ``mm_page_pcpu_drain`` in ``free_pcppages_bulk()``.
"""

from __future__ import annotations

from collections.abc import Sequence

from reference.allocator import ReferenceZone
from reference.guest import NodeZone, ReferenceGuest, Request
from reference.lists import PAGEBLOCK_ORDER
from reference.pcp import ReferencePcp

LOCKED_NS = 150  # from one event under the zone lock to the next
FREED_NS = 200


class Tracer:
    """The text of ftrace, and the one clock of all CPUs.

    Attributes:
        now_ns: nanoseconds since boot; the text has microseconds.
        on: whether events are written.
        lines: what was written, in order of time.
        last_us: when each CPU last ran anything but a kworker [microseconds].
        woken: called with the CPU that runs something after a second of idleness.
    """

    def __init__(self, cpus: int, now_ns: int) -> None:
        self.now_ns = now_ns
        self.on = False
        self.lines: list[str] = []
        self.last_us: list[int | None] = [None] * cpus
        self.woken = lambda cpu: None
        self.cpu, self.task = 0, "swapper-0"

    def run(self, cpu: int, task: str) -> None:
        """A task is on a CPU from now on; ``task`` is its comm and pid."""
        self.cpu, self.task = cpu, task

    def event(self, name: str, text: str, flags: str = ".....", cost_ns: int = 1000) -> None:
        """Write a line, then let time pass."""
        if not self.on:
            return
        comm, _, pid = self.task.rpartition("-")
        now_us = self.now_ns // 1000
        seconds = f"{now_us // 10**6}.{now_us % 10**6:06}"
        self.lines.append(
            f"{comm:>16}-{pid:<7} [{self.cpu:03}] {flags} {seconds:>12}: {name}: {text}\n"
        )
        if not comm.startswith("kworker"):
            last = self.last_us[self.cpu]
            self.last_us[self.cpu] = now_us
            if last is None or now_us - last > 1_000_000:
                self.woken(self.cpu)
        self.now_ns += cost_ns

    def page(self, name: str, pfn: int, order: int, tail: str = "", **how: object) -> None:
        """Write a line about a block of pages."""
        self.event(name, f"page=(____ptrval____) pfn={pfn:#x} order={order}{tail}", **how)

    def mark(self, text: str) -> None:
        """What user space writes to trace_marker."""
        self.event("tracing_mark_write", text, cost_ns=5_000)

    def text(self) -> str:
        """The file ``trace``, with the head that ftrace gives it."""
        count = len(self.lines)
        return (
            "# tracer: nop\n#\n"
            f"# entries-in-buffer/entries-written: {count}/{count}   #P:{len(self.last_us)}\n#\n"
            "#           TASK-PID     CPU#  |||||  TIMESTAMP  FUNCTION\n"
            "#              | |         |   |||||     |         |\n" + "".join(self.lines)
        )


class TracingZone(ReferenceZone):
    """A zone that tells of every block that leaves its free lists."""

    tracer: Tracer

    def rmqueue_smallest(self, order: int, migratetype: int) -> int | None:
        pfn = super().rmqueue_smallest(order, migratetype)
        if pfn is not None:
            refill = int(order <= 3 or order == PAGEBLOCK_ORDER)
            tail = f" migratetype={migratetype} percpu_refill={refill}"
            self.tracer.page(
                "mm_page_alloc_zone_locked", pfn, order, tail, flags="d..3.", cost_ns=LOCKED_NS
            )
        return pfn

    def _report(self, pfn: int, order: int, fallback_order: int, start: int, fallback: int) -> None:
        super()._report(pfn, order, fallback_order, start, fallback)
        self.tracer.event(
            "mm_page_alloc_extfrag",
            f"page=(____ptrval____) pfn={pfn:#x} alloc_order={order}"
            f" fallback_order={fallback_order} pageblock_order={PAGEBLOCK_ORDER}"
            f" alloc_migratetype={start} fallback_migratetype={fallback}"
            f" fragmenting={int(fallback_order < PAGEBLOCK_ORDER)}"
            f" change_ownership={int(self.pageblock_type(pfn) == start)}",
            flags="d..3.",
            cost_ns=LOCKED_NS,
        )


class TracingPcp(ReferencePcp):
    """Per-CPU lists that tell of every block that goes back to the buddy."""

    def _to_buddy(self, pfn: int, order: int, migratetype: int) -> None:
        self.zone.tracer.page(
            "mm_page_pcpu_drain",
            pfn,
            order,
            f" migratetype={migratetype}",
            flags="d..2." if self.zone.tracer.task.startswith("kworker") else "d..3.",
            cost_ns=LOCKED_NS,
        )
        super()._to_buddy(pfn, order, migratetype)


class TracingGuest(ReferenceGuest):
    """A guest whose allocations and frees happen on the tracer's current CPU."""

    def __init__(self, zones: Sequence[NodeZone], tracer: Tracer, cpus: int) -> None:
        super().__init__("6.12", zones, [], [0] * cpus)
        self.tracer = tracer
        for zone in zones:
            zone.lists.tracer = tracer

    def get(self, request: Request, gfp: str, cost_ns: int) -> int:
        """__alloc_pages(); ``cost_ns`` is the time until the caller does its next step."""
        pfn = self.allocate(self.tracer.cpu, request)
        assert pfn is not None
        tail = f" migratetype={request.migratetype} gfp_flags={gfp}"
        self.tracer.page("mm_page_alloc", pfn, request.order, tail, cost_ns=cost_ns)
        return pfn

    def put(self, pfn: int) -> None:
        """__free_pages(): one block."""
        self.tracer.page("mm_page_free", pfn, self.orders[pfn], cost_ns=FREED_NS)
        self.free(self.tracer.cpu, pfn)

    def put_batch(self, pfns: Sequence[int]) -> None:
        """free_unref_folios(): the batched line does not know the order."""
        for pfn in pfns:
            self.tracer.page("mm_page_free", pfn, self.orders[pfn], cost_ns=FREED_NS)
        for pfn in pfns:
            self.tracer.page("mm_page_free_batched", pfn, 0, flags="...2.", cost_ns=FREED_NS)
            self.free(self.tracer.cpu, pfn)

    def vmstat(self, cpu: int) -> None:
        """vmstat_update() in the CPU's kworker."""
        self.tracer.run(cpu, f"kworker/{cpu}:1-{10 + 14 * cpu}")
        self.decay(cpu)
