"""Frees queue work: an item per zone, or a thread per node."""

from collections import deque

from hintbench import Claims, HookFilter, Strategy, hookimpl

from .common import DELAY, ORDER, UNIT


class QueuePerZone(Strategy):
    """A delayed work item per zone, queued by the frees; queued again while anything is left."""

    name = "queue-per-zone"
    batch = 2

    @hookimpl
    def guest_started(self, guest):
        self.guest, self.dying = guest, False
        self.told = guest.flags("told", order=ORDER, meaning="told", forget="taken")
        self.items = {}
        self.running = {}
        self.tries = {zone: 0 for zone in guest.zones}
        self.back = {zone: guest.event() for zone in guest.zones}
        self.out = {zone: 0 for zone in guest.zones}
        self.hungry, self.quiet_until = 0, 0
        for zone in guest.zones:
            self.queue(zone, 0)

    def hook_filters(self):
        return {"block_freed": HookFilter(min_order=ORDER)}

    def queue(self, zone, cpu, delay=DELAY):
        """queue_delayed_work_on(): nothing if it is pending already."""
        if not self.dying and zone not in self.items:
            self.items[zone] = self.guest.spawn(
                self.work(zone, self.running.get(zone)), cpu=cpu, name="work", delay_ns=delay
            )

    @hookimpl
    def block_freed(self, zone, cpu):
        self.queue(zone, cpu)

    async def work(self, zone, before):
        # A work item does not run twice at once.
        if before is not None:
            await before.join()
        self.running[zone] = self.items.pop(zone)
        if self.dying:
            return
        again = await self.pass_over(zone)
        if again:
            self.tries[zone] = min(self.tries[zone] + 1, 6)
            self.queue(zone, self.guest.cpu, DELAY << self.tries[zone])
        else:
            self.tries[zone] = 0

    async def pass_over(self, zone):
        """Whether it has to come again."""
        while not self.dying:
            batch, refused = await self.take(zone)
            if not batch:
                return refused
            ok = await self.guest.host.report(batch)
            await self.give(zone, batch, ok)
            if refused or not ok:
                return True
        return False

    async def take(self, zone):
        batch, refused = [], False
        async with zone.lock:
            if self.hungry or self.guest.now < self.quiet_until:
                return batch, True
            for block in zone.free_blocks(ORDER, without=self.told, limit=self.batch):
                got = zone.isolate(block.pfn)
                if got is None:
                    refused = True
                    break
                batch.append(got)
            self.out[zone] += len(batch)
        return batch, refused

    async def give(self, zone, batch, ok):
        async with zone.lock:
            for block in batch:
                if zone.put_back(block) == block.order and ok:
                    self.told.set(block.pfn, block.order)
            self.out[zone] -= len(batch)
        self.back[zone].set()

    @hookimpl
    async def memory_low(self, zone):
        self.hungry += 1
        while self.out[zone]:
            await self.back[zone].wait()
        self.hungry -= 1
        self.quiet_until = self.guest.now + DELAY

    @hookimpl
    async def guest_stopping(self):
        self.dying = True
        for zone, item in list(self.items.items()):
            if item.cancel():
                del self.items[zone]
            else:
                await item.join()
        for item in list(self.running.values()):
            await item.join()

    def claims(self):
        return Claims(
            min_order=ORDER,
            liveness_bound_ns=2_000_000_000,
            initial_flush=True,
            in_flight_pages=self.batch << 10,
            lock_takes=(1, 1),
            one_zone=True,
            once=True,
            any_pfn=True,
        )


class ThreadPerNode(Strategy):
    """A kthread per node sleeps on a wait queue; the frees link blocks to a FIFO of their zone."""

    name = "thread-per-node"
    batch = 3

    @hookimpl
    def guest_started(self, guest):
        self.guest, self.stop = guest, False
        self.told = guest.flags("told", order=ORDER, meaning="told", forget="taken")
        self.fifo = {zone: deque() for zone in guest.zones}
        self.listed = guest.flags("listed", order=ORDER)
        nodes = sorted({zone.node for zone in guest.zones})
        self.zones = {node: [z for z in guest.zones if z.node == node] for node in nodes}
        self.wq = {node: guest.event() for node in nodes}
        self.quit = guest.event()
        self.idle = {zone: guest.event() for zone in guest.zones}
        self.busy = {zone: False for zone in guest.zones}
        self.want = {zone: 0 for zone in guest.zones}
        self.threads = []
        for number, node in enumerate(nodes):
            for zone in self.zones[node]:
                for pfn in range(zone.start_pfn & -UNIT, zone.end_pfn, UNIT):
                    self.enlist(zone, pfn)
            self.threads.append(
                guest.spawn(self.thread(node), cpu=number % len(guest.cpus), name=f"khint{node}")
            )

    def hook_filters(self):
        return {"block_freed": HookFilter(min_order=ORDER)}

    def enlist(self, zone, pfn):
        if not self.listed.test_and_set(pfn):
            self.fifo[zone].append(pfn)
        self.wq[zone.node].set()

    @hookimpl
    def block_freed(self, zone, pfn, order):
        for unit in range(pfn, pfn + (1 << order), UNIT):
            self.enlist(zone, unit)

    async def thread(self, node):
        pause = DELAY
        while not self.stop:
            await self.wq[node].wait()
            while not self.stop and any(self.fifo[zone] for zone in self.zones[node]):
                await self.quit.wait(timeout_ns=pause)
                went_well = True
                for zone in self.zones[node]:
                    went_well &= await self.drain(zone)
                pause = DELAY if went_well else min(2 * pause, 20_000_000)
                if not self.stop:
                    self.quit.clear()

    async def drain(self, zone):
        while self.fifo[zone] and not self.stop:
            self.busy[zone] = True
            self.idle[zone].clear()
            batch, ok = await self.collect(zone)
            if batch:
                answer = await self.guest.host.report(batch)
                ok = ok and answer
                async with zone.lock:
                    for block in batch:
                        now = zone.put_back(block, tail=True)
                        if answer and now == block.order:
                            self.told.set(block.pfn, block.order)
                        elif not answer:
                            for unit in range(block.pfn, block.end_pfn, UNIT):
                                self.enlist(zone, unit)
            self.busy[zone] = False
            self.idle[zone].set()
            if not ok:
                return False
        return True

    async def collect(self, zone):
        batch = []
        async with zone.lock:
            if self.want[zone]:
                return batch, False
            for _ in range(16):
                if not self.fifo[zone] or len(batch) == self.batch:
                    break
                pfn = self.fifo[zone][0]
                block = zone.free_block_of(pfn)
                if block is None or block.order < ORDER or self.told.all(block.pfn, block.order):
                    self.fifo[zone].popleft()
                    self.listed.clear(pfn)
                    continue
                got = zone.isolate(block.pfn)
                if got is None:
                    return batch, False
                self.fifo[zone].popleft()
                self.listed.clear(pfn)
                batch.append(got)
        return batch, True

    @hookimpl
    async def memory_low(self, zone):
        self.want[zone] += 1
        while self.busy[zone]:
            await self.idle[zone].wait()
            self.idle[zone].set()  # others wait as well
            await self.guest.sleep(1_000)
        self.guest.spawn(
            self.satisfied(zone), cpu=self.guest.cpu, name="satisfied", delay_ns=2 * DELAY
        )

    async def satisfied(self, zone):
        self.want[zone] -= 1
        self.wq[zone.node].set()

    @hookimpl
    async def guest_stopping(self):
        self.stop = True
        self.quit.set()
        for event in self.wq.values():
            event.set()
        for thread in self.threads:
            await thread.join()
        while any(self.want.values()):
            await self.guest.sleep(DELAY)

    def claims(self):
        return Claims(
            min_order=ORDER,
            liveness_bound_ns=3_000_000_000,
            initial_flush=True,
            in_flight_pages=self.batch << 10,
            lock_takes=(1, 1),
            one_zone=True,
            hold_visits=16,
            any_pfn=True,
            once=True,
        )


class SmallBlocks(QueuePerZone):
    """As arm64 with 64 KiB pages does: reports blocks from order 5 on."""

    name = "small-blocks"
    batch = 8

    def hook_filters(self):
        return {"block_freed": HookFilter(min_order=5)}

    @hookimpl
    def guest_started(self, guest):
        # What it has told, not what the host does not back: where that has pages of 2 MiB, the
        # touch of a neighbour brings a small block back.
        self.small = guest.flags("small", order=5, forget="taken")
        super().guest_started(guest)

    async def take(self, zone):
        batch, refused = [], False
        async with zone.lock:
            if self.hungry or self.guest.now < self.quiet_until:
                return batch, True
            for block in zone.free_blocks(5, without=self.small, limit=self.batch):
                got = zone.isolate(block.pfn)
                if got is None:
                    refused = True
                    break
                batch.append(got)
            self.out[zone] += len(batch)
        return batch, refused

    async def give(self, zone, batch, ok):
        async with zone.lock:
            for block in batch:
                if zone.put_back(block) == block.order and ok:
                    self.small.set(block.pfn, block.order)
            self.out[zone] -= len(batch)
        self.back[zone].set()

    def claims(self):
        return Claims(
            min_order=5,
            liveness_bound_ns=3_000_000_000,
            initial_flush=False,
            in_flight_pages=self.batch << 10,
            lock_takes=(1, 1),
            one_zone=True,
            once=True,
        )


class PerNode(QueuePerZone):
    """A batch holds blocks of all zones of a node, each taken and returned under its own lock."""

    name = "per-node"

    async def pass_over(self, zone):
        zones = [each for each in self.guest.zones if each.node == zone.node]
        if zone is not zones[0]:
            # The first zone's work does it for all.
            self.queue(zones[0], self.guest.cpu)
            return False
        while not self.dying:
            batch, refused = [], False
            for each in zones:
                more, no = await self.take(each)
                batch, refused = batch + more, refused or no
            if not batch:
                return refused
            ok = await self.guest.host.report(batch)
            for each in zones:
                mine = [block for block in batch if block.zone is each]
                if mine:
                    await self.give(each, mine, ok)
            if refused or not ok:
                return True
        return False

    @hookimpl
    async def memory_low(self, zone):
        self.hungry += 1
        while self.out[zone]:
            await self.back[zone].wait(timeout_ns=100_000)
        self.hungry -= 1
        self.quiet_until = self.guest.now + DELAY

    @hookimpl
    async def guest_stopping(self):
        self.dying = True
        while self.items or any(not item.done for item in self.running.values()):
            for zone, item in list(self.items.items()):
                if item.cancel():
                    self.items.pop(zone, None)
                else:
                    await item.join()
            for item in list(self.running.values()):
                await item.join()

    def claims(self):
        return Claims(
            min_order=ORDER,
            liveness_bound_ns=3_000_000_000,
            initial_flush=True,
            in_flight_pages=self.batch << 10,
            once=True,
            any_pfn=True,
        )


class CallsWithItsBatch(QueuePerZone):
    """A hypercall with interrupts off, as Hyper-V's, instead of a queue."""

    name = "calls-with-its-batch"

    async def pass_over(self, zone):
        while not self.dying:
            batch, refused = await self.take(zone)
            if not batch:
                return refused
            with self.guest.interrupts_off():
                ok = await self.guest.host.hypercall(batch)
            await self.give(zone, batch, ok)
            if refused or not ok:
                return True
        return False
