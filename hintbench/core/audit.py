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

from hintbench.core.freelists import inspect_blocks

if cython.compiled:
    from cython.cimports.hintbench.core.audit import (
        fill,
        fill_stamps,
        first_of,
        first_other,
        is_stamped,
    )
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
    from cython.cimports.hintbench.core.flags import UnitFlags
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
    from hintbench.core.flags import UnitFlags

    # In C they look at many pages at a time (audit.pxd).

    def first_other(table: Any, first: int, end: int, value: int) -> int:
        """The first index from ``first`` on, before ``end``, with another value; -1 if none."""
        return next((here for here in range(first, end) if table[here] != value), -1)

    def first_of(table: Any, first: int, end: int, value: int) -> int:
        """The first index from ``first`` on, before ``end``, with this value; -1 if none."""
        return next((here for here in range(first, end) if table[here] == value), -1)

    def fill(table: Any, first: int, end: int, value: int) -> int:
        """Give all from ``first`` on, before ``end``, a value."""
        for here in range(first, end):
            table[here] = value
        return 0

    fill_stamps = fill

    def is_stamped(stamps: Any, first: int, end: int, stamp: int) -> bool:
        """Whether all stamps from ``first`` on, before ``end``, are this one."""
        return first_other(stamps, first, end, stamp) < 0


OWNERS = ("nowhere", "on a free list", "on a per-CPU list or in transit", "in use", "isolated")
"""What is said of a page's owner, by its number (``OWNER_...`` in `hintbench.core.constants`)."""


@cython.final
@cython.cclass
class PageFollower:
    """Calls somebody for events of pages: always, or only for those that can matter to him.

    Args:
        call: called with (CPU, kind, pfn, order).

    Attributes:
        armed: every event matters.
        flags: else what is taken from under one of these; None: nothing does.
    """

    def __init__(self, call: Callable[[int, int, int, int], None]) -> None:
        self.call = call
        self.armed = True
        self.flags = None
        self.most_order = 0

    def follow(self, flags: UnitFlags, most_order: int) -> None:
        """From now on call, unless armed, only when something is taken that these flags mark.

        Args:
            flags: those.
            most_order: and has at most this order.
        """
        self.armed = False
        self.flags = flags
        self.most_order = most_order

    def event(
        self, cpu: cython.int, kind: cython.int, pfn: cython.int, order: cython.int
    ) -> cython.int:
        """Something has happened."""
        if not self.armed:
            if self.flags is None or kind != EVENT_TAKEN or order > self.most_order:
                return 0
            if not self.flags.count or not self.flags.any_set(pfn, order):
                return 0
        self.call(cpu, kind, pfn, order)
        return 0


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
        page_calls: by kind of event (``EVENT_...``), tuples of the `PageFollower` that hear of it;
            None when nobody does.
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
            for block in inspect_blocks(zone, 0):
                self.give(block.pfn, block.order)

    def all_untold(self) -> None:
        """All that is free was free before the strategy came, and is to be told as well."""
        first: cython.int = first_of(self.owner, 0, self.page_count, OWNER_BUDDY)
        end: cython.int
        while first >= 0:
            end = first_other(self.owner, first, self.page_count, OWNER_BUDDY)
            end = self.page_count if end < 0 else end
            fill(self.untold, first, end, 1)
            first = first_of(self.owner, end, self.page_count, OWNER_BUDDY)

    def give(self, pfn: cython.int, order: cython.int) -> cython.int:
        """Enter a block as free without an event."""
        return fill(self.owner, pfn, pfn + (1 << order), OWNER_BUDDY)

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
            follower: PageFollower
            for each in calls:
                follower = each
                follower.event(cpu, kind, pfn, order)
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
        end: cython.int = pfn + (1 << order)
        other: cython.int
        if pfn < 0 or end > self.page_count:
            self.complain("conservation", "list", f"a free list leads to {pfn:#x}", 0, 0)
            return 0
        other = first_other(self.owner, pfn, end, OWNER_BUDDY)
        if reason != REASON_ISOLATION:
            fill(self.told_order, pfn, end if other < 0 else other, 0)
        if other >= 0:
            self._refuse(pfn, order, other, "leaves a free list")
        return 0

    def discarded(self, pfn: cython.int, pages: cython.int) -> cython.int:
        """The host has taken the memory of some pages, whatever was in it."""
        end: cython.int = min(pfn + pages, self.page_count)
        used: cython.int = first_of(self.owner, pfn, end, OWNER_CALLER)
        while used >= 0 and not self.stamp[used]:
            used = first_of(self.owner, used + 1, end, OWNER_CALLER)
        fill_stamps(self.stamp, pfn, end if used < 0 else used, 0)
        fill(self.untold, pfn, end if used < 0 else used, 0)
        if used >= 0:
            self.complain(
                "no-discard-in-use",
                "discard",
                f"the host discards pfn {pfn:#x} ({pages} pages) while pfn {used:#x} is in use",
                used,
                1,
            )
            # The owner will find it as well; told once, the stamp stays away.
            self.stamp[used] = 0
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
        end: cython.int = min(pfn + pages, self.page_count)
        other: cython.int = first_other(self.owner, pfn, end, owner)
        if other < 0 and end < pfn + pages:
            return max(pfn, end)
        return other

    def first_untold(self, pfn: cython.int, pages: cython.int) -> cython.int:
        """The first page of a range that was freed and not told since; -1 when none."""
        return first_other(self.untold, pfn, pfn + pages, 0)

    def _hand_out(self, pfn: cython.int, order: cython.int) -> cython.int:
        end: cython.int = pfn + (1 << order)
        other: cython.int = first_other(self.owner, pfn, end, OWNER_OUTSIDE)
        if other >= 0:
            end = other
        fill(self.owner, pfn, end, OWNER_CALLER)
        fill_stamps(self.stamp, pfn, end, self.serial)
        fill(self.untold, pfn, end, 0)
        if other >= 0:
            self._refuse(pfn, order, other, "is handed out")
        return 0

    def _take_from_owner(self, pfn: cython.int, order: cython.int) -> cython.int:
        end: cython.int = pfn + (1 << order)
        other: cython.int = first_other(self.owner, pfn, end, OWNER_CALLER)
        if other >= 0:
            end = other
        if not self.stamp[pfn] or not is_stamped(self.stamp, pfn, end, self.stamp[pfn]):
            self._find_empty(pfn, order, end)
        fill(self.owner, pfn, end, OWNER_OUTSIDE)
        fill_stamps(self.stamp, pfn, end, 0)
        fill(self.untold, pfn, end, 1)
        if other >= 0:
            self._refuse(pfn, order, other, "is freed by a caller")
        return 0

    def _find_empty(self, pfn: cython.int, order: cython.int, end: cython.int) -> cython.int:
        """The owner of a block looks for its stamps up to ``end``, and misses some."""
        here: cython.int
        mine: cython.uint = self.stamp[pfn]
        for here in range(pfn, end):
            if self.stamp[here] != mine or not mine:
                self.complain(
                    "no-discard-in-use",
                    "contents",
                    f"the owner of pfn {pfn:#x} order {order} finds pfn {here:#x} empty",
                    here,
                    1,
                )
                mine = self.stamp[here]
        return 0

    def _move(
        self,
        pfn: cython.int,
        order: cython.int,
        before: cython.int,
        after: cython.int,
        what: str,
    ) -> cython.int:
        end: cython.int = pfn + (1 << order)
        other: cython.int = first_other(self.owner, pfn, end, before)
        fill(self.owner, pfn, end if other < 0 else other, after)
        if other >= 0:
            self._refuse(pfn, order, other, what)
        return 0

    def _refuse(
        self, pfn: cython.int, order: cython.int, here: cython.int, what: str
    ) -> cython.int:
        text = f"pfn {pfn:#x} order {order} {what}, but pfn {here:#x} is"
        self.complain(
            "conservation", "owners", f"{text} {OWNERS[self.owner[here]]}", pfn, 1 << order
        )
        return 0
