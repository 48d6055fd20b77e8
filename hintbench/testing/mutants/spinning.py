"""Wrong ways to mark and spin: around marks, who clears them, and what is noted when they go."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hintbench import Block, HookFilter, hookimpl
from hintbench.strategies.bitmap_and_spin import BitmapAndSpin
from hintbench.testing.mutants.bases import BATCH, DELAY_NS, MIN_ORDER, POLL_NS, Marking, Mutant

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from hintbench import Task, Zone


class ForgetsToldBeforeItSpins(Mutant, Marking):
    """A taker clears `told`, then spins while the unit is in flight."""

    name = "forgets-told-before-it-spins"
    breaks = ("flag-truth",)
    may_break = ("liveness",)

    def prepare(self) -> None:
        """A flag that the guest does not clear by itself."""
        super().prepare()
        self.told = self.guest.flags("known", order=MIN_ORDER, meaning="told")

    def hook_filters(self) -> Mapping[str, HookFilter]:
        """Every allocation concerns it."""
        return {"block_freed": HookFilter(min_order=MIN_ORDER)}

    @hookimpl
    async def page_allocated(self, pfn: int, order: int) -> None:
        """Wrong: the acknowledgement that it waits for sets it again."""
        self.told.clear(pfn, order)
        await self.mid.wait_clear(pfn, order, poll=self.answered)


class ForgetsToldWhenTaken(Mutant, Marking):
    """Forgets that it told of a unit when its block leaves the free list, not when it is used."""

    name = "forgets-told-when-taken"
    breaks = ("flag-truth",)
    may_break = ("liveness", "once")

    def prepare(self) -> None:
        """Wrong: a unit in flight may be taken first, and told afterwards."""
        super().prepare()
        self.told = self.guest.flags("known", order=MIN_ORDER, meaning="told", forget="taken")


class ForgetsToldLater(Mutant, Marking):
    """Takers note what they took; the worker clears `told` when it comes by."""

    name = "forgets-told-later"
    breaks = ("flag-truth",)
    may_break = ("liveness",)

    def prepare(self) -> None:
        """Nothing is noted."""
        super().prepare()
        self.told = self.guest.flags("known", order=MIN_ORDER, meaning="told")
        self.used: list[tuple[int, int]] = []

    def hook_filters(self) -> Mapping[str, HookFilter]:
        """Every allocation concerns it."""
        return {"block_freed": HookFilter(min_order=MIN_ORDER)}

    @hookimpl
    async def page_allocated(self, pfn: int, order: int) -> None:
        """Wrong: until then it believes what is no longer true."""
        await self.mid.wait_clear(pfn, order, poll=self.answered)
        self.used.append((pfn, order))

    async def mark(self, zone: Zone) -> list[Block]:
        """Clear what was noted."""
        used, self.used = self.used, []
        for pfn, order in used:
            self.told.clear(pfn, order)
        return await super().mark(zone)


class ToldWhenPosted(Mutant, Marking):
    """Notes what it told of as soon as the report is on its way."""

    name = "told-when-posted"
    breaks = ("flag-truth",)
    may_break = ("liveness",)

    async def post(self, zone: Zone, units: list[Block]) -> None:
        """Wrong: the host may refuse, and has not begun."""
        for unit in units:
            self.told.set(unit.pfn)
        await super().post(zone, units)


class KeepsMarksWhenTheQueueIsFull(Mutant, Marking):
    """Leaves the units marked when the queue has no room for them."""

    name = "keeps-marks-when-the-queue-is-full"
    breaks = ("progress-under-spin",)
    may_break = ("teardown", "liveness", "bounded-in-flight")

    async def post(self, zone: Zone, units: list[Block]) -> None:
        """Wrong: no answer will ever clear them."""
        if await self.guest.host.post(units, self.answered):
            self.in_flight.add(zone)


class MarksPartsOfUnits(Mutant, Marking):
    """Marks a unit if its first page is free, in whatever block."""

    name = "marks-parts-of-units"
    breaks = ("owned-while-reported",)
    may_break = ("no-discard-in-use",)

    def find(self, zone: Zone, pfn: int) -> Block | None:
        """Wrong: the block may be smaller than the unit."""
        return zone.free_block_of(pfn)


class MarksEachBlockByUnit(Mutant, Marking):
    """Marks and reports all of a block for each of its units that is a candidate."""

    name = "marks-a-block-for-each-unit"
    breaks = ("owned-while-reported",)
    # A unit that is told is marked again with its buddy.
    may_break = ("bounded-in-flight", "once")

    async def mark(self, zone: Zone) -> list[Block]:
        """Wrong: both units of a block of order 10 lead to it."""
        units: list[Block] = []
        async with zone.lock:
            for pfn in self.candidates(zone)[:BATCH]:
                self.pending.clear(pfn)
                block = self.find(zone, pfn)
                if block is not None:
                    self.mid.set(block.pfn, block.order)
                    of_block = range(block.pfn, block.end_pfn, 1 << MIN_ORDER)
                    units += [Block(unit, MIN_ORDER, zone) for unit in of_block]
        return units


class PollsWithInterruptsOn(Mutant, Marking):
    """Fetches an answer and clears its marks with interrupts on."""

    name = "polls-with-interrupts-on"
    breaks = ("progress-under-spin",)
    may_break = ("ack-before-return", "completion-once")

    def answered(self) -> None:
        """Wrong: an interrupt in between spins for the answer that it has interrupted."""
        while (completion := self.guest.host.poll()) is not None:
            self.settle(completion.blocks, completion.ok)


class ClearsInABottomHalf(Mutant, BitmapAndSpin):  # type: ignore[misc]
    """Its interrupt queues a bottom half, which clears the marks; spinners do not poll."""

    name = "clears-in-a-bottom-half"
    breaks = ("progress-under-spin",)
    may_break = ("completion-once",)

    def _take_completions(self) -> None:
        """Wrong: where somebody spins no bottom half runs."""
        self.halves: list[Task] = [each for each in getattr(self, "halves", ()) if not each.done]
        half = self.guest.spawn(self._bottom_half(), cpu=self.guest.cpu, name="bottom half")
        self.halves.append(half)

    async def _bottom_half(self) -> None:
        super()._take_completions()

    @hookimpl
    async def page_allocated(self, pfn: int, order: int) -> None:
        """Spin for the bottom half."""
        await self.mid.wait_clear(pfn, order)

    @hookimpl
    async def guest_stopping(self) -> None:
        """Wait for those, too."""
        await super().guest_stopping()
        for half in getattr(self, "halves", ()):
            await half.join()


class PollsForItsZoneOnly(Mutant, BitmapAndSpin):  # type: ignore[misc]
    """A spinner looks for the answer that concerns its zone."""

    name = "polls-for-its-zone-only"
    breaks = ("progress-under-spin",)
    may_break = ("teardown", "liveness", "completion-once", "bounded-in-flight")

    @hookimpl
    async def page_allocated(self, pfn: int, order: int) -> None:
        """Wrong: what it fetches and does not want nobody else will see."""
        mine = self.guest.zone_of(pfn)

        def poll() -> None:
            with self.guest.interrupts_off():
                while (completion := self.guest.host.poll()) is not None:
                    if completion.blocks[0].zone is mine:
                        self._settle(completion.blocks, completion.ok)

        await self.mid.wait_clear(pfn, order, poll=poll)


class SpinsUntilTheWorkerSleeps(Mutant, Marking):
    """Lets every taker spin as long as a report is under way, which a thread says."""

    name = "spins-until-the-worker-sleeps"
    breaks = ("progress-under-spin",)
    may_break = ("completion-once",)

    def prepare(self) -> None:
        """Nobody works."""
        super().prepare()
        self.busy = False

    async def tell(self, zone: Zone) -> bool:
        """Say so while a batch is told."""
        self.busy = True
        more = await super().tell(zone)
        self.busy = False
        return more

    @hookimpl
    async def page_allocated(self) -> None:
        """Wrong: on the CPU of a spinner the thread never gets to its end."""
        await self.guest.spin_while(lambda: self.busy, poll=self.answered)


class SpinsWhenAllIsDone(Mutant, Marking):
    """A thread that has nothing left to do spins until there is something, or it is stopped."""

    name = "spins-when-all-is-done"
    breaks = ("progress-under-spin",)
    delay_ns = 200 * DELAY_NS

    async def tell(self, zone: Zone) -> bool:
        """Wrong: it keeps a CPU busy for ever, which is seen when the tapes have ended."""
        more = await super().tell(zone)
        if not more:
            await self.guest.spin_while(lambda: not self.stopping)
        return more


class GivesUpSpinning(Mutant, Marking):
    """A taker that has spun for a tenth of a millisecond clears the mark and goes on."""

    name = "gives-up-spinning"
    breaks = ("ack-before-return",)
    may_break = ("flag-truth", "once", "owned-while-reported", "liveness")

    @hookimpl
    async def page_allocated(self, pfn: int, order: int) -> None:
        """Wrong: the host will discard a page in use."""
        until_ns = self.guest.now + POLL_NS // 5
        await self.guest.spin_while(
            lambda: self.mid.any(pfn, order) and self.guest.now < until_ns, poll=self.answered
        )
        if self.mid.any(pfn, order):
            self.mid.clear(pfn, order)


class StopClearsAllMarks(Mutant, Marking):
    """Clears every mark when it is stopped, so that nobody spins for a driver that is gone."""

    name = "stop-clears-all-marks"
    breaks = ("ack-before-return",)
    may_break = ("flag-truth",)

    @hookimpl
    async def guest_stopping(self) -> None:
        """Wrong: the host still has the report."""
        for zone in self.guest.zones:
            for pfn in self.mid.find(zone.start_pfn, zone.end_pfn):
                self.mid.clear(pfn)
        await super().guest_stopping()


class ResetsAndLeaves(Mutant, Marking):
    """Resets the device at the stop, clears its marks, and leaves the answers in the queue."""

    name = "resets-and-leaves"
    breaks = ("completion-once",)
    may_break = ("teardown",)

    @hookimpl
    async def guest_stopping(self) -> None:
        """Wrong: right so far, but who unmaps the queue has to empty it."""
        self.stopping = True
        self.guest.host.reset()
        for zone in self.guest.zones:
            marked = self.mid.find(zone.start_pfn, zone.end_pfn)
            if marked:
                self.settle([Block(pfn, MIN_ORDER, zone) for pfn in marked], False)
        await super().guest_stopping()

    def answered(self) -> None:
        """What comes after the reset does not matter."""
        if not self.stopping:
            super().answered()


class ToldWithItsBuddy(Mutant, Marking):
    """Notes the whole block of order 10 around a unit as told."""

    name = "told-with-its-buddy"
    breaks = ("flag-truth",)
    may_break = ("liveness",)

    def settle(self, units: Iterable[Block], ok: bool) -> None:
        """Wrong: the report was of one half."""
        units = tuple(units)
        if ok:
            for unit in units:
                self.told.set(unit.pfn & -1024, 10)
        super().settle(units, ok)


MUTANTS = (
    ForgetsToldBeforeItSpins,
    ForgetsToldWhenTaken,
    ForgetsToldLater,
    ToldWhenPosted,
    KeepsMarksWhenTheQueueIsFull,
    MarksPartsOfUnits,
    MarksEachBlockByUnit,
    PollsWithInterruptsOn,
    ClearsInABottomHalf,
    PollsForItsZoneOnly,
    SpinsUntilTheWorkerSleeps,
    SpinsWhenAllIsDone,
    GivesUpSpinning,
    StopClearsAllMarks,
    ResetsAndLeaves,
    ToldWithItsBuddy,
)
