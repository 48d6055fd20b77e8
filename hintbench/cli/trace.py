"""`hintbench trace`: the commands on a real kernel's traces."""

import math
from pathlib import Path
from typing import Annotated, Literal, cast

import typer

from hintbench.cli.options import Memory, Plugins, Vcpus, end_with, number
from hintbench.errors import UsageError

app = typer.Typer(
    help="Look at, or convert, a real kernel's trace of its page allocator.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Migratetypes = Annotated[
    str,
    typer.Option(
        metavar="modern|old", help="How the kernel numbers migratetypes: old is before 4.4."
    ),
]


@app.command("info")
def trace_info(
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="Text of a trace, or an imported one; - is stdin.")
    ],
    migratetypes: Migratetypes = "modern",
) -> None:
    """Say what a trace holds, and what of it cannot be read."""
    from hintbench.cli.trace_report import print_trace_info

    print_trace_info(file, _numbering(migratetypes))


@app.command("verify")
def trace_verify(
    file: Annotated[
        str,
        typer.Argument(metavar="TRACE", help="Text of a trace, or an imported one; - is stdin."),
    ],
    pages: Annotated[
        str,
        typer.Option(metavar="FILE", help="Copy of /proc/kpageflags from when the trace began."),
    ],
    reported: Annotated[
        str,
        typer.Option(
            metavar="FILE.csv", help="What the host was told: columns address and length, in order."
        ),
    ],
    strategy: Annotated[
        str,
        typer.Option("--strategy", "-s", metavar="NAME[,key=value...]", help="Held against it."),
    ] = "page-reporting",
    guest: Annotated[
        str | None,
        typer.Option(
            metavar="FILE.toml|PRESET", help="The traced machine. Default: a preset that fits."
        ),
    ] = None,
    memory: Memory = None,
    vcpus: Vcpus = None,
    tolerance_ms: Annotated[
        float,
        typer.Option(
            parser=number,
            metavar="MS",
            help="How far passes, and their first calls, may lie apart.",
        ),
    ] = 10.0,
    everything: Annotated[
        bool, typer.Option("--all", help="Tell every difference, not the first 60.")
    ] = False,
    migratetypes: Migratetypes = "modern",
    plugin: Plugins = None,
) -> None:
    """Hold a strategy against what a real kernel reported.

    The trace is replayed exactly, page by page, and the strategy runs on the free lists that the
    kernel had. Everything of order 9 and more counts as reported before the trace began. Ends with
    status 1 when passes, calls, blocks or their order differ, or times by more than is allowed.
    """
    from hintbench.cli.trace_verdict import print_verification
    from hintbench.traces.verify import VerifyRequest

    request = VerifyRequest(
        trace=file,
        pages=pages,
        reported=reported,
        strategy=strategy,
        guest=guest,
        memory=memory,
        vcpus=vcpus,
        tolerance_ns=_tolerance_ns(tolerance_ms),
        migratetypes=_numbering(migratetypes),
        plugins=tuple(plugin or ()),
    )
    end_with(print_verification(request, everything=everything))


@app.command("import")
def trace_import(
    files: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE...",
            help="Text of ftrace, perf script or trace-cmd report, plain or gzip; - is stdin."
            " Several files become one trace.",
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="OUT", help="The file to write.")
    ],
    migratetypes: Migratetypes = "modern",
) -> None:
    """Convert the text of a trace into a file that loads quickly."""
    from hintbench.cli.trace_report import import_trace

    import_trace(files, output, _numbering(migratetypes))


def _tolerance_ns(tolerance_ms: float) -> int:
    if not 0 <= tolerance_ms < math.inf:
        raise UsageError(f"--tolerance-ms: {tolerance_ms:g} is not a number from 0 on")
    return round(tolerance_ms * 1_000_000)


def _numbering(text: str) -> Literal["modern", "old"]:
    if text not in ("modern", "old"):
        raise UsageError(f"--migratetypes: {text!r} is not one of modern, old")
    return cast('Literal["modern", "old"]', text)
