"""What can go wrong around a strategy: a host that misbehaves, refusals, interrupts."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable
from typing import TYPE_CHECKING, Any, Final

from hintbench.core.bulk import hand_out, hand_out_to_hook, take_pages
from hintbench.core.constants import RANK_INTERRUPT
from hintbench.testing.scenario import Fault

if TYPE_CHECKING:
    from hintbench.testing.explored import ExploredRun

KINDS: Final = {
    "queue-full": "a report finds no room in the queue",
    "host-refuses": "the host refuses a report",
    "host-stalls": "the host is slow at one descriptor",
    "answer-late": "the guest hears late of a report's end, perhaps after that of a later one",
    "interrupt-late": "an acknowledgement's interrupt is late, so that several share one",
    "device-missing": "there is no device from some report on",
    "device-reset": "the device is reset while a report is with it",
    "isolation-refused": "the guest refuses to isolate a block",
    "buffer-fails": "allocate_buffer() finds no memory",
    "interrupt-in-allocation": "an interrupt frees while memory for a buffer is sought",
    "interrupt": "an interrupt drains a per-CPU list in the middle of something",
    "interrupt-allocates": "an interrupt allocates pages (GFP_ATOMIC) in the middle of something",
}
"""Kinds of faults; `Fault.number` counts submissions, reports served, descriptors, answers,
interrupts, submissions, submissions, isolations, buffers, buffers and (for interrupts) is their
time; `Fault.amount` of these is how many batches or pages they drain or allocate, at least one."""

TIMED: Final = frozenset({"interrupt", "interrupt-allocates"})
"""Kinds that happen at a time, on a CPU."""
_OF_THE_GUEST: Final = frozenset({"isolation-refused", "buffer-fails", "interrupt-in-allocation"})
FAILURES: Final = frozenset(
    {
        *("host-refuses", "device-missing", "device-reset", "queue-full"),
        *("isolation-refused", "buffer-fails"),
    }
)
"""After these a strategy has to try again."""
HINDERS_TELLING: Final = frozenset({"host-refuses", "device-missing"})
"""After these a block may wait for ever: no later pass follows a synchronous call that the host
refuses, and a device that is gone is told nothing. What else fails, memory for a list of blocks or
room in the queue, is no excuse: the declared time is long enough for a back-off."""


class Faults:
    """The faults of one scenario, asked by host and guest each time one could happen.

    Args:
        faults: what goes wrong.
        run: the run they happen in.

    Attributes:
        happened: how often each kind did.
    """

    def __init__(self, faults: Iterable[Fault], run: ExploredRun) -> None:
        self._run = run
        self._amounts: dict[str, dict[int, int]] = {}
        self._counts: dict[str, int] = {}
        self.happened: dict[str, int] = {}
        self._interrupts: list[Fault] = []
        for fault in faults:
            if fault.kind in TIMED:
                self._interrupts.append(fault)
            else:
                self._amounts.setdefault(fault.kind, {})[fault.number] = fault.amount

    def install(self) -> None:
        """Take the places in guest and host where faults are asked for."""
        guest = self._run.guest
        wanted = self._amounts
        if wanted.keys() - _OF_THE_GUEST:
            guest.host.faults = self
        if "isolation-refused" in wanted:
            zones: list[Any] = list(guest.zones)
            for zone in zones:
                zone.refuse_isolation = self.isolation_refused
        if wanted.keys() & {"buffer-fails", "interrupt-in-allocation"}:
            guest.buffer_fails = self.buffer_fails
        for fault in self._interrupts:
            self._schedule(fault)

    def _now(self, kind: str) -> int:
        """The amount if this is the time for a fault of a kind, -1 if not; one time is counted."""
        wanted = self._amounts.get(kind)
        if wanted is None:
            return -1
        count = self._counts[kind] = self._counts.get(kind, 0) + 1
        amount = wanted.get(count, -1)
        if amount >= 0:
            self.happened[kind] = self.happened.get(kind, 0) + 1
            self._run.tell("fault", f"fault: {KINDS[kind]}")
        return amount

    def queue_full(self) -> bool:
        """A submission; also the moment when a device goes away or is reset."""
        host = self._run.guest.host
        if self._now("device-missing") >= 0:
            host.attached = False
            host.reset()
        if self._now("device-reset") >= 0:
            host.reset()
        return self._now("queue-full") >= 0

    def refuses(self) -> bool:
        """The host begins to serve a report."""
        return self._now("host-refuses") >= 0

    def stall_ns(self) -> int:
        """The host works at a descriptor."""
        return max(0, self._now("host-stalls"))

    def answer_late_ns(self) -> int:
        """The host has ended a report."""
        return max(0, self._now("answer-late"))

    def interrupt_late_ns(self) -> int:
        """An acknowledgement's interrupt is raised."""
        return max(0, self._now("interrupt-late"))

    def isolation_refused(self) -> bool:
        """A block is being isolated."""
        return self._now("isolation-refused") >= 0

    def buffer_fails(self) -> bool:
        """Memory is asked for."""
        if self._now("interrupt-in-allocation") >= 0:
            cpu = self._run.machine.clock.cpu
            self._raise(cpu, lambda: self._drain(cpu, 1), "interrupt")
        return self._now("buffer-fails") >= 0

    # -- interrupts -----------------------------------------------------------------------------

    def _schedule(self, fault: Fault) -> None:
        cpu, batches = fault.cpu, max(1, fault.amount)

        def handler() -> Coroutine[Any, Any, None]:
            if fault.kind == "interrupt":
                return self._drain(cpu, batches)
            return self._refill(cpu, batches)

        simulation = self._run.machine.simulation
        simulation.schedule(
            fault.number, RANK_INTERRUPT, cpu, lambda: self._raise(cpu, handler, fault.kind)
        )

    def _raise(self, cpu: int, handler: Callable[[], Coroutine[Any, Any, None]], kind: str) -> None:
        self.happened[kind] = self.happened.get(kind, 0) + 1
        self._run.scheduler.processors.deliver(cpu, "interrupt", handler)

    async def _drain(self, cpu: int, batches: int) -> None:
        """What a device's interrupt does to the allocator: it frees, and lists overflow."""
        for pcp in self._run.machine.simulation.vcpus[cpu].pcps:
            while pcp.count and batches:
                batches -= 1
                await self._run.threads.drain_in_interrupt(cpu, pcp)

    async def _refill(self, cpu: int, pages: int) -> None:
        """A network device's interrupt refills its ring: alloc_pages_bulk(GFP_ATOMIC).

        The pages come straight from the free lists, under one take of the lock, and are kept. The
        hook may spin for each, but on this CPU nothing else goes on until the interrupt ends:
        neither tasks nor other interrupts.
        """
        simulation: Any = self._run.machine.simulation
        zone: Any = max(self._run.guest.zones, key=lambda zone: int(zone.free_pages))
        await zone.lock.acquire()
        taken = take_pages(simulation, zone, cpu, pages)
        zone.lock.release()
        # What a hook does from here on is not done under this take.
        await self._run.guest.step()
        at = 0
        while (at := hand_out_to_hook(simulation, cpu, taken, at)) < len(taken):
            await self._call_hook(cpu, taken[at])
            hand_out(simulation, cpu, taken[at])
            at += 1

    async def _call_hook(self, cpu: int, pfn: int) -> None:
        """arch_alloc_page() in an interrupt."""
        guest = self._run.guest
        hooks: Any = guest.hooks
        with self._run.scheduler.as_hook("page_allocated"):
            waiting = hooks.page_allocated.function(guest, cpu, pfn, 0)
            if waiting is not None:
                await waiting
