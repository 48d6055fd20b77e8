"""The host's side of every page: one bit says whether the host backs it.

With granules of 2 MiB a unit that the host took as a whole comes back as one huge page on the first
touch. Once it took part of a unit, that is mapped by small pages: __split_huge_pmd() leaves a table
of them, zap_pte_range() empties it, and while it is there __handle_mm_fault() makes no huge page.
Only khugepaged would put one together again, at 8 units in 10 s; it is not modelled.

What is unmapped counts as taken back. Linux gives the free part of a split huge page back when its
own reclaim comes to it (deferred_split_folio()): a host that wants memory has it, an idle one not.
"""

import cython
import numpy

if cython.compiled:
    from cython.cimports.hintbench.core.clock import VirtualClock
    from cython.cimports.hintbench.core.constants import PAGEBLOCK_ORDER, PAGEBLOCK_PAGES
    from cython.cimports.hintbench.core.measures import Integral
else:
    from hintbench.core.clock import VirtualClock
    from hintbench.core.constants import PAGEBLOCK_ORDER, PAGEBLOCK_PAGES
    from hintbench.core.measures import Integral

_ALL = cython.declare(cython.ulonglong, 0xFFFFFFFFFFFFFFFF)
_ONE = cython.declare(cython.ulonglong, 1)
_WORDS_PER_UNIT = cython.declare(cython.int, 8)


EARLY_NS = (1_000_000_000, 10_000_000_000, 60_000_000_000)
"""A refault this soon after its discard is counted as early."""


@cython.cfunc
@cython.exceptval(check=False)
@cython.overflowcheck(False)
def _population(word: cython.ulonglong) -> cython.int:
    count: cython.int = 0
    while word:
        word &= word - 1
        count += 1
    return count


@cython.final
@cython.cclass
class Backing:
    """Which pages the host backs; all of them at the start.

    Args:
        clock: charged for refaults.
        page_count: one more than the highest pfn, a multiple of 1024.
        present: (first pfn, pages) of the memory that exists.
        huge_granule: the host backs 2 MiB at a time (transparent huge pages) instead of 4 KiB.
        sample_ns: spacing of the footprint series; 0 keeps none.

    Attributes:
        backed: the footprint, in pages. reclaimed: discarded and not touched since.
        split: told of every discard; a :class:`hintbench.core.retained.RetainedSplit` or None.
        used: pages backed and in the guest's use; the rest of ``backed`` is *retained*.
    """

    def __init__(
        self,
        clock: VirtualClock,
        page_count: int,
        present: list[tuple[int, int]],
        huge_granule: bool,
        sample_ns: int = 0,
    ) -> None:
        self.words = memoryview(numpy.zeros(page_count >> 6, dtype=numpy.uint64))
        self.small_units = memoryview(numpy.zeros(page_count >> PAGEBLOCK_ORDER, numpy.uint8))
        self.units_come_back = memoryview(numpy.zeros(page_count >> PAGEBLOCK_ORDER, numpy.uint8))
        total = 0
        for start, pages in present:
            total += pages
            self._fill(start, pages)
            for edge in (start, start + pages):
                # What is not all there cannot be mapped as a huge page.
                if edge & (PAGEBLOCK_PAGES - 1):
                    self.small_units[edge >> PAGEBLOCK_ORDER] = 1
        self.clock = clock
        self.huge_granule = huge_granule
        self.backed = Integral(total, sample_ns)
        self.reclaimed = Integral(0)
        self.used = Integral(0, sample_ns)
        self.refaulted_pages = 0
        self.small_refaults = 0
        self.huge_refaults = 0
        self.discarded_pages = 0
        self.claimed_blocks = 0
        self.claimed_pages = 0
        self.free_of_charge = False
        self.split = None
        self.discarded_ns = memoryview(numpy.zeros(page_count >> PAGEBLOCK_ORDER, numpy.int64))
        self.refaulted_within = memoryview(numpy.zeros(len(EARLY_NS), numpy.int64))

    def _fill(self, start: int, pages: int) -> None:
        words = numpy.asarray(self.words)
        end = start + pages
        first = (start + 63) // 64
        last = end // 64
        if first <= last:
            words[first:last] = numpy.uint64(0xFFFFFFFFFFFFFFFF)
        for pfn in (*range(start, min(first * 64, end)), *range(max(last * 64, start), end)):
            words[pfn >> 6] |= numpy.uint64(1 << (pfn & 63))

    def is_backed(self, pfn: cython.int) -> cython.bint:
        """Whether the host backs the page."""
        return (self.words[pfn >> 6] >> (pfn & 63)) & _ONE != 0

    def backed_pages(self, pfn: cython.int, order: cython.int) -> cython.int:
        """How many pages of the block the host backs."""
        count: cython.int = 0
        index: cython.int
        end: cython.int
        word: cython.ulonglong
        if order < 6:
            word = self.words[pfn >> 6] >> (pfn & 63)
            return _population(word & ((_ONE << (1 << order)) - 1))
        end = (pfn + (1 << order)) >> 6
        for index in range(pfn >> 6, end):
            word = self.words[index]
            if word == _ALL:
                count += 64
            elif word:
                count += _population(word)
        return count

    def backed_block(self, pfn: cython.int, order: cython.int) -> cython.int:
        """:meth:`backed_pages` of a block that exists: all, while the host has taken nothing."""
        if self.reclaimed.value == 0:
            return 1 << order
        return self.backed_pages(pfn, order)

    def count_backed(self, pfn: int, order: int) -> int:
        """:meth:`backed_pages`, from Python."""
        return self.backed_pages(pfn, order)

    def count_range(self, pfn: cython.int, pages: cython.int) -> cython.int:
        """How many pages of any range the host backs."""
        count: cython.int = 0
        end: cython.int = pfn + pages
        order: cython.int
        while pfn < end:
            order = PAGEBLOCK_ORDER
            while pfn & ((1 << order) - 1) or pfn + (1 << order) > end:
                order -= 1
            count += self.backed_pages(pfn, order)
            pfn += 1 << order
        return count

    def fault(self, pfn: cython.int, order: cython.int) -> cython.Py_ssize_t:
        """The guest touches every page of a block: the unbacked ones refault.

        Returns:
            The virtual nanoseconds of the refaults (not charged here).
        """
        small: cython.int = 0
        huge: cython.int = 0
        brought: cython.int
        cost: cython.longlong
        if self.backed_pages(pfn, order) == 1 << order:
            return 0
        if self.huge_granule:
            huge = self._bring_units(pfn, order)
        if huge == 0 or order < PAGEBLOCK_ORDER or self.backed_pages(pfn, order) != 1 << order:
            small = self._bring_pages(pfn, order)
        brought = huge * PAGEBLOCK_PAGES + small
        self.small_refaults += small
        self.huge_refaults += huge
        self.refaulted_pages += brought
        self.backed.change(self.clock.now, brought)
        self.reclaimed.change(self.clock.now, -brought)
        if self.free_of_charge:
            return 0
        cost = small * self.clock.costs.refault_small_ns
        return cost + huge * self.clock.costs.refault_huge_ns

    def _bring_units(self, pfn: cython.int, order: cython.int) -> cython.int:
        """Bring back, as huge pages, the 2 MiB units of a block that lack every page; how many."""
        unit: cython.int = pfn >> PAGEBLOCK_ORDER
        last: cython.int = (pfn + (1 << order) - 1) >> PAGEBLOCK_ORDER
        huge: cython.int = 0
        while unit <= last:
            if (
                self.backed_pages(unit << PAGEBLOCK_ORDER, PAGEBLOCK_ORDER) == 0
                and not self.small_units[unit]
            ):
                self._back_unit(unit)
                self._count_early(unit << PAGEBLOCK_ORDER, PAGEBLOCK_PAGES)
                huge += 1
            unit += 1
        return huge

    def _bring_pages(self, pfn: cython.int, order: cython.int) -> cython.int:
        """Bring back, one by one, the pages of a block that are not backed; how many."""
        page: cython.int
        small: cython.int = 0
        counted: cython.int = 0
        for page in range(pfn, pfn + (1 << order)):
            if not self.is_backed(page):
                self.words[page >> 6] |= _ONE << (page & 63)
                small += 1
                counted += 1
            if page & (PAGEBLOCK_PAGES - 1) == PAGEBLOCK_PAGES - 1:
                self._count_early(page, counted)
                counted = 0
        self._count_early(pfn, counted)
        return small

    def populate(self, pfn: int, order: int) -> int:
        """:meth:`fault` by a call of the guest's; what it takes [ns], not charged."""
        return self.fault(pfn, order)

    def _count_early(self, pfn: cython.int, pages: cython.int) -> cython.int:
        """Memory that the guest wants back this soon was reported for little."""
        index: cython.int
        age: cython.longlong = self.clock.now - self.discarded_ns[pfn >> PAGEBLOCK_ORDER]
        for index in range(len(EARLY_NS)):
            if age <= EARLY_NS[index]:
                self.refaulted_within[index] += pages
        return 0

    def _back_unit(self, unit: cython.int) -> cython.int:
        """A whole 2 MiB unit comes back as one huge page."""
        index: cython.int
        self.units_come_back[unit] = 1
        first: cython.int = unit * _WORDS_PER_UNIT
        for index in range(first, first + _WORDS_PER_UNIT):
            self.words[index] = _ALL
        return 0

    def is_huge(self, pfn: cython.int) -> cython.bint:
        """Whether the host maps the 2 MiB unit around a page as one huge page."""
        unit: cython.int = pfn >> PAGEBLOCK_ORDER
        if not self.huge_granule or self.small_units[unit]:
            return False
        return self.backed_pages(unit << PAGEBLOCK_ORDER, PAGEBLOCK_ORDER) == PAGEBLOCK_PAGES

    def came_back_whole(self, pfn: int) -> bool:
        """Whether a huge refault, for whichever page, brought the 2 MiB unit around one back."""
        return bool(self.units_come_back[pfn >> PAGEBLOCK_ORDER])

    def _split(self, pfn: cython.int, order: cython.int) -> cython.int:
        """Part of what is mapped in these units is to go: they are mapped by small pages now."""
        unit: cython.int
        for unit in range(
            pfn >> PAGEBLOCK_ORDER, ((pfn + (1 << order) - 1) >> PAGEBLOCK_ORDER) + 1
        ):
            if self.backed_pages(unit << PAGEBLOCK_ORDER, PAGEBLOCK_ORDER) > 0:
                self.small_units[unit] = 1
        return 0

    def discard(
        self, pfn: cython.int, order: cython.int, piecemeal: cython.bint = False
    ) -> cython.int:
        """The host takes a block's memory back; the number of pages it backed until now.

        Args:
            pfn: first page of the block.
            order: its order.
            piecemeal: by calls that each take less than a huge page.
        """
        taken: cython.int = self.backed_pages(pfn, order)
        index: cython.int
        if taken == 0:
            return 0
        if order < PAGEBLOCK_ORDER or piecemeal:
            self._split(pfn, order)
        if self.split is not None:
            self.split.discarded(pfn, order)
        if order < 6:
            self.words[pfn >> 6] &= ~(((_ONE << (1 << order)) - 1) << (pfn & 63)) & _ALL
        else:
            for index in range(pfn >> 6, (pfn + (1 << order)) >> 6):
                self.words[index] = 0
        self.discarded_pages += taken
        index = pfn >> PAGEBLOCK_ORDER
        while index <= (pfn + (1 << order) - 1) >> PAGEBLOCK_ORDER:
            self.discarded_ns[index] = self.clock.now
            if order >= PAGEBLOCK_ORDER:
                self.units_come_back[index] = 0
            index += 1
        self.backed.change(self.clock.now, -taken)
        self.reclaimed.change(self.clock.now, taken)
        if self.split is not None:
            self.split.changed(pfn, 1 << order)
        return taken

    def discard_range(
        self, pfn: cython.int, pages: cython.int, piecemeal: cython.bint
    ) -> cython.int:
        """:meth:`discard` any range, as aligned blocks of up to the pageblock order."""
        taken: cython.int = 0
        end: cython.int = pfn + pages
        order: cython.int
        while pfn < end:
            order = PAGEBLOCK_ORDER
            while order and (pfn & ((1 << order) - 1) or pfn + (1 << order) > end):
                order -= 1
            taken += self.discard(pfn, order, piecemeal)
            pfn += 1 << order
        return taken

    def mapped_in(self, pfn: int, pages: int, by_page: bool) -> tuple[int, int, int]:
        """How the host maps what it backs of a range, looked at from the first page on.

        Args:
            pfn: its first page, that of a 2 MiB unit where it is longer than one.
            pages: its length.
            by_page: it is unmapped page by page, so none of it as a huge page.

        Returns:
            How many units can go as huge pages; how many pages go one by one; and how many huge
            pages have to be split for that.
        """
        huge: cython.int = 0
        small: cython.int = 0
        splits: cython.int = 0
        first: cython.int = pfn
        end: cython.int = pfn + pages
        count: cython.int
        backed: cython.int
        while first < end:
            count = min(PAGEBLOCK_PAGES, end - first)
            backed = self.count_range(first, count)
            if backed and self.is_huge(first):
                if count == PAGEBLOCK_PAGES and not by_page:
                    huge += 1
                else:
                    small += backed
                    splits += 1
            else:
                small += backed
            first += count
        return huge, small, splits

    def claim(self, pfn: cython.int, order: cython.int) -> cython.int:
        """A discard by the oracle's zero-time service, counted as a report of its own."""
        self.claimed_blocks += 1
        self.claimed_pages += 1 << order
        return self.discard(pfn, order)
