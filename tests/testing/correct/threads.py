"""What is told in the freeing thread, or with interrupts off."""

from hintbench import Block, Claims, HookFilter, Strategy, hookimpl

from .common import DELAY, ORDER, UNIT


class AfterTheLock(Strategy):
    """The freeing thread notes merged blocks under the lock, and calls the host after it."""

    name = "after-the-lock"

    @hookimpl
    def guest_started(self, guest):
        self.guest, self.off, self.shy = guest, False, 0
        self.noted = guest.per_cpu(list)
        self.out = {zone: 0 for zone in guest.zones}
        self.came = {zone: guest.event() for zone in guest.zones}

    def hook_filters(self):
        return {"block_freed": HookFilter(min_order=ORDER)}

    @hookimpl
    def block_freed(self, cpu, zone, pfn):
        notes = self.noted[cpu]
        if len(notes) < 4 and not self.off:
            notes.append((zone.index, pfn))

    @hookimpl
    def free_completed(self, cpu):
        with self.guest.interrupts_off():
            notes = self.noted[cpu][:]
            self.noted[cpu].clear()
        return self.tell(notes) if notes and not self.off else None

    async def tell(self, notes):
        for index, pfn in notes:
            zone = self.guest.zones[index]
            if self.guest.now < self.shy:
                continue
            async with zone.lock:
                around = zone.free_block_of(pfn)
                block = zone.isolate(around.pfn) if around and around.order >= ORDER else None
                self.out[zone] += block is not None
            if block is None:
                continue
            await self.guest.host.hypercall([block])
            async with zone.lock:
                zone.put_back(block)
                self.out[zone] -= 1
            self.came[zone].set()

    @hookimpl
    async def memory_low(self, zone):
        self.shy = self.guest.now + 10**8
        while self.out[zone]:
            await self.came[zone].wait(timeout_ns=100_000)
        self.shy = self.guest.now + 1_000_000

    @hookimpl
    async def guest_stopping(self):
        self.off = True
        while any(self.out.values()):
            await self.guest.sleep(50_000)

    def claims(self):
        return Claims(min_order=ORDER, lock_takes=(1, 1), one_zone=True, in_flight_pages=16 << 10)


class MarkAndCall(Strategy):
    """The bit with a synchronous call: interrupts off from marking to clearing."""

    name = "mark-and-call"

    @hookimpl
    def guest_started(self, guest):
        self.guest, self.over = guest, guest.event()
        self.stopping = False
        self.mid = guest.flags("mid", order=ORDER, meaning="in-flight")
        self.told = guest.flags("told", order=ORDER, meaning="told", forget="allocated")
        self.worker = guest.spawn(self.work(), cpu=0, name="mark")

    def hook_filters(self):
        return {"page_allocated": HookFilter(flags=self.mid)}

    @hookimpl
    def page_allocated(self, pfn, order):
        return self.mid.wait_clear(pfn, order)

    async def work(self):
        back = 0
        while not await self.over.wait(timeout_ns=DELAY << back):
            fine = True
            for zone in self.guest.zones:
                while not self.stopping:
                    more, ok = await self.one(zone)
                    fine = fine and ok
                    if not more or not ok:
                        break
            back = 0 if fine else min(6, back + 1)

    async def one(self, zone):
        with self.guest.interrupts_off():
            async with zone.lock:
                found = zone.free_blocks(ORDER, without=self.told, limit=1)
                units = []
                if found:
                    around = range(found[0].pfn, found[0].end_pfn, UNIT)
                    units = [unit for unit in around if not self.told.test(unit)]
                    for unit in units:
                        self.mid.set(unit)
            if not units:
                return False, True
            ok = await self.guest.host.hypercall([Block(unit, ORDER, zone) for unit in units])
            for unit in units:
                if ok:
                    self.told.set(unit)
                self.mid.clear(unit)
        return True, ok

    @hookimpl
    async def guest_stopping(self):
        self.stopping = True
        self.over.set()
        await self.worker.join()

    def claims(self):
        return Claims(
            min_order=ORDER,
            liveness_bound_ns=2_000_000_000,
            initial_flush=True,
            in_flight_pages=1 << 10,
            lock_takes=(1, 0),
            one_zone=True,
            once=True,
            any_pfn=True,
        )


class AtTheFree(Strategy):
    """arch_free_page() for huge pages, a slow scan for what came together of pieces."""

    name = "at-the-free"

    @hookimpl
    def guest_started(self, guest):
        self.guest, self.off = guest, guest.event()
        self.stopping = False
        self.scanned = guest.flags("scanned", order=ORDER, forget="taken")
        self.out, self.back, self.rest = dict.fromkeys(guest.zones, 0), guest.event(), 0
        self.scanner = guest.spawn(self.scan(), cpu=0, name="scan")

    def hook_filters(self):
        return {"page_freeing": HookFilter(min_order=ORDER)}

    @hookimpl
    def page_freeing(self, pfn, order):
        if self.stopping:
            return None
        return self.guest.host.hypercall([Block(pfn, order, self.guest.zone_of(pfn))])

    async def scan(self):
        back = 0
        while not await self.off.wait(timeout_ns=1_000_000 << back):
            ok = True
            for zone in self.guest.zones:
                batch = []
                async with zone.lock:
                    if self.guest.now >= self.rest:
                        for block in zone.free_blocks(ORDER, without=self.scanned, limit=4):
                            got = zone.isolate(block.pfn)
                            if got is not None:
                                batch.append(got)
                    self.out[zone] = len(batch)
                if not batch:
                    continue
                ok = await self.guest.host.report(batch, joined=True) and ok
                async with zone.lock:
                    for block in batch:
                        if zone.put_back(block) == block.order and ok:
                            self.scanned.set(block.pfn, block.order)
                    self.out[zone] = 0
                self.back.set()
            back = 0 if ok else min(back + 1, 6)

    @hookimpl
    async def memory_low(self, zone):
        self.rest = self.guest.now + 10**9
        while self.out[zone]:
            await self.back.wait(timeout_ns=100_000)
        self.rest = self.guest.now + 2_000_000

    @hookimpl
    async def guest_stopping(self):
        self.stopping = True
        self.off.set()
        await self.scanner.join()

    def claims(self):
        return Claims(
            min_order=ORDER,
            liveness_bound_ns=4_000_000_000,
            initial_flush=True,
            in_flight_pages=4 << 10,
            one_zone=True,
        )


class CountsOnly(Strategy):
    """Counts what it would tell, and tells nothing."""

    name = "counts-only"

    @hookimpl
    def guest_started(self, guest):
        self.guest = guest
        self.seen = 0

    @hookimpl
    def block_freed(self, order):
        self.seen += order >= ORDER
        self.guest.spend(2)

    def claims(self):
        return Claims(reports_nothing=True)
