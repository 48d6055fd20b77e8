"""Histograms, percentiles, integrals over time: against numbers worked out the long way."""

from __future__ import annotations

import bisect
import random
from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hintbench import operations
from hintbench.core.constants import (
    BUCKETS,
    CAUSE_REFAULT,
    CAUSE_TOTAL,
    CAUSE_ZEROING,
    CAUSES,
    ORDER_CLASSES,
)
from hintbench.core.machine import run_tapes
from hintbench.core.measures import MOST_SAMPLES, Integral, Latencies, bucket_upper_ns
from hintbench.operations import Flag
from hintbench.results.metrics import percentile_ns
from reference.guest import Request
from reference.lists import MOVABLE

from .driver import Bench, Setup, scaled, zone_config
from .setups import MIB

ZONES = (zone_config("Normal", 0, 16 * MIB, marks=(0, 0, 0)),)
CLASS_OF_ORDER = (0, 1, 1, 1, 2, 2, 2, 2, 2, 3, 4)
INTERESTING_NS = sorted(
    {
        max(0, base + delta)
        for power in range(46)
        for base in (1 << power, 3 << power >> 1, 17 << power >> 4)
        for delta in (-1, 0, 1)
    }
)


def bucket_of(ns: int) -> int:
    """The bucket that a latency falls into, found by looking at them all."""
    return next(bucket for bucket in range(BUCKETS) if ns <= bucket_upper_ns(bucket))


def test_buckets_are_narrow_and_leave_nothing_out() -> None:
    before = -1
    for bucket in range(BUCKETS):
        upper = bucket_upper_ns(bucket)
        width = upper - before
        assert width >= 1
        # All values of a bucket are within a sixteenth of each other.
        assert width == 1 or 16 * width <= before + 1
        before = upper
    assert before >= 24 * 3600 * 10**9


def test_a_latency_falls_into_its_bucket() -> None:
    """A hit on a per-CPU list takes as long as it is priced, and nothing else."""
    bench = Bench(Setup(ZONES, pcp=(60, 2000, 2000)))
    latencies = bench.simulation.latencies
    bench.allocate(0, Request(0, MOVABLE))
    pcp = bench.simulation.vcpus[0].pcps[0]
    for ns in INTERESTING_NS[:: 1 if scaled(2) == 2 else 3]:
        if not pcp.count:
            bench.machine.clock.costs.pcp_hit_ns = 50
            bench.allocate(0, Request(0, MOVABLE))
        bench.machine.clock.costs.pcp_hit_ns = ns
        before = latencies.histogram(0, CAUSE_TOTAL)
        total = latencies.total_ns(0, CAUSE_TOTAL)
        bench.allocate(0, Request(0, MOVABLE))
        after = latencies.histogram(0, CAUSE_TOTAL)
        grown = [bucket for bucket in range(BUCKETS) if after[bucket] != before[bucket]]
        assert grown == [bucket_of(ns)]
        assert latencies.total_ns(0, CAUSE_TOTAL) - total == ns
        assert latencies.max_ns(0, CAUSE_TOTAL) >= ns


def test_what_is_beyond_the_last_bucket_is_in_it() -> None:
    bench = Bench(Setup(ZONES, pcp=(4, 40, 40)))
    bench.allocate(0, Request(0, MOVABLE))
    bench.machine.clock.costs.pcp_hit_ns = 1 << 50
    bench.allocate(0, Request(0, MOVABLE))
    latencies = bench.simulation.latencies
    assert latencies.histogram(0, CAUSE_TOTAL)[BUCKETS - 1] == 1
    assert latencies.max_ns(None, CAUSE_TOTAL) == 1 << 50


@pytest.mark.parametrize("order", range(11))
def test_latencies_are_kept_by_class_of_order(order: int) -> None:
    bench = Bench(Setup(ZONES))
    bench.allocate(0, Request(order, MOVABLE), Flag.ZERO)
    latencies = bench.simulation.latencies
    for cause in (CAUSE_TOTAL, CAUSE_ZEROING):
        counts = [sum(latencies.histogram(each, cause)) for each in range(ORDER_CLASSES)]
        assert counts == [int(each == CLASS_OF_ORDER[order]) for each in range(ORDER_CLASSES)]
        assert sum(latencies.histogram(None, cause)) == 1
    assert latencies.total_ns(None, CAUSE_ZEROING) == (bench.config.costs.clear_page_ns << order)
    assert latencies.total_ns(None, CAUSE_REFAULT) == 0


def test_a_fresh_histogram_is_empty() -> None:
    latencies = Latencies()
    for cause in range(CAUSES):
        assert sum(latencies.histogram(None, cause)) == 0
        assert latencies.max_ns(None, cause) == latencies.total_ns(None, cause) == 0
        assert percentile_ns(latencies.histogram(None, cause), 0.5) is None


@settings(max_examples=scaled(200), deadline=None, derandomize=True)
@given(
    st.lists(st.integers(0, 1 << 44), min_size=1, max_size=200),
    st.sampled_from((0.0, 0.5, 0.9, 0.99, 0.999, 1.0)),
)
def test_percentiles_are_those_of_the_values(values: list[int], share: float) -> None:
    """At most one bucket's width above: a sixteenth."""
    histogram = [0] * BUCKETS
    for value in values:
        histogram[bucket_of_fast(value)] += 1
    rank = max(0, -(-Fraction(share).limit_denominator(1000) * len(values) // 1) - 1)
    exact = sorted(values)[int(rank)]
    got = percentile_ns(histogram, share)
    assert got is not None
    if share > 0:
        assert exact <= got <= exact + exact // 16
    else:
        assert got == 0 or histogram[0] == 0


UPPER = [bucket_upper_ns(bucket) for bucket in range(BUCKETS)]


def bucket_of_fast(ns: int) -> int:
    return bisect.bisect_left(UPPER, ns)


def test_both_ways_to_find_a_bucket_agree() -> None:
    assert all(bucket_of(ns) == bucket_of_fast(ns) for ns in INTERESTING_NS)


# Values integrated over time.

changes = st.lists(
    st.tuples(st.integers(0, 3600 * 10**9), st.integers(-(1 << 28), 1 << 28)), max_size=60
)


@settings(max_examples=scaled(200), deadline=None, derandomize=True)
@given(st.integers(0, 1 << 28), changes)
def test_an_integral_is_the_sum_of_its_rectangles(start: int, steps: list[tuple[int, int]]) -> None:
    """Changes may come slightly out of order, as steps of different vCPUs do."""
    integral = Integral(start)
    for at_ns, delta in steps:
        integral.add(at_ns, delta)
    end = 3700 * 10**9
    exact = Fraction(start * end)
    size = Fraction(abs(start) * end)
    for at_ns, delta in steps:
        exact += Fraction(delta * (end - at_ns))
        size += abs(delta) * end
    assert integral.value == start + sum(delta for _, delta in steps)
    got = Fraction(integral.page_seconds(end)) * 10**9
    assert abs(got - exact) <= size * Fraction(1, 10**13)


def test_the_peak_is_the_highest_value_ever() -> None:
    integral = Integral(10)
    for at_ns, delta in ((5, 7), (6, -12), (9, 3)):
        integral.add(at_ns, delta)
    assert (integral.value, integral.peak) == (8, 17)


def sampled(seed: int, sample_ns: int, longest_ns: int, count: int = 500):
    """An integral after random changes, and its value after every change."""
    rng = random.Random(seed)
    integral = Integral(100, sample_ns=sample_ns)
    now = 0
    values = [(0, 100)]
    for _ in range(count):
        now += rng.randrange(1, longest_ns)
        delta = rng.randrange(-5, 6)
        integral.add(now, delta)
        values.append((now, values[-1][1] + delta))
    return integral, values


def value_at(steps: list[tuple[int, int]], at_ns: int) -> int:
    return steps[bisect.bisect_right(steps, (at_ns, 1 << 60)) - 1][1]


@pytest.mark.parametrize("longest_ns", [50, 700, 20_000])
def test_a_series_is_right_at_the_beginning_and_at_the_end_of_every_stretch(longest_ns) -> None:
    integral, values = sampled(1, 1000, longest_ns)
    series = integral.series()
    assert all(value_at(values, at_ns) == pages for at_ns, pages in series)
    assert [at_ns for at_ns, _ in series] == sorted({at_ns for at_ns, _ in series})
    last = series[-1][0] // 1000
    for stretch in range(1, last):
        assert value_at(series, stretch * 1000) == value_at(values, stretch * 1000)
    assert len(series) <= 2 * (last + 1)


def test_a_long_series_is_thinned_and_still_right() -> None:
    integral, values = sampled(2, 10, 100, count=60_000)
    series = integral.series()
    assert MOST_SAMPLES // 2 <= len(series) <= MOST_SAMPLES
    assert series[0] == (0, 100)
    assert all(value_at(values, at_ns) == pages for at_ns, pages in series)
    # The stretches are of one length again, from the first to the last.
    gaps = [after - before for (before, _), (after, _) in pairwise(series)]
    assert max(gaps) < 4 * 10 * 60_000 * 50 / MOST_SAMPLES


def test_what_a_thinned_series_keeps_is_how_things_stood_in_a_long_pause() -> None:
    integral = Integral(0, sample_ns=10)
    for number in range(MOST_SAMPLES - 2):
        integral.add(10 * (number + 1), 1)
    pause_ns = 10 * MOST_SAMPLES
    integral.add(pause_ns - 19, 1)
    integral.add(pause_ns - 18, -5000)
    for number in range(3):
        integral.add(1000 * pause_ns + 100 * number, 1)
    series = integral.series()
    assert len(series) < MOST_SAMPLES
    assert value_at(series, 500 * pause_ns) == MOST_SAMPLES - 1 - 5000


def test_no_samples_unless_asked_for() -> None:
    integral = Integral(3)
    integral.add(10**12, 4)
    assert integral.series() == [(0, 3)]


def test_clearing_shares_the_memory_bandwidth() -> None:
    """Whoever clears while others do gets his share of the machine's bandwidth."""
    bench = Bench(Setup(ZONES, vcpus=4))
    costs = bench.config.costs
    slots = iter(range(4))
    for vcpu in range(4):
        bench.feeds[vcpu].blocks.append(operations.allocate(next(slots), order=10))
    assert run_tapes(bench.simulation)
    latencies = bench.simulation.latencies
    expected = sum(
        max(costs.clear_page_ns, costs.memory_page_ns * clearing) << 10 for clearing in range(1, 5)
    )
    assert latencies.total_ns(None, CAUSE_ZEROING) == expected
