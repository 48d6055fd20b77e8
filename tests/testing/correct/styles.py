"""Unusual and legal: a task for each order, or for each block; heaps; a host that looks itself."""

import heapq
from dataclasses import dataclass, field

from hintbench import Block, Claims, HookFilter, Strategy, hookimpl

from .common import ORDER, UNIT

LARGEST = 1024


@dataclass
class Batch:
    """Blocks of one zone, and how many pages they have."""

    zone: object
    blocks: list = field(default_factory=list)
    pages: int = 0

    def take(self, pfn):
        block = self.zone.isolate(pfn)
        if block is not None:
            self.blocks.append(block)
            self.pages += block.pages


class TaskPerOrder(Strategy):
    """A thread for every order, zones from the last on; waits longer while there is nothing."""

    name = "task-per-order"

    @hookimpl
    def guest_started(self, guest):
        self.guest, self.over, self.hungry = guest, False, 0
        self.told = guest.flags("told", order=ORDER, forget="taken", meaning="told")
        self.busy = {zone: 0 for zone in guest.zones}
        self.back, self.stop = guest.event(), {order: guest.event() for order in (9, 10)}
        self.tasks = [
            guest.spawn(self.run(order), cpu=guest.cpus[order % len(guest.cpus)], name="order")
            for order in self.stop
        ]

    async def run(self, order):
        pause = 100_000
        while not self.over:
            progress = [await self.sweep(order, zone) for zone in reversed(self.guest.zones)]
            pause = 100_000 if any(progress) else min(2 * pause, 20_000_000)
            await self.stop[order].wait(timeout_ns=pause)

    async def sweep(self, order, zone):
        done = False
        while not self.over:
            batch = Batch(zone)
            async with zone.lock:
                if not self.hungry and self.busy[zone] <= 2 * LARGEST:
                    for migratetype in range(4):
                        room = 2 - len(batch.blocks)
                        if room:
                            found = zone.free_list(order, migratetype, self.told, limit=room)
                            for one in found:
                                batch.take(one.pfn)
                self.busy[zone] += batch.pages
            if not batch.blocks:
                break
            ok = await self.guest.host.report(batch.blocks, joined=True)
            async with zone.lock:
                while batch.blocks:
                    block = batch.blocks.pop()
                    if zone.put_back(block, tail=True) == block.order and ok:
                        self.told.set(block.pfn, block.order)
                self.busy[zone] -= batch.pages
            self.back.set()
            done |= ok
            if not ok:
                await self.guest.sleep(300_000)
        return done

    @hookimpl
    async def memory_low(self, zone):
        self.hungry += 1
        while self.busy[zone]:
            await self.back.wait()
        self.hungry -= 1

    @hookimpl
    async def guest_stopping(self):
        self.over = True
        for event in self.stop.values():
            event.set()
        for task in self.tasks:
            await task.join()

    def claims(self):
        return Claims(
            min_order=ORDER,
            liveness_bound_ns=2_000_000_000,
            initial_flush=True,
            in_flight_pages=4 * LARGEST,
            lock_takes=(1, 1),
            one_zone=True,
            once=True,
            any_pfn=True,
        )


class TaskPerBlock(Strategy):
    """One thread isolates; each block is told by a task of its own, on the next CPU."""

    name = "task-per-block"
    most = 3

    @hookimpl
    def guest_started(self, guest):
        self.guest, self.tokens, self.hungry, self.pause_ns = guest, self.most, 0, 0
        self.told = guest.flags("told", order=ORDER, forget="taken", meaning="told")
        self.token, self.wake, self.over, self.children = guest.event(), guest.event(), False, []
        self.boss = guest.spawn(self.dispatch(), cpu=0, name="boss")

    async def dispatch(self):
        guest, cpu = self.guest, 0
        while not self.over:
            idle = True
            for zone in guest.zones:
                while not (self.over or self.hungry or self.pause_ns):
                    while not self.tokens:
                        await self.token.wait()
                    if self.over or self.hungry:
                        break
                    async with zone.lock:
                        found = zone.free_blocks(ORDER, without=self.told, limit=1)
                        block = zone.isolate(found[0].pfn) if found else None
                        self.tokens -= block is not None
                    if block is None:
                        break
                    idle, cpu = False, (cpu + 1) % len(guest.cpus)
                    self.children = [each for each in self.children if not each.done]
                    self.children.append(guest.spawn(self.tell(block), cpu=cpu, name="child"))
            if self.pause_ns:
                await guest.sleep(self.pause_ns)
                self.pause_ns = 0
            elif idle or self.hungry:
                await self.wake.wait(timeout_ns=400_000)

    async def tell(self, block):
        ok = await self.guest.host.report((block,))
        async with block.zone.lock:
            if block.zone.put_back(block, tail=True) == block.order and ok:
                self.told.set(block.pfn, block.order)
            self.tokens += 1
        if not ok:
            self.pause_ns = 1_000_000
        self.token.set()
        self.wake.set()

    @hookimpl
    async def memory_low(self, guest):
        self.hungry += 1
        while self.tokens < self.most:
            await guest.sleep(20_000)
        self.hungry -= 1

    @hookimpl
    async def guest_stopping(self):
        self.over = True
        self.wake.set()
        self.token.set()
        await self.boss.join()
        for each in self.children:
            await each.join()

    def claims(self):
        return Claims(
            min_order=ORDER,
            liveness_bound_ns=3_000_000_000,
            initial_flush=True,
            in_flight_pages=self.most * LARGEST,
            lock_takes=(1, 1),
            one_zone=True,
            once=True,
            any_pfn=True,
        )


class RipensInAHeap(Strategy):
    """What is freed lies in a heap by age for a millisecond, then in one by address."""

    name = "ripens-in-a-heap"

    @hookimpl
    def guest_started(self, guest):
        self.guest, self.young, self.ripe, self.known = guest, [], [], set()
        self.told = guest.flags("told", order=ORDER, forget="taken", meaning="told")
        self.bell, self.home = guest.event(), guest.event()
        self.out, self.over, self.hungry = [], False, 0
        self.thread = guest.spawn(self.run(), cpu=guest.cpus[0], name="heaps")

    def hook_filters(self):
        return {"block_freed": HookFilter(min_order=ORDER)}

    @hookimpl
    def block_freed(self, pfn, order):
        self.lay_down(range(pfn, pfn + (1 << order), UNIT), 1_000_000)
        self.bell.set()

    def lay_down(self, units, age_ns):
        for unit in units:
            if unit not in self.known:
                self.known.add(unit)
                heapq.heappush(self.young, (self.guest.now + age_ns, unit))

    async def run(self):
        guest, pause_ns = self.guest, 0
        while not self.over:
            await guest.sleep(pause_ns)
            if not (self.young or self.ripe):
                await self.bell.wait()
            elif not self.ripe:
                await self.bell.wait(timeout_ns=max(1, self.young[0][0] - guest.now))
            while self.young and self.young[0][0] <= guest.now:
                heapq.heappush(self.ripe, heapq.heappop(self.young)[1])
            if self.ripe and not self.over:
                ok = await self.tell(guest.zone_of(self.ripe[0]))
                pause_ns = 0 if ok else min(2 * pause_ns + 100_000, 50_000_000)

    async def tell(self, zone):
        again, ok = [], True
        async with zone.lock:
            while self.ripe and len(self.out) < 4 and self.guest.zone_of(self.ripe[0]) is zone:
                unit = heapq.heappop(self.ripe)
                self.known.discard(unit)
                block = zone.free_block_of(unit)
                if not self.hungry:
                    if (
                        block is None
                        or block.order < ORDER
                        or self.told.all(block.pfn, block.order)
                    ):
                        continue
                    block = zone.isolate(block.pfn)
                    if block is not None:
                        self.out.append(block)
                        continue
                again.append(unit)
                break
        if self.out:
            ok = await self.guest.host.report(self.out)
            async with zone.lock:
                while self.out:
                    block = self.out.pop(0)
                    if zone.put_back(block, tail=False) == block.order and ok:
                        self.told.set(block.pfn, block.order)
                    elif not ok:
                        again += range(block.pfn, block.end_pfn, UNIT)
            self.home.set()
        with self.guest.interrupts_off():
            self.lay_down(again, 3_000_000)
        return ok

    @hookimpl
    async def memory_low(self, zone):
        self.hungry += 1
        while any(block.zone is zone for block in self.out):
            await self.home.wait()
        self.hungry -= 1

    @hookimpl
    async def guest_stopping(self):
        self.over = True
        self.bell.set()
        await self.thread.join()

    def claims(self):
        return Claims(in_flight_pages=4 * LARGEST, lock_takes=(1, 1), one_zone=True, once=True)


class HostsThreads(Strategy):
    """A host's thread for each zone; the guest has memory installed before it uses it."""

    name = "hosts-threads"

    @hookimpl
    def guest_started(self, guest):
        self.guest, self.over = guest, False
        self.soft = guest.flags("soft", order=ORDER)
        self.threads = [guest.spawn(self.look(zone), cpu=-1, name="host") for zone in guest.zones]

    async def look(self, zone):
        shared = self.guest.host.shared
        while not self.over:
            await self.guest.sleep(300_000 + 10_000 * zone.index)
            taken = [zone]
            while taken and not self.over:
                async with shared.lock:
                    taken = [
                        Block(unit, ORDER, zone)
                        for block in zone.free_blocks(ORDER, without=self.soft, limit=2)
                        for unit in range(block.pfn, block.end_pfn, UNIT)
                        if not self.soft.test_and_set(unit)
                    ]
                    shared.take_back(taken)
                await self.guest.step()

    def hook_filters(self):
        return {"page_allocated": HookFilter(flags=self.soft, cost_ns=3)}

    @hookimpl
    async def page_allocated(self, pfn, order):
        await self.guest.host.shared.install(pfn, order)
        self.soft.clear(pfn, order)

    @hookimpl
    async def guest_stopping(self):
        self.over = True
        for each in self.threads:
            await each.join()

    def claims(self):
        return Claims(
            min_order=ORDER,
            liveness_bound_ns=2_000_000_000,
            initial_flush=True,
            lock_takes=(0, 0),
            one_zone=True,
            once=True,
        )
