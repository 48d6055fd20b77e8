"""Timing things beside each other: interleaved, medians, and no time without its end state."""

import gc
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

ROUNDS = 5


class Job(NamedTuple):
    """Something that is ready to be timed once.

    Attributes:
        run: does it.
        operations: how many operations that is.
        end: says where it ended; the same in every round.
    """

    run: Callable[[], Any]
    operations: int
    end: Callable[[], Any]


class Timing(NamedTuple):
    """Wall time of one operation over the rounds [ns]."""

    median_ns: float
    lowest_ns: float
    highest_ns: float


def measure(prepare: Mapping[str, Callable[[], Job]], rounds: int = ROUNDS) -> dict[str, Timing]:
    """Time jobs in turns, so that a drift of the machine's speed meets all alike.

    Args:
        prepare: makes a fresh job, by name; each is warmed up by one round that does not count.
        rounds: that count.

    Raises:
        RuntimeError: two rounds of a job did not end the same.
    """
    times: dict[str, list[float]] = {name: [] for name in prepare}
    ends: dict[str, Any] = {}
    for number in range(rounds + 1):
        for name, make in prepare.items():
            job = make()
            gc.collect()
            gc.disable()
            try:
                began = time.perf_counter_ns()
                job.run()
                elapsed = time.perf_counter_ns() - began
            finally:
                gc.enable()
            end = job.end()
            if ends.setdefault(name, end) != end:
                raise RuntimeError(f"{name}: two rounds ended differently: {ends[name]}, {end}")
            if number:
                times[name].append(elapsed / job.operations)
    return {
        name: Timing(statistics.median(each), min(each), max(each)) for name, each in times.items()
    }


def tape(prepare: Callable[..., Any], count: int, **options: Any) -> Job:
    """A tape of `hintbench.speed` as a job; its end is the digest of all events."""
    prepared = prepare(count, **options)
    return Job(prepared.run, prepared.operations, prepared.digest)


def command_job(*arguments: str) -> Job:
    """A fresh interpreter with these arguments; its end is its exit status."""
    statuses = []

    def run() -> None:
        done = subprocess.run(
            [sys.executable, *arguments], check=False, stdout=subprocess.DEVNULL, cwd=os.sep
        )
        statuses.append(done.returncode)
        if done.returncode:
            raise RuntimeError(f"{' '.join(arguments)} ended with status {done.returncode}")

    return Job(run, 1, lambda: statuses[-1])


_INTERPRETED = """
import sys, time
from hintbench.core import BUILD
assert BUILD == "interpreted", BUILD
from hintbench.speed import churn
prepared = churn(int(sys.argv[1]), live_slots=int(sys.argv[2]))
began = time.perf_counter_ns()
prepared.run()
print(time.perf_counter_ns() - began, prepared.operations, prepared.digest())
"""


def interpreted_churn(count: int, live_slots: int) -> tuple[float, str]:
    """The churn tape on the interpreted core, in a process of its own.

    Returns:
        Wall nanoseconds for each operation, and the digest, which must be the compiled core's.
    """
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _INTERPRETED, str(count), str(live_slots)],
        env={**os.environ, "HINTBENCH_CORE": "interpreted"},
        check=True,
        capture_output=True,
        text=True,
    )
    elapsed, operations, digest = done.stdout.split()
    return int(elapsed) / int(operations), digest
