"""The blocks that are isolated: since when, who has them, and which seem to be forgotten.

For explored runs, in which this is asked with every block and every report.
"""

from collections.abc import Iterable
from typing import Any

import cython

if cython.compiled:
    from cython.cimports.hintbench.core.clock import VirtualClock
    from cython.cimports.hintbench.core.constants import ROLE_TASK
    from cython.cimports.hintbench.core.contexts import Context
    from cython.cimports.hintbench.core.hooks import Block
    from cython.cimports.hintbench.core.scheduler import CoreScheduler
else:
    from hintbench.core.clock import VirtualClock
    from hintbench.core.constants import ROLE_TASK
    from hintbench.core.contexts import Context
    from hintbench.core.hooks import Block
    from hintbench.core.scheduler import CoreScheduler


@cython.ccall
def overlap(blocks: tuple, pfn: cython.int, pages: cython.int) -> cython.bint:
    """Whether one of some blocks has any page of a range.

    Args:
        blocks: those.
        pfn: the range's first page.
        pages: its length.
    """
    end: cython.int = pfn + pages
    block: Block
    for each in blocks:
        block = each
        if block.pfn < end and pfn < block.pfn + (1 << block.order):
            return True
    return False


@cython.final
@cython.cclass
class BlockOut:
    """One isolated block.

    Attributes:
        order: its order.
        at_ns: when it was isolated, or when somebody heard what came of its report [virtual ns].
        holder: the task that heard of it; None before, and if that was no task.
        went_on: whether that has isolated or reported something else since.
    """

    def __init__(self, order: int, at_ns: int) -> None:
        self.order = order
        self.at_ns = at_ns
        self.holder = None
        self.went_on = False

    @property
    def is_left(self) -> bool:
        """Whether who heard of the report's end does something else, or nothing any more."""
        if self.holder is None:
            return False
        return self.went_on or self.holder.parked in ("sleep", "done")


@cython.final
@cython.cclass
class BlocksOut:
    """Keeps the isolated blocks, and the reports that have not been answered.

    Args:
        scheduler: whose task hears of an answer.
        clock: of the run.

    Attributes:
        blocks: by first page.
    """

    def __init__(self, scheduler: CoreScheduler, clock: VirtualClock) -> None:
        self._scheduler = scheduler
        self._clock = clock
        self.blocks: dict[int, BlockOut] = {}
        self._open: list[tuple[Any, Context | None]] = []

    def isolated(self, zone: Any, pfn: int, order: int) -> None:
        """An event of the watcher's: it left the allocator now."""
        self._goes_on(self._scheduler.current)
        self.blocks[pfn] = BlockOut(order, self._clock.now)

    def put_back(self, zone: Any, pfn: int, order: int) -> None:
        """An event of the watcher's: it is back."""
        self.blocks.pop(pfn, None)

    def reported(self, report: Any, context: Context | None) -> None:
        """An event of the watcher's: the host has it."""
        self._goes_on(context)
        self._open.append((report, context))

    def not_submitted(self, report: Any) -> None:
        """An event of the watcher's: who wanted to tell the host is told at once that it cannot."""
        self._may_return(report.blocks, self._scheduler.current)

    def answered(self, report: Any) -> None:
        """From now on it may come back; if it was posted, once somebody knows of the answer."""
        if report.posted:
            return
        holder: Context | None = None
        for each, who in self._open:
            if each is report:
                holder = who
                break
        self._may_return(report.blocks, holder)

    def fetched(self, completion: Any) -> None:
        """An event of the watcher's: somebody knows of it."""
        self._may_return(completion.blocks, self._scheduler.current)

    def _goes_on(self, who: Context | None) -> cython.int:
        out: BlockOut
        if who is not None:
            for each in self.blocks.values():
                out = each
                if out.holder is who:
                    out.went_on = True
        return 0

    def _may_return(self, blocks: tuple, who: Context | None) -> cython.int:
        out: BlockOut
        block: Block
        still = []
        for pair in self._open:
            if pair[0].blocks is not blocks:
                still.append(pair)
        self._open = still
        holder: Context | None = who if who is not None and who.role == ROLE_TASK else None
        for each in blocks:
            block = each
            found: object = self.blocks.get(block.pfn)
            if found is not None:
                out = found
                out.at_ns, out.holder, out.went_on = self._clock.now, holder, False
        return 0

    def idle(self, before_ns: int, zone: Any = None) -> list[int]:
        """What is not with the host: somebody has it in hand, or has forgotten it.

        Args:
            before_ns: of which nothing has been heard since then [virtual ns].
            zone: in this zone only.
        """
        reported = set()
        for report, _ in self._open:
            if not report.overwritten:
                reported.update([block.pfn for block in report.blocks])
        return [
            pfn
            for pfn, out in self.blocks.items()
            if out.at_ns <= before_ns
            and pfn not in reported
            and (zone is None or zone.start_pfn <= pfn < zone.end_pfn)
        ]

    def pages(self, pfns: Iterable[int]) -> int:
        """How many pages some of the blocks have."""
        return sum([1 << self.blocks[pfn].order for pfn in pfns])
