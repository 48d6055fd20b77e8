"""The tables of `hintbench speed`, and the files of its figures."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from hintbench import __version__, scale, speed
from hintbench.config.quantities import format_bytes
from hintbench.core import BUILD
from hintbench.results.files import STDOUT, check_writable, write_text

_TAPE_HEADINGS: Final = ("standard tape", "wall ns", "lowest", "highest", "M a second")
_GUEST_HEADINGS: Final = (
    "guest",
    "vCPUs",
    "ns an operation",
    "ratio",
    "build",
    "bytes a page",
    "peak memory",
)
_STANDARD: Final = (4, 8)
# Rounds that lie further apart than this were not alone.
_NOISY: Final = 1.25


def measure_speed(json_file: str | None = None) -> None:
    """Measure this build on the standard tapes, and print the figures.

    Args:
        json_file: Also write them to this file.
    """
    if json_file is not None:
        check_writable(json_file)
    figures = speed.measure()
    console = Console(stderr=json_file == STDOUT)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in _TAPE_HEADINGS:
        table.add_column(heading, justify="left" if heading == "standard tape" else "right")
    for figure in figures:
        times = (figure.ns_per_operation, figure.lowest_ns, figure.highest_ns)
        rate = 1000 / figure.ns_per_operation
        table.add_row(figure.name, *(f"{time:,.1f}" for time in times), f"{rate:.3g}")
    console.print(f"hintbench {__version__}, {BUILD} core: wall time for one operation, median")
    console.print(table)
    if any(figure.highest_ns > _NOISY * figure.lowest_ns for figure in figures):
        console.print(
            "The rounds lie far apart: something else keeps this computer busy. Measure again when"
            " it is quiet, or compare builds in one run (benchmarks/)."
        )
    _write(json_file, "figures", figures)


def measure_scale(json_file: str | None = None) -> None:
    """Measure guests of many sizes, and print a table with ratios to the standard tape's guest.

    Args:
        json_file: Also write the figures to this file.
    """
    if json_file is not None:
        check_writable(json_file)
    console = Console(stderr=json_file == STDOUT)
    console.print(
        f"hintbench {__version__}, {BUILD} core: order-0 churn, wall time, medians", highlight=False
    )
    with console.status("measuring") as status:
        done: list[scale.Row] = []

        def tell(row: scale.Row) -> None:
            done.append(row)
            status.update(f"{len(done)} of {len(scale.GUESTS)} guests are measured")

        rows = scale.measure(tell)
    console.print(scale_table(rows))
    _write(json_file, "guests", rows)


def scale_table(rows: list[scale.Row]) -> Table:
    """Lay the figures out; ratios are to the guest of the standard tape."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in _GUEST_HEADINGS:
        table.add_column(heading, justify="right")
    standard = next(
        (row.ns_per_operation for row in rows if (row.memory_gib, row.vcpus) == _STANDARD),
        rows[0].ns_per_operation,
    )
    for row in rows:
        table.add_row(
            format_bytes(row.memory_gib * scale.GIB),
            str(row.vcpus),
            f"{row.ns_per_operation:.1f}",
            f"{row.ns_per_operation / standard:.2f}",
            f"{row.build_seconds:.2f} s",
            f"{row.bytes_per_page:.3f}",
            format_bytes(row.peak_bytes),
        )
    return table


def _write(json_file: str | None, name: str, rows: Iterable[Any]) -> None:
    """Write the figures to a file, if one is wanted."""
    if json_file is not None:
        content = {
            "schema": 1,
            "hintbench": __version__,
            "build": BUILD,
            name: [row._asdict() for row in rows],
        }
        write_text(json_file, json.dumps(content, indent=1) + "\n")
