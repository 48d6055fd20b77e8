"""State of which each CPU touches its own only."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Generic, TypeVar

from hintbench.core.guarding import Gate
from hintbench.guest.guarded import guard

if TYPE_CHECKING:
    from hintbench.guest.sharing import Sharing

State = TypeVar("State")


class PerCpu(Generic[State]):
    """One object for every CPU, which only that CPU may touch, with interrupts off.

    What is a number may also be changed by `add` and `exchange`: single instructions of the CPU on
    its own, between the halves of which nothing comes, so that interrupts may be on (this_cpu_add()
    and this_cpu_xchg() in Documentation/core-api/this_cpu_ops.rst).

    Args:
        sharing: whose CPUs they are.
        factory: makes one CPU's state.
    """

    def __init__(self, sharing: Sharing, factory: Callable[[], State]) -> None:
        self._sharing = sharing
        self._states = [factory() for _ in sharing.cpus]
        self._seen = self._states
        self._gates: list[Gate] = []
        watcher = sharing.watcher
        if watcher is not None:
            ask, ask_always = watcher.per_cpu_touched, watcher.wants_rightful_touches
            self._gates = [Gate(sharing.scheduler, cpu, ask, ask_always) for cpu in sharing.cpus]
            self._seen = [
                guard(state, gate) for state, gate in zip(self._states, self._gates, strict=True)
            ]

    def __getitem__(self, cpu: int) -> State:
        if self._gates:
            self._gates[cpu]()
        return self._seen[cpu]

    def __setitem__(self, cpu: int, state: State) -> None:
        raise TypeError(
            "PerCpu: what a CPU has is changed, not replaced: a number by add() or exchange(),"
            " anything else in place"
        )

    @property
    def here(self) -> State:
        """The running CPU's."""
        return self[self._sharing.cpu]

    def __len__(self) -> int:
        return len(self._states)

    def add(self: PerCpu[int], number: int = 1) -> int:
        """this_cpu_add_return(): change the running CPU's number; interrupts may be on.

        Args:
            number: how much is added; may be negative.

        Returns:
            What it is then.

        Raises:
            TypeError: ``number``, or what each CPU has, is no whole number.
            ValueError: a thread of the host runs, which is on no CPU.
        """
        here = self._here_a_number("add", number)
        self._states[here] += number
        after = self._states[here]
        self._sharing.overtaken("go on after an operation on its CPU's number")
        return after

    def exchange(self: PerCpu[int], number: int) -> int:
        """this_cpu_xchg(): replace the running CPU's number; interrupts may be on.

        Args:
            number: the new one.

        Returns:
            What it was.

        Raises:
            TypeError, ValueError: as from `add`.
        """
        here = self._here_a_number("exchange", number)
        before, self._states[here] = self._states[here], number
        self._sharing.overtaken("go on after an operation on its CPU's number")
        return before

    def total(self: PerCpu[int]) -> int:
        """The sum over all CPUs, each read once: by the time it is known it may be over.

        Raises:
            TypeError: what each CPU has is no whole number.
        """
        if not all(isinstance(number, int) for number in self._states):
            raise TypeError(f"PerCpu.total: each CPU has {self._states[0]!r}, no whole number")
        found = sum(self._states)
        self._sharing.overtaken("act on the sum it has read")
        return found

    def peek(self) -> tuple[State, ...]:
        """Every CPU's, for observers, which are no CPU's and change nothing."""
        return tuple(self._states)

    def _here_a_number(self, what: str, number: object) -> int:
        here = self._sharing.cpu
        if here < 0:
            raise ValueError(f"PerCpu.{what}: a thread of the host runs, which is on no CPU")
        if not isinstance(number, int) or not isinstance(self._states[here], int):
            raise TypeError(
                f"PerCpu.{what}: {number!r} and {self._states[here]!r} must be whole numbers"
            )
        return here
