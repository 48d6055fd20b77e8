"""Tapes made of a kernel trace: a modelled replay, and an exact one.

*Modelled*: the allocations and frees of the trace, by CPU and time, drive the guest's own
per-CPU lists and buddy. *Exact*: every take, hand-out, give-back and return names the page that
the kernel chose, so that the free lists are those of the real machine.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hintbench.errors import TraceError
from hintbench.traces.contradictions import check_page_flags
from hintbench.traces.departures import with_departures
from hintbench.traces.exact_tape import ExactMaker
from hintbench.traces.fit import check_cpus, name_of
from hintbench.traces.history import page_history
from hintbench.traces.start import begin_time_ns, end_time_ns, start_of
from hintbench.traces.tape import KEPT_OPERATIONS, ModelledMaker, TapeSource, plan_tapes
from hintbench.traces.windows import WINDOW_ROWS
from hintbench.workload import Program

if TYPE_CHECKING:
    import numpy.typing as npt

    from hintbench.traces.events import Trace


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
        movable: Which pages were on an LRU list at the first dump
            (`hintbench.traces.state.read_lru_pages`).
        kernel: The guest's kernel preset.
        window_rows: Events that are looked at together; the program is the same with any number.
        kept_operations: Of a trace of no more the tapes are made once, and kept in memory.

    Raises:
        TraceError: When the guest has fewer vCPUs than the trace has CPUs, or the page flags are
            not of this trace.
    """
    check_cpus(trace, vcpus)
    begin, end = replayed_rows(trace) if free is not None else (0, len(trace))
    found = with_departures(
        page_history(trace, free, begin=begin, end=end, kernel=kernel, window_rows=window_rows)
    )
    if free is not None:
        check_page_flags(found, free)
    begin_ns = begin_time_ns(trace, begin)
    plan = plan_tapes(ModelledMaker(found, begin_ns), vcpus, kept_operations)
    source = TapeSource(
        lambda: ModelledMaker(found, begin_ns), plan, end_time_ns(trace, begin, end)
    )
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
    window_rows: int = WINDOW_ROWS,
    kept_operations: int = KEPT_OPERATIONS,
) -> Program:
    """Let a guest follow the kernel's own choices, page by page.

    The tapes begin where /proc/kpageflags was dumped and end at the second dump, if the markers
    of the trace say so. The time stamps of all operations are different and in the order of the
    trace, since the text only has microseconds.

    Args:
        trace: The trace.
        free: Which pages were free at the first dump (`hintbench.traces.state.read_page_flags`).
        vcpus: vCPUs of the guest.
        free_at_end: Which pages were free at the second dump, to compare with.
        movable: Which pages were on an LRU list at the first dump
            (`hintbench.traces.state.read_lru_pages`).
        kernel: The guest's kernel preset.
        check: Ask the model at every choice what it would have chosen.
        window_rows: Events that are looked at together; the program is the same with any number.
        kept_operations: Of a trace of no more the tapes are made once, and kept in memory.

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
    found = with_departures(
        page_history(trace, free, begin=begin, end=end, kernel=kernel, window_rows=window_rows)
    )
    check_page_flags(found, free)
    begin_ns = begin_time_ns(trace, begin)
    plan = plan_tapes(ExactMaker(found, begin_ns), vcpus, kept_operations)
    source = TapeSource(lambda: ExactMaker(found, begin_ns), plan, end_time_ns(trace, begin, end))
    return Program(
        slots=plan.slots,
        tapes=source.tapes(),
        operations=plan.operations,
        initial=start_of(
            found, free, plan.in_use, free_at_end, exact=True, movable=movable, check=check
        ),
    )


def replayed_rows(trace: Trace) -> tuple[int, int]:
    """The rows between the first and the second dump of /proc/kpageflags that markers tell of.

    Without markers all rows; without a second one, all rows behind the first.
    """
    first = trace.row_of_mark(["kpageflags-dumped"])
    if first is None:
        return 0, len(trace)
    second = trace.row_of_mark(["kpageflags-dumped"], after=first)
    return first + 1, len(trace) if second is None else second
