"""Contexts that spin: what ends it, what runs meanwhile, and deadlocks."""

import pytest

from hintbench import Block, PluginError, hookimpl
from hintbench.operations import Flag, allocate, compute
from scripted import Script, play
from small_guest import START, costs, host, run, small_guest


class TestSpin:
    def test_it_sees_what_other_contexts_do(self):
        async def spins(script):
            await script.guest.spin_while(lambda: not script.log)
            script.note("spun")

        async def does(script):
            await script.guest.sleep(500)
            script.note("done")
            await script.guest.sleep(5000)

        given = {"costs": costs(context_spin_wake_ns=30)}
        assert play((0, spins), (1, does), **given) == [("done", 500), ("spun", 530)]

    def test_it_does_not_wait_for_nothing(self):
        async def spins(script):
            await script.guest.spin_while(lambda: False)
            script.note("spun")

        assert play((0, spins)) == [("spun", 0)]

    def test_wait_clear_ends_with_the_clear(self):
        async def spins(script):
            script.flags.set(START)
            await script.flags.wait_clear(START + 5)
            script.note("clear")

        async def clears(script):
            await script.guest.sleep(500)
            script.flags.clear(START + 1024)
            await script.guest.sleep(500)
            script.flags.clear(START)

        given = {"costs": costs(context_spin_wake_ns=30)}
        assert play((0, spins), (1, clears), **given) == [("clear", 1030)]

    def test_every_unit_of_a_block_must_be_clear(self):
        async def spins(script):
            fine = script.guest.flags("fine", order=9)
            fine.set(START, 10)
            script.guest.spawn(clears(script, fine), cpu=1, name="clears")
            await fine.wait_clear(START, 10)
            script.note("clear")

        async def clears(script, fine):
            for half in (0, 512):
                await script.guest.sleep(500)
                fine.clear(START + half)

        assert play((0, spins), (1, lambda script: script.guest.sleep(1))) == [("clear", 1000)]

    def test_a_spinning_vcpu_runs_neither_its_tape_nor_its_tasks(self):
        async def spins(script):
            await script.guest.sleep(100)
            script.flags.set(START)
            await script.flags.wait_clear(START)
            script.note("clear")

        async def waits_for_the_cpu(script):
            await script.guest.sleep(200)
            script.note("task")

        async def clears(script):
            await script.guest.sleep(1000)
            script.flags.clear(START)

        script = Script((0, spins), (0, waits_for_the_cpu), (1, clears))
        result = run(script, [compute([5000])], []).result
        assert script.log == [("clear", 1000), ("task", 1000)]
        assert result.metrics["virtual_ns"] == 5900
        assert result.metrics["spin_ns"] == 900
        assert result.metrics["guest_cpu_task_ns"] == 900

    def test_neither_does_a_tape_that_spins(self):
        class Spinning(Script):
            @hookimpl
            async def page_allocated(self, pfn):
                self.flags.set(pfn)
                await self.flags.wait_clear(pfn)
                self.note("allocated")

        async def task(script):
            await script.guest.sleep(200)
            script.note("task")

        async def clears(script):
            await script.guest.sleep(1000)
            script.flags.clear(START, 10)
            for pfn in script.flags.set_units():
                script.flags.clear(pfn)

        script = Spinning((0, task), (1, clears))
        result = run(script, [compute([100]), allocate([0], flags=Flag.TOUCHED)], []).result
        assert script.log == [("allocated", 1000), ("task", 1000)]
        assert result.metrics["alloc_spin_total_ns"] == 900


class Hinting(Script):
    """Marks the whole zone and posts it; every allocation waits, with interrupts off."""

    polls = True

    def mark_and_post(self):
        self.busy = self.guest.zones[0]
        for pfn in range(self.busy.start_pfn, self.busy.end_pfn, 1024):
            self.flags.set(pfn)
        return self.guest.host.post([Block(START, 10, self.busy)], self.answered)

    def answered(self):
        while self.guest.host.poll() is not None:
            self.note(f"polled by CPU {self.guest.cpu}")
            for pfn in self.flags.set_units():
                self.flags.clear(pfn)

    @hookimpl
    async def page_allocated(self, guest, cpu, pfn, order):
        with guest.interrupts_off():
            await self.flags.wait_clear(pfn, order, poll=self.answered if self.polls else None)
        self.note(f"allocated on {cpu}")


class TestProgress:
    tapes = [[allocate([cpu], flags=Flag.TOUCHED, time_ns=100)] for cpu in range(3)]

    def config(self, kernel="6.12", **given):
        return small_guest(
            3,
            kernel=kernel,
            host=host(device_latency_ns=1000, discard=False, **given),
            costs=costs(context_spin_wake_ns=30),
        )

    @pytest.mark.parametrize("acknowledge", ["interrupt", "poll"])
    def test_when_every_vcpu_spins_with_interrupts_off_a_spinner_polls(self, acknowledge):
        script = Hinting((2, Hinting.mark_and_post))
        run(script, *self.tapes, config=self.config(acknowledge=acknowledge))
        assert script.log == [
            ("polled by CPU 0", 1000),
            ("allocated on 0", 1030),
            ("allocated on 1", 1030),
            ("allocated on 2", 1030),
        ]

    def test_an_answer_that_is_there_already_is_polled_at_entry(self):
        class Late(Hinting):
            @hookimpl
            async def page_allocated(self, guest, cpu, pfn, order):
                with guest.interrupts_off():
                    guest.spend(5000)
                    async with guest.zones[0].lock:
                        pass
                    await self.flags.wait_clear(pfn, order, poll=self.answered)
                self.note(f"allocated on {cpu}")

        script = Late((0, Hinting.mark_and_post))
        run(script, self.tapes[0], config=small_guest(1, host=self.config().host))
        assert script.log == [("polled by CPU 0", 5100), ("allocated on 0", 5100)]

    @pytest.mark.parametrize("kernel", ["5.0", "6.12"])
    def test_when_nobody_polls_the_deadlock_is_told(self, kernel):
        script = Hinting((2, Hinting.mark_and_post))
        script.polls = False
        with pytest.raises(PluginError, match=r"page_allocated on CPU 0.*deadlocked"):
            run(script, *self.tapes, config=self.config(kernel))

    def test_a_task_that_spins_for_ever_is_told(self):
        async def spins(script):
            await script.guest.spin_while(lambda: True)

        with pytest.raises(PluginError, match=r"task 0 on CPU 0.*deadlocked"):
            play((0, spins))

    def test_also_when_a_task_goes_on_for_ever(self):
        async def ticks(script):
            while True:
                await script.guest.sleep(1_000_000_000)

        script = Hinting((2, Hinting.mark_and_post), (1, ticks))
        script.polls = False
        with pytest.raises(PluginError, match="deadlocked"):
            run(script, *self.tapes, config=self.config("5.0"))
