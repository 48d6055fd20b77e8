"""State of which each CPU touches its own only."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Generic, TypeVar

from hintbench.core.guarding import Gate
from hintbench.guest.guarded import guard

if TYPE_CHECKING:
    from hintbench.guest.guest import Guest

State = TypeVar("State")


class PerCpu(Generic[State]):
    """One object for every CPU, which only that CPU may touch, with interrupts off."""

    def __init__(self, guest: Guest, factory: Callable[[], State]) -> None:
        self._guest = guest
        self._states = [factory() for _ in guest.cpus]
        self._seen = self._states
        self._gates: list[Gate] = []
        watcher = guest.watcher
        if watcher is not None:
            ask, ask_always = watcher.per_cpu_touched, watcher.wants_rightful_touches
            self._gates = [Gate(guest.scheduler, cpu, ask, ask_always) for cpu in guest.cpus]
            self._seen = [
                guard(state, gate) for state, gate in zip(self._states, self._gates, strict=True)
            ]

    def __getitem__(self, cpu: int) -> State:
        if self._gates:
            self._gates[cpu]()
        return self._seen[cpu]

    @property
    def here(self) -> State:
        """The running CPU's."""
        return self[self._guest.cpu]

    def __len__(self) -> int:
        return len(self._states)

    def peek(self) -> tuple[State, ...]:
        """Every CPU's, for observers, which are no CPU's and change nothing."""
        return tuple(self._states)
