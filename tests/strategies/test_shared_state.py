"""shared-state: the host's looks, its holds of eight frames, and the guest's install calls."""

import pytest

from hintbench.operations import Flag, allocate, compute
from hintbench.strategies.shared_state import SharedState
from small_guest import BLOCK, MS, SECOND, START, US, costs, host, zone

from .stage import block_at, give, play, rest, take

INTERVAL = 5 * SECOND
UNMAP = 10 * US
INSTALL = 15 * US
BACK = 110 * US
HOST = {"unmap_huge_ns": UNMAP, "call_vcpu_thread_ns": INSTALL}


def share(*tapes, strategy=SharedState, **given):
    """Run it on a host with round prices; the run, in which no rule is broken."""
    given.setdefault("host", host(**HOST))
    given.setdefault("costs", costs(refault_huge_ns=BACK))
    running = play(strategy, *tapes, **given)
    assert running.result.violations == {}
    return running


def soft(running):
    return running.strategy.soft.set_units()


class Discards:
    """Every discard, as (time, first page, pages)."""

    def __init__(self):
        self.seen = []

    def __call__(self, running):
        host_ = running.guest.host
        discard = host_.unmapping.discard

        def watched(pfn, pages, *, calls):
            self.seen.append((host_.clock.now, pfn, pages))
            discard(pfn, pages, calls=calls)

        host_.unmapping.discard = watched


def test_parameters_are_hyperallocs():
    assert SharedState().parameters.model_dump() == {"interval_ns": 5 * SECOND, "frames": 8}


class TestLooking:
    def test_nothing_before_the_first_interval(self):
        running = share([rest(INTERVAL - 1)])
        assert soft(running) == []
        assert running.result.metrics["reclaimed_peak_bytes"] == 0

    def test_all_that_is_free_becomes_soft_and_stays_allocatable(self):
        running = share([rest(INTERVAL + SECOND)])
        assert len(soft(running)) == 2 * 64
        assert running.result.metrics["reclaimed_end_bytes"] == 256 << 20
        assert running.machine.zones[0].free_pages == 64 * BLOCK

    def test_eight_frames_a_hold_neighbours_in_one_call_upwards(self):
        seen = Discards()
        share([rest(INTERVAL + SECOND)], before=seen, blocks=16)
        assert [(pfn, pages) for _, pfn, pages in seen.seen] == [
            (block_at(number), 8 * 512) for number in range(0, 16, 4)
        ]
        assert [at for at, _, _ in seen.seen] == [
            INTERVAL + (hold + 1) * 8 * UNMAP for hold in range(4)
        ]

    def test_gaps_part_calls_but_not_holds(self):
        seen = Discards()
        tape = [take(range(3)), give([0, 2]), rest(INTERVAL + SECOND)]
        share(tape, before=seen, blocks=8)
        assert [(pfn, pages) for _, pfn, pages in seen.seen] == [
            (block_at(0), 2 * 512),
            (block_at(2), 6 * 512),
            (block_at(5), 6 * 512),
        ]

    def test_frames_of_smaller_free_blocks_are_left_alone(self):
        running = share([take([0], order=0), rest(INTERVAL + SECOND)])
        assert START not in soft(running)
        assert START + 512 in soft(running), "the other half of the block that was split is whole"

    def test_a_soft_frame_is_not_taken_again(self):
        metrics = share([rest(3 * INTERVAL + SECOND)]).result.metrics
        assert metrics["reported_bytes"] == 256 << 20
        assert metrics["redundant_reported_bytes"] == 0

    def test_a_soft_half_of_a_block_takes_no_place_in_a_hold(self):
        seen = Discards()
        # The lower half of block 0, and all of block 1, are taken, installed, and given back.
        taken = [take([0], order=9), take([1]), give([0, 1])]
        share([rest(INTERVAL + SECOND), *taken, rest(INTERVAL)], before=seen, frames=2)
        again = [(pfn, pages) for at, pfn, pages in seen.seen if at > 2 * INTERVAL]
        # Two a hold, and neighbours of one hold in one call.
        assert again == [(START, 512), (block_at(1), 512), (block_at(1) + 512, 512)]

    def test_what_is_allocated_during_a_look_is_not_taken(self):
        # Block 15 is the first of its list, and among the last that the look comes to.
        tape = [take(range(16)), give(range(16)), rest(INTERVAL + 100 * US), take([0])]
        running = share([*tape, rest(SECOND)], blocks=17)
        assert {block_at(15), block_at(15) + 512}.isdisjoint(soft(running))
        assert len(soft(running)) == 2 * 16
        assert running.result.metrics["installs"] == 0

    def test_zones_in_hyperallocs_order_and_never_dma(self):
        seen = Discards()
        zones = (
            zone(2, 0x400, name="DMA", low=40),
            zone(8, 0x1000, name="DMA32"),
            zone(8, 0x1000 + 8 * BLOCK, name="Normal"),
            zone(8, 0x1000 + 16 * BLOCK, name="Movable"),
        )
        share([rest(INTERVAL + SECOND)], zones=zones, before=seen)
        order = [(pfn - 0x1000) // (8 * BLOCK) for _, pfn, _ in seen.seen]
        assert order == [1, 1, 2, 2, 0, 0]

    def test_one_node_after_the_other(self):
        """ll_auto_soft_reclaim(): the outer loop goes over the nodes."""
        seen = Discards()
        zones = (
            zone(8, 0x1000, name="DMA32"),
            zone(8, 0x1000 + 8 * BLOCK, name="Normal"),
            zone(8, 0x1000 + 16 * BLOCK, name="Normal", node=1),
        )
        share([rest(INTERVAL + SECOND)], zones=zones, before=seen)
        assert [(pfn - 0x1000) // (8 * BLOCK) for _, pfn, _ in seen.seen] == [1, 1, 0, 0, 2, 2]

    def test_no_call_no_lock_of_the_guests_no_vcpu_time(self):
        metrics = share([rest(INTERVAL + SECOND)]).result.metrics
        assert metrics["host_calls"] == 0
        assert metrics["strategy_lock_takes"] == 0
        assert metrics["guest_cpu_task_ns"] == metrics["guest_cpu_hook_ns"] == 0

    def test_other_vcpus_are_kicked_for_each_call(self):
        prices = host(**HOST, vcpu_kick_ns=1 * US)
        running = share([compute([INTERVAL + SECOND])], host=prices, blocks=16)
        assert running.result.metrics["vcpu_kicks"] == 4


class TestInstall:
    def one(self, order=0, **given):
        return share([rest(INTERVAL + SECOND), take([0], order=order), rest(MS)], **given)

    def test_an_allocation_waits_for_its_frame(self):
        running = self.one()
        metrics = running.result.metrics
        assert metrics["alloc_max_ns"] >= INSTALL + BACK
        assert (metrics["installs"], metrics["host_calls"]) == (1, 1)
        assert START not in soft(running)
        assert metrics["refaults"] == 1, "by the call; the page itself is then backed"

    @pytest.mark.parametrize(("order", "frames"), [(0, 1), (9, 1), (10, 2)])
    def test_all_frames_of_a_block_in_one_call(self, order, frames):
        running = self.one(order)
        assert running.result.metrics["installs"] == 1
        assert len(soft(running)) == 128 - frames

    def test_the_next_page_of_the_frame_costs_nothing(self):
        tape = [rest(INTERVAL + SECOND), take(range(100), order=0), rest(MS)]
        running = share(tape)
        assert running.result.metrics["installs"] == 1
        assert running.result.metrics["alloc_p50_ns"] < INSTALL

    def test_what_lies_on_a_per_cpu_list_is_not_free(self):
        huge = Flag.TOUCHED | Flag.COMPOUND | Flag.NORETRY
        tape = [take(range(2), order=9), give(range(2)), rest(200 * MS)]
        tape += [take([0], order=9, flags=huge)]
        assert share(tape, interval_ns=100 * MS).result.metrics["installs"] == 0

    def test_without_soft_frames_no_call(self):
        metrics = share([take(range(64)), rest(2 * INTERVAL), give(range(64))]).result.metrics
        assert metrics["installs"] == 0

    def test_two_vcpus_in_one_frame_both_wait(self):
        tapes = [[rest(INTERVAL + SECOND), take([slot], order=8)] for slot in range(2)]
        running = share(*tapes)
        assert running.result.metrics["installs"] == 2
        assert running.result.metrics["alloc_max_ns"] == INSTALL + BACK
        finished = [vcpu.finished_ns for vcpu in running.machine.simulation.vcpus]
        assert finished == [INTERVAL + SECOND + INSTALL + BACK] * 2

    def test_an_install_waits_for_the_hold_that_takes_its_frame(self):
        # In the middle of the first hold the guest wants a page of a frame that is being taken.
        in_the_middle = INTERVAL + 4 * UNMAP
        running = share([rest(in_the_middle), take([0], order=0)])
        (vcpu,) = running.machine.simulation.vcpus
        assert vcpu.finished_ns == INTERVAL + 8 * UNMAP + BACK
        assert running.result.metrics["installs"] == 1

    def test_what_is_freed_is_taken_again_at_the_next_look(self):
        tape = [rest(INTERVAL + SECOND), take([0]), give([0]), rest(2 * INTERVAL)]
        running = share(tape)
        assert len(soft(running)) == 128
        assert running.result.metrics["reported_bytes"] == (256 + 4) << 20

    def test_hosts_that_back_4_kib_back_all_of_the_frame(self):
        small = host(**HOST, granule="4KiB")
        running = self.one(host=small, costs=costs(refault_small_ns=100))
        assert running.result.metrics["refaulted_bytes"] == 2 << 20


def test_blocking_allocations_always_find_what_is_soft():
    tape = [rest(INTERVAL + SECOND), allocate(range(60), order=10, flags=Flag.TOUCHED)]
    metrics = share(tape).result.metrics
    assert metrics["failed_allocations"] == metrics["stalls"] == 0


def test_a_page_of_no_soft_frame_costs_the_look_at_its_bit():
    tape = [take(range(100), order=0), rest(MS)]
    bare, priced = (share(tape, costs=costs(flag_ns=each)).result.metrics for each in (0, 7))
    assert priced["alloc_max_ns"] == bare["alloc_max_ns"] + 7


def test_it_stops_between_two_holds():
    seen = Discards()
    running = share([rest(INTERVAL + 3 * UNMAP)], before=seen)
    assert len(seen.seen) == 2, "of sixteen; the hold that it is in, and the next"
    assert running.strategy.thread.done
    assert running.result.violations == {}


def test_observers_see_no_locks_of_the_zone():
    taken = []

    def watch(running):
        running.machine.zones[0].lock.observer = lambda what, lock: taken.append(what)

    share([rest(INTERVAL + SECOND)], before=watch)
    assert taken == []
