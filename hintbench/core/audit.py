"""Who has each page: every event of a run held against a table of legal transitions.

The auditor keeps its own books, from the event history alone, and looks at no list and no state
byte of the allocator.  A page is with the buddy allocator, outside it (on a per-CPU list, or in
transit on a CPU), handed out, or in a strategy's hands, and each event leads from one of these to
another.  Handed-out pages carry a stamp, which a discard erases and their owner verifies.
"""

from collections.abc import Callable
from typing import Any

import cython
import numpy

if cython.compiled:
    from cython.cimports.hintbench.core.clock import EventListener
    from cython.cimports.hintbench.core.constants import (
        EVENT_ALLOCATED,
        EVENT_FREED,
        EVENT_ISOLATED,
        EVENT_LOCKED,
        EVENT_PUT_BACK,
        EVENT_RETURNED,
        EVENT_TAKEN,
        OWNER_BUDDY,
        OWNER_CALLER,
        OWNER_OUTSIDE,
        OWNER_STRATEGY,
        REASON_ISOLATION,
    )
else:
    from hintbench.core.clock import EventListener
    from hintbench.core.constants import (
        EVENT_ALLOCATED,
        EVENT_FREED,
        EVENT_ISOLATED,
        EVENT_LOCKED,
        EVENT_PUT_BACK,
        EVENT_RETURNED,
        EVENT_TAKEN,
        OWNER_BUDDY,
        OWNER_CALLER,
        OWNER_OUTSIDE,
        OWNER_STRATEGY,
        REASON_ISOLATION,
    )

OWNERS = ("nowhere", "on a free list", "on a per-CPU list or in transit", "in use", "isolated")
"""What is said of a page's owner, by its number (``OWNER_...`` in `hintbench.core.constants`)."""


@cython.final
@cython.cclass
class Auditor(EventListener):
    """The books of one run.

    Args:
        page_count: pages of the guest's arrays.
        complain: called with (rule, kind, text, pfn, pages) for every illegal transition.
        notice: called with (event, pfn, order) for isolations and returns; may be None.

    Attributes:
        owner: by page, who has it.
        stamp: by page, what its owner wrote; 0: nothing, or the host has discarded it.
        untold: by page, 1 when it was freed and has not been discarded since.
        told_order: by page, 1 more than the order of the block there that the host has
            acknowledged and that has kept its identity since; 0: none.
        journal: called with events, for stories.
        page_calls: by kind of event (``EVENT_...``), tuples of what is called with (CPU, kind, pfn,
            order); None when nothing is.
        allocations, frees, isolations: events seen.
    """

    def __init__(
        self,
        page_count: int,
        complain: Callable[[str, str, str, int, int], None],
        notice: Callable[[int, int, int], None] | None = None,
    ) -> None:
        self.page_count = page_count
        self.complain = complain
        self.notice = notice
        self.owner = memoryview(numpy.zeros(page_count, dtype=numpy.uint8))
        self.stamp = memoryview(numpy.zeros(page_count, dtype=numpy.uint32))
        self.untold = memoryview(numpy.zeros(page_count, dtype=numpy.uint8))
        self.told_order = memoryview(numpy.zeros(page_count, dtype=numpy.uint8))
        self.journal = None
        self.page_calls = None
        self.serial = 0
        self.events = 0
        self.allocations = 0
        self.frees = 0
        self.isolations = 0

    def begin(self, zones: list[Any]) -> None:
        """Enter what the buddy allocators hold at the start."""
        for zone in zones:
            for block in zone.free_blocks(0):
                self.give(block.pfn, block.order)

    def all_untold(self) -> None:
        """All that is free was free before the strategy came, and is to be told as well."""
        numpy.asarray(self.untold)[numpy.asarray(self.owner) == OWNER_BUDDY] = 1

    def give(self, pfn: cython.int, order: cython.int) -> cython.int:
        """Enter a block as free without an event."""
        here: cython.int
        for here in range(pfn, pfn + (1 << order)):
            self.owner[here] = OWNER_BUDDY
        return 0

    def event(
        self,
        time_ns: cython.longlong,
        cpu: cython.int,
        kind: cython.int,
        pfn: cython.int,
        order: cython.int,
    ) -> cython.int:
        """Book one event of the history."""
        self.events += 1
        if self.journal is not None:
            self.journal(time_ns, cpu, kind, pfn, order)
        if self.page_calls is not None:
            calls: tuple = self.page_calls[kind]
            for call in calls:
                call(cpu, kind, pfn, order)
        if kind == EVENT_LOCKED:
            return 0
        if kind == EVENT_ALLOCATED:
            self.allocations += 1
            self.serial += 1
            return self._hand_out(pfn, order)
        if kind == EVENT_FREED:
            self.frees += 1
            return self._take_from_owner(pfn, order)
        if kind == EVENT_TAKEN:
            return self._move(pfn, order, OWNER_BUDDY, OWNER_OUTSIDE, "is taken")
        if kind == EVENT_RETURNED:
            return self._move(pfn, order, OWNER_OUTSIDE, OWNER_BUDDY, "is freed to the free lists")
        if kind == EVENT_ISOLATED:
            self.isolations += 1
            self._move(pfn, order, OWNER_BUDDY, OWNER_STRATEGY, "is isolated")
            if self.notice is not None:
                self.notice(kind, pfn, order)
        elif kind == EVENT_PUT_BACK:
            self._move(pfn, order, OWNER_STRATEGY, OWNER_BUDDY, "is put back")
            if self.notice is not None:
                self.notice(kind, pfn, order)
        return 0

    def block_taken(self, pfn: cython.int, order: cython.int, reason: cython.int) -> cython.int:
        """A block leaves its free list: it must have been free, and loses its identity."""
        here: cython.int
        if pfn < 0 or pfn + (1 << order) > self.page_count:
            self.complain("conservation", "list", f"a free list leads to {pfn:#x}", 0, 0)
            return 0
        for here in range(pfn, pfn + (1 << order)):
            if self.owner[here] != OWNER_BUDDY:
                self._refuse(pfn, order, here, "leaves a free list")
                return 0
            if reason != REASON_ISOLATION:
                self.told_order[here] = 0
        return 0

    def discarded(self, pfn: cython.int, pages: cython.int) -> cython.int:
        """The host has taken the memory of some pages, whatever was in it."""
        here: cython.int
        for here in range(pfn, min(pfn + pages, self.page_count)):
            if self.owner[here] == OWNER_CALLER and self.stamp[here]:
                self.complain(
                    "no-discard-in-use",
                    "discard",
                    f"the host discards pfn {pfn:#x} ({pages} pages) while pfn {here:#x} is in use",
                    here,
                    1,
                )
                # The owner will find it as well; told once, the stamp stays away.
                self.stamp[here] = 0
                return 0
            self.stamp[here] = 0
            self.untold[here] = 0
        return 0

    def acknowledged(self, pfn: cython.int, order: cython.int) -> cython.int:
        """The host has acknowledged a block that kept its identity since it was reported."""
        self.told_order[pfn] = order + 1
        return 0

    def told_as(self, pfn: cython.int) -> cython.int:
        """The order of the acknowledged block at ``pfn``, -1 if none is unchanged there."""
        return self.told_order[pfn] - 1

    def owner_of(self, pfn: cython.int, pages: cython.int, owner: cython.int) -> cython.int:
        """The first page of a range that somebody else than ``owner`` has; -1 when none."""
        here: cython.int
        for here in range(pfn, pfn + pages):
            if here >= self.page_count or self.owner[here] != owner:
                return here
        return -1

    def first_untold(self, pfn: cython.int, pages: cython.int) -> cython.int:
        """The first page of a range that was freed and not told since; -1 when none."""
        here: cython.int
        for here in range(pfn, pfn + pages):
            if self.untold[here]:
                return here
        return -1

    def _hand_out(self, pfn: cython.int, order: cython.int) -> cython.int:
        here: cython.int
        for here in range(pfn, pfn + (1 << order)):
            if self.owner[here] != OWNER_OUTSIDE:
                self._refuse(pfn, order, here, "is handed out")
                return 0
            self.owner[here] = OWNER_CALLER
            self.stamp[here] = self.serial
            self.untold[here] = 0
        return 0

    def _take_from_owner(self, pfn: cython.int, order: cython.int) -> cython.int:
        here: cython.int
        mine: cython.uint = self.stamp[pfn]
        for here in range(pfn, pfn + (1 << order)):
            if self.owner[here] != OWNER_CALLER:
                self._refuse(pfn, order, here, "is freed by a caller")
                return 0
            if self.stamp[here] != mine or not mine:
                self.complain(
                    "no-discard-in-use",
                    "contents",
                    f"the owner of pfn {pfn:#x} order {order} finds pfn {here:#x} empty",
                    here,
                    1,
                )
                mine = self.stamp[here]
            self.owner[here] = OWNER_OUTSIDE
            self.stamp[here] = 0
            self.untold[here] = 1
        return 0

    def _move(
        self,
        pfn: cython.int,
        order: cython.int,
        before: cython.int,
        after: cython.int,
        what: str,
    ) -> cython.int:
        here: cython.int
        for here in range(pfn, pfn + (1 << order)):
            if self.owner[here] != before:
                self._refuse(pfn, order, here, what)
                return 0
            self.owner[here] = after
        return 0

    def _refuse(
        self, pfn: cython.int, order: cython.int, here: cython.int, what: str
    ) -> cython.int:
        text = f"pfn {pfn:#x} order {order} {what}, but pfn {here:#x} is"
        self.complain(
            "conservation", "owners", f"{text} {OWNERS[self.owner[here]]}", pfn, 1 << order
        )
        return 0
