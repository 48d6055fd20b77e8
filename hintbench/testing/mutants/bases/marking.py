"""A base that marks what it tells of, and lets takers spin."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hintbench import Block, HookFilter, hookimpl
from hintbench.testing.mutants.bases.worker import BATCH, MIN_ORDER, POLL_NS, UNIT_PAGES, Worker

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from hintbench import Freed, Zone


class Marking(Worker):
    """Marks units where they lie; whoever takes one spins until the host has answered."""

    name = "base-marking"

    def prepare(self) -> None:
        """The marks."""
        self.mid = self.guest.flags("mid-hint", order=MIN_ORDER, meaning="in-flight")
        self.told = self.guest.flags("told", order=MIN_ORDER, meaning="told", forget="allocated")
        self.in_flight: set[Zone] = set()

    def hook_filters(self) -> Mapping[str, HookFilter]:
        """Allocations are tested natively."""
        return {**super().hook_filters(), "page_allocated": HookFilter(flags=self.mid)}

    @hookimpl
    def block_freed(self, zone: Zone, freed: Freed) -> None:
        """Nominate the units of what was freed; the others of the merged block keep their bits."""
        for pfn in range(freed.pfn, freed.pfn + (1 << freed.order), UNIT_PAGES):
            if not self.mid.test(pfn) and not self.told.test(pfn):
                self.pending.set(pfn)
        self.wake[zone].set()

    @hookimpl
    async def page_allocated(self, pfn: int, order: int) -> None:
        """Spin; the spinner looks for answers itself."""
        await self.mid.wait_clear(pfn, order, poll=self.answered)

    async def tell(self, zone: Zone) -> bool:
        """Mark and post with interrupts off, then sleep until somebody has seen the answer."""
        self.done[zone].clear()
        with self.guest.interrupts_off():
            units = await self.mark(zone)
            if units:
                await self.post(zone, units)
        while zone in self.in_flight:
            if not await self.done[zone].wait(timeout_ns=POLL_NS):
                self.answered()
        return not self.refused[zone] and bool(self.candidates(zone))

    async def mark(self, zone: Zone) -> list[Block]:
        """The only take of the lock."""
        units: list[Block] = []
        async with zone.lock:
            for pfn in self.candidates(zone):
                if len(units) == BATCH:
                    break
                self.pending.clear(pfn)
                if self.find(zone, pfn) is not None:
                    self.mid.set(pfn)
                    units.append(Block(pfn, MIN_ORDER, zone))
        return units

    async def post(self, zone: Zone, units: list[Block]) -> None:
        """Post a batch."""
        self.in_flight.add(zone)
        if not await self.guest.host.post(units, self.answered):
            self.settle(units, False)

    def answered(self) -> None:
        """Take the answers: interrupt, spinner or worker, whoever is first."""
        with self.guest.interrupts_off():
            while (completion := self.guest.host.poll()) is not None:
                self.settle(completion.blocks, completion.ok)

    def settle(self, units: Iterable[Block], ok: bool) -> None:
        """End a batch: told before not mid, since a spinner clears told as soon as it may."""
        for unit in units:
            if ok:
                self.told.set(unit.pfn)
            self.mid.clear(unit.pfn)
            if not ok:
                self.pending.set(unit.pfn)
        self.in_flight.discard(unit.zone)
        self.went_through(unit.zone, ok)
        self.done[unit.zone].set()
