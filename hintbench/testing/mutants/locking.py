"""Wrong about locks, interrupts and who may sleep."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from hintbench import Block, Claims, hookimpl
from hintbench.testing.mutants.bases import (
    BATCH,
    Isolating,
    Marking,
    Mutant,
    Posting,
    Ringed,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from hintbench import Zone


class PutsBackUnlocked(Mutant, Posting):
    """Its interrupt adds to the free lists while others have the lock."""

    name = "puts-back-unlocked"
    breaks = ("locked-lists", "conservation")
    may_break = ("liveness", "flag-truth", "no-false-oom")

    async def give_back(self, zone: Zone, blocks: Iterable[Block], ok: bool) -> None:
        """Wrong: __free_one_page() without the zone lock, as in v9."""
        for block in blocks:
            self.put_back(zone, block, ok)
        self.done[zone].set()


class IsolatesUnlocked(Mutant, Isolating):
    """Finds its blocks under the lock and takes them off their lists without it."""

    name = "isolates-unlocked"
    breaks = ("locked-lists",)
    may_break = ("conservation",)

    async def collect(self, zone: Zone) -> tuple[list[Block], bool]:
        """Wrong: another CPU edits the list."""
        async with zone.lock:
            if self.waiting or self.guest.now < self.low_until_ns:
                return [], True
            found = [self.find(zone, pfn) for pfn in self.candidates(zone)]
        for pfn in self.candidates(zone):
            self.pending.clear(pfn)
        heads = {block.pfn for block in found if block is not None and not self.told.any(block.pfn)}
        taken = [block for pfn in sorted(heads) if (block := zone.isolate(pfn)) is not None]
        self.in_flight[zone] += len(taken)
        return taken[:BATCH], False


class LocksAnotherZone(Mutant, Isolating):
    """Takes the lock of the first zone for the blocks of all."""

    name = "locks-another-zone"
    breaks = ("locked-lists",)
    may_break = ("conservation",)

    async def give_back(self, zone: Zone, blocks: Iterable[Block], ok: bool) -> None:
        """Wrong: the lock has to be that of the block's zone."""
        async with self.guest.zones[0].lock:
            for block in blocks:
                self.put_back(zone, block, ok)
        self.done[zone].set()


class LocksWithInterruptsOn(Mutant, Isolating):
    """Takes the zone lock by spin_lock(): an interrupt that frees on this CPU spins for ever."""

    name = "locks-with-interrupts-on"
    breaks = ("irq-safe",)

    async def give_back(self, zone: Zone, blocks: Iterable[Block], ok: bool) -> None:
        """Wrong: spin_lock_irqsave() is needed."""
        await zone.lock.acquire(interrupts_off=False)
        for block in blocks:
            self.put_back(zone, block, ok)
        zone.lock.release()
        self.done[zone].set()


class ReportsUnderTheLock(Mutant, Marking):
    """Keeps the zone lock until the host has been told."""

    name = "reports-under-the-lock"
    breaks = ("atomic-context",)

    async def mark(self, zone: Zone) -> list[Block]:
        """Wrong: the call waits."""
        units: list[Block] = []
        async with zone.lock:
            for pfn in self.candidates(zone)[:BATCH]:
                self.pending.clear(pfn)
                block = self.find(zone, pfn)
                if block is not None:
                    self.mid.set(pfn)
                    units.append(Block(pfn, 9, zone))
            if units:
                await super().post(zone, units)
        return units

    async def post(self, zone: Zone, units: list[Block]) -> None:
        """Done under the lock."""


class SleepsInTheCompletion(Mutant, Posting):
    """Waits a little in its interrupt, lest it disturb."""

    name = "sleeps-in-the-completion"
    breaks = ("atomic-context",)

    async def answered(self) -> None:
        """Wrong: an interrupt cannot sleep."""
        await self.guest.sleep(10_000)
        await self.take_answers()


class AllocatesUnderTheLock(Mutant, Isolating):
    """Allocates its result array when it knows how large it has to be: under the lock."""

    name = "allocates-under-the-lock"
    breaks = ("atomic-context",)

    async def give_back(self, zone: Zone, blocks: Iterable[Block], ok: bool) -> None:
        """Wrong: GFP_KERNEL may sleep."""
        async with zone.lock:
            await self.guest.allocate_buffer(4096)
            for block in blocks:
                self.put_back(zone, block, ok)
        self.done[zone].set()


class LocksTwoZones(Mutant, Isolating):
    """Takes all zones' locks, one inside the other, to give back in one go."""

    name = "locks-two-zones"
    breaks = ("atomic-context",)

    async def give_back(self, zone: Zone, blocks: Iterable[Block], ok: bool) -> None:
        """Wrong: one zone lock at a time."""
        for other in self.guest.zones:
            await other.lock.acquire()
        for block in blocks:
            self.put_back(zone, block, ok)
        for other in self.guest.zones:
            other.lock.release()
        self.done[zone].set()


class NestsAnotherLock(Mutant, Isolating):
    """Looks into the next zone while it has this one's lock: two that do so wait for each other."""

    name = "nests-another-lock"
    breaks = ("atomic-context",)

    async def give_back(self, zone: Zone, blocks: Iterable[Block], ok: bool) -> None:
        """Wrong: all zone locks are of one class, and there is no order among them."""
        async with zone.lock:
            for block in blocks:
                self.put_back(zone, block, ok)
            for other in self.guest.zones:
                if other is not zone:
                    with other.lock:
                        other.free_order(other.start_pfn)
        self.done[zone].set()


class LetsInterruptsInTooEarly(Mutant, Isolating):
    """Calls local_irq_restore() before spin_unlock()."""

    name = "lets-interrupts-in-too-early"
    breaks = ("irq-safe",)

    async def give_back(self, zone: Zone, blocks: Iterable[Block], ok: bool) -> None:
        """Wrong: an interrupt that frees would wait for this lock for ever."""
        with self.guest.interrupts_off():
            await zone.lock.acquire(interrupts_off=False)
        for block in blocks:
            self.put_back(zone, block, ok)
        zone.lock.release()
        self.done[zone].set()


class KeepsWhatItAllocates(Mutant, Isolating):
    """Takes a page for the record of each batch, and never frees one."""

    name = "keeps-what-it-allocates"
    breaks = ("teardown",)
    # What it keeps is in its hands.
    may_break = ("bounded-in-flight",)

    async def give_back(self, zone: Zone, blocks: Iterable[Block], ok: bool) -> None:
        """Wrong: the records outlive what they are of."""
        async with zone.lock:
            zone.allocate(0)
        await super().give_back(zone, blocks, ok)


class LocksForEveryBlock(Mutant, Isolating):
    """Takes and releases the lock for each block that it gives back."""

    name = "locks-for-every-block"
    breaks = ("lock-takes",)

    async def give_back(self, zone: Zone, blocks: Iterable[Block], ok: bool) -> None:
        """Wrong: it claims one take for the whole batch."""
        for block in blocks:
            await super().give_back(zone, [block], ok)


class WalksAllLists(Mutant, Isolating):
    """Walks over all free lists under the lock to find a few large blocks."""

    name = "walks-all-lists"
    breaks = ("bounded-hold",)

    def find(self, zone: Zone, pfn: int) -> Block | None:
        """Wrong: with the memory in fragments the lists are as long as you like."""
        for block in zone.free_blocks(0):
            if block.order >= 9 and block.pfn <= pfn < block.end_pfn:
                return block
        return None


class TakesFromTwoZones(Mutant, Isolating):
    """Fills up its batch with blocks of the next zone."""

    name = "takes-from-two-zones"
    breaks = ("one-zone",)

    async def report(self, zone: Zone, taken: list[Block]) -> bool:
        """Wrong: it claims that a batch is of one zone."""
        for other in self.guest.zones:
            if other is not zone:
                more, _ = await self.collect(other)
                taken += more
        ok = await self.guest.host.report(taken)
        for each in self.guest.zones:
            mine = [block for block in taken if block.zone is each]
            if mine:
                await self.give_back(each, mine, ok)
        return ok

    def claims(self) -> Claims:
        """Its other figures are not the point."""
        return dataclasses.replace(super().claims(), lock_takes=None, in_flight_pages=None)


class EmptiesOtherCpusRings(Mutant, Ringed):
    """One thread empties the rings of all CPUs."""

    name = "empties-other-cpus-rings"
    breaks = ("per-cpu",)

    def swap(self, cpu: int) -> list[tuple[int, int]]:
        """Wrong: their CPUs may be appending."""
        return [each for other in self.guest.cpus for each in Ringed.swap(self, other)]


class WritesAnotherCpusRing(Mutant, Ringed):
    """Captures in the ring of the CPU that the block's zone is nearest to."""

    name = "writes-another-cpus-ring"
    breaks = ("per-cpu",)

    @hookimpl
    def block_freed(self, zone: Zone, cpu: int, pfn: int, order: int) -> None:
        """Wrong: only its own CPU may touch it."""
        super().block_freed(zone, (cpu + 1) % len(self.guest.cpus), pfn, order)


class EmptiesWithInterruptsOn(Mutant, Ringed):
    """Swaps the ring of its own CPU with interrupts on: one that frees appends meanwhile."""

    name = "empties-with-interrupts-on"
    breaks = ("per-cpu",)

    def swap(self, cpu: int) -> list[tuple[int, int]]:
        """Wrong: being on the right CPU is not enough."""
        captures = list(self.rings[cpu])
        self.rings[cpu].clear()
        return captures


class KeepsItsRing(Mutant, Ringed):
    """Fetches its CPU's ring once, with interrupts off, and uses it ever after."""

    name = "keeps-its-ring"
    breaks = ("per-cpu",)

    def prepare(self) -> None:
        """No ring has been fetched."""
        super().prepare()
        self.kept: dict[int, list[tuple[int, int]]] = {}

    def swap(self, cpu: int) -> list[tuple[int, int]]:
        """Wrong: that it was fetched rightly does not make every later use right."""
        if cpu not in self.kept:
            with self.guest.interrupts_off():
                self.kept[cpu] = self.rings[cpu]
        captures = list(self.kept[cpu])
        self.kept[cpu].clear()
        return captures


class FreesWhatItFound(Mutant, Isolating):
    """Frees what it reported as if it had allocated it: the zone has it twice."""

    name = "frees-what-it-found"
    breaks = ("returned",)
    may_break = ("conservation", "teardown")

    def put_back(self, zone: Zone, block: Block, ok: bool) -> None:
        """Wrong: an isolated block comes back by put_back() alone."""
        zone.free(block.pfn, block.order)
        self.in_flight[zone] -= 1

    def claims(self) -> Claims:
        """It hears of what it frees, like of any other free, and what it isolated adds up."""
        return dataclasses.replace(super().claims(), once=False, in_flight_pages=None)


MUTANTS = (
    PutsBackUnlocked,
    NestsAnotherLock,
    LetsInterruptsInTooEarly,
    KeepsWhatItAllocates,
    IsolatesUnlocked,
    LocksAnotherZone,
    LocksWithInterruptsOn,
    ReportsUnderTheLock,
    SleepsInTheCompletion,
    AllocatesUnderTheLock,
    LocksTwoZones,
    LocksForEveryBlock,
    WalksAllLists,
    TakesFromTwoZones,
    EmptiesOtherCpusRings,
    WritesAnotherCpusRing,
    EmptiesWithInterruptsOn,
    KeepsItsRing,
    FreesWhatItFound,
)
