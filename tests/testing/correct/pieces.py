"""State that is built late, swapped, or kept for each node; blocks that come back in pieces."""

from hintbench import Block, Claims, HookFilter, Strategy, hookimpl

from .common import DELAY, ORDER, UNIT
from .queues import QueuePerZone


class BackInSlices(QueuePerZone):
    """What the host has acknowledged it gives back one by one, with time for others in between."""

    name = "back-in-slices"
    batch = 3

    async def give(self, zone, batch, ok):
        for block in batch:
            async with zone.lock:
                if zone.put_back(block) == block.order and ok:
                    self.told.set(block.pfn, block.order)
                self.out[zone] -= 1
            self.back[zone].set()
            if not (self.hungry or self.dying):
                await self.guest.sleep(20_000)

    @hookimpl
    async def memory_low(self, zone):
        self.hungry += 1
        while self.out[zone]:
            await self.back[zone].wait(timeout_ns=100_000)
        self.hungry -= 1
        self.quiet_until = self.guest.now + DELAY

    def claims(self):
        return Claims(
            min_order=ORDER,
            liveness_bound_ns=2_000_000_000,
            initial_flush=True,
            in_flight_pages=self.batch << 10,
            lock_takes=(1, self.batch),
            one_zone=True,
            once=True,
            any_pfn=True,
        )


class TwoGenerations(Strategy):
    """Frees set bits in one bitmap; the worker swaps it for an empty one and empties the other."""

    name = "two-generations"
    most = 2

    @hookimpl
    def guest_started(self, guest):
        self.guest, self.stop, self.ending = guest, guest.event(), False
        self.maps = [guest.flags(f"generation {number}", order=ORDER) for number in range(2)]
        self.told = guest.flags("told", order=ORDER, meaning="told", forget="taken")
        self.young = 0
        self.busy, self.free = {zone: 0 for zone in guest.zones}, guest.event()
        self.sparing = 0
        for zone in guest.zones:
            for pfn in range(zone.start_pfn & -UNIT, zone.end_pfn, UNIT):
                self.maps[0].set(pfn)
        self.worker = guest.spawn(self.work(), cpu=guest.cpus[-1], name="generations")

    def hook_filters(self):
        return {"block_freed": HookFilter(min_order=ORDER)}

    @hookimpl
    def block_freed(self, pfn, order):
        self.maps[self.young].set(pfn, order)

    async def work(self):
        pause = DELAY
        while not await self.stop.wait(timeout_ns=pause):
            fine = True
            old, self.young = self.maps[self.young], 1 - self.young
            for zone in self.guest.zones:
                while not self.ending and (pfns := old.find(zone.start_pfn, zone.end_pfn, 4)):
                    if not await self.tell(zone, old, pfns):
                        fine = False
                        # What is left grows old again.
                        for pfn in old.find(zone.start_pfn, zone.end_pfn):
                            old.clear(pfn)
                            self.maps[self.young].set(pfn)
                        break
            pause = DELAY if fine else min(2 * pause, 50_000_000)

    async def tell(self, zone, old, pfns):
        batch, refused = [], False
        async with zone.lock:
            if self.guest.now < self.sparing:
                return False
            for pfn in pfns:
                if len(batch) == self.most:
                    break
                block = zone.free_block_of(pfn)
                stale = block is None or block.order < ORDER
                if not stale and not self.told.any(block.pfn, block.order):
                    got = zone.isolate(block.pfn)
                    if got is None:
                        refused = True
                        break
                    batch.append(got)
                    old.clear(got.pfn, got.order)
                old.clear(pfn)
            self.busy[zone] = len(batch)
        if batch:
            ok = await self.guest.host.report(batch)
            async with zone.lock:
                for block in batch:
                    same = zone.put_back(block) == block.order
                    if ok and same:
                        self.told.set(block.pfn, block.order)
                    elif not ok:
                        self.maps[self.young].set(block.pfn, block.order)
                self.busy[zone] = 0
            self.free.set()
            refused = refused or not ok
        return not refused

    @hookimpl
    async def memory_low(self, zone):
        self.sparing = self.guest.now + 10**9
        while self.busy[zone]:
            await self.free.wait(timeout_ns=100_000)
        self.sparing = self.guest.now + 1_000_000

    @hookimpl
    async def guest_stopping(self):
        self.ending = True
        self.stop.set()
        await self.worker.join()

    def claims(self):
        return Claims(
            min_order=ORDER,
            liveness_bound_ns=3_000_000_000,
            initial_flush=True,
            in_flight_pages=self.most << 10,
            lock_takes=(1, 1),
            hold_visits=8,
            one_zone=True,
            once=True,
            any_pfn=True,
        )


class BuiltLate(Strategy):
    """Builds the state of a zone when something is first freed there; without memory, later."""

    name = "built-late"

    class Area:
        """What it knows of a zone."""

        def __init__(self, guest, zone):
            self.zone = zone
            self.told = guest.flags(
                f"told {zone.index}", order=ORDER, meaning="told", forget="taken"
            )
            self.taken = None
            self.returned = guest.event()

    @hookimpl
    def guest_started(self, guest):
        self.guest, self.areas, self.asked = guest, {}, {}
        self.work, self.off, self.calm = None, False, 0

    def hook_filters(self):
        return {"block_freed": HookFilter(min_order=ORDER)}

    @hookimpl
    def block_freed(self, zone, cpu):
        self.asked[zone] = True
        if not self.off and (self.work is None or self.work.done):
            self.work = self.guest.spawn(self.run(), cpu=cpu, name="late", delay_ns=DELAY)

    async def run(self):
        pause = DELAY
        while self.asked and not self.off:
            zone = next(iter(self.asked))
            if await self.serve(zone):
                self.asked.pop(zone, None)
                pause = DELAY
            else:
                self.asked[zone] = self.asked.pop(zone)
                pause = min(2 * pause, 20_000_000)
                await self.guest.sleep(pause)

    async def serve(self, zone):
        """Whether nothing is left to tell."""
        if zone not in self.areas:
            if not await self.guest.allocate_buffer(4096):
                return False
            self.areas[zone] = self.Area(self.guest, zone)
        area = self.areas[zone]
        while not self.off:
            async with zone.lock:
                found = zone.free_blocks(ORDER, without=area.told, limit=1)
                shy = self.guest.now < self.calm
                block = zone.isolate(found[0].pfn) if found and not shy else None
                area.taken = block
                if not found:
                    self.asked.pop(zone, None)
            if block is None:
                return not found
            ok = await self.guest.host.report([block])
            async with zone.lock:
                if zone.put_back(block) == block.order and ok:
                    area.told.set(block.pfn, block.order)
                area.taken = None
            area.returned.set()
            if not ok:
                return False
        return True

    @hookimpl
    async def memory_low(self, zone):
        self.calm = self.guest.now + 10**9
        while zone in self.areas and self.areas[zone].taken is not None:
            await self.areas[zone].returned.wait(timeout_ns=100_000)
        self.calm = self.guest.now + 1_000_000

    @hookimpl
    async def guest_stopping(self):
        self.off = True
        if self.work is not None and not self.work.cancel():
            await self.work.join()

    def claims(self):
        return Claims(
            min_order=ORDER,
            liveness_bound_ns=4_000_000_000,
            in_flight_pages=1 << 10,
            lock_takes=(1, 1),
            one_zone=True,
            once=True,
        )


class ManyHands(Strategy):
    """Three threads share a zone's blocks; each takes one, tells, and gives it back."""

    name = "many-hands"
    hands = 3

    @hookimpl
    def guest_started(self, guest):
        self.guest, self.stop, self.over = guest, guest.event(), False
        self.told = guest.flags("told", order=ORDER, meaning="told", forget="taken")
        self.hands_out = {zone: 0 for zone in guest.zones}
        self.given, self.pause_until = guest.event(), 0
        self.threads = [
            guest.spawn(self.hand(number), cpu=number % len(guest.cpus), name=f"hand{number}")
            for number in range(self.hands)
        ]

    async def hand(self, number):
        pause = DELAY + 7_000 * number
        while not self.over:
            await self.guest.sleep(pause)
            fine = True
            for zone in self.guest.zones:
                while not self.over:
                    async with zone.lock:
                        found = []
                        if self.guest.now >= self.pause_until:
                            found = zone.free_blocks(ORDER, without=self.told, limit=1)
                        block = zone.isolate(found[0].pfn) if found else None
                        self.hands_out[zone] += block is not None
                    if block is None:
                        break
                    fine = await self.guest.host.report([block])
                    async with zone.lock:
                        if zone.put_back(block) == block.order and fine:
                            self.told.set(block.pfn, block.order)
                        self.hands_out[zone] -= 1
                    self.given.set()
                    if not fine:
                        break
            pause = DELAY if fine else min(2 * pause, 30_000_000)

    @hookimpl
    async def memory_low(self, zone):
        self.pause_until = self.guest.now + 10**9
        while self.hands_out[zone]:
            await self.given.wait(timeout_ns=50_000)
        self.pause_until = self.guest.now + 2_000_000

    @hookimpl
    async def guest_stopping(self):
        self.over = True
        for thread in self.threads:
            await thread.join()

    def claims(self):
        return Claims(
            min_order=ORDER,
            liveness_bound_ns=4_000_000_000,
            initial_flush=True,
            in_flight_pages=self.hands << 10,
            lock_takes=(1, 1),
            one_zone=True,
            once=True,
            any_pfn=True,
        )


class OnlyWhenTight(Strategy):
    """Leaves a guest alone that has plenty; frees below that are told at once, by a call."""

    name = "only-when-tight"

    @hookimpl
    def guest_started(self, guest):
        self.guest, self.closed, self.calls = guest, False, 0

    def hook_filters(self):
        return {"page_freeing": HookFilter(min_order=ORDER)}

    @hookimpl
    def page_freeing(self, pfn, order):
        zone = self.guest.zone_of(pfn)
        if self.closed or zone.free_pages > zone.managed_pages * 15 // 16:
            return None
        return self.call(Block(pfn, order, zone))

    async def call(self, block):
        self.calls += 1
        await self.guest.host.hypercall([block])
        self.calls -= 1

    @hookimpl
    async def guest_stopping(self):
        self.closed = True
        while self.calls:
            await self.guest.sleep(20_000)

    def claims(self):
        return Claims(min_order=ORDER, one_zone=True, lock_takes=(0, 0))
