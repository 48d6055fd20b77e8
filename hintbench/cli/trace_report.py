"""`hintbench trace info` and `trace import`: a trace in a page of text."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import typer

from hintbench.config.quantities import counted, format_bytes, format_ns
from hintbench.errors import TraceError
from hintbench.traces import MigratetypeOrder, Trace, read_trace, save_trace

_PAGE_BYTES: Final = 4096
_MOST_TEXTS: Final = 12
_MOST_NAMES: Final = 6
_LABEL: Final = 14


def print_trace_info(file: str, migratetypes: MigratetypeOrder = "modern") -> None:
    """Print what a trace holds, and what of it could not be read.

    Args:
        file: The text of a trace, or an imported one; "-" is standard input.
        migratetypes: "old" for a kernel before 4.4.

    Raises:
        TraceError: It cannot be read, or holds nothing of use.
    """
    trace = read_trace(file, migratetypes)
    typer.echo("\n".join(describe(trace)))


def import_trace(
    inputs: Sequence[str], output: Path, migratetypes: MigratetypeOrder = "modern"
) -> None:
    """Convert the text of one recording, and say what could not be read.

    Args:
        inputs: The texts, such as one a CPU; "-" is standard input.
        output: The file to write.
        migratetypes: "old" for a kernel before 4.4.

    Raises:
        TraceError: An input cannot be read, nothing is left, or the output cannot be written, or
            is one of the inputs.
    """
    for name in inputs:
        if output.exists() and Path(name).exists() and output.samefile(name):
            raise TraceError(f"{output} is an input: name another file with -o, the trace is kept")
    trace = read_trace(inputs, migratetypes)
    save_trace(trace, output)
    typer.echo(f"wrote {output}: {counted(len(trace), 'event')} of {counted(trace.lines, 'line')}")
    for fault in trace.faults:
        typer.echo(f"hintbench: note: {fault}", err=True)


def describe(trace: Trace) -> Iterator[str]:
    """Say what is in a trace.

    Args:
        trace: The trace.

    Yields:
        Lines of text.
    """
    duration_ns = int(trace.time_ns[-1] - trace.time_ns[0])
    yield _line("trace", ", ".join(trace.sources))
    yield _line("lines", f"{trace.lines:,}")
    yield _line("time", f"{format_ns(duration_ns)} on {trace.cpus} CPU{'s'[: trace.cpus > 1]}")
    size = format_bytes(trace.page_count * _PAGE_BYTES)
    yield _line("pages", f"up to pfn {trace.page_count - 1:#x}, a guest of at least {size}")
    yield ""
    yield from _events(trace)
    if trace.texts:
        yield ""
        yield f"markers and probes ({len(trace.texts):,})"
        for text in trace.texts[:_MOST_TEXTS]:
            since = format_ns(int(trace.time_ns[text.row] - trace.time_ns[0]))
            yield f"  {since:>9}  {text.name}: {text.text}"[:100]
        if len(trace.texts) > _MOST_TEXTS:
            yield f"  {'':>9}  and {len(trace.texts) - _MOST_TEXTS:,} more"
    yield ""
    if trace.ignored:
        names = sorted(trace.ignored, key=lambda name: -trace.ignored[name])
        told = [f"{trace.ignored[name]:,} {name}" for name in names[:_MOST_NAMES]]
        told += ["..."] * (len(names) > _MOST_NAMES)
        yield _line("left out", ", ".join(told))
    yield _line("faults", "" if trace.faults else "none")
    yield from (f"  {fault}" for fault in trace.faults)


def _events(trace: Trace) -> Iterator[str]:
    """A table of the events by kind and order."""
    import numpy as np

    orders = [order for order in range(11) if bool(np.any(_known(trace) & (trace.order == order)))]
    yield f"{'events':<28}{'all':>11}" + "".join(f"{f'order {n}':>10}" for n in orders)
    for name, kind in _names().items():
        of_kind = trace.kind == kind
        if not of_kind.any():
            continue
        counts = [int(np.count_nonzero(of_kind & (trace.order == order))) for order in orders]
        cells = "".join(
            f"{count or '':>10}" if count < 1000 else f"{count:>10,}" for count in counts
        )
        yield f"  {name:<26}{int(np.count_nonzero(of_kind)):>11,}{cells}".rstrip()


def _known(trace: Trace) -> Any:
    """Rows that are events of the page allocator, not markers."""
    import numpy as np

    return np.isin(trace.kind, list(_names().values()))


def _names() -> dict[str, int]:
    """The kinds of events by the name they have today."""
    from hintbench.core import tracetext

    return {
        "mm_page_alloc": tracetext.PAGE_ALLOC,
        "mm_page_free": tracetext.PAGE_FREE,
        "mm_page_free_batched": tracetext.PAGE_FREE_BATCHED,
        "mm_page_alloc_zone_locked": tracetext.ZONE_LOCKED,
        "mm_page_pcpu_drain": tracetext.PCPU_DRAIN,
        "mm_page_pcpu_refill": tracetext.PCPU_REFILL,
        "mm_page_alloc_extfrag": tracetext.EXTFRAG,
    }


def _line(label: str, text: str) -> str:
    return f"{label:<{_LABEL}}{text}".rstrip()
