"""Small correct strategies, so that a mutant shows nothing but the one thing it does wrong.

`Isolating` takes blocks off their lists and sleeps until the host has answered, `Posting` does not
sleep and gives them back from the interrupt, `Ringed` captures in rings per CPU, `Marking` leaves
the blocks where they are and lets takers spin, `Synchronous` calls the host from the freeing thread
before anybody else can have the block.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from hintbench import Block, Claims, HookFilter, Strategy, hookimpl

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from hintbench import Freed, Guest, PerCpu, Zone

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
RING_ENTRIES = 3
"""Captures that a CPU keeps."""


class Mutant:
    """What a wrong strategy says of itself, besides being a strategy.

    Attributes:
        breaks: The rules that it breaks; each is found, given the time.
        may_break: Rules that break in the wake of those, in few schedules.
    """

    breaks: ClassVar[tuple[str, ...]] = ()
    may_break: ClassVar[tuple[str, ...]] = ()


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


class Isolating(Worker):
    """Isolates a batch, sleeps until the host has answered, puts it back."""

    name = "base-isolating"

    def prepare(self) -> None:
        """Nothing is in flight, and nobody waits for it."""
        self.told = self.guest.flags("told", order=MIN_ORDER, meaning="told", forget="taken")
        self.in_flight = dict.fromkeys(self.guest.zones, 0)  # blocks
        self.waiting, self.low_until_ns = 0, 0

    async def tell(self, zone: Zone) -> bool:
        """Isolate, report, put back."""
        self.done[zone].clear()
        taken, refused = await self.collect(zone)
        if taken:
            ok = await self.report(zone, taken)
            return self.went_through(zone, ok and not refused)
        return self.went_through(zone, not refused) and bool(self.candidates(zone))

    async def collect(self, zone: Zone) -> tuple[list[Block], bool]:
        """The first take of the lock: isolate candidates; also whether that was refused."""
        taken: list[Block] = []
        async with zone.lock:
            if self.waiting or self.guest.now < self.low_until_ns:
                return taken, True
            for pfn in self.candidates(zone):
                if len(taken) == BATCH:
                    break
                self.pending.clear(pfn)
                block = self.find(zone, pfn)
                if block is None or self.told.any(block.pfn, block.order):
                    continue
                isolated = zone.isolate(block.pfn)
                if isolated is None:
                    self.pending.set(pfn)
                    return taken, True
                self.pending.clear(block.pfn, block.order)
                self.in_flight[zone] += 1
                taken.append(isolated)
        return taken, False

    async def report(self, zone: Zone, taken: list[Block]) -> bool:
        """Tell the host, sleep until it has answered, and give everything back."""
        ok = await self.guest.host.report(taken)
        await self.give_back(zone, taken, ok)
        return ok

    async def give_back(self, zone: Zone, blocks: Iterable[Block], ok: bool) -> None:
        """The second take of the lock."""
        async with zone.lock:
            for block in blocks:
                self.put_back(zone, block, ok)
        self.done[zone].set()

    def put_back(self, zone: Zone, block: Block, ok: bool) -> None:
        """Give one block back; what the host did not take is a candidate again."""
        order = zone.put_back(block, tail=True, notify=False)
        self.in_flight[zone] -= 1
        if not ok:
            self.pending.set(block.pfn, block.order)
        elif order == block.order:  # else it merged with what has not been told
            self.told.set(block.pfn, block.order)

    @hookimpl
    async def memory_low(self, zone: Zone) -> None:
        """Let the allocation have what is in flight, and take nothing for a while."""
        self.waiting += 1
        while self.in_flight[zone]:
            await self.done[zone].wait()
        self.waiting -= 1
        self.low_until_ns = self.guest.now + DELAY_NS


class Posting(Isolating):
    """Posts every block of the batch by itself and puts it back from the interrupt."""

    name = "base-posting"

    async def report(self, zone: Zone, taken: list[Block]) -> bool:
        """Post each block; sleep until the last is back."""
        ok = await self.post_all(zone, taken)
        looks = 0
        while self.in_flight[zone]:
            if not await self.done[zone].wait(timeout_ns=POLL_NS << min(looks, MOST_DOUBLINGS)):
                looks += 1
                await self.take_answers()
        return ok

    async def post_all(self, zone: Zone, taken: list[Block]) -> bool:
        """Post each block; what finds no room goes back at once."""
        ok = True
        for block in taken:
            if not await self.post(block):
                ok = False
                await self.give_back(zone, [block], False)
        return ok

    async def post(self, block: Block) -> bool:
        """Post one block."""
        return await self.guest.host.post([block], self.answered)

    async def answered(self) -> None:
        """The interrupt."""
        await self.take_answers()

    async def take_answers(self) -> None:
        """Take all that the host has answered: the interrupt, or the worker that tired of it."""
        while (completion := self.guest.host.poll()) is not None:
            await self.give_back(completion.blocks[0].zone, completion.blocks, completion.ok)


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


class Synchronous(Strategy):
    """Calls the host for every unit before the allocator has it: freed whole, or just merged."""

    name = "base-synchronous"

    @hookimpl
    def guest_started(self, guest: Guest) -> None:
        """No call is under way."""
        self.guest, self.calls, self.stopping = guest, 0, False
        self.ended = guest.event()

    def hook_filters(self) -> Mapping[str, HookFilter]:
        """Smaller blocks are told when they have merged."""
        narrow = HookFilter(min_order=MIN_ORDER)
        return {"page_freeing": narrow, "block_merged": narrow}

    @hookimpl
    def page_freeing(self, pfn: int, order: int) -> Any:
        """The caller is freeing it, so it is nobody else's."""
        return None if self.stopping else self.call(pfn, order)

    @hookimpl
    def block_merged(self, zone: Zone, pfn: int, order: int) -> Any:
        """Once for every unit; what merges further has been told."""
        return None if self.stopping or order != MIN_ORDER else self.merged(zone, pfn)

    async def merged(self, zone: Zone, pfn: int) -> None:
        """It is on no list now: the lock may go while the host works."""
        zone.lock.release()
        await self.call(pfn, MIN_ORDER)
        await zone.lock.acquire()

    async def call(self, pfn: int, order: int) -> None:
        """The vCPU is out of the guest until the memory is gone."""
        self.calls += 1
        await self.guest.host.hypercall([Block(pfn, order, self.guest.zone_of(pfn))])
        self.calls -= 1
        self.ended.set()

    @hookimpl
    async def guest_stopping(self) -> None:
        """Make no more calls, and wait for those of interrupts and kernel threads."""
        self.stopping = True
        while self.calls:
            await self.ended.wait()

    def claims(self) -> Claims:
        """All that is freed in units, or becomes one, is told at once."""
        return Claims(min_order=MIN_ORDER, liveness_bound_ns=1_000_000, one_zone=True, once=True)


BASES: tuple[type[Strategy], ...] = (Isolating, Posting, Ringed, Marking, Synchronous)
