"""Which free blocks a strategy should have told by now."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from hintbench.core.constants import PAGEBLOCK_ORDER
from hintbench.core.freelists import inspect_blocks
from hintbench.errors import PluginError
from hintbench.testing.scenarios.faults import HINDERS_TELLING

if TYPE_CHECKING:
    from hintbench.core.zone import Zone
    from hintbench.testing.runs.endings import EndedRun


def untold_blocks(run: EndedRun) -> Iterator[tuple[int, int]]:
    """Free blocks that the strategy should have told by now: pfn and order of each.

    Args:
        run: whose workload has ended, and whose strategy had its time.
    """
    claims = run.claims
    if claims.liveness_bound_ns is None or claims.min_order is None:
        return
    if not HINDERS_TELLING.isdisjoint(run.faults.happened) or not run.guest.host.attached:
        return
    for zone in run.guest.zones:
        if claims.gate is not None:
            shut = _is_shut(run, claims.gate, zone)
            run.outcome.gates_shut += shut
            run.outcome.gates_open += not shut
            if shut:
                continue
        yield from _untold_in(run, zone, claims.min_order)


def _is_shut(run: EndedRun, gate: Callable[[Zone], bool], zone: Zone) -> bool:
    """Ask the strategy's own gate.

    Raises:
        PluginError: it raises.
    """
    try:
        return bool(gate(zone))
    except Exception as error:
        raise PluginError(run.scheduler.plugin, "claims: gate", error) from error


def untold_huge_pages(run: EndedRun) -> Iterator[tuple[int, int]]:
    """Free blocks that any strategy would be expected to tell, given the time.

    Args:
        run: whose workload has ended, and whose strategy claims nothing.
    """
    for zone in run.guest.zones:
        yield from _untold_in(run, zone, PAGEBLOCK_ORDER)


def _untold_in(run: EndedRun, zone: Zone, min_order: int) -> Iterator[tuple[int, int]]:
    """Free blocks of a zone, well above its min watermark, that were freed and not told since."""
    for block in inspect_blocks(zone, min_order):
        pages = 1 << block.order
        free_pages = zone.free_pages - zone.free_highatomic
        if free_pages - pages <= zone.watermark_min + zone.watermark_boost:
            break
        if run.auditor.first_untold(block.pfn, pages) >= 0:
            yield block.pfn, block.order
