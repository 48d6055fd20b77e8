"""What state that CPUs share asks of its guest: who touches it, and who may come in between."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hintbench.config.costs import Costs
    from hintbench.core.clock import VirtualClock
    from hintbench.guest.guest import Guest
    from hintbench.guest.spinning import Spinners
    from hintbench.guest.watching import Watcher
    from hintbench.tasks.scheduler import Scheduler


class Sharing:
    """Stands between a guest and the state that its strategy shares among CPUs.

    The guest itself shows a strategy only what that may call.

    Args:
        guest: whose CPUs share it.
        clock: of the guest.
        prices: what accesses cost.
        spinners: who may spin for what is written.

    Attributes:
        cpus: the vCPUs' numbers.
        scheduler: who knows which context touches it.
    """

    __slots__ = ("_clock", "_guest", "_prices", "_spinners", "cpus", "scheduler")

    def __init__(
        self, guest: Guest, clock: VirtualClock, prices: Costs, spinners: Spinners
    ) -> None:
        self._guest = guest
        self._clock = clock
        self._prices = prices
        self._spinners = spinners
        self.cpus = guest.cpus
        self.scheduler: Scheduler = guest.scheduler

    @property
    def cpu(self) -> int:
        """The CPU that the running context is on; -1 for a thread of the host."""
        return self._clock.cpu

    @property
    def context(self) -> int:
        """The number of the running context."""
        return self._clock.context

    @property
    def watcher(self) -> Watcher | None:
        """Who looks on in an explored run."""
        return self._guest.watcher

    @property
    def violate(self) -> Callable[..., None]:
        """Records that a rule was broken, as `Guest.violate`."""
        return self._guest.violate

    def write(self, writer: int | None) -> int:
        """Charge for a write to a cache line.

        Args:
            writer: the CPU that wrote there last; None: nobody has.

        Returns:
            The CPU that writes there now.
        """
        here = self._clock.cpu
        prices = self._prices
        self._clock.now += (
            prices.flag_ns if writer is None or writer == here else prices.flag_contended_ns
        )
        return here

    def written(self) -> None:
        """Something has been written that somebody may spin for."""
        self._spinners.wake()

    def overtaken(self, part: str) -> None:
        """Others may come here, as in between any two accesses to what CPUs share.

        Not while a spinner's condition is looked at: a look is one access.

        Args:
            part: what the running context is about to do, for stories.
        """
        watcher = self._guest.watcher
        if watcher is not None and not self._spinners.looking:
            watcher.overtaken(part)
