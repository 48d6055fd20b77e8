"""Interrupts: when they are delivered, what they take, and what they share."""

import pytest

from hintbench import Block, Strategy, hookimpl
from hintbench.operations import Flag, allocate, compute, free, idle
from small_guest import START, costs, host, run, small_guest

# An acknowledgement arrives so long after its post.
LATENCY = 1000


class Device(Strategy):
    """Posts one block at time 0 from CPU 0; the acknowledgement comes LATENCY later."""

    name = "device"
    posts = 1
    handler_ns = 0

    def __init__(self):
        super().__init__()
        self.log = []

    @hookimpl
    def guest_started(self, guest):
        self.guest = guest
        guest.spawn(self.post(), cpu=0, name="poster")
        self.start()

    def start(self):
        """What else runs."""

    async def post(self):
        block = Block(START, 10, self.guest.zones[0])
        for _ in range(self.posts):
            await self.guest.host.post([block], self.acknowledged)

    def acknowledged(self):
        self.note("interrupt")
        self.guest.spend(self.handler_ns)

    def note(self, what):
        self.log.append((what, self.guest.now))


def latency(**given):
    return {"host": host(device_latency_ns=LATENCY, discard=False), **given}


class TestDelivery:
    def test_on_the_submitters_cpu_at_once(self):
        device = Device()
        running = run(device, [compute([5000])], [], config=small_guest(2, **latency()))
        assert device.log == [("interrupt", LATENCY)]
        assert running.guest.host.poll() is not None

    def test_it_costs_and_takes_the_time_of_the_tape(self):
        device = Device()
        device.handler_ns = 300
        config = small_guest(**latency(costs=costs(interrupt_ns=50)))
        metrics = run(device, [compute([5000])], config=config).result.metrics
        assert device.log == [("interrupt", LATENCY + 50)]
        assert metrics["virtual_ns"] == 5350
        assert metrics["guest_cpu_interrupt_ns"] == 350

    def test_an_idle_vcpu_loses_nothing(self):
        device = Device()
        device.handler_ns = 300
        metrics = run(device, [idle([5000])], config=small_guest(**latency())).result.metrics
        assert metrics["virtual_ns"] == 5000

    def test_it_takes_the_time_of_a_task(self):
        class Working(Device):
            handler_ns = 300

            def start(self):
                self.guest.spawn(self.work(), cpu=0, name="work")

            async def work(self):
                await self.guest.sleep(LATENCY - 100)
                self.guest.spend(200)
                async with self.guest.zones[0].lock:
                    self.note("task locks")

        device = Working()
        running = run(device, [compute([5000])], config=small_guest(**latency()))
        assert device.log == [("interrupt", LATENCY), ("task locks", LATENCY + 100 + 300)]
        assert running.result.metrics["virtual_ns"] == 5500

    def test_it_runs_before_a_task_that_is_woken_at_the_same_time(self):
        class Waking(Device):
            handler_ns = 300

            def start(self):
                self.guest.spawn(self.wake(), cpu=0, name="wakes")

            async def wake(self):
                await self.guest.sleep(LATENCY)
                self.note("task")

        device = Waking()
        run(device, [compute([5000])], config=small_guest(**latency()))
        assert device.log == [("interrupt", LATENCY), ("task", LATENCY + 300)]

    def test_it_runs_to_completion_while_other_vcpus_go_on(self):
        class Locking(Device):
            """The handler waits for a lock that CPU 1 holds."""

            def start(self):
                self.guest.spawn(self.hold(), cpu=1, name="holder")
                self.guest.spawn(self.wake(), cpu=0, name="wakes")

            async def hold(self):
                await self.guest.sleep(LATENCY - 100)
                async with self.guest.zones[0].lock:
                    self.guest.spend(500)

            async def wake(self):
                await self.guest.sleep(LATENCY + 100)
                self.note("task")

            def acknowledged(self):
                self.note("interrupt")
                return self.take()

            async def take(self):
                async with self.guest.zones[0].lock:
                    self.note("locked")

            @hookimpl
            def page_allocated(self, cpu):
                self.note(f"vcpu {cpu}")

        device = Locking()
        tapes = [
            [allocate([cpu], flags=Flag.TOUCHED, time_ns=LATENCY + 1000 * cpu + 200)]
            for cpu in range(2)
        ]
        config = small_guest(2, **latency())
        run(device, *tapes, config=config)
        assert device.log == [
            ("interrupt", LATENCY),
            ("locked", LATENCY + 400),
            ("task", LATENCY + 400),
            ("vcpu 0", LATENCY + 400),
            ("vcpu 1", LATENCY + 1200),
        ]


class TestInterruptsOff:
    def delivered(self, device, *tapes, kernel="6.12", **given):
        run(device, *tapes, config=small_guest(len(tapes), kernel=kernel, **latency(**given)))
        return dict(device.log)["interrupt"]

    def test_a_zone_lock_hold_of_a_task(self):
        class Holding(Device):
            def start(self):
                self.guest.spawn(self.hold(), cpu=0, name="holder")

            async def hold(self):
                await self.guest.sleep(LATENCY - 100)
                async with self.guest.zones[0].lock:
                    self.guest.spend(700)
                self.guest.spend(5000)

        assert self.delivered(Holding(), []) == LATENCY + 600

    def test_a_zone_lock_hold_of_a_tape(self):
        tape = [compute([LATENCY - 100]), allocate([0], order=10, flags=Flag.TOUCHED)]
        given = {"costs": costs(block_cold_ns=700)}
        assert self.delivered(Device(), tape, **given) == LATENCY + 600

    def test_a_section_with_interrupts_off(self):
        class Off(Device):
            def start(self):
                self.guest.spawn(self.work(), cpu=0, name="works")

            async def work(self):
                await self.guest.sleep(LATENCY - 100)
                with self.guest.interrupts_off():
                    with self.guest.interrupts_off():
                        self.guest.spend(300)
                    self.guest.spend(400)
                self.note("on")
                self.guest.spend(5000)

        device = Off()
        assert self.delivered(device, []) == LATENCY + 600
        assert dict(device.log)["on"] == LATENCY + 600

    def test_a_section_that_waits_for_a_lock(self):
        class Off(Device):
            def start(self):
                self.guest.spawn(self.hold(), cpu=1, name="holds")
                self.guest.spawn(self.work(), cpu=0, name="works")

            async def hold(self):
                async with self.guest.zones[0].lock:
                    self.guest.spend(LATENCY + 500)

            async def work(self):
                with self.guest.interrupts_off():
                    async with self.guest.zones[0].lock:
                        self.note("locked")
                    await self.guest.spin_while(lambda: self.guest.now < LATENCY + 500)
                    self.guest.spend(100)

        assert self.delivered(Off(), [], []) == LATENCY + 600

    @pytest.mark.parametrize(("kernel", "expected"), [("5.0", 600), ("6.12", 0)])
    @pytest.mark.parametrize("waits", [False, True])
    def test_free_completed(self, kernel, expected, waits):
        class Completing(Device):
            @hookimpl
            def free_completed(self, guest):
                guest.spend(200 if waits else 700)
                return self.spin(guest) if waits else None

            async def spin(self, guest):
                async with guest.zones[0].lock:
                    guest.spend(100)
                guest.spend(400)

        tape = [
            allocate([0], order=10, flags=Flag.TOUCHED),
            compute([LATENCY - 100]),
            free([0]),
            compute([5000]),
        ]
        assert self.delivered(Completing(), tape, kernel=kernel) == LATENCY + expected

    @pytest.mark.parametrize(("kernel", "expected"), [("5.0", 450), ("6.12", 50)])
    def test_free_completed_that_ran_ahead(self, kernel, expected):
        """It takes the lock at 950, lets it go at 1,050, and computes up to 1,450."""

        class Completing(Device):
            @hookimpl
            async def free_completed(self, guest):
                guest.spend(200)
                async with guest.zones[0].lock:
                    guest.spend(100)
                guest.spend(400)

        tape = [
            allocate([0], order=10, flags=Flag.TOUCHED),
            compute([LATENCY - 250]),
            free([0]),
            compute([5000]),
        ]
        assert self.delivered(Completing(), tape, kernel=kernel) == LATENCY + expected

    def test_a_spinner_takes_interrupts_unless_they_are_off(self):
        class Spinning(Device):
            off = False

            def start(self):
                self.answered = False
                self.guest.spawn(self.clear(), cpu=1, name="clears")

            async def clear(self):
                await self.guest.sleep(LATENCY + 500)
                self.answered = True

            @hookimpl
            async def page_allocated(self, guest):
                if self.off:
                    with guest.interrupts_off():
                        await guest.spin_while(lambda: not self.answered)
                else:
                    await guest.spin_while(lambda: not self.answered)

        tapes = [[allocate([0], flags=Flag.TOUCHED, time_ns=10)], []]
        device = Spinning()
        assert self.delivered(device, *tapes) == LATENCY
        device = Spinning()
        device.off = True
        assert self.delivered(device, *tapes) == LATENCY + 500

    def test_one_that_came_while_a_hook_asked_for_a_lock_ends_the_spin_after_it(self):
        """The hook waits for the lock, then spins for what the interrupt does."""

        class Needing(Device):
            def start(self):
                self.answered = False
                self.guest.spawn(self.hold(), cpu=1, name="holds")

            async def hold(self):
                async with self.guest.zones[0].lock:
                    self.guest.spend(LATENCY + 300)

            def acknowledged(self):
                super().acknowledged()
                self.answered = True

            @hookimpl
            async def page_allocated(self, guest):
                async with guest.zones[0].lock:
                    pass
                await guest.spin_while(lambda: not self.answered)
                self.note("allocated")

        device = Needing()
        delivered = self.delivered(device, [allocate([0], flags=Flag.TOUCHED, time_ns=500)], [])
        assert delivered == LATENCY + 300
        assert dict(device.log)["allocated"] == LATENCY + 300


class TestSharing:
    def test_completions_that_come_while_it_is_pending_share_one_interrupt(self):
        class Busy(Device):
            posts = 3

            async def post(self):
                with self.guest.interrupts_off():
                    await super().post()
                    self.guest.spend(2 * LATENCY)

            def acknowledged(self):
                self.note("interrupt")
                self.found = []
                while (completion := self.guest.host.poll()) is not None:
                    self.found.append(completion)

        device = Busy()
        run(device, [], config=small_guest(**latency()))
        assert device.log == [("interrupt", 2 * LATENCY)]
        assert len(device.found) == 3

    def test_later_ones_have_their_own(self):
        class Twice(Device):
            async def post(self):
                await super().post()
                await self.guest.sleep(100)
                await super().post()

        device = Twice()
        run(device, [idle([3000])], config=small_guest(**latency()))
        assert [at for _, at in device.log] == [LATENCY, LATENCY + 100]

    def test_each_cpu_has_its_own(self):
        class Everywhere(Device):
            def start(self):
                self.guest.spawn(self.post(), cpu=1, name="poster")

            def acknowledged(self):
                self.note(self.guest.cpu)

        device = Everywhere()
        run(device, [], [], config=small_guest(2, **latency()))
        assert sorted(device.log) == [(0, LATENCY), (1, LATENCY)]

    def test_without_interrupts_one_polls(self):
        device = Device()
        config = small_guest(
            host=host(device_latency_ns=LATENCY, discard=False, acknowledge="poll")
        )
        running = run(device, [idle([3000])], config=config)
        assert device.log == []
        assert running.guest.host.poll().blocks[0].pfn == START
