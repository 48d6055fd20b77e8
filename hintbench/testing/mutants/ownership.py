"""Wrong about whose memory it is: what is told to the host may be somebody's."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from hintbench import Block, HookFilter, hookimpl
from hintbench.testing.mutants.bases import (
    BATCH,
    LOOK_AT_MOST,
    MIN_ORDER,
    UNIT_PAGES,
    Isolating,
    Marking,
    Mutant,
    Synchronous,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hintbench import Claims, Guest, Zone


class TrustsRefCount(Mutant, Marking):
    """Takes a unit for free when its first page has no reference: so have tails, slabs, the pcp."""

    name = "trusts-ref-count"
    breaks = ("owned-while-reported",)

    def find(self, zone: Zone, pfn: int) -> Block | None:
        """Wrong: a reference count of 0 is no evidence."""
        free = self.guest.page_ref_count(pfn) == 0 and not self.guest.is_compound(pfn)
        return Block(pfn, MIN_ORDER, zone) if free else None

    def claims(self) -> Claims:
        """It looks at each candidate twice."""
        return dataclasses.replace(super().claims(), hold_visits=2 * LOOK_AT_MOST)


class TrustsEveryRefCount(Mutant, Marking):
    """Looks at all 512 reference counts and finds none: some of the pages are on per-CPU lists."""

    name = "trusts-every-ref-count"
    breaks = ("owned-while-reported",)

    def find(self, zone: Zone, pfn: int) -> Block | None:
        """Wrong: what per-CPU lists hold has no reference either."""
        if any(self.guest.page_ref_count(page) for page in range(pfn, pfn + UNIT_PAGES)):
            return None
        return None if self.guest.is_compound(pfn) else Block(pfn, MIN_ORDER, zone)

    def claims(self) -> Claims:
        """It looks at all pages of a unit, and says so."""
        looks = LOOK_AT_MOST * (UNIT_PAGES + 1)
        return dataclasses.replace(super().claims(), hold_visits=looks)


class LooksBeforeTheLock(Mutant, Marking):
    """Looks which candidates are free, then takes the lock and marks them."""

    name = "looks-before-the-lock"
    breaks = ("owned-while-reported",)
    # What was freed behind its look is no candidate any more.
    may_break = ("liveness",)

    async def mark(self, zone: Zone) -> list[Block]:
        """Wrong: somebody who had the lock in between may have taken them."""
        looked = self.candidates(zone)[:BATCH]
        found = [pfn for pfn in looked if self.find(zone, pfn) is not None]
        async with zone.lock:
            for pfn in looked:
                self.pending.clear(pfn)
            for pfn in found:
                self.mid.set(pfn)
        return [Block(pfn, MIN_ORDER, zone) for pfn in found]


class MarksWithoutTheLock(Mutant, Marking):
    """Sets its marks after it has released the lock under which it looked."""

    name = "marks-without-the-lock"
    breaks = ("owned-while-reported",)

    async def mark(self, zone: Zone) -> list[Block]:
        """Wrong: the lock orders marking and leaving the free list, or nothing does."""
        async with zone.lock:
            looked = self.candidates(zone)[:BATCH]
            found = [pfn for pfn in looked if self.find(zone, pfn) is not None]
        for pfn in looked:
            self.pending.clear(pfn)
        for pfn in found:
            self.mid.set(pfn)
        return [Block(pfn, MIN_ORDER, zone) for pfn in found]


class ReportsThenIsolates(Mutant, Isolating):
    """Tells the host first, and takes the blocks off their lists afterwards."""

    name = "reports-then-isolates"
    breaks = ("owned-while-reported",)
    may_break = ("no-discard-in-use", "lock-takes")

    async def tell(self, zone: Zone) -> bool:
        """Wrong: from the call on nothing keeps them from being allocated."""
        async with zone.lock:
            found = [self.find(zone, pfn) for pfn in self.candidates(zone)[:1]]
        blocks = [block for block in found if block is not None]
        ok = bool(blocks) and await self.guest.host.report(blocks)
        taken, refused = await self.collect(zone)
        await self.give_back(zone, taken, ok)
        return self.went_through(zone, ok and not refused) and bool(self.candidates(zone))


class ReportsStalePfns(Mutant, Marking):
    """Believes that what it captured when it was freed is free still."""

    name = "reports-stale-pfns"
    breaks = ("owned-while-reported",)

    def find(self, zone: Zone, pfn: int) -> Block | None:
        """Wrong: it may have been allocated again."""
        return Block(pfn, MIN_ORDER, zone)


class MarksOnlyTheHead(Mutant, Marking):
    """Keeps the mark on the head of the block; once the block is split the rest has none."""

    name = "marks-only-the-head"
    breaks = ("owned-while-reported",)
    may_break = ("no-discard-in-use",)

    async def mark(self, zone: Zone) -> list[Block]:
        """Wrong: a block of order 10 has two units, and its upper half may get a taker."""
        async with zone.lock:
            found = [self.find(zone, pfn) for pfn in self.candidates(zone)[:1]]
            for pfn in self.candidates(zone)[:1]:
                self.pending.clear(pfn)
            blocks = [block for block in found if block is not None]
            for block in blocks:
                self.mid.set(block.pfn)
        return blocks


class LosesMarksOnSplit(Mutant, Marking):
    """Its mark is a page flag of a free block: gone as soon as the block leaves its list."""

    name = "loses-marks-on-split"
    breaks = ("owned-while-reported",)
    may_break = ("no-discard-in-use", "flag-truth", "liveness")

    def prepare(self) -> None:
        """Wrong: who takes the block, or a part of it, finds no mark to wait for."""
        super().prepare()
        self.mid = self.guest.flags("marked", order=MIN_ORDER, meaning="in-flight", forget="taken")


class LosesMarksOnMerge(Mutant, Marking):
    """A taker looks at the first unit of what it takes; the mark may be on another."""

    name = "loses-marks-on-merge"
    breaks = ("no-discard-in-use",)
    may_break = ("flag-truth", "liveness")

    @hookimpl
    async def page_allocated(self, pfn: int) -> None:
        """Wrong: a block that was free in two halves, one of them marked, is one block now."""
        await self.mid.wait_clear(pfn, poll=self.answered)


class TakersDoNotWait(Mutant, Marking):
    """Marks as it should, and nobody waits."""

    name = "takers-do-not-wait"
    breaks = ("no-discard-in-use", "flag-truth")
    may_break = ("liveness",)

    def hook_filters(self) -> Mapping[str, HookFilter]:
        """Wrong: a page of any order may come out of a marked unit."""
        return {**super().hook_filters(), "page_allocated": HookFilter(min_order=MIN_ORDER)}


class CallsForWhatItFreed(Mutant, Synchronous):
    """Calls the host when the free is complete, not before the allocator has the block."""

    name = "calls-for-what-it-freed"
    breaks = ("owned-while-reported",)

    @hookimpl
    def guest_started(self, guest: Guest) -> None:
        """Remember what each CPU frees."""
        super().guest_started(guest)
        self.last: dict[int, tuple[int, int]] = {}

    @hookimpl
    def page_freeing(self, cpu: int, pfn: int, order: int) -> None:
        """Note it for later."""
        self.last[cpu] = pfn, order

    @hookimpl
    def free_completed(self, cpu: int) -> Any:
        """Wrong: it is on a list by now, and anybody's."""
        freed = self.last.pop(cpu, None)
        return None if freed is None or self.stopping else self.call(*freed)


class KeepsNobodyOut(Mutant, Isolating):
    """Reports the free blocks that it found under the lock, and neither isolates nor marks them."""

    name = "keeps-nobody-out"
    breaks = ("owned-while-reported",)

    async def tell(self, zone: Zone) -> bool:
        """Wrong: that they were free is no reason why they still are."""
        async with zone.lock:
            found = [self.find(zone, pfn) for pfn in self.candidates(zone)[:BATCH]]
            for pfn in self.candidates(zone)[:BATCH]:
                self.pending.clear(pfn)
        blocks = [block for block in found if block is not None]
        ok = not blocks or await self.guest.host.report(blocks)
        return self.went_through(zone, ok) and bool(self.candidates(zone))


MUTANTS = (
    TrustsRefCount,
    TrustsEveryRefCount,
    LooksBeforeTheLock,
    MarksWithoutTheLock,
    ReportsThenIsolates,
    ReportsStalePfns,
    MarksOnlyTheHead,
    LosesMarksOnSplit,
    LosesMarksOnMerge,
    TakersDoNotWait,
    CallsForWhatItFreed,
    KeepsNobodyOut,
)
