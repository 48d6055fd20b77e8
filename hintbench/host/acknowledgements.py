"""How the guest hears of the host's answers: completions, their interrupts, spinners that poll."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from hintbench.core.constants import RANK_HOST
from hintbench.core.contexts import Context
from hintbench.core.processors import as_coroutine
from hintbench.host.reports import Completion

if TYPE_CHECKING:
    from hintbench.host.host import Host


class Acknowledgements:
    """The used ring of the virtqueue, and its interrupts."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._simulation = host.simulation
        self._scheduler = host.scheduler
        self._completions: deque[Completion] = deque()
        self._pending: list[tuple[int, Callable[[], Any]]] = []
        self._polling: list[tuple[Context, Callable[[], None]]] = []

    def add(self, completion: Completion) -> None:
        """The host has answered: spinners that poll see it now, and one of them takes it."""
        self._completions.append(completion)
        for context, poll in list(self._polling):
            if not self._completions:
                return
            self._scheduler.enter(context)
            outer, self._scheduler.current = self._scheduler.current, context
            try:
                poll()
            finally:
                self._scheduler.current = outer

    def fetch(self) -> Completion | None:
        """The oldest completion that nobody has fetched; None when there is none."""
        if not self._completions:
            return None
        completion = self._completions.popleft()
        if self._host.watcher is not None:
            self._host.watcher.fetched(completion)
        return completion

    @property
    def waiting(self) -> bool:
        """Whether a completion waits to be fetched."""
        return bool(self._completions)

    @property
    def interrupt_pending(self) -> bool:
        """Whether an interrupt is on its way."""
        return bool(self._pending)

    def watch(self, context: Context, poll: Callable[[], None]) -> None:
        """A spinner looks for completions with ``poll`` while it spins."""
        self._polling.append((context, poll))

    def unwatch(self, context: Context) -> None:
        """The spinner spins no more."""
        self._polling = [each for each in self._polling if each[0] is not context]

    def interrupt(self, cpu: int, handler: Callable[[], Any]) -> None:
        """Interrupt the submitter's CPU, unless that very interrupt is pending there already.

        Args:
            cpu: whose; -1 is a thread of the host, which has no interrupts: its handler runs as a
                thread of its own.
            handler: called without arguments; may return a coroutine that spins.
        """
        if cpu < 0:
            self._scheduler.spawn(as_coroutine(handler), -1, "acknowledgement")
            return
        if (cpu, handler) in self._pending:
            return
        self._pending.append((cpu, handler))

        def run() -> Any:
            self._pending.remove((cpu, handler))
            return handler()

        faults = self._host.faults
        late_ns = faults.interrupt_late_ns() if faults is not None else 0
        if late_ns:
            self._simulation.schedule(
                self._simulation.clock.now + late_ns,
                RANK_HOST,
                2,
                lambda: self.deliver(cpu, run),
            )
        else:
            self.deliver(cpu, run)

    def deliver(self, cpu: int, handler: Callable[[], Any]) -> None:
        """The interrupt arrives at a CPU, which takes it as soon as it may."""
        self._scheduler.processors.deliver(cpu, "acknowledgement", handler)
