"""What happens under one hold of a zone lock, for explored runs.

A lock is taken a few times for every allocation that reaches the free lists, so this looks at takes
and releases without leaving the compiled core, and calls Python for what is too much only.
"""

from collections.abc import Callable
from typing import Any

import cython

if cython.compiled:
    from cython.cimports.hintbench.core.scheduler import CoreScheduler
    from cython.cimports.hintbench.core.zone import Zone
else:
    from hintbench.core.scheduler import CoreScheduler
    from hintbench.core.zone import Zone


@cython.final
@cython.cclass
class HoldMeter:
    """The observer of one zone's lock (`LockTimeline.observer`).

    Args:
        zone: whose lock it is.
        bound: the most structures that may be looked at under one hold.
        exceeded: called with the number that were, when they are more.
    """

    def __init__(self, zone: Zone, bound: int, exceeded: Callable[[int], None]) -> None:
        self.zone = zone
        self.bound = bound
        self.exceeded = exceeded
        self.visits = zone.visits

    def __call__(self, what: str, lock: Any) -> None:
        """The lock is taken (``"take"``) or released (``"release"``)."""
        if what == "take":
            self.visits = self.zone.visits
        elif self.zone.visits - self.visits > self.bound:
            self.exceeded(self.zone.visits - self.visits)


@cython.final
@cython.cclass
class RefusalMeter:
    """An observer of one zone's lock that knows batches of which the watermark refused a part.

    Args:
        zone: whose lock it is.
        refused: called without arguments after a hold with isolations and refusals.
        before: the observer whose place it takes; None when there was none.
    """

    def __init__(self, zone: Zone, refused: Callable[[], None], before: Any) -> None:
        self.zone = zone
        self.refused = refused
        self.before = before
        self.isolations = zone.isolations
        self.refusals = zone.refusals

    def __call__(self, what: str, lock: Any) -> None:
        """The lock is taken (``"take"``) or released (``"release"``)."""
        if self.before is not None:
            self.before(what, lock)
        if what == "take":
            self.isolations = self.zone.isolations
            self.refusals = self.zone.refusals
        elif self.zone.refusals > self.refusals and self.zone.isolations > self.isolations:
            self.refused()


@cython.final
@cython.cclass
class HookTakes:
    """An observer of a lock that knows when a hook takes it which may wait.

    Args:
        scheduler: who runs the hooks.
        taken: called with the CPU when its hook has taken the lock.
        before: the observer whose place it takes; None when there was none.
    """

    def __init__(self, scheduler: CoreScheduler, taken: Callable[[int], None], before: Any) -> None:
        self.scheduler = scheduler
        self.taken = taken
        self.before = before

    def __call__(self, what: str, lock: Any) -> None:
        """The lock is taken (``"take"``) or released (``"release"``)."""
        number: cython.longlong = self.scheduler.clock.context
        if self.before is not None:
            self.before(what, lock)
        if what == "take" and 0 <= number < len(self.scheduler.hooks):
            if self.scheduler.hooks[number] is not None:
                self.taken(number)
