"""Slips: the last unit, the last CPU, one block too many, a moment between two looks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hintbench import Block, hookimpl
from hintbench.testing.mutants.bases import (
    BATCH,
    LOOK_AT_MOST,
    MIN_ORDER,
    UNIT_PAGES,
    Isolating,
    Marking,
    Mutant,
    Posting,
    Ringed,
)

if TYPE_CHECKING:
    from hintbench import Zone


class ForgetsTheLastUnit(Mutant, Isolating):
    """Off by one at the end of the zone."""

    name = "forgets-the-last-unit"
    breaks = ("liveness",)

    def candidates(self, zone: Zone) -> list[int]:
        """Wrong: the end is the page behind the last one already."""
        return self.pending.find(zone.start_pfn, zone.end_pfn - UNIT_PAGES, limit=LOOK_AT_MOST)


class LosesTheOneTooMany(Mutant, Isolating):
    """Takes a candidate off its list, then finds the batch full."""

    name = "loses-the-one-too-many"
    breaks = ("liveness",)

    async def collect(self, zone: Zone) -> tuple[list[Block], bool]:
        """Wrong: the two tests in the other order."""
        taken: list[Block] = []
        async with zone.lock:
            if self.waiting or self.guest.now < self.low_until_ns:
                return taken, True
            for pfn in self.candidates(zone):
                self.pending.clear(pfn)
                if len(taken) == BATCH:
                    break
                block = self.find(zone, pfn)
                if block is None or self.told.any(block.pfn, block.order):
                    continue
                isolated = zone.isolate(block.pfn)
                if isolated is None:
                    self.pending.set(pfn)
                    return taken, True
                self.pending.clear(block.pfn, block.order)
                self.in_flight[zone] += 1
                taken.append(isolated)
        return taken, False


class MarksAfterAGap(Mutant, Marking):
    """Looks under the lock, drops it, and marks under it without another look."""

    name = "marks-after-a-gap"
    breaks = ("owned-while-reported",)
    # What is freed in the gap is nominated and marked once more.
    may_break = ("no-discard-in-use", "flag-truth", "liveness", "lock-takes", "once")

    async def mark(self, zone: Zone) -> list[Block]:
        """Wrong: what was free then may be in use now."""
        units: list[Block] = []
        async with zone.lock:
            for pfn in self.candidates(zone)[:BATCH]:
                self.pending.clear(pfn)
                if self.find(zone, pfn) is not None:
                    units.append(Block(pfn, MIN_ORDER, zone))
        async with zone.lock:
            for unit in units:
                self.mid.set(unit.pfn)
        return units


class SleepsUnderContention(Mutant, Marking):
    """Its hot path sleeps, but only when there is something to wait for."""

    name = "sleeps-under-contention"
    breaks = ("atomic-context",)

    @hookimpl
    async def page_allocated(self, pfn: int, order: int) -> None:
        """Wrong: the allocation may be an interrupt's."""
        while self.mid.any(pfn, order):
            await self.guest.sleep(1_000)


class ClearsTheWaitFlagTooLate(Mutant, Posting):
    """Clears what it waits for after what it waits for may have happened."""

    name = "clears-the-wait-flag-too-late"
    breaks = ("liveness",)
    may_break = ("teardown", "no-false-oom", "bounded-in-flight", "completion-once", "returned")

    async def report(self, zone: Zone, taken: list[Block]) -> bool:
        """Wrong: the last answer can come between the test and the clearing."""
        ok = await self.post_all(zone, taken)
        while self.in_flight[zone]:
            await self.guest.step()
            self.done[zone].clear()
            await self.done[zone].wait()
        return ok


class LeavesTheLastCpu(Mutant, Ringed):
    """Empties the rings of all CPUs but one."""

    name = "leaves-the-last-cpu"
    breaks = ("liveness",)
    may_break = ("no-silent-drop",)

    async def empty(self, cpu: int) -> None:
        """Wrong: off by one over the CPUs."""
        if cpu != len(self.guest.cpus) - 1:
            await super().empty(cpu)


MUTANTS = (
    ForgetsTheLastUnit,
    LosesTheOneTooMany,
    MarksAfterAGap,
    SleepsUnderContention,
    ClearsTheWaitFlagTooLate,
    LeavesTheLastCpu,
)
