"""The text of a trace from a file or a pipe, in chunks, into a `Trace`."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Sequence
from typing import IO, Any, Final

import numpy as np

from hintbench.core.tracetext import COLUMNS, MARK, SHORTEST_ROW, LineParser
from hintbench.errors import TraceError
from hintbench.traces.columns import TraceColumns
from hintbench.traces.events import Fault, Trace, TraceText, checked

_CHUNK_BYTES: Final = 1 << 22
_LONGEST_LINE: Final = 1 << 20
_LINE_FEED: Final = 10
_GZIP_MAGIC: Final = b"\x1f\x8b"
_BINARY_FORMATS: Final = {
    b"\x17\x08\x44tracing": "a trace.dat; convert it with `trace-cmd report`",
    b"PERFILE2": "a perf.data; convert it with `perf script`",
    b"\xfd7zXZ": "compressed with xz; unpack it",
    b"\x28\xb5\x2f\xfd": "compressed with zstd; unpack it",
}


def read_stream(file: IO[bytes], name: str) -> Trace:
    """Read text from an open file, unpacking it if need be.

    Args:
        file: The file; it need not be seekable.
        name: What it is called in messages.

    Raises:
        TraceError: When it is no text of a trace, or holds no event of the page allocator.
        OSError: When reading fails.
    """
    head = file.read(64)
    if not head:
        raise TraceError(f"{name}: is empty")
    stream: io.BufferedIOBase = io.BufferedReader(_Rejoined(head, file), 1 << 16)
    if head.startswith(_GZIP_MAGIC):
        stream = gzip.GzipFile(fileobj=stream)
    else:
        for magic, meaning in _BINARY_FORMATS.items():
            if head.startswith(magic):
                raise TraceError(f"{name}: is {meaning}")
    return _parse(stream, name)


class _Rejoined(io.RawIOBase):
    """A stream whose first bytes were read already; standard input cannot be rewound."""

    def __init__(self, head: bytes, rest: IO[bytes]) -> None:
        self.head = head
        self.rest = rest

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self.head[: len(buffer)] or self.rest.read(len(buffer))
        self.head = self.head[len(data) :]
        buffer[: len(data)] = data
        return len(data)


def _parse(stream: io.BufferedIOBase, name: str) -> Trace:
    """Feed the parser with chunks of whole lines."""
    parser = LineParser()
    parts = TraceColumns()
    buffer = bytearray(_CHUNK_BYTES)
    kept = 0
    damaged = ends_whole = False
    while not damaged:
        size, damaged = _fill(stream, buffer, kept)
        if not parser.line_count() and b"\0" in buffer[: min(size, 4096)]:
            raise TraceError(f"{name}: is a binary file, not the text of a trace")
        at_end = size == kept or damaged
        if at_end:
            ends_whole = size == 0 or buffer[size - 1] == _LINE_FEED
            if not ends_whole:
                buffer[size] = _LINE_FEED
                size += 1
        end = buffer.rfind(b"\n", 0, size) + 1
        if end:
            parts.add(_rows(parser, buffer, end))
        elif size > _LONGEST_LINE:
            raise TraceError(f"{name}: is not the text of a trace: it has no lines")
        if at_end:
            break
        kept = size - end
        # The parser may still hold the old buffer, which therefore cannot grow.
        larger = bytearray(max(len(buffer), 2 * kept + _CHUNK_BYTES if not end else 0))
        larger[:kept] = buffer[end:size]
        buffer = larger
    return _finish(parser, parts, name, damaged, ends_whole)


def _fill(stream: io.BufferedIOBase, buffer: bytearray, kept: int) -> tuple[int, bool]:
    """Read until the buffer is full but for one byte, or until there is no more.

    Returns:
        The number of bytes in the buffer, and whether the rest could not be unpacked.
    """
    size = kept
    room = memoryview(buffer)
    while size < len(buffer) - 1:
        try:
            got = stream.readinto1(room[size:-1])
        except (EOFError, zlib.error, gzip.BadGzipFile):
            return size, True
        if not got:
            break
        size += got
    return size, False


def _rows(parser: LineParser, buffer: bytearray, end: int) -> dict[str, Any]:
    """Parse the first `end` bytes of a buffer into new columns."""
    places = end // SHORTEST_ROW + 1
    columns = {key: np.empty(places, dtype=dtype) for key, dtype in COLUMNS.items()}
    rows = parser.parse(buffer, end, columns)
    return {key: column[:rows].copy() for key, column in columns.items()}


def _finish(parser: Any, parts: TraceColumns, name: str, damaged: bool, ends_whole: bool) -> Trace:
    """Make a trace of what the parser found, or say that it found nothing."""
    faults = [
        Fault(kind, count, tuple(lines), name) for kind, (count, lines) in parser.faults().items()
    ]
    last_line = parser.line_count()
    if damaged or (not ends_whole and parser.last_line_was_bad()):
        faults.append(Fault("truncated", 1, (last_line,), name))
    columns = parts.whole()
    marks = np.flatnonzero(columns["kind"] >= MARK)
    texts = tuple(
        TraceText(int(row), *parser.text_events()[int(columns["aux"][row])]) for row in marks
    )
    if len(marks) == len(columns["kind"]):
        raise TraceError(_nothing(name, parser, faults, damaged))
    return checked(
        Trace(
            **columns,
            texts=texts,
            faults=tuple(faults),
            ignored=parser.ignored_events(),
            sources=(name,),
            lines=last_line,
        )
    )


def _nothing(name: str, parser: Any, faults: Sequence[Fault], damaged: bool) -> str:
    """Say why a text holds no event that is of use."""
    if damaged:
        return f"{name}: is damaged: nothing of it could be unpacked"
    if parser.ignored_events():
        names = ", ".join(sorted(parser.ignored_events())[:3])
        return f"{name}: holds no event of the page allocator (kmem:mm_page_*), only {names}"
    worst = max(faults, key=lambda fault: fault.count, default=None)
    found = f"; found {worst}" if worst else ""
    return f"{name}: holds no event of the page allocator (kmem:mm_page_*){found}"
