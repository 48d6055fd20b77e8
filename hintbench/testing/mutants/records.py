"""Wrong about what they noted down: of a block as it was, of an answer, of an instance before."""

from __future__ import annotations

import dataclasses
from collections import deque
from typing import TYPE_CHECKING, ClassVar

from hintbench import Block, HookFilter, Reason, hookimpl
from hintbench.testing.mutants.bases import (
    BATCH,
    DELAY_NS,
    LOOK_AT_MOST,
    MIN_ORDER,
    UNIT_PAGES,
    Isolating,
    Mutant,
    Posting,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hintbench import Claims, Zone


CAPTURES = 12
"""Captures of a zone that are kept."""


class Remembering(Isolating):
    """Right so far: notes the order of each block as it was freed."""

    name = "base-remembering"

    def prepare(self) -> None:
        """Nothing has been freed."""
        super().prepare()
        self.orders: dict[int, int] = {}

    @hookimpl
    def block_freed(self, zone: Zone, pfn: int, order: int) -> None:
        """Note it by its head."""
        self.orders[pfn] = order
        super().block_freed(zone, pfn, order)

    def noted(self, block: Block) -> Block:
        """The block with the order that it was freed with."""
        return Block(block.pfn, self.orders.get(block.pfn, block.order), block.zone)


class ReportsWhatItCaptured(Mutant, Isolating):
    """Isolates what is free at a captured head, and reports as much as was captured there."""

    name = "reports-what-it-captured"
    breaks = ("owned-while-reported",)
    may_break = ("liveness", "once", "flag-truth", "no-discard-in-use")

    def prepare(self) -> None:
        """Nothing is captured."""
        super().prepare()
        self.captured: dict[Zone, list[tuple[int, int]]] = {zone: [] for zone in self.guest.zones}
        self.orders: dict[int, int] = {}

    @hookimpl
    def block_freed(self, zone: Zone, pfn: int, order: int) -> None:
        """Capture the merged block, as long as there is room."""
        if len(self.captured[zone]) < CAPTURES:
            self.captured[zone].append((pfn, order))
        super().block_freed(zone, pfn, order)

    async def collect(self, zone: Zone) -> tuple[list[Block], bool]:
        """What was captured goes first."""
        taken: list[Block] = []
        captured = self.captured[zone]
        async with zone.lock:
            if self.waiting or self.guest.now < self.low_until_ns:
                return taken, True
            while captured and len(taken) < BATCH:
                pfn, order = captured.pop(0)
                if zone.free_order(pfn) < MIN_ORDER or self.told.any(pfn, order):
                    continue
                isolated = zone.isolate(pfn)
                if isolated is None:
                    captured.insert(0, (pfn, order))
                    return taken, True
                self.pending.clear(pfn, order)
                self.orders[pfn] = order
                self.in_flight[zone] += 1
                taken.append(isolated)
        return (taken, False) if taken else await super().collect(zone)

    async def report(self, zone: Zone, taken: list[Block]) -> bool:
        """Wrong: it may have been taken, and freed in smaller pieces, since it was captured."""
        as_captured = [
            Block(block.pfn, self.orders.pop(block.pfn, block.order), zone) for block in taken
        ]
        ok = await self.guest.host.report(as_captured)
        await self.give_back(zone, taken, ok)
        return ok

    def claims(self) -> Claims:
        """Stale captures are looked at as well."""
        return dataclasses.replace(super().claims(), hold_visits=LOOK_AT_MOST + CAPTURES)


class PutsBackTheOrderOfOld(Mutant, Remembering):
    """Puts back as much as was freed there."""

    name = "puts-back-the-order-of-old"
    breaks = ("returned",)

    def put_back(self, zone: Zone, block: Block, ok: bool) -> None:
        """Wrong: it may have merged before it was isolated."""
        super().put_back(zone, self.noted(block), ok)


class WantsTheOrderOfOld(Mutant, Remembering):
    """Takes a block only as it was freed."""

    name = "wants-the-order-of-old"
    breaks = ("liveness",)

    def find(self, zone: Zone, pfn: int) -> Block | None:
        """Wrong: a part that is left of it, or what it has become part of, is free as well."""
        block = super().find(zone, pfn)
        return block if block and self.noted(block).order == block.order else None


class KnowsBlocksByHead(Mutant, Isolating):
    """Notes by its head what it told of, and strikes out what is allocated."""

    name = "knows-blocks-by-head"
    breaks = ("liveness",)

    def prepare(self) -> None:
        """Nothing is told."""
        super().prepare()
        self.known: dict[int, int] = {}

    def hook_filters(self) -> Mapping[str, HookFilter]:
        """Large blocks only."""
        return {**super().hook_filters(), "block_taken": HookFilter(min_order=MIN_ORDER)}

    @hookimpl
    def block_taken(self, pfn: int, reason: Reason) -> None:
        """Wrong: one that is split is allocated in part, and comes together again."""
        if reason == Reason.ALLOCATION:
            self.known.pop(pfn, None)

    def find(self, zone: Zone, pfn: int) -> Block | None:
        """What is known needs not be told."""
        block = super().find(zone, pfn)
        return None if block is None or self.known.get(block.pfn) == block.order else block

    def put_back(self, zone: Zone, block: Block, ok: bool) -> None:
        """Enter what was told."""
        order = zone.put_back(block)
        self.in_flight[zone] -= 1
        if not ok:
            self.pending.set(block.pfn, block.order)
        elif order == block.order:
            self.known[block.pfn] = order


class SkipsWhatWasRefused(Mutant, Isolating):
    """Notes what the host did not take, and never asks it again."""

    name = "skips-what-was-refused"
    breaks = ("liveness",)

    def prepare(self) -> None:
        """Nothing has been refused."""
        super().prepare()
        self.skipped: set[int] = set()

    async def report(self, zone: Zone, taken: list[Block]) -> bool:
        """Wrong: the queue was full, which says nothing of the block."""
        ok = await super().report(zone, taken)
        if not ok:
            self.skipped.update(block.pfn for block in taken)
        return ok

    def find(self, zone: Zone, pfn: int) -> Block | None:
        """Pass over those."""
        block = super().find(zone, pfn)
        return None if block is None or block.pfn in self.skipped else block


class LooksBeforeItIsolates(Mutant, Isolating):
    """Takes a snapshot of the free list, and isolates by its pfns under the next take."""

    name = "isolates-from-a-snapshot"
    rare = True
    breaks = ("returned",)
    may_break = ("liveness", "bounded-in-flight", "no-discard-in-use", "owned-while-reported")

    def claims(self) -> Claims:
        """How long a free list is depends on others."""
        return dataclasses.replace(super().claims(), hold_visits=None)

    async def collect(self, zone: Zone) -> tuple[list[Block], bool]:
        """Wrong: what has merged meanwhile is isolated whole, and taken for what it was."""
        taken: list[Block] = []
        async with zone.lock:
            found = zone.free_blocks(MIN_ORDER, without=self.told, limit=BATCH)
        for pfn in self.candidates(zone):
            self.pending.clear(pfn)
        async with zone.lock:
            if self.waiting or self.guest.now < self.low_until_ns:
                self.nominate_all(zone)
                return taken, True
            for block in found:
                if zone.isolate(block.pfn) is None:
                    self.pending.set(block.pfn)
                    return taken, True
                self.in_flight[zone] += 1
                taken.append(block)
        return taken, False


class TakesAnswersInOrder(Mutant, Posting):
    """Keeps a queue of what it posted: the first answer is that to the first of them."""

    name = "takes-answers-in-order"
    breaks = ("ack-before-return",)
    may_break = ("returned", "liveness", "flag-truth", "once", "teardown")

    def prepare(self) -> None:
        """Nothing is posted."""
        super().prepare()
        self.posted: deque[Block] = deque()

    async def post(self, block: Block) -> bool:
        """Enter it before the answer can come."""
        self.posted.append(block)
        if await super().post(block):
            return True
        self.posted.remove(block)
        return False

    async def take_answers(self) -> None:
        """Wrong: a device answers in any order."""
        while (completion := self.guest.host.poll()) is not None:
            block = self.posted.popleft()
            await self.give_back(block.zone, [block], completion.ok)


class ReturnsAfterTheFirstHalf(Mutant, Isolating):
    """Tells of a large block in two reports, and waits for the second alone."""

    name = "waits-for-the-last-report"
    breaks = ("ack-before-return",)
    may_break = ("flag-truth", "liveness", "once", "lock-takes")

    async def report(self, zone: Zone, taken: list[Block]) -> bool:
        """Wrong: the first may be answered later."""
        ok = True
        for block in taken:
            if block.order > MIN_ORDER:
                upper = Block(block.pfn + UNIT_PAGES, MIN_ORDER, zone)
                ok = await self.guest.host.post([upper], self.answered) and ok
            lower = Block(block.pfn, MIN_ORDER, zone)
            ok = await self.guest.host.report([lower]) and ok
        await self.give_back(zone, taken, ok)
        return ok

    def answered(self) -> None:
        """They are fetched, and not looked at."""
        while self.guest.host.poll() is not None:
            pass


class SendsAgain(Mutant, Isolating):
    """Posts a batch again that has not been answered in time."""

    name = "sends-again-what-is-late"
    breaks = ("owned-while-reported",)
    # The answer may come just before it sends again.
    may_break = ("ack-before-return", "teardown", "once")

    async def report(self, zone: Zone, taken: list[Block]) -> bool:
        """Wrong: the host has it twice, and works on the second when the first is back."""
        self.ok = await self.guest.host.post(taken, self.answered)
        while self.ok and not await self.done[zone].wait(timeout_ns=DELAY_NS):
            self.ok = await self.guest.host.post(taken, self.answered)
        await self.give_back(zone, taken, self.ok)
        return self.ok

    def answered(self) -> None:
        """Whichever answer it is."""
        while (completion := self.guest.host.poll()) is not None:
            self.ok = completion.ok
            self.done[completion.blocks[0].zone].set()


class ForgetsAllButTheFirstAnswer(Mutant, Isolating):
    """Tells of a batch in two reports, and keeps one result."""

    name = "one-yes-is-enough"
    breaks = ("flag-truth",)

    async def report(self, zone: Zone, taken: list[Block]) -> bool:
        """Wrong: `or` where it should be `and`."""
        first = await self.guest.host.report(taken[:1])
        ok = not taken[1:] or await self.guest.host.report(taken[1:])
        await self.give_back(zone, taken, first or ok)
        return first or ok


class SharesItsTable(Mutant, Isolating):
    """Keeps a table in its class, where it is that of every instance."""

    name = "shares-its-table"
    breaks = ("deterministic",)
    seen: ClassVar[set[tuple[int, int]]] = set()

    async def report(self, zone: Zone, taken: list[Block]) -> bool:
        """Wrong: what an earlier run has entered is there still."""
        key = taken[0].pfn, self.guest.now
        if key not in self.seen:
            self.guest.spend(100)
        self.seen.add(key)
        return await super().report(zone, taken)


MUTANTS = (
    ReportsWhatItCaptured,
    PutsBackTheOrderOfOld,
    WantsTheOrderOfOld,
    KnowsBlocksByHead,
    SkipsWhatWasRefused,
    LooksBeforeItIsolates,
    TakesAnswersInOrder,
    ReturnsAfterTheFirstHalf,
    SendsAgain,
    ForgetsAllButTheFirstAnswer,
    SharesItsTable,
)
