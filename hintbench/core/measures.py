"""What the core counts while it runs: latency histograms and values integrated over time."""

import array

import cython
import numpy

if cython.compiled:
    from cython.cimports.hintbench.core.constants import (
        BUCKETS,
        CAUSES,
        ORDER_CLASSES,
        SUB_BUCKET_BITS,
    )
    from cython.cimports.hintbench.core.measures import bucket_of, order_class
else:
    from hintbench.core.constants import BUCKETS, CAUSES, ORDER_CLASSES, SUB_BUCKET_BITS

    # In C the same, inline (measures.pxd).
    def order_class(order: int) -> int:
        """0 | 1..3 (pcp in 6.12) | 4..8 (straight to the buddy) | 9 (huge page) | 10."""
        if order == 0:
            return 0
        if order <= 3:
            return 1
        if order <= 8:
            return 2
        return 3 if order == 9 else 4

    def bucket_of(ns: int) -> int:
        """Log-linear: 16 buckets an octave, so a bucket is at most 1/16 wide."""
        if ns < (2 << SUB_BUCKET_BITS):
            if ns < 0:
                refuse_negative(ns)
            return ns
        shift = ns.bit_length() - SUB_BUCKET_BITS - 1
        ns >>= shift
        return min(shift * (1 << SUB_BUCKET_BITS) + ns, BUCKETS - 1)


@cython.cfunc
def refuse_negative(ns: cython.longlong) -> cython.int:
    """No latency is negative: a bucket below the first would lie before the table.

    Raises:
        RuntimeError: always.
    """
    raise RuntimeError(f"an allocation took {ns} ns: virtual time ran backwards meanwhile")


MOST_SAMPLES = 8192
"""When a series is longer it is thinned."""


def bucket_upper_ns(bucket: int) -> int:
    """The largest value that falls into a bucket."""
    sub = 1 << SUB_BUCKET_BITS
    if bucket < 2 * sub:
        return bucket
    shift = bucket // sub - 1
    return ((bucket - shift * sub + 1) << shift) - 1


@cython.final
@cython.cclass
class Latencies:
    """Histograms of latency per order class and cause, in virtual nanoseconds."""

    def __init__(self) -> None:
        # calloc'ed, since most of it is never touched.
        size = ORDER_CLASSES * CAUSES * BUCKETS
        self.counts = memoryview(numpy.zeros(size, dtype=numpy.int64))
        self.totals = memoryview(array.array("q", bytes(8 * ORDER_CLASSES * CAUSES)))
        self.maxima = memoryview(array.array("q", bytes(8 * ORDER_CLASSES * CAUSES)))

    def add(self, order: cython.int, cause: cython.int, ns: cython.longlong) -> cython.int:
        """Count one latency of an allocation of ``order``."""
        row: cython.int = order_class(order) * CAUSES + cause
        self.counts[row * BUCKETS + bucket_of(ns)] += 1
        self.totals[row] += ns
        if ns > self.maxima[row]:
            self.maxima[row] = ns
        return 0

    def histogram(self, order_class: int | None, cause: int) -> list[int]:
        """Counts by bucket; ``order_class`` None joins all classes."""
        if order_class is None:
            rows = [self.histogram(each, cause) for each in range(ORDER_CLASSES)]
            return [sum(column) for column in zip(*rows, strict=True)]
        start = (order_class * CAUSES + cause) * BUCKETS
        return list(self.counts[start : start + BUCKETS])

    def total_ns(self, order_class: int | None, cause: int) -> int:
        """The sum of all latencies of a class and cause."""
        if order_class is None:
            return sum(self.totals[each * CAUSES + cause] for each in range(ORDER_CLASSES))
        return self.totals[order_class * CAUSES + cause]

    def max_ns(self, order_class: int | None, cause: int) -> int:
        """The largest latency of a class and cause."""
        if order_class is None:
            return max(self.maxima[each * CAUSES + cause] for each in range(ORDER_CLASSES))
        return self.maxima[order_class * CAUSES + cause]


def _thinned(samples: list[tuple[int, int]], sample_ns: int) -> list[tuple[int, int]]:
    """The first and the last sample of every stretch."""
    last = len(samples) - 1
    stretches = [at_ns // sample_ns for at_ns, _ in samples]
    return [
        sample
        for index, sample in enumerate(samples)
        if index in (0, last)
        or stretches[index] != stretches[index - 1]
        or stretches[index] != stretches[index + 1]
    ]


@cython.final
@cython.cclass
class Integral:
    """A count of pages, and its integral over virtual time.

    The integral over [0, T] of a value that changes by d at t is value0 * T + sum d * (T - t), so
    only ``sum d * t`` is kept: it does not matter that steps of different vCPUs report their
    changes slightly out of order.

    Args:
        value: pages at time 0.
        sample_ns: keep a series; 0 keeps none. It has the first change of every stretch of that
            length, and the value that the stretch before ended with; when there are too many
            samples the stretches become longer.
    """

    def __init__(self, value: int = 0, sample_ns: int = 0) -> None:
        self.value = value
        self.peak = value
        self.weighted = 0.0
        self.samples = [(0, value)]
        self.sample_ns = sample_ns
        self.next_sample_ns = sample_ns

    def change(self, now_ns: cython.longlong, delta: cython.longlong) -> cython.int:
        """The value changes by ``delta`` pages at ``now_ns``."""
        self.value += delta
        if self.value > self.peak:
            self.peak = self.value
        self.weighted += cython.cast(cython.double, delta) * now_ns
        if self.sample_ns and now_ns >= self.next_sample_ns:
            self._sample(now_ns, self.value - delta)
        return 0

    def _sample(self, now_ns: cython.longlong, before: cython.longlong) -> cython.int:
        """A new stretch has begun; keep how the last one ended, too."""
        self._end_stretch(self.samples, before)
        self.samples.append((now_ns, self.value))
        while len(self.samples) > MOST_SAMPLES:
            self.sample_ns *= 2
            self.samples = _thinned(self.samples, self.sample_ns)
        self.next_sample_ns = now_ns - now_ns % self.sample_ns + self.sample_ns
        return 0

    def add(self, now_ns: int, delta: int) -> None:
        """:meth:`change`, from Python."""
        self.change(now_ns, delta)

    def page_seconds(self, end_ns: int) -> float:
        """The integral from 0 to ``end_ns``, in pages times seconds."""
        return (float(self.value) * end_ns - self.weighted) / 1e9

    def series(self) -> list[tuple[int, int]]:
        """(virtual ns, pages) samples; without a spacing only the first."""
        samples = list(self.samples)
        if self.sample_ns:
            self._end_stretch(samples, self.value)
        return samples

    def _end_stretch(self, samples: list, value: cython.longlong) -> cython.int:
        """Add how the last stretch ended; there has been no change behind it."""
        at_ns: cython.longlong = self.next_sample_ns - 1
        last: tuple = samples[len(samples) - 1]
        if last[1] == value:
            return 0
        if last[0] == at_ns:
            samples.pop()
        samples.append((at_ns, value))
        return 0
