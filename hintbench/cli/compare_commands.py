"""`hintbench compare`: two result files side by side, as text and as an exit status."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from itertools import groupby
from typing import Final

import typer
from rich.console import Console
from rich.text import Text

from hintbench.cli.report_notes import open_console
from hintbench.config.quantities import (
    counted,
    format_amount,
    format_bytes,
    format_count,
    format_ns,
)
from hintbench.errors import UsageError
from hintbench.results.comparison import VIOLATIONS, Comparison, Difference, Verdict, compare
from hintbench.results.files import load_results

_FAILED: Final = 1
_PERCENT: Final = re.compile(r"(\d+(?:\.\d+)?)\s*%")
_STYLES: Final[dict[Verdict, str]] = {"better": "green", "worse": "red", "changed": ""}
_ABSENT: Final = "-"
_MOST_CELLS: Final = 8


def run_compare(
    base: str, new: str, metrics: Sequence[str] = (), fail_above: str | None = None
) -> int:
    """Print what differs between two result files.

    Args:
        base: The older file.
        new: The newer one.
        metrics: Shell patterns of the metrics to compare; none means all.
        fail_above: Which change for the worse is too much, such as "2%"; None for none.

    Returns:
        The exit status: 1 when something got worse by more than that, or is missing in the new
        file.

    Raises:
        HintbenchError: A file cannot be compared, or an argument is wrong.
    """
    limit = None if fail_above is None else _share(fail_above)
    files = [load_results(path) for path in (base, new)]
    found = compare(files[0], files[1], metrics)
    console = open_console()
    for label, path, file in zip(("base", "new"), (base, new), files, strict=True):
        _print(console, f"{label:<5}{path} (hintbench {file.hintbench})")
    _print_differences(console, found.differences, found.seeds)
    console.print()
    for line in _summary(found):
        _print(console, line)
    if limit is None:
        return 0
    worse = found.worse_by(limit)
    if not worse and found.only_base:
        typer.echo(
            f"hintbench: {counted(len(found.only_base), 'cell')} of the base file cannot be"
            " compared, so nothing says that they got no worse",
            err=True,
        )
        return _FAILED
    if not worse:
        return 0
    worst = max(worse, key=lambda one: one.size)
    typer.echo(
        f"hintbench: {counted(len(worse), 'metric')} got worse by more than {fail_above},"
        f" most of all {worst.metric} of {worst.cell}: {_ratio(worst)}",
        err=True,
    )
    return _FAILED


def _share(text: str) -> float:
    match = _PERCENT.fullmatch(text.strip())
    if match is None:
        raise UsageError(f"--fail-above: {text!r} is not a percentage such as 2%")
    return float(match[1]) / 100


def _print_differences(console: Console, differences: Sequence[Difference], seeds: int) -> None:
    """Print a block of lines for each cell, all with the same columns."""
    heading = ["metric", "base", "new", "ratio", "95 % of it" if seeds > 1 else "", ""]
    rows = {id(one): _row(one) for one in differences}
    widths = [max(map(len, column)) for column in zip(heading, *rows.values(), strict=True)]
    for cell, group in groupby(differences, key=lambda one: one.cell):
        console.print()
        _print(console, cell, "bold")
        _print(console, _line(heading, widths), "dim")
        for one in group:
            _print(console, _line(rows[id(one)], widths), _STYLES[one.verdict])


def _row(one: Difference) -> list[str]:
    interval = "" if one.half_width is None else f"±{one.half_width:.4f}"
    return [
        one.metric,
        _amount(one.metric, one.base),
        _amount(one.metric, one.new),
        _ratio(one),
        interval,
        one.verdict,
    ]


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    """A line of a block: the first and the last column to the left, figures to the right."""
    name, *figures, verdict = cells
    columns = [f"{text:>{width}}" for text, width in zip(figures, widths[1:-1], strict=True)]
    return "  ".join([f"  {name:<{widths[0]}}", *columns, verdict]).rstrip()


def _ratio(one: Difference) -> str:
    if one.ratio is None:
        return "from 0" if one.base == 0 else _ABSENT
    # Enough digits to tell any ratio that is shown from 1.
    return f"{one.ratio:.4f}" if one.size >= 0.0001 else f"{one.ratio:.3g}{one.ratio - 1:+.1e}"


def _amount(metric: str, value: float | None) -> str:
    if value is None:
        return _ABSENT
    if metric.startswith(VIOLATIONS):
        return format_count(value)
    if metric.endswith("_ns"):
        return format_ns(value)
    if metric.endswith("_bytes"):
        return format_bytes(value)
    return format_amount(value) if metric.endswith(("_gib_s", "_ratio")) else format_count(value)


def _summary(found: Comparison) -> list[str]:
    """What was compared, what was not, and what it comes to."""
    lines: list[str] = []
    for which, names in (("base", found.only_base), ("new", found.only_new)):
        lines += [f"only in {which}: {name}" for name in names]
    lines += [f"note: {note}" for note in found.notes]
    if found.other_events:
        some = ", ".join(found.other_events[:_MOST_CELLS])
        more = ", ..." if len(found.other_events) > _MOST_CELLS else ""
        lines.append(
            f"note: the metrics are the same, but not the events (other digests): {some}{more}"
        )
    cells = counted(len(found.cells), "cell")
    differing = len({one.cell for one in found.differences})
    if differing:
        counts = Counter(one.verdict for one in found.differences)
        told = ", ".join(f"{counts[verdict]} {verdict}" for verdict in _STYLES)
        lines.append(f"{told}, in {differing} of {cells}")
    else:
        lines.append(f"no {'real ' if found.by_chance else ''}difference in {cells}")
    if found.by_chance:
        lines.append(
            f"{counted(found.by_chance, 'difference')} not shown: with"
            f" {counted(found.seeds, 'seed')}, chance alone may have made them"
        )
    elif found.seeds == 1 and differing:
        lines.append(
            "one seed: exact, but it may be the seed's luck; `run -n 5` for both files tells"
        )
    return lines


def _print(console: Console, text: str, style: str = "") -> None:
    console.print(Text(text, style=style), soft_wrap=True)
