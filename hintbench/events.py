"""What tasks wait for that others set."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hintbench.arguments import whole_ns
from hintbench.core.contexts import Context, Park

if TYPE_CHECKING:
    from hintbench.tasks import Scheduler


class Event:
    """Something that tasks wait for; setting it is legal everywhere and costs next to nothing."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._waiters: list[tuple[Context, int]] = []
        self._set = False

    def set(self) -> None:
        """Wake all who wait; if nobody does, the next wait ends at once."""
        self._set = True
        waiters, self._waiters = self._waiters, []
        for context, token in waiters:
            if context.parked == "sleep" and context.token == token:
                self._set = False
                self._scheduler.unpark(context, True)

    def clear(self) -> None:
        """Forget a set that nobody waited for."""
        self._set = False

    async def wait(self, timeout_ns: int | None = None) -> bool:
        """Sleep until it is set, at most ``timeout_ns`` of virtual time; whether it was set."""
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
