"""Who spins until something has changed, and when it is looked at again."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from hintbench.core.contexts import Context, Park

if TYPE_CHECKING:
    from hintbench.core.flags import UnitFlags
    from hintbench.host.host import Host
    from hintbench.tasks.scheduler import Scheduler


class Spinners:
    """The contexts that keep their vCPUs busy until a condition has ended.

    Args:
        scheduler: who parks them, and has them looked at after every advance of another.
        host: whose completions some of them poll for.

    Attributes:
        looking: how many conditions are being looked at now, one inside the other.
    """

    __slots__ = ("_host", "_scheduler", "_waiting", "looking")

    def __init__(self, scheduler: Scheduler, host: Host) -> None:
        self._scheduler = scheduler
        self._host = host
        self._waiting: list[tuple[Context, Callable[[], bool]]] = []
        self.looking = 0

    async def spin_while(
        self, condition: Callable[[], bool], poll: Callable[[], None] | None
    ) -> None:
        """As `Guest.spin_while`."""
        if poll is not None and self._host.has_completions:
            poll()
        while self._holds(condition):
            await Park("spin", lambda context: self._watch(context, condition, poll))
            if poll is not None and self._host.has_completions:
                poll()

    def wake(self, _flags: UnitFlags | None = None) -> None:
        """Something, such as flags, has changed that somebody may spin for."""
        if self._waiting:
            self._look_again()

    def _holds(self, condition: Callable[[], bool]) -> bool:
        """Whether a condition holds; nobody comes in while that is looked at."""
        self.looking += 1
        try:
            return bool(condition())
        finally:
            self.looking -= 1

    def _watch(
        self, context: Context, condition: Callable[[], bool], poll: Callable[[], None] | None
    ) -> None:
        self._waiting = [*self._waiting, (context, condition)]
        self._scheduler.look_again = self._look_again
        if poll is not None:
            self._host.acknowledgements.watch(context, poll)

    def _look_again(self) -> None:
        """Spinners whose condition has ended go on."""
        for context, condition in self._waiting:
            if context.parked == "spin" and not self._holds(condition):
                self._host.acknowledgements.unwatch(context)
                self._scheduler.unpark(context, None)
        self._waiting = [each for each in self._waiting if each[0].parked == "spin"]
        if not self._waiting:
            self._scheduler.look_again = None
