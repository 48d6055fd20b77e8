"""The part of an event of tasks that needs no coroutine: who waits for it, and until when."""

import cython

if cython.compiled:
    from cython.cimports.hintbench.core.contexts import Context, Park
    from cython.cimports.hintbench.core.scheduler import CoreScheduler
else:
    from hintbench.core.contexts import Context, Park
    from hintbench.core.scheduler import CoreScheduler


@cython.cclass
class CoreEvent:
    """Base of :class:`hintbench.tasks.events.Event`, which says what it means.

    Args:
        scheduler: who runs the tasks.
        wake_ns: what waking one of them costs [virtual ns].
    """

    def __init__(self, scheduler: CoreScheduler, wake_ns: int = 0) -> None:
        self._scheduler = scheduler
        self._wake_ns = wake_ns
        self._waiters = []
        self._set = False

    def set(self) -> None:
        """Wake all who wait, one after the other; if nobody does, the next wait ends at once."""
        waiter: Waiter
        self._set = True
        waiters: list = self._waiters
        if not waiters:
            return
        self._waiters = []
        for each in waiters:
            waiter = each
            if waiter.waits():
                self._set = False
                self._scheduler.clock.now += self._wake_ns
                self._scheduler.unpark(waiter.context, True)

    def clear(self) -> None:
        """Forget a set that nobody waited for."""
        self._set = False

    def take(self) -> bool:
        """Whether it was set and nobody waited for that; it is not set any more."""
        was_set: cython.bint = self._set
        self._set = False
        return was_set

    def park(self, timeout_ns: int) -> Park:
        """What a task awaits to wait for it.

        Args:
            timeout_ns: at most so long [virtual ns]; -1: for ever.
        """
        return Park("sleep", Waiter(self, timeout_ns))


@cython.final
@cython.freelist(16)
@cython.cclass
class Waiter:
    """Registers a context that waits for an event; then it is the timer that ends the wait."""

    def __init__(self, event: CoreEvent, timeout_ns: int) -> None:
        self.event = event
        self.timeout_ns = timeout_ns
        self.context = None
        self.token = 0

    def __call__(self, context: Context | None = None) -> None:
        """A context waits from now on; without one: its time is over."""
        scheduler: CoreScheduler = self.event._scheduler
        if context is None:
            if self.waits():
                waiter: Waiter
                still = []
                for each in self.event._waiters:
                    waiter = each
                    if waiter.context is not self.context:
                        still.append(waiter)
                self.event._waiters = still
                scheduler.unpark(self.context, False)
            return
        self.context = context
        self.token = context.token
        self.event._waiters.append(self)
        if self.timeout_ns >= 0:
            scheduler.simulation.schedule(
                scheduler.clock.now + self.timeout_ns, context.rank_of(), context.cpu, self
            )

    def waits(self) -> cython.bint:
        """Whether its context is still in this wait."""
        return self.context.parked == "sleep" and self.context.token == self.token
