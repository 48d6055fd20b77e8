"""What takes its blocks back from a slow device, by a reset; and what only ever polls."""

from hintbench import Claims, HookFilter, Strategy, hookimpl

from .common import DELAY, ORDER


class ResetsTheSlow(Strategy):
    """Posts a batch; if the answer is late it looks, resets the device, and takes all back.

    What the device still answers to a batch of before is fetched and means nothing.
    """

    name = "resets-the-slow"
    batch = 2
    patience = 400_000
    looks_first = True

    @hookimpl
    def guest_started(self, guest):
        self.guest, self.quit = guest, guest.event()
        self.ending = False
        self.told = guest.flags("told", order=ORDER, meaning="told", forget="taken")
        self.out, self.answer, self.sent = (), None, False
        self.heard, self.home = guest.event(), guest.event()
        self.hold_off, self.resets = 0, 0
        self.thread = guest.spawn(self.run(), cpu=0, name="driver")

    def fetch(self):
        with self.guest.interrupts_off():
            while (done := self.guest.host.poll()) is not None:
                if done.blocks is self.out:
                    self.answer = done.ok
        self.heard.set()

    async def run(self):
        pause = DELAY
        while not await self.quit.wait(timeout_ns=pause):
            fine = True
            for zone in self.guest.zones:
                while not self.ending and await self.one(zone):
                    fine = self.fine
            pause = DELAY if fine else min(2 * pause, 40_000_000)

    async def one(self, zone):
        self.fine = True
        batch = []
        async with zone.lock:
            if self.guest.now < self.hold_off:
                return False
            for block in zone.free_blocks(ORDER, without=self.told, limit=self.batch):
                got = zone.isolate(block.pfn)
                if got is None:
                    break
                batch.append(got)
            self.out, self.answer = tuple(batch), None
        if not batch:
            return False
        ok = await self.ask()
        async with zone.lock:
            for block in batch:
                if zone.put_back(block) == block.order and ok:
                    self.told.set(block.pfn, block.order)
            self.out, self.sent = (), False
        self.home.set()
        self.fine = ok
        return ok

    async def ask(self):
        self.heard.clear()
        if not await self.guest.host.post(self.out, self.fetch):
            return False
        self.sent = True
        until = self.guest.now + self.patience
        while self.answer is None and self.guest.now < until:
            await self.heard.wait(timeout_ns=until - self.guest.now)
        if self.answer is None and self.looks_first:
            self.fetch()
        if self.answer is None:
            self.guest.host.reset()
            self.resets += 1
            self.patience = min(2 * self.patience, 100_000_000)
            return False
        return self.answer

    @hookimpl
    async def memory_low(self, zone):
        self.hold_off = self.guest.now + 10**9
        while self.out and self.out[0].zone is zone:
            await self.home.wait(timeout_ns=100_000)
        self.hold_off = self.guest.now + 2_000_000

    @hookimpl
    async def guest_stopping(self):
        self.ending = True
        self.quit.set()
        await self.thread.join()
        # The queue is emptied before it goes.
        self.fetch()
        while self.resets and not await self.quiet():
            pass
        self.fetch()

    async def quiet(self):
        """Whether no answer came for long."""
        return not await self.heard.wait(timeout_ns=200_000_000)

    def claims(self):
        return Claims(
            min_order=ORDER,
            liveness_bound_ns=5_000_000_000,
            initial_flush=True,
            in_flight_pages=self.batch << 10,
            lock_takes=(1, 1),
            one_zone=True,
            once=True,
            any_pfn=True,
        )


class ResetsUnseen(ResetsTheSlow):
    """The same, but it goes by interrupts only: an answer that nobody was told of is no answer."""

    name = "resets-unseen"
    looks_first = False


class PollsOnly(ResetsTheSlow):
    """Never resets, and has no use for interrupts: a timer looks for answers."""

    name = "polls-only"

    def rang(self):
        """The interrupt is masked, as far as this goes."""

    async def ask(self):
        if not await self.guest.host.post(self.out, self.rang):
            return False
        wait = 50_000
        while self.answer is None:
            await self.guest.sleep(wait)
            self.fetch()
            wait = min(2 * wait, 1_000_000)
        return self.answer


class ResetsUnderPressure(ResetsTheSlow):
    """Has all the patience there is, but an allocation that fails resets the device."""

    name = "resets-under-pressure"
    patience = 2_000_000_000

    def give_up(self):
        """The answer of a device that was reset is no."""
        if self.answer is None:
            self.guest.host.reset()
            self.resets += 1
            self.answer = False
            self.heard.set()

    @hookimpl
    async def memory_low(self, zone):
        self.hold_off = self.guest.now + 10**9
        while self.out and self.out[0].zone is zone:
            if self.sent:
                self.fetch()
                self.give_up()
            await self.home.wait(timeout_ns=100_000)
        self.hold_off = self.guest.now + 2_000_000


class ChainedByAnswers(Strategy):
    """No thread: each answer's interrupt gives its block back and posts the next."""

    name = "chained-by-answers"

    @hookimpl
    def guest_started(self, guest):
        self.guest, self.ending = guest, False
        self.told = guest.flags("told", order=ORDER, meaning="told", forget="taken")
        self.out = None
        self.idle, self.again, self.home = True, False, guest.event()
        self.hold_off, self.failures, self.timer = 0, 0, None
        self.kick(0)

    def hook_filters(self):
        return {"block_freed": HookFilter(min_order=ORDER)}

    @hookimpl
    def block_freed(self, cpu):
        self.kick(cpu)

    def kick(self, cpu):
        if not self.idle:
            self.again = True
        elif not self.ending:
            self.idle = self.again = False
            delay = DELAY << min(self.failures, 6)
            self.timer = self.guest.spawn(self.next(), cpu=cpu, name="kick", delay_ns=delay)

    async def next(self):
        """Also in interrupts: takes a lock, and posts."""
        for zone in self.guest.zones:
            async with zone.lock:
                block = None
                if self.ending or self.guest.now < self.hold_off:
                    break
                found = zone.free_blocks(ORDER, without=self.told)
                if not found:
                    continue
                # Near the watermark a smaller one may still be taken.
                isolated = map(zone.isolate, [each.pfn for each in found])
                self.out = block = next(filter(None, isolated), None)
            if block is None:
                self.again = True
                continue
            if await self.guest.host.post([block], self.answered):
                return
            await self.back(block, False)
            break
        else:
            self.idle = True
            if self.again:
                self.failures += 1
                self.kick(self.guest.cpu)
            return
        self.idle = True
        self.failures += 1
        self.kick(self.guest.cpu)

    async def back(self, block, ok):
        async with block.zone.lock:
            if block.zone.put_back(block) == block.order and ok:
                self.told.set(block.pfn, block.order)
            self.out = None
        self.home.set()

    async def answered(self):
        while (done := self.guest.host.poll()) is not None:
            await self.back(done.blocks[0], done.ok)
            self.failures = 0 if done.ok else self.failures + 1
            if done.ok:
                await self.next()
            else:
                self.idle = True
                self.kick(self.guest.cpu)

    @hookimpl
    async def memory_low(self, zone):
        self.hold_off = self.guest.now + 10**9
        while self.out is not None and self.out.zone is zone:
            await self.home.wait(timeout_ns=100_000)
        self.hold_off = self.guest.now + 2_000_000

    @hookimpl
    async def guest_stopping(self):
        self.ending = True
        if self.timer is not None and not self.timer.cancel():
            await self.timer.join()
        while self.out is not None:
            await self.home.wait(timeout_ns=500_000)

    def claims(self):
        return Claims(
            min_order=ORDER,
            liveness_bound_ns=4_000_000_000,
            in_flight_pages=1 << 10,
            one_zone=True,
            once=True,
        )
