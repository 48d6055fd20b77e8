"""Threads that walk the free lists, slowly, or what a ring holds."""

from hintbench import Claims, HookFilter, Strategy, hookimpl

from .common import DELAY, ORDER, UNIT


class RingAndScan(Strategy):
    """A ring per zone, written and read under its lock; what overflows is scanned for."""

    name = "ring-and-scan"
    size = 4

    @hookimpl
    def guest_started(self, guest):
        self.guest, self.end = guest, guest.event()
        self.ended = False
        self.told = guest.flags("reported", order=ORDER, meaning="told", forget="taken")
        self.slots = {zone: [0] * self.size for zone in guest.zones}
        self.head = {zone: 0 for zone in guest.zones}
        self.tail = {zone: 0 for zone in guest.zones}
        self.scan = {zone: True for zone in guest.zones}
        self.flying = {zone: [] for zone in guest.zones}
        self.landed = {zone: guest.event() for zone in guest.zones}
        self.starving_until = 0
        self.kick = guest.event()
        self.kick.set()
        self.reader = guest.spawn(self.read(), cpu=guest.cpus[-1], name="reader")

    def hook_filters(self):
        return {"block_freed": HookFilter(min_order=ORDER)}

    @hookimpl
    def block_freed(self, zone, pfn, order):
        for unit in range(pfn, pfn + (1 << order), UNIT):
            if self.head[zone] - self.tail[zone] == self.size:
                self.guest.count_drop("ring full")
                self.scan[zone] = True
                break
            self.slots[zone][self.head[zone] % self.size] = unit
            self.head[zone] += 1
        self.kick.set()

    async def read(self):
        pause = DELAY
        while not self.ended:
            await self.kick.wait()
            await self.end.wait(timeout_ns=pause)
            fine = True
            for zone in self.guest.zones:
                fine = await self.zone(zone) and fine
            pause = DELAY if fine else min(pause * 2, 30_000_000)
            if not fine:
                self.kick.set()

    async def zone(self, zone):
        while not self.ended:
            batch, refused = [], False
            async with zone.lock:
                if self.guest.now < self.starving_until:
                    return False
                if self.scan[zone]:
                    found = zone.free_blocks(ORDER, without=self.told, limit=2)
                    self.scan[zone] = len(found) == 2
                    pfns = [block.pfn for block in found]
                else:
                    pfns = []
                    while self.tail[zone] < self.head[zone] and len(pfns) < 2:
                        pfns.append(self.slots[zone][self.tail[zone] % self.size])
                        self.tail[zone] += 1
                for pfn in pfns:
                    block = zone.free_block_of(pfn)
                    if (
                        block is None
                        or block.order < ORDER
                        or self.told.all(block.pfn, block.order)
                    ):
                        continue
                    got = zone.isolate(block.pfn)
                    if got is None:
                        refused = self.scan[zone] = True
                        break
                    batch.append(got)
                self.flying[zone] += batch
            if batch:
                ok = await self.guest.host.report(batch)
                async with zone.lock:
                    for block in batch:
                        self.flying[zone].remove(block)
                        same = zone.put_back(block) == block.order
                        if ok and same:
                            self.told.set(block.pfn, block.order)
                        if not ok:
                            self.scan[zone] = refused = True
                self.landed[zone].set()
            if refused:
                return False
            if not pfns and not self.scan[zone]:
                return True
        return True

    @hookimpl
    async def memory_low(self, zone):
        self.starving_until = self.guest.now + 60_000_000
        while self.flying[zone]:
            await self.landed[zone].wait(timeout_ns=1_000_000)
        self.starving_until = self.guest.now + 1_000_000

    @hookimpl
    async def guest_stopping(self):
        self.ended = True
        self.end.set()
        self.kick.set()
        await self.reader.join()

    def claims(self):
        return Claims(
            min_order=ORDER,
            liveness_bound_ns=3_000_000_000,
            initial_flush=True,
            in_flight_pages=2 << 10,
            one_zone=True,
            once=True,
            any_pfn=True,
        )


class Ages(Strategy):
    """Three states, young, idle, told: only what lay still for a whole tick is told."""

    name = "ages"
    tick = 500_000

    @hookimpl
    def guest_started(self, guest):
        self.guest, self.stop = guest, guest.event()
        self.old = guest.flags("old", order=ORDER, forget="taken")
        self.told = guest.flags("told", order=ORDER, meaning="told", forget="taken")
        self.out = {zone: 0 for zone in guest.zones}
        self.pause_until = {zone: 0 for zone in guest.zones}
        self.home = guest.event()
        self.clock = guest.spawn(self.ticks(), cpu=0, name="ages")

    async def ticks(self):
        backoff = 0
        while not await self.stop.wait(timeout_ns=self.tick << backoff):
            fine = True
            for zone in self.guest.zones:
                fine = await self.tell_old(zone) and fine
            backoff = 0 if fine else min(backoff + 1, 5)

    async def tell_old(self, zone):
        batch, fine = [], True
        async with zone.lock:
            if self.guest.now < self.pause_until[zone]:
                return True
            for block in zone.free_blocks(ORDER, without=self.told):
                if not self.old.all(block.pfn, block.order):
                    self.old.set(block.pfn, block.order)
                elif len(batch) < 4:
                    got = zone.isolate(block.pfn)
                    if got is None:
                        break
                    batch.append(got)
            self.out[zone] = len(batch)
        if batch:
            fine = await self.guest.host.report(batch)
            async with zone.lock:
                for block in batch:
                    order = zone.put_back(block)
                    if fine and order == block.order:
                        self.told.set(block.pfn, order)
                self.out[zone] = 0
            self.home.set()
        return fine

    @hookimpl
    async def memory_low(self, zone):
        self.pause_until[zone] = self.guest.now + 1_000_000_000
        while self.out[zone]:
            await self.home.wait(timeout_ns=200_000)
        self.pause_until[zone] = self.guest.now + 5_000_000

    @hookimpl
    async def guest_stopping(self):
        self.stop.set()
        await self.clock.join()

    def claims(self):
        return Claims(
            min_order=ORDER,
            liveness_bound_ns=4_000_000_000,
            initial_flush=True,
            in_flight_pages=4 << 10,
            lock_takes=(1, 1),
            one_zone=True,
            once=True,
            any_pfn=True,
        )


class OneAtATime(Strategy):
    """As simple as can be: walks all zones for ever, one block at a time, slowly."""

    name = "one-at-a-time"

    @hookimpl
    async def guest_started(self, guest):
        self.guest = guest
        self.known = guest.flags("known", order=ORDER, meaning="told", forget="taken")
        self.busy = None
        self.stop = guest.event()
        self.more = guest.event()
        self.hold_off = 0
        self.task = guest.spawn(self.run(), cpu=0, name="one")

    async def run(self):
        while not await self.stop.wait(timeout_ns=200_000):
            for zone in self.guest.zones:
                if self.guest.now < self.hold_off:
                    continue
                async with zone.lock:
                    block = None
                    if self.guest.now >= self.hold_off:
                        for each in zone.free_blocks(ORDER, without=self.known, limit=1):
                            block = zone.isolate(each.pfn)
                    self.busy = block
                if block is None:
                    continue
                ok = await self.guest.host.report((block,))
                async with zone.lock:
                    if zone.put_back(block) == block.order and ok:
                        self.known.set(block.pfn, block.order)
                    self.busy = None
                self.more.set()

    @hookimpl
    async def memory_low(self, zone):
        self.hold_off = self.guest.now + 10**9
        while self.busy is not None:
            await self.more.wait(timeout_ns=50_000)
        self.hold_off = self.guest.now + 3_000_000

    @hookimpl
    async def guest_stopping(self):
        self.stop.set()
        await self.task.join()

    def claims(self):
        return Claims(
            min_order=ORDER,
            liveness_bound_ns=5_000_000_000,
            initial_flush=True,
            in_flight_pages=1 << 10,
            lock_takes=(1, 1),
            one_zone=True,
            once=True,
            any_pfn=True,
            hold_visits=None,
        )


class Gated(OneAtATime):
    """Tells only while a zone has plenty, and says so."""

    name = "gated"

    async def run(self):
        while not await self.stop.wait(timeout_ns=200_000):
            for zone in self.guest.zones:
                async with zone.lock:
                    block = None
                    if self.guest.now >= self.hold_off and not self.shut(zone):
                        for each in zone.free_blocks(ORDER, without=self.known, limit=1):
                            block = zone.isolate(each.pfn)
                    self.busy = block
                if block is None:
                    continue
                ok = await self.guest.host.report((block,))
                async with zone.lock:
                    if zone.put_back(block) == block.order and ok:
                        self.known.set(block.pfn, block.order)
                    self.busy = None
                self.more.set()

    @staticmethod
    def shut(zone):
        return zone.free_pages < zone.managed_pages // 3

    def claims(self):
        return Claims(
            min_order=ORDER,
            liveness_bound_ns=5_000_000_000,
            initial_flush=True,
            in_flight_pages=1 << 10,
            lock_takes=(1, 1),
            one_zone=True,
            once=True,
            any_pfn=True,
            gate=self.shut,
        )
