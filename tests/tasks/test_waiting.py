"""Events, sleeping, joining: what a strategy's coroutines wait for."""

import pytest

from hintbench import Block, PluginError, Strategy, hookimpl
from hintbench.operations import Flag, allocate, compute, free, idle
from scripted import Script, play
from small_guest import START, costs, host, run, small_guest


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
            await other
            await other.join()
            script.note(other.done)
            await other
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

    @pytest.mark.parametrize("ns", [(1 << 60) + 1, 1 << 20_000], ids=["long", "endless"])
    def test_times_have_an_end(self, ns):
        async def task(script):
            await script.guest.sleep(ns)

        with pytest.raises(PluginError, match="more than 36 years"):
            play((0, task))
