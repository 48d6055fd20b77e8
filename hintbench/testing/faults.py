"""What can go wrong around a strategy: a host that misbehaves, refusals, interrupts."""

from __future__ import annotations

import random
from collections.abc import Callable, Coroutine, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from hintbench.core.constants import RANK_INTERRUPT
from hintbench.testing.interrupts import Interrupts
from hintbench.testing.scenario import Fault

if TYPE_CHECKING:
    from hintbench.core.zone import Zone
    from hintbench.testing.explored import ExploredRun

KINDS: Final = {
    "queue-allocates": "the queue takes a page for a table of descriptors",
    "queue-full": "a report finds no room in the queue",
    "host-refuses": "the host refuses a report",
    "host-stalls": "the host is slow at one descriptor",
    "answer-late": "the guest hears late of a report's end, perhaps after that of a later one",
    "interrupt-late": "an acknowledgement's interrupt is late, so that several share one",
    "device-missing": "there is no device from some report on",
    "device-reset": "the device is reset while a report is with it",
    "isolation-refused": "the guest refuses to isolate",
    "buffer-fails": "allocate_buffer() finds no memory",
    "interrupt-in-allocation": "an interrupt frees while memory for a buffer is sought",
    "interrupt-in-hand": "an interrupt allocates right after the strategy has taken a block",
    "large-interrupt-in-hand": "the same, of a large block, which it frees again",
    "interrupt-at-answer": "an interrupt allocates right after an answer of the host was fetched",
    "interrupt-at-restore": "an interrupt frees a large block as soon as interrupts are on again",
    "interrupt-at-stop": "an interrupt drains a CPU's lists while the strategy is being stopped",
    "interrupt": "an interrupt drains a per-CPU list in the middle of something",
    "interrupt-allocates": "an interrupt allocates pages (GFP_ATOMIC) in the middle of something",
}
"""Kinds of faults; `Fault.number` counts submissions of several descriptors, submissions, reports
served, descriptors, answers, interrupts, submissions, submissions, isolations, buffers, buffers,
blocks isolated or marked (twice), answers fetched, ends of sections with interrupts off, and (for
the other interrupts) is their time; `Fault.amount` of interrupts is how many batches or pages they
drain or allocate, at least one; that of the one at the stop is how long after its begin it comes
[virtual ns]."""

TIMED: Final = frozenset({"interrupt", "interrupt-allocates"})
"""Kinds that happen at a time, on a CPU."""
AT_STOP: Final = "interrupt-at-stop"
ON_REQUEST: Final = "queue-allocates"
"""Never drawn: a strategy may ask for a queue that allocates nothing, and those that mark what they
report and let takers spin have to. It is what virtqueue_add_split() does with more than one
descriptor and VIRTIO_RING_F_INDIRECT_DESC: alloc_indirect_split() calls kmalloc_array()."""
AT_ANSWER: Final = "interrupt-at-answer"
"""Drawn for itself, where memory is small enough that the interrupt meets what was told."""
COUNTED: Final = tuple(
    kind for kind in KINDS if kind not in TIMED and kind not in (AT_STOP, AT_ANSWER, ON_REQUEST)
)
"""Kinds that happen the so-manieth time that they could."""
INTERRUPTING: Final = (
    *("interrupt-in-allocation", "interrupt-in-hand", "large-interrupt-in-hand"),
    "interrupt-at-restore",
)
"""Of these, interrupts at the moments when code that lets them in forgets about them: drawn twice
as often as others."""
IN_HAND_PAGES: Final = 16
"""Most pages that an interrupt allocates which finds a block in the strategy's hands: the first few
come out of what is told first, and more would only leave less memory for what follows."""
ALL_BATCHES: Final = 1_000
"""Batches of a list that is emptied."""
IN_HAND: Final = frozenset({"interrupt-in-hand", "large-interrupt-in-hand"})
"""Those that come when the strategy has taken or marked a block."""
AT_RESTORE: Final = "interrupt-at-restore"
_OF_THE_GUEST: Final = frozenset(
    {
        *("isolation-refused", "buffer-fails", "interrupt-in-allocation"),
        *IN_HAND,
        AT_ANSWER,
        AT_RESTORE,
    }
)
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


def draw_counted(rng: random.Random, kinds: Sequence[str], most: int) -> list[Fault]:
    """Draw one of some kinds of `COUNTED`, and when it happens: once, or several times in a row.

    Args:
        rng: of all choices.
        kinds: the kinds to choose from.
        most: the highest number of the first time; sections with interrupts off end more often.
    """
    kind, amount = rng.choice(kinds), 1 << rng.randint(12, 26)
    first, times = rng.randint(1, most), rng.choice((1, 1, 2, 5))
    if kind == AT_RESTORE:
        first, times = rng.randint(1, 1 << rng.randint(0, 6)), rng.choice((2, 2, 3, 4, 8, 64))
    return [Fault(kind, first + extra, amount) for extra in range(times)]


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
