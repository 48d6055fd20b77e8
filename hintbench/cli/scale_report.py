"""The table of `hintbench speed --scale`."""

from __future__ import annotations

import json
from typing import Final

from rich.console import Console
from rich.table import Table

from hintbench import __version__
from hintbench.config.quantities import format_bytes
from hintbench.core import BUILD
from hintbench.results.files import STDOUT, check_writable, write_text
from hintbench.scale import GIB, GUESTS, Row, measure

_HEADINGS: Final = (
    "guest",
    "vCPUs",
    "ns an operation",
    "ratio",
    "build",
    "bytes a page",
    "peak memory",
)
_STANDARD: Final = (4, 8)


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
        done: list[Row] = []

        def tell(row: Row) -> None:
            done.append(row)
            status.update(f"{len(done)} of {len(GUESTS)} guests are measured")

        rows = measure(tell)
    console.print(scale_table(rows))
    if json_file is not None:
        content = {
            "schema": 1,
            "hintbench": __version__,
            "build": BUILD,
            "guests": [row._asdict() for row in rows],
        }
        write_text(json_file, json.dumps(content, indent=1) + "\n")


def scale_table(rows: list[Row]) -> Table:
    """Lay the figures out; ratios are to the guest of the standard tape."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in _HEADINGS:
        table.add_column(heading, justify="right")
    standard = next(
        (row.ns_per_operation for row in rows if (row.memory_gib, row.vcpus) == _STANDARD),
        rows[0].ns_per_operation,
    )
    for row in rows:
        table.add_row(
            format_bytes(row.memory_gib * GIB),
            str(row.vcpus),
            f"{row.ns_per_operation:.1f}",
            f"{row.ns_per_operation / standard:.2f}",
            f"{row.build_seconds:.2f} s",
            f"{row.bytes_per_page:.3f}",
            format_bytes(row.peak_bytes),
        )
    return table
