"""What runs in virtual time besides the tapes: contexts, how they wait, and a CPU's share of them.

A *context* is a coroutine with a CPU: a hook that waits (it is the vCPU), a task (a kthread or
work item) or an interrupt.
"""

from collections.abc import Callable, Coroutine, Generator
from typing import Any

import cython

if cython.compiled:
    from cython.cimports.hintbench.core.constants import (
        RANK_HOST,
        RANK_INTERRUPT,
        RANK_TASK,
        ROLE_INTERRUPT,
    )
else:
    from hintbench.core.constants import RANK_HOST, RANK_INTERRUPT, RANK_TASK, ROLE_INTERRUPT

THREAD = "thread"
"""Who pays for the kernel's own work in the thread that allocates or frees."""
HOOK = "hook"
TASK = "task"
INTERRUPT = "interrupt"
KERNEL = "kernel"
"""Who pays for the kernel's own work in vmstat and in direct reclaim."""
HOST = "host"
"""Who pays for threads of the host."""

_KINDS = (HOOK, TASK, INTERRUPT)
"""By role."""


@cython.final
@cython.freelist(16)
@cython.cclass
class Park:
    """What a coroutine yields to wait: somebody calls `Scheduler.unpark` on its context.

    Args:
        kind: ``"sleep"`` gives the CPU away; ``"spin"`` keeps it busy; ``"held"`` means that the
            vCPU is out of the guest, where not even interrupts reach it.
        register: called with the context once it is parked.

    Attributes:
        outcome: what the wait came to, once it is over. It is not the value of the ``await``:
            compiled, a StopIteration with a value costs a traceback.
    """

    def __init__(self, kind: str, register: "Callable[[Context], None]") -> None:
        self.kind = kind
        self.register = register
        self.outcome = None
        self.asked = False

    def __await__(self) -> "Generator[Any, Any, Any]":
        return self

    def __iter__(self) -> "Park":
        return self

    def __next__(self) -> "Park":
        if self.asked:
            raise StopIteration
        self.asked = True
        return self


@cython.final
@cython.freelist(16)
@cython.cclass
class Step:
    """What a coroutine yields to let everybody go first whose clock is behind its own.

    What a context does from one await to the next happens at once. One that has spent time and
    then looks at what others change too would see them as they were.
    """

    def __init__(self) -> None:
        self.asked = False

    def __await__(self) -> "Generator[Any, Any, Any]":
        return self

    def __iter__(self) -> "Step":
        return self

    def __next__(self) -> "Step":
        if self.asked:
            raise StopIteration
        self.asked = True
        return self


@cython.final
@cython.freelist(16)
@cython.cclass
class Context:
    """A coroutine, where it runs, and how it waits.

    Attributes:
        role: what it is, as the constants ``ROLE_`` number it.
        cpu: where; -1 for a thread of the host.
        number: one that no other context has; a lock knows its holder by it.
        interrupts_off: how many sections that switch interrupts off it is in.
        atomic: how many sections that forbid sleeping, with interrupts on.
        parked: "" while it runs; "sleep", "spin" or "held" as in `Park`; "lock" when its request
            for a lock is its next step; "ready" when its turn will come; "timer" until the delay
            is over that it was spawned with; "done".
        park: what it waits with.
        pending_lock: the lock that it has asked for.
        token: how often it has waited.
        outcome: what its wait, and in the end the whole of it, came to.
        payer: who its CPU time is booked to: its kind, or `KERNEL`, or `HOST`.
        booked_ns: up to when its CPU time is booked.
        irqs_off_ns: since when interrupts are off, while `interrupts_off` is not 0.
        took: it took a lock and has not waited since; ``take_seen`` stands for what the strategy
            had in its hands then.
        joiners: contexts that wait for its end.
    """

    def __init__(
        self,
        coroutine: "Coroutine[Any, Any, Any]",
        role: cython.int,
        cpu: cython.int,
        number: cython.longlong,
        name: str,
    ) -> None:
        self.coroutine = coroutine
        self.role = role
        self.cpu = cpu
        self.number = number
        self.name = name
        self.interrupts_off = 0
        self.atomic = 0
        self.parked = ""
        self.park = None
        self.parked_at = 0
        self.token = 0
        self.delay_ns = 0
        self.pending_lock = None
        self.pending_irqs_on = False
        self.outcome = None
        self.payer = HOST if cpu < 0 else _KINDS[role]
        self.booked_ns = 0
        self.irqs_off_ns = 0
        self.took = False
        self.take_seen = 0
        self.joiners = []

    def rank_of(self) -> cython.int:
        """Its place among what happens at one time; a thread of the host has no vCPU."""
        if self.cpu < 0:
            return RANK_HOST
        return RANK_INTERRUPT if self.role == ROLE_INTERRUPT else RANK_TASK

    def is_of_kernel(self) -> cython.bint:
        """Whether it runs the kernel's own code, not the strategy's."""
        return self.payer == KERNEL

    @property
    def kind(self) -> str:
        """What it is: `HOOK`, `TASK` or `INTERRUPT`."""
        return _KINDS[self.role]

    @property
    def rank(self) -> int:
        """Its place among what happens at one time."""
        return self.rank_of()

    @property
    def kernel(self) -> bool:
        """Whether it runs the kernel's own code, not the strategy's."""
        return self.is_of_kernel()

    def __repr__(self) -> str:
        return f"<{self.kind} {self.name} on CPU {self.cpu}>"


@cython.final
@cython.cclass
class Cpu:
    """Who has a vCPU besides its tape, and who waits for it.

    Attributes:
        occupant: the task that runs on it.
        interrupt: the interrupt that runs on it, above everything else.
        runnable: tasks that wait for it.
        interrupts: interrupts that wait until it has interrupts on, each its name and handler.
        free_at: when the last task or interrupt left it, which may be ahead of what runs next.
        saved: the tape's clock while somebody else has the vCPU.
        began: since when.
        woken: what the tape waited for came meanwhile, at ``saved``.
        interrupted_at: when the interrupt came.
        was_busy: the occupant was computing then, not spinning.
        suspended: whoever has the vCPU stands in the middle of a step, in which others run: 1 with
            interrupts on, 2 with interrupts off, else 0.
        postponed: the occupant's turn came while an interrupt had the vCPU.
    """

    def __init__(self) -> None:
        self.occupant = None
        self.interrupt = None
        self.runnable = []
        self.interrupts = []
        self.free_at = 0
        self.saved = 0
        self.began = 0
        self.woken = False
        self.interrupted_at = 0
        self.was_busy = False
        self.postponed = False
        self.suspended = 0

    def is_taken(self) -> cython.bint:
        """Whether somebody else than its tape has the vCPU."""
        return self.occupant is not None or self.interrupt is not None
