"""What a strategy has allocated for itself (`Zone.hold`): its own, like what it has isolated."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hintbench.core.constants import HELD
from hintbench.core.scan import lies_in

if TYPE_CHECKING:
    from hintbench.testing.runs.explored import ExploredRun


def is_held(run: ExploredRun, pfn: int, pages: int) -> bool:
    """Whether all of some pages belong to one block that the strategy has allocated for itself.

    Args:
        run: whose strategy.
        pfn: the first page.
        pages: how many.
    """
    return lies_in(run.machine.pages, pfn, pages, HELD)
