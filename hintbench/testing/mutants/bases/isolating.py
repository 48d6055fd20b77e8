"""Bases that isolate what they tell of: a sleeping one, and one that posts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hintbench import hookimpl
from hintbench.testing.mutants.bases.worker import (
    BATCH,
    DELAY_NS,
    MIN_ORDER,
    MOST_DOUBLINGS,
    POLL_NS,
    Worker,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from hintbench import Block, Zone


class Isolating(Worker):
    """Isolates a batch, sleeps until the host has answered, puts it back."""

    name = "base-isolating"

    def prepare(self) -> None:
        """Nothing is in flight, and nobody waits for it."""
        self.told = self.guest.flags("told", order=MIN_ORDER, meaning="told", forget="taken")
        self.in_flight = dict.fromkeys(self.guest.zones, 0)  # blocks
        self.waiting, self.low_until_ns = 0, 0

    async def tell(self, zone: Zone) -> bool:
        """Isolate, report, put back."""
        self.done[zone].clear()
        taken, refused = await self.collect(zone)
        if taken:
            ok = await self.report(zone, taken)
            return self.went_through(zone, ok and not refused)
        return self.went_through(zone, not refused) and bool(self.candidates(zone))

    async def collect(self, zone: Zone) -> tuple[list[Block], bool]:
        """The first take of the lock: isolate candidates; also whether that was refused."""
        taken: list[Block] = []
        async with zone.lock:
            if self.waiting or self.guest.now < self.low_until_ns:
                return taken, True
            for pfn in self.candidates(zone):
                if len(taken) == BATCH:
                    break
                self.pending.clear(pfn)
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

    async def report(self, zone: Zone, taken: list[Block]) -> bool:
        """Tell the host, sleep until it has answered, and give everything back."""
        ok = await self.guest.host.report(taken)
        await self.give_back(zone, taken, ok)
        return ok

    async def give_back(self, zone: Zone, blocks: Iterable[Block], ok: bool) -> None:
        """The second take of the lock."""
        async with zone.lock:
            for block in blocks:
                self.put_back(zone, block, ok)
        self.done[zone].set()

    def put_back(self, zone: Zone, block: Block, ok: bool) -> None:
        """Give one block back; what the host did not take is a candidate again."""
        order = zone.put_back(block, tail=True, notify=False)
        self.in_flight[zone] -= 1
        if not ok:
            self.pending.set(block.pfn, block.order)
        elif order == block.order:  # else it merged with what has not been told
            self.told.set(block.pfn, block.order)

    @hookimpl
    async def memory_low(self, zone: Zone) -> None:
        """Let the allocation have what is in flight, and take nothing for a while."""
        self.waiting += 1
        while self.in_flight[zone]:
            await self.done[zone].wait()
        self.waiting -= 1
        self.low_until_ns = self.guest.now + DELAY_NS


class Posting(Isolating):
    """Posts every block of the batch by itself and puts it back from the interrupt."""

    name = "base-posting"

    async def report(self, zone: Zone, taken: list[Block]) -> bool:
        """Post each block; sleep until the last is back."""
        ok = await self.post_all(zone, taken)
        looks = 0
        while self.in_flight[zone]:
            if not await self.done[zone].wait(timeout_ns=POLL_NS << min(looks, MOST_DOUBLINGS)):
                looks += 1
                await self.take_answers()
        return ok

    async def post_all(self, zone: Zone, taken: list[Block]) -> bool:
        """Post each block; what finds no room goes back at once."""
        ok = True
        for block in taken:
            if not await self.post(block):
                ok = False
                await self.give_back(zone, [block], False)
        return ok

    async def post(self, block: Block) -> bool:
        """Post one block."""
        return await self.guest.host.post([block], self.answered)

    async def answered(self) -> None:
        """The interrupt."""
        await self.take_answers()

    async def take_answers(self) -> None:
        """Take all that the host has answered: the interrupt, or the worker that tired of it."""
        while (completion := self.guest.host.poll()) is not None:
            await self.give_back(completion.blocks[0].zone, completion.blocks, completion.ok)
