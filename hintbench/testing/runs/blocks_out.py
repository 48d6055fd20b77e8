"""The blocks that are isolated: since when, who has them, and which seem to be forgotten."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

    from hintbench.core.contexts import Context
    from hintbench.core.zone import Zone
    from hintbench.host.reports import Completion, Report


@dataclass(slots=True)
class BlockOut:
    """One isolated block.

    Attributes:
        order: its order.
        at_ns: when it was isolated, or when somebody heard what came of its report [virtual ns].
        holder: the task that heard of it; None before, and if that was no task.
        went_on: whether that has isolated or reported something else since.
    """

    order: int
    at_ns: int
    holder: Context | None = None
    went_on: bool = False

    @property
    def is_left(self) -> bool:
        """Whether who heard of the report's end does something else, or nothing any more."""
        if self.holder is None:
            return False
        return self.went_on or self.holder.parked in ("sleep", "done")


class BlocksOut:
    """Keeps the isolated blocks, and the reports that have not been answered.

    Args:
        scheduler: whose task hears of an answer.
        clock: of the run.

    Attributes:
        blocks: by first page.
    """

    def __init__(self, scheduler: Any, clock: Any) -> None:
        self._scheduler = scheduler
        self._clock = clock
        self.blocks: dict[int, BlockOut] = {}
        self._open: list[tuple[Report, Context | None]] = []

    def isolated(self, zone: Zone, pfn: int, order: int) -> None:
        """It left the allocator now."""
        self._goes_on(self._scheduler.current)
        self.blocks[pfn] = BlockOut(order, int(self._clock.now))

    def put_back(self, zone: Zone, pfn: int, order: int) -> None:
        """It is back."""
        self.blocks.pop(pfn, None)

    def reported(self, report: Report, context: Context | None) -> None:
        """The host has it."""
        self._goes_on(context)
        self._open.append((report, context))

    def not_submitted(self, report: Report) -> None:
        """Who wanted to tell the host of it is told at once that it cannot be."""
        self._may_return(report.blocks, self._scheduler.current)

    def answered(self, report: Report) -> None:
        """From now on it may come back; if it was posted, once somebody knows of the answer."""
        if not report.posted:
            holder = next((who for each, who in self._open if each is report), None)
            self._may_return(report.blocks, holder)

    def fetched(self, completion: Completion) -> None:
        """Somebody knows of it."""
        self._may_return(completion.blocks, self._scheduler.current)

    def _goes_on(self, who: Context | None) -> None:
        if who is not None:
            for out in self.blocks.values():
                out.went_on |= out.holder is who

    def _may_return(self, blocks: tuple[Any, ...], who: Context | None) -> None:
        self._open = [each for each in self._open if each[0].blocks is not blocks]
        now = int(self._clock.now)
        holder = who if who is not None and who.kind == "task" else None
        for block in blocks:
            if (out := self.blocks.get(block.pfn)) is not None:
                out.at_ns, out.holder, out.went_on = now, holder, False

    def idle(self, before_ns: int, zone: Zone | None = None) -> list[int]:
        """What is not with the host: somebody has it in hand, or has forgotten it.

        Args:
            before_ns: of which nothing has been heard since then [virtual ns].
            zone: in this zone only.
        """
        reported = {
            block.pfn
            for report, _ in self._open
            if not report.overwritten
            for block in report.blocks
        }
        return [
            pfn
            for pfn, out in self.blocks.items()
            if out.at_ns <= before_ns
            and pfn not in reported
            and (zone is None or zone.start_pfn <= pfn < zone.end_pfn)
        ]

    def pages(self, pfns: Iterable[int]) -> int:
        """How many pages some of the blocks have."""
        return sum(1 << self.blocks[pfn].order for pfn in pfns)
