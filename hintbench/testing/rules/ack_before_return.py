"""ack-before-return: nothing comes back and no mark is cleared before the host has answered.

An answer is an acknowledgement, a refusal, or the reset of the device. A time-out is none: the
host may still discard the memory.

Source: hinting_ack() of v9 3/6: the host discards long after the virtqueue took the request, and
nothing but the isolation until then keeps the pages from being allocated.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hintbench.core.blocksout import overlap
from hintbench.testing.checker import Checker

if TYPE_CHECKING:
    from hintbench.core.flags import UnitFlags
    from hintbench.core.zone import Zone
    from hintbench.host.reports import Report


class RuleChecker(Checker):
    """Keeps the reports that have not been answered."""

    rule = "ack-before-return"
    flag_meanings = ("in-flight",)

    def __init__(self, run: Any) -> None:
        super().__init__(run)
        self.open: list[Report] = []

    def reported(self, report: Report, context: Any) -> None:
        """The host works with it from now on."""
        self.open.append(report)

    def answered(self, report: Report) -> None:
        """The host is done with it."""
        if report in self.open:
            self.open.remove(report)

    def put_back(self, zone: Zone, pfn: int, order: int) -> None:
        """A block comes back."""
        if self._open(pfn, 1 << order):
            text = f"pfn {pfn:#x} order {order} is put back before the host has answered"
            self.violate(text, "put-back", pfn, 1 << order)

    def flag_cleared(self, flags: UnitFlags, pfn: int, order: int) -> None:
        """A mark goes."""
        if self._open(pfn, 1 << order):
            text = f"{flags.name} of pfn {pfn:#x} is cleared before the host has answered"
            self.violate(text, "mark", pfn, 1 << order)

    def _open(self, pfn: int, pages: int) -> bool:
        # A generator would be made for every block, and mostly nothing is open.
        if not self.open:
            return False
        return any(not each.reset and overlap(each.blocks, pfn, pages) for each in self.open)
