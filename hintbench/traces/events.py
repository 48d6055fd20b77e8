"""A trace as columns of numbers: the page allocator's events, markers, and what was wrong."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from hintbench.errors import TraceError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_MOST_PAGES: Final = 1 << 30  # 4 TiB; beyond, a line is damaged
_PIECE_ROWS: Final = 1 << 20
# What the parser calls a fault, and how it is told.
FAULTS: Final = {
    "lost": "events lost",
    "overrun": "events overwritten in the kernel's buffer",
    "backward": "times that went back",
    "wrapped": "times that wrapped",
    "malformed": "malformed events",
    "other": "lines of no known shape",
    "untimed": "lines without a time",
    "truncated": "truncated inputs",
}


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that was wrong in a trace, and did not stop its import.

    Attributes:
        kind: One of FAULTS.
        count: How often; lost events count singly.
        lines: Numbers of the first lines concerned, counted from 1 in their file.
        file: The input, as it was named.
    """

    kind: str
    count: int
    lines: tuple[int, ...] = ()
    file: str = ""

    def __str__(self) -> str:
        where = f" ({self.file}: line {', '.join(map(str, self.lines))}" if self.lines else ""
        more = ", ..." if 0 < len(self.lines) < self.count and self.kind != "lost" else ""
        what = FAULTS.get(self.kind, self.kind)
        if self.count == 1:
            what = re.sub(r"s\b", "", what, count=1)
        return f"{self.count} {what}{where}{more}{')' if where else ''}"


@dataclass(frozen=True, slots=True)
class TraceText:
    """A marker that somebody wrote into the trace, or the hit of a probe.

    Attributes:
        row: The row of the trace that stands for it.
        name: Name of the event, such as "tracing_mark_write".
        text: What it says.
    """

    row: int
    name: str
    text: str


@dataclass(frozen=True, slots=True, eq=False)
class Trace:
    """The page allocator's events of one recording, in the order of time.

    The columns are equally long numpy arrays; `hintbench.core.tracetext` has the kinds and bits.

    Attributes:
        time_ns: Time of each event on the trace's own clock, never going back; int64.
        pfn: First page, or -1 (a failed allocation, a marker); int64.
        flags: GFP and context bits; uint32.
        aux: What else the event says; int32.
        pid: Of the running task, 0 if unknown; int32.
        cpu: int16.
        kind: uint8.
        order: int8.
        migratetype: As numbered since Linux 4.4, -1 when the event does not say; int8.
        texts: Markers and probes.
        faults: What was wrong.
        ignored: Events of other kinds, by name.
        sources: The inputs, as they were named.
        lines: Lines read.
    """

    time_ns: npt.NDArray[np.int64]
    pfn: npt.NDArray[np.int64]
    flags: npt.NDArray[np.uint32]
    aux: npt.NDArray[np.int32]
    pid: npt.NDArray[np.int32]
    cpu: npt.NDArray[np.int16]
    kind: npt.NDArray[np.uint8]
    order: npt.NDArray[np.int8]
    migratetype: npt.NDArray[np.int8]
    texts: tuple[TraceText, ...] = ()
    faults: tuple[Fault, ...] = ()
    ignored: Mapping[str, int] = field(default_factory=dict)
    sources: tuple[str, ...] = ()
    lines: int = 0
    _page_count: list[int] = field(default_factory=list, init=False, repr=False)

    def __len__(self) -> int:
        return len(self.time_ns)

    @property
    def cpus(self) -> int:
        """Number of CPUs: the highest one named, plus one."""
        return int(self.cpu.max()) + 1 if len(self) else 0

    @property
    def page_count(self) -> int:
        """Pages that the trace can name: the highest pfn of any block, plus one."""
        if not self._page_count:
            highest = 0
            for first in range(0, len(self), _PIECE_ROWS):
                piece = slice(first, first + _PIECE_ROWS)
                ends = self.pfn[piece] + (1 << self.order[piece].astype("int64"))
                highest = max(highest, int(ends.max()))
            # All rows are looked at for it, and it is asked for again and again.
            self._page_count.append(highest)
        return self._page_count[0]

    def row_of_mark(self, words: Sequence[str], after: int = -1) -> int | None:
        """Find a marker.

        Args:
            words: What its text must contain, each of them.
            after: Look only behind this row.

        Returns:
            Its row, or None.
        """
        for text in self.texts:
            if text.row > after and all(word in text.text for word in words):
                return text.row
        return None


def checked(trace: Trace) -> Trace:
    """Refuse a trace that names impossible pages."""
    if trace.page_count > _MOST_PAGES:
        raise TraceError(
            f"{', '.join(trace.sources)}: names page {int(trace.pfn.max()):#x}, beyond 4 TiB"
        )
    return trace
