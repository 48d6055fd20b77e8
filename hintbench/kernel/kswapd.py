"""When kswapd of a recorded kernel ran, which a modelled replay follows."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class KswapdRun:
    """One run of a recorded kernel's kswapd.

    Attributes:
        woken_ns: When a fallback boosted the watermarks.
        begin_ns: When balance_pgdat() was seen at work; None: it was too short to be seen.
        end_ns: When it had ended, and the boost with it.
    """

    woken_ns: int
    begin_ns: int | None
    end_ns: int

    def moved(self, by_ns: int) -> KswapdRun:
        """The same, moved in time."""
        begin_ns = None if self.begin_ns is None else self.begin_ns + by_ns
        return KswapdRun(self.woken_ns + by_ns, begin_ns, self.end_ns + by_ns)
