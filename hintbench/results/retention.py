"""Memory that the guest does not use: where it is while the host backs it, and for how long."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from hintbench.core.constants import KIND_MASK, NR_PAGE_ORDERS, ORDER_MASK, PAGE_SIZE
from hintbench.core.retained import RetainedSplit

if TYPE_CHECKING:
    from hintbench.core.measures import Integral
    from hintbench.guest.boot import Machine

Series = Sequence[tuple[int, int]]
"""(virtual ns, pages) in order of time: from each time on so many."""

SHARES: Final = (50, 90, 99)
LARGE_FREE_SHARE: Final = 16
"""A large free gives back at least this part of the guest's memory: a sixteenth."""


# -- where it is ------------------------------------------------------------------------------


def follow_backed_memory(machine: Machine, min_order: int) -> None:
    """Count from now on where backed memory is; the host has taken none so far.

    Memory that the zones do not manage (the kernel's image, struct page) is in use for ever.

    Args:
        machine: the booted guest.
        min_order: the smallest block that the strategy tells the host of.
    """
    backing: Any = machine.backing
    counts = machine.pages.count_heads(0, machine.pages.page_count)
    known = sum(
        count << (state & ORDER_MASK) for state, count in enumerate(counts) if state & KIND_MASK
    )
    backing.used.add(0, backing.backed.value - known)
    free = [
        sum(zone.nr_free[order] << order for zone in machine.zones)
        for order in range(NR_PAGE_ORDERS)
    ]
    split = RetainedSplit(
        backing, machine.pages, min_order, sum(free[:min_order]), sum(free[min_order:])
    )
    backing.split = split
    for zone in machine.zones:
        zone.split = split


class Part(NamedTuple):
    """Part of the retained memory: sums and differences of what the core integrates.

    Attributes:
        plus: integrals that are added.
        minus: integrals that are subtracted.
    """

    plus: tuple[Integral, ...]
    minus: tuple[Integral, ...] = ()

    @property
    def value(self) -> int:
        """Pages now."""
        return sum(one.value for one in self.plus) - sum(one.value for one in self.minus)

    def page_seconds(self, end_ns: int) -> float:
        """The integral from 0 to ``end_ns``, in pages times seconds."""
        plus = sum(one.page_seconds(end_ns) for one in self.plus)
        return plus - sum(one.page_seconds(end_ns) for one in self.minus)


def split_of(machine: Machine) -> dict[str, Part]:
    """Retained memory and its parts, which add up to it.

    *pcp*: on per-CPU lists, or on its way between a list and its user. *fragments*: in free blocks
    below the strategy's minimum order. *untold*: in free blocks of that order or more, behind a
    gate of the strategy's or because the host has not been told yet. *in_hand*: isolated by the
    strategy, or marked as in flight where it lies.
    """
    backing = machine.backing
    split: Any = backing.split
    return {
        "retained": Part((backing.backed,), (backing.used,)),
        "retained_pcp": Part(
            (backing.backed,), (backing.used, split.fragments, split.whole, split.isolated)
        ),
        "retained_fragments": Part((split.fragments,)),
        "retained_untold": Part((split.whole,), (split.marked,)),
        "retained_in_hand": Part((split.isolated, split.marked)),
    }


# -- how long it takes ------------------------------------------------------------------------


class LargeFree(NamedTuple):
    """The largest fall of the memory that the guest uses.

    Attributes:
        began_ns: when it began to fall: the last time of its peak.
        ended_ns: when it had fallen so far for the first time.
        pages: by how much.
    """

    began_ns: int
    ended_ns: int
    pages: int


def find_large_free(used: Series) -> LargeFree | None:
    """The largest fall from a peak to anything after it; the last one of several that are equal.

    Args:
        used: pages in use that the host backs.

    Returns:
        The fall; None when use never falls.
    """
    found: LargeFree | None = None
    peak_ns, peak = 0, -1
    for at_ns, pages in used:
        if pages >= peak:
            peak_ns, peak = at_ns, pages
        fall = peak - pages
        if fall and (
            found is None
            or fall > found.pages
            or (fall == found.pages and peak_ns != found.began_ns)
        ):
            found = LargeFree(peak_ns, at_ns, fall)
    return found


def time_to_reclaim_ns(backed: Series, event: LargeFree, percent: int) -> int | None:
    """How long after a large free the host had taken back a share of what was freed.

    Args:
        backed: pages that the host backs.
        event: the large free.
        percent: how much of it.

    Returns:
        Virtual nanoseconds from the end of the free, 0 when so much was gone by then; None when
        it never came to that.
    """
    times = [at_ns for at_ns, _ in backed]
    first = max(bisect_right(times, event.began_ns) - 1, 0)
    wanted = backed[first][1] * 100 - event.pages * percent
    for at_ns, pages in backed[first:]:
        if pages * 100 <= wanted:
            return max(at_ns - event.ended_ns, 0)
    return None


def times_to_reclaim(machine: Machine, end_ns: int) -> dict[str, int | None]:
    """The large free, and how long it took to take 50, 90 and 99 % of it back.

    A large free is the largest fall of the memory in use, if it is at least a sixteenth of what
    the zones manage. Times are exact to the spacing of the series.

    Args:
        machine: the guest after its run.
        end_ns: when the run ended [virtual ns].
    """
    backing = machine.backing
    backed, used = (
        [(min(at_ns, end_ns), pages) for at_ns, pages in integral.series()]
        for integral in (backing.backed, backing.used)
    )
    event = find_large_free(used)
    least = sum(zone.managed_pages for zone in machine.zones) // LARGE_FREE_SHARE
    if event is not None and event.pages < least:
        event = None
    return {
        "large_free_bytes": None if event is None else event.pages * PAGE_SIZE,
        **{
            f"time_to_reclaim_{percent}_percent_ns": None
            if event is None
            else time_to_reclaim_ns(backed, event, percent)
            for percent in SHARES
        },
    }
