"""Base of every race's detector."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from hintbench.core.audit import PageFollower
from hintbench.core.constants import BUDDY
from hintbench.core.scan import order_of
from hintbench.testing.checker import Checker

if TYPE_CHECKING:
    from hintbench.core.contexts import Context
    from hintbench.host.reports import Report
    from hintbench.testing.runs.explored import ExploredRun
    from hintbench.testing.runs.outcome import Violation


class Race(Checker):
    """Sees one run, as a rule's checker does, and says when its race happens.

    Attributes:
        name: as in reports.
        text: what happens, in one sentence.
        strategies: names of the strategies it concerns.
        kinds: what of the history it wants to see (``EVENT_...`` in `hintbench.core.constants`).
        costly: it follows pages, or every use of a ring: a third of a schedule's time, so it is
            looked for in few of the long ones.
        inside_only: what it wants to see happens while a step of somebody else stands still.
        follower: calls `page_event`; a race that waits for something disarms it until then.
        strategy: the strategy's instance; a race knows whose it is, and may look at its attributes.
    """

    name: ClassVar[str] = ""
    text: ClassVar[str] = ""
    strategies: ClassVar[tuple[str, ...]] = ()
    kinds: ClassVar[tuple[int, ...]] = ()
    costly: ClassVar[bool] = False
    inside_only: ClassVar[bool] = False

    def __init__(self, run: ExploredRun) -> None:
        super().__init__(run)
        self.strategy: Any = run.strategy
        self._scheduler = run.scheduler
        self._provoked = run.outcome.races
        self.follower = PageFollower(self.page_event)

    def page_event(self, cpu: int, kind: int, pfn: int, order: int) -> None:
        """Something of its `kinds` has happened to a page or block."""

    def violated(self, violation: Violation) -> None:
        """A rule has been broken."""

    def happened(self, pfn: int = 0, pages: int = 0) -> None:
        """It happens now."""
        if self.name not in self._provoked:
            self.run.provoked(self, pfn, pages)

    @property
    def current(self) -> Context | None:
        """The context that runs; None while the core does."""
        return self._scheduler.current

    @property
    def in_interrupt(self) -> bool:
        """Whether an interrupt runs."""
        return self.current is not None and self.current.kind == "interrupt"

    def order_at(self, pfn: int) -> int:
        """The order of the free block around a page; -1 when it is not free."""
        return order_of(self.run.machine.pages, pfn, BUDDY)


class ReportsRace(Race):
    """A race that is about reports which the host has not answered.

    Attributes:
        open: those reports, in the order of their submission.
    """

    def __init__(self, run: ExploredRun) -> None:
        super().__init__(run)
        self.open: list[Report] = []

    def reported(self, report: Report, context: Any) -> None:
        """The host has it from now on."""
        self.open.append(report)

    def answered(self, report: Report) -> None:
        """It is not in flight any more."""
        self.open = [each for each in self.open if each is not report]
