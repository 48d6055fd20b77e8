"""A guest without costs or interleavings: free blocks in a dictionary, a host that is told when.

It checks what a strategy decides, step by step. What a strategy costs and how it fares among other
vCPUs is tested on the real guest.
"""

from contextlib import contextmanager
from types import SimpleNamespace

from hintbench import Block
from hintbench.binding import bind_hooks, native_filters

BLOCK_PAGES = 1024


class Until:
    """What coroutines await here: a condition, perhaps with a deadline."""

    def __init__(self, ready, deadline=None):
        self.ready = ready
        self.deadline = deadline

    def __await__(self):
        yield self


class Lock:
    """A zone lock that remembers how often it was taken."""

    def __init__(self):
        self.held = False
        self.takes = 0

    async def acquire(self):
        while self.held:
            await Until(lambda: not self.held)
        self.held = True
        self.takes += 1

    def release(self):
        assert self.held
        self.held = False

    async def __aenter__(self):
        await self.acquire()

    async def __aexit__(self, *exception):
        self.release()


class Zone:
    """Free blocks of one zone: order by head."""

    def __init__(self, index, number, start_pfn, pages):
        self.index, self.number = index, number
        self.start_pfn, self.end_pfn = start_pfn, start_pfn + pages
        self.managed_pages = pages
        self.watermark_min, self.watermark_low = 0, 0
        self.lock = Lock()
        self.free = dict.fromkeys(range(start_pfn, self.end_pfn, BLOCK_PAGES), 10)
        self.unlocked = []
        self.scanned = 0

    @property
    def free_pages(self):
        return sum(1 << order for order in self.free.values())

    def free_block_of(self, pfn):
        for order in range(11):
            head = pfn & ~((1 << order) - 1)
            if self.free.get(head, -1) >= order:
                return Block(head, self.free[head], self)
        return None

    def scan_range(self, pfn, end_pfn, min_order):
        assert self.lock.held
        while pfn < end_pfn:
            self.scanned += 1
            block = self.free_block_of(pfn)
            if block is not None and block.order >= min_order:
                return block
            pfn += 1
        return None

    def isolate(self, pfn):
        assert self.lock.held
        order = self.free[pfn]
        if self.free_pages - (1 << order) < self.watermark_min:
            return None
        return Block(pfn, self.free.pop(pfn), self)

    def put_back(self, block, tail=True, notify=False):
        assert not notify
        if not self.lock.held:
            self.unlocked.append(block.pfn)
        return self.insert(block.pfn, block.order)[1]

    def insert(self, pfn, order):
        while order < 10 and self.free.get(pfn ^ (1 << order)) == order:
            del self.free[pfn ^ (1 << order)]
            pfn &= ~(1 << order)
            order += 1
        self.free[pfn] = order
        return pfn, order


class Flags:
    """A set of units."""

    def __init__(self, order):
        self.order = order
        self.units = set()
        self.log = []

    def _over(self, pfn, order):
        return range(pfn >> self.order, (pfn + (1 << order) - 1 >> self.order) + 1)

    def set(self, pfn, order=0):
        self.log.append("set")
        self.units.update(self._over(pfn, order))

    def clear(self, pfn, order=0):
        self.log.append("clear")
        self.units.difference_update(self._over(pfn, order))

    def any(self, pfn, order=0):
        return not self.units.isdisjoint(self._over(pfn, order))

    def test(self, pfn):
        return self.any(pfn)

    def test_and_set(self, pfn):
        before = self.test(pfn)
        self.set(pfn)
        return before

    def find(self, start_pfn, end_pfn, limit=0):
        found = sorted(unit << self.order for unit in self.units)
        found = [pfn for pfn in found if start_pfn <= pfn < end_pfn]
        return found[:limit] if limit else found

    async def wait_clear(self, pfn, order=0, poll=None):
        def ready():
            if poll is not None:
                poll()
            return not self.any(pfn, order)

        await Until(ready)


class Event:
    """Wakes all who wait; remembered for one wait when nobody does."""

    def __init__(self, guest):
        self.guest = guest
        self.is_set = False
        self.waiting = []

    def set(self):
        if not self.waiting:
            self.is_set = True
        for waiter in self.waiting:
            waiter.append(True)
        self.waiting = []

    def clear(self):
        self.is_set = False

    async def wait(self, timeout_ns=None):
        assert not self.guest.irqs_off, "sleeps with interrupts off"
        if self.is_set:
            self.is_set = False
            return True
        woken = []
        self.waiting.append(woken)
        deadline = None if timeout_ns is None else self.guest.now + timeout_ns
        await Until(lambda: bool(woken), deadline)
        self.waiting = [waiter for waiter in self.waiting if waiter is not woken]
        return bool(woken)


class Host:
    """Acknowledges when the test says so, or at once with `serves`."""

    def __init__(self, guest):
        self.guest = guest
        self.attached, self.serves, self.room = True, False, 128
        self.interrupts, self.fails = True, False
        self.posted, self.completions = [], []
        self.batches = []
        self.claimed = None

    async def post(self, blocks, on_interrupt, joined=False):
        assert not any(zone.lock.held for zone in self.guest.zones)
        if len(self.posted) >= self.room:
            return False
        self.batches.append([(block.pfn, block.order) for block in blocks])
        self.posted.append((tuple(blocks), on_interrupt))
        return True

    async def report(self, blocks, joined=False):
        answer = []
        await self.post(blocks, lambda: answer.append(self.poll().ok))
        await Until(lambda: bool(answer))
        return answer[0]

    def finish(self, interrupt=True):
        """Acknowledge the oldest post."""
        blocks, on_interrupt = self.posted.pop(0)
        self.completions.append(SimpleNamespace(blocks=blocks, ok=not self.fails))
        if interrupt and self.interrupts:
            wait = on_interrupt()
            if wait is not None:
                self.guest.drive(wait)

    def poll(self):
        return self.completions.pop(0) if self.completions else None

    def claim_free_memory(self, at_order=0, outside_pcp=False):
        self.claimed = at_order, outside_pcp

    def reported(self):
        """Every pfn reported so far, sorted."""
        return sorted(pfn for batch in self.batches for pfn, order in batch)


class Guest:
    """Zones, one task after the other, and a clock that only waiting moves."""

    def __init__(self, blocks=(8,), numbers=(2,), cpus=1):
        self.zones, start = [], 0
        for index, (count, number) in enumerate(zip(blocks, numbers, strict=True)):
            self.zones.append(Zone(index, number, start, count * BLOCK_PAGES))
            start += count * BLOCK_PAGES
        self.cpus, self.cpu, self.now, self.irqs_off = range(cpus), 0, 0, 0
        self.costs = SimpleNamespace(head_lookup_ns=11, flag_ns=1)
        self.host = Host(self)
        self.tasks, self.drops, self.oopses, self.spent = [], {}, [], 0
        self.has_memory = True

    def attach(self, strategy):
        """Bind a strategy's hooks and start it."""
        self.strategy = strategy
        self.hooks = bind_hooks(strategy)
        self.call("guest_started")
        self.filters = native_filters(strategy, self.hooks, self)
        self.run()
        return strategy

    def call(self, hook, *arguments):
        call = self.hooks[hook]
        wait = call(self, *arguments) if call else None
        if wait is not None:
            self.drive(wait)

    def take(self, pfn, order=10):
        """An allocation: the block leaves its free list; page_allocated fires if it concerns."""
        zone = self.zone_of(pfn)
        block = zone.free_block_of(pfn)
        del zone.free[block.pfn]
        for left in range(block.pfn, block.pfn + block.pages, 1 << order):
            if left != pfn:
                zone.insert(left, order)
        narrowed = self.filters.get("page_allocated")
        if narrowed is not None and narrowed.flags.any(pfn, order):
            self.call("page_allocated", 0, pfn, order)

    def give(self, *pfns, order=10, cpu=0):
        """Free blocks under one hold of the lock, as a pcp drain does."""
        zone = self.zone_of(pfns[0])
        zone.lock.held = True
        for freed_pfn in pfns:
            pfn, merged = zone.insert(freed_pfn, order)
            if merged >= self.filters["block_freed"].min_order:
                freed = SimpleNamespace(pfn=freed_pfn, order=order)
                self.call("block_freed", cpu, zone, pfn, merged, freed, 0)
        zone.lock.held = False
        self.call("free_completed", cpu)

    def drive(self, coroutine):
        """Run a coroutine to its end; the tasks run while it waits."""
        task = self.spawn(coroutine, cpu=0, name="caller")
        for _ in range(10_000):
            if task.done:
                return
            self._turn()
        raise AssertionError("it never ends")

    def run(self, duration_ns=0):
        """Let the tasks run until nothing happens any more, and for so long."""
        end = self.now + duration_ns
        while True:
            while self._turn():
                pass
            deadlines = [
                task.until.deadline
                for task in self.tasks
                if not task.done and task.until and task.until.deadline is not None
            ]
            if not deadlines or min(deadlines) > end:
                break
            self.now = max(self.now, min(deadlines))
        self.now = end

    def _turn(self):
        moved = False
        if self.host.serves:
            while self.host.posted:
                self.host.finish()
                moved = True
        for task in list(self.tasks):
            moved |= not task.done and task.step(self)
        return moved

    def spawn(self, coroutine, *, cpu, name):
        task = Task(coroutine)
        self.tasks.append(task)
        return task

    @contextmanager
    def interrupts_off(self):
        self.irqs_off += 1
        yield
        self.irqs_off -= 1

    async def allocate_buffer(self, size):
        return self.has_memory

    def event(self):
        return Event(self)

    def flags(self, name, *, order, forget="never", meaning="candidate"):
        return Flags(order)

    def per_cpu(self, factory):
        return [factory() for _ in self.cpus]

    def zone_of(self, pfn):
        return next(zone for zone in self.zones if pfn < zone.end_pfn)

    def spend(self, duration_ns):
        self.spent += duration_ns

    def count_drop(self, reason, count=1):
        self.drops[reason] = self.drops.get(reason, 0) + count

    def oops(self, rule, text):
        self.oopses.append(rule)


class Task:
    """A coroutine that is stepped whenever what it awaits has come."""

    def __init__(self, coroutine):
        self.coroutine, self.until, self.done = coroutine, None, False

    def step(self, guest):
        until = self.until
        if until is not None:
            late = until.deadline is not None and guest.now >= until.deadline
            if not late and not until.ready():
                return False
        try:
            self.until = self.coroutine.send(None)
        except StopIteration:
            self.done = True
        return True

    async def join(self):
        await Until(lambda: self.done)
