"""Pages that lie on a per-CPU list all the time, so that no event ever names them.

vmstat's decay drains a list down to pcp->high, which is never below its minimum. Where fewer pages
than that are known to be left, the others were there all along.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from hintbench.core import tracewords
from hintbench.core.tracepages import GIVE_BACK, RETURN, TAKE
from hintbench.trace_steps import steps_in_order

if TYPE_CHECKING:
    import numpy.typing as npt

    from hintbench.trace_events import Trace
    from hintbench.trace_history import History
    from hintbench.trace_start import PcpPages

_AT_ONCE_NS: Final = 100_000


def hidden_pages(
    found: History, pcp: PcpPages, zone_of: npt.NDArray[np.int16], high_min: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """How many pages the lists hold that are never named, at least.

    Args:
        found: The trace, understood.
        pcp: What is known to be on the lists at the start.
        zone_of: The zone's index of each page; -1 where there is none.
        high_min: The minimum of pcp->high by CPU and zone [pages].

    Returns:
        Pages by CPU and zone.
    """
    trace = found.trace
    steps = steps_in_order(found)
    row = steps.row.copy()
    told = (steps.action == GIVE_BACK) & ~steps.derived
    row[told] = found.commit[row[told]]
    order = np.lexsort((np.arange(len(row)), row))
    row, pfn, action = row[order], steps.pfn[order], steps.action[order]
    pages = 1 << steps.order[order].astype(np.int64)
    puts = (action == TAKE) | (action == GIVE_BACK)
    owner = _owners(pfn, puts, trace.cpu[row], pcp)
    decays = (action == RETURN) & _by_decay(trace)[row]
    zone = zone_of[pfn]
    hidden = np.zeros(high_min.shape, dtype=np.int64)
    for cpu, index in np.ndindex(*high_min.shape):
        mine = np.flatnonzero((owner == cpu) & (zone == index))
        known = np.cumsum(np.where(puts[mine], pages[mine], -pages[mine]))
        start = (pcp.cpu == cpu) & (zone_of[pcp.pfn] == index)
        known += (1 << pcp.order[start].astype(np.int64)).sum()
        # The last page of a drain.
        ends = decays[mine] & ~np.append(decays[mine][1:], False)
        left = known[ends & (trace.cpu[row[mine]] == cpu)]
        if len(left):
            hidden[cpu, index] = max(int(high_min[cpu, index] - left.min()), 0)
    return hidden


def _by_decay(trace: Trace) -> npt.NDArray[np.bool_]:
    """The rows of drains with which a worker begins: vmstat's, while others follow from a free."""
    drain = (trace.flags & tracewords.BY_KWORKER != 0) & (trace.kind == tracewords.PCPU_DRAIN)
    decay = np.zeros(len(trace), dtype=bool)
    for cpu in range(trace.cpus):
        rows = np.flatnonzero(trace.cpu == cpu)
        is_drain = drain[rows]
        begins = is_drain & ~np.append(False, is_drain[:-1])
        same = np.append(False, np.diff(trace.pid[rows]) == 0)
        at_once = np.diff(trace.time_ns[rows], prepend=0) < _AT_ONCE_NS
        # Each drain is of the kind of its run's first.
        run = np.maximum.accumulate(np.where(begins, np.arange(len(rows)), 0))
        decay[rows] = is_drain & ~(same & at_once)[run]
    return decay


def _owners(
    pfn: npt.NDArray[np.int64],
    puts: npt.NDArray[np.bool_],
    cpu: npt.NDArray[np.int16],
    pcp: PcpPages,
) -> npt.NDArray[np.int64]:
    """Whose list each step concerns: that of the CPU which put the page there last.

    A CPU also drains the lists of others (drain_all_pages).
    """
    pfns = np.concatenate([pcp.pfn.astype(np.int64), pfn])
    owner = np.concatenate([pcp.cpu.astype(np.int64), cpu.astype(np.int64)])
    put = np.concatenate([np.ones(len(pcp.pfn), dtype=bool), puts])
    by_page = np.lexsort((np.arange(len(pfns)), pfns))
    place = np.arange(len(by_page))
    new_page = np.diff(pfns[by_page], prepend=-1) != 0
    last_put = np.maximum.accumulate(np.where(put[by_page] | new_page, place, 0))
    owner[by_page] = owner[by_page[last_put]]
    return owner[len(pcp.pfn) :]
