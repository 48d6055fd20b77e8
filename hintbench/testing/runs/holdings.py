"""What a strategy has allocated for itself (`Zone.hold`): its own, like what it has isolated."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hintbench.core.constants import HELD, KIND_MASK, ORDER_MASK

if TYPE_CHECKING:
    from hintbench.testing.runs.explored import ExploredRun


def is_held(run: ExploredRun, pfn: int, pages: int) -> bool:
    """Whether all of some pages belong to one block that the strategy has allocated for itself.

    Args:
        run: whose strategy.
        pfn: the first page.
        pages: how many.
    """
    states = run.machine.pages
    head = states.head_of(pfn)
    if head < 0 or states.state[head] & KIND_MASK != HELD:
        return False
    return bool(pfn + pages <= head + (1 << (states.state[head] & ORDER_MASK)))
