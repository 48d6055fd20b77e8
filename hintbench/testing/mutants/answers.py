"""Wrong about the host's answers, and about what has to come back."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from hintbench import Block, Claims, hookimpl
from hintbench.testing.mutants.bases import (
    MIN_ORDER,
    Isolating,
    Marking,
    Mutant,
    Posting,
    Synchronous,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from hintbench import Zone

TIME_OUT_NS = 100_000
"""How long some wait for an answer [virtual ns]; a slow host takes longer."""


class ClearsWhenTheKickReturns(Mutant, Marking):
    """Takes the end of the call for the end of the report."""

    name = "clears-when-the-kick-returns"
    breaks = ("ack-before-return",)

    async def post(self, zone: Zone, units: list[Block]) -> None:
        """Wrong: the host has not begun, as a rule."""
        await self.guest.host.post(units, self.answered)
        for unit in units:
            self.mid.clear(unit.pfn)

    def answered(self) -> None:
        """Answers mean nothing to it."""
        while self.guest.host.poll() is not None:
            pass


class PutsBackWhenTheKickReturns(Mutant, Isolating):
    """Posts, and gives the blocks back at once."""

    name = "puts-back-when-the-kick-returns"
    breaks = ("ack-before-return",)
    may_break = ("flag-truth",)

    async def report(self, zone: Zone, taken: list[Block]) -> bool:
        """Wrong: the host has not begun, as a rule."""
        ok = await self.guest.host.post(taken, self.answered)
        await self.give_back(zone, taken, ok)
        return ok

    def answered(self) -> None:
        """Answers mean nothing to it."""
        while self.guest.host.poll() is not None:
            pass


class GivesUpWaiting(Mutant, Posting):
    """Takes its blocks back from a host that is slow."""

    name = "gives-up-waiting"
    breaks = ("ack-before-return",)
    # An answer to what it gave up counts for what it has taken since.
    may_break = ("once", "returned", "no-false-oom", "lock-takes", "bounded-in-flight")

    async def report(self, zone: Zone, taken: list[Block]) -> bool:
        """Wrong: a time-out is no answer; the host may still discard what it has been told of."""
        ok = await self.guest.host.post(taken, self.answered)
        if not ok or not await self.done[zone].wait(timeout_ns=TIME_OUT_NS):
            await self.give_back(zone, taken, False)
        return ok

    async def take_answers(self) -> None:
        """What it gave up is not given back twice."""
        while (completion := self.guest.host.poll()) is not None:
            zone = completion.blocks[0].zone
            if self.in_flight[zone]:
                await self.give_back(zone, completion.blocks, completion.ok)


class ReturnsTwice(Mutant, Posting):
    """Resets a device that is slow and takes its blocks back, then takes the late answer too."""

    name = "returns-twice"
    breaks = ("returned",)
    # The answer was there, and only its interrupt is late: what it takes back is told again.
    may_break = ("once",)

    async def report(self, zone: Zone, taken: list[Block]) -> bool:
        """Right so far: a reset is an answer."""
        ok = await self.guest.host.post(taken, self.answered)
        if ok and not await self.done[zone].wait(timeout_ns=TIME_OUT_NS):
            self.guest.host.reset()
            ok = False
        if not ok:
            await self.give_back(zone, taken, False)
        return ok

    # Wrong: take_answers() gives back whatever it is answered, the blocks of a reset device too.


class PutsBackTheUnit(Mutant, Isolating):
    """Puts back blocks of the minimum order, whatever it isolated."""

    name = "puts-back-the-unit"
    breaks = ("returned",)

    def put_back(self, zone: Zone, block: Block, ok: bool) -> None:
        """Wrong: what was isolated as a block of order 10 has to come back as one."""
        super().put_back(zone, Block(block.pfn, MIN_ORDER, zone), ok)


class PutsBackToTheFirstZone(Mutant, Isolating):
    """Finds the zone of a block by its zone number, which the zones of all nodes share."""

    name = "puts-back-by-zone-number"
    breaks = ("returned",)

    async def give_back(self, zone: Zone, blocks: Iterable[Block], ok: bool) -> None:
        """Wrong: with two nodes there are two Normal zones."""
        same = next(other for other in self.guest.zones if other.number == zone.number)
        await super().give_back(same, blocks, ok)


class ForgetsWhatFailed(Mutant, Isolating):
    """Knows what to do when the host has taken the batch, and nothing else."""

    name = "forgets-what-failed"
    breaks = ("returned",)
    may_break = ("teardown",)

    async def give_back(self, zone: Zone, blocks: Iterable[Block], ok: bool) -> None:
        """Wrong: a refusal, a full queue or a missing device leaks the batch."""
        if ok:
            await super().give_back(zone, blocks, ok)

    def claims(self) -> Claims:
        """What it forgets adds up, of course."""
        return dataclasses.replace(super().claims(), in_flight_pages=None)


class ForgetsWhenRefused(Mutant, Isolating):
    """Gives up its pass when the watermark forbids a block, and forgets those it has."""

    name = "forgets-when-refused"
    breaks = ("returned",)
    may_break = ("teardown",)

    async def collect(self, zone: Zone) -> tuple[list[Block], bool]:
        """Wrong: what it isolated before the refusal is isolated."""
        taken, refused = await super().collect(zone)
        return ([], True) if refused else (taken, False)

    def claims(self) -> Claims:
        """What it forgets adds up, of course."""
        return dataclasses.replace(super().claims(), in_flight_pages=None)


class DropsCompletions(Mutant, Posting):
    """Makes room in the queue before it posts: throws away what the host has answered."""

    name = "drops-completions"
    breaks = ("returned",)

    async def post(self, block: Block) -> bool:
        """Wrong: the way back of other blocks goes with their completions."""
        while self.guest.host.poll() is not None:
            pass
        return await super().post(block)


class TakesOneAnswerAnInterrupt(Mutant, Posting):
    """Takes one answer an interrupt, though several may share it."""

    name = "takes-one-answer-an-interrupt"
    breaks = ("completion-once",)
    may_break = ("returned",)

    async def report(self, zone: Zone, taken: list[Block]) -> bool:
        """Without the base's looks for late answers."""
        ok = await self.post_all(zone, taken)
        while self.in_flight[zone]:
            await self.done[zone].wait()
        return ok

    async def take_answers(self) -> None:
        """Wrong: `if` where there should be a loop."""
        if (completion := self.guest.host.poll()) is not None:
            await self.give_back(completion.blocks[0].zone, completion.blocks, completion.ok)


class NobodyWaitsAtTheStop(Mutant, Isolating):
    """Stops without waiting for what is in flight."""

    name = "nobody-waits-at-the-stop"
    breaks = ("teardown",)

    @hookimpl
    async def guest_stopping(self) -> None:
        """Wrong: the worker still has blocks, and gives them back when the driver is gone."""
        self.stopping = True
        self.stop.set()
        for zone in self.guest.zones:
            self.wake[zone].set()


class LeaksAtTheStop(Mutant, Isolating):
    """Its worker ends at once when it is told to, with a batch in its hands."""

    name = "leaks-at-the-stop"
    breaks = ("teardown",)

    async def give_back(self, zone: Zone, blocks: Iterable[Block], ok: bool) -> None:
        """Wrong: stopping is no reason to keep them."""
        if not self.stopping:
            await super().give_back(zone, blocks, ok)


class GoesOnAfterTheStop(Mutant, Isolating):
    """Its worker never hears that it should end."""

    name = "goes-on-after-the-stop"
    breaks = ("teardown",)

    @hookimpl
    async def guest_stopping(self) -> None:
        """Wrong: waits for what is in flight, but a timer brings the worker back."""
        for zone in self.guest.zones:
            while self.in_flight[zone]:
                await self.done[zone].wait()


class LeavesATimerAtTheStop(Mutant, Isolating):
    """Every free arms a timer of its own besides; the stop waits for the worker only."""

    name = "leaves-a-timer-at-the-stop"
    breaks = ("teardown",)

    @hookimpl
    def block_freed(self, zone: Zone, pfn: int, order: int) -> None:
        """Wrong: nobody keeps what cancel_delayed_work() would need."""
        super().block_freed(zone, pfn, order)
        self.guest.spawn(self.tick(zone), cpu=self.guest.cpu, name="timer", delay_ns=3_000_000)

    async def tick(self, zone: Zone) -> None:
        """Wake the worker, should it have missed something."""
        self.wake[zone].set()


class CallsOnAtTheStop(Mutant, Synchronous):
    """Does not unhook itself: what the kernel frees while it stops is told as well."""

    name = "calls-on-at-the-stop"
    breaks = ("teardown",)

    @hookimpl
    async def guest_stopping(self) -> None:
        """Wrong: interrupts and kernel threads still free memory."""


class LeavesMarksAtTheStop(Mutant, Marking):
    """Stops while units are marked: their takers would wait for a driver that is gone."""

    name = "leaves-marks-at-the-stop"
    breaks = ("teardown",)

    @hookimpl
    async def guest_stopping(self) -> None:
        """Wrong: answers that are still to come will find nobody."""
        self.stopping = True
        self.stop.set()
        for zone in self.guest.zones:
            self.wake[zone].set()


MUTANTS = (
    ClearsWhenTheKickReturns,
    PutsBackWhenTheKickReturns,
    GivesUpWaiting,
    ReturnsTwice,
    PutsBackTheUnit,
    PutsBackToTheFirstZone,
    ForgetsWhatFailed,
    ForgetsWhenRefused,
    DropsCompletions,
    TakesOneAnswerAnInterrupt,
    NobodyWaitsAtTheStop,
    LeaksAtTheStop,
    GoesOnAfterTheStop,
    LeavesATimerAtTheStop,
    CallsOnAtTheStop,
    LeavesMarksAtTheStop,
)
