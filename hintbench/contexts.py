"""What runs in virtual time besides the tapes: contexts, how they wait, and a CPU's share of them.

A *context* is a coroutine with a CPU: a hook that waits (it is the vCPU), a task (a kthread or
work item) or an interrupt.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Coroutine, Generator
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from hintbench.core.locks import LockTimeline

RANK_HOST: Final = 0
RANK_INTERRUPT: Final = 1
RANK_TASK: Final = 2

THREAD: Final = "thread"
"""Who pays for the kernel's own work in the thread that allocates or frees."""
HOOK: Final = "hook"
TASK: Final = "task"
INTERRUPT: Final = "interrupt"
KERNEL: Final = "kernel"
"""Who pays for the kernel's own work in vmstat and in direct reclaim."""
HOST: Final = "host"
"""Who pays for threads of the host."""


class Park:
    """What a coroutine yields to wait: somebody calls `Scheduler.unpark` on its context.

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


class Step:
    """What a coroutine yields to let everybody go first whose clock is behind its own.

    What a context does from one await to the next happens at once. One that has spent time and
    then looks at what others change too would see them as they were.
    """

    __slots__ = ()

    def __await__(self) -> Generator[Any, Any, Any]:
        return (yield self)


class Context:
    """A coroutine, where it runs, and how it waits.

    Attributes:
        interrupts_off: how many sections that switch interrupts off it is in.
        atomic: how many sections that forbid sleeping, with interrupts on.
        parked: "" while it runs; "sleep", "spin" or "held" as in `Park`; "lock" when its request
            for a lock is its next step; "ready" when its turn will come; "timer" until the delay
            is over that it was spawned with; "done".
        payer: who its CPU time is booked to: its kind, or `KERNEL`, or `HOST`.
        booked_ns: up to when its CPU time is booked.
        irqs_off_ns: since when interrupts are off, while `interrupts_off` is not 0.
        take_seen: the state of the strategy's hands when it took a lock last; None: no lock since.
    """

    __slots__ = (
        "atomic",
        "booked_ns",
        "coroutine",
        "cpu",
        "delay_ns",
        "interrupts_off",
        "irqs_off_ns",
        "joiners",
        "kind",
        "name",
        "number",
        "outcome",
        "parked",
        "parked_at",
        "payer",
        "pending_irqs_on",
        "pending_lock",
        "take_seen",
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
        self.atomic = 0
        self.parked = ""
        self.parked_at = 0
        self.token = 0
        self.delay_ns = 0
        self.pending_lock: LockTimeline | None = None
        self.pending_irqs_on = False
        self.outcome: Any = None
        self.payer = HOST if cpu < 0 else kind
        self.booked_ns = 0
        self.irqs_off_ns = 0
        self.take_seen: object = None
        self.joiners: list[Context] = []

    @property
    def rank(self) -> int:
        """Its place among what happens at one time; a thread of the host has no vCPU."""
        if self.cpu < 0:
            return RANK_HOST
        return RANK_INTERRUPT if self.kind == INTERRUPT else RANK_TASK

    @property
    def kernel(self) -> bool:
        """Whether it runs the kernel's own code, not the strategy's."""
        return self.payer == KERNEL

    def __repr__(self) -> str:
        return f"<{self.kind} {self.name} on CPU {self.cpu}>"


class Cpu:
    """Who has a vCPU besides its tape, and who waits for it.

    Attributes:
        occupant: the task that runs on it.
        interrupt: the interrupt that runs on it, above everything else.
        runnable: tasks that wait for it.
        interrupts: interrupts that wait until it has interrupts on.
        free_at: when the last task or interrupt left it, which may be ahead of what runs next.
        saved: the tape's clock while somebody else has the vCPU.
        began: since when.
        woken: what the tape waited for came meanwhile, at ``saved``.
        interrupted_at: when the interrupt came.
        was_busy: the occupant was computing then, not spinning.
        postponed: the occupant's turn came while an interrupt had the vCPU.
    """

    __slots__ = (
        "began",
        "free_at",
        "interrupt",
        "interrupted_at",
        "interrupts",
        "occupant",
        "postponed",
        "runnable",
        "saved",
        "was_busy",
        "woken",
    )

    def __init__(self) -> None:
        self.occupant: Context | None = None
        self.interrupt: Context | None = None
        self.runnable: deque[Context] = deque()
        self.interrupts: deque[tuple[str, Callable[[], Any]]] = deque()
        self.free_at = 0
        self.saved = 0
        self.began = 0
        self.woken = False
        self.interrupted_at = 0
        self.was_busy = False
        self.postponed = False

    @property
    def taken(self) -> bool:
        """Whether somebody else than its tape has the vCPU."""
        return self.occupant is not None or self.interrupt is not None
