"""Faults as they happen in a run: a host that misbehaves, refusals, interrupts."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from hintbench.core.constants import RANK_INTERRUPT
from hintbench.testing.runs.interrupts import Interrupts
from hintbench.testing.scenarios.faults import (
    ALL_BATCHES,
    AT_ANSWER,
    AT_RESTORE,
    AT_STOP,
    IN_BETWEEN,
    IN_HAND,
    IN_HAND_PAGES,
    KINDS,
    ON_REQUEST,
    TIMED,
)
from hintbench.testing.scenarios.scenario import Fault

if TYPE_CHECKING:
    from hintbench.core.zone import Zone
    from hintbench.testing.runs.explored import ExploredRun

_OF_THE_GUEST: Final = frozenset(
    {
        *("isolation-refused", "buffer-fails", "interrupt-in-allocation"),
        *IN_HAND,
        AT_ANSWER,
        AT_RESTORE,
        IN_BETWEEN,
    }
)


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
        self._handlers = Interrupts(run)
        self._interrupts: list[Fault] = []
        self._at_stop: list[Fault] = []
        for fault in faults:
            if fault.kind in TIMED:
                self._interrupts.append(fault)
            elif fault.kind == AT_STOP:
                self._at_stop.append(fault)
            else:
                self._amounts.setdefault(fault.kind, {})[fault.number] = fault.amount

        if AT_RESTORE in self._amounts:
            self._amounts[IN_BETWEEN] = self._amounts[AT_RESTORE]

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

    def _now(self, kind: str, what: str = "") -> int:
        """The amount if this is the time for a fault of a kind, -1 if not; one time is counted."""
        wanted = self._amounts.get(kind)
        if wanted is None:
            return -1
        count = self._counts[kind] = self._counts.get(kind, 0) + 1
        amount = wanted.get(count, -1)
        if amount >= 0:
            self.happened[kind] = self.happened.get(kind, 0) + 1
            self._run.tell("fault", f"fault: {KINDS[kind]}{what}")
        return amount

    async def indirect_table(self) -> None:
        """Several descriptors are being added to the queue."""
        if self._now(ON_REQUEST) >= 0:
            await self._handlers.slab_page(self._run.machine.clock.cpu)

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

    def isolation_refused(self, pfn: int) -> bool:
        """A block is being isolated."""
        return self._now("isolation-refused", f" pfn {pfn:#x}") >= 0

    def buffer_fails(self) -> bool:
        """Memory is asked for."""
        if self._now("interrupt-in-allocation") >= 0:
            cpu = self._run.machine.clock.cpu
            self._raise(cpu, lambda: self._handlers.drain(cpu, 1), "interrupt")
        return self._now("buffer-fails") >= 0

    def in_hand(self, zone: Zone) -> None:
        """The strategy has isolated or marked a block; interrupts come when it lets them in."""
        cpu = self._run.machine.clock.cpu
        if cpu < 0:
            return
        if (amount := self._now("interrupt-in-hand")) >= 0:
            pages = min(max(1, amount), IN_HAND_PAGES)
            self._raise(cpu, lambda: self._handlers.refill(cpu, pages, zone), "interrupt")
        if self._now("large-interrupt-in-hand") >= 0:
            self._raise(cpu, lambda: self._handlers.borrow(cpu, zone), "interrupt")

    def at_answer(self, zone: Zone) -> bool:
        """Somebody has fetched an answer, of a zone's blocks; whether an interrupt comes here."""
        cpu = self._run.machine.clock.cpu
        if cpu < 0 or (amount := self._now(AT_ANSWER)) < 0:
            return False
        pages = min(max(1, amount), IN_HAND_PAGES)
        self._raise(cpu, lambda: self._handlers.refill(cpu, pages, zone), "interrupt")
        return True

    def at_restore(self) -> bool:
        """The strategy has switched interrupts on again; whether one waits for that."""
        cpu = self._run.machine.clock.cpu
        if cpu < 0 or self._now(AT_RESTORE) < 0:
            return False
        self._raise(cpu, lambda: self._handlers.exchange(cpu), "interrupt")
        return True

    def in_between(self) -> bool:
        """The strategy has used what CPUs share; whether an interrupt comes before it goes on."""
        cpu = self._run.machine.clock.cpu
        if cpu < 0 or self._now(IN_BETWEEN) < 0:
            return False
        self._raise(cpu, lambda: self._handlers.borrow(cpu), "interrupt")
        return True

    def stopping(self, now_ns: int) -> None:
        """The strategy is told to stop now; memory is still freed."""
        simulation = self._run.machine.simulation
        for fault in self._at_stop:
            come = partial(self._drain_all, fault.cpu)
            simulation.schedule(now_ns + fault.amount, RANK_INTERRUPT, fault.cpu, come)

    def _drain_all(self, cpu: int) -> None:
        """An interrupt that empties all lists of a CPU."""
        self._raise(cpu, lambda: self._handlers.drain(cpu, ALL_BATCHES), AT_STOP)

    # -- interrupts -----------------------------------------------------------------------------

    def _schedule(self, fault: Fault) -> None:
        cpu, batches = fault.cpu, max(1, fault.amount)

        def handler() -> Coroutine[Any, Any, None]:
            if fault.kind == "interrupt":
                return self._handlers.drain(cpu, batches)
            return self._handlers.refill(cpu, batches)

        simulation = self._run.machine.simulation
        simulation.schedule(
            fault.number, RANK_INTERRUPT, cpu, lambda: self._raise(cpu, handler, fault.kind)
        )

    def _raise(self, cpu: int, handler: Callable[[], Coroutine[Any, Any, None]], kind: str) -> None:
        self.happened[kind] = self.happened.get(kind, 0) + 1
        self._run.scheduler.processors.deliver(cpu, "interrupt", handler)
