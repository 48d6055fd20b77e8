"""Wrong ways to batch: rings, rescans, what is in flight, passes over lists, calls in a merge."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hintbench import Block, Claims, HookFilter, Reason, hookimpl
from hintbench.strategies.page_reporting import PageReporting, State
from hintbench.strategies.shared_state import SharedState
from hintbench.strategies.zone_confined_batching import ZoneConfinedBatching
from hintbench.testing.mutants.bases import (
    BATCH,
    DELAY_NS,
    MIN_ORDER,
    UNIT_PAGES,
    Isolating,
    Mutant,
    Posting,
    Ringed,
    Synchronous,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from hintbench import Guest, Zone


class CopiesThenClears(Mutant, Ringed):
    """Copies its ring in one section with interrupts off, and clears it in another."""

    name = "copies-then-clears"
    breaks = ("liveness",)
    may_break = ("no-silent-drop",)

    def swap(self, cpu: int) -> list[tuple[int, int]]:
        """Wrong: what an interrupt has captured in between is cleared unread."""
        with self.guest.interrupts_off():
            captures = self.rings[cpu][:]
        with self.guest.interrupts_off():
            self.rings[cpu].clear()
        return captures


class OverwritesTheOldest(Mutant, Ringed):
    """Lets a capture that meets a full ring take the place of the oldest."""

    name = "overwrites-the-oldest"
    breaks = ("liveness",)

    @hookimpl
    def block_freed(self, zone: Zone, cpu: int, pfn: int, order: int) -> None:
        """Wrong: the oldest is lost, and nobody knows."""
        if len(self.rings[cpu]) == 3:
            self.rings[cpu].pop(0)
        super().block_freed(zone, cpu, pfn, order)


class EmptiesRingsAtTheStop(Mutant, Ringed):
    """Empties all rings when it is stopped."""

    name = "empties-rings-at-the-stop"
    breaks = ("per-cpu",)

    @hookimpl
    async def guest_stopping(self) -> None:
        """Wrong: it runs on CPU 0."""
        await super().guest_stopping()
        for cpu in self.guest.cpus:
            self.swap(cpu)


class RescansUpToARefusal(Mutant, ZoneConfinedBatching):  # type: ignore[misc]
    """Ends its rescan where the watermark or the host refuses a batch."""

    name = "rescans-up-to-a-refusal"
    breaks = ("liveness",)
    may_break = ("no-silent-drop",)

    async def _tell_all(self, zone: Zone, pfns: Iterable[int]) -> list[int]:
        """Wrong: nobody asks for what is behind it."""
        await super()._tell_all(zone, pfns)
        return []


class ToldAsPages(Mutant, ZoneConfinedBatching):  # type: ignore[misc]
    """Remembers what it told by unit until it is used, and passes over a block with such units."""

    name = "told-as-pages"
    breaks = ("liveness",)
    may_break = ("no-silent-drop",)

    @hookimpl
    def guest_started(self, guest: Guest) -> None:
        """Wrong: `any` was right for a flag that goes with the block."""
        super().guest_started(guest)
        self.told = guest.flags("known", order=MIN_ORDER, meaning="told", forget="allocated")


class WaitsForEver(Mutant, ZoneConfinedBatching):  # type: ignore[misc]
    """Counts the allocations that wait, and returns early from where it counts."""

    name = "counts-a-waiter-for-ever"
    breaks = ("liveness",)
    may_break = ("no-silent-drop",)

    @hookimpl
    async def memory_low(self, zone: Zone) -> None:
        """Wrong: one that had nothing to wait for is waiting for ever."""
        self.waiting += 1
        if zone not in self.in_flight:
            return
        await self.returned[zone].wait()
        self.waiting -= 1


class GivesBackUnderPressure(Mutant, Isolating):
    """Gives what is in flight back to an allocation that is about to fail."""

    name = "gives-back-under-pressure"
    breaks = ("ack-before-return",)
    may_break = ("owned-while-reported", "once", "lock-takes")

    def prepare(self) -> None:
        """Nothing is out."""
        super().prepare()
        self.out: dict[Zone, list[Block]] = {zone: [] for zone in self.guest.zones}

    async def report(self, zone: Zone, taken: list[Block]) -> bool:
        """Right so far: what was given back meanwhile does not come back twice."""
        self.out[zone] = taken
        ok = await self.guest.host.report(taken)
        blocks, self.out[zone] = self.out[zone], []
        await self.give_back(zone, blocks, ok)
        return ok

    @hookimpl
    async def memory_low(self, zone: Zone) -> None:
        """Wrong: the host still has them."""
        blocks, self.out[zone] = self.out[zone], []
        if blocks:
            await self.give_back(zone, blocks, False)
        self.low_until_ns = self.guest.now + DELAY_NS


class CountsTooLate(Mutant, Isolating):
    """Counts what is in flight when the host has answered."""

    name = "counts-in-flight-too-late"
    breaks = ("no-false-oom",)

    async def report(self, zone: Zone, taken: list[Block]) -> bool:
        """Wrong: an allocation that fails meanwhile finds nothing to wait for."""
        self.in_flight[zone] -= len(taken)
        ok = await self.guest.host.report(taken)
        self.in_flight[zone] += len(taken)
        await self.give_back(zone, taken, ok)
        return ok


class WaitsForItsWaiters(Mutant, Isolating):
    """Keeps its blocks while an allocation waits, which is what that waits for."""

    name = "waits-for-its-waiters"
    breaks = ("no-false-oom",)
    may_break = ("returned",)

    async def give_back(self, zone: Zone, blocks: Iterable[Block], ok: bool) -> None:
        """Wrong: "do not get in the way"."""
        while self.waiting:
            await self.guest.sleep(DELAY_NS)
        await super().give_back(zone, blocks, ok)


class WaitsWithTheLock(Mutant, Isolating):
    """Holds the zone lock while an allocation waits, so that nothing new is taken."""

    name = "waits-with-the-lock"
    breaks = ("atomic-context",)

    @hookimpl
    async def memory_low(self, zone: Zone) -> None:
        """Wrong: it sleeps with the lock that the worker needs."""
        async with zone.lock:
            while self.in_flight[zone]:
                await self.done[zone].wait()


class BacksOffForEver(Mutant, Isolating):
    """Doubles its delay with each failure, and has no longest one."""

    name = "backs-off-for-ever"
    breaks = ("liveness",)

    def went_through(self, zone: Zone, ok: bool) -> bool:
        """Wrong: after three failures it waits for ten seconds."""
        self.refused[zone] = 0 if ok else self.refused[zone] + 5
        return ok


class HasTokens(Mutant, Isolating):
    """Tells as many blocks as were freed, and six to begin with."""

    name = "has-tokens"
    breaks = ("liveness",)

    def prepare(self) -> None:
        """The bucket is full."""
        super().prepare()
        self.tokens = 6

    @hookimpl
    def block_freed(self, zone: Zone, pfn: int, order: int) -> None:
        """A free is worth a token."""
        self.tokens = min(6, self.tokens + 1)
        super().block_freed(zone, pfn, order)

    def candidates(self, zone: Zone) -> list[int]:
        """Wrong: nothing but a free ever fills the bucket."""
        return super().candidates(zone) if self.tokens > 0 else []

    async def report(self, zone: Zone, taken: list[Block]) -> bool:
        """Each block costs one."""
        self.tokens -= len(taken)
        return await super().report(zone, taken)


class ABottomHalfEach(Mutant, Posting):
    """Spawns a bottom half for each interrupt, and goes on; the stop waits for the worker."""

    name = "a-bottom-half-each"
    breaks = ("teardown",)
    may_break = ("returned",)

    def answered(self) -> None:
        """Wrong: nobody keeps what would have to be waited for."""
        self.guest.spawn(self.take_answers(), cpu=self.guest.cpu, name="bottom half")

    async def report(self, zone: Zone, taken: list[Block]) -> bool:
        """Do not wait for the answers."""
        return await self.post_all(zone, taken)

    @hookimpl
    async def memory_low(self, zone: Zone) -> None:
        """Wait for them."""
        while self.in_flight[zone]:
            await self.done[zone].wait()

    def claims(self) -> Claims:
        """Batch follows upon batch."""
        return Claims(min_order=MIN_ORDER, one_zone=True)


class FlagsBeforeTheAnswer(Mutant, PageReporting):  # type: ignore[misc]
    """Sets Reported when it reports, and does not look at the answer."""

    name = "flags-before-the-answer"
    breaks = ("flag-truth",)
    may_break = ("liveness", "no-false-oom")
    declared_failures: Mapping[str, str] = {}

    async def _report(self, sgl: list[Block]) -> bool:
        """Wrong: the host backs it still."""
        for block in sgl:
            self.reported.set(block.pfn, block.order)
        return bool(await super()._report(sgl))


class FlagsOutliveASplit(Mutant, PageReporting):  # type: ignore[misc]
    """Clears Reported when a block is allocated or merges; its split forgets to."""

    name = "flags-outlive-a-split"
    breaks = ("flag-truth",)
    may_break = ("liveness", "no-false-oom")
    declared_failures: Mapping[str, str] = {}

    @hookimpl
    def guest_started(self, guest: Guest) -> None:
        """A flag that the guest does not clear by itself."""
        super().guest_started(guest)
        self.reported = guest.flags("flag", order=MIN_ORDER, meaning="told")

    @hookimpl
    def block_taken(self, pfn: int, order: int, reason: Reason) -> None:
        """Wrong: the lower half of a block that is split is in use."""
        if reason in (Reason.ALLOCATION, Reason.MERGE):
            self.reported.clear(pfn, order)


class RotatesToWhatIsGone(Mutant, PageReporting):  # type: ignore[misc]
    """Remembers where its search is to go on while it reports without the lock."""

    name = "rotates-to-what-is-gone"
    breaks = ("locked-lists",)
    may_break = ("liveness", "no-false-oom", "lock-takes")
    declared_failures: Mapping[str, str] = {}

    async def _cycle(self, zone: Zone, order: int, migratetype: int, sgl: list[Block]) -> bool:
        """Wrong: by then that block may be on another list, or on none."""
        async with zone.lock:
            found = zone.free_list(order, migratetype, without=self.reported, limit=BATCH + 1)
            self._isolate(zone, found[: BATCH - len(sgl)], sgl)
        if len(sgl) < BATCH:
            return True
        ok = bool(await self._report(sgl))
        async with zone.lock:
            self._drain(zone, sgl, ok)
            if ok and len(found) > BATCH:
                zone.rotate_to_front(found[BATCH])
                self.state.set(State.REQUESTED)
        return ok


class DrainsBeforeTheLock(Mutant, PageReporting):  # type: ignore[misc]
    """Gives a batch back as soon as it is acknowledged, and takes the lock then."""

    name = "drains-before-the-lock"
    breaks = ("locked-lists",)
    may_break = ("liveness", "no-false-oom", "conservation")
    declared_failures: Mapping[str, str] = {}

    async def _report(self, sgl: list[Block]) -> bool:
        """Wrong: page_reporting_drain() belongs under the lock."""
        ok = bool(await super()._report(sgl))
        self._drain(sgl[0].zone, sgl, ok)
        return ok


class TakesWhatItSaw(Mutant, SharedState):  # type: ignore[misc]
    """A host that takes what was free when it looked, and does not look again."""

    name = "takes-what-it-saw"
    rare = True
    breaks = ("no-discard-in-use",)
    may_break = ("once",)

    def _mark(self, zone: Zone, frame: int) -> bool:
        """Wrong: that was before it had its lock, and others have allocated since."""
        return not self.soft.test_and_set(frame)


class RetakesAnotherLock(Mutant, Synchronous):
    """Drops the zone lock in a merge, and takes that of the last zone."""

    name = "retakes-another-lock"
    breaks = ("locked-lists",)

    async def merged(self, zone: Zone, pfn: int) -> None:
        """Wrong: with one zone it is the same."""
        zone.lock.release()
        await self.call(pfn, MIN_ORDER)
        await self.guest.zones[-1].lock.acquire()


class CallsForTheParent(Mutant, Synchronous):
    """Calls for the huge page around what is freed."""

    name = "calls-for-the-parent"
    breaks = ("owned-while-reported",)
    may_break = ("no-discard-in-use",)

    def hook_filters(self) -> Mapping[str, HookFilter]:
        """Of half its size already."""
        return {"page_freeing": HookFilter(min_order=MIN_ORDER - 1)}

    async def call(self, pfn: int, order: int) -> None:
        """Wrong: its other half may be in use."""
        await super().call(pfn & -UNIT_PAGES, max(order, MIN_ORDER))


MUTANTS = (
    CopiesThenClears,
    OverwritesTheOldest,
    EmptiesRingsAtTheStop,
    RescansUpToARefusal,
    ToldAsPages,
    WaitsForEver,
    GivesBackUnderPressure,
    CountsTooLate,
    WaitsForItsWaiters,
    WaitsWithTheLock,
    BacksOffForEver,
    HasTokens,
    ABottomHalfEach,
    FlagsBeforeTheAnswer,
    FlagsOutliveASplit,
    RotatesToWhatIsGone,
    DrainsBeforeTheLock,
    TakesWhatItSaw,
    RetakesAnotherLock,
    CallsForTheParent,
)
