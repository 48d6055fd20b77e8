"""Contexts: the coroutines that live in virtual time, and how they wait."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Coroutine, Generator
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from hintbench.core.simulation import Timer

RANK_HOST: Final = 0
RANK_INTERRUPT: Final = 1
RANK_TASK: Final = 2
"""Order of events at one virtual time; all of them before the vCPUs."""

HOOK: Final = "hook"
TASK: Final = "task"
INTERRUPT: Final = "interrupt"


class Park:
    """What a coroutine yields to wait: somebody calls :meth:`Scheduler.unpark` on its context.

    Args:
        kind: ``"sleep"`` gives the CPU away; ``"spin"`` keeps it busy; ``"held"`` means that the
            vCPU is out of the guest, where not even interrupts reach it.
        register: called with the context once it is parked.
    """

    __slots__ = ("kind", "register")

    def __init__(self, kind: str, register: Callable[[Context], None]) -> None:
        self.kind = kind
        self.register = register

    def __await__(self) -> Generator[Any, Any, Any]:
        return (yield self)


class Context:
    """A coroutine, where it runs, and how it waits."""

    __slots__ = (
        "coroutine",
        "cpu",
        "delay_ns",
        "interrupts_off",
        "joiners",
        "kind",
        "name",
        "number",
        "outcome",
        "parked",
        "parked_at",
        "pending_lock",
        "timer",
        "token",
    )

    def __init__(
        self, coroutine: Coroutine[Any, Any, Any], kind: str, cpu: int, number: int, name: str
    ) -> None:
        self.coroutine = coroutine
        self.kind = kind
        self.cpu = cpu
        self.number = number
        self.name = name
        self.interrupts_off = 0
        self.parked = ""
        self.parked_at = 0
        self.token = 0
        self.delay_ns = 0
        self.pending_lock: Any = None
        self.timer: Timer | None = None
        self.outcome: Any = None
        self.joiners: list[Context] = []

    def __repr__(self) -> str:
        return f"<{self.kind} {self.name} on CPU {self.cpu}>"


class Cpu:
    """Who has a vCPU besides its tape, and who waits for it."""

    __slots__ = (
        "began",
        "busy_until_ns",
        "interrupt",
        "interrupts",
        "occupant",
        "runnable",
        "saved",
        "woken",
    )

    def __init__(self) -> None:
        self.occupant: Context | None = None
        self.interrupt: Context | None = None
        self.runnable: deque[Context] = deque()
        self.interrupts: deque[tuple[str, Callable[[], Any]]] = deque()
        self.saved = 0
        self.woken = False
        self.began = 0
        self.busy_until_ns = 0
