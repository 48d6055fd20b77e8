"""A strategy's own locks, how often it took zones', and how often it found nothing to do there."""

import cython

if cython.compiled:
    from cython.cimports.hintbench.core.contexts import Context
    from cython.cimports.hintbench.core.flags import UnitFlags
    from cython.cimports.hintbench.core.locks import LockTimeline
    from cython.cimports.hintbench.core.simulation import Simulation
    from cython.cimports.hintbench.core.zone import Zone
else:
    from hintbench.core.contexts import Context
    from hintbench.core.flags import UnitFlags
    from hintbench.core.locks import LockTimeline
    from hintbench.core.simulation import Simulation
    from hintbench.core.zone import Zone

_MULTIPLIER = cython.declare(cython.ulonglong, 0x9E3779B97F4A7C15)
_LAST_BIT = cython.declare(cython.ulonglong, 1 << 62)
_MASK_64 = cython.declare(cython.ulonglong, 0xFFFFFFFFFFFFFFFF)


@cython.cfunc
@cython.inline
@cython.exceptval(check=False)
def _next(bit: cython.ulonglong) -> cython.ulonglong:
    """The next lock's bit; where there are more locks than bits, some share one."""
    return 1 if bit == _LAST_BIT else bit << 1


@cython.final
@cython.cclass
class LockTakes:
    """Knows who holds which lock, and counts takes of zone locks by the contexts of a strategy.

    Args:
        simulation: whose zones they are.

    Attributes:
        total: takes so far.
        empty: those among them under which nothing was isolated, held, marked or given back.
        own_locks: the locks that the strategy has made.
        in_flight_flags: what the strategy marks what is in its hands with.
    """

    def __init__(self, simulation: Simulation) -> None:
        self.simulation = simulation
        self.total = 0
        self.empty = 0
        self.own_locks = []
        self.in_flight_flags = []
        self.took = False
        self.take_seen = 0

    def dismantle(self) -> None:
        """The run is over: let go of who is told of takes."""
        for lock in self.own_locks:
            lock.taken_in_place = lock.taken_again = None
        self.in_flight_flags.clear()

    def held_by(self, number: cython.longlong) -> cython.ulonglong:
        """Which locks a context holds, of zones and of the strategy: a bit for each; 0 for none."""
        found: cython.ulonglong = 0
        bit: cython.ulonglong = 1
        zone: Zone
        lock: LockTimeline
        for zone in self.simulation.zones:
            if zone.lock.held and zone.lock.holder == number:
                found |= bit
            bit = _next(bit)
        for lock in self.own_locks:
            if lock.held and lock.holder == number:
                found |= bit
            bit = _next(bit)
        return found

    def locks_of(self, number: int, since: int = 0) -> list[LockTimeline]:
        """The locks that a context holds, of zones first.

        Args:
            number: of the context.
            since: those that it held before, as from `held_by`, which are left out.
        """
        found = []
        bit = 1
        for lock in (*(zone.lock for zone in self.simulation.zones), *self.own_locks):
            if lock.held and lock.holder == number and not since & bit:
                found.append(lock)
            bit = _next(bit)
        return found

    def begin(self, context: Context) -> cython.int:
        """A context has taken a zone's lock; None is a plain hook in a tape, which cannot wait."""
        self.total += 1
        if context is None:
            self.took = True
            self.take_seen = self.in_hand()
        else:
            context.took = True
            context.take_seen = self.in_hand()
        return 0

    def end(self, context: Context) -> cython.int:
        """What a context finds under the lock that it took is in its hands by now, or nowhere.

        Called before others run, who have something in their hands as well.
        """
        if context.took:
            self.empty += context.take_seen == self.in_hand()
            context.took = False
        return 0

    def end_in_place(self) -> None:
        """A hold by ``with`` ends: a plain hook has found something by now, or nothing."""
        if self.took:
            self.empty += self.take_seen == self.in_hand()
            self.took = False

    @cython.overflowcheck(False)
    def in_hand(self) -> cython.ulonglong:
        """What changes with every block isolated, held, given back or marked as in flight."""
        seen: cython.ulonglong = 1
        zone: Zone
        flags: UnitFlags
        for zone in self.simulation.zones:
            seen = (seen * _MULTIPLIER + zone.isolations) & _MASK_64
            seen = (seen * _MULTIPLIER + zone.isolated_pages) & _MASK_64
            seen = (seen * _MULTIPLIER + zone.held_pages) & _MASK_64
        for flags in self.in_flight_flags:
            seen = (seen * _MULTIPLIER + flags.count) & _MASK_64
        return seen
