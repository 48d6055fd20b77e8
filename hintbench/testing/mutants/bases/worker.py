"""What bases share: what a mutant says of itself, and workers with candidates by unit."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from hintbench import Block, Claims, HookFilter, Strategy, hookimpl

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hintbench import Guest, Zone

MIN_ORDER = 9
UNIT_PAGES = 1 << MIN_ORDER
BATCH = 2
"""Most blocks of a zone in flight."""
LOOK_AT_MOST = 4 * BATCH
"""Candidates looked at under one hold; some of them are stale."""
DELAY_NS = 300_000
"""From the first candidate to the pass that tells of it [virtual ns]."""
POLL_NS = 500_000
"""Between looks for an answer whose interrupt is late [virtual ns]."""
MOST_DOUBLINGS = 6
"""Of the delay, while the host fails or the watermark refuses."""


class Mutant:
    """What a wrong strategy says of itself, besides being a strategy.

    Attributes:
        breaks: The rules that it breaks; each is found, given the time.
        may_break: Rules that break in the wake of those, in few schedules.
        rare: It takes thousands of schedules to find, as many as the command explores.
    """

    breaks: ClassVar[tuple[str, ...]] = ()
    may_break: ClassVar[tuple[str, ...]] = ()
    rare: ClassVar[bool] = False


class Worker(Strategy):
    """What bases with workers share: candidates by unit, and a worker a zone that tells of them."""

    delay_ns: ClassVar[int] = DELAY_NS

    @hookimpl
    def guest_started(self, guest: Guest) -> None:
        """All that is free is a candidate."""
        self.guest, self.stopping = guest, False
        self.pending = guest.flags("pending", order=MIN_ORDER)
        self.stop = guest.event()
        self.wake = {zone: guest.event() for zone in guest.zones}
        self.done = {zone: guest.event() for zone in guest.zones}
        self.refused = dict.fromkeys(guest.zones, 0)  # passes in a row that did not go through
        self.prepare()
        self.tasks = [guest.spawn(self.work(zone), cpu=0, name="hint") for zone in guest.zones]
        for zone in guest.zones:
            self.nominate_all(zone)

    def prepare(self) -> None:
        """Make what else is needed, before the first task."""

    def nominate_all(self, zone: Zone) -> None:
        """Every unit of a zone is a candidate."""
        for pfn in range(zone.start_pfn & -UNIT_PAGES, zone.end_pfn, UNIT_PAGES):
            self.pending.set(pfn)
        self.wake[zone].set()

    def hook_filters(self) -> Mapping[str, HookFilter]:
        """Smaller blocks are left to the buddy allocator to assemble."""
        return {"block_freed": HookFilter(min_order=MIN_ORDER)}

    @hookimpl
    def block_freed(self, zone: Zone, pfn: int, order: int) -> None:
        """Nominate what is free now."""
        self.pending.set(pfn, order)
        self.wake[zone].set()

    async def work(self, zone: Zone) -> None:
        """Tell of one zone's candidates whenever there are some, after a delay."""
        while not self.stopping:
            await self.wake[zone].wait()
            if not self.stopping:
                await self.stop.wait(timeout_ns=self.delay_ns << self.refused[zone])
            while await self.more(zone):
                pass
            if self.candidates(zone):
                self.wake[zone].set()

    async def more(self, zone: Zone) -> bool:
        """Tell of another batch; whether there may be more to tell now."""
        return not self.stopping and await self.tell(zone)

    def candidates(self, zone: Zone) -> list[int]:
        """The first few candidates of a zone."""
        return self.pending.find(zone.start_pfn, zone.end_pfn, limit=LOOK_AT_MOST)

    def find(self, zone: Zone, pfn: int) -> Block | None:
        """The free block around a candidate, with the zone lock held; None if it is stale."""
        block = zone.free_block_of(pfn)
        return block if block and block.order >= MIN_ORDER else None

    async def tell(self, zone: Zone) -> bool:
        """Tell the host of one batch; whether there may be more to tell now."""
        raise NotImplementedError

    def went_through(self, zone: Zone, ok: bool) -> bool:
        """Note whether a batch could be told, for the back-off."""
        self.refused[zone] = 0 if ok else min(self.refused[zone] + 1, MOST_DOUBLINGS)
        return ok

    @hookimpl
    async def guest_stopping(self) -> None:
        """Begin nothing more, and wait for what is in flight."""
        self.stopping = True
        self.stop.set()
        for zone in self.guest.zones:
            self.wake[zone].set()
        for task in self.tasks:
            await task.join()

    def claims(self) -> Claims:
        """What the base keeps, and a mutant may not."""
        return Claims(
            min_order=MIN_ORDER,
            liveness_bound_ns=2_000_000_000,
            initial_flush=True,
            in_flight_pages=BATCH << 10,
            lock_takes=(1, 1),
            hold_visits=LOOK_AT_MOST,
            one_zone=True,
            once=True,
            any_pfn=True,
        )
