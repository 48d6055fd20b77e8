"""no-silent-drop: a dropped hint is counted, and a later pass finds the block.

Source: guest_free_page_enqueue() of v9 2/6 returns without a word when its array is full, and
guest_free_page_try_hinting() forgets all hints when kmalloc() fails; nobody looks for them again.
"""

from hintbench.testing.checker import Checker
from hintbench.testing.runs.untold import untold_blocks


class RuleChecker(Checker):
    """Looks for dropped blocks that have not been told since."""

    rule = "no-silent-drop"

    def at_settled(self) -> None:
        """The declared time is over."""
        for pfn, order in untold_blocks(self.run):
            if self.run.was_dropped(pfn, order):
                text = f"the hint for pfn {pfn:#x} order {order} was dropped for good"
                self.violate(text, "dropped", pfn, 1 << order)
