"""once: an acknowledged report of a block is not repeated before the block has changed.

A block changes when it is handed out, split, or merged with a block that is newly freed. And put
back never notifies, or a strategy would tell for ever what it has just told.

Who resets a device that is slow, and then takes its blocks back, need not know of an answer that
came at the last moment: what he takes back after a reset counts as not told.

Source: FPI_SKIP_REPORT_NOTIFY in __putback_isolated_page(); in v9 if_exist() knows the hints of its
own CPU only, and does not ask where the freed page is itself the head.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hintbench.core.constants import OWNER_BUDDY, OWNER_STRATEGY
from hintbench.hookspecs import Origin
from hintbench.testing.checker import Checker
from hintbench.testing.runs.holdings import is_held

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hintbench.core.flags import UnitFlags
    from hintbench.core.hooks import Block
    from hintbench.core.zone import Zone
    from hintbench.host.reports import Report

NOT_TOLD = -1
"""The order that a block was told as which was not."""


class RuleChecker(Checker):
    """Compares every report with what has been acknowledged and has kept its identity."""

    rule = "once"

    flag_meanings = ("in-flight",)
    hooks = ("block_freed",)

    def __init__(self, run: Any) -> None:
        super().__init__(run)
        self.resets: dict[int, int] = {}  # of the device, when a block was acknowledged

    def reported(self, report: Report, context: Any) -> None:
        """Has the host been told of just this block before?"""
        if not self.run.claims.once:
            return
        self._compare(report.blocks)

    def taken_back(self, blocks: Sequence[Block]) -> None:
        """The host sees for itself what is free: it need not take it twice either."""
        if self.run.claims.once:
            self._compare(blocks)
            self._note(blocks)

    def answered(self, report: Report) -> None:
        """What the host took, and nobody has taken meanwhile, it knows now."""
        if report.ok:
            self._note(report.blocks)
            for block in report.blocks:
                self.resets[block.pfn] = self.run.guest.host.resets

    def put_back(self, zone: Zone, pfn: int, order: int) -> None:
        """An isolated block comes back."""
        self._came_back(pfn)

    def flag_cleared(self, flags: UnitFlags, pfn: int, order: int) -> None:
        """A unit is not marked any more."""
        self._came_back(pfn)

    def _came_back(self, pfn: int) -> None:
        resets = self.run.guest.host.resets
        if self.resets.pop(pfn, resets) != resets:
            self.run.auditor.acknowledged(pfn, NOT_TOLD)

    def _compare(self, blocks: Sequence[Block]) -> None:
        for block in blocks:
            if self.run.auditor.told_as(block.pfn) == block.order:
                text = f"pfn {block.pfn:#x} order {block.order} is told again, unchanged"
                self.violate(text, "again", block.pfn, 1 << block.order)

    def _note(self, blocks: Sequence[Block]) -> None:
        auditor = self.run.auditor
        for block in blocks:
            pages = 1 << block.order
            if (
                auditor.owner_of(block.pfn, pages, OWNER_STRATEGY) < 0
                or auditor.owner_of(block.pfn, pages, OWNER_BUDDY) < 0
                or is_held(self.run, block.pfn, pages)
            ):
                auditor.acknowledged(block.pfn, block.order)

    def hook_called(self, name: str, arguments: tuple[Any, ...]) -> None:
        """A put back that notifies."""
        if arguments[6] == Origin.PUT_BACK and self.run.claims.once:
            self.violate(f"the put back of pfn {arguments[3]:#x} notifies", "notify", arguments[3])
