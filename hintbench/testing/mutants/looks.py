"""Wrong about looks: without the lock, too many under one hold, or one for every take of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hintbench.strategies.page_reporting import PageReporting
from hintbench.testing.mutants.bases import BATCH, MIN_ORDER, UNIT_PAGES, Isolating, Mutant

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from hintbench import Block, Zone

MIGRATE_TYPES = 3


class NominatesWithoutTheLock(Mutant, Isolating):
    """Looks along the free lists for candidates, and takes the lock to isolate them."""

    name = "nominates-without-the-lock"
    breaks = ("locked-lists",)

    async def tell(self, zone: Zone) -> bool:
        """Wrong: the next entry of a block that has left the list is one of another list."""
        for block in zone.free_blocks(MIN_ORDER, without=self.told, limit=BATCH):
            self.pending.set(block.pfn, block.order)
        return await super().tell(zone)


class WalksListByList(Mutant, Isolating):
    """Looks along each free list under the lock, to know how much is free."""

    name = "walks-list-by-list"
    breaks = ("bounded-hold",)

    async def give_back(self, zone: Zone, blocks: Iterable[Block], ok: bool) -> None:
        """Wrong: nr_free would have said it."""
        async with zone.lock:
            self.free = sum(
                len(zone.free_list(order, migratetype)) << order
                for order in range(MIN_ORDER + 1)
                for migratetype in range(MIGRATE_TYPES)
            )
            for block in blocks:
                self.put_back(zone, block, ok)
        self.done[zone].set()


class AsksEveryHead(Mutant, Isolating):
    """Looks at the first page of every unit of the zone for one that is free."""

    name = "asks-every-head"
    breaks = ("bounded-hold",)

    def find(self, zone: Zone, pfn: int) -> Block | None:
        """Wrong: a look that costs nothing by itself, as often as the zone is large."""
        first = zone.start_pfn & -UNIT_PAGES
        free = [at for at in range(first, zone.end_pfn, UNIT_PAGES) if zone.free_order(at) >= 0]
        return super().find(zone, pfn) if free else None


class LooksAtOtherZones(Mutant, Isolating):
    """Looks whether other zones have blocks to tell of, under the lock of its own."""

    name = "looks-at-other-zones"
    breaks = ("bounded-hold",)

    async def give_back(self, zone: Zone, blocks: Iterable[Block], ok: bool) -> None:
        """Wrong: its own zone waits meanwhile."""
        async with zone.lock:
            for other in self.guest.zones:
                first = other.start_pfn & -UNIT_PAGES
                for pfn in range(first, other.end_pfn, UNIT_PAGES) if other is not zone else ():
                    if (block := other.free_block_of(pfn)) is not None and block.order >= MIN_ORDER:
                        self.wake[other].set()
            for block in blocks:
                self.put_back(zone, block, ok)
        self.done[zone].set()


class LocksForEveryEntry(Mutant, PageReporting):  # type: ignore[misc]
    """Takes the lock for each block of a list, and claims to take it once a list."""

    name = "locks-for-every-entry"
    breaks = ("lock-takes",)
    # As page reporting itself.
    may_break = ("liveness", "no-false-oom")
    declared_failures: Mapping[str, str] = {}

    async def _cycle(self, zone: Zone, order: int, migratetype: int, sgl: list[Block]) -> bool:
        """Wrong: two blocks of one list are no two lists."""
        acknowledged = True
        while acknowledged:
            async with zone.lock:
                found = zone.free_list(order, migratetype, without=self.reported, limit=1)
                refused = self._isolate(zone, found, sgl) is not None
            if refused or not found:
                break
            if len(sgl) == self.parameters.capacity:
                acknowledged = await self._report(sgl)
                async with zone.lock:
                    self._drain(zone, sgl, acknowledged)
        return acknowledged


MUTANTS: tuple[type[Mutant], ...] = (
    NominatesWithoutTheLock,
    WalksListByList,
    AsksEveryHead,
    LooksAtOtherZones,
    LocksForEveryEntry,
)
