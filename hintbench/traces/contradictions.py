"""Whether a copy of /proc/kpageflags shows the machine of a trace when the trace began.

The first event of a page says where the page was: one that the kernel takes from a free list was
free, one that leaves a per-CPU list or its user was not. With the right copy both agree for every
page of the two recorded machines; with another moment's, or another machine's, every seventh page
and more is elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from hintbench.core.tracepages import GIVE_BACK, HAND_OUT, RETURN, TAKE
from hintbench.errors import TraceError
from hintbench.traces.fit import name_of

if TYPE_CHECKING:
    import numpy.typing as npt

    from hintbench.traces.history import PageHistory

# While /proc/kpageflags is read the machine goes on: some blocks have moved by its end.
_SHARE: Final = 0.05
_LEAST: Final = 8
# So many free blocks, and blocks in use, are first where the flags show them only by right flags.
_CERTAIN: Final = 200


@dataclass(frozen=True, slots=True)
class Contradictions:
    """How many blocks were not where their first event found them.

    Attributes:
        taken: Blocks that the kernel first takes from a free list.
        taken_in_use: Those of which some page is in no free block by the flags.
        used: Blocks that first leave a per-CPU list or their user.
        used_free: Those of which some page is in a free block by the flags.
        agreeing: Blocks of either kind that are where the flags show them, before the first few
            that are not; of the kind of which there are fewer.
        first_row: The event of the first of those that are not, but for a few; -1 without any.
    """

    taken: int
    taken_in_use: int
    used: int
    used_free: int
    agreeing: int = 0
    first_row: int = -1

    @property
    def many(self) -> bool:
        """Whether there are more than may have moved while the flags were read."""
        return any(
            wrong >= _LEAST and wrong > _SHARE * blocks
            for wrong, blocks in ((self.taken_in_use, self.taken), (self.used_free, self.used))
        )


def contradictions(found: PageHistory, free: npt.NDArray[np.bool_]) -> Contradictions:
    """Compare the first event of every page with its flag.

    Where the trace has no takes, or no drains, their lack says nothing of a page: such pages are
    left out, as are those that compaction took without an event.

    Args:
        found: The trace, understood with these flags.
        free: Which pages are in free blocks.
    """
    pages = np.flatnonzero(found.first_row >= 0)
    row, action = found.first_row[pages], found.first_action[pages]
    is_free = np.zeros(len(found.first), dtype=bool)
    is_free[: len(free)] = free
    shown_free = is_free[pages]
    silent = [
        np.arange(step.pfn, step.pfn + (1 << step.order))
        for step in found.derived
        if step.reason != "lost"
    ]
    explained = np.isin(pages, np.concatenate([np.zeros(0, dtype=np.int64), *silent]))
    has_takes, has_returns = TAKE in found.actions, RETURN in found.actions
    taken = (action == TAKE) & has_returns
    used = ((action == HAND_OUT) | (action == RETURN)) & has_takes
    used |= (action == GIVE_BACK) & ~explained
    wrong = np.unique(row[(taken & ~shown_free) | (used & shown_free)])
    first_row = int(wrong[min(_LEAST, len(wrong)) - 1]) if len(wrong) else -1
    return Contradictions(
        taken=len(np.unique(row[taken])),
        taken_in_use=len(np.unique(row[taken & ~shown_free])),
        used=len(np.unique(row[used])),
        used_free=len(np.unique(row[used & shown_free])),
        agreeing=min(
            len(np.unique(row[taken & shown_free & (row < first_row)])),
            len(np.unique(row[used & ~shown_free & (row < first_row)])),
        ),
        first_row=first_row,
    )


def check_page_flags(found: PageHistory, free: npt.NDArray[np.bool_]) -> None:
    """Refuse page flags that are not of the trace's machine when the trace began.

    Args:
        found: The trace, understood with these flags.
        free: Which pages are in free blocks.

    Raises:
        TraceError: Too many pages are not where their first event finds them.
    """
    seen = contradictions(found, free)
    if seen.many and seen.agreeing >= _CERTAIN:
        trace = found.trace
        lost = sum(fault.count for fault in trace.faults if fault.kind in ("lost", "overrun"))
        said = f" ({lost:,} were lost, as it says itself)" if lost else ""
        raise TraceError(
            f"events are missing from {name_of(trace)}{said}: until"
            f" {trace.time_ns[seen.first_row] / 1e9:.6f} s its pages are where the page flags show"
            " them, from then on many are not: record it again with larger buffers"
            " (buffer_size_kb), or leave out pages= and replay what is there"
        )
    if seen.many:
        raise TraceError(
            f"the page flags are not those of {name_of(found.trace)} when it began: of"
            f" {seen.taken:,} blocks that it takes from free lists first, {seen.taken_in_use:,} are"
            f" not free by these flags; of {seen.used:,} that it first finds in use or on a per-CPU"
            f" list, {seen.used_free:,} are free: pages= must be the copy of /proc/kpageflags from"
            " the beginning of this very trace"
        )
