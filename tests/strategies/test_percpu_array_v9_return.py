"""percpu-array-v9 gives back as the posted code does, and breaks what it says it breaks."""

import pytest

from hintbench import hookimpl
from hintbench.operations import Flag, compute
from hintbench.strategies.percpu_array_v9 import PercpuArrayV9
from small_guest import MS, US, costs, host, small_guest, zone

from .stage import give, play, rest, take
from .v9 import LATER, v9


class TestReturn:
    tape = [take(range(4)), give(range(4)), rest(LATER)]

    def test_the_interrupt_puts_back_without_the_lock(self):
        running = v9(self.tape, host=host(device_latency_ns=40 * US))
        assert running.result.violations == {"locked-lists": 4, "atomic-context": 2}
        assert running.machine.zones[0].isolated_pages == 0
        assert running.result.metrics["lock_takes_interrupt"] == 0

    def test_locked_return_takes_it_once(self):
        running = v9(self.tape, locked_return=True)
        assert running.result.violations == {"atomic-context": 2}
        assert running.result.metrics["lock_takes_interrupt"] == 1
        assert running.result.metrics["lock_takes_per_batch"] == 2

    def test_they_are_in_hand_until_the_acknowledgement(self):
        held = {}
        looks = {
            at: lambda guest, at=at: held.update({at: guest.zones[0].isolated_pages >> 10})
            for at in (39 * US, 41 * US)
        }
        v9(self.tape, at=looks, host=host(device_latency_ns=40 * US))
        assert held == {39 * US: 4, 41 * US: 0}

    @pytest.mark.parametrize("locked", [False, True])
    def test_a_full_queue_puts_back_at_once(self, locked):
        tape = [take(range(8)), give(range(8)), rest(LATER)]
        running = v9(
            tape,
            locked_return=locked,
            host=host(device_latency_ns=40 * US, queue_capacity=1),
        )
        assert running.result.metrics["refused_reports"] == 1
        assert running.machine.zones[0].isolated_pages == 0
        assert running.result.violations.get("locked-lists", 0) == (0 if locked else 8)

    def test_without_a_device_the_batch_leaks(self):
        def detach(running):
            running.guest.host.attached = False

        running = play(
            PercpuArrayV9(array_entries=8, threshold=4), self.tape, kernel="5.0", before=detach
        )
        assert running.result.metrics["isolated_end_bytes"] == 4 * 4 << 20
        assert running.result.violations["teardown"] == 1

    def test_the_submitter_swallows_a_completion_and_its_interrupt_finds_none(self):
        """The second pass walks over stale entries with interrupts off, past the answer."""
        tape = [
            take(range(16)),
            give(range(4)),  # the first batch: its answer comes 40 us later
            rest(10 * US),
            give([4, 5, 6]),
            take([16, 17, 18]),
            give([7]),  # three stale entries, 15 us each
            rest(LATER),
        ]
        running = v9(
            tape,
            costs=costs(page_visit_ns=4, head_lookup_ns=11),
            host=host(device_latency_ns=40 * US, discard=False),
        )
        assert running.reports.sizes == [4, 1]
        assert running.result.violations["completion-once"] == 1
        # Its four blocks never come back.
        assert running.result.metrics["isolated_end_bytes"] == 4 * 4 << 20
        assert running.result.violations["teardown"] == 1

    def test_two_completions_share_an_interrupt_and_one_is_taken(self):
        """CPU 0 waits for a lock with interrupts off while both answers come."""

        class Contended(PercpuArrayV9):
            name = "contended"

            @hookimpl
            def guest_started(self, guest):
                super().guest_started(guest)
                guest.spawn(self.hold(guest), cpu=1, name="holder")

            async def hold(self, guest):
                await guest.sleep(30 * US)
                async with guest.zones[0].lock:
                    guest.spend(100 * US)

        tape = [
            take(range(9)),
            give(range(8)),
            rest(40 * US),
            give([8]),  # waits from 40 to 130 us
            rest(LATER),
        ]
        running = play(
            Contended(array_entries=8, threshold=4),
            tape,
            [],
            kernel="5.0",
            host=host(device_latency_ns=80 * US, discard=False),
        )
        assert running.result.metrics["reported_batches"] == 2
        assert running.result.metrics["isolated_end_bytes"] == 4 * 4 << 20
        assert running.result.violations.get("completion-once") is None

    def test_what_merges_on_its_way_back_is_not_captured_again(self):
        # Both halves of a block are told apart, and join when they come back.
        tape = [take([0, 1], order=9), give([0]), rest(LATER // 10), give([1]), rest(LATER)]
        running = v9(tape, min_order=9, threshold=1, host=host(device_latency_ns=2 * MS))
        assert running.reports.sizes == [1, 1]
        assert running.machine.zones[0].nr_free[10] == 64


class TestDeclared:
    def test_nothing_waits_for_what_is_in_flight_at_the_end(self):
        tape = [take(range(4)), give(range(4))]
        running = v9(tape, host=host(device_latency_ns=1000 * MS, descriptor_ns=1))
        assert running.result.violations["teardown"] == 1

    def test_an_allocation_fails_while_all_memory_is_in_flight(self):
        small = (zone(8),)
        tapes = [
            [take(range(7)), give(range(7)), rest(10 * US), take(range(7), flags=Flag.TOUCHED)]
        ]
        running = v9(
            *tapes,
            zones=small,
            threshold=7,
            costs=costs(direct_reclaim_ns=10 * US),
            host=host(device_latency_ns=MS),
        )
        assert running.result.metrics["false_ooms"] > 0
        assert running.result.violations["no-false-oom"] > 0

    def test_two_cpus_isolate_two_arrays(self):
        tapes = [[take(range(4)), rest(100), give(range(4)), rest(LATER)]]
        tapes.append([take(range(4, 8)), rest(100), give(range(4, 8)), rest(LATER)])
        running = v9(*tapes, array_entries=4, host=host(device_latency_ns=MS))
        peak = running.result.metrics["peak_in_flight_bytes"] >> 12
        assert peak == 2 * running.strategy.claims().in_flight_pages

    def test_the_repair_is_not_declared_to_fail(self):
        declared = PercpuArrayV9().declared_failures
        mended = PercpuArrayV9(locked_return=True).declared_failures
        assert set(declared) - set(mended) == {"locked-lists", "conservation"}
        assert set(mended) < set(declared)


class TestOneMadviseAPage:
    def test_the_first_qemu_held_the_freeing_vcpu_for_half_a_second(self):
        """128 blocks of 1,024 calls each, in the vCPU's own thread with interrupts off."""
        config = small_guest(
            kernel="5.0",
            zones=(zone(320),),
            host=host(
                kick="vcpu-thread",
                descriptor_bytes=4096,
                descriptor_ns=440,
                unmap_call_ns=3000,
            ),
        )
        tape = [take(range(128)), give(range(128)), compute([100])]
        running = play(PercpuArrayV9(), tape, config=config)
        assert 0.4e9 < running.result.metrics["virtual_ns"] < 0.8e9
        assert running.result.metrics["held_ns"] > 0.4e9
