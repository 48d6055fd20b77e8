"""What a real kernel reported while it was traced: passes, calls of the host, blocks."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from hintbench.core.constants import MAX_PAGE_ORDER, PAGE_SHIFT
from hintbench.errors import TraceError
from hintbench.traces.fit import name_of

if TYPE_CHECKING:
    from hintbench.traces import Trace

Block = tuple[int, int]
"""First page and order."""

_ENTRIES: Final = re.compile(r"\bnents=(0x[0-9a-f]+|\d+)")
_PASS: Final = re.compile(r"^\(page_reporting_process\+")
_SAME_PASS_NS: Final = 500_000_000
PHYSICAL_BYTES: Final = 1 << 52
"""What x86-64 can address at most; MAXPHYADDR."""
_COLUMNS: Final = ("address", "length")


@dataclass(frozen=True, slots=True)
class Batch:
    """One call of the host.

    Attributes:
        time_ns: When it was made.
        blocks: What it told, in the order of its descriptors.
    """

    time_ns: int
    blocks: tuple[Block, ...]


@dataclass(frozen=True, slots=True)
class Pass:
    """One run of the reporting work.

    Attributes:
        time_ns: When it began.
        batches: Its calls of the host; none when it found nothing.
    """

    time_ns: int
    batches: tuple[Batch, ...] = ()

    @property
    def blocks(self) -> tuple[Block, ...]:
        """All that it told, in order."""
        return tuple(block for batch in self.batches for block in batch.blocks)

    @property
    def sizes(self) -> str:
        """Blocks in each call, such as "32 + 27"."""
        return " + ".join(str(len(batch.blocks)) for batch in self.batches) or "none"


def block_name(block: Block) -> str:
    """A block as verdicts name it."""
    return f"{block[0]:#x} of order {block[1]}"


def read_recorded(trace: Trace, reported: str | Path) -> list[Pass]:
    """Find a recording's passes.

    Args:
        trace: With the hits of two probes: one at the beginning of page_reporting_process(), one
            on the call of the host whose text says ``nents=N``.
        reported: A CSV file with the columns ``address`` (guest-physical, hexadecimal) and
            ``length`` (bytes), a line for each block that the host was told, in order; none where
            every pass found nothing.

    Returns:
        The passes on the trace's own clock.

    Raises:
        TraceError: The file cannot be read, or does not fit the probes.
    """
    blocks = _read_blocks(reported)
    began, batches = [], []
    used = 0
    for text in trace.texts:
        at_ns = int(trace.time_ns[text.row])
        if match := _ENTRIES.search(text.text):
            count = int(match[1], 0)
            batches.append(Batch(at_ns, tuple(blocks[used : used + count])))
            used += count
        elif _PASS.match(text.text) and "<-" not in text.text:
            began.append(at_ns)
    # Passes that found nothing make no call: such a recording's list is empty.
    if not batches and (blocks or not began):
        raise TraceError(
            f"{name_of(trace)} has no probe that says nents=N: without one on the driver's report"
            f" function nobody knows in which calls the {len(blocks)} blocks of {reported} went"
        )
    if used != len(blocks):
        raise TraceError(
            f"{reported}: lists {len(blocks)} blocks, the trace's probes tell of {used}"
            " (nents=...): they are not of one recording"
        )
    return in_passes(began, batches)


def in_passes(began_ns: Iterable[int], batches: Sequence[Batch]) -> list[Pass]:
    """Sort calls of the host into passes.

    Args:
        began_ns: When passes began; where that is not known, a pause of half a second parts them.
            Calls before the first of them are a pass that had begun before the recording.
        batches: The calls, in order of time.
    """
    starts = sorted(began_ns)
    known = bool(starts)
    passes: list[tuple[int, list[Batch]]] = []
    begun = 0
    last_ns: int | None = None
    for batch in batches:
        at_ns = batch.time_ns
        while begun < len(starts) and starts[begun] <= at_ns:
            passes.append((starts[begun], []))
            begun += 1
        # A recording may begin in the middle of a pass.
        paused = not known and last_ns is not None and at_ns - last_ns > _SAME_PASS_NS
        if not passes or paused:
            passes.append((at_ns, []))
        passes[-1][1].append(batch)
        last_ns = at_ns
    passes += [(start, []) for start in starts[begun:]]
    return [Pass(start, tuple(found)) for start, found in passes]


def _read_blocks(path: str | Path) -> list[Block]:
    """Read the blocks that the host was told of."""
    blocks = []
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            lines = csv.reader(file, skipinitialspace=True)
            columns = [name.strip().lower() for name in next(lines, [])]
            absent = [name for name in _COLUMNS if name not in columns]
            if absent:
                raise TraceError(
                    f"{path}: has no column {' and no column '.join(absent)}: its first line must"
                    f" name them, and is {','.join(columns) or 'empty'}"
                )
            for number, line in enumerate(lines, 2):
                if line:
                    values = dict(zip(columns, line, strict=False))
                    blocks.append(_block(values, f"{path}: line {number}"))
    except OSError as error:
        raise TraceError(f"{path}: cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise TraceError(
            f"{path}: is a binary file, not the CSV of what the host was told"
        ) from error
    except csv.Error as error:
        raise TraceError(f"{path}: is no CSV file: {error}") from error
    return blocks


def _block(line: dict[str, str], where: str) -> Block:
    try:
        address, length = int(line["address"], 0), int(line["length"], 0)
    except (KeyError, TypeError, ValueError):
        raise TraceError(f"{where}: has no address and length in numbers") from None
    pfn, pages = address >> PAGE_SHIFT, length >> PAGE_SHIFT
    order = pages.bit_length() - 1
    whole = pages << PAGE_SHIFT == length and pages == 1 << max(order, 0)
    if not 0 <= address < PHYSICAL_BYTES:
        raise TraceError(f"{where}: {address:#x} is no guest-physical address")
    if not whole or order > MAX_PAGE_ORDER or address != pfn << PAGE_SHIFT or pfn & (pages - 1):
        raise TraceError(
            f"{where}: {length:#x} bytes at {address:#x} are no block of the allocator"
        )
    return pfn, order
