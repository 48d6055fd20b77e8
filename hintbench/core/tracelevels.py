"""How high a recorded kernel let its per-CPU lists grow: pcp->high, followed along a trace.

No event tells of it. But refills raise it, frees under pressure lower it, vmstat's decay takes an
eighth, all by the rules of mm/page_alloc.c; and where a list is drained it shows: a free that sets
off a drain has just filled the list to pcp->high, a decay ends there.
"""

from typing import Any

import cython

from hintbench.core import constants, tracepages

_C_TAKE = cython.declare(cython.int, tracepages.TAKE)
_C_HAND_OUT = cython.declare(cython.int, tracepages.HAND_OUT)
_C_GIVE_BACK = cython.declare(cython.int, tracepages.GIVE_BACK)
_C_RETURN = cython.declare(cython.int, tracepages.RETURN)
_C_COSTLY = cython.declare(cython.int, constants.PAGE_ALLOC_COSTLY_ORDER)
_C_PAGEBLOCK = cython.declare(cython.int, constants.PAGEBLOCK_ORDER)
_C_SCALE = cython.declare(cython.int, constants.PCP_BATCH_SCALE_MAX)
# What a step is besides its action.
BY_DECAY = 1
IN_BACKGROUND = 2
DERIVED = 4
_C_BY_DECAY = cython.declare(cython.int, BY_DECAY)
_C_IN_BACKGROUND = cython.declare(cython.int, IN_BACKGROUND)
_C_DERIVED = cython.declare(cython.int, DERIVED)


@cython.cfunc
@cython.inline
@cython.exceptval(check=False)
def _apart(one: cython.longlong, other: cython.longlong) -> cython.longlong:
    """How far two numbers lie apart; with checks of overflow Cython's abs() does not compile."""
    return one - other if one > other else other - one


@cython.final
@cython.cclass
class LevelWalk:
    """Follows pcp->high of each CPU and zone.

    Args:
        zone_of: the zone's index of each page, -1 where there is none; int16.
        cpus: CPUs of the guest.
        zones: its zones.
        bounds: batch, high_min and high_max by CPU and zone [pages]; int64.
        zone_high: the high watermark of each zone [pages]; int64.
        zone_free: its free pages when the trace begins; int64.
        possible_ns: times at which vmstat may have decayed a CPU's lists, rising; int64.
        possible_cpu: the CPU of each; int16.
    """

    zone_of: cython.short[::1]
    owner: cython.short[::1]
    bounds: cython.longlong[:, :, ::1]
    zone_high: cython.longlong[::1]
    zone_free: cython.longlong[::1]
    below: cython.uchar[::1]
    count: cython.longlong[:, ::1]
    high: cython.longlong[:, ::1]
    raised: cython.longlong[:, ::1]
    hidden: cython.longlong[:, ::1]
    free_count: cython.longlong[:, ::1]
    factor: cython.longlong[:, ::1]
    high_order: cython.uchar[:, ::1]
    flush: cython.uchar[:, ::1]
    settled: cython.uchar[:, ::1]
    pending: cython.longlong[:, ::1]
    pending_order: cython.longlong[:, ::1]
    drained: cython.longlong[:, ::1]
    expected: cython.longlong[:, ::1]
    reached: cython.longlong[:, ::1]
    refilling: cython.short[::1]
    possible_ns: cython.longlong[::1]
    possible_cpu: cython.short[::1]
    refuted: cython.uchar[::1]
    decayed_by: cython.longlong[:, ::1]
    certain: cython.longlong[::1]
    next_possible: cython.Py_ssize_t
    cpus: cython.int
    zones: cython.int

    def __init__(
        self,
        zone_of: object,
        cpus: int,
        zones: int,
        bounds: object,
        zone_high: object,
        zone_free: object,
        possible_ns: object,
        possible_cpu: object,
    ) -> None:
        import numpy

        def table(kind: type) -> memoryview:
            return memoryview(numpy.zeros((cpus, zones), dtype=kind))

        self.zone_of = memoryview(zone_of)
        self.owner = memoryview(numpy.full(len(self.zone_of), -1, dtype=numpy.int16))
        self.bounds = memoryview(bounds)
        self.zone_high = memoryview(zone_high)
        self.zone_free = memoryview(zone_free)
        self.below = memoryview(numpy.zeros(zones, dtype=numpy.uint8))
        self.count = table(numpy.int64)
        self.high = memoryview(numpy.array(bounds[:, :, 1], order="C"))
        self.raised = table(numpy.int64)
        self.hidden = table(numpy.int64)
        self.free_count = table(numpy.int64)
        self.factor = table(numpy.int64)
        self.high_order = table(numpy.uint8)
        self.flush = table(numpy.uint8)
        self.settled = table(numpy.uint8)
        self.pending = table(numpy.int64)
        self.pending_order = table(numpy.int64)
        self.drained = table(numpy.int64)
        self.expected = table(numpy.int64)
        self.reached = table(numpy.int64)
        self.refilling = memoryview(numpy.full(cpus, -1, dtype=numpy.int16))
        self.possible_ns = memoryview(possible_ns)
        self.possible_cpu = memoryview(possible_cpu)
        self.refuted = memoryview(numpy.zeros(len(self.possible_ns), dtype=numpy.uint8))
        self.decayed_by = memoryview(numpy.zeros((len(self.possible_ns), zones), dtype=numpy.int64))
        self.certain = memoryview(numpy.zeros(cpus, dtype=numpy.int64))
        self.next_possible = 0
        self.cpus = cpus
        self.zones = zones

    def start(self, pfn: object, order: object, cpu: object, factors: Any) -> None:
        """Blocks are on lists from the beginning.

        Args:
            pfn: first page of each; int32.
            order: int8.
            cpu: whose list; int16.
            factors: pcp->alloc_factor by CPU and zone; int64.
        """
        self.factor = memoryview(factors.copy())
        pages: cython.int[::1] = memoryview(pfn)
        sizes: cython.schar[::1] = memoryview(order)
        cpus: cython.short[::1] = memoryview(cpu)
        at: cython.Py_ssize_t
        zone: cython.int
        by: cython.int
        for at in range(len(pfn)):
            zone = self.zone_of[pages[at]]
            by = cpus[at]
            if zone < 0 or by >= self.cpus:
                continue
            self.owner[pages[at]] = by
            self.count[by, zone] += 1 << sizes[at]
            # One that held more would have been drained by the last free.
            self.high[by, zone] = max(self.high[by, zone], self.count[by, zone])

    def walk(
        self,
        action: object,
        pfn: object,
        order: object,
        cpu: object,
        time_ns: object,
        about: object,
    ) -> None:
        """Follow the next steps: TAKE, HAND_OUT, GIVE_BACK and RETURN.

        Args:
            action: what each is; uint8.
            pfn: first page; int64.
            order: int8.
            cpu: the CPU that did it; int16.
            time_ns: int64.
            about: BY_DECAY, IN_BACKGROUND, DERIVED of each; uint8.
        """
        actions: cython.uchar[::1] = memoryview(action)
        pfns: cython.longlong[::1] = memoryview(pfn)
        orders: cython.schar[::1] = memoryview(order)
        doers: cython.short[::1] = memoryview(cpu)
        times: cython.longlong[::1] = memoryview(time_ns)
        kinds: cython.uchar[::1] = memoryview(about)
        step: cython.Py_ssize_t
        page: cython.longlong
        size: cython.longlong
        zone: cython.int
        by: cython.int
        for step in range(len(action)):
            page = pfns[step]
            by = doers[step]
            if page < 0 or page >= len(self.zone_of):
                raise IndexError("a page of the trace lies beyond the guest's")
            while (
                self.next_possible < len(self.possible_ns)
                and self.possible_ns[self.next_possible] <= times[step]
            ):
                self._possible_decay(self.next_possible)
                self.next_possible += 1
            zone = self.zone_of[page]
            if zone < 0 or by >= self.cpus:
                continue
            size = 1 << orders[step]
            if actions[step] == _C_TAKE:
                self.zone_free[zone] -= size
            elif actions[step] == _C_RETURN:
                self.zone_free[zone] += size
            if orders[step] > _C_COSTLY and orders[step] != _C_PAGEBLOCK:
                continue
            if actions[step] == _C_TAKE:
                self._take(page, orders[step], by, zone, kinds[step])
            elif actions[step] == _C_RETURN:
                self._return(page, size, by, zone, kinds[step])
            else:
                self._settle(by, zone)
                if actions[step] == _C_HAND_OUT:
                    self._leave(page, size, by, zone)
                    if self.refilling[by] != zone:
                        self.free_count[by, zone] >>= 1
                else:
                    self._give_back(page, orders[step], by, zone, kinds[step])
                self.refilling[by] = -1

    @cython.cfunc
    @cython.exceptval(check=False)
    def _clamp(self, cpu: cython.int, zone: cython.int, pages: cython.longlong) -> cython.longlong:
        pages = max(pages, self.bounds[cpu, zone, 1])
        return min(pages, self.bounds[cpu, zone, 2])

    @cython.cfunc
    @cython.exceptval(check=False)
    def _leave(
        self, page: cython.longlong, size: cython.longlong, cpu: cython.int, zone: cython.int
    ) -> cython.int:
        """A page leaves the list that it is on, which may be another CPU's."""
        owner: cython.int = self.owner[page]
        if owner == -1:
            owner = cpu
        self.owner[page] = -1
        if owner >= 0:
            self.count[owner, zone] -= size
        return 0

    @cython.cfunc
    @cython.exceptval(check=False)
    def _take(
        self,
        page: cython.longlong,
        order: cython.int,
        cpu: cython.int,
        zone: cython.int,
        about: cython.int,
    ) -> cython.int:
        """rmqueue_bulk(), after nr_pcp_alloc() at the first page; or a target of compaction."""
        batch: cython.longlong = self.bounds[cpu, zone, 0]
        wanted: cython.longlong
        size: cython.longlong = 1 << order
        self._settle(cpu, zone)
        if about & _C_IN_BACKGROUND and about & _C_DERIVED:
            # Compaction's targets are on no list: they are handed out from nowhere.
            self.owner[page] = -2
            return 0
        if self.zone_free[zone] + size <= self.zone_high[zone]:
            self.below[zone] = True
        if self.refilling[cpu] != zone and not about & _C_DERIVED:
            self._heed(cpu, zone)
            self.high[cpu, zone] = self._clamp(cpu, zone, self.high[cpu, zone])
            wanted = batch if order else batch << self.factor[cpu, zone]
            if not self.below[zone]:
                self.high[cpu, zone] = min(self.high[cpu, zone] + wanted, self.bounds[cpu, zone, 2])
            if order == 0 and self.factor[cpu, zone] < _C_SCALE:
                if wanted <= max(self.high[cpu, zone] - self.count[cpu, zone] - batch, batch):
                    self.factor[cpu, zone] += 1
            self.free_count[cpu, zone] >>= 1
        self.refilling[cpu] = zone
        self.owner[page] = cpu
        self.count[cpu, zone] += size
        return 0

    @cython.cfunc
    @cython.exceptval(check=False)
    def _give_back(
        self,
        page: cython.longlong,
        order: cython.int,
        cpu: cython.int,
        zone: cython.int,
        about: cython.int,
    ) -> cython.int:
        """free_unref_page_commit(), up to where it decides whether to drain."""
        batch: cython.longlong = self.bounds[cpu, zone, 0]
        self.owner[page] = cpu
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
        self.pending_order[cpu, zone] = -1 if about & _C_IN_BACKGROUND else order
        self.drained[cpu, zone] = 0
        return 0

    @cython.cfunc
    @cython.exceptval(check=False)
    def _return(
        self,
        page: cython.longlong,
        size: cython.longlong,
        cpu: cython.int,
        zone: cython.int,
        about: cython.int,
    ) -> cython.int:
        """A drained page: what set it off was the free before it, vmstat, or kcompactd."""
        if about & _C_BY_DECAY and self.owner[page] in (-1, cpu):
            if self.expected[cpu, zone] == 0:
                self._settle(cpu, zone)
                self._heed(cpu, zone)
                self.expected[cpu, zone] = self._decayed(cpu, zone)
            self._leave(page, size, cpu, zone)
            self.high[cpu, zone] = max(self.count[cpu, zone], self.bounds[cpu, zone, 1])
        else:
            if not about & _C_IN_BACKGROUND:
                self.drained[cpu, zone] += size
            self._leave(page, size, cpu, zone)
        self.refilling[cpu] = -1
        return 0

    @cython.cfunc
    @cython.exceptval(check=False)
    def _settle(self, cpu: cython.int, zone: cython.int) -> cython.int:
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
        self.pending[cpu, zone] = 0
        high = self._clamp(cpu, zone, self.high[cpu, zone])
        if self.flush[cpu, zone]:
            high = max(high - (batch << _C_SCALE), self.bounds[cpu, zone, 1])
        elif self.below[zone]:
            high -= max(self.free_count[cpu, zone], batch)
            high = max(high, self.bounds[cpu, zone, 1])
            if drained and self.zone_free[zone] > self.zone_high[zone]:
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
        self.high[cpu, zone] = high
        return 0

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
    def _heed(self, cpu: cython.int, zone: cython.int) -> cython.int:
        """pcp->high is about to change: it was no less than what the list has held since."""
        if self.reached[cpu, zone] > self.high[cpu, zone] + 1:
            self.high[cpu, zone] = self._correct(
                cpu, zone, self.high[cpu, zone], self.reached[cpu, zone]
            )
        self.reached[cpu, zone] = 0
        return 0

    @cython.cfunc
    @cython.exceptval(check=False)
    def _possible_decay(self, number: cython.Py_ssize_t) -> cython.int:
        """decay_pcp_high() here would have drained something, or it may have been."""
        cpu: cython.int = self.possible_cpu[number]
        zone: cython.int
        if cpu >= self.cpus:
            return 0
        for zone in range(self.zones):
            self._settle(cpu, zone)
            self._heed(cpu, zone)
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
        self._settle(cpu, zone)
        self._heed(cpu, zone)
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
