"""What happens under one hold of a zone lock, for explored runs.

A lock is taken a few times for every allocation that reaches the free lists, so this looks at takes
and releases without leaving the compiled core, and calls Python for what is too much only.
"""

from collections.abc import Callable

import cython

if cython.compiled:
    from cython.cimports.hintbench.core.locks import LockMeter, LockTimeline
    from cython.cimports.hintbench.core.scheduler import CoreScheduler
    from cython.cimports.hintbench.core.zone import Zone
else:
    from hintbench.core.locks import LockMeter, LockTimeline
    from hintbench.core.scheduler import CoreScheduler
    from hintbench.core.zone import Zone


@cython.final
@cython.cclass
class HoldMeter(LockMeter):
    """Bounds what is looked at under one hold (`LockTimeline.meter`).

    Args:
        zones: all of the guest's; whichever is looked at under the hold, the holder looks.
        bound: the most structures that may be looked at under one hold.
        exceeded: called with the number that were, when they are more.
        before: the meter whose place it takes; None when there was none.
    """

    def __init__(
        self,
        zones: tuple[Zone, ...],
        bound: int,
        exceeded: Callable[[int], None],
        before: LockMeter | None = None,
    ) -> None:
        self.zones = zones
        self.bound = bound
        self.exceeded = exceeded
        self.before = before
        self.visits = self._looked_at()

    def taken(self, lock: LockTimeline) -> cython.int:
        """A hold begins."""
        if self.before is not None:
            self.before.taken(lock)
        self.visits = self._looked_at()
        return 0

    def released(self, lock: LockTimeline) -> cython.int:
        """A hold ends: how much was looked at?"""
        if self.before is not None:
            self.before.released(lock)
        if self._looked_at() - self.visits > self.bound:
            self.exceeded(self._looked_at() - self.visits)
        return 0

    @cython.exceptval(check=False)
    def _looked_at(self) -> cython.longlong:
        """How much strategies have looked at so far, in all zones."""
        zone: Zone
        visits: cython.longlong = 0
        for zone in self.zones:
            visits += zone.visits
        return visits


@cython.final
@cython.cclass
class RefusalMeter(LockMeter):
    """Knows batches of which the watermark refused a part (`LockTimeline.meter`).

    Args:
        zone: whose lock it is.
        refused: called without arguments after a hold with isolations and refusals.
        before: the meter whose place it takes; None when there was none.
    """

    def __init__(self, zone: Zone, refused: Callable[[], None], before: LockMeter | None) -> None:
        self.zone = zone
        self.refused = refused
        self.before = before
        self.isolations = zone.isolations
        self.refusals = zone.refusals

    def taken(self, lock: LockTimeline) -> cython.int:
        """A hold begins."""
        if self.before is not None:
            self.before.taken(lock)
        self.isolations = self.zone.isolations
        self.refusals = self.zone.refusals
        return 0

    def released(self, lock: LockTimeline) -> cython.int:
        """A hold ends: were blocks isolated, and one refused?"""
        if self.before is not None:
            self.before.released(lock)
        if self.zone.refusals > self.refusals and self.zone.isolations > self.isolations:
            self.refused()
        return 0


@cython.final
@cython.cclass
class HookTakes(LockMeter):
    """Knows when a hook takes the lock which may wait (`LockTimeline.meter`).

    Args:
        scheduler: who runs the hooks.
        taken_by_hook: called with the CPU when its hook has taken the lock.
        before: the meter whose place it takes; None when there was none.
    """

    def __init__(
        self,
        scheduler: CoreScheduler,
        taken_by_hook: Callable[[int], None],
        before: LockMeter | None,
    ) -> None:
        self.scheduler = scheduler
        self.taken_by_hook = taken_by_hook
        self.before = before

    def taken(self, lock: LockTimeline) -> cython.int:
        """A hold begins: whose?"""
        number: cython.longlong = self.scheduler.clock.context
        if self.before is not None:
            self.before.taken(lock)
        if 0 <= number < len(self.scheduler.hooks):
            if self.scheduler.hooks[number] is not None:
                self.taken_by_hook(number)
        return 0

    def released(self, lock: LockTimeline) -> cython.int:
        """A hold ends."""
        if self.before is not None:
            self.before.released(lock)
        return 0
