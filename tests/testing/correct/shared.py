"""State that all CPUs share, each piece kept as the kernel would keep it."""

from hintbench import Claims, HookFilter, Strategy, hookimpl

from .common import DELAY, ORDER, UNIT


class RequestedPasses(Strategy):
    """One work item in three states, by xchg and cmpxchg; what was freed is listed per zone."""

    name = "requested-passes"

    @hookimpl
    def guest_started(self, guest):
        self.guest, self.shy = guest, guest.atomic(0)
        self.state, self.failed = guest.atomic("idle"), guest.atomic(False)
        self.told = guest.flags("told", order=ORDER, meaning="told", forget="taken")
        # Under the zone's own lock, which block_freed() has anyway.
        self.freed = {zone: guest.guarded([], by=zone.lock) for zone in guest.zones}
        self.seen = guest.per_cpu(int)
        # A batch and how many wait for it, under a lock of their own, inside the zone's.
        self.batches = guest.spinlock("batches")
        self.out = guest.guarded({}, by=self.batches)
        self.back, self.work, self.stopping = guest.event(), None, False
        for zone in guest.zones:
            with zone.lock:
                for block in zone.free_blocks(ORDER):
                    self.freed[zone].extend(range(block.pfn, block.end_pfn, UNIT))
        self.ask(0)

    def hook_filters(self):
        return {"block_freed": HookFilter(min_order=ORDER)}

    @hookimpl
    def block_freed(self, cpu, zone, pfn, order):
        self.seen.add()
        self.freed[zone].extend(range(pfn, pfn + (1 << order), UNIT))
        self.ask(cpu)

    def ask(self, cpu):
        if self.state.read() != "requested" and self.state.exchange("requested") == "idle":
            self.queue(cpu)

    def queue(self, cpu):
        if not self.stopping:
            wait = DELAY << 5 if self.failed.read() else DELAY
            self.work = self.guest.spawn(self.a_pass(), cpu=cpu, name="pass", delay_ns=wait)

    async def a_pass(self):
        self.state.set("active")
        self.failed.set(False)
        for zone in self.guest.zones:
            while not self.stopping and await self.tell(zone):
                pass
        if self.state.compare_exchange("active", "idle") == "requested":
            self.queue(self.guest.cpu)

    async def tell(self, zone):
        batch = []
        async with zone.lock:
            if self.guest.now < self.shy.read():
                self.try_again()
                return False
            while self.freed[zone] and len(batch) < 2:
                unit = self.freed[zone].pop()
                around = zone.free_block_of(unit)
                if around is None or around.order < ORDER:
                    continue
                if self.told.all(around.pfn, around.order):
                    continue
                taken = zone.isolate(around.pfn)
                if taken is None:
                    self.freed[zone].append(unit)
                    self.try_again()
                    break
                batch.append(taken)
            with self.batches:
                self.out[zone] = len(batch)
        if not batch:
            return False
        ok = await self.guest.host.report(batch)
        async with zone.lock:
            for block in batch:
                whole = zone.put_back(block) == block.order
                if ok and whole:
                    self.told.set(block.pfn, block.order)
                else:
                    self.freed[zone].extend(range(block.pfn, block.end_pfn, UNIT))
            async with self.batches:
                self.out[zone] = 0
        self.back.set()
        if not ok:
            self.try_again()
        return ok

    def try_again(self):
        self.failed.set(True)
        self.state.exchange("requested")

    @hookimpl
    async def memory_low(self, zone):
        self.shy.set(self.guest.now + 10**8)
        while True:
            async with self.batches:
                out = self.out.get(zone, 0)
            if not out:
                break
            await self.back.wait(timeout_ns=100_000)
        self.shy.set(self.guest.now + 1_000_000)

    @hookimpl
    async def guest_stopping(self):
        self.stopping = True
        while self.work is not None and not self.work.done:
            if not self.work.cancel():
                await self.work.join()

    def claims(self):
        return Claims(
            min_order=ORDER,
            liveness_bound_ns=4_000_000_000,
            in_flight_pages=2 << 10,
            one_zone=True,
        )
