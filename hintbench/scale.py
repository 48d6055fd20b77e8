"""``hintbench speed --scale``: what guests of very different sizes cost.

The order-0 churn of the standard tapes (400,000 live pages, 2 million operations after the filling,
of all vCPUs together) on guests of 4 GiB to 1 TiB and with 1 to 256 vCPUs. Each guest has a process
of its own, whose peak memory is the guest's with Python, numpy and the tapes. In it the guest is
built and run once as a warm-up, and then several times; medians count.

The warm-up also takes care of a trap: where the measuring machine is itself a guest whose host has
taken its free memory back, the first touch of every page is a refault of that host, and building
1 TiB took 7 s instead of one.
"""

from __future__ import annotations

import contextlib
import gc
import statistics
import sys
import time
import tracemalloc
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, Final, NamedTuple

from hintbench.core import BUILD
from hintbench.core.hugepages import mapped_bytes
from hintbench.errors import InternalError, WorkerError
from hintbench.speed import churn, time_once
from hintbench.workers import SECONDS_TO_END, end_all, start_worker

GIB: Final = 1 << 30
ROUNDS: Final = 3
OPERATIONS: Final = 2_000_000
GUESTS: Final = (
    (4, 1),
    (4, 8),
    (4, 64),
    (4, 256),
    (64, 8),
    (1024, 8),
    (1024, 256),
)
"""(GiB, vCPUs) of each row of the table; the second is the standard tape's."""
_INTERPRETED_SHARE: Final = 40
SMALLEST: Final = 64 << 20


class Row(NamedTuple):
    """One guest.

    Attributes:
        memory_gib: its size.
        vcpus: its vCPUs.
        ns_per_operation: wall nanoseconds, the median of the rounds.
        build_seconds: wall seconds to build it, the median of the rounds.
        bytes_per_page: what its arrays and objects take, for each page frame up to its highest
            (the hole below 4 GiB has frames, too); without slots and tapes, the workload's.
        peak_bytes: largest resident memory of the process.
        digest: of the end state, equal in all rounds.
    """

    memory_gib: int
    vcpus: int
    ns_per_operation: float
    build_seconds: float
    bytes_per_page: float
    peak_bytes: int
    digest: str


def measure(on_row: Callable[[Row], None] | None = None) -> list[Row]:
    """Measure every guest, one after the other, each in a process of its own.

    Args:
        on_row: called for each as it is done.

    Raises:
        WorkerError: a process ended without a result, for want of memory perhaps.
    """
    rows = []
    for memory_gib, vcpus in GUESTS:
        rows.append(_in_process(memory_gib, vcpus))
        if on_row is not None:
            on_row(rows[-1])
    return rows


def measure_guest(
    memory_gib: int, vcpus: int, rounds: int = ROUNDS, operations: int = OPERATIONS
) -> Row:
    """Measure one guest in this process, whose peak memory becomes the row's.

    Raises:
        InternalError: two rounds ended in different states.
    """
    per_page = bytes_per_page(memory_gib, vcpus)
    builds: list[float] = []
    times: list[float] = []
    digests: set[str] = set()
    for number in range(rounds + 1):
        gc.collect()
        began = time.perf_counter()
        ready = churn(operations, vcpus=vcpus, memory=memory_gib * GIB)
        built = time.perf_counter()
        elapsed_ns, count = time_once(ready), ready.operations
        digests.add(ready.digest())
        # Before the next one is built: two guests would not fit.
        del ready
        if number:
            builds.append(built - began)
            times.append(elapsed_ns / count)
    if len(digests) > 1:
        raise InternalError(f"scale: two rounds of {memory_gib} GiB ended in different states")
    return Row(
        memory_gib,
        vcpus,
        statistics.median(times),
        statistics.median(builds),
        per_page,
        _peak_bytes(),
        digests.pop(),
    )


def bytes_per_page(memory_gib: int, vcpus: int) -> float:
    """What a guest without a workload allocates, for each page frame."""
    # What is imported on first use is no guest's.
    churn(0, vcpus=1, memory=SMALLEST, live_slots=0)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0] + mapped_bytes()
        machine = churn(0, vcpus=vcpus, memory=memory_gib * GIB, live_slots=0).machine
        after = tracemalloc.get_traced_memory()[0] + mapped_bytes()
        if machine is None:
            raise InternalError("scale: a guest is measured that is none")
        return (after - before) / machine.pages.page_count
    finally:
        tracemalloc.stop()


def _peak_bytes() -> int:
    """The largest resident memory that this process ever had; 0 where it cannot be told."""
    try:
        import resource
    except ImportError:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _in_process(memory_gib: int, vcpus: int) -> Row:
    """One row from a process of its own."""
    process, ours = start_worker(_work, memory_gib, vcpus)
    try:
        row = ours.recv()
    except EOFError:
        process.join(SECONDS_TO_END)
        raise WorkerError(
            f"the process that measured {memory_gib} GiB with {vcpus} vCPUs ended with status"
            f" {process.exitcode}: is there memory enough (3 GiB for the largest guest)?"
        ) from None
    finally:
        ours.close()
        end_all([process])
    if isinstance(row, BaseException):
        raise row
    return Row(*row)


def _work(connection: Connection[Any, Any], memory_gib: int, vcpus: int) -> None:
    """Body of the process; what goes wrong is the parent's to tell."""
    share = _INTERPRETED_SHARE if BUILD == "interpreted" else 1
    answer: object
    try:
        answer = tuple(measure_guest(memory_gib, vcpus, operations=OPERATIONS // share))
    except (InternalError, MemoryError) as error:
        answer = error
    with contextlib.suppress(BrokenPipeError):
        connection.send(answer)
