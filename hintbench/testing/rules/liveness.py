"""liveness: with an idle workload every large free block is told within the declared time.

Blocks of the strategy's minimum order that were freed since the start, all of them if it claims an
initial flush; unless they are behind a gate that it declares, or cannot be isolated without going
below the min watermark. A residue below a threshold is a failure. Blocks that were dropped are
the business of no-silent-drop.

Source: kernel-facts R10; v9 never tells a residue below its threshold.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from hintbench.testing.explored import Checker
from hintbench.testing.faults import HINDERS_TELLING

if TYPE_CHECKING:
    from hintbench.testing.explored import ExploredRun


class RuleChecker(Checker):
    """Looks for blocks that have not been told."""

    rule = "liveness"

    def at_settled(self) -> None:
        """The declared time is over."""
        for pfn, order in untold_blocks(self.run):
            if not self.run.was_dropped(pfn, order):
                bound_ns = self.run.claims.liveness_bound_ns
                text = f"pfn {pfn:#x} order {order} is free and not told after {bound_ns} ns"
                self.violate(text, "untold", pfn, 1 << order)


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
