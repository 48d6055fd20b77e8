"""Which free blocks a strategy should have told by now."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from hintbench.testing.faults import HINDERS_TELLING

if TYPE_CHECKING:
    from hintbench.testing.explored import ExploredRun


def untold_blocks(run: ExploredRun) -> Iterator[tuple[int, int]]:
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
        if claims.gate is not None and claims.gate(zone):
            continue
        now = run.machine.clock.now
        blocks = zone.free_blocks(claims.min_order)
        run.machine.clock.now = now
        for block in blocks:
            pages = 1 << block.order
            free_pages = zone.free_pages - zone.free_highatomic
            if free_pages - pages <= zone.watermark_min + zone.watermark_boost:
                break
            if run.auditor.first_untold(block.pfn, pages) >= 0:
                yield block.pfn, block.order
