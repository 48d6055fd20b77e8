"""How the model did against the kernel whose trace it replayed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hintbench.core.constants import BUDDY, KIND_MASK, NR_PAGE_ORDERS, ORDER_MASK
from hintbench.core.tracelists import RefillWalk
from hintbench.core.tracepages import RETURN, TAKE
from hintbench.traces.fit import unlike_trace
from hintbench.traces.state import free_blocks
from hintbench.traces.steps import steps_in_order
from hintbench.traces.windows import piece_of

if TYPE_CHECKING:
    import numpy.typing as npt

    from hintbench.guest.boot import Machine
    from hintbench.traces.history import PageHistory
    from hintbench.traces.start import TraceStart

Metrics = dict[str, int | float | None]


def compare(start: TraceStart, machine: Machine) -> tuple[Metrics, list[str]]:
    """Compare takes, drains, refill sizes and, where it is known, the free memory at the end.

    Args:
        start: The replay.
        machine: The guest after it.

    Returns:
        Metrics that begin with ``trace_``, and a line of text for each comparison.
    """
    found = start.history
    metrics: Metrics = {}
    lines = []
    simulation = machine.simulation
    for name, event, action, counts in (
        ("takes", "mm_page_alloc_zone_locked", TAKE, simulation.taken_by_order),
        ("drains", "mm_page_pcpu_drain", RETURN, simulation.drained_by_order),
    ):
        kernel = counted(found, action, with_derived=start.exact)
        model = [int(count) for count in counts]
        metrics |= {
            f"trace_{name}_kernel": sum(kernel),
            f"trace_{name}_model": sum(model),
            f"trace_{name}_ratio": _ratio(sum(model), sum(kernel)),
        }
        lines.append(f"{event} by order: kernel {_orders(kernel)}; model {_orders(model)}")
        inferred = sum(kernel) - sum(counted(found, action)) if start.exact else 0
        if inferred:
            lines[-1] += f" ({inferred:,} of the kernel's are inferred, not recorded)"
    if not start.exact:
        sizes = refill_sizes(found)
        refills = simulation.count_bulks("refills")
        metrics |= {
            "trace_refills_kernel": sum(sizes.values()),
            "trace_refills_model": sum(refills.values()),
            "trace_refills_of_equal_size": sum(
                min(count, refills.get(size, 0)) for size, count in sizes.items()
            ),
        }
        lines.append(f"refills by size: kernel {_sizes(sizes)}; model {_sizes(refills)}")
    if simulation.truth is not None:
        told, more = simulation.truth.report()
        metrics |= told
        lines += more
    lines += _free_at_end(start, machine, metrics)
    if start.free is None:
        lines += unlike_trace(found.trace, machine.zones, len(simulation.vcpus))
    lines += implied_and_faulty(found)
    return metrics, lines


def implied_and_faulty(found: PageHistory) -> list[str]:
    """What a recording leaves to be inferred, and what is wrong with it, a line each.

    Args:
        found: The trace, understood.
    """
    reasons = found.derived_counts()
    told = ", ".join(f"{count:,} {reason}" for reason, count in sorted(reasons.items()))
    lines = [f"steps that the trace does not name and its events imply: {told}"] if told else []
    return lines + [f"trace: {fault}" for fault in found.trace.faults]


def counted(found: PageHistory, action: int, *, with_derived: bool = False) -> list[int]:
    """How often the kernel did something, by order.

    Args:
        found: The trace, understood.
        action: TAKE, HAND_OUT, GIVE_BACK or RETURN.
        with_derived: Count also what no event says, such as what compaction took.
    """
    counts = np.zeros(NR_PAGE_ORDERS, dtype=np.int64)
    for window in found.windows():
        if with_derived:
            steps = steps_in_order(window)
            orders = steps.order[steps.action == action]
        else:
            some = window.counting
            orders = window.order[some][window.action[some] == action]
        counts += np.bincount(orders, minlength=NR_PAGE_ORDERS)
    return [int(count) for count in counts]


def refill_sizes(found: PageHistory) -> dict[int, int]:
    """How many refills of per-CPU lists the kernel made, by number of blocks.

    A refill is a run of takes of one CPU, order and migratetype that nothing else of that CPU
    interrupts, but for the extfrag of a claim.
    """
    walk = RefillWalk(found.trace.cpus)
    for window in found.windows():
        some = window.counting
        piece = piece_of(window.trace, window.begin, window.end)
        walk.walk(window.action[some], window.order[some], piece)
    return dict(walk.counts())


def kernel_free_at_end(start: TraceStart) -> npt.NDArray[np.bool_] | None:
    """Which pages the kernel had free at the end: as dumped, else as its events lead there."""
    if start.free_at_end is not None:
        return start.free_at_end
    if start.free is None:
        return None
    free = np.zeros(start.page_count, dtype=bool)
    for pfn, order in zip(start.free.pfn.tolist(), start.free.order.tolist(), strict=True):
        free[pfn : pfn + (1 << order)] = True
    for window in start.history.windows():
        steps = steps_in_order(window)
        sizes = 1 << steps.order.astype(np.int64)
        first = np.repeat(steps.pfn - np.concatenate([[0], np.cumsum(sizes)[:-1]]), sizes)
        # Of several steps of one page the last one counts.
        free[first + np.arange(len(first))] = np.repeat(steps.action == RETURN, sizes)
    return free


def model_free(machine: Machine) -> npt.NDArray[np.bool_]:
    """Which pages of a guest are in free buddy blocks."""
    state = np.asarray(machine.pages.state)
    free = np.zeros(len(state), dtype=bool)
    heads = np.flatnonzero(state & KIND_MASK == BUDDY)
    orders = state[heads] & ORDER_MASK
    for order in np.unique(orders):
        some = heads[orders == order]
        free[(some[:, None] + np.arange(1 << int(order))).ravel()] = True
    return free


def _free_at_end(start: TraceStart, machine: Machine, metrics: Metrics) -> list[str]:
    """Free blocks by order; in an exact replay also the pages that differ."""
    kernel = kernel_free_at_end(start)
    if kernel is None:
        return []
    model = model_free(machine)
    # Where both follow the same events, that they agree says nothing of the kernel.
    dumped = start.free_at_end is not None
    whose = "kernel" if dumped else "by the events"
    kernel_blocks, model_blocks = free_blocks(kernel).by_order(), free_blocks(model).by_order()
    metrics["trace_free_pages_end_kernel"] = int(np.count_nonzero(kernel)) if dumped else None
    metrics["trace_free_pages_end_model"] = int(np.count_nonzero(model))
    lines = [
        f"free blocks at the end by order: {whose} {_orders(kernel_blocks)};"
        f" model {_orders(model_blocks)}"
    ]
    if start.exact:
        pages = max(len(kernel), len(model))
        differ = np.zeros(pages, dtype=bool)
        differ[: len(kernel)] = kernel
        differ[: len(model)] ^= model
        count = int(np.count_nonzero(differ))
        metrics["trace_pages_different_end"] = count if dumped else None
        lines.append(f"pages free in only one of the two at the end: {count:,} of {pages:,}")
    if not dumped:
        lines.append("no pages_end=: the end is not compared with the kernel's own free memory")
    return lines


def _ratio(model: int, kernel: int) -> float | None:
    return model / kernel if kernel else None


def _orders(counts: list[int] | tuple[int, ...]) -> str:
    return " ".join(map(str, counts))


def _sizes(counts: dict[int, int]) -> str:
    return " ".join(f"{count}x{size}" for size, count in sorted(counts.items())) or "none"
