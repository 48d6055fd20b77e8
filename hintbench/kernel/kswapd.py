"""Reclaim by a recorded kernel, which a modelled replay follows: kswapd's runs, and drains."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Final

KSWAPD_EARLIEST_NS: Final = 2_000_000
"""So much earlier than the recorded one the model may wake kswapd for the same run."""


@dataclass(frozen=True, slots=True)
class KswapdRun:
    """One run of a recorded kernel's kswapd.

    Attributes:
        woken_ns: When a fallback boosted the watermarks.
        begin_ns: When balance_pgdat() was seen at work; None: it was too short to be seen.
        end_ns: When it had ended, and with it what was boosted in its node when it began.
    """

    woken_ns: int
    begin_ns: int | None
    end_ns: int

    def moved(self, by_ns: int) -> KswapdRun:
        """The same, moved in time."""
        begin_ns = None if self.begin_ns is None else self.begin_ns + by_ns
        return KswapdRun(self.woken_ns + by_ns, begin_ns, self.end_ns + by_ns)


def run_at(runs: Sequence[KswapdRun], now_ns: int) -> KswapdRun | None:
    """The run for which a recorded kswapd was woken at about this time.

    Args:
        runs: What it did, rising.
        now_ns: When the model's is woken [virtual ns].
    """
    at = bisect_left(runs, now_ns, key=attrgetter("end_ns"))
    if at < len(runs) and runs[at].woken_ns - KSWAPD_EARLIEST_NS <= now_ns:
        return runs[at]
    return None


@dataclass(frozen=True, slots=True)
class DrainOfAll:
    """drain_all_pages() by a thread of a recorded kernel that needed memory.

    Attributes:
        begin_ns: When it began.
        cpu: Whose thread it was.
    """

    begin_ns: int
    cpu: int
