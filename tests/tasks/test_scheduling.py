"""Who runs when: the order of steps, locks, and what tasks take from the tapes."""

import pytest

from hintbench import Block, GuestConfig, HintbenchError, Strategy, hookimpl
from hintbench.operations import Flag, allocate, compute, free, idle, idle_until, touch
from small_guest import START, boot, costs, host, run, small_guest, trace_lock, zone

NORETRY = Flag.NORETRY | Flag.TOUCHED


def page(slot, **given):
    return allocate([slot], flags=Flag.TOUCHED, **given)


class TestOrder:
    def test_at_one_time_host_interrupt_task_vcpu_then_number(self):
        log = []

        class Everybody(Strategy):
            name = "everybody"

            @hookimpl
            async def guest_started(self, guest):
                self.guest = guest
                block = Block(START, 10, guest.zones[0])
                for cpu in (1, 0):
                    guest.spawn(self.post(cpu, block), cpu=cpu, name="poster")
                await guest.sleep(10)
                # Spawned in an order that is not the expected one.
                for cpu in (1, 0, -1):
                    guest.spawn(self.at_1000(cpu), cpu=cpu, name="task")

            async def post(self, cpu, block):
                await self.guest.host.post([block], lambda: self.log(f"interrupt {cpu}"))

            async def at_1000(self, cpu):
                await self.guest.sleep(1000 - self.guest.now)
                self.log("host" if cpu < 0 else f"task {cpu}")

            def log(self, who):
                log.append((who, self.guest.now))

            @hookimpl
            def page_allocated(self, cpu):
                self.log(f"vcpu {cpu}")

        tapes = [[page(cpu, time_ns=1000)] for cpu in range(2)]
        config = small_guest(2, host=host(device_latency_ns=1000, discard=False))
        run(Everybody(), *tapes, config=config)
        everybody = ["host", "interrupt 0", "interrupt 1", "task 0", "task 1", "vcpu 0", "vcpu 1"]
        assert log == [(who, 1000) for who in everybody]

    def test_the_lowest_clock_goes_first(self):
        log = []

        class Log(Strategy):
            name = "log"

            @hookimpl
            def page_allocated(self, guest, cpu):
                log.append((cpu, guest.now))

        tapes = [[compute([30]), page(0)], [compute([10]), page(1), compute([40]), page(2)]]
        run(Log(), *tapes)
        assert log == [(1, 10), (0, 30), (1, 50)]


class Holders(Strategy):
    """Tasks that compute up to given times, ask for the zone lock and hold it."""

    name = "holders"

    def __init__(self, *holders, sleeps=False):
        super().__init__()
        self.holders, self.sleeps = holders, sleeps

    @hookimpl
    def guest_started(self, guest):
        for cpu, asks_ns, holds_ns in self.holders:
            guest.spawn(self.hold(guest, asks_ns, holds_ns), cpu=cpu, name=f"holder {cpu}")

    async def hold(self, guest, asks_ns, holds_ns):
        if self.sleeps:
            await guest.sleep(asks_ns)
        else:
            guest.spend(asks_ns)
        async with guest.zones[0].lock:
            guest.spend(holds_ns)


class TestLock:
    def holds(self, *holders, sleeps=False, **given):
        running = boot(Holders(*holders, sleeps=sleeps), config=small_guest(4, **given))
        trace = trace_lock(running)
        running.execute()
        takes, releases = trace[::2], trace[1::2]
        assert {what for what, _, _ in takes} == {"take"}
        held = [
            (cpu, begin, end) for (_, cpu, begin), (_, _, end) in zip(takes, releases, strict=True)
        ]
        return held, running.machine.zones[0].lock

    def test_a_request_is_a_step_of_its_own(self):
        """CPU 0 runs first, but asks later: nobody queues behind a hold in his future."""
        held, lock = self.holds((0, 1000, 100), (1, 500, 100))
        assert held == [(1, 500, 600), (0, 1000, 1100)]
        assert lock.contended == 0

    def test_first_come_first_served(self):
        held, lock = self.holds((3, 0, 1000), (2, 30, 10), (0, 10, 10), (1, 20, 10))
        assert held == [(3, 0, 1000), (0, 1000, 1010), (1, 1010, 1020), (2, 1020, 1030)]
        assert lock.contended == 3
        assert sum(lock.wait_ns) == 990 + 990 + 990
        assert lock.longest_wait_ns == 990

    def test_a_lock_from_another_cpu_costs_the_hand_off(self):
        given = {"costs": costs(lock_take_ns=20, lock_handoff_ns=100)}
        holders = [(0, 0, 0), (0, 1000, 0), (1, 2000, 0), (0, 3000, 0)]
        held, _ = self.holds(*holders, sleeps=True, **given)
        assert [begin for _, begin, _ in held] == [120, 1020, 2120, 3120]

    def test_a_hold_is_charged_to_who_holds(self):
        _, lock = self.holds((0, 0, 70))
        assert lock.hold_ns == (0, 70, 0, 0, 0)
        assert lock.longest_hold_ns == (0, 70, 0, 0, 0)

    def test_a_tape_waits_for_a_task(self):
        strategy = Holders((0, 0, 500))
        running = run(strategy, [], [page(0)], config=small_guest(2))
        assert running.result.metrics["lock_wait_thread_ns"] == 500
        assert running.result.metrics["alloc_lock_wait_total_ns"] == 500


class Works(Strategy):
    """Tasks that compute."""

    name = "works"

    def __init__(self, *works):
        super().__init__()
        self.works = works
        self.log = []

    @hookimpl
    def guest_started(self, guest):
        for number, (cpu, *steps) in enumerate(self.works):
            guest.spawn(self.work(guest, number, steps), cpu=cpu, name=f"work {number}")

    async def work(self, guest, number, steps):
        for sleeps_ns, spends_ns in steps:
            await guest.sleep(sleeps_ns)
            began = guest.now
            guest.spend(spends_ns)
            self.log.append((number, began, guest.now))


def ended_ns(running):
    return running.result.metrics["virtual_ns"]


class TestTaskTime:
    @pytest.mark.parametrize("cpu", [0, 1, -1])
    def test_a_task_takes_its_vcpus_time_though_that_computes(self, cpu):
        running = run(Works((cpu, (2000, 3000))), [compute([10_000])], [])
        assert ended_ns(running) == (13_000 if cpu == 0 else 10_000)

    def test_and_the_switch(self):
        config = small_guest(costs=costs(task_switch_ns=500))
        running = run(Works((0, (2000, 3000), (1000, 100))), [compute([20_000])], config=config)
        # guest_started's own switch is before the tapes begin; then spawning, twice waking up.
        assert ended_ns(running) == 20_000 + 3 * 500 + 3100

    def test_not_while_it_sleeps(self):
        running = run(Works((0, (1000, 100), (5000, 100))), [compute([10_000])])
        assert ended_ns(running) == 10_200

    def test_an_idle_vcpu_gives_it_for_nothing(self):
        running = run(Works((0, (2000, 3000))), [idle([10_000])])
        assert ended_ns(running) == 10_000

    def test_an_idle_vcpu_that_is_late_starts_when_the_task_has_ended(self):
        running = run(Works((0, (2000, 30_000))), [idle([10_000])])
        assert ended_ns(running) == 32_000

    def test_an_idle_vcpu_waits_for_a_time_unless_it_has_passed(self):
        running = run(None, [compute([700]), idle_until([500, 10_000]), compute([30])])
        metrics = running.result.metrics
        assert (metrics["virtual_ns"], metrics["busy_ns"]) == (10_030, 730)
        assert metrics["operations"] == 0
        running = run(Works((0, (2000, 3000))), [idle_until([10_000])])
        assert ended_ns(running) == 10_000

    def test_so_it_is_before_an_operations_time(self):
        running = run(Works((0, (2000, 3000))), [page(0, time_ns=10_000)])
        assert ended_ns(running) == 10_000

    def test_tasks_of_one_vcpu_run_one_after_the_other(self):
        works = Works(*[(0, (1000, 500))] * 3)
        running = run(works, [compute([10_000])])
        assert works.log == [(0, 1000, 1500), (1, 1500, 2000), (2, 2000, 2500)]
        assert ended_ns(running) == 11_500

    def test_tasks_of_two_vcpus_side_by_side(self):
        works = Works((0, (1000, 500)), (1, (1000, 500)))
        run(works, [compute([10_000])], [compute([10_000])])
        assert works.log == [(0, 1000, 1500), (1, 1000, 1500)]

    def test_it_is_counted_as_the_guests_cpu_time(self):
        config = small_guest(costs=costs(task_switch_ns=500))
        metrics = run(Works((0, (2000, 3000))), [idle([10_000])], config=config).result.metrics
        # guest_started, the first turn, and the second one.
        assert metrics["guest_cpu_task_ns"] == 3 * 500 + 3000
        assert metrics["guest_cpu_hook_ns"] == 0

    def test_waiting_for_a_lock_is_cpu_time(self):
        metrics = run(Holders((0, 0, 700), (1, 100, 50)), [], []).result.metrics
        assert metrics["guest_cpu_task_ns"] == 700 + 100 + 600 + 50
        assert metrics["lock_wait_task_ns"] == 600


class TestSlots:
    def test_a_free_before_its_allocation_waits(self):
        running = run(None, [free([0])], [compute([500]), page(0), compute([100])])
        assert running.machine.simulation.frees == 1
        assert ended_ns(running) == 600

    def test_so_does_a_touch(self):
        config = small_guest(2, costs=costs(touch_page_ns=7))
        running = run(None, [touch([0])], [compute([500]), page(0)], config=config)
        assert ended_ns(running) == 500 + 7 + 7

    def test_it_is_woken_at_the_time_of_the_allocation_though_a_task_has_its_vcpu(self):
        works = Works((0, (400, 300)))
        running = run(works, [free([0]), compute([50])], [compute([500]), page(0)])
        assert ended_ns(running) == 750

    def test_a_failed_allocation_frees_nothing(self):
        config = small_guest(zones=(zone(16),))
        tape = [allocate(range(20), order=10, flags=NORETRY), touch(range(20)), free(range(20))]
        running = run(None, tape, config=config)
        simulation = running.machine.simulation
        assert (simulation.allocations, simulation.failed, simulation.frees) == (15, 5, 15)
        assert running.machine.zones[0].free_pages == 16 * 1024
        assert running.result.violations == {}

    def test_a_failed_slot_can_be_used_again(self):
        config = small_guest(zones=(zone(16),))
        tape = [
            allocate(range(16), order=10, flags=NORETRY),
            free(range(16)),
            allocate([15], order=10, flags=NORETRY),
            free([15]),
        ]
        running = run(None, tape, config=config)
        assert (running.machine.simulation.failed, running.machine.simulation.frees) == (1, 16)

    @pytest.mark.parametrize("kernel", ["5.0", "6.12"])
    def test_tapes_that_wait_for_each_other_are_told(self, kernel):
        tapes = [[free([0]), page(1)], [free([1]), page(0)]]
        with pytest.raises(HintbenchError, match=r"wait for each other.*vCPU 0 waits for slot 0"):
            run(None, *tapes, config=small_guest(2, kernel=kernel))


def test_the_same_seed_gives_the_same_digest():
    assert run(None, [page(0)]).result.digest == run(None, [page(0)]).result.digest
    assert run(None, [page(0)]).result.digest != run(None, [page(0), page(1)]).result.digest


def test_the_helpers_make_a_guest_of_one_zone():
    config = small_guest()
    assert isinstance(config, GuestConfig)
    assert config.memory == 256 << 20
