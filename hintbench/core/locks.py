"""A FIFO lock (queued spinlock) as a timeline.

Requests reach a lock in the order of their virtual times, because each is a step of its own in
the scheduler.  Then one number, when the last holder lets go, gives every requester exactly the
wait that a queue of events would: it is granted at ``max(now, available)``.
"""

import array
import warnings
from collections.abc import Generator
from typing import Any

import cython

if cython.compiled:
    from cython.cimports.hintbench.core.constants import PAYERS
else:
    from hintbench.core.constants import PAYERS


@cython.final
@cython.freelist(16)
@cython.cclass
class LockRequest:
    """What ``await`` hands to the scheduler when a coroutine wants a lock."""

    def __init__(self, lock: "LockTimeline", interrupts_off: bool = True) -> None:
        self.lock = lock
        self.interrupts_off = interrupts_off
        self.asked = False

    def __await__(self) -> "Generator[Any, Any, Any]":
        return self

    def __iter__(self) -> "LockRequest":
        return self

    def __next__(self) -> "LockRequest":
        if self.asked:
            raise StopIteration
        self.asked = True
        return self

    def __dealloc__(self) -> None:
        # Python tells so of coroutines; this stands for one.
        if not self.asked:
            warnings.warn("coroutine 'acquire' was never awaited", RuntimeWarning, stacklevel=1)


class LockMisuseError(RuntimeError):
    """A lock is asked for that somebody holds.

    Critical sections run at once, so whoever finds a lock taken finds one that was left so.

    Attributes:
        lock: it.
    """

    def __init__(self, lock: "LockTimeline", text: str) -> None:
        super().__init__(text)
        self.lock = lock


class _Done:
    """An awaitable with nothing to wait for."""

    __slots__ = ()

    def __await__(self) -> Any:
        return iter(())


_DONE = _Done()


@cython.cclass
class LockMeter:
    """Looks at takes and releases of one lock without leaving the compiled core.

    Attributes:
        before: the meter whose place it takes, which is asked first; None when there was none.
    """

    def taken(self, lock: "LockTimeline") -> cython.int:
        """Somebody has just taken the lock."""
        return 0

    def released(self, lock: "LockTimeline") -> cython.int:
        """Its holder has just let it go."""
        return 0


@cython.final
@cython.cclass
class LockTimeline:
    """The lock of a zone (or of a strategy), first come first served.

    ``async with lock:`` in a coroutine takes it with interrupts off and lets it go.  Nothing may
    be awaited in between: that would be sleeping in atomic context.

    ``with lock:`` is for interrupt handlers and hooks that are no coroutines: it takes the lock
    where it stands.  No step of its own lets others go first whose request is earlier in virtual
    time, so one that has spent time before it asks gets in front of them; a coroutine has
    ``async with``. Inside another lock both take it where they stand.

    Attributes:
        name: shown in messages.
        held: whether anybody has it; `held_here` is whether the running context does.
        takes, contended: how often it was taken, and how often somebody had to wait.
        of_zone: it is a zone's; this and what follows is for the model and its rules, and nothing
            that a strategy may use.
        of_strategy: it is one that `Guest.spinlock` has made.
        interrupts_on: its last taker left interrupts as they were; kept for a strategy's only.
        available_ns: when the last holder releases.
        holder: the context that holds it, meaningful while ``held``.
        requested_ns: when it was asked for the last time, from when on interrupts are off.
        last_cpu: the CPU that had it last; a take from another pays the hand-off.
        observer: called with ``"take"`` or ``"release"`` and the lock after each of them.
        meter: sees them too, for a small part of what a call of Python's costs.
        taken_in_place: called with it after a take by ``with``, which the scheduler does not see.
        taken_again: called with it when its holder asks for it once more.
        left_in_place: called before the end of such a hold.
    """

    def __init__(self, clock: Any, name: str, irqs_off_until_ns: Any) -> None:
        self.clock = clock
        self.name = name
        self.of_zone = False
        self.of_strategy = False
        self.interrupts_on = False
        self.available_ns = 0
        self.granted_ns = 0
        self.requested_ns = 0
        self.holder = -1
        self.held = False
        self.last_cpu = -1
        self.irqs_off_until_ns = irqs_off_until_ns
        self.takes = 0
        self.contended = 0
        self.longest_wait_ns = 0
        self.wait_by_payer = memoryview(array.array("q", [0] * PAYERS))
        self.hold_by_payer = memoryview(array.array("q", [0] * PAYERS))
        self.takes_by_payer = memoryview(array.array("q", [0] * PAYERS))
        self.longest_hold_by_payer = memoryview(array.array("q", [0] * PAYERS))
        self.longest_irqs_off_by_payer = memoryview(array.array("q", [0] * PAYERS))
        self.observer = None
        self.meter = None
        self.taken_in_place = None
        self.taken_again = None
        self.left_in_place = None

    def take(self) -> cython.Py_ssize_t:
        """The running context queues for the lock and gets it; its clock moves to the grant.

        Returns:
            The virtual nanoseconds it waited.
        """
        now: cython.longlong = self.clock.now
        wait: cython.longlong = 0
        payer: cython.int = self.clock.payer
        if self.held:
            self._refuse_take()
        self.requested_ns = now
        if self.available_ns > now:
            wait = self.available_ns - now
            self.contended += 1
            if wait > self.longest_wait_ns:
                self.longest_wait_ns = wait
            self.wait_by_payer[payer] += wait
            now = self.available_ns
        if self.last_cpu != self.clock.cpu:
            # The line of the lock word comes from another CPU's cache.
            now += self.clock.costs.lock_handoff_ns
            self.last_cpu = self.clock.cpu
        now += self.clock.costs.lock_take_ns
        self.takes += 1
        self.takes_by_payer[payer] += 1
        self.held = True
        self.holder = self.clock.context
        self.granted_ns = now
        self.clock.now = now
        if (
            self.clock.preemptions is not None
            or self.meter is not None
            or self.observer is not None
        ):
            self._tell_taken()
        return wait

    def _refuse_take(self) -> cython.int:
        if self.holder == self.clock.context and self.taken_again is not None:
            self.taken_again(self)
        raise LockMisuseError(
            self, f"{self.name}: taken by {self.clock.context}, {self.holder} holds it"
        )

    def _tell_taken(self) -> cython.int:
        """Somebody wants to hear of the take, or to take the CPU away from the holder."""
        if self.clock.preemptions is not None:
            self.clock.now += self.clock.preemptions.at_hold()
        if self.meter is not None:
            self.meter.taken(self)
        if self.observer is not None:
            self.observer("take", self)
        return 0

    def release(self) -> cython.Py_ssize_t:
        """Let it go; the charges since the grant were its hold time.

        Returns:
            The virtual nanoseconds it was held.
        """
        payer: cython.int = self.clock.payer
        hold: cython.longlong = self.clock.now - self.granted_ns
        if not self.held or self.holder != self.clock.context:
            self._refuse_release()
        self.held = False
        self.available_ns = self.clock.now
        self.hold_by_payer[payer] += hold
        if hold > self.longest_hold_by_payer[payer]:
            self.longest_hold_by_payer[payer] = hold
        # spin_lock_irqsave(): interrupts are off while it waits, too.
        hold = self.clock.now - self.requested_ns
        if hold > self.longest_irqs_off_by_payer[payer]:
            self.longest_irqs_off_by_payer[payer] = hold
        hold = self.clock.now - self.granted_ns
        if self.clock.cpu >= 0 and self.clock.now > self.irqs_off_until_ns[self.clock.cpu]:
            self.irqs_off_until_ns[self.clock.cpu] = self.clock.now
        if self.meter is not None or self.observer is not None:
            self._tell_released()
        return hold

    def _refuse_release(self) -> cython.int:
        if not self.held:
            raise RuntimeError(f"{self.name}: released, but nobody holds it")
        raise RuntimeError(f"{self.name}: released by one, but another holds it")

    def _tell_released(self) -> cython.int:
        if self.meter is not None:
            self.meter.released(self)
        if self.observer is not None:
            self.observer("release", self)
        return 0

    @property
    def held_here(self) -> bool:
        """Whether the running context holds it."""
        return self.held and self.holder == self.clock.context

    @property
    def wait_ns(self) -> tuple[int, ...]:
        """Virtual nanoseconds waited for it, by payer as the constants ``PAYER_`` number them."""
        return tuple(self.wait_by_payer)

    @property
    def hold_ns(self) -> tuple[int, ...]:
        """Virtual nanoseconds held by payer."""
        return tuple(self.hold_by_payer)

    @property
    def takes_of(self) -> tuple[int, ...]:
        """Takes by payer."""
        return tuple(self.takes_by_payer)

    @property
    def longest_hold_ns(self) -> tuple[int, ...]:
        """The longest hold by payer."""
        return tuple(self.longest_hold_by_payer)

    @property
    def longest_irqs_off_ns(self) -> tuple[int, ...]:
        """The longest time from a request to the release, with interrupts off, by payer."""
        return tuple(self.longest_irqs_off_by_payer)

    def acquire(self, interrupts_off: bool = True) -> LockRequest:
        """``await lock.acquire()``: queue for the lock.

        Args:
            interrupts_off: spin_lock_irqsave(), until the release; False: spin_lock(), which leaves
                interrupts as they are. An interrupt that takes the lock too then deadlocks.
        """
        return LockRequest(self, interrupts_off)

    def __enter__(self) -> "LockTimeline":
        self.take()
        if self.taken_in_place is not None:
            self.taken_in_place(self)
        return self

    def __exit__(self, *exception: object) -> None:
        if self.left_in_place is not None:
            self.left_in_place()
        self._leave(exception)

    def __aenter__(self) -> LockRequest:
        return LockRequest(self)

    def __aexit__(self, *exception: object) -> _Done:
        self._leave(exception)
        return _DONE

    def _leave(self, exception: tuple[object, ...]) -> None:
        """The end of a ``with``: its body must still hold the lock, unless it failed anyway."""
        if self.held_here or exception[0] is None:
            self.release()


SpinLock = LockTimeline
"""Its name for strategies."""
