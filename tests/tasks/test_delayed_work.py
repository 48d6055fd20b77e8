"""Work items that a timer starts: the kernel's timer wheel, and cancelling."""

import gc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hintbench import PluginError, Strategy, hookimpl
from hintbench.errors import TaskLeakError
from hintbench.operations import allocate, free, idle
from hintbench.tasks.jiffies import GRID_NS, HZ, JIFFY_NS, timer_fires_ns
from small_guest import MS, SECOND, boot, costs, run, small_guest


class TestTimerWheel:
    """calc_wheel_index() and calc_index() of kernel/time/timer.c, 6.12."""

    @pytest.mark.parametrize(
        ("jiffies", "delay", "fires"),
        [
            (0, 0, 1),  # a jiffy may be nearly over: one more
            (0, 62, 63),
            (0, 63, 64),  # level 1 goes in steps of 8
            (1, 63, 72),
            (0, 500, 504),  # 2 s
            (3, 500, 504),
            (4, 500, 512),  # exactly on a step: the next one
            (0, 503, 504),
            (0, 504, 512),  # level 2 goes in steps of 64
            (8, 504, 576),
            (0, 60 * HZ, 15360),  # level 3, steps of 512
        ],
    )
    def test_steps(self, jiffies, delay, fires):
        now = jiffies * JIFFY_NS
        assert timer_fires_ns(now, delay * JIFFY_NS) == fires * JIFFY_NS
        assert timer_fires_ns(now + JIFFY_NS - 1, delay * JIFFY_NS) == fires * JIFFY_NS

    def test_a_delay_is_rounded_up_to_jiffies(self):
        assert timer_fires_ns(0, 1) == timer_fires_ns(0, JIFFY_NS) == 2 * JIFFY_NS

    @given(st.integers(0, 10**12), st.integers(0, 10**11), st.integers(0, 10**9))
    def test_never_early_and_at_most_an_eighth_late(self, now, delay, phase):
        late = timer_fires_ns(now, delay, phase) - now - delay
        assert 0 < late <= delay // 7 + 3 * JIFFY_NS

    def test_the_phase_moves_the_steps(self):
        for phase in (0, 5 * MS, 40 * MS):
            assert (timer_fires_ns(12345, 2 * SECOND, phase) - phase) % GRID_NS == 0


class Delayed(Strategy):
    """A work item 2 s after the first free, perhaps cancelled."""

    name = "delayed"

    def __init__(self, cancel_after_ns=None, cancel_at_end=True):
        super().__init__()
        self.cancel_after_ns = cancel_after_ns
        self.cancel_at_end = cancel_at_end
        self.work = None
        self.log = []

    @hookimpl
    def guest_started(self, guest):
        self.guest = guest

    @hookimpl
    def block_freed(self, cpu):
        if self.work is None:
            self.work = self.guest.spawn(self.serve(), cpu=cpu, name="work", delay_ns=2_000_000_000)
            self.begun = self.guest.now
            if self.cancel_after_ns is not None:
                self.guest.spawn(self.cancel(), cpu=cpu, name="cancel")

    async def serve(self):
        self.log.append(self.guest.now)
        await self.guest.sleep(100)

    async def cancel(self):
        await self.guest.sleep(self.cancel_after_ns)
        self.log.append(self.work.cancel())
        await self.work.join()
        self.log.append("joined")

    @hookimpl
    async def guest_stopping(self):
        if self.work and self.cancel_at_end and not self.work.cancel():
            await self.work.join()


def play(strategy, rest_ns, **given):
    tape = [allocate([0], order=10), free([0]), idle([rest_ns])]
    return run(strategy, tape, config=small_guest(1, **given))


class TestDelayedTask:
    def test_it_starts_when_its_timer_fires(self):
        strategy = Delayed()
        play(strategy, 3 * SECOND)
        assert strategy.log == [timer_fires_ns(strategy.begun, 2 * SECOND)]
        assert strategy.work.done

    def test_it_needs_its_cpu_only_then(self):
        strategy = Delayed()
        play(strategy, 3 * SECOND, costs=costs(task_switch_ns=500))
        assert strategy.log == [timer_fires_ns(strategy.begun, 2 * SECOND) + 500]

    def test_cancelled_it_never_runs_and_can_be_joined(self):
        strategy = Delayed(cancel_after_ns=1 * SECOND)
        play(strategy, 3 * SECOND)
        assert strategy.log == [True, "joined"]

    def test_it_cannot_be_cancelled_once_it_runs(self):
        strategy = Delayed(cancel_after_ns=timer_fires_ns(0, 2 * SECOND) + 50)
        play(strategy, 3 * SECOND)
        assert strategy.log[1:] == [False, "joined"]

    def test_cancelled_at_the_end(self):
        strategy = Delayed()
        play(strategy, 1 * SECOND)
        assert strategy.log == []
        assert strategy.work.done

    def test_left_behind_it_is_a_leak_and_no_warning(self, recwarn):
        with pytest.raises(TaskLeakError, match="work"):
            play(Delayed(cancel_at_end=False), 500 * MS)
        gc.collect()
        assert not recwarn.list

    def test_a_negative_delay_is_refused(self):
        class Wrong(Strategy):
            @hookimpl
            def guest_started(self, guest):
                async def nothing():
                    pass

                guest.spawn(nothing(), cpu=0, name="late", delay_ns=-1)

        with pytest.raises(PluginError, match="spawn 'late': delay_ns: -1 ns is negative"):
            boot(Wrong()).execute()
