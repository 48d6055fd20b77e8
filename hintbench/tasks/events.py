"""What tasks wait for that others set."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hintbench.core.contexts import Context, Park
from hintbench.tasks.arguments import whole_ns

if TYPE_CHECKING:
    from hintbench.tasks.scheduler import Scheduler


class Event:
    """Something that tasks wait for; setting it is legal everywhere.

    It costs nothing while nobody waits, and `Costs.task_wake_ns` for each task that it wakes, which
    whoever sets it pays: in `block_freed` a wake-up prolongs the hold of the zone lock.

    Linux no longer wakes kswapd with a zone lock held (73444bc4d8f9, "mm, page_alloc: do not wake
    kswapd with zone lock held", 4.21/5.0): lockdep saw that the locks of a wait queue and of a zone
    may be taken in either order. Its author calls the report a false positive, since a wake-up
    allocates nothing but debugging objects, and those exist by then. So it is a price here, and no
    rule; a strategy that wants to spare the hold arms a timer instead (`Guest.spawn` with a delay),
    as page_reporting_notify_free() does.

    Args:
        scheduler: who runs the tasks.
        wake_ns: what waking one of them costs [virtual ns].
    """

    def __init__(self, scheduler: Scheduler, wake_ns: int = 0) -> None:
        self._scheduler = scheduler
        self._wake_ns = wake_ns
        self._waiters: list[tuple[Context, int]] = []
        self._set = False

    def set(self) -> None:
        """Wake all who wait, one after the other; if nobody does, the next wait ends at once."""
        self._set = True
        waiters, self._waiters = self._waiters, []
        for context, token in waiters:
            if context.parked == "sleep" and context.token == token:
                self._set = False
                self._scheduler.clock.now += self._wake_ns
                self._scheduler.unpark(context, True)

    def clear(self) -> None:
        """Forget a set that nobody waited for."""
        self._set = False

    async def wait(self, timeout_ns: int | None = None) -> bool:
        """Sleep until it is set.

        Args:
            timeout_ns: at most so long [virtual ns]; None: for ever.

        Returns:
            Whether it was set; False when the time was over before.
        """
        if timeout_ns is not None:
            timeout_ns = whole_ns("Event.wait: timeout_ns", timeout_ns)
        if self._set:
            self._set = False
            return True

        def register(context: Context) -> None:
            token = context.token
            self._waiters.append((context, token))
            if timeout_ns is not None:
                scheduler = self._scheduler

                def expire() -> None:
                    if context.parked == "sleep" and context.token == token:
                        self._waiters = [each for each in self._waiters if each[0] is not context]
                        scheduler.unpark(context, False)

                scheduler.simulation.schedule(
                    scheduler.clock.now + timeout_ns, context.rank, context.cpu, expire
                )

        park = Park("sleep", register)
        await park
        return bool(park.outcome)
