"""Wrong about what all CPUs share, and about the locks that a strategy makes for that."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hintbench import hookimpl
from hintbench.testing.mutants.bases import DELAY_NS, Isolating, Listed, Mutant

if TYPE_CHECKING:
    from hintbench import Zone


class LosesACount(Mutant, Listed):
    """Counts off by reading, subtracting and writing: a capture in between is not counted."""

    name = "loses-a-count"
    breaks = ("liveness",)

    def count_off(self, number: int) -> int:
        """Wrong: atomic_sub_return() is needed."""
        left = self.count.read() - number
        self.count.set(left)
        return left


class IdlesUnseen(Mutant, Listed):
    """Looks whether there was another request, and then says that it is idle."""

    name = "idles-unseen"
    breaks = ("liveness",)
    rare = True

    def prepare(self) -> None:
        """Whether somebody collects, and whether there is more."""
        super().prepare()
        self.state = self.guest.atomic("idle")

    @hookimpl
    def block_freed(self, zone: Zone, pfn: int, order: int) -> None:
        """Ask for a pass, unless one is asked for; who runs one asks for it itself."""
        with self.lock:
            self.captures.append((pfn, order))
        if self.state.exchange("requested") == "idle":
            self.first.set()

    async def collect_some(self) -> bool:
        """Wrong: what is requested between the look and the write is forgotten; cmpxchg()."""
        self.state.set("active")
        await super().collect_some()
        if self.state.read() == "requested":
            return True
        self.state.set("idle")
        return False


class WithdrawsARequestLate(Mutant, Listed):
    """Takes the list first, and lets others ask again afterwards."""

    name = "withdraws-a-request-late"
    breaks = ("liveness",)
    rare = True

    def prepare(self) -> None:
        """Whether somebody has asked."""
        super().prepare()
        self.requested = self.guest.atomic(False)

    @hookimpl
    def block_freed(self, zone: Zone, pfn: int, order: int) -> None:
        """Ask, unless somebody has."""
        with self.lock:
            self.captures.append((pfn, order))
        if not self.requested.exchange(True):
            self.first.set()

    async def collect_some(self) -> bool:
        """Wrong: who adds to the list in between has asked for nothing."""
        found = await self.splice()
        self.requested.set(False)
        for pfn, order in found:
            self.pending.set(pfn, order)
            self.wake[self.guest.zone_of(pfn)].set()
        return False


class SplicesUnlocked(Mutant, Listed):
    """Takes the list without its lock, which only those who add to it take."""

    name = "splices-unlocked"
    breaks = ("locked-state",)

    async def splice(self) -> list[tuple[int, int]]:
        """Wrong: what is added between the copy and the clear is lost."""
        found = self.captures[:]
        self.captures.clear()
        return found


class LooksUnlocked(Mutant, Listed):
    """Asks how long the list is before it takes the lock."""

    name = "looks-unlocked"
    breaks = ("locked-state",)

    async def splice(self) -> list[tuple[int, int]]:
        """Wrong: a list is no word that READ_ONCE() could read; the count is."""
        return await super().splice() if len(self.captures) else []


class LocksBothWays(Mutant, Listed):
    """Checks captures against the free lists: a zone's lock inside its own, elsewhere outside."""

    name = "locks-both-ways"
    breaks = ("atomic-context",)

    async def splice(self) -> list[tuple[int, int]]:
        """Wrong: block_freed() takes its own lock inside the zone's."""
        async with self.lock:
            found = []
            for pfn, order in self.captures:
                zone = self.guest.zone_of(pfn)
                async with zone.lock:
                    free = zone.free_block_of(pfn) is not None
                if free:
                    found.append((pfn, order))
            left = len(self.captures) - len(found)
            self.captures.clear()
        self.count.add(-left)
        return found


class ListsWithInterruptsOn(Mutant, Listed):
    """Takes its lock by spin_lock() in the thread; block_freed() takes it in interrupts."""

    name = "lists-with-interrupts-on"
    breaks = ("irq-safe",)

    async def splice(self) -> list[tuple[int, int]]:
        """Wrong: an interrupt that frees on this CPU waits for this lock for ever."""
        await self.lock.acquire(interrupts_off=False)
        found = self.captures[:]
        self.captures.clear()
        self.lock.release()
        return found


class SleepsWithItsList(Mutant, Listed):
    """Keeps its lock while it waits for more."""

    name = "sleeps-with-its-list"
    breaks = ("atomic-context",)

    async def splice(self) -> list[tuple[int, int]]:
        """Wrong: nothing sleeps under a spinlock, whosever it is."""
        async with self.lock:
            await self.guest.sleep(DELAY_NS)
            found = self.captures[:]
            self.captures.clear()
        return found


class LocksItsListTwice(Mutant, Listed):
    """Looks into its list, with the lock that its caller has already."""

    name = "locks-its-list-twice"
    breaks = ("atomic-context",)

    async def splice(self) -> list[tuple[int, int]]:
        """Wrong: a spinlock is not recursive."""
        async with self.lock:
            return await super().splice()


class KeepsItsListLocked(Mutant, Listed):
    """Returns early where its list is long, and keeps the lock."""

    name = "keeps-its-list-locked"
    breaks = ("atomic-context",)

    @hookimpl
    def block_freed(self, zone: Zone, pfn: int, order: int) -> None:
        """Wrong: the early return is inside the lock."""
        self.lock.__enter__()
        if len(self.captures) >= 2:
            return
        self.captures.append((pfn, order))
        self.lock.__exit__(None, None, None)
        if self.count.add() == 1:
            self.first.set()


class KeepsAZoneLocked(Mutant, Isolating):
    """Looks at a zone when a free has completed; returns early, and keeps its lock."""

    name = "keeps-a-zone-locked"
    breaks = ("atomic-context",)
    # Its looks find nothing.
    may_break = ("lock-takes",)

    @hookimpl
    def free_completed(self) -> None:
        """Wrong: the early return is inside the lock."""
        zone = self.guest.zones[0]
        zone.lock.__enter__()
        if zone.free_pages < zone.managed_pages // 2:
            return
        zone.lock.__exit__(None, None, None)


class RestoresTooEarly(Mutant, Isolating):
    """A plain hook that calls local_irq_restore() before spin_unlock()."""

    name = "restores-too-early"
    breaks = ("irq-safe",)

    @hookimpl
    def page_allocated(self) -> None:
        """Wrong: an interrupt that frees would wait for this lock for ever."""
        lock = self.guest.zones[0].lock
        with self.guest.interrupts_off():
            lock.__enter__()
        lock.__exit__(None, None, None)


MUTANTS: tuple[type[Mutant], ...] = (
    LosesACount,
    IdlesUnseen,
    WithdrawsARequestLate,
    SplicesUnlocked,
    LooksUnlocked,
    LocksBothWays,
    ListsWithInterruptsOn,
    SleepsWithItsList,
    LocksItsListTwice,
    KeepsItsListLocked,
    KeepsAZoneLocked,
    RestoresTooEarly,
)
