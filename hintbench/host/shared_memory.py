"""The host's side of an allocator whose state it shares: it takes back unasked, and installs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from hintbench.core.constants import PAGEBLOCK_ORDER, PAGEBLOCK_PAGES, RANK_HOST
from hintbench.core.contexts import Context, Park, Step
from hintbench.core.locks import LockTimeline
from hintbench.host.reports import Report, aligned, blocks_of

if TYPE_CHECKING:
    from hintbench.core.hooks import Block
    from hintbench.host.host import Host

_HOST_CONTEXT = -1


class SharedMemory:
    """What a host does that sees for itself which of the guest's memory is free.

    Nobody reports anything: a thread of the host (``guest.spawn(..., cpu=-1)``) reads the guest's
    free blocks without a lock, as it would read shared memory, marks those that it takes, and
    takes them back. A vCPU that is about to hand out a marked page has it installed first. Both
    are done under one lock of the host's, so that an install meets no discard half done.

    Attributes:
        lock: that lock; ``async with guest.host.shared.lock:`` in a thread of the host.
        installs: calls of the guest to install memory.
        takings: how often the host took back anything.
    """

    def __init__(self, host: Host) -> None:
        self._host = host
        self.lock: Any = LockTimeline(host.clock, "the host's lock", None)
        self.installs = 0
        self.takings = 0

    def take_back(self, blocks: Iterable[Block]) -> None:
        """Discard blocks at once, neighbours in one call; the running thread of the host pays.

        Args:
            blocks: marked by the caller, under the lock, while they were free.
        """
        host = self._host
        report = Report(blocks_of(blocks), -1, joined=True)
        self.takings += bool(report.blocks)
        host.reported_blocks += len(report.blocks)
        host.reported_pages += report.pages
        for pfn, pages in report.descriptors:
            cost = host.config.descriptor_ns + host.unmapping.cost(pfn, pages)
            host.cpu_ns += cost
            host.clock.now += cost
            host.unmapping.discard(pfn, pages, calls=1)
        if host.watcher is not None:
            host.watcher.taken_back(report.blocks)

    async def install(self, pfn: int, order: int) -> None:
        """A call of the guest: the host backs all huge pages around a block before it returns.

        The vCPU is out of the guest until then (MADV_POPULATE_WRITE in the VMM), also when
        somebody else's call has just installed the same. Legal in hooks that may spin.

        Args:
            pfn: first page of the block.
            order: its order.
        """
        await Step()
        host = self._host
        host.calls += 1
        self.installs += 1
        host.clock.now += host.config.call_vcpu_thread_ns
        called_ns = host.clock.now

        def held(context: Context) -> None:
            host.simulation.schedule(
                called_ns, RANK_HOST, 0, lambda: self._populate(pfn, order, context)
            )

        await Park("held", held)

    def _populate(self, pfn: int, order: int, context: Context) -> None:
        """Under the host's lock: back what is not backed, and let the vCPU go on."""
        host, clock = self._host, self._host.clock
        clock.cpu, clock.context = -1, _HOST_CONTEXT
        first = pfn & ~(PAGEBLOCK_PAGES - 1)
        with self.lock:
            for unit, unit_order in aligned(first, max(1 << order, PAGEBLOCK_PAGES)):
                cost = host.backing.populate(unit, min(unit_order, PAGEBLOCK_ORDER))
                clock.now += cost
                host.cpu_ns += cost
                host.simulation.refault_stall_ns += cost
        host.scheduler.unpark(context, None)
