"""report-then-hold: polling, gates, hysteresis, and a cool-down that doubles.

Source: Balloon/sys/reporting.c and Device.c of virtio-win/kvm-guest-drivers-windows, 19158da76b1f.
"""

import pytest

from hintbench.operations import allocate
from hintbench.strategies.report_then_hold import ReportThenHold
from small_guest import BLOCK, MS, SECOND, START, US, host, zone

from .stage import give, play, rest, take

INTERVAL = 2 * SECOND
SERVICE = 100 * US
FULL = 8 * SECOND + 500 * MS
"""After four cycles it holds all that it may of 2 GiB."""
MIB = 256
"""Pages."""


def hold(*tapes, blocks=512, strategy=ReportThenHold, **given):
    """Run it on 2 GiB with a watermark of 256 MiB; the run with its `reports`."""
    given.setdefault("host", host(device_latency_ns=SERVICE))
    running = play(strategy, *tapes, blocks=blocks, **given)
    assert running.result.violations == {}
    assert running.machine.zones[0].held_pages == 0, "all is let go in the end"
    return running


def watch(times, log):
    """Note what is held at some times."""
    return {
        at: lambda guest, at=at: log.append((at, guest.zones[0].held_pages // MIB)) for at in times
    }


def held_at(*times, tapes, **given):
    """MiB held at some times."""
    log = []
    hold(*tapes, at=watch(times, log), **given)
    return [mib for _, mib in log]


def test_parameters_are_the_registrys():
    assert ReportThenHold().parameters.model_dump() == {
        "interval_ns": 2 * SECOND,
        "min_free_mib": None,
        "cooldown_ns": 60 * SECOND,
        "obey_cooldown": True,
        "batch": 32,
        "batches": 8,
    }
    with pytest.raises(Exception, match="interval_ns"):
        ReportThenHold(interval_ns=99 * MS)


class TestWatermark:
    @pytest.mark.parametrize(
        ("blocks", "given", "mib"),
        [
            (256, None, 256),
            (512, None, 256),
            (1024, None, 512),
            (512, 100, 100),
            (512, 4000, 1024),
        ],
    )
    def test_an_eighth_and_at_least_256_mib(self, blocks, given, mib):
        running = hold([rest(MS)], blocks=blocks, min_free_mib=given)
        assert running.strategy.watermark == mib * MIB

    @pytest.mark.parametrize(("blocks", "mib"), [(512, 16), (2048, 64), (4096, 64)])
    def test_low_is_32_mib_for_4_gib_and_64_at_most(self, blocks, mib):
        assert hold([rest(MS)], blocks=blocks).strategy.low_pages == mib * MIB

    def test_it_holds_down_to_the_watermark_and_a_batch_below(self):
        # 2048 MiB; the gate is looked at before each batch of 64 MiB.
        assert held_at(9 * SECOND, tapes=[[rest(10 * SECOND)]]) == [2048 - 256]
        assert held_at(9 * SECOND, tapes=[[take([0], order=0), rest(10 * SECOND)]]) == [
            2048 - 256
        ], "one page less, and the last batch still fits"


class TestCycle:
    def test_512_mib_in_eight_requests(self):
        running = hold([rest(3 * SECOND)])
        assert running.reports.sizes == [32] * 8
        assert all(order == 9 for _, batch in running.reports.batches for _, order in batch)
        assert running.reports.times[1] - running.reports.times[0] == SERVICE

    def test_one_cycle_an_interval(self):
        times = (SECOND, 3 * SECOND, 5 * SECOND, 7 * SECOND, 9 * SECOND)
        assert held_at(*times, tapes=[[rest(10 * SECOND)]]) == [0, 512, 1024, 1536, 1792]

    def test_the_next_interval_begins_when_a_cycle_has_ended(self):
        """BalloonReportRoutine() waits first, and then holds."""
        running = hold([rest(5 * SECOND)])
        assert running.reports.times[::8] == [INTERVAL, 2 * INTERVAL + 8 * SERVICE]

    def test_a_block_is_reported_once_while_it_is_held(self):
        running = hold([rest(20 * SECOND)])
        told = [block for _, batch in running.reports.batches for block in batch]
        assert len(set(told)) == len(told) == (2048 - 256) // 2

    def test_no_discard_of_a_page_in_use_is_possible(self):
        tape = [take(range(100)), rest(SECOND), give(range(100)), rest(10 * SECOND)]
        metrics = hold(tape).result.metrics
        assert metrics["refaults"] == 0
        assert metrics["held_peak_bytes"] == (2048 - 256) << 20

    def test_the_highest_zone_gives_first(self):
        zones = (
            zone(128, START, name="DMA32"),
            zone(384, START + 128 * BLOCK, name="Normal"),
        )
        running = hold([rest(3 * SECOND)], zones=zones)
        assert running.reports.blocks
        assert all(pfn >= START + 128 * BLOCK for _, b in running.reports.batches for pfn, _ in b)

    def test_what_the_host_refused_is_held_and_not_told_again(self):
        def refuse(running):
            running.guest.host.accepts = False

        log = []
        running = hold([rest(5 * SECOND)], before=refuse, at=watch([3 * SECOND], log))
        assert log == [(3 * SECOND, 64)], "the cycle ends with the first failure"
        assert running.reports.sizes == [32, 32]


class TestLettingGo:
    def test_between_the_lines_nothing_happens(self):
        # At 9 s 1792 MiB are held and 256 free; 100 MiB less is above half of the watermark.
        tape = [rest(9 * SECOND), take(range(25)), rest(5 * SECOND)]
        assert held_at(FULL, 13 * SECOND, tapes=[tape]) == [1792, 1792]

    def test_below_half_of_the_watermark_half_of_the_batches_go(self):
        tape = [rest(9 * SECOND + 50 * MS), take(range(40)), rest(5 * SECOND)]
        # 160 of the 256 MiB: of 28 batches 28 // 2 + 1 go back, and then there is more than enough.
        # It looks every 100 ms while it holds anything (REPORTING_COMMIT_POLL_MS).
        times = (FULL, 9 * SECOND + 160 * MS, 10 * SECOND)
        first, second, third = held_at(*times, tapes=[tape])
        assert first == 28 * 64
        assert second == third == (28 - 15) * 64

    def test_the_most_recent_ones(self):
        tape = [rest(9 * SECOND), take(range(40)), rest(2 * SECOND)]
        kept, strategy = [], ReportThenHold()
        running = hold(
            tape,
            strategy=strategy,
            at={
                10 * SECOND: lambda _: kept.extend(
                    block.pfn for batch in strategy.held for block in batch
                )
            },
        )
        told = [pfn for _, batch in running.reports.batches for pfn, _ in batch]
        assert len(kept) == (28 - 15) * 32
        assert kept == told[: len(kept)]

    def test_a_blocking_allocation_gets_everything_back(self):
        tape = [rest(9 * SECOND), allocate(range(450), order=10), rest(5 * SECOND)]
        log = []
        running = hold(tape, at=watch([FULL, 13 * SECOND], log))
        assert [mib for _, mib in log] == [1792, 0]
        assert running.result.metrics["failed_allocations"] == 0
        assert running.result.metrics["stalls"] == 1
        assert running.result.metrics["false_ooms"] == 0

    def test_one_that_may_not_wait_fails(self):
        tape = [rest(9 * SECOND), take(range(100)), rest(SECOND)]
        assert hold(tape).result.metrics["failed_allocations"] > 0


class TestCooldown:
    low = (rest(9 * SECOND), allocate(range(450), order=10))
    """450 of 512 blocks: everything is let go, and 248 MiB are free then, below the watermark."""

    def test_it_holds_nothing_for_a_minute(self):
        tape = [rest(9 * SECOND), allocate(range(450), order=10), give(range(450))]
        at = (10 * SECOND, 68 * SECOND, 73 * SECOND)
        assert held_at(*at, tapes=[[*tape, rest(80 * SECOND)]]) == [0, 0, 1024]

    def test_the_first_hold_does_not_look_at_it(self):
        """BalloonReportHold() of fe993149478e has no test of ReportingCooldownUntil."""
        tape = [*self.low, give(range(450)), rest(5 * SECOND)]
        assert held_at(12 * SECOND, tapes=[tape]) == [0]
        assert held_at(12 * SECOND, tapes=[tape], obey_cooldown=False) == [512]

    def test_low_memory_does_not_hasten_the_next_hold(self):
        """BalloonReportRoutine() holds once an interval, whatever else happens."""
        tape = [*self.low, give(range(450)), rest(5 * SECOND)]
        log = []
        running = hold(tape, at=watch([10 * SECOND, 12 * SECOND], log), obey_cooldown=False)
        assert [mib for _, mib in log] == [0, 512]
        # The fifth, by the three cycles of eight requests and the one of four before it.
        fifth = 5 * INTERVAL + 28 * SERVICE
        assert min(at for at in running.reports.times if at > 9 * SECOND) == fifth

    @pytest.mark.parametrize(
        ("now_s", "lengths_s", "base_s"),
        [
            # Each when the last one has run out.
            ((10, 130, 300, 600, 1000), (60, 120, 240, 300, 300), 60),
            # No shorter than the first, where that is longer than 5 min.
            ((10, 700, 1400), (600, 600, 600), 600),
            # While it runs: now - ReportingCooldownUntil wraps around, and is large.
            ((10, 130, 200), (60, 120, 60), 60),
            # 600 s after it has run out.
            ((10, 130, 250 + 599), (60, 120, 240), 60),
            ((10, 130, 250 + 600), (60, 120, 60), 60),
        ],
    )
    def test_the_length(self, now_s, lengths_s, base_s):
        """ReportingStartCooldown(), called at such times."""
        strategy = ReportThenHold(cooldown_ns=base_s * SECOND)

        class Clock:
            now = 0

        strategy.guest = Clock
        strategy.cooldown_ns = strategy.cooldown_until = 0
        for now, length in zip(now_s, lengths_s, strict=True):
            Clock.now = now * SECOND
            strategy._start_cooldown()
            assert strategy.cooldown_ns == length * SECOND

    def test_one_that_ran_out_above_the_watermark_is_forgotten(self):
        """BalloonReportCheckRelease() sets ReportingCooldownUntil to 0."""
        again = [give(range(450)), rest(70 * SECOND), allocate(range(450), order=10)]
        strategy = hold([*self.low, *again, rest(SECOND)]).strategy
        assert strategy.cooldown_until > 70 * SECOND
        assert strategy.cooldown_ns == 60 * SECOND

    def test_one_that_ran_out_below_it_makes_the_next_longer(self):
        # The last of these fails.
        running = hold([*self.low, rest(70 * SECOND), allocate(range(450, 512), order=10)])
        assert running.result.metrics["blocking_failures"] == 1
        assert running.strategy.cooldown_ns == 120 * SECOND

    def test_it_begins_once_however_long_memory_is_low(self):
        """LowMemoryCondition stays signalled below about 32 MB for 4 GB, 16 MiB of 2 GiB."""
        log, strategy = [], ReportThenHold()

        def look(_):
            log.append((strategy.low, strategy.cooldown_until // SECOND))

        tape = [rest(9 * SECOND), allocate(range(509), order=10), rest(30 * SECOND)]
        running = hold(
            [*tape, give(range(10)), rest(5 * SECOND)],
            strategy=strategy,
            at={at * SECOND: look for at in (10, 38, 41)},
        )
        assert running.strategy.low_pages == 16 * MIB
        assert log == [(True, 69), (True, 69), (False, 69)]
        assert running.strategy.cooldown_ns == 60 * SECOND

    def test_low_memory_is_looked_at_every_second_until_it_ends(self):
        """REPORTING_EVENT_RETRY_MS."""
        log, strategy = [], ReportThenHold()
        tape = [rest(9 * SECOND), allocate(range(509), order=10), rest(SECOND + 500 * MS)]
        hold(
            [*tape, give(range(10)), rest(5 * SECOND)],
            strategy=strategy,
            at={
                at * MS: lambda _: log.append(strategy.low)
                for at in (8_900, 9_100, 10_400, 10_900, 11_100)
            },
        )
        assert log == [False, True, True, True, False], "much is free from 10.5 s on"


def test_stopping_in_the_middle_of_a_cycle():
    running = hold([rest(INTERVAL + 250 * US)])
    assert len(running.reports.times) == 3
    assert running.strategy.worker.done
    assert running.strategy.held == []
