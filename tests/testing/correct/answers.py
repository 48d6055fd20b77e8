"""What the host answers to is put back by somebody else, or kept."""

from collections import deque

from hintbench import Claims, HookFilter, Strategy, hookimpl

from .common import DELAY, ORDER


class BottomHalf(Strategy):
    """Posts up to three batches a zone; the interrupt only queues, a bottom half puts back."""

    name = "bottom-half"
    depth = 3

    @hookimpl
    def guest_started(self, guest):
        self.guest, self.stopping = guest, False
        self.told = guest.flags("told", order=ORDER, meaning="told", forget="taken")
        self.out = {zone: 0 for zone in guest.zones}
        self.answers = deque()
        self.rang, self.space, self.poke = guest.event(), guest.event(), guest.event()
        self.low, self.fed, self.timers = 0, False, []
        self.bh = guest.spawn(self.bottom_half(), cpu=0, name="bh")
        self.feeder = guest.spawn(self.feed(), cpu=guest.cpus[-1], name="feed")
        self.poke.set()

    def hook_filters(self):
        return {"block_freed": HookFilter(min_order=ORDER)}

    @hookimpl
    def block_freed(self):
        self.poke.set()

    def fetch(self):
        with self.guest.interrupts_off():
            while (done := self.guest.host.poll()) is not None:
                self.answers.append(done)
        self.rang.set()

    async def bottom_half(self):
        while not self.fed or any(self.out.values()):
            if not self.answers and not await self.rang.wait(
                timeout_ns=1_000_000 if any(self.out.values()) else None
            ):
                self.fetch()
            while self.answers:
                done = self.answers.popleft()
                zone = done.blocks[0].zone
                async with zone.lock:
                    for block in done.blocks:
                        same = zone.put_back(block) == block.order
                        if done.ok and same:
                            self.told.set(block.pfn, block.order)
                        self.out[zone] -= 1
                if not done.ok:
                    self.poke.set()
                self.space.set()

    async def feed(self):
        while not self.stopping:
            await self.poke.wait()
            if self.stopping:
                break
            await self.guest.sleep(DELAY)
            for zone in self.guest.zones:
                while not self.stopping and await self.feed_one(zone):
                    pass

    async def feed_one(self, zone):
        while self.out[zone] >= self.depth:
            await self.space.wait(timeout_ns=500_000)
        async with zone.lock:
            if self.guest.now < self.low:
                self.later()
                return False
            found = zone.free_blocks(ORDER, without=self.told, limit=1)
            block = zone.isolate(found[0].pfn) if found else None
            if found and block is None:
                self.later()
            self.out[zone] += block is not None
        if block is None:
            return False
        if await self.guest.host.post([block], self.fetch):
            return True
        async with zone.lock:
            zone.put_back(block)
            self.out[zone] -= 1
        self.later()
        return False

    def later(self):
        self.timers = [each for each in self.timers if not each.done]
        self.timers.append(
            self.guest.spawn(self.again(), cpu=self.guest.cpu, name="again", delay_ns=5_000_000)
        )

    async def again(self):
        self.poke.set()

    @hookimpl
    async def memory_low(self, zone):
        self.low = self.guest.now + 500_000_000
        while self.out[zone]:
            self.rang.set()
            await self.space.wait(timeout_ns=100_000)
        self.low = self.guest.now + 2_000_000

    @hookimpl
    async def guest_stopping(self):
        self.stopping = True
        self.poke.set()
        self.rang.set()
        await self.feeder.join()
        self.fed = True
        self.rang.set()
        await self.bh.join()
        for timer in self.timers:
            if not timer.cancel():
                await timer.join()

    def claims(self):
        return Claims(
            min_order=ORDER,
            liveness_bound_ns=3_000_000_000,
            initial_flush=True,
            in_flight_pages=self.depth << 10,
            one_zone=True,
            once=True,
        )


class HoldsForAShrinker(Strategy):
    """A balloon of huge pages, told and kept, which its shrinker lets go when memory is low."""

    name = "holds-for-a-shrinker"
    most = 6

    @hookimpl
    def guest_started(self, guest):
        self.guest, self.stop, self.mine = guest, guest.event(), {zone: [] for zone in guest.zones}
        self.shy_until = 0
        self.telling = False
        self.told_all = guest.event()
        self.task = guest.spawn(self.fill(), cpu=0, name="balloon")

    async def fill(self):
        while not await self.stop.wait(timeout_ns=1_000_000):
            if self.guest.now < self.shy_until:
                continue
            for zone in self.guest.zones:
                await self.one(zone)

    async def one(self, zone):
        if len(self.mine[zone]) >= self.most:
            return
        self.telling = True
        self.told_all.clear()
        async with zone.lock:
            block = None if zone.free_pages < zone.managed_pages // 2 else zone.hold(ORDER)
        if block is not None:
            if await self.guest.host.report([block]):
                self.mine[zone].append(block)
            else:
                await self.drop(zone, [block])
                self.shy_until = self.guest.now + 2_000_000
        self.telling = False
        self.told_all.set()

    async def drop(self, zone, blocks):
        async with zone.lock:
            for block in blocks:
                zone.let_go(block)

    @hookimpl
    async def memory_low(self, zone):
        """shrinker->scan_objects()."""
        self.shy_until = self.guest.now + 50_000_000
        while self.telling:
            await self.told_all.wait(timeout_ns=100_000)
        blocks, self.mine[zone] = self.mine[zone], []
        if blocks:
            await self.drop(zone, blocks)

    @hookimpl
    async def guest_stopping(self):
        self.stop.set()
        await self.task.join()
        for zone, blocks in self.mine.items():
            blocks, self.mine[zone] = list(blocks), []
            await self.drop(zone, blocks)

    def claims(self):
        return Claims(min_order=ORDER, one_zone=True, once=True)
