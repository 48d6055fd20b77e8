"""When a recorded kswapd ran, and that the model's runs then."""

import numpy as np
import pytest

from hintbench.kernel.kswapd import KSWAPD_EARLIEST_NS, KswapdRun
from hintbench.kernel.threads import KSWAPD_ROUND_NS, KSWAPD_RUN_NS
from hintbench.traces.reclaim import KswapdRuns, ends_of_kswapd, fallbacks
from recording import KERNEL_PAGE, Recording
from small_guest import BLOCK, START, boot, small_guest, zone

LOW, HIGH = 0x200, 0x4000


def ends(recording, tmp_path):
    trace = recording.read(tmp_path)
    return [int(at) - 1_000_000_000 for at in ends_of_kswapd(trace, 0, len(trace))]


class TestRecorded:
    def test_a_run_ends_before_the_highest_zone_gives_pages_again(self, tmp_path):
        recording = Recording().alloc(HIGH).alloc(LOW).alloc(LOW + 1).alloc(HIGH + 1, wait=10)
        assert ends(recording, tmp_path) == [8_000]

    def test_other_cpus_count_as_well(self, tmp_path):
        recording = Recording().alloc(LOW, cpu=1).alloc(HIGH, cpu=0)
        assert ends(recording, tmp_path) == [1_500]

    def test_who_may_not_use_every_zone_says_nothing(self, tmp_path):
        recording = Recording().alloc(HIGH).alloc(LOW, kind=0, gfp=KERNEL_PAGE).alloc(HIGH + 1)
        assert ends(recording, tmp_path) == []

    def test_a_guest_of_one_zone(self, tmp_path):
        assert ends(Recording().alloc(LOW).alloc(LOW + 1), tmp_path) == []
        assert ends(Recording().alloc(LOW, kind=0, gfp=KERNEL_PAGE), tmp_path) == []


class TestFallbacks:
    def test_a_claim_inside_a_pageblock_boosts_a_theft_may_have(self, tmp_path):
        recording = Recording().extfrag(HIGH, 10).extfrag(HIGH, 8).extfrag(HIGH + 1, 3)
        trace = recording.extfrag(LOW, 2, kind=0, fallback=1).read(tmp_path)
        times, pages, claimed = fallbacks(trace, 0, len(trace))
        assert pages.tolist() == [HIGH, HIGH + 1, LOW]
        assert claimed.tolist() == [True, False, True]
        assert (times - times[0]).tolist() == [0, 1_000, 2_000]


class TestRuns:
    """Of a zone with the low watermark at 100 and the high one at 400 pages, woken at 10 ns."""

    def runs(self, *ends_ns, sure=True, again=()):
        wakes = [(at, 0, sure) for at in (10, *again)]
        low, high = np.array([100]), np.array([400])
        return KswapdRuns(wakes, list(ends_ns), low, high)

    def free(self, pages):
        return memoryview(np.array([pages], dtype=np.int64))

    def test_it_sleeps_until_a_fallback(self):
        runs = self.runs()
        assert runs.follow(9, self.free(50)) == 10
        assert (runs.awake, runs.boost.tolist()) == (False, [0])
        runs.follow(10, self.free(50))
        assert (runs.awake, runs.boost.tolist()) == (True, [512])

    def test_boosts_add_up_to_half_the_high_watermark_more_or_a_pageblock(self):
        runs = self.runs(again=(11, 12))
        runs.follow(12, self.free(50))
        assert runs.boost.tolist() == [600]

    def test_a_theft_need_not_have_boosted(self):
        runs = self.runs(sure=False)
        runs.follow(10, self.free(50))
        assert (runs.awake, runs.boost.tolist()) == (True, [0])

    def test_a_page_of_the_boosted_zone_ends_the_run(self):
        runs = self.runs(30)
        runs.follow(30, self.free(612))
        assert runs.runs == [KswapdRun(10, None, 30)]
        assert (runs.awake, runs.boost.tolist()) == (False, [0])

    def test_but_not_where_enough_of_it_is_free_for_the_boost(self):
        runs = self.runs(30)
        runs.follow(30, self.free(613))
        assert (runs.runs, runs.awake) == ([], True)

    def two_zones(self, *, sure=True):
        """The higher one has been boosted at 10 ns."""
        low, high = np.array([20, 100]), np.array([30, 400])
        runs = KswapdRuns([(10, 1, sure)], [], low, high)
        runs.follow(10, memoryview(np.array([500, 50])))
        return runs

    def test_a_list_refilled_from_the_boosted_zone_ends_the_run_as_well(self):
        runs = self.two_zones()
        runs.refilled(30, 1, 613)
        assert runs.awake, "so much is free that it is no wonder"
        runs.refilled(40, 0, 612)
        runs.refilled(50, 0, 100)
        assert runs.awake, "of a lower zone: the last time for the boost"
        runs.refilled(60, 1, 612)
        assert runs.runs == [KswapdRun(10, None, 50)]
        assert not runs.awake

    def test_without_a_boost_a_refill_shows_nothing(self):
        runs = self.two_zones(sure=False)
        runs.refilled(60, 1, 50)
        assert (runs.runs, runs.awake) == ([], True)

    def test_lists_show_when_it_was_at_work(self):
        runs = self.runs()
        runs.follow(10, self.free(50))
        runs.idle(15)
        runs.active(20)
        runs.active(26)
        runs.idle(24)  # of a CPU that is told of later
        runs.idle(30)
        assert runs.runs == [KswapdRun(10, 20, 28)]

    def test_what_nothing_has_shown_for_a_tenth_of_a_second_is_over(self):
        runs = self.runs()
        assert runs.follow(10, self.free(50)) == 100_000_011
        runs.follow(100_000_011, self.free(50))
        assert (runs.runs, runs.awake) == ([], False)


class TestModelled:
    """Woken at 5 ms, by hand."""

    NOW = 5_000_000

    def reclaimed(self, *runs):
        """When it was at work, and when it slept again."""
        running = boot(None, [])
        threads, simulation = running.threads, running.machine.simulation
        threads.reclaim(runs, [])
        simulation.clock.now = self.NOW
        assert threads.wake_kswapd(0)
        assert not threads.wake_kswapd(0)  # awake already
        begin_ns = None
        while threads.kswapd_awake:
            simulation.run_event()
            if begin_ns is None and running.machine.zones[0].reclaim_active:
                begin_ns = simulation.clock.now
        assert not any(zone.reclaim_active for zone in running.machine.zones)
        return begin_ns, simulation.clock.now

    def test_without_a_recording(self):
        end_ns = self.NOW + KSWAPD_RUN_NS
        assert self.reclaimed() == (end_ns - KSWAPD_ROUND_NS, end_ns)

    @pytest.mark.parametrize("early_ns", [-400_000, 0, KSWAPD_EARLIEST_NS])
    def test_with_the_recorded_one(self, early_ns):
        run = KswapdRun(self.NOW + early_ns, self.NOW + 3_000_000, self.NOW + 9_000_000)
        before, later = KswapdRun(0, None, 1_000), KswapdRun(10**9, None, 10**9 + 1)
        assert self.reclaimed(before, run, later) == (run.begin_ns, run.end_ns)

    def test_with_a_recorded_one_that_was_too_short_to_be_seen(self):
        run = KswapdRun(self.NOW, None, self.NOW + 200_000)
        assert self.reclaimed(run) == (run.end_ns - KSWAPD_ROUND_NS, run.end_ns)

    def test_what_was_woken_much_later_was_another_run(self):
        late = self.NOW + KSWAPD_EARLIEST_NS + 1
        run = KswapdRun(late, None, late + 1)
        assert self.reclaimed(run)[1] == self.NOW + KSWAPD_RUN_NS


class TestBoosts:
    """balance_pgdat() ends the boosts of its own node that it saw at its beginning."""

    def boosted(self):
        """A guest of two nodes, each of whose zones is boosted by 512 pages."""
        zones = (zone(), zone(start_pfn=START + 64 * BLOCK, node=1))
        running = boot(None, [], config=small_guest(zones=zones))
        for memory in running.machine.zones:
            memory.watermark_boost = 512
        return running.threads, running.machine

    def boosts(self, machine):
        return [memory.watermark_boost for memory in machine.zones]

    def test_of_its_own_node(self):
        threads, machine = self.boosted()
        assert threads.wake_kswapd(0, 1)
        assert threads.kswapd_awake == {1}
        machine.simulation.run_event()
        assert [memory.reclaim_active for memory in machine.zones] == [False, True]
        machine.simulation.run_event()
        assert self.boosts(machine) == [512, 0]
        assert not threads.kswapd_awake

    def test_one_that_comes_while_it_is_at_work_stays(self):
        threads, machine = self.boosted()
        threads.wake_kswapd(0, 0)
        machine.simulation.run_event()
        machine.zones[0].watermark_boost += 300
        machine.simulation.run_event()
        assert self.boosts(machine) == [300, 512]

    def test_a_slow_path_wakes_that_of_every_node(self):
        threads, machine = self.boosted()
        assert threads.wake_kswapd(0, 1)
        assert threads.wake_kswapd(0)
        assert not threads.wake_kswapd(0)
        assert threads.kswapd_awake == {0, 1}
        while threads.kswapd_awake:
            machine.simulation.run_event()
        assert self.boosts(machine) == [0, 0]
