"""Events, sleeping, joining, spinning: what a strategy's coroutines wait for."""

import pytest

from hintbench import Block, PluginError, Strategy, hookimpl
from hintbench.operations import Flag, allocate, compute, free, idle
from small_guest import START, costs, host, run, small_guest


class Script(Strategy):
    """Coroutines of a test, each a task: name, CPU, function of the script."""

    name = "script"

    def __init__(self, *tasks):
        super().__init__()
        self.to_spawn = tasks
        self.log = []
        self.tasks = []

    @hookimpl
    def guest_started(self, guest):
        self.guest = guest
        self.event = guest.event()
        self.flags = guest.flags("busy", order=10)
        for number, (cpu, task) in enumerate(self.to_spawn):
            self.tasks.append(guest.spawn(task(self), cpu=cpu, name=f"task {number}"))

    def note(self, what):
        self.log.append((what, self.guest.now))


def play(*tasks, tapes=None, **given):
    """Run a script on as many idle vCPUs as it needs."""
    script = Script(*tasks)
    vcpus = 1 + max((cpu for cpu, _ in tasks), default=0)
    run(script, *(tapes or [[idle([20_000])]] * vcpus), config=small_guest(max(1, vcpus), **given))
    return script.log


class Waker(Strategy):
    """Wakes a task, or starts one, under the zone lock."""

    name = "waker"

    def __init__(self, how):
        super().__init__()
        self.how = how

    @hookimpl
    def guest_started(self, guest):
        self.guest, self.event = guest, guest.event()
        if self.how == "set":
            guest.spawn(self.wait(), cpu=1, name="waits")

    async def wait(self):
        await self.event.wait()

    @hookimpl
    def block_freed(self, cpu):
        if self.how in ("set", "set for nobody"):
            self.event.set()
        else:
            delay_ns = 1_000 if self.how == "delayed" else 0
            where = -1 if self.how == "of the host" else cpu
            self.guest.spawn(self.end(), cpu=where, name="work", delay_ns=delay_ns)

    async def end(self):
        pass


@pytest.mark.parametrize(
    ("how", "hold_ns"),
    [("set", 500), ("set for nobody", 0), ("spawn", 500), ("delayed", 0), ("of the host", 0)],
)
def test_a_wake_up_under_the_zone_lock_prolongs_the_hold(how, hold_ns):
    """Linux defers that of kswapd: 73444bc4d8f9, "do not wake kswapd with zone lock held"."""
    tape = [idle([1_000]), allocate([0], order=10, flags=Flag.TOUCHED), free([0]), idle([10_000])]
    # 5.0 frees the block whole, 6.12 as two pageblocks.
    config = small_guest(2, kernel="5.0", costs=costs(task_wake_ns=500))
    metrics = run(Waker(how), tape, config=config).result.metrics
    assert metrics["longest_hold_ns"] == hold_ns
    assert metrics["lock_hold_hook_ns"] == hold_ns


class TestEvent:
    def test_a_set_that_nobody_waits_for_is_remembered_once(self):
        async def task(script):
            script.event.set()
            script.event.set()
            script.note(await script.event.wait())
            script.note(await script.event.wait(timeout_ns=100))

        assert play((0, task)) == [(True, 0), (False, 100)]

    def test_a_cleared_one_is_not(self):
        async def task(script):
            script.event.set()
            script.event.clear()
            script.note(await script.event.wait(timeout_ns=100))

        assert play((0, task)) == [(False, 100)]

    def test_each_wake_up_costs_whoever_sets_it_and_only_those(self):
        """try_to_wake_up(), once for each task that sleeps."""

        async def waits(script):
            await script.event.wait()
            script.note("woken")

        async def sets(script):
            await script.guest.sleep(1_000)
            began = script.guest.now
            script.event.set()
            script.note(("set", script.guest.now - began))
            script.event.set()
            script.note(("again", script.guest.now - began))

        log = play((1, waits), (2, waits), (0, sets), costs=costs(task_wake_ns=500))
        assert [what for what, _ in log] == [("set", 1_000), ("again", 1_000), "woken", "woken"]
        set_at = log[0][1]
        assert [at for _, at in log[2:]] == [set_at - 500, set_at]

    def test_it_wakes_all_who_wait_and_is_not_remembered(self):
        async def waits(script):
            script.note(await script.event.wait())

        async def sets(script):
            await script.guest.sleep(50)
            script.event.set()
            await script.guest.sleep(50)
            script.note(await script.event.wait(timeout_ns=10))

        log = play((0, waits), (1, waits), (2, sets))
        assert log == [(True, 50), (True, 50), (False, 110)]

    def test_a_time_out_that_was_too_late_ends_no_later_wait(self):
        async def waits(script):
            script.note(await script.event.wait(timeout_ns=100))
            script.note(await script.event.wait(timeout_ns=1000))

        async def sets(script):
            await script.guest.sleep(50)
            script.event.set()

        assert play((0, waits), (1, sets)) == [(True, 50), (False, 1050)]

    def test_a_set_after_the_time_out_is_remembered(self):
        async def waits(script):
            script.note(await script.event.wait(timeout_ns=100))
            await script.guest.sleep(100)
            script.note(await script.event.wait(timeout_ns=100))

        async def sets(script):
            await script.guest.sleep(150)
            script.event.set()

        assert play((0, waits), (1, sets)) == [(False, 100), (True, 200)]

    def test_it_can_be_set_in_an_atomic_hook(self):
        class Setting(Script):
            @hookimpl
            def block_taken(self):
                self.event.set()

        async def waits(script):
            script.note(await script.event.wait())

        script = Setting((0, waits))
        run(script, [idle([50]), allocate([0], flags=Flag.TOUCHED), idle([100])])
        assert script.log == [(True, 50)]


class TestTasks:
    def test_sleep(self):
        async def task(script):
            await script.guest.sleep(70)
            script.note("slept")
            await script.guest.sleep(0)
            script.note("yielded")

        assert play((0, task)) == [("slept", 70), ("yielded", 70)]

    def test_join(self):
        async def task(script):
            other = script.guest.spawn(script.guest.sleep(70), cpu=1, name="sleeper")
            assert not other.done
            await other.join()
            script.note(other.done)
            await other.join()
            script.note("again")

        assert play((0, task), (1, lambda script: script.guest.sleep(1))) == [
            (True, 70),
            ("again", 70),
        ]

    def test_a_thread_of_the_host_takes_no_vcpus_time(self):
        async def task(script):
            await script.guest.sleep(100)
            script.guest.spend(5000)
            script.note(script.guest.cpu)

        script = Script((-1, task))
        result = run(script, [compute([9000])]).result
        assert script.log == [(-1, 5100)]
        assert result.metrics["virtual_ns"] == 9000

    def test_a_thread_of_the_host_can_report(self):
        async def task(script):
            zone = script.guest.zones[0]
            script.note(await script.guest.host.report([Block(START, 10, zone)]))

        given = host(device_latency_ns=40, descriptor_ns=5, discard=False)
        assert play((-1, task), host=given) == [(True, 45)]

    def test_where_there_is_no_cpu(self):
        async def task(script):
            script.guest.spawn(script.guest.sleep(1), cpu=1, name="lost")

        with pytest.raises(PluginError, match=r"spawn 'lost': CPU 1 is not one of 0\.\.0"):
            play((0, task))

    def test_times_are_not_negative(self):
        async def task(script):
            script.guest.spend(-1)

        with pytest.raises(PluginError, match="-1 ns is negative"):
            play((0, task))


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
