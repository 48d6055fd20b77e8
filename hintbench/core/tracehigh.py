"""pcp->high of each CPU and zone, as the steps of a trace raise, lower and show it.

No event tells of it. But refills raise it, frees under pressure lower it, vmstat's decay takes an
eighth, all by the rules of mm/page_alloc.c; and where a list is drained it shows: a free that sets
off a drain has just filled the list to pcp->high, a decay ends there.
"""

from typing import Any

import cython

from hintbench.core import constants

_C_COSTLY = cython.declare(cython.int, constants.PAGE_ALLOC_COSTLY_ORDER)
_C_SCALE = cython.declare(cython.int, constants.PCP_BATCH_SCALE_MAX)
# The last block of a drain may be one of order 3.
_C_MOST_MORE = cython.declare(cython.int, 7)


@cython.cfunc
@cython.inline
@cython.exceptval(check=False)
def _apart(one: cython.longlong, other: cython.longlong) -> cython.longlong:
    """How far two numbers lie apart; with checks of overflow Cython's abs() does not compile."""
    return one - other if one > other else other - one


@cython.final
@cython.cclass
class PcpHigh:
    """pcp->high, and what it hangs on: what the lists hold, and how much of each zone is free.

    Args:
        cpus: CPUs of the guest.
        zones: its zones.
        bounds: batch, high_min and high_max by CPU and zone [pages]; int64.
        factors: pcp->alloc_factor at the start, by CPU and zone; int64, and is changed.
        zone_high: the high watermark of each zone [pages]; int64.
        zone_free: its free pages when the trace begins; int64, and is followed.
        possible_ns: times at which vmstat may have decayed a CPU's lists, rising; int64.
        possible_cpu: the CPU of each; int16.
        kswapd: told of what shows whether it ran, where it may have been awake; None: it slept.
    """

    def __init__(
        self,
        cpus: int,
        zones: int,
        bounds: object,
        factors: object,
        zone_high: object,
        zone_free: object,
        possible_ns: object,
        possible_cpu: object,
        kswapd: Any = None,
    ) -> None:
        import numpy

        def table(kind: type) -> memoryview:
            return memoryview(numpy.zeros((cpus, zones), dtype=kind))

        self.bounds = memoryview(bounds)
        self.zone_high = memoryview(zone_high)
        self.zone_free = memoryview(zone_free)
        self.kswapd = kswapd
        self.awake = False
        self.next_turn_ns = 0
        # What it lets stand of boosts [pages].
        boost: Any = numpy.zeros(zones, dtype=numpy.int64) if kswapd is None else kswapd.boost
        self.boost = memoryview(boost)
        self.pending_ns = table(numpy.int64)
        self.below = memoryview(numpy.zeros(zones, dtype=numpy.uint8))
        self.count = table(numpy.int64)
        self.high = memoryview(numpy.array(bounds[:, :, 1], order="C"))
        self.raised = table(numpy.int64)
        self.hidden = table(numpy.int64)
        self.free_count = table(numpy.int64)
        self.factor = memoryview(factors)
        self.high_order = table(numpy.uint8)
        self.flush = table(numpy.uint8)
        self.settled = table(numpy.uint8)
        self.pending = table(numpy.int64)
        self.pending_order = table(numpy.int64)
        self.drained = table(numpy.int64)
        self.expected = table(numpy.int64)
        self.reached = table(numpy.int64)
        self.possible_ns = memoryview(possible_ns)
        self.possible_cpu = memoryview(possible_cpu)
        self.refuted = memoryview(numpy.zeros(len(self.possible_ns), dtype=numpy.uint8))
        self.decayed_by = memoryview(numpy.zeros((len(self.possible_ns), zones), dtype=numpy.int64))
        self.certain = memoryview(numpy.zeros(cpus, dtype=numpy.int64))
        self.next_possible = 0
        self.cpus = cpus
        self.zones = zones

    @cython.cfunc
    @cython.exceptval(check=False)
    def hold(self, cpu: cython.int, zone: cython.int, pages: cython.longlong) -> cython.int:
        """So many pages more are on a list when the trace begins."""
        self.count[cpu, zone] += pages
        # One that held more would have been drained by the last free.
        self.high[cpu, zone] = max(self.high[cpu, zone], self.count[cpu, zone])
        return 0

    @cython.cfunc
    @cython.exceptval(check=False)
    def _clamp(self, cpu: cython.int, zone: cython.int, pages: cython.longlong) -> cython.longlong:
        pages = max(pages, self.bounds[cpu, zone, 1])
        return min(pages, self.bounds[cpu, zone, 2])

    @cython.cfunc
    @cython.exceptval(check=False)
    def refill(self, cpu: cython.int, zone: cython.int, order: cython.int) -> cython.int:
        """nr_pcp_alloc() at the first page of a refill."""
        batch: cython.longlong = self.bounds[cpu, zone, 0]
        wanted: cython.longlong
        self.heed(cpu, zone)
        self.high[cpu, zone] = self._clamp(cpu, zone, self.high[cpu, zone])
        wanted = batch if order else batch << self.factor[cpu, zone]
        if not self.below[zone]:
            self.high[cpu, zone] = min(self.high[cpu, zone] + wanted, self.bounds[cpu, zone, 2])
        if order == 0 and self.factor[cpu, zone] < _C_SCALE:
            if wanted <= max(self.high[cpu, zone] - self.count[cpu, zone] - batch, batch):
                self.factor[cpu, zone] += 1
        self.free_count[cpu, zone] >>= 1
        return 0

    @cython.cfunc
    @cython.exceptval(check=False)
    def give_back(
        self, cpu: cython.int, zone: cython.int, order: cython.int, in_background: cython.bint
    ) -> cython.int:
        """free_unref_page_commit(), up to where it decides whether to drain."""
        batch: cython.longlong = self.bounds[cpu, zone, 0]
        self.count[cpu, zone] += 1 << order
        self.factor[cpu, zone] >>= 1
        self.flush[cpu, zone] = False
        if 0 < order <= _C_COSTLY:
            self.flush[cpu, zone] = (
                self.free_count[cpu, zone] >= batch and self.high_order[cpu, zone] != 0
            )
            self.high_order[cpu, zone] = True
        else:
            self.high_order[cpu, zone] = False
        if self.free_count[cpu, zone] < batch << _C_SCALE:
            self.free_count[cpu, zone] += 1 << order
        # What the drains that follow it show is seen when something else happens.
        self.pending[cpu, zone] = self.count[cpu, zone]
        self.pending_order[cpu, zone] = -1 if in_background else order
        self.drained[cpu, zone] = 0
        return 0

    def begin_decay(self, cpu: cython.int, zone: cython.int) -> cython.int:
        """decay_pcp_high() before its drain, if that has not begun with a page before."""
        if self.expected[cpu, zone] == 0:
            self.settle(cpu, zone)
            self.heed(cpu, zone)
            self.expected[cpu, zone] = self._decayed(cpu, zone)
        return 0

    @cython.cfunc
    @cython.exceptval(check=False)
    def go_on_decaying(self, cpu: cython.int, zone: cython.int) -> cython.int:
        """decay_pcp_high() has drained one more page."""
        self.high[cpu, zone] = max(self.count[cpu, zone], self.bounds[cpu, zone, 1])
        return 0

    def go_on(self, until_ns: cython.longlong) -> cython.int:
        """Try each of the decays that vmstat may have made until then, and follow kswapd."""
        while (
            self.next_possible < len(self.possible_ns)
            and self.possible_ns[self.next_possible] <= until_ns
        ):
            self._possible_decay(self.next_possible)
            self.next_possible += 1
        if self.kswapd is not None and until_ns >= self.next_turn_ns:
            self.next_turn_ns = self.kswapd.follow(until_ns, self.zone_free)
            self.awake = self.kswapd.awake
        return 0

    def refill_shows(
        self, zone: cython.int, size: cython.longlong, at_ns: cython.longlong
    ) -> cython.int:
        """A refill, whose first page has been taken, shows whether the watermarks are boosted."""
        highest: cython.Py_ssize_t = len(self.zone_free) - 1
        free: cython.longlong = self.zone_free[highest]
        self.kswapd.refilled(at_ns, zone, free + size if zone == highest else free)
        self.awake = self.kswapd.awake
        return 0

    def settle(self, cpu: cython.int, zone: cython.int) -> cython.int:
        """nr_pcp_high() of the last free, and what its drain tells of pcp->high."""
        batch: cython.longlong = self.bounds[cpu, zone, 0]
        count: cython.longlong = self.pending[cpu, zone]
        drained: cython.longlong = self.drained[cpu, zone]
        order: cython.longlong = self.pending_order[cpu, zone]
        high: cython.longlong
        seen: cython.longlong
        missing: cython.longlong
        if self.expected[cpu, zone]:
            # A decay that drained something has ended, where it takes an eighth of pcp->high.
            seen = self.high[cpu, zone] - self.expected[cpu, zone]
            if seen > batch >> 1:
                self._undo_decays(cpu, zone, seen * 8 // 7)
            self.expected[cpu, zone] = 0
            self._be_certain(cpu, zone)
        if count == 0:
            return 0
        high = self._clamp(cpu, zone, self.high[cpu, zone])
        if self.flush[cpu, zone]:
            high = max(high - (batch << _C_SCALE), self.bounds[cpu, zone, 1])
        elif self._reclaims(cpu, zone, high) or self.below[zone]:
            high -= max(self.free_count[cpu, zone], batch)
            high = max(high, self.bounds[cpu, zone, 1])
            if drained and self.zone_free[zone] > self.zone_high[zone] + self.boost[zone]:
                self.below[zone] = False
        elif order >= 0:
            if not drained:
                # How much higher than that it stood shows when something changes it.
                self.reached[cpu, zone] = max(self.reached[cpu, zone], count + 1)
            elif count > high + (1 << order) or count < high:
                missing = self.bounds[cpu, zone, 1] - count
                if missing > 0:
                    # No list is drained for a free while it is shorter: some pages are never named.
                    self.hidden[cpu, zone] += missing
                    self.count[cpu, zone] += missing
                    count += missing
                high = self._correct(cpu, zone, high, count)
            if drained:
                self.reached[cpu, zone] = 0
                self._be_certain(cpu, zone)
                high = max(high, self._clamp(cpu, zone, self.free_count[cpu, zone] + batch))
        self.pending[cpu, zone] = 0
        self.high[cpu, zone] = high
        return 0

    def _reclaims(self, cpu: cython.int, zone: cython.int, high: cython.longlong) -> cython.bint:
        """Whether the last free shows kswapd at work: ZONE_RECLAIM_ACTIVE in nr_pcp_high().

        Next to nothing stays on the lists then, less than pcp->high_min: what drains so short a
        list, or one of a zone with enough free pages long before it is full.
        """
        batch: cython.longlong = self.bounds[cpu, zone, 0]
        least: cython.longlong = self.bounds[cpu, zone, 1]
        count: cython.longlong = self.pending[cpu, zone]
        if not self.awake or self.pending_order[cpu, zone] < 0:
            return False
        least = min(batch << 2, max(high - max(self.free_count[cpu, zone], batch), least))
        if self.drained[cpu, zone] == 0:
            if count >= least:
                self.kswapd.idle(self.pending_ns[cpu, zone])
                self.awake = self.kswapd.awake
            return False
        if count >= self.bounds[cpu, zone, 1] and (self.below[zone] or count >= high):
            return False
        if self.drained[cpu, zone] > max(batch, least - batch) + _C_MOST_MORE:
            return False
        self.kswapd.active(self.pending_ns[cpu, zone])
        return True

    @cython.cfunc
    @cython.exceptval(check=False)
    def _correct(
        self,
        cpu: cython.int,
        zone: cython.int,
        high: cython.longlong,
        seen: cython.longlong,
    ) -> cython.longlong:
        """The list shows another pcp->high: fewer decays, or a higher start."""
        if seen > high:
            high += self._undo_decays(cpu, zone, seen - high)
        if not self.settled[cpu, zone] and seen > high:
            self.raised[cpu, zone] += seen - high
        return self._clamp(cpu, zone, seen)

    @cython.cfunc
    @cython.exceptval(check=False)
    def heed(self, cpu: cython.int, zone: cython.int) -> cython.int:
        """pcp->high is about to change: it was no less than what the list has held since."""
        if self.reached[cpu, zone] > self.high[cpu, zone] + 1:
            self.high[cpu, zone] = self._correct(
                cpu, zone, self.high[cpu, zone], self.reached[cpu, zone]
            )
        self.reached[cpu, zone] = 0
        return 0

    def _possible_decay(self, number: cython.Py_ssize_t) -> cython.int:
        """decay_pcp_high() here would have drained something, or it may have been."""
        cpu: cython.int = self.possible_cpu[number]
        zone: cython.int
        if cpu >= self.cpus:
            return 0
        for zone in range(self.zones):
            self.settle(cpu, zone)
            self.heed(cpu, zone)
            if self.count[cpu, zone] > (
                self._decayed(cpu, zone) + (self.bounds[cpu, zone, 0] >> 1)
            ):
                self.refuted[number] = True
                return 0
        for zone in range(self.zones):
            self.decayed_by[number, zone] = self.high[cpu, zone] - self._decayed(cpu, zone)
            self.high[cpu, zone] = self._decayed(cpu, zone)
        return 0

    @cython.cfunc
    @cython.exceptval(check=False)
    def _be_certain(self, cpu: cython.int, zone: cython.int) -> cython.int:
        """A drain has just shown pcp->high: what came before it is no longer to be changed."""
        self.settled[cpu, zone] = True
        self.certain[cpu] = self.next_possible
        return 0

    @cython.cfunc
    @cython.exceptval(check=False)
    def _undo_decays(
        self, cpu: cython.int, zone: cython.int, missing: cython.longlong
    ) -> cython.longlong:
        """The list grew higher than it could after so many decays: the last ones were none.

        Returns:
            How much they had lowered pcp->high.
        """
        undone: cython.longlong = 0
        more: cython.longlong
        number: cython.Py_ssize_t
        for number in range(self.next_possible - 1, self.certain[cpu] - 1, -1):
            if self.possible_cpu[number] == cpu and not self.refuted[number]:
                more = undone + self.decayed_by[number, zone]
                if _apart(missing, more) >= _apart(missing, undone):
                    break
                self.refuted[number] = True
                undone = more
        return undone

    @cython.cfunc
    @cython.exceptval(check=False)
    def _decayed(self, cpu: cython.int, zone: cython.int) -> cython.longlong:
        """The pcp->high that a decay leaves."""
        high: cython.longlong = self.high[cpu, zone] - (self.high[cpu, zone] >> 3)
        high = max(high, self.count[cpu, zone] - (self.bounds[cpu, zone, 0] << _C_SCALE))
        return max(high, self.bounds[cpu, zone, 1])

    def level(self, cpu: int, zone: int) -> int:
        """pcp->high behind the last step [pages]."""
        self.settle(cpu, zone)
        self.heed(cpu, zone)
        return self.high[cpu, zone]

    def raised_by(self, cpu: int, zone: int) -> int:
        """How much more pcp->high must have been at the start than what the list held [pages]."""
        self.level(cpu, zone)
        return self.raised[cpu, zone]

    def hidden_pages(self, cpu: int, zone: int) -> int:
        """Pages that must have been on the list, though no event names them."""
        return self.hidden[cpu, zone]

    def refuted_times(self) -> list:
        """Whether each of the possible decays would have drained pages, which nobody saw."""
        return [bool(refuted) for refuted in self.refuted]
