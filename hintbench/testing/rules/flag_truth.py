"""flag-truth: what the strategy believes to be told is what the host does not back.

Looked at whenever a flag that means "told" is set, and when the workload has ended. A host with
granules of 2 MiB brings a whole unit back when one of its pages is touched: what a strategy
believes of smaller units is not judged there, for no guest can know.

Source: page_del_and_expand() and __del_page_from_free_list(), which forget PageReported with every
split and merge, where Duyck's memory aeration RFC (May 2019) copied its mark to both halves.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hintbench.core.constants import PAGEBLOCK_ORDER
from hintbench.testing.checker import Checker

if TYPE_CHECKING:
    from hintbench.core.flags import UnitFlags


class RuleChecker(Checker):
    """Compares told units with the host's side of their pages."""

    rule = "flag-truth"
    flag_meanings = ("told",)

    def flag_set(self, flags: UnitFlags, pfn: int, order: int) -> None:
        """Is it true?"""
        pages = 1 << flags.order
        for unit in range(pfn & -pages, pfn + (1 << order), pages):
            self._look(flags, unit)

    def at_settled(self) -> None:
        """Is all of it still true?"""
        for flags, meaning in self.run.guest.flag_sets.values():
            if meaning == "told":
                for unit in flags.set_units():
                    self._look(flags, unit)

    def _look(self, flags: UnitFlags, unit: int) -> None:
        backing = self.run.machine.backing
        if flags.order < PAGEBLOCK_ORDER and backing.came_back_whole(unit):
            return
        backed = backing.count_backed(unit, flags.order)
        if backed:
            self.violate(
                f"unit {unit:#x} is marked {flags.name}, but the host backs {backed} of its pages",
                "backed",
                unit,
                1 << flags.order,
            )
