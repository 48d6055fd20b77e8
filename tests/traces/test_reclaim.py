"""When a recorded kswapd ended its runs, and that the model's end with them."""

import pytest

from hintbench.kernel.threads import KSWAPD_LONGEST_RUN_NS, KSWAPD_RUN_NS
from hintbench.traces.reclaim import ends_of_kswapd
from recording import KERNEL_PAGE, Recording
from small_guest import boot

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


class TestModelled:
    """Woken at 5 us, by hand."""

    NOW = 5_000

    def end_ns(self, *recorded_ns):
        running = boot(None, [])
        threads, simulation = running.threads, running.machine.simulation
        threads.reclaim(recorded_ns)
        simulation.clock.now = self.NOW
        assert threads.wake_kswapd(0)
        assert not threads.wake_kswapd(0)  # awake already
        while threads.kswapd_awake:
            simulation.run_event()
        assert not any(zone.reclaim_active for zone in running.machine.zones)
        return simulation.clock.now

    def test_without_a_recording(self):
        assert self.end_ns() == self.NOW + KSWAPD_RUN_NS

    @pytest.mark.parametrize("length_ns", [1, 400_000, KSWAPD_LONGEST_RUN_NS])
    def test_with_the_recorded_one(self, length_ns):
        assert self.end_ns(1_000, self.NOW + length_ns, 10**9) == self.NOW + length_ns

    def test_what_ended_much_later_was_another_run(self):
        late = self.NOW + KSWAPD_LONGEST_RUN_NS + 1
        assert self.end_ns(1_000, late) == self.NOW + KSWAPD_RUN_NS
