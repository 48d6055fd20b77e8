"""What tasks wait for that others set."""

from __future__ import annotations

from hintbench.core.events import CoreEvent
from hintbench.tasks.arguments import whole_ns


class Event(CoreEvent):
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

    async def wait(self, timeout_ns: int | None = None) -> bool:
        """Sleep until it is set.

        Args:
            timeout_ns: at most so long [virtual ns]; None: for ever.

        Returns:
            Whether it was set; False when the time was over before.
        """
        if timeout_ns is not None:
            timeout_ns = whole_ns("Event.wait: timeout_ns", timeout_ns)
        if self.take():
            return True
        park = self.park(-1 if timeout_ns is None else timeout_ns)
        await park
        return bool(park.outcome)
