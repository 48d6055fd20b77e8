"""A base that captures what is freed in a list of its own, under a lock of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hintbench import hookimpl
from hintbench.testing.mutants.bases.isolating import Isolating
from hintbench.testing.mutants.bases.worker import DELAY_NS

if TYPE_CHECKING:
    from hintbench import Guest, Zone


class Listed(Isolating):
    """Captures blocks in one list under a lock; a count says when there is something to collect.

    The list's lock is the inner one: it is taken inside a zone's, never the other way round.
    """

    name = "base-listed"

    def prepare(self) -> None:
        """The list, its lock and its count."""
        super().prepare()
        self.lock = self.guest.spinlock("captures")
        self.captures: list[tuple[int, int]] = self.guest.guarded([], by=self.lock)
        self.count = self.guest.atomic(0)
        self.frees = self.guest.per_cpu(int)
        self.first = self.guest.event()

    @hookimpl
    def guest_started(self, guest: Guest) -> None:
        """Start who collects."""
        super().guest_started(guest)
        self.tasks.append(guest.spawn(self.collect_all(), cpu=0, name="collect"))

    @hookimpl
    def block_freed(self, zone: Zone, pfn: int, order: int) -> None:
        """Capture the block, and wake who collects if it is the first."""
        self.frees.add()
        with self.lock:
            self.captures.append((pfn, order))
        if self.count.add() == 1:
            self.first.set()

    async def collect_all(self) -> None:
        """Nominate what was captured, for as long as there is something."""
        while not self.stopping:
            await self.first.wait()
            await self.guest.sleep(DELAY_NS)
            more = True
            while more:
                more = await self.collect_some()

    async def collect_some(self) -> bool:
        """Nominate what was captured by now; whether there is more."""
        found = await self.splice()
        for pfn, order in found:
            self.pending.set(pfn, order)
            self.wake[self.guest.zone_of(pfn)].set()
        return self.count_off(len(found)) > 0

    async def splice(self) -> list[tuple[int, int]]:
        """Take all captures, and leave the list empty."""
        async with self.lock:
            found = self.captures[:]
            self.captures.clear()
        return found

    def count_off(self, number: int) -> int:
        """So many captures were collected; how many are left."""
        return self.count.add(-number)

    @hookimpl
    async def guest_stopping(self) -> None:
        """Wake who collects too."""
        self.stopping = True
        self.first.set()
        await super().guest_stopping()
