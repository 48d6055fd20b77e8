"""no-silent-drop: a dropped hint is counted, and a later pass finds the block.

Source: kernel-facts R10; v9 drops what meets a full array for good.
"""

from hintbench.testing.explored import Checker
from hintbench.testing.untold import untold_blocks


class RuleChecker(Checker):
    """Looks for dropped blocks that have not been told since."""

    rule = "no-silent-drop"

    def at_settled(self) -> None:
        """The declared time is over."""
        for pfn, order in untold_blocks(self.run):
            if self.run.was_dropped(pfn, order):
                text = f"the hint for pfn {pfn:#x} order {order} was dropped for good"
                self.violate(text, "dropped", pfn, 1 << order)
