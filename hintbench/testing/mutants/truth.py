"""Wrong about what the host knows, about repeating itself, and about being repeatable."""

from __future__ import annotations

import dataclasses
import random
import weakref
from typing import TYPE_CHECKING, Any

from hintbench import Block, Claims, Guest, hookimpl
from hintbench.testing.mutants.bases import Isolating, Marking, Mutant

if TYPE_CHECKING:
    from collections.abc import Iterable

    from hintbench import Freed, Zone


class BelievesRefusals(Mutant, Isolating):
    """Takes every answer for a yes."""

    name = "believes-refusals"
    breaks = ("flag-truth",)

    async def give_back(self, zone: Zone, blocks: Iterable[Block], ok: bool) -> None:
        """Wrong: what the host refused it still backs."""
        await super().give_back(zone, blocks, True)


class TellsOfTheMergedBlock(Mutant, Isolating):
    """Notes the whole merged block as told, of which the host knows one half."""

    name = "notes-the-merged-block"
    breaks = ("flag-truth",)
    may_break = ("liveness",)

    def put_back(self, zone: Zone, block: Block, ok: bool) -> None:
        """Wrong: the buddy was freed meanwhile, and never told."""
        order = zone.put_back(block, tail=True, notify=False)
        self.in_flight[zone] -= 1
        if ok:
            self.told.set(block.pfn & -(1 << order), order)
        else:
            self.pending.set(block.pfn, block.order)


class NotesToldTooLate(Mutant, Marking):
    """Clears the mark, lets others go first, and then notes what was told."""

    name = "notes-told-too-late"
    breaks = ("flag-truth",)

    def settle(self, units: Iterable[Block], ok: bool) -> None:
        """Wrong: a spinner may have had the page, and its clearing of `told`, in between."""
        units = tuple(units)
        super().settle(units, False)
        for unit in units:
            self.pending.clear(unit.pfn)
        self.went_through(units[0].zone, ok)
        self.guest.spawn(self.note(units, ok), cpu=0, name="note")

    async def note(self, units: Iterable[Block], ok: bool) -> None:
        """The other order would be right."""
        for unit in units:
            (self.told if ok else self.pending).set(unit.pfn)
            self.wake[unit.zone].set()


class TellsAgainAndAgain(Mutant, Isolating):
    """Looks at the whole zone when something was freed, and keeps no record of what it told."""

    name = "tells-again-and-again"
    breaks = ("once",)

    @hookimpl
    def block_freed(self, zone: Zone) -> None:
        """All the zone, not what was freed."""
        self.nominate_all(zone)

    def put_back(self, zone: Zone, block: Block, ok: bool) -> None:
        """Wrong: told it is, and as long as it lies unchanged once is enough."""
        zone.put_back(block, tail=True, notify=False)
        self.in_flight[zone] -= 1
        if not ok:
            self.pending.set(block.pfn, block.order)


class NotifiesItself(Mutant, Isolating):
    """Gives its blocks back like any other free, and hears of them itself."""

    name = "notifies-itself"
    breaks = ("once",)

    def put_back(self, zone: Zone, block: Block, ok: bool) -> None:
        """Wrong: what it has just told it captures again."""
        order = zone.put_back(block, tail=True, notify=True)
        self.in_flight[zone] -= 1
        if ok and order == block.order:
            self.told.set(block.pfn, block.order)


class SeesOnlyTheFreedPage(Mutant, Isolating):
    """Looks whether the page that was freed heads a large block now; it may lie in its middle."""

    name = "sees-only-the-freed-page"
    breaks = ("any-pfn",)

    @hookimpl
    def block_freed(self, zone: Zone, pfn: int, order: int, freed: Freed) -> None:
        """Wrong: the last page of a block that comes free is seldom its first."""
        if freed.pfn == pfn:
            super().block_freed(zone, pfn, order)

    def claims(self) -> Claims:
        """It says nothing of time."""
        return dataclasses.replace(super().claims(), liveness_bound_ns=None)


class UsesUnseededRandomness(Mutant, Isolating):
    """Takes its candidates in a random order that no seed repeats."""

    name = "uses-unseeded-randomness"
    breaks = ("deterministic",)

    def candidates(self, zone: Zone) -> list[int]:
        """Wrong: only guest.rng would repeat."""
        found = super().candidates(zone)
        random.SystemRandom().shuffle(found)
        return found


class ActsWhenItIsOff(Mutant, Isolating):
    """Changes the guest as soon as there is one, whether it has been switched on or not."""

    name = "acts-when-it-is-off"
    breaks = ("off-is-none",)

    def __init__(self, parameters: Any = None, **overrides: Any) -> None:
        """Wrong: nothing may happen before guest_started."""
        super().__init__(parameters, **overrides)
        _meddle_with_next_guest(self)


_next: list[weakref.ref[ActsWhenItIsOff]] = []
"""Who meddles with the next guest, as long as it exists: other strategies' are left alone."""


def _meddle_with_next_guest(who: ActsWhenItIsOff) -> None:
    """Have it take the first zone's lock for ten microseconds, a tenth of a millisecond on."""

    async def meddle(guest: Guest) -> None:
        await guest.sleep(100_000)
        async with guest.zones[0].lock:
            guest.spend(10_000)

    original = Guest.__init__

    def prepared(guest: Guest, *arguments: Any, **keywords: Any) -> None:
        original(guest, *arguments, **keywords)
        if _next and _next.pop()() is not None:
            guest.spawn(meddle(guest), cpu=0, name="meddle")

    _next[:] = [weakref.ref(who)]
    if original.__qualname__ != prepared.__qualname__:
        Guest.__init__ = prepared  # type: ignore[assignment, method-assign]


MUTANTS = (
    BelievesRefusals,
    TellsOfTheMergedBlock,
    NotesToldTooLate,
    TellsAgainAndAgain,
    NotifiesItself,
    SeesOnlyTheFreedPage,
    UsesUnseededRandomness,
    ActsWhenItIsOff,
)
