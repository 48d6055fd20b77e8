"""Where the memory is that is free in the guest and still backed by the host.

Only what enters or leaves the free lists is counted, under the zone lock: fragments, whole blocks,
isolated blocks.  What of the retained memory is in none of these is on a per-CPU list, or on its
way between list and user; so nothing is counted where pages come and go by the million.
"""

import cython

if cython.compiled:
    from cython.cimports.hintbench.core.backing import Backing
    from cython.cimports.hintbench.core.constants import (
        BUDDY,
        IN_USE,
        ISOLATED,
        KIND_MASK,
        ORDER_MASK,
        PAGEBLOCK_PAGES,
        SLAB,
    )
    from cython.cimports.hintbench.core.measures import Integral
    from cython.cimports.hintbench.core.pages import Pages
else:
    from hintbench.core.backing import Backing
    from hintbench.core.constants import (
        BUDDY,
        IN_USE,
        ISOLATED,
        KIND_MASK,
        ORDER_MASK,
        PAGEBLOCK_PAGES,
        SLAB,
    )
    from hintbench.core.measures import Integral
    from hintbench.core.pages import Pages


@cython.final
@cython.cclass
class RetainedSplit:
    """Backed pages on the free lists and in a strategy's hands, and their integrals over time.

    Args:
        backing: the host's side of every page.
        pages: the page arrays.
        min_order: the smallest block that the strategy tells the host of.
        fragments: backed pages in free blocks below that order, now.
        whole: those in free blocks of that order and more.

    Attributes:
        fragments, whole: see above.
        isolated: backed pages of isolated blocks.
        marked: those of ``whole`` that carry an in-flight flag of the strategy.
    """

    def __init__(
        self, backing: Backing, pages: Pages, min_order: int, fragments: int, whole: int
    ) -> None:
        self.backing = backing
        self.pages = pages
        self.clock = backing.clock
        self.min_order = min_order
        self.fragments = Integral(fragments)
        self.whole = Integral(whole)
        self.isolated = Integral(0)
        self.marked = Integral(0)
        self.marks = {}

    def count_backed(self, pfn: cython.int, order: cython.int) -> cython.int:
        """How many pages of a block the host backs; all of them while it has taken none."""
        return self.backing.backed_block(pfn, order)

    def freed(
        self,
        pfn: cython.int,
        order: cython.int,
        freed_pfn: cython.int,
        freed_order: cython.int,
    ) -> cython.int:
        """What was freed has reached its list, merged into the block at ``pfn``."""
        now: cython.longlong = self.clock.now
        backed: cython.int = self.count_backed(freed_pfn, freed_order)
        unit: cython.int
        if order < self.min_order:
            return self.fragments.change(now, backed)
        if freed_order < self.min_order:
            # The rest of its unit was on the lists of lower orders until now.
            unit = self.count_backed(freed_pfn & ~((1 << self.min_order) - 1), self.min_order)
            self.fragments.change(now, backed - unit)
            backed = unit
        self.whole.change(now, backed)
        if self.marks:
            self._recount(pfn, 1 << order)
        return 0

    def taken(self, pfn: cython.int, block_order: cython.int, order: cython.int) -> cython.int:
        """A block has left its list; what is not needed of it is on lists of lower orders."""
        now: cython.longlong = self.clock.now
        backed: cython.int = self.count_backed(pfn, order)
        unit: cython.int
        if block_order < self.min_order:
            return self.fragments.change(now, -backed)
        if order < self.min_order:
            unit = self.count_backed(pfn & ~((1 << self.min_order) - 1), self.min_order)
            self.fragments.change(now, unit - backed)
            backed = unit
        self.whole.change(now, -backed)
        if self.marks:
            self._recount(pfn & ~((1 << block_order) - 1), 1 << block_order)
        return 0

    def change_isolated(self, pfn: cython.int, order: cython.int, sign: cython.int) -> cython.int:
        """A block is isolated (1), or put back (-1)."""
        return self.isolated.change(self.clock.now, sign * self.count_backed(pfn, order))

    def discarded(self, pfn: int, order: int) -> None:
        """The host is about to take a block's memory, whatever lies there."""
        here: cython.int = pfn
        end: cython.int = pfn + (1 << order)
        head: cython.int
        state: cython.int
        block_order: cython.int
        while here < end:
            head = self.pages.head_of(here)
            state = self.pages.state[head] if head >= 0 else 0
            block_order = min(state & ORDER_MASK, order)
            self._add(state, -self.backing.backed_pages(here, block_order))
            here += 1 << block_order

    def changed(self, pfn: int, pages: int) -> None:
        """The host has taken memory, or brought it back: marked units have other pages backed."""
        if self.marks:
            self._recount(pfn, pages)

    def came_back(self, pfn: int) -> None:
        """A touch has brought its whole 2 MiB unit back, and with it free neighbours."""
        first: cython.int = pfn & ~(PAGEBLOCK_PAGES - 1)
        here: cython.int = first
        state: cython.int
        while here < first + PAGEBLOCK_PAGES:
            state = self.pages.state[here]
            if (state & KIND_MASK) == BUDDY or (state & KIND_MASK) == ISOLATED:
                self._add(state, 1 << (state & ORDER_MASK))
            here += 1 << (state & ORDER_MASK)
        self.changed(first, PAGEBLOCK_PAGES)

    def _add(self, state: cython.int, pages: cython.int) -> cython.int:
        """Pages of a block in this state are backed from now on, or no longer."""
        kind: cython.int = state & KIND_MASK
        now: cython.longlong = self.clock.now
        if kind == BUDDY:
            if (state & ORDER_MASK) < self.min_order:
                return self.fragments.change(now, pages)
            return self.whole.change(now, pages)
        if kind == ISOLATED:
            return self.isolated.change(now, pages)
        if IN_USE <= kind <= SLAB:
            return self.backing.used.change(now, pages)
        return 0

    # -- units that a strategy has marked as in flight --------------------------------------------

    def mark(self, pfn: int, order: int) -> None:
        """A unit is marked: what it has on the lists of whole blocks is in the strategy's hands."""
        self.marks[pfn] = (order, 0)
        self._recount(pfn, 1 << order)

    def unmark(self, pfn: int) -> None:
        """The mark is gone."""
        _order, counted = self.marks.pop(pfn)
        self.marked.add(self.clock.now, -counted)

    def _recount(self, pfn: cython.int, pages: cython.int) -> cython.int:
        """Look again at the marked units of a range; there are never many."""
        for unit, (order, counted) in list(self.marks.items()):
            if unit + (1 << order) <= pfn or pfn + pages <= unit:
                continue
            backed = self._backed_whole(unit, order)
            if backed != counted:
                self.marks[unit] = (order, backed)
                self.marked.add(self.clock.now, backed - counted)
        return 0

    def _backed_whole(self, pfn: cython.int, order: cython.int) -> cython.int:
        """How many backed pages of a unit are in free blocks of the minimum order or more."""
        here: cython.int = pfn
        head: cython.int
        state: cython.int
        block_order: cython.int
        count: cython.int = 0
        while here < pfn + (1 << order):
            head = self.pages.head_of(here)
            state = self.pages.state[head] if head >= 0 else 0
            block_order = min(state & ORDER_MASK, order)
            if (state & KIND_MASK) == BUDDY and (state & ORDER_MASK) >= self.min_order:
                count += self.backing.backed_pages(here, block_order)
            here += 1 << block_order
        return count
