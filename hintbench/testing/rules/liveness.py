"""liveness: with an idle workload every large free block is told within the declared time.

Blocks of the strategy's minimum order that were freed since the start, all of them if it claims an
initial flush; unless they are behind a gate that it declares, or cannot be isolated without going
below the min watermark. A residue below a threshold is a failure. Blocks that were dropped are
the business of no-silent-drop.

Source: HINTING_THRESHOLD of v9 2/6: what stays below it is never told; page_reporting_process() of
5.7 looks at all lists again for as long as it is asked to.
"""

from __future__ import annotations

from hintbench.testing.checker import Checker
from hintbench.testing.runs.untold import untold_blocks


class RuleChecker(Checker):
    """Looks for blocks that have not been told."""

    rule = "liveness"

    def at_settled(self) -> None:
        """The declared time is over."""
        for pfn, order in untold_blocks(self.run):
            if not self.run.was_dropped(pfn, order):
                bound_ns = self.run.claims.liveness_bound_ns
                text = f"pfn {pfn:#x} order {order} is free and not told after {bound_ns:,} ns"
                self.violate(text, "untold", pfn, 1 << order)
