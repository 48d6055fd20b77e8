"""Does the model choose as the kernel did? Asked at every choice of an exact replay.

Before the replay follows the kernel, the model says which block it would have taken: from its free
lists by __rmqueue_smallest(), from its per-CPU lists by taking their first page. What a recording
does not tell is left out: where the blocks that were free at the start stood on their lists, what
was on the per-CPU lists then, fallbacks, and what compaction took.

A page or block that the kernel has passed over once is not expected again until it moves: most of
them have left in silence (alloc_pages_bulk and compaction fire no event), and each counts once.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from typing import TYPE_CHECKING, Final

from hintbench.core.constants import (
    MAX_PAGE_ORDER,
    MOVABLE,
    PAGE_ALLOC_COSTLY_ORDER,
    PAGEBLOCK_ORDER,
)
from hintbench.core.flags import UnitFlags

if TYPE_CHECKING:
    from hintbench.core.zone import Zone
    from hintbench.guest.boot import Machine

Key = tuple[int, int, int, int]
"""CPU, zone, order and migratetype of a per-CPU list."""

_MOST_TOLD: Final = 5
_MOST_LISTED: Final = 4


class AllocatorTruth:
    """What the model would have chosen, beside what the kernel chose.

    Args:
        machine: the guest, in the state in which the recording begins.
        begin_ns: the trace's own time that is virtual time 0.

    Attributes:
        counts: choices by kind: "takes" and "hits", each "agree", "differ" or "unknown".
        told: the first differences, in words.
    """

    def __init__(self, machine: Machine, begin_ns: int) -> None:
        self._machine = machine
        self._begin_ns = begin_ns
        self._lists: dict[Key, OrderedDict[int, None]] = {}
        self._key_of: dict[int, Key] = {}
        self.counts: Counter[tuple[str, str]] = Counter()
        self.told: dict[str, list[str]] = {"takes": [], "hits": []}
        # Heads of free blocks that have been there from the start, and of those passed over.
        self._first = UnitFlags("first contents", 0, machine.pages.page_count)
        self._passed_over = UnitFlags("passed over", 0, machine.pages.page_count)
        machine.simulation.hooks.forget_when_taken += [self._first, self._passed_over]
        for zone in machine.zones:
            for order in range(MAX_PAGE_ORDER + 1):
                for migratetype in range(4):
                    for pfn in zone.blocks_of(order, migratetype):
                        self._first.set(pfn)

    # -- called by the core before it follows the kernel ----------------------------------------

    def take(
        self, cpu: int, zone: Zone, pfn: int, order: int, migratetype: int, silent: bool
    ) -> None:
        """A block leaves the free lists."""
        if not silent:
            self._foretell(zone, pfn, order, migratetype)
        if self._has_list(order):
            self._put(self._key(cpu, zone, order, migratetype), pfn, first=False)

    def hand_out(
        self, cpu: int, zone: Zone, pfn: int, order: int, migratetype: int, silent: bool
    ) -> None:
        """A page is given to a user, from a per-CPU list if its order has one."""
        if not self._has_list(order):
            return
        if not silent:
            key = self._key(cpu, zone, order, migratetype)
            known = self._lists.get(key, OrderedDict())
            if pfn not in known:
                self.counts["hits", "unknown"] += 1
            elif next(iter(known)) == pfn:
                self.counts["hits", "agree"] += 1
            else:
                listed = [*known][:_MOST_LISTED]
                self._differ("hits", f"CPU {cpu} hands out {pfn:#x}", listed, order)
                while (before := next(iter(known))) != pfn:
                    self._drop(before)
        self._drop(pfn)

    def give_back(self, cpu: int, zone: Zone, pfn: int, order: int) -> None:
        """A user frees a page, which becomes the first of its list."""
        if self._has_list(order):
            migratetype = self._machine.pages.pageblock_type[pfn >> PAGEBLOCK_ORDER]
            self._put(self._key(cpu, zone, order, migratetype), pfn, first=True)

    def give_to_buddy(self, pfn: int) -> None:
        """A page leaves its per-CPU list for the free lists."""
        self._drop(pfn)

    # -- the model's choice ---------------------------------------------------------------------

    def _foretell(self, zone: Zone, pfn: int, order: int, migratetype: int) -> None:
        """__rmqueue_smallest(): the first block of the smallest order that has one."""
        for current in range(order, MAX_PAGE_ORDER + 1):
            first = self._expected(zone, current, migratetype)
            if first < 0:
                continue
            if self._first.test(first):
                # Blocks from the beginning stand before it, in an order that nobody recorded.
                self.counts["takes", "unknown"] += 1
            elif first == pfn:
                self.counts["takes", "agree"] += 1
            else:
                blocks = zone.blocks_of(current, migratetype)[:_MOST_LISTED]
                what = f"{pfn:#x} of order {order} and type {migratetype} is taken"
                self._differ("takes", what, blocks, current)
                self._passed_over.set(first)
            return
        self._differ("takes", f"{pfn:#x} of order {order} and type {migratetype} is taken", [], 0)

    def _expected(self, zone: Zone, order: int, migratetype: int) -> int:
        """The first block of a list that the kernel has not passed over; -1 without one."""
        first = zone.first_free(order, migratetype)
        if first < 0 or not self._passed_over.test(first):
            return first
        blocks = zone.blocks_of(order, migratetype)
        return next((block for block in blocks if not self._passed_over.test(block)), -1)

    def _differ(self, kind: str, what: str, blocks: list[int], order: int) -> None:
        self.counts[kind, "differ"] += 1
        if len(self.told[kind]) < _MOST_TOLD:
            seconds = (self._machine.clock.now + self._begin_ns) / 1e9
            listed = " ".join(f"{block:#x}" for block in blocks) or "nothing"
            self.told[kind].append(
                f"{seconds:.6f} s: {what}; the list of order {order} has {listed}"
            )

    # -- per-CPU lists --------------------------------------------------------------------------

    @staticmethod
    def _has_list(order: int) -> bool:
        return order <= PAGE_ALLOC_COSTLY_ORDER or order == PAGEBLOCK_ORDER

    @staticmethod
    def _key(cpu: int, zone: Zone, order: int, migratetype: int) -> Key:
        """order_to_pindex(): huge pages have one list for movable ones and one for others."""
        kind = migratetype if migratetype < 3 else MOVABLE
        if order == PAGEBLOCK_ORDER:
            kind = int(kind == MOVABLE)
        return cpu, zone.index, order, kind

    def _put(self, key: Key, pfn: int, *, first: bool) -> None:
        self._drop(pfn)
        pages = self._lists.setdefault(key, OrderedDict())
        pages[pfn] = None
        if first:
            pages.move_to_end(pfn, last=False)
        self._key_of[pfn] = key

    def _drop(self, pfn: int) -> None:
        key = self._key_of.pop(pfn, None)
        if key is not None:
            del self._lists[key][pfn]

    # -- telling --------------------------------------------------------------------------------

    def agreement(self, kind: str) -> float | None:
        """Share of the foretold choices that were the kernel's; None when there were none."""
        agree, differ = self.counts[kind, "agree"], self.counts[kind, "differ"]
        return agree / (agree + differ) if agree + differ else None

    def report(self) -> tuple[dict[str, int | float | None], list[str]]:
        """Metrics that begin with ``trace_``, and lines to print."""
        metrics: dict[str, int | float | None] = {}
        lines = []
        for kind, name in (
            ("hits", "pages from per-CPU lists"),
            ("takes", "blocks from free lists"),
        ):
            agree, differ = self.counts[kind, "agree"], self.counts[kind, "differ"]
            unknown, share = self.counts[kind, "unknown"], self.agreement(kind)
            metrics |= {
                f"trace_{kind}_foretold": agree + differ,
                f"trace_{kind}_agreement": share,
                f"trace_{kind}_unknown": unknown,
            }
            told = "none" if share is None else f"{share:.2%}"
            if differ and told == f"{1:.2%}":
                told = f"all but {differ:,}"
            lines.append(
                f"{name}: {told} of {agree + differ:,} chosen as the model would have;"
                f" {unknown:,} more that nobody can foretell"
            )
            lines += [f"  {text}" for text in self.told[kind]]
        return metrics, lines
