"""Stories 1 to 7 of the posted v9: free lists and a virtqueue that nobody locked.

Source: reference strategies, percpu-array-v9; Duyck's review of v9 2/6.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Final

from hintbench.core.constants import EVENT_RETURNED, EVENT_TAKEN
from hintbench.testing.races.race import Race

if TYPE_CHECKING:
    from hintbench.host.reports import Completion, Report
    from hintbench.testing.runs.outcome import Violation


class Story(Race):
    """One of the fifteen stories of the posted v9.

    Attributes:
        number: its number in the reference.
    """

    number: ClassVar[int] = 0
    strategies = ("percpu-array-v9",)


class UnlockedEdit(Story):
    """What these detectors share: what others did while an unlocked edit was half done."""

    kinds = (EVENT_TAKEN, EVENT_RETURNED)
    costly = True
    inside_only = True

    def __init__(self, run: Any) -> None:
        super().__init__(run)
        self.meanwhile: set[int] = set()
        self.in_acknowledgement = False

    def edit_preempted(self, part: str) -> None:
        """An unlocked edit stands between two of its parts."""
        if self.run.depth == 0:
            self.meanwhile.clear()
            self.in_acknowledgement = self.in_interrupt

    def page_event(self, cpu: int, kind: int, pfn: int, order: int) -> None:
        """What happens inside it."""
        if self.run.depth:
            self.meanwhile.add(kind)

    def violated(self, violation: Violation) -> None:
        """Has it come to that?"""
        torn = violation.rule == "conservation" and self.in_acknowledgement
        if torn and self.is_mine(violation):
            self.happened(violation.pfn, violation.pages)

    def is_mine(self, violation: Violation) -> bool:
        """Whether a broken list is this story's."""
        raise NotImplementedError


class AgainstADrain(UnlockedEdit):
    """See `text`."""

    name = "1-unlocked-ack-against-drain"
    number = 1
    text = (
        "the acknowledgement adds to a free list without the lock while another CPU frees to it:"
        " the list is corrupt"
    )

    def is_mine(self, violation: Violation) -> bool:
        """Whether a broken list is this story's."""
        broken = violation.kind in ("links", "heads", "owners", "list", "unmerged")
        return broken and EVENT_RETURNED in self.meanwhile


class AgainstATaker(UnlockedEdit):
    """See `text`."""

    name = "2-unlocked-ack-against-taker"
    number = 2
    text = (
        "the acknowledgement adds to a free list without the lock while another CPU takes from it:"
        " a block has two owners"
    )

    def is_mine(self, violation: Violation) -> bool:
        """Whether a broken list is this story's."""
        return violation.kind in ("heads", "owners") and EVENT_TAKEN in self.meanwhile


class LostCount(UnlockedEdit):
    """See `text`."""

    name = "3-lost-update-of-free-count"
    number = 3
    text = "two CPUs count free pages at once, one of them without the lock: an update is lost"

    def is_mine(self, violation: Violation) -> bool:
        """Whether a broken list is this story's."""
        return violation.kind == "count"


class QueueFull(Story):
    """See `text`."""

    name = "4-queue-full-puts-back-unlocked"
    number = 4
    text = "the queue is full, and the error path puts the blocks back without the lock"

    def violated(self, violation: Violation) -> None:
        """In the freeing thread it is the error path."""
        host = self.run.guest.host
        in_error_path = violation.rule == "locked-lists" and not self.in_interrupt
        if in_error_path and host.refused_reports and host.attached:
            self.happened(violation.pfn, violation.pages)


class SwallowedCompletion(Story):
    """See `text`."""

    name = "5-swallowed-completion"
    number = 5
    text = (
        "the submitter throws a completion away; the acknowledgement that comes for it finds"
        " nothing, and dereferences that"
    )

    def __init__(self, run: Any) -> None:
        super().__init__(run)
        self.swallowed: Completion | None = None

    def fetched(self, completion: Completion) -> None:
        """By whom?"""
        if not self.in_interrupt:
            self.swallowed = completion

    def violated(self, violation: Violation) -> None:
        """The interrupt finds nothing."""
        nothing_there = violation.rule == "completion-once" and violation.kind == "oops"
        if nothing_there and self.swallowed is not None:
            block = self.swallowed.blocks[0]
            self.happened(block.pfn, block.pages)


class SharedInterrupt(Story):
    """See `text`."""

    name = "6-two-completions-one-interrupt"
    number = 6
    text = "two completions share an interrupt, and one of them is taken"

    def fetched(self, completion: Completion) -> None:
        """Is one left, and nobody will come for it?"""
        answers = self.run.guest.host.acknowledgements
        if self.in_interrupt and answers.waiting and not answers.interrupt_pending:
            self.happened(completion.blocks[0].pfn, completion.blocks[0].pages)


class TwoInTheQueue(Story):
    """See `text`."""

    name = "7-two-cpus-in-the-queue"
    number = 7
    text = "two CPUs add to the virtqueue at once without a lock: one descriptor overwrites another"

    def overwritten(self, report: Report) -> None:
        """A report that the host will never see."""
        self.happened(report.blocks[0].pfn, report.blocks[0].pages)


RACES: Final[tuple[type[Story], ...]] = (
    AgainstADrain,
    AgainstATaker,
    LostCount,
    QueueFull,
    SwallowedCompletion,
    SharedInterrupt,
    TwoInTheQueue,
)
