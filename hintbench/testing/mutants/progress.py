"""Wrong about what gets told in the end, and about who waits for whom."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from hintbench import Block, Claims, hookimpl
from hintbench.testing.mutants.bases import (
    BATCH,
    DELAY_NS,
    MIN_ORDER,
    POLL_NS,
    Isolating,
    Marking,
    Mutant,
    Ringed,
)

if TYPE_CHECKING:
    from hintbench import Zone

THRESHOLD = 4
"""Captures that some wait for."""


class KeepsAResidue(Mutant, Isolating):
    """Acts when there are enough candidates; a residue below the threshold is never told."""

    name = "keeps-a-residue"
    breaks = ("liveness",)

    def candidates(self, zone: Zone) -> list[int]:
        """Wrong: no timer ever sees to the rest."""
        found = super().candidates(zone)
        return found if len(found) >= THRESHOLD else []


class TellsOnlyTheMinimum(Mutant, Isolating):
    """Looks for blocks of the minimum order; what has merged to a larger one is passed over."""

    name = "tells-only-the-minimum"
    breaks = ("liveness",)

    def find(self, zone: Zone, pfn: int) -> Block | None:
        """Wrong: `==` where it should be `>=`."""
        block = zone.free_block_of(pfn)
        return block if block and block.order == MIN_ORDER else None


class LooksOnlyAtHeads(Mutant, Isolating):
    """Looks whether a captured pfn heads a free block; it may have merged under another head."""

    name = "looks-only-at-heads"
    breaks = ("liveness",)

    def find(self, zone: Zone, pfn: int) -> Block | None:
        """Wrong: the enclosing block begins somewhere else."""
        order = zone.free_order(pfn)
        return Block(pfn, order, zone) if order >= MIN_ORDER else None


class CapturesHeads(Mutant, Isolating):
    """Captures the head of what was freed; if that is split the rest of it is forgotten."""

    name = "captures-heads"
    breaks = ("liveness",)
    delay_ns = 10 * DELAY_NS

    @hookimpl
    def block_freed(self, zone: Zone, pfn: int) -> None:
        """Wrong: a block of order 10 has another unit that may stay free."""
        self.pending.set(pfn)
        self.wake[zone].set()


class ForgetsToWakeUp(Mutant, Isolating):
    """Clears its wake-up call when a pass is over, not before it begins."""

    name = "forgets-to-wake-up"
    breaks = ("liveness",)

    async def work(self, zone: Zone) -> None:
        """Wrong: whatever was freed during the pass, or could not be told, waits for ever."""
        while not self.stopping:
            await self.wake[zone].wait()
            if not self.stopping:
                await self.stop.wait(timeout_ns=DELAY_NS)
            while await self.more(zone):
                pass
            self.wake[zone].clear()


class NeverForgetsTold(Mutant, Isolating):
    """Remembers for ever that it told of a unit, also when somebody has used it since."""

    name = "never-forgets-told"
    breaks = ("liveness", "flag-truth")

    def prepare(self) -> None:
        """Wrong: the host backs it again as soon as it is touched."""
        super().prepare()
        self.told = self.guest.flags("remembered", order=MIN_ORDER, meaning="told")


class DropsForGood(Mutant, Ringed):
    """Drops and counts what meets a full ring, and asks for no rescan."""

    name = "drops-for-good"
    breaks = ("no-silent-drop",)

    def overflowed(self, zone: Zone) -> None:
        """Wrong: no later pass finds it."""
        self.guest.count_drop("ring full")


class DropsSilently(Mutant, Ringed):
    """Drops what meets a full ring without a word."""

    name = "drops-silently"
    breaks = ("liveness",)

    def overflowed(self, zone: Zone) -> None:
        """Wrong: nobody will ever know."""


class LetsAllocationsFail(Mutant, Isolating):
    """Takes large batches and has no ear for allocations that are about to fail."""

    name = "lets-allocations-fail"
    breaks = ("no-false-oom",)

    async def collect(self, zone: Zone) -> tuple[list[Block], bool]:
        """Isolate all that the watermark allows."""
        taken: list[Block] = []
        refused = False
        async with zone.lock:
            for pfn in self.pending.find(zone.start_pfn, zone.end_pfn):
                self.pending.clear(pfn)
                block = self.find(zone, pfn)
                if block is not None and not self.told.any(block.pfn, block.order):
                    isolated = zone.isolate(block.pfn)
                    if isolated is None:
                        self.pending.set(pfn)
                        refused = True
                        break
                    self.in_flight[zone] += 1
                    taken.append(isolated)
        return taken, refused

    @hookimpl
    async def memory_low(self, zone: Zone) -> None:
        """Wrong: what would serve the allocation is in its hands."""

    def claims(self) -> Claims:
        """It says nothing of bounds."""
        return dataclasses.replace(super().claims(), in_flight_pages=None, hold_visits=None)


class TakesPastTheWatermark(Mutant, Isolating):
    """Takes all there is as if there were no watermark."""

    name = "takes-past-the-watermark"
    breaks = ("bounded-in-flight",)
    may_break = ("no-false-oom",)

    async def collect(self, zone: Zone) -> tuple[list[Block], bool]:
        """Wrong: __isolate_free_page() refuses for good reason."""
        taken: list[Block] = []
        async with zone.lock:
            least, zone.watermark_min = zone.watermark_min, 0
            for pfn in self.pending.find(zone.start_pfn, zone.end_pfn):
                block = self.find(zone, pfn)
                stale = block is None or self.told.any(block.pfn)
                isolated = None if block is None or stale else zone.isolate(block.pfn)
                if stale or isolated is not None:
                    self.pending.clear(pfn)
                if isolated is not None:
                    self.in_flight[zone] += 1
                    taken.append(isolated)
            zone.watermark_min = least
        return taken, not taken

    def claims(self) -> Claims:
        """It claims to take less than everything."""
        return dataclasses.replace(super().claims(), in_flight_pages=1 << 20, hold_visits=None)


class TakesTooMuch(Mutant, Isolating):
    """Takes whatever it finds in one look, more than it said it would."""

    name = "takes-too-much"
    breaks = ("bounded-in-flight",)

    async def report(self, zone: Zone, taken: list[Block]) -> bool:
        """Wrong: another batch before the first has come back."""
        more, _ = await self.collect(zone)
        third, _ = await self.collect(zone)
        return await super().report(zone, taken + more + third)

    def claims(self) -> Claims:
        """Its lock takes are not the point."""
        return dataclasses.replace(super().claims(), lock_takes=None)


class MarksTooMuch(Mutant, Marking):
    """Marks every candidate that it looks at, more than it said it would."""

    name = "marks-too-much"
    breaks = ("bounded-in-flight",)

    async def mark(self, zone: Zone) -> list[Block]:
        """Wrong: the batch is no bound here."""
        units: list[Block] = []
        async with zone.lock:
            for pfn in self.candidates(zone):
                self.pending.clear(pfn)
                if self.find(zone, pfn) is not None:
                    self.mid.set(pfn)
                    units.append(Block(pfn, MIN_ORDER, zone))
        return units

    def claims(self) -> Claims:
        """The base allows for blocks of order 10; it marks units."""
        return dataclasses.replace(super().claims(), in_flight_pages=BATCH << MIN_ORDER)


class ClearsFromAThread(Mutant, Marking):
    """A thread waits for the answer and clears the marks; takers spin on the thread's own CPU."""

    name = "clears-from-a-thread"
    breaks = ("progress-under-spin",)

    async def post(self, zone: Zone, units: list[Block]) -> None:
        """Wrong: a spinning vCPU runs no threads."""

    async def tell(self, zone: Zone) -> bool:
        """Mark, sleep until the host has answered, clear."""
        units = await self.mark(zone)
        if units:
            self.settle(units, await self.guest.host.report(units))
        return not self.refused[zone] and bool(self.candidates(zone))


class SpinnersDoNotPoll(Mutant, Marking):
    """Takers rely on the interrupt; one that spins in an interrupt itself keeps it out."""

    name = "spinners-do-not-poll"
    breaks = ("progress-under-spin",)
    may_break = ("completion-once",)

    @hookimpl
    async def page_allocated(self, pfn: int, order: int) -> None:
        """Wrong: with interrupts off on the CPU of the worker nobody else can take the answer."""
        await self.mid.wait_clear(pfn, order)


class MarksWithInterruptsOn(Mutant, Marking):
    """Marks and posts with interrupts on."""

    name = "marks-with-interrupts-on"
    breaks = ("progress-under-spin",)

    async def tell(self, zone: Zone) -> bool:
        """Wrong: an interrupt that takes the unit spins for the post that it has interrupted."""
        self.done[zone].clear()
        units = await self.mark(zone)
        if units:
            await self.post(zone, units)
        while zone in self.in_flight:
            if not await self.done[zone].wait(timeout_ns=POLL_NS):
                self.answered()
        return not self.refused[zone] and bool(self.candidates(zone))


class SpinsOnItsOwnMark(Mutant, Marking):
    """Makes sure that a unit is not mid-hint before it goes on, after it has marked it."""

    name = "spins-on-its-own-mark"
    breaks = ("progress-under-spin",)

    async def post(self, zone: Zone, units: list[Block]) -> None:
        """Wrong: the mark it spins for is its own, and not even posted."""
        for unit in units:
            await self.mid.wait_clear(unit.pfn)
        await super().post(zone, units)


MUTANTS = (
    KeepsAResidue,
    TellsOnlyTheMinimum,
    LooksOnlyAtHeads,
    CapturesHeads,
    ForgetsToWakeUp,
    NeverForgetsTold,
    DropsForGood,
    DropsSilently,
    LetsAllocationsFail,
    TakesPastTheWatermark,
    TakesTooMuch,
    MarksTooMuch,
    ClearsFromAThread,
    SpinnersDoNotPoll,
    MarksWithInterruptsOn,
    SpinsOnItsOwnMark,
)
