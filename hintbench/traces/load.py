"""Putting a booted guest into the state that a recorded machine was in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from hintbench.core.constants import (
    IN_USE,
    IN_USE_MOVABLE,
    KERNEL_6_12,
    MAX_PAGE_ORDER,
    PCP,
    RECLAIMABLE,
)
from hintbench.core.tracerefills import AllocFactorWalk
from hintbench.traces.compaction import compaction_of
from hintbench.traces.fit import check_pages
from hintbench.traces.hidden import HiddenPages, list_steps
from hintbench.traces.levels import PcpLevels
from hintbench.traces.reclaim import KswapdRuns, ends_of_kswapd, fallbacks
from hintbench.traces.state import UNKNOWN_TYPE, FreeBlocks, free_blocks
from hintbench.traces.steps import steps_in_order
from hintbench.traces.truth import AllocatorTruth

if TYPE_CHECKING:
    import numpy.typing as npt

    from hintbench.core.zone import Zone
    from hintbench.guest.boot import Machine
    from hintbench.traces.start import TraceStart


def load(start: TraceStart, machine: Machine) -> None:
    """Fill a guest whose zones are empty.

    Where it is not known which pages were free, all that the trace does not show in use is.

    Args:
        start: The state.
        machine: The guest.

    Raises:
        TraceError: When the guest has other pages than the machine that was traced.
    """
    zone_of = _zones_by_page(machine)
    _check_fits(start, machine)
    types = np.asarray(machine.pages.pageblock_type)
    known = np.flatnonzero(start.pageblock_type[: len(types)] != UNKNOWN_TYPE)
    types[known] = start.pageblock_type[known]
    used = _covered(start.in_use_pfn, start.in_use_order, len(zone_of))
    used |= _covered(start.pcp.pfn, start.pcp.order, len(zone_of))
    for index, zone in enumerate(machine.zones):
        free = (zone_of == index) & ~used
        if start.free is not None:
            free &= _covered(start.free.pfn, start.free.order, len(zone_of))
        else:
            _leave_out_reserved(zone, free)
        blocks = in_order_of_leaving(free_blocks(free), start.history.first_row)
        # Each goes behind the one before it, or before it in an older kernel.
        to_tail = zone.kernel >= KERNEL_6_12
        for at in range(len(blocks)) if to_tail else reversed(range(len(blocks))):
            zone.add_free_block(int(blocks.pfn[at]), int(blocks.order[at]))
    _load_in_use(start, machine, zone_of)
    _load_pcp(start, machine, zone_of)
    if start.moves is not None:
        runs, drains = compaction_of(start.history, start.moves, start.begin_ns, zone_of)
        start.compaction.extend(runs)
        start.drains_of_all.extend(drains)
    if start.exact:
        named: Any = np.zeros(len(zone_of), dtype=np.uint8)
        for window in start.history.windows():
            steps = steps_in_order(window)
            named |= _covered(steps.pfn, steps.order, len(zone_of)).view(np.uint8)
        for zone in machine.zones:
            zone.named = memoryview(named)
    if start.check:
        machine.simulation.truth = AllocatorTruth(machine, start.begin_ns)
    # What loading visited is in no CPU's cache.
    np.asarray(machine.pages.pageblock_cpu).fill(-1)


def _zones_by_page(machine: Machine) -> npt.NDArray[np.int16]:
    """The index of each page's zone, -1 where there is none."""
    zones = np.full(machine.pages.page_count, -1, dtype=np.int16)
    for index, zone in enumerate(machine.zones):
        zones[zone.start_pfn : zone.end_pfn] = index
    return zones


def _check_fits(start: TraceStart, machine: Machine) -> None:
    """Refuse a guest that has other pages than the trace and its page flags tell of."""
    named = np.flatnonzero(start.history.last_row >= 0)
    known_pages = None
    if start.free is not None:
        named = np.union1d(named, start.free.pfn)
        known_pages = start.page_count
    check_pages(
        start.history.trace,
        named,
        machine.zones,
        known_pages,
        resizable=machine.config.zones is None,
    )


def in_order_of_leaving(blocks: FreeBlocks, first_row: npt.NDArray[np.int32]) -> FreeBlocks:
    """Sort free blocks by the first event of any of their pages; those without one go last.

    The kernel takes the first block of a list, so this is how they stood, of which no dump of page
    flags tells. What joined a larger block before it was taken may stand elsewhere; by then it is
    on no list of its own.
    """
    never = np.iinfo(np.int32).max
    rows = np.full(first_row.size + (1 << MAX_PAGE_ORDER), never, dtype=np.int32)
    rows[: first_row.size] = np.where(first_row < 0, never, first_row)
    leaving = np.full(len(blocks), never, dtype=np.int32)
    for order in np.unique(blocks.order):
        some = np.flatnonzero(blocks.order == order)
        pages = np.minimum(blocks.pfn[some], first_row.size)[:, None] + np.arange(1 << int(order))
        leaving[some] = rows[pages].min(axis=1)
    sort = np.argsort(leaving, kind="stable")
    return FreeBlocks(blocks.pfn[sort], blocks.order[sort])


def _covered(
    pfn: npt.NDArray[np.integer], order: npt.NDArray[np.int8], pages: int
) -> npt.NDArray[np.bool_]:
    """Whether each page lies in one of the blocks."""
    covered = np.zeros(pages, dtype=bool)
    for each in np.unique(order):
        heads = pfn[order == each]
        heads = heads[heads + (1 << int(each)) <= pages]
        covered[(heads[:, None] + np.arange(1 << int(each))).ravel()] = True
    return covered


def _leave_out_reserved(zone: Zone, free: npt.NDArray[np.bool_]) -> None:
    """Of the pages that nobody mentions as many are not free as the zone does not manage."""
    pages = slice(zone.start_pfn, zone.end_pfn)
    in_use = int(np.count_nonzero(~free[pages]))
    wanted = max(int(zone.managed_pages) - in_use, 0)
    rest = np.flatnonzero(free[pages])
    free[zone.start_pfn + rest[: max(len(rest) - wanted, 0)]] = False


def _load_in_use(start: TraceStart, machine: Machine, zone_of: npt.NDArray[np.int16]) -> None:
    """Mark blocks in use, fill their slots, and count them as the guest's own memory."""
    inside = (start.in_use_pfn < len(zone_of)) & (
        zone_of[np.minimum(start.in_use_pfn, len(zone_of) - 1)] >= 0
    )
    pfn, order = start.in_use_pfn[inside], start.in_use_order[inside]
    kind = np.full(len(pfn), IN_USE_MOVABLE, dtype=np.uint8)
    if start.movable is not None:
        known = np.zeros(len(zone_of), dtype=bool)
        known[: len(start.movable)] = start.movable[: len(zone_of)]
        kind[~known[pfn]] = IN_USE
    np.asarray(machine.pages.state)[pfn] = kind | order.astype(np.uint8)
    slot = start.in_use_slot[inside]
    for one, head in zip(slot[slot >= 0].tolist(), pfn[slot >= 0].tolist(), strict=True):
        machine.simulation.fill_slot(one, head)
    pages = int((1 << order.astype(np.int64)).sum())
    machine.backing.used.add(machine.clock.now, pages)


def _load_pcp(start: TraceStart, machine: Machine, zone_of: npt.NDArray[np.int16]) -> None:
    """Put pages on the per-CPU lists, the hottest at the head.

    In an exact replay the tapes say what becomes of each page, and the lists stay empty.
    """
    pcp = start.pcp
    if start.exact:
        np.asarray(machine.pages.state)[pcp.pfn] = PCP | pcp.order.astype(np.uint8)
        return
    factors = _alloc_factors(start, machine, zone_of)
    hidden, levels = _follow_lists(start, machine, zone_of, factors)
    pages = hidden.pages() if levels is None else np.maximum(hidden.pages(), levels.hidden())
    _load_hidden(start, machine, zone_of, pages)
    for vcpu in machine.simulation.vcpus:
        for index, lists in enumerate(vcpu.pcps):
            some = (pcp.cpu == vcpu.number) & (zone_of[pcp.pfn] == index)
            lists.load(pcp.pfn[some], pcp.order[some], pcp.migratetype[some])
            # One that held more than pcp->high would have been drained by the last free.
            lists.high = min(max(lists.high, lists.count), lists.high_max)
            lists.alloc_factor = int(factors[vcpu.number, index])
    if levels is not None:
        _set_levels(start, machine, levels)


def _alloc_factors(
    start: TraceStart, machine: Machine, zone_of: npt.NDArray[np.int16]
) -> npt.NDArray[np.int64]:
    """pcp->alloc_factor as it was, by CPU and zone; 0 everywhere in 5.0, which has none."""
    batch = np.array(
        [[pcp.batch for pcp in vcpu.pcps] for vcpu in machine.simulation.vcpus], dtype=np.int64
    )
    if machine.kernel < KERNEL_6_12:
        return np.zeros_like(batch)
    walk = AllocFactorWalk(zone_of, batch)
    for window, steps, _ in list_steps(start.history):
        walk.walk(steps, window.trace.cpu[steps.row])
        if walk.is_done():
            break
    return walk.factors()


def _follow_lists(
    start: TraceStart,
    machine: Machine,
    zone_of: npt.NDArray[np.int16],
    factors: npt.NDArray[np.int64],
) -> tuple[HiddenPages, PcpLevels | None]:
    """Go through the trace once more, for what it tells of the lists; 5.0 has no levels."""
    vcpus = machine.simulation.vcpus
    bounds = np.array(
        [[(pcp.batch, pcp.high_min, pcp.high_max) for pcp in vcpu.pcps] for vcpu in vcpus],
        dtype=np.int64,
    )
    hidden = HiddenPages(start.pcp, zone_of, bounds[:, :, 1])
    levels = None
    if machine.kernel >= KERNEL_6_12:
        levels = PcpLevels(
            start.pcp,
            zone_of,
            bounds,
            np.array([zone.watermark_high for zone in machine.zones], dtype=np.int64),
            np.array([zone.free_pages for zone in machine.zones], dtype=np.int64),
            {
                cpu: [at + start.begin_ns for at in times]
                for cpu, times in start.possible_ticks_ns.items()
            },
            factors,
            _kswapd_runs(start, machine, zone_of),
        )
    for window, steps, decay in list_steps(start.history):
        hidden.follow(window, steps, decay)
        if levels is not None:
            levels.follow(window, steps, decay)
    return hidden, levels


def _kswapd_runs(start: TraceStart, machine: Machine, zone_of: npt.NDArray[np.int16]) -> KswapdRuns:
    """What gathers when kswapd ran, while the lists are followed."""
    found = start.history
    times, pages, claimed = fallbacks(found.trace, found.begin, found.end)
    zones = zone_of[np.minimum(pages, len(zone_of) - 1)]
    wakes = [
        (at, zone, sure)
        for at, zone, sure in zip(times.tolist(), zones.tolist(), claimed.tolist(), strict=True)
        if zone >= 0
    ]
    return KswapdRuns(
        wakes,
        ends_of_kswapd(found.trace, found.begin, found.end).tolist(),
        np.array([zone.watermark_low for zone in machine.zones], dtype=np.int64),
        np.array([zone.watermark_high for zone in machine.zones], dtype=np.int64),
    )


def _set_levels(start: TraceStart, machine: Machine, levels: PcpLevels) -> None:
    """Set pcp->high as it was, and add the decays of it that no drain shows."""
    vcpus, raised = machine.simulation.vcpus, levels.raised()
    for cpu, index in zip(*np.nonzero(raised), strict=True):
        pcp = vcpus[cpu].pcps[index]
        pcp.high = min(pcp.high + int(raised[cpu, index]), pcp.high_max)
    start.kswapd_runs.extend(run.moved(-start.begin_ns) for run in levels.kswapd_runs())
    for cpu, times in levels.decays().items():
        known = start.vmstat_ticks_ns[cpu]
        start.vmstat_ticks_ns[cpu] = sorted({*known, *(at - start.begin_ns for at in times)})


def _load_hidden(
    start: TraceStart,
    machine: Machine,
    zone_of: npt.NDArray[np.int16],
    hidden: npt.NDArray[np.int64],
) -> None:
    """Put pages on the lists that were there all the time, in place of some that are never freed.

    They stand where the kernel came across them least: with the reclaimable ones.
    """
    vcpus = machine.simulation.vcpus
    state = np.asarray(machine.pages.state)
    silent = start.in_use_pfn[(start.in_use_slot < 0) & (start.in_use_order == 0)]
    silent = silent[silent < len(zone_of)]
    silent = silent[state[silent] == IN_USE]
    for cpu, index in zip(*np.nonzero(hidden), strict=True):
        some = silent[zone_of[silent] == index][: hidden[cpu, index]]
        silent = np.setdiff1d(silent, some)
        machine.backing.used.add(machine.clock.now, -len(some))
        count = len(some)
        vcpus[cpu].pcps[index].load(
            some, np.zeros(count, dtype=np.int8), np.full(count, RECLAIMABLE, dtype=np.int8)
        )
