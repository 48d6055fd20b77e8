"""Wrong in ways that the small bases cannot be: members of the family, timers, missing memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from hintbench import hookimpl
from hintbench.strategies.report_then_hold import ReportThenHold
from hintbench.strategies.shared_state import SharedState
from hintbench.testing.mutants.bases import MIN_ORDER, Isolating, Marking, Mutant

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from hintbench import Block, Zone


# To mypy a class of `hintbench.strategies` is Any: the package is mapped to a folder at its root.
class TakesAgainAndAgain(Mutant, SharedState):  # type: ignore[misc]
    """A host that looks at what is free, and not at what it has taken already."""

    name = "takes-again-and-again"
    breaks = ("once",)

    def _mark(self, zone: Zone, frame: int) -> bool:
        """Wrong: it takes the frame whether or not it is soft."""
        super()._mark(zone, frame)
        block = zone.free_block_of(frame)
        return block is not None and block.order >= MIN_ORDER

    async def _reclaim(self, zone: Zone) -> None:
        """Wrong: it looks at all that is free."""
        shared = self.guest.host.shared
        async with shared.lock:
            blocks = zone.free_blocks(MIN_ORDER)
            shared.take_back([each for each in blocks if self._mark(zone, each.pfn)])


class ReportsWhatItHoldsAgain(Mutant, ReportThenHold):  # type: ignore[misc]
    """Reports all that it holds in each cycle, as if the host might have forgotten."""

    name = "reports-what-it-holds-again"
    breaks = ("once",)
    # As the driver itself: what is free below the watermark is never reported.
    may_break = ("liveness",)
    declared_failures: Mapping[str, str] = {}

    async def _hold(self) -> None:
        """Wrong: what is held is not touched, so the host has it still."""
        await super()._hold()
        for batch in list(self.held):
            await self.guest.host.report(batch)


class KeepsItsMemory(Mutant, ReportThenHold):  # type: ignore[misc]
    """Holds what it has allocated, also when it has been stopped."""

    name = "keeps-its-memory"
    breaks = ("teardown",)
    # As the driver itself: what is free below the watermark is never reported.
    may_break = ("liveness",)
    declared_failures: Mapping[str, str] = {}

    async def _release(self, batches: int) -> None:
        """Wrong: the last step would be to let everything go."""
        if not self.stopping:
            await super()._release(batches)


class SlowAndForgetful(Mutant, Isolating):
    """Has a timer of 50 ms, and never forgets that it told of a unit, whoever has used it since."""

    name = "slow-and-forgetful"
    breaks = ("liveness", "flag-truth")
    delay_ns: ClassVar[int] = 50_000_000

    def prepare(self) -> None:
        """Wrong: the host backs it again as soon as it is touched."""
        super().prepare()
        self.told = self.guest.flags("remembered", order=MIN_ORDER, meaning="told")


class LosesHintsWithoutMemory(Mutant, Isolating):
    """Needs memory for its list of blocks, and forgets the candidates when there is none."""

    name = "loses-hints-without-memory"
    breaks = ("liveness",)

    async def tell(self, zone: Zone) -> bool:
        """Wrong: nobody will find these again, as in v9 (`idx = 0` after a failed kmalloc)."""
        if not await self.guest.allocate_buffer(512):
            for pfn in self.pending.find(zone.start_pfn, zone.end_pfn):
                self.pending.clear(pfn)
            return False
        return await super().tell(zone)


class LosesHintsWithoutRoom(Mutant, Isolating):
    """Takes a refused isolation for a block that is not free any more."""

    name = "loses-hints-when-refused"
    breaks = ("liveness",)

    async def collect(self, zone: Zone) -> tuple[list[Block], bool]:
        """Wrong: what was refused is no candidate from now on."""
        before = self.candidates(zone)
        taken, refused = await super().collect(zone)
        if refused and not self.waiting and self.guest.now >= self.low_until_ns:
            for pfn in before:
                self.pending.clear(pfn)
        return taken, refused


class ClearsTheMarkFirst(Mutant, Marking):
    """Clears the mark, and says that the unit is told in the next instruction."""

    name = "clears-the-mark-first"
    breaks = ("flag-truth",)
    may_break = ("liveness",)

    def settle(self, units: Iterable[Block], ok: bool) -> None:
        """Wrong: in between another CPU may take a page, and clear what is not set yet."""
        for unit in units:
            self.mid.clear(unit.pfn)
            (self.told if ok else self.pending).set(unit.pfn)
        self.in_flight.discard(unit.zone)
        self.went_through(unit.zone, ok)
        self.done[unit.zone].set()


class ForgetsTheTakersOfAHalf(Mutant, Marking):
    """Lets the taker of a large block wait for its first unit only."""

    name = "waits-for-the-first-unit"
    breaks = ("no-discard-in-use",)
    may_break = ("flag-truth", "liveness", "owned-while-reported")

    @hookimpl
    async def page_allocated(self, pfn: int, order: int) -> Any:
        """Wrong: the other half may be in flight as well."""
        await self.mid.wait_clear(pfn, min(order, MIN_ORDER), poll=self.answered)


MUTANTS = (
    TakesAgainAndAgain,
    ReportsWhatItHoldsAgain,
    KeepsItsMemory,
    SlowAndForgetful,
    LosesHintsWithoutMemory,
    LosesHintsWithoutRoom,
    ClearsTheMarkFirst,
    ForgetsTheTakersOfAHalf,
)
