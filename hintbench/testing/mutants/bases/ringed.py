"""A base that captures what is freed in rings per CPU."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hintbench import hookimpl
from hintbench.testing.mutants.bases.isolating import Isolating
from hintbench.testing.mutants.bases.worker import DELAY_NS

if TYPE_CHECKING:
    from hintbench import Guest, PerCpu, Zone

RING_ENTRIES = 3
"""Captures that a CPU keeps."""


class Ringed(Isolating):
    """Captures blocks in a ring per CPU; whatever met a full ring a rescan finds."""

    name = "base-ringed"

    def prepare(self) -> None:
        """Rings, and on each CPU somebody who empties its own."""
        super().prepare()
        self.rings: PerCpu[list[tuple[int, int]]] = self.guest.per_cpu(list)
        self.captured = [self.guest.event() for _ in self.guest.cpus]
        self.rescan: dict[Zone, bool] = {}  # in order, as a set of zones would not be

    @hookimpl
    def guest_started(self, guest: Guest) -> None:
        """Start those who empty the rings."""
        super().guest_started(guest)
        self.tasks += [guest.spawn(self.empty(cpu), cpu=cpu, name="ring") for cpu in guest.cpus]

    @hookimpl
    def block_freed(self, zone: Zone, cpu: int, pfn: int, order: int) -> None:
        """Capture the whole block, since it may be split soon; interrupts are off."""
        if len(self.rings[cpu]) == RING_ENTRIES:
            self.overflowed(zone)
        else:
            self.rings[cpu].append((pfn, order))
        self.captured[cpu].set()

    def overflowed(self, zone: Zone) -> None:
        """A capture is lost: ask for a rescan."""
        self.guest.count_drop("ring full")
        self.rescan[zone] = True

    async def empty(self, cpu: int) -> None:
        """Nominate what this CPU has captured."""
        while not self.stopping:
            await self.captured[cpu].wait()
            await self.guest.sleep(DELAY_NS)
            for pfn, order in self.swap(cpu):
                self.pending.set(pfn, order)
                self.wake[self.guest.zone_of(pfn)].set()
            while self.rescan and not self.stopping:
                self.nominate_all(self.rescan.popitem()[0])

    def swap(self, cpu: int) -> list[tuple[int, int]]:
        """Take a ring's captures and leave it empty."""
        with self.guest.interrupts_off():
            ring = self.rings[cpu]
            captures = ring[:]
            ring.clear()
        return captures

    @hookimpl
    async def guest_stopping(self) -> None:
        """Wake those who empty the rings too."""
        self.stopping = True
        for event in self.captured:
            event.set()
        await super().guest_stopping()
