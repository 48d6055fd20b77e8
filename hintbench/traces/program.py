"""Tapes made of a kernel trace: a modelled replay, and an exact one.

*Modelled*: the allocations and frees of the trace, by CPU and time, drive the guest's own
per-CPU lists and buddy. *Exact*: every take, hand-out, give-back and return names the page that
the kernel chose, so that the free lists are those of the real machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from hintbench.core.traceslots import SlotWalk
from hintbench.errors import TraceError
from hintbench.operations import OperationBlock, idle_until
from hintbench.traces.codes import exact_codes
from hintbench.traces.contradictions import check_page_flags
from hintbench.traces.fit import check_cpus, name_of
from hintbench.traces.history import history, page_history
from hintbench.traces.start import begin_time_ns, end_time_ns, start_of
from hintbench.traces.steps import Steps, steps_in_order
from hintbench.traces.tape import KEPT_OPERATIONS, TapeSource, plan_tapes
from hintbench.traces.windows import WINDOW_ROWS
from hintbench.workload import Program

if TYPE_CHECKING:
    import numpy.typing as npt

    from hintbench.traces.events import Trace

BLOCK_OPERATIONS: Final = 1 << 16


@dataclass(frozen=True, slots=True, eq=False)
class _Tape:
    """Operations of all CPUs in the order of the trace, which lasts until `end_ns`."""

    cpu: npt.NDArray[np.int16]
    code: npt.NDArray[np.uint32]
    value: npt.NDArray[np.int32]
    time_ns: npt.NDArray[np.int64]
    end_ns: int

    def programs(self, vcpus: int) -> tuple[Iterator[OperationBlock], ...]:
        return tuple(self._of(cpu) for cpu in range(vcpus))

    def _of(self, cpu: int) -> Iterator[OperationBlock]:
        rows = np.flatnonzero(self.cpu == cpu)
        for low in range(0, len(rows), BLOCK_OPERATIONS):
            some = rows[low : low + BLOCK_OPERATIONS]
            yield OperationBlock(self.code[some], self.value[some], self.time_ns[some])
        yield idle_until([self.end_ns])


def modelled_program(
    trace: Trace,
    *,
    vcpus: int,
    free: npt.NDArray[np.bool_] | None = None,
    free_at_end: npt.NDArray[np.bool_] | None = None,
    movable: npt.NDArray[np.bool_] | None = None,
    kernel: str = "6.12",
    window_rows: int = WINDOW_ROWS,
    kept_operations: int = KEPT_OPERATIONS,
) -> Program:
    """Let a trace's allocations and frees drive the modelled guest.

    A page freed twice in the trace's text (mm_page_free and mm_page_free_batched) is freed once,
    at the time of the batched line, when the kernel put it on the per-CPU list.

    Args:
        trace: The trace.
        vcpus: vCPUs of the guest.
        free: Which pages were free when /proc/kpageflags was dumped, if that is known; the
            replay then begins there.
        free_at_end: Which pages were free at the second dump, to compare with.
        movable: Which pages were on an LRU list at the first dump (`trace_state.read_lru_pages`).
        kernel: The guest's kernel preset.
        window_rows: Events that are looked at together; the program is the same with any number.
        kept_operations: Of a trace of no more the tapes are made once, and kept in memory.

    Raises:
        TraceError: When the guest has fewer vCPUs than the trace has CPUs, or the page flags are
            not of this trace.
    """
    check_cpus(trace, vcpus)
    begin, end = replayed_rows(trace) if free is not None else (0, len(trace))
    found = page_history(trace, free, begin=begin, end=end, kernel=kernel, window_rows=window_rows)
    if free is not None:
        check_page_flags(found, free)
    begin_ns = begin_time_ns(trace, begin)
    plan = plan_tapes(found, vcpus, begin_ns, kept_operations)
    source = TapeSource(found, plan, begin_ns, end_time_ns(trace, begin, end))
    return Program(
        slots=plan.slots,
        tapes=source.tapes(),
        operations=plan.operations,
        initial=start_of(
            found,
            free,
            plan.in_use,
            free_at_end,
            exact=False,
            movable=movable,
            moves=plan.moves,
        ),
    )


def exact_program(
    trace: Trace,
    free: npt.NDArray[np.bool_],
    *,
    vcpus: int,
    free_at_end: npt.NDArray[np.bool_] | None = None,
    movable: npt.NDArray[np.bool_] | None = None,
    kernel: str = "6.12",
    check: bool = False,
) -> Program:
    """Let a guest follow the kernel's own choices, page by page.

    The tapes begin where /proc/kpageflags was dumped and end at the second dump, if the markers
    of the trace say so. The time stamps of all operations are different and in the order of the
    trace, since the text only has microseconds.

    Args:
        trace: The trace.
        free: Which pages were free at the first dump (`trace_state.read_page_flags`).
        vcpus: vCPUs of the guest.
        free_at_end: Which pages were free at the second dump, to compare with.
        movable: Which pages were on an LRU list at the first dump (`trace_state.read_lru_pages`).
        kernel: The guest's kernel preset.
        check: Ask the model at every choice what it would have chosen.

    Raises:
        TraceError: When the guest has fewer vCPUs than the trace has CPUs, or the page flags
            cover less than the trace names or are not of this trace.
    """
    check_cpus(trace, vcpus)
    if len(free) < trace.page_count:
        raise TraceError(
            f"the page flags cover {len(free)} pages, {name_of(trace)} names page"
            f" {trace.page_count - 1:#x}: they are not of one machine"
        )
    begin, end = replayed_rows(trace)
    found = history(trace, free, begin=begin, end=end, kernel=kernel)
    check_page_flags(found, free)
    steps = steps_in_order(found)
    tape = _Tape(
        trace.cpu[steps.row],
        exact_codes(found, steps),
        steps.pfn.astype(np.int32),
        _distinct_times(trace.time_ns[steps.row] - begin_time_ns(trace, begin)),
        end_time_ns(trace, begin, end),
    )
    in_use = _in_use_at_start(steps, len(found.first))
    return Program(
        slots=0,
        tapes=tape.programs(vcpus),
        operations=len(steps.row),
        initial=start_of(
            found, free, in_use, free_at_end, exact=True, movable=movable, check=check
        ),
    )


def _in_use_at_start(
    steps: Steps, pages: int
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int8], npt.NDArray[np.int32]]:
    """Blocks in use at the start that the trace frees: pfn, order, and no slot, where none are."""
    walk = SlotWalk(pages)
    walk.follow(steps.action, steps.pfn, steps.order)
    pfn, order, _ = walk.in_use_at_start()
    return pfn, order, np.full(len(pfn), -1, dtype=np.int32)


def replayed_rows(trace: Trace) -> tuple[int, int]:
    """The rows between the first and the second dump of /proc/kpageflags that markers tell of.

    Without markers all rows; without a second one, all rows behind the first.
    """
    first = trace.row_of_mark(["kpageflags-dumped"])
    if first is None:
        return 0, len(trace)
    second = trace.row_of_mark(["kpageflags-dumped"], after=first)
    return first + 1, len(trace) if second is None else second


def _distinct_times(times_ns: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Times that all differ and keep their order; an event a nanosecond is never too many."""
    number = np.arange(len(times_ns), dtype=np.int64)
    return np.maximum.accumulate(times_ns - number) + number
