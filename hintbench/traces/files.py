"""Real kernel traces: reading their text, keeping them in a file, saying what is in them.

A `Trace` is the page allocator's events as columns of numbers. What they mean for single pages is
worked out in `hintbench.traces.history`, tapes are made of them in `hintbench.traces.program`.
"""

from __future__ import annotations

import json
import sys
import zipfile
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final, Literal, TypeAlias

from hintbench.errors import TraceError
from hintbench.traces.events import Fault, Trace, TraceText, checked

__all__ = [
    "SAMPLE",
    "SAMPLE_PAGES",
    "SAMPLE_PAGES_END",
    "MigratetypeOrder",
    "Trace",
    "read_trace",
    "save_trace",
]

SCHEMA: Final = "hintbench-trace"
SCHEMA_VERSION: Final = 1
MigratetypeOrder: TypeAlias = Literal["modern", "old"]

_DATA: Final = Path(__file__).parents[1] / "data"
SAMPLE: Final = _DATA / "sample-trace.txt.gz"
"""A small trace that belongs to hintbench, of the guest preset "sample-trace"."""
SAMPLE_PAGES: Final = _DATA / "sample-kpageflags-before.u64.gz"
SAMPLE_PAGES_END: Final = _DATA / "sample-kpageflags-after.u64.gz"
_ZIP_MAGIC: Final = b"PK\x03\x04"


def read_trace(
    paths: str | Path | Iterable[str | Path], migratetype_order: MigratetypeOrder = "modern"
) -> Trace:
    """Read one recording from text, or from a file that `save_trace` wrote.

    Text may be of ftrace, ``perf script`` or ``trace-cmd report``, plain or compressed by gzip.
    Several files (one a CPU, say) become one trace, ordered by time.

    Args:
        paths: One or more files; "-" is the standard input.
        migratetype_order: "old" for kernels before 4.4, where RECLAIMABLE was 1 and MOVABLE 2.

    Raises:
        TraceError: When an input cannot be read, is no trace, holds no event of the page allocator,
            or is given twice.
    """
    if migratetype_order not in ("modern", "old"):
        raise TraceError(f"migratetype order is {migratetype_order!r}, must be 'modern' or 'old'")
    names = [paths] if isinstance(paths, str | Path) else list(paths)
    if not names:
        raise TraceError("no trace was given")
    _check_different(names)
    trace = _joined([_read_one(str(name)) for name in names])
    if migratetype_order == "old":
        _swap_old_types(trace)
    return trace


def _check_different(names: Iterable[str | Path]) -> None:
    """Refuse a file that is given twice: each of its events would count twice."""
    seen: set[str] = set()
    for name in map(str, names):
        where = name if name == "-" else str(Path(name).resolve())
        if where in seen:
            raise TraceError(f"{name} is given twice: name each file of a recording once")
        seen.add(where)


def save_trace(trace: Trace, path: str | Path) -> None:
    """Write a trace to a file of numpy arrays, which `read_trace` reads back.

    It is not compressed: 33 bytes an event that can be mapped, and take no memory until they are
    looked at.

    Raises:
        TraceError: When the file cannot be written.
    """
    import numpy as np

    from hintbench.traces.columns import save_aligned

    about = {
        "texts": [[text.row, text.name, text.text] for text in trace.texts],
        "faults": [[one.kind, one.count, list(one.lines), one.file] for one in trace.faults],
        "ignored": dict(trace.ignored),
        "sources": list(trace.sources),
        "lines": trace.lines,
    }
    columns = {name: getattr(trace, name) for name in _columns()}
    try:
        with open(path, "wb") as file:
            save_aligned(
                file,
                schema=np.array(f"{SCHEMA}/{SCHEMA_VERSION}"),
                about=np.frombuffer(json.dumps(about).encode(), dtype=np.uint8),
                **columns,
            )
    except OSError as error:
        raise TraceError(f"{path}: cannot be written: {error.strerror or error}") from error


def _columns() -> dict[str, str]:
    from hintbench.core.tracewords import COLUMNS

    columns: dict[str, str] = COLUMNS
    return columns


def _read_one(name: str) -> Trace:
    """Open one input and find out what it is."""
    from hintbench.traces.input import read_stream

    try:
        if name == "-":
            return read_stream(sys.stdin.buffer, "standard input")
        with open(name, "rb") as file:
            if file.read(len(_ZIP_MAGIC)) == _ZIP_MAGIC:
                return _load(Path(name))
            file.seek(0)
            return read_stream(file, name)
    except OSError as error:
        raise TraceError(f"{name}: cannot be read: {error.strerror or error}") from error


def _swap_old_types(trace: Trace) -> None:
    """Renumber the migratetypes of kernels before commit 016c13daa5c9."""
    import numpy as np

    from hintbench.core.tracewords import AUX_MIGRATETYPE_SHIFT, EXTFRAG

    swapped = np.array([0, 2, 1, 3, 4, 5, 6, -1], dtype=np.int8)
    trace.migratetype[:] = swapped[trace.migratetype]
    rows = trace.kind == EXTFRAG
    fallback = trace.aux[rows] >> AUX_MIGRATETYPE_SHIFT & 7
    shift = (swapped[fallback].astype(np.int32) & 7) - fallback
    trace.aux[rows] += shift << AUX_MIGRATETYPE_SHIFT


def _joined(traces: Sequence[Trace]) -> Trace:
    """Put several inputs into the order of time; equal times stay in the order of inputs."""
    import numpy as np

    if len(traces) == 1:
        return traces[0]
    order = np.argsort(np.concatenate([trace.time_ns for trace in traces]), kind="stable")
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    texts: list[TraceText] = []
    first = 0
    ignored: dict[str, int] = {}
    for trace in traces:
        texts += [TraceText(int(place[first + t.row]), t.name, t.text) for t in trace.texts]
        first += len(trace)
        for name, count in trace.ignored.items():
            ignored[name] = ignored.get(name, 0) + count
    return Trace(
        **{
            name: np.concatenate([getattr(trace, name) for trace in traces])[order]
            for name in _columns()
        },
        texts=tuple(sorted(texts, key=lambda text: text.row)),
        faults=tuple(fault for trace in traces for fault in trace.faults),
        ignored=ignored,
        sources=tuple(source for trace in traces for source in trace.sources),
        lines=sum(trace.lines for trace in traces),
    )


def _load(path: Path) -> Trace:
    """Read what `save_trace` wrote."""
    import numpy as np

    from hintbench.traces.columns import mapped

    try:
        # numpy leaves a file open that it has opened and cannot read.
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
            schema = str(arrays["schema"]) if "schema" in arrays else ""
            if schema != f"{SCHEMA}/{SCHEMA_VERSION}":
                raise TraceError(
                    f"{path}: is {schema or 'no imported trace'},"
                    f" this version reads {SCHEMA}/{SCHEMA_VERSION}; import the text again"
                )
            columns = {}
            for name in _columns():
                column = mapped(path, name, arrays.zip)
                columns[name] = arrays[name] if column is None else column
            about = json.loads(arrays["about"].tobytes())
        lengths = {len(column) for column in columns.values()}
        if len(lengths) != 1 or any(
            column.dtype != _columns()[name] or column.ndim != 1 for name, column in columns.items()
        ):
            raise ValueError("columns differ in length or kind")
        return checked(
            Trace(
                **columns,
                texts=tuple(TraceText(int(row), name, text) for row, name, text in about["texts"]),
                faults=tuple(
                    Fault(kind, count, tuple(lines), file)
                    for kind, count, lines, file in about["faults"]
                ),
                ignored=about["ignored"],
                sources=tuple(about["sources"]),
                lines=about["lines"],
            )
        )
    except (KeyError, ValueError, TypeError, zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise TraceError(f"{path}: is not a whole imported trace: {error}") from error
