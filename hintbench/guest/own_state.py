"""What a strategy keeps of its own, and what keeps its CPUs apart there."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from hintbench.core.locks import LockTimeline
from hintbench.guest.atomic import Atomic, Value
from hintbench.guest.guarded import UNCHANGING, guard
from hintbench.guest.per_cpu import PerCpu, State

if TYPE_CHECKING:
    from hintbench.core.contexts import Context
    from hintbench.guest.boot import Machine
    from hintbench.guest.sharing import Sharing
    from hintbench.guest.watching import Watcher
    from hintbench.tasks.scheduler import Scheduler

Kept = TypeVar("Kept")


class OwnState:
    """The part of a guest that makes locks and state for its strategy.

    What several CPUs touch is one of four things in the kernel: each CPU's own (`per_cpu`), under a
    lock (`spinlock`, `guarded`), atomic (`atomic`), or a bit for every block (`Guest.flags`). Rules
    do not see what is none of them.
    """

    machine: Machine
    scheduler: Scheduler
    watcher: Watcher | None
    _sharing: Sharing

    def spinlock(self, name: str) -> LockTimeline:
        """A lock of the strategy's own, first come first served as a zone's.

        ``async with lock:`` in coroutines is spin_lock_irqsave(), and so is ``with lock:`` in plain
        hooks and interrupt handlers; ``await lock.acquire(interrupts_off=False)`` is spin_lock().
        Nothing may be awaited while it is held, but for another lock: those are taken inside each
        other in one order everywhere, also with a zone's (``atomic-context``). A lock that hooks or
        interrupts take must have interrupts off wherever it is taken (``irq-safe``).

        Args:
            name: shown in messages.

        Raises:
            ValueError: there is a lock of that name already.
        """
        scheduler = self.scheduler
        shown = f"lock {name!r}"
        if any(lock.name == shown for lock in scheduler.takes.own_locks):
            raise ValueError(f"{shown} exists already: choose another name")
        lock: Any = LockTimeline(self.machine.clock, shown, self.machine.irqs_off_until_ns)
        lock.of_strategy = True
        lock.taken_in_place = scheduler.taken_in_place
        lock.taken_again = scheduler.rules.check_again
        scheduler.takes.own_locks.append(lock)
        made: LockTimeline = lock
        return made

    def guarded(self, state: Kept, by: LockTimeline) -> Kept:
        """State that is only touched with a lock held (rule ``locked-state``).

        As clang's GUARDED_BY(): while rules are checked every use of the object that comes back is
        seen, of itself, not of what is in it. Until another context has touched it, the one that
        made it may do so without the lock, as before it is published.

        Args:
            state: a list, a dict, an object of a class of yours.
            by: the lock, of `spinlock` or a zone's.

        Raises:
            TypeError: it is no lock, or the state is a number or another value that cannot change.
        """
        if not isinstance(by, LockTimeline):
            raise TypeError(f"guarded: by is {by!r}, not a lock of guest.spinlock() or a zone's")
        if isinstance(state, UNCHANGING):
            raise TypeError(
                f"guarded: {state!r} cannot change, so nobody can touch it: guard the object that"
                " has it as an attribute, or use guest.atomic()"
            )
        if self.watcher is None:
            return state
        self.watcher.state_made("locked-state")
        guarded: Kept = guard(state, _LockGate(self._sharing, by))
        return guarded

    def atomic(self, value: Value) -> Atomic[Value]:
        """A value that all CPUs share, of which every single access is atomic.

        Args:
            value: what it is at first: a number, a member of an Enum, None, a tuple ...

        Raises:
            TypeError: it is a list or another that can change without a call.
        """
        return Atomic(self._sharing, value)

    def per_cpu(self, factory: Callable[[], State]) -> PerCpu[State]:
        """State of which each CPU touches its own only, with interrupts off.

        Args:
            factory: makes one CPU's state; called once for each CPU.
        """
        if self.watcher is not None:
            self.watcher.state_made("per-cpu")
        return PerCpu(self._sharing, factory)


class _LockGate:
    """Stands before guarded state, and asks whether its lock is held."""

    def __init__(self, sharing: Sharing, lock: LockTimeline) -> None:
        self._sharing = sharing
        self._lock = lock
        self._maker: int | None = sharing.context

    def __call__(self) -> None:
        """The state is about to be touched."""
        lock, here = self._lock, self._sharing.context
        if lock.held and lock.holder == here:
            if here != self._maker:
                self._maker = None
            return
        if here == self._maker:
            return
        self._maker = None
        current: Context | None = self._sharing.scheduler.current
        who = "a hook" if current is None else current.name
        self._sharing.violate(
            "locked-state", f"{who} touches what the {lock.name} guards, without it", "unlocked"
        )
        self._sharing.overtaken("touch what it has no lock for")
