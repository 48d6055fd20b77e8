"""Races of strategies that mark blocks where they lie, and let whoever takes one spin.

Source: reference strategies, bitmap-and-spin.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Final

from hintbench.core.constants import (
    EVENT_ALLOCATED,
    EVENT_FREED,
    EVENT_RETURNED,
    EVENT_TAKEN,
    MAX_PAGE_ORDER,
)
from hintbench.testing.races.race import Race, ReportsRace

if TYPE_CHECKING:
    from hintbench.core.flags import UnitFlags
    from hintbench.host.reports import Report


class MarkingRace(Race):
    """What these detectors share: the mark, and the pages that left a marked unit's block."""

    strategies: ClassVar[tuple[str, ...]] = ("bitmap-and-spin",)

    def __init__(self, run: Any) -> None:
        super().__init__(run)
        self.taken: dict[int, tuple[int, int]] = {}

    @cached_property
    def mid(self) -> UnitFlags:
        """The flag that says that a unit is in flight: once the guest has started, the same."""
        flags: UnitFlags = self.strategy.mid
        return flags

    def marked(self, pfn: int, order: int) -> int:
        """How many units of a block are in flight."""
        pages = 1 << self.mid.order
        return sum(
            self.mid.test(unit) for unit in range(pfn & -pages, max(pfn + (1 << order), 1), pages)
        )

    def follow_marks(self) -> None:
        """Hear of pages that are taken from under a mark only: mostly nothing is in flight."""
        if self.follower.flags is None:
            self.follower.follow(self.mid, 0)

    def note_taken(self, cpu: int, pfn: int, order: int) -> None:
        """Keep `taken`: order-0 pages out of marked units, with who took them, after what."""
        if not order and self.mid.test(pfn):
            self.taken[pfn] = cpu, self.run.auditor.allocations


class StraightTaker(MarkingRace):
    """See `text`."""

    name = "order-0-taker-straight"
    text = "a page that an allocation takes out of a marked block is handed out while it is marked"
    hooks = ("page_allocated",)

    kinds = (EVENT_TAKEN,)
    costly = True

    def page_event(self, cpu: int, kind: int, pfn: int, order: int) -> None:
        """Who took what."""
        self.follow_marks()
        self.note_taken(cpu, pfn, order)

    def hook_called(self, name: str, arguments: tuple[Any, ...]) -> None:
        """A taker finds the mark; nobody has been handed anything since the page was taken."""
        if not arguments[3]:
            cpu, pfn = arguments[1:3]
            if self.taken.pop(pfn, None) == (cpu, self.run.auditor.allocations):
                self.happened(pfn, 1)


class TakerThroughThePcp(StraightTaker):
    """See `text`."""

    name = "order-0-taker-through-pcp"
    text = "a page refilled from a marked block is taken off the per-CPU list later, still marked"

    def hook_called(self, name: str, arguments: tuple[Any, ...]) -> None:
        """A taker finds the mark; its CPU has been on to other things since the refill."""
        if not arguments[3]:
            cpu, pfn = arguments[1:3]
            taken = self.taken.pop(pfn, None)
            if taken is not None and taken[0] == cpu and taken[1] != self.run.auditor.allocations:
                self.happened(pfn, 1)


class DrainedBack(MarkingRace):
    """See `text`."""

    name = "refilled-drained-merged"
    text = "a page refilled from a marked block and never taken is drained back, and merges"
    least_order = 1
    kinds = (EVENT_ALLOCATED, EVENT_TAKEN, EVENT_RETURNED)
    costly = True

    def __init__(self, run: Any) -> None:
        super().__init__(run)
        self.returned = -1

    def page_event(self, cpu: int, kind: int, pfn: int, order: int) -> None:
        """The merge is over when the next event comes."""
        self.follow_marks()
        if self.returned >= 0:
            back, self.returned = self.returned, -1
            if self.mid.test(back) and self.order_at(back) >= self.least_order:
                self.happened(back, 1)
        if kind == EVENT_TAKEN:
            self.note_taken(cpu, pfn, order)
        elif self.taken.pop(pfn, None) is not None and kind == EVENT_RETURNED:
            self.returned = pfn
        self.follower.armed = bool(self.taken) or self.returned >= 0


class SplitAndMerged(DrainedBack):
    """See `text`."""

    name = "split-and-merged-while-mid"
    text = "a marked unit is split down to order 0, and whole again before the host has answered"
    least_order = 9


class HalfMarked(MarkingRace):
    """See `text`."""

    name = "half-mid-next-batch"
    text = "a buddy is freed, so that a free block is half in flight; the next batch marks the rest"
    hooks = ("block_freed",)

    kinds = (EVENT_TAKEN,)
    costly = True

    def __init__(self, run: Any) -> None:
        super().__init__(run)
        self.half: set[int] = set()
        self.follower.armed = False

    def hook_called(self, name: str, arguments: tuple[Any, ...]) -> None:
        """A free block has grown around a marked unit."""
        pfn, order = arguments[3:5]
        units = range(pfn, pfn + (1 << order), 1 << self.mid.order)
        if 0 < self.marked(pfn, order) < len(units):
            self.half |= {unit for unit in units if not self.mid.test(unit)}
            self.follower.armed = True

    def page_event(self, cpu: int, kind: int, pfn: int, order: int) -> None:
        """What is taken is not free any more."""
        self.half -= set(_units(self.mid, pfn, order))
        self.follower.armed = bool(self.half)

    def flag_set(self, flags: UnitFlags, pfn: int, order: int) -> None:
        """Another batch."""
        if flags is self.mid and pfn in self.half:
            self.happened(pfn, 1 << flags.order)


class LargeTaker(MarkingRace):
    """See `text`."""

    name = "order-10-taker-of-half-mid"
    text = "an order-10 block is allocated of which one half is in flight"
    hooks = ("page_allocated",)

    def hook_called(self, name: str, arguments: tuple[Any, ...]) -> None:
        """A taker finds the mark."""
        if arguments[3] > self.mid.order:
            pfn, order = arguments[2:4]
            if self.marked(pfn, order) < 1 << (order - self.mid.order):
                self.happened(pfn, 1 << order)


class AnsweredMeanwhile(MarkingRace):
    """See `text`."""

    name = "ack-between-test-and-clear"
    text = "the acknowledgement sets told after a taker tested the mark, before it clears told"
    hooks = ("page_allocated",)

    kinds = (EVENT_ALLOCATED,)
    costly = True

    def __init__(self, run: Any) -> None:
        super().__init__(run)
        self.testing: dict[int, int] = {}
        self.told: set[int] = set()
        self.follower.armed = False

    def hook_called(self, name: str, arguments: tuple[Any, ...]) -> None:
        """A taker has tested the mark and found it."""
        for unit in _units(self.mid, arguments[2], arguments[3]):
            self.testing[unit] = arguments[2]
        self.follower.armed = True

    def flag_set(self, flags: UnitFlags, pfn: int, order: int) -> None:
        """The acknowledgement."""
        if flags is self.strategy.told and pfn in self.testing:
            self.told.add(self.testing[pfn])

    def page_event(self, cpu: int, kind: int, pfn: int, order: int) -> None:
        """The taker goes on: told has been cleared."""
        for unit in _units(self.mid, pfn, order):
            self.testing.pop(unit, None)
        self.follower.armed = bool(self.testing)
        if pfn in self.told:
            self.told.discard(pfn)
            self.happened(pfn, 1 << order)


class FailureAndReuse(MarkingRace):
    """See `text`."""

    name = "failure-free-reallocation"
    text = "the host refuses a batch; a page of it is freed, and allocated again"

    kinds = (EVENT_FREED, EVENT_ALLOCATED)
    costly = True

    def __init__(self, run: Any) -> None:
        super().__init__(run)
        self.failed: set[int] = set()
        self.freed: set[int] = set()
        self.follower.armed = False

    def answered(self, report: Report) -> None:
        """Refused?"""
        if not report.ok:
            self.follower.armed = True
            for block in report.blocks:
                self.failed |= set(_units(self.mid, block.pfn, block.order))

    def page_event(self, cpu: int, kind: int, pfn: int, order: int) -> None:
        """What becomes of its pages."""
        if kind == EVENT_ALLOCATED:
            if pfn in self.freed:
                self.happened(pfn, 1 << order)
        elif not self.failed.isdisjoint(_units(self.mid, pfn, order)):
            self.freed.add(pfn)


class EverybodySpins(MarkingRace):
    """See `text`."""

    name = "everybody-spins"
    text = "every vCPU spins with interrupts off while the host works"

    def discarded(self, pfn: int, pages: int) -> None:
        """The host is at work."""
        spinners = [cpu.interrupt for cpu in self.run.scheduler.processors.cpus]
        if all(each is not None and each.parked == "spin" for each in spinners):
            self.happened(pfn, pages)


class InterruptSpinsOnTheWorker(ReportsRace, MarkingRace):
    """See `text`."""

    name = "interrupt-spins-on-worker-cpu"
    text = "an interrupt spins on the vCPU of the worker whose report it waits for"
    hooks = ("page_allocated",)

    def hook_called(self, name: str, arguments: tuple[Any, ...]) -> None:
        """A taker finds the mark."""
        if not self.in_interrupt:
            return
        for unit in _units(self.mid, arguments[2], arguments[3]):
            for report in self.open:
                if report.cpu == arguments[1] and any(
                    block.pfn <= unit < block.end_pfn for block in report.blocks
                ):
                    self.happened(arguments[2], 1 << arguments[3])


class StoppedInFlight(ReportsRace):
    """See `text`."""

    name = "stop-with-report-in-flight"
    text = "the guest stops while the host has a report"
    strategies = ("bitmap-and-spin", "zone-confined-batching")

    def at_stopping(self) -> None:
        """Is there one?"""
        if self.open:
            self.happened(self.open[0].blocks[0].pfn, self.open[0].blocks[0].pages)


class LookedBeforeTheLock(MarkingRace):
    """See `text`."""

    name = "candidate-taken-before-lock"
    text = "a candidate that the worker has looked at is taken before the worker gets the lock"
    kinds = (EVENT_TAKEN,)
    costly = True

    def page_event(self, cpu: int, kind: int, pfn: int, order: int) -> None:
        """Somebody takes it while the worker queues for the lock."""
        pending = self.strategy.pending
        if self.follower.flags is None:
            self.follower.follow(pending, MAX_PAGE_ORDER)
        if not pending.any(pfn, order):
            return
        lock = self.run.guest.zone_of(pfn).lock
        if any(
            each.kind == "task" and each.parked == "lock" and each.pending_lock is lock
            for each in self.run.scheduler.contexts
            if not each.kernel
        ):
            self.happened(pfn, 1 << order)


class AnswersSwapped(ReportsRace, MarkingRace):
    """See `text`."""

    name = "two-zones-acks-swapped"
    text = "of two zones' reports the one that was sent later is acknowledged first"

    def answered(self, report: Report) -> None:
        """Is it the oldest?"""
        zone = report.blocks[0].zone
        for other in self.open:
            if other is report:
                break
            if other.blocks[0].zone is not zone:
                self.happened(report.blocks[0].pfn, report.blocks[0].pages)
        super().answered(report)


def _units(flags: UnitFlags, pfn: int, order: int) -> Iterator[int]:
    pages = 1 << flags.order
    return iter(range(pfn & -pages, pfn + (1 << order), pages))


RACES: Final = (
    StraightTaker,
    TakerThroughThePcp,
    DrainedBack,
    SplitAndMerged,
    HalfMarked,
    LargeTaker,
    AnsweredMeanwhile,
    FailureAndReuse,
    EverybodySpins,
    InterruptSpinsOnTheWorker,
    StoppedInFlight,
    LookedBeforeTheLock,
    AnswersSwapped,
)
