"""Races of zone-confined-batching: captured in a ring per CPU, isolated later by its worker.

Source: reference strategies, zone-confined-batching.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

from hintbench.core.holds import RefusalMeter
from hintbench.testing.races.race import Race

if TYPE_CHECKING:
    from hintbench.core.zone import Zone
    from hintbench.host.reports import Report


class BatchingRace(Race):
    """What these detectors share: the rings, looked at without the rules of per-CPU state."""

    strategies = ("zone-confined-batching",)

    def __init__(self, run: Any) -> None:
        super().__init__(run)
        self.unit_pages = 1 << self.strategy.parameters.min_order

    @cached_property
    def rings(self) -> Sequence[list[int]]:
        """The ring of each CPU, first pages of units: always the same lists."""
        rings: Sequence[list[int]] = self.strategy.rings.peek()
        return rings

    def units(self, pfn: int, order: int) -> range:
        """The units of a block."""
        return range(pfn, pfn + (1 << order), self.unit_pages)


class InTwoRings(BatchingRace):
    """See `text`."""

    name = "one-block-in-two-rings"
    text = "a block is captured that another CPU's ring holds already"
    hooks = ("block_freed",)

    def hook_called(self, name: str, arguments: tuple[Any, ...]) -> None:
        """A capture."""
        cpu, pfn, order = arguments[1], arguments[3], arguments[4]
        others = [ring for number, ring in enumerate(self.rings) if ring and number != cpu]
        if others and any(unit in ring for ring in others for unit in self.units(pfn, order)):
            self.happened(pfn, 1 << order)


class SplitBeforeCollected(BatchingRace):
    """See `text`."""

    name = "split-before-collected"
    text = "a captured block has been split when it is collected; a part of it is isolated"
    hooks = ("block_freed",)

    def __init__(self, run: Any) -> None:
        super().__init__(run)
        self.captured: dict[int, tuple[int, int]] = {}

    def hook_called(self, name: str, arguments: tuple[Any, ...]) -> None:
        """A capture."""
        block = arguments[3], arguments[4]
        self.captured.update(dict.fromkeys(self.units(*block), block))

    def isolated(self, zone: Zone, pfn: int, order: int) -> None:
        """Is it what was captured?"""
        for unit in self.units(pfn, order):
            was = self.captured.pop(unit, None)
            if was is not None and self.differs(was, (pfn, order)):
                self.happened(pfn, 1 << order)

    def differs(self, was: tuple[int, int], now: tuple[int, int]) -> bool:
        """Whether this is the race."""
        return was[1] > now[1]


class UnderAnotherHead(SplitBeforeCollected):
    """See `text`."""

    name = "under-another-head"
    text = "a captured block has merged under another head when it is collected"

    def differs(self, was: tuple[int, int], now: tuple[int, int]) -> bool:
        """Whether this is the race."""
        return was[1] < now[1] and was[0] != now[0]


class IsolatedByAnother(BatchingRace):
    """See `text`."""

    name = "isolated-by-another-task"
    text = "a block that waits in one CPU's ring is isolated by the worker of another, or a rescan"

    def isolated(self, zone: Zone, pfn: int, order: int) -> None:
        """By whom?"""
        task = self.current
        if task is None:
            return
        for cpu, ring in enumerate(self.rings):
            # Most rings are empty by now.
            another = bool(ring) and task.name != f"hint/{cpu}"
            if another and any(unit in ring for unit in self.units(pfn, order)):
                self.happened(pfn, 1 << order)


class BuddyFreedInFlight(BatchingRace):
    """See `text`."""

    name = "put-back-merges"
    text = "a buddy was freed while the batch was in flight: put back, the block merges with it"

    def put_back(self, zone: Zone, pfn: int, order: int) -> None:
        """How large is it now?"""
        if self.order_at(pfn) > order:
            self.happened(pfn, 1 << order)


class RefusedMidBatch(BatchingRace):
    """See `text`."""

    name = "refusal-in-mid-batch"
    text = "the watermark refuses a block after others of the batch have been isolated"

    def __init__(self, run: Any) -> None:
        super().__init__(run)
        for zone in run.guest.zones:
            zone.lock.meter = RefusalMeter(zone, self.happened, zone.lock.meter)


class AppendsDuringTheSwap(BatchingRace):
    """See `text`."""

    name = "interrupt-appends-at-swap"
    text = "an interrupt appends to a ring whose worker is in the middle of emptying it"
    hooks = ("block_freed",)

    def hook_called(self, name: str, arguments: tuple[Any, ...]) -> None:
        """A capture."""
        if not self.in_interrupt:
            return
        cpu = arguments[1]
        for task in self.run.scheduler.contexts:
            if task.name == f"hint/{cpu}" and task.parked in ("", "ready", "lock"):
                self.happened(arguments[3], 1 << arguments[4])


class SameZoneNumber(BatchingRace):
    """See `text`."""

    name = "two-zones-of-one-number"
    text = "a ring holds blocks of two nodes' zones that share a zone number"
    hooks = ("block_freed",)

    def hook_called(self, name: str, arguments: tuple[Any, ...]) -> None:
        """A capture."""
        zone = arguments[2]
        for pfn in self.rings[arguments[1]]:
            other = self.run.guest.zone_of(pfn)
            if other is not zone and other.number == zone.number:
                self.happened(arguments[3], 1 << arguments[4])


class AnsweredAfterTheStop(BatchingRace):
    """See `text`."""

    name = "late-ack-after-stop"
    text = "the host acknowledges after the guest was told to stop"

    def answered(self, report: Report) -> None:
        """When?"""
        if self.run.stopping_ns is not None:
            self.happened(report.blocks[0].pfn, report.blocks[0].pages)


class PressureInFlight(BatchingRace):
    """See `text`."""

    name = "pressure-while-in-flight"
    text = "an allocation runs out of memory in a zone of which blocks are in flight"
    hooks = ("memory_low",)

    def hook_called(self, name: str, arguments: tuple[Any, ...]) -> None:
        """Direct reclaim."""
        if arguments[1].isolated_pages:
            self.happened()


class ThresholdNotReached(BatchingRace):
    """See `text`."""

    name = "threshold-not-reached"
    text = "a worker empties a ring that never reached its threshold: the timer did it"
    costly = True

    def __init__(self, run: Any) -> None:
        super().__init__(run)
        self.short: set[int] = set()

    def per_cpu_touched(self, cpu: int) -> None:
        """A worker looks at its ring."""
        if self.current is not None and self.current.kind == "task":
            if 0 < len(self.rings[cpu]) < self.strategy.parameters.threshold:
                self.short.add(cpu)
            else:
                self.short.discard(cpu)

    def isolated(self, zone: Zone, pfn: int, order: int) -> None:
        """It has emptied it, and goes on."""
        for cpu in self.short:
            mine = self.current is not None and self.current.name == f"hint/{cpu}"
            if mine and not self.rings[cpu]:
                self.happened(pfn, 1 << order)


RACES: Final = (
    InTwoRings,
    SplitBeforeCollected,
    UnderAnotherHead,
    IsolatedByAnother,
    BuddyFreedInFlight,
    RefusedMidBatch,
    AppendsDuringTheSwap,
    SameZoneNumber,
    AnsweredAfterTheStop,
    PressureInFlight,
    ThresholdNotReached,
)
