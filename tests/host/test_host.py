"""The host's service against sums done by hand: who waits, how long, and what it costs others."""

import pytest

from hintbench import Block, Strategy, hookimpl
from hintbench.operations import Flag, allocate, compute, free, idle
from small_guest import BLOCK, START, boot, costs, host, run, small_guest

# Prices that cannot be confused: an order-10 block has two huge pages.
PRICES = {
    "call_vcpu_thread_ns": 15_000,
    "call_device_thread_ns": 5_000,
    "device_latency_ns": 40_000,
    "hypercall_ns": 2_000,
    "descriptor_ns": 400,
    "unmap_huge_ns": 10_000,
    "unmap_small_ns": 300,
    "unmap_call_ns": 1_700,
    "split_huge_ns": 7_000,
}
SERVICE = 400 + 2 * 10_000
LATER = 1_000_000


class Reporter(Strategy):
    """Reports blocks in its own way; notes when what happened."""

    name = "reporter"

    def __init__(self, *jobs):
        super().__init__()
        self.jobs = jobs
        self.log = []

    @hookimpl
    def guest_started(self, guest):
        self.guest = guest
        self.blocks = [Block(START + number * BLOCK, 10, guest.zones[0]) for number in range(8)]
        for cpu, job in self.jobs:
            guest.spawn(job(self), cpu=cpu, name=f"job on {cpu}")

    def note(self, what):
        self.log.append((what, self.guest.now))


def report(*numbers, after=0, joined=False):
    async def job(self):
        await self.guest.sleep(after)
        done = await self.guest.host.report([self.blocks[n] for n in numbers], joined=joined)
        self.note(("reported", numbers) if done else ("refused", numbers))

    return job


def post(*numbers, after=0, joined=False):
    async def job(self):
        await self.guest.sleep(after)
        blocks = [self.blocks[n] for n in numbers]
        done = await self.guest.host.post(
            blocks, lambda: self.note(("interrupt", numbers)), joined=joined
        )
        self.note(("posted", numbers) if done else ("refused", numbers))

    return job


def hypercall(*numbers, after=0):
    async def job(self):
        await self.guest.sleep(after)
        await self.guest.host.hypercall([self.blocks[n] for n in numbers])
        self.note(("called", numbers))

    return job


def serve(*jobs, tapes=None, price=(), **given):
    """Run jobs; the run with the reporter's `log`, and every change of the backing in `series`."""
    tapes = tapes or [[idle([LATER])]] * (1 + max(cpu for cpu, _ in jobs))
    reporter = Reporter(*jobs)
    config = small_guest(
        len(tapes), host=host(**{**PRICES, **given}), costs=costs(interrupt_ns=1000, **dict(price))
    )
    running = boot(reporter, *tapes, config=config, sample_ns=1)
    running.result = running.execute()
    running.log = sorted(reporter.log, key=lambda entry: entry[1])
    series = running.machine.backing.backed.series()
    running.series = [at for at, _ in series[1:]]
    return running


class TestReport:
    def test_device_thread(self):
        running = serve((0, report(0, 1)))
        arrives = 5_000 + 40_000
        ends = arrives + 2 * SERVICE
        assert running.series == [arrives + SERVICE, ends]
        assert running.log == [(("reported", (0, 1)), ends + 1000)]
        assert running.result.metrics["host_cpu_ns"] == 2 * SERVICE
        assert running.result.metrics["discarded_bytes"] == 8 << 20

    def test_the_kick_takes_the_time_of_the_tape_and_the_service_does_not(self):
        running = serve((0, report(0, 1)), tapes=[[compute([LATER])]])
        # The kick, and the interrupt.
        assert running.result.metrics["virtual_ns"] == LATER + 5_000 + 1000

    def test_vcpu_thread(self):
        running = serve((0, report(0, 1)), kick="vcpu-thread", tapes=[[compute([LATER])]])
        ends = 15_000 + 2 * SERVICE
        assert running.series == [15_000 + SERVICE, ends]
        assert running.log == [(("reported", (0, 1)), ends)]
        assert running.result.metrics["virtual_ns"] == LATER + ends
        assert running.result.metrics["held_ns"] == ends - 15_000
        assert running.result.metrics["spin_ns"] == 0

    def test_hypercall(self):
        running = serve((0, report(0, 1)), kick="hypercall", tapes=[[compute([LATER])]])
        ends = 2_000 + 2 * SERVICE
        assert running.series == [2_000 + SERVICE, ends]
        assert running.log == [(("reported", (0, 1)), ends)]
        assert running.result.metrics["virtual_ns"] == LATER + ends

    @pytest.mark.parametrize("kick", ["vcpu-thread", "device-thread"])
    def test_first_come_first_served(self, kick):
        call = {"vcpu-thread": 15_000, "device-thread": 45_000}[kick]
        interrupt = 1000 if kick == "device-thread" else 0
        jobs = [(0, report(0, after=200)), (1, report(1, after=100)), (2, report(2, after=300))]
        running = serve(*jobs, kick=kick)
        begin = 100 + call
        assert running.log == [
            (("reported", (n,)), begin + (at + 1) * SERVICE + interrupt)
            for at, n in enumerate((1, 0, 2))
        ]

    def test_hypercalls_are_served_side_by_side(self):
        running = serve((0, report(0)), (1, report(1)), kick="hypercall")
        assert running.log == [(("reported", (n,)), 2_000 + SERVICE) for n in (0, 1)]

    @pytest.mark.parametrize("kick", ["vcpu-thread", "device-thread", "hypercall"])
    def test_so_are_synchronous_calls_whatever_the_device(self, kick):
        running = serve((0, hypercall(0)), (1, hypercall(1)), kick=kick)
        assert running.log == [(("called", (n,)), 2_000 + SERVICE) for n in (0, 1)]

    @pytest.mark.parametrize("kick", ["vcpu-thread", "device-thread", "hypercall"])
    def test_without_discard_only_the_call_costs(self, kick):
        running = serve((0, report(0)), kick=kick, discard=False)
        call = {"vcpu-thread": 15_000, "device-thread": 46_000, "hypercall": 2_000}[kick]
        assert running.log == [(("reported", (0,)), call + 400)]
        assert running.series == []
        assert running.result.metrics["vcpu_kicks"] == 0
        assert running.result.metrics["host_cpu_ns"] == 400

    def test_without_a_device(self):
        class Detached(Reporter):
            @hookimpl
            def guest_started(self, guest):
                super().guest_started(guest)
                guest.host.attached = False

        detached = Detached((0, report(0)), (0, post(1)), (0, hypercall(2)))
        run(detached, [idle([LATER])])
        assert [what for what, _ in detached.log] == [
            ("refused", (0,)),
            ("refused", (1,)),
            ("called", (2,)),
        ]

    def test_a_report_that_is_polled_for(self):
        running = serve((0, report(0)), acknowledge="poll")
        assert running.log == [(("reported", (0,)), 45_000 + SERVICE)]


class TestPost:
    def test_device_thread(self):
        running = serve((0, post(0)), tapes=[[compute([LATER])]])
        assert running.log == [
            (("posted", (0,)), 5_000),
            (("interrupt", (0,)), 45_000 + SERVICE + 1000),
        ]
        assert running.result.metrics["virtual_ns"] == LATER + 5_000 + 1000

    @pytest.mark.parametrize(("kick", "call"), [("vcpu-thread", 15_000), ("hypercall", 2_000)])
    def test_a_vcpu_that_serves_it_itself_takes_the_interrupt_on_its_way_back(self, kick, call):
        running = serve((0, post(0)), kick=kick, tapes=[[compute([LATER])]])
        ends = call + SERVICE
        assert running.log == [
            (("interrupt", (0,)), ends + 1000),
            (("posted", (0,)), ends + 1000),
        ]
        assert running.result.metrics["virtual_ns"] == LATER + ends + 1000

    def test_a_queue_that_is_full(self):
        jobs = [(cpu, post(cpu, after=cpu * 100)) for cpu in range(4)]
        running = serve(*jobs, queue_capacity=2)
        assert [what for what, _ in running.log] == [
            ("refused", (2,)),
            ("refused", (3,)),
            ("posted", (0,)),
            ("posted", (1,)),
            ("interrupt", (0,)),
            ("interrupt", (1,)),
        ]
        assert running.result.metrics["refused_reports"] == 2
        assert running.result.metrics["reported_batches"] == 2

    def test_there_is_room_again_when_one_was_served(self):
        jobs = [(0, post(0)), (1, post(1, after=45_000 + SERVICE - 1)), (2, post(2, after=70_000))]
        running = serve(*jobs, queue_capacity=1)
        assert [what for what, _ in running.log if what[0] != "interrupt"] == [
            ("posted", (0,)),
            ("refused", (1,)),
            ("posted", (2,)),
        ]

    def test_room_is_looked_for_at_the_callers_time(self):
        """It computes for long first; what came before it in virtual time is before it here."""

        async def late(self):
            self.guest.spend(70_000)
            self.note(await self.guest.host.post([self.blocks[1]], lambda: None))

        running = serve((0, post(0)), (1, late), queue_capacity=1)
        assert (True, 75_000) in running.log

    @pytest.mark.parametrize("kick", ["device-thread", "hypercall"])
    def test_a_synchronous_call_makes_no_room(self, kick):
        jobs = [(0, hypercall(5)), (1, post(1, after=100_000)), (2, post(2, after=100_001))]
        running = serve(*jobs, queue_capacity=1, kick=kick)
        refused = [what for what, _ in running.log if what[0] == "refused"]
        assert refused == ([("refused", (2,))] if kick == "device-thread" else [])

    def test_a_spinner_that_polls_spends_its_own_time_not_the_hosts(self):
        async def spin(self):
            polled = []

            def poll():
                while (completion := self.guest.host.poll()) is not None:
                    polled.append(completion)
                    self.guest.spend(3_000)

            await self.guest.sleep(1)
            await self.guest.spin_while(lambda: len(polled) < 2, poll)

        running = serve((0, post(0)), (0, post(1)), (1, spin))
        assert running.series == [45_000 + SERVICE, 45_000 + 2 * SERVICE]


class TestCosts:
    def test_neighbours_that_are_joined_share_a_descriptor(self):
        assert serve((0, report(0, 1, 3))).result.metrics["host_cpu_ns"] == 3 * SERVICE
        joined = serve((0, report(0, 1, 3, joined=True)))
        assert joined.result.metrics["host_cpu_ns"] == 3 * SERVICE - 400
        assert joined.result.metrics["discards"] == 2
        assert joined.result.metrics["reported_blocks"] == 3

    def test_what_is_gone_already_costs_its_descriptor(self):
        metrics = serve((0, report(0)), (0, report(0, after=LATER // 2))).result.metrics
        assert metrics["host_cpu_ns"] == SERVICE + 400
        assert metrics["redundant_reported_bytes"] == 4 << 20
        assert metrics["discarded_bytes"] == 4 << 20

    def test_one_madvise_for_every_page_as_the_first_qemu_did(self):
        running = serve((0, report(0)), descriptor_bytes=4096)
        # Each huge page is split once, then unmapped page by page.
        assert running.result.metrics["host_cpu_ns"] == 1024 * (400 + 1_700) + 2 * 7_000

    def test_small_granules(self):
        running = serve((0, report(0)), granule="4KiB")
        assert running.result.metrics["host_cpu_ns"] == 400 + 1024 * 300

    def test_a_part_of_a_huge_page(self):
        async def part(self):
            await self.guest.host.report([Block(START, 8, self.guest.zones[0])])

        running = serve((0, part))
        assert running.result.metrics["host_cpu_ns"] == 400 + 256 * 300 + 7_000

    def test_a_huge_page_is_split_once(self):
        async def in_parts(self):
            zone = self.guest.zones[0]
            for block in (Block(START, 8, zone), Block(START + 256, 8, zone)):
                await self.guest.host.report([block])
            self.note(self.guest.host.backing.is_huge(START))

        running = serve((0, in_parts))
        # What is left of it is mapped by small pages, whole as that half is.
        assert running.result.metrics["host_cpu_ns"] == 2 * (400 + 256 * 300) + 7_000
        assert running.strategy.log[0][0] is False


class TestKicks:
    """A discard of mapped memory is a remote TLB flush."""

    def served(self, *jobs, tapes, **given):
        metrics = serve(*jobs, tapes=tapes, vcpu_kick_ns=100, **given).result.metrics
        return metrics["vcpu_kicks"], metrics["virtual_ns"]

    def test_every_vcpu_that_runs(self):
        busy = [compute([LATER])]
        kicks, end = self.served((0, report(0, 1)), tapes=[busy, busy, busy])
        assert kicks == 2 * 3
        # Two kicks, and on CPU 0 the call and the interrupt.
        assert end == LATER + 2 * 100 + 5_000 + 1000

    def test_not_those_that_idle(self):
        kicks, _ = self.served((0, report(0)), tapes=[[idle([LATER])], [compute([LATER])], []])
        assert kicks == 1

    def test_not_one_that_waits_for_a_slot(self):
        tapes = [[idle([LATER]), allocate([0], flags=Flag.TOUCHED)], [free([0])]]
        kicks, _ = self.served((0, report(0)), tapes=tapes)
        assert kicks == 0

    @pytest.mark.parametrize("kick", ["vcpu-thread", "hypercall"])
    def test_not_the_one_that_is_out_of_the_guest(self, kick):
        busy = [compute([LATER])]
        kicks, _ = self.served((0, report(0)), tapes=[busy, busy], kick=kick)
        assert kicks == 1

    def test_not_one_whose_hook_calls_or_sleeps(self):
        """CPU 0 is in a hypercall of its own, CPU 1 sleeps in direct reclaim, CPU 2 computes."""

        class Calling(Reporter):
            @hookimpl
            async def page_freeing(self, guest, pfn, order):
                await guest.host.hypercall([Block(pfn, order, guest.zones[0])])

            @hookimpl
            async def memory_low(self, guest):
                await guest.sleep(LATER)

        tapes = [
            [compute([1000]), allocate([0], order=10, flags=Flag.TOUCHED), free([0])],
            [allocate(range(1, 65), order=10, flags=Flag.TOUCHED, time_ns=1001)],
            [compute([LATER])],
        ]
        config = small_guest(3, host=host(**PRICES, vcpu_kick_ns=100))
        metrics = run(Calling(), *tapes, config=config).result.metrics
        assert metrics["blocking_failures"] > 0
        assert metrics["vcpu_kicks"] == 1

    def test_also_one_that_runs_a_task_on_an_idle_vcpu(self):
        async def work(self):
            await self.guest.sleep(60_000)
            self.guest.spend(20_000)
            async with self.guest.zones[0].lock:
                self.note("worked")

        # The discard comes at 65,400, while CPU 1 works from 60,000 to 80,000.
        running = serve((0, report(0)), (1, work), vcpu_kick_ns=100)
        assert running.result.metrics["vcpu_kicks"] == 1
        assert ("worked", 80_100) in running.log

    def test_also_one_whose_task_has_nothing_more_to_do(self):
        async def work(self):
            await self.guest.sleep(60_000)
            self.guest.spend(20_000)

        running = serve((0, report(0)), (1, work), vcpu_kick_ns=100)
        assert running.result.metrics["vcpu_kicks"] == 1

    def test_a_spinner_is_kicked_but_does_not_notice(self):
        async def spin(self):
            await self.guest.sleep(1)
            await self.guest.spin_while(lambda: not self.log)
            self.note("spun")

        running = serve((0, report(0)), (1, spin), vcpu_kick_ns=100)
        assert running.result.metrics["vcpu_kicks"] == 1
        assert dict(running.log)["spun"] == 45_000 + SERVICE + 1000


class TestRefault:
    def test_what_was_discarded_comes_back_at_the_first_touch(self):
        price = {"refault_huge_ns": 70_000}
        tape = [idle([LATER]), allocate(range(64), order=10, flags=Flag.TOUCHED | Flag.NORETRY)]
        running = serve((0, report(0, 1)), tapes=[tape], price=price)
        metrics = running.result.metrics
        assert metrics["refaults"] == 4
        assert metrics["refault_stall_ns"] == 4 * 70_000
        assert metrics["refaulted_bytes"] == metrics["discarded_bytes"]

    def test_a_page_in_use_that_is_discarded_is_a_violation(self):
        async def discard_all(self):
            await self.guest.sleep(10)
            zone = self.guest.zones[0]
            pfns = range(zone.start_pfn, zone.end_pfn, BLOCK)
            await self.guest.host.report([Block(pfn, 10, zone) for pfn in pfns])

        tape = [allocate([0], flags=Flag.TOUCHED), idle([LATER])]
        running = serve((0, discard_all), tapes=[tape])
        assert running.result.violations == {"no-discard-in-use": 1}
