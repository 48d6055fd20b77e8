"""Left behind: blocks that nobody has any more, and what is told for ever since half is noted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hintbench.testing.mutants.bases import BATCH, MIN_ORDER, Isolating, Mutant

if TYPE_CHECKING:
    from collections.abc import Iterable

    from hintbench import Block, Zone

EVERY = 5


class LeavesOneInFive(Mutant, Isolating):
    """Counts what it gives back, and loses one block whenever the count comes round."""

    name = "leaves-one-in-five"
    breaks = ("returned",)
    # Lost with the last batch before the stop.
    may_break = ("teardown",)

    async def give_back(self, zone: Zone, blocks: Iterable[Block], ok: bool) -> None:
        """Wrong: it notes that all are back, and leaves one out."""
        given = []
        for block in blocks:
            self.given_back = getattr(self, "given_back", 0) + 1
            if self.given_back % EVERY:
                given.append(block)
            else:
                self.in_flight[zone] -= 1
        await super().give_back(zone, given, ok)


class ForgetsWhatFoundNoRoom(Mutant, Isolating):
    """Takes False for the answer that somebody else has the blocks now, and goes on."""

    name = "forgets-what-found-no-room"
    breaks = ("returned",)
    # Lost by the last report before the stop.
    may_break = ("teardown",)

    async def report(self, zone: Zone, taken: list[Block]) -> bool:
        """Wrong: what was not told stays isolated, and is soon more than may be in flight."""
        ok = await self.guest.host.report(taken)
        if ok:
            await self.give_back(zone, taken, ok)
        else:
            self.in_flight[zone] -= len(taken)
            self.done[zone].set()
        return ok


class TellsForEver(Mutant, Isolating):
    """Notes the first unit of a block, looks at the last, and tells the rest for ever."""

    name = "tells-for-ever"
    breaks = ("once",)

    async def tell(self, zone: Zone) -> bool:
        """Wrong: every pass finds large blocks of which a unit is not told, without a pause."""
        taken: list[Block] = []
        async with zone.lock:
            if not self.waiting and self.guest.now >= self.low_until_ns:
                for block in zone.free_blocks(MIN_ORDER, without=self.told, limit=BATCH):
                    isolated = zone.isolate(block.pfn)
                    if isolated is not None:
                        self.in_flight[zone] += 1
                        taken.append(isolated)
        return bool(taken) and await self.report(zone, taken)

    def put_back(self, zone: Zone, block: Block, ok: bool) -> None:
        """Wrong: what is told is the whole block."""
        zone.put_back(block, tail=True)
        self.in_flight[zone] -= 1
        if ok:
            self.told.set(block.pfn)


MUTANTS: tuple[type[Mutant], ...] = (LeavesOneInFive, ForgetsWhatFoundNoRoom, TellsForEver)
