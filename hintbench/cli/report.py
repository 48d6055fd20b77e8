"""The table that a comparison ends in: one block of rows for each workload, one row a strategy."""

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from hintbench.cli.report_notes import LEAST_WIDTH, print_notes, print_violations, print_wrapped
from hintbench.config.quantities import format_amount, format_count, format_ns
from hintbench.results.directions import Better, better
from hintbench.results.result import Result
from hintbench.results.seeds import interval

REFERENCES: Final = ("none", "oracle")
"""Strategies that show what is possible; they are set apart and never the best of a column."""
_ABSENT: Final = "-"
_VIOLATIONS: Final = "violations.all"
"""No metric: all broken rules together."""
_INDENT: Final = "  "
_FAILED: Final = "failed"
_MARK: Final = "*"
_NARROW_NAME: Final = 15
_USUAL_NAME: Final = 24
_WIDE_NAME: Final = 40


@dataclass(frozen=True, slots=True)
class Row:
    """One cell of a comparison.

    Attributes:
        workload: How the user named the workload, with parameters.
        strategy: How the user named the strategy, with parameters.
        result: The result, or None when the cell failed.
        name: The strategy's bare name.
    """

    workload: str
    strategy: str
    result: Result | None
    name: str


@dataclass(frozen=True, slots=True)
class _Column:
    """One measured column: its titles, its metric, and how that is written."""

    wide: str
    narrow: str
    metric: str
    write: Callable[[float], str]

    def value(self, result: Result) -> float | None:
        """What a result has there; None when the metric does not apply."""
        if self.metric == _VIOLATIONS:
            return result.violation_count
        return result.metrics.get(self.metric)

    @property
    def better(self) -> Better | None:
        """Which end is better, as everywhere; None: neither is."""
        return better(self.metric)


def _ratio(value: float) -> str:
    return f"{value:.3f}" if value < 10 else format_amount(value)


_COLUMNS: Final = (
    _Column("throughput\nratio\nto none ↑", "ratio\nto\nnone↑", "throughput_ratio", _ratio),
    _Column("p99\nallocation\nlatency ↓", "p99\nalloc\n↓", "alloc_p99_ns", format_ns),
    _Column("zone\nlock\nwait ↓", "lock\nwait\n↓", "lock_wait_ns", format_ns),
    _Column("reports\n(blocks)\n", "re-\nports\n", "reported_blocks", format_count),
    _Column("reclaimed\n(GiB·s)\n↑", "recl.\nGiB·s\n↑", "reclaimed_gib_s", format_amount),
    _Column("retained\n(GiB·s)\n↓", "ret.\nGiB·s\n↓", "retained_gib_s", format_amount),
    _Column("refaults\n\n↓", "re-\nfaults\n↓", "refaults", format_count),
    _Column("false\nOOMs\n↓", "false\nOOM\n↓", "false_ooms", format_count),
    _Column("rule\nviolations\n↓", "viol.\n\n↓", _VIOLATIONS, format_count),
)

_FOOTNOTE: Final = (
    "How to read it: times are virtual, that is, of the modelled machine. ↑ more is better, ↓"
    " less is better; * marks the best of its column on that workload, among those that report"
    " and break no rule, unless most of them are equally good. none (never reports) and oracle"
    " (takes every free page back for nothing) bound what is possible and are never marked. The"
    " throughput ratio is operations per second against none. reports counts free blocks that"
    " the host was told of. reclaimed is memory that the host took back and the guest has not"
    " touched since; retained is memory that is free in the guest and still backed by the host"
    " (size times seconds, so a longer run has more of both). A refault is the touch of reclaimed"
    " memory. A false OOM is an allocation that failed although blocks in the strategy's hands"
    " would have served it. violations counts broken rules that a run sees by itself; hintbench"
    " check looks for all of them."
)
_NO_BASELINE: Final = " The ratio is empty where none did not run: add -s none."


def print_comparison(console: Console, rows: Sequence[Row]) -> None:
    """Print the table, what broke which rule, the runs' notes, and how to read it.

    Args:
        console: Where to; its width decides between the wide and the narrow form.
        rows: The cells. Several seeds of one cell become one row of means.
    """
    groups = _grouped(rows)
    texts = {
        workload: {label: _texts(same) for label, same in strategies.items()}
        for workload, strategies in groups.items()
    }
    spreads = {
        workload: {label: _spreads(same) for label, same in strategies.items()}
        for workload, strategies in groups.items()
    }
    width = max(console.width, LEAST_WIDTH)
    layout = _layout(width, texts, spreads)
    if layout is None:
        _print_blocks(console, groups, texts, spreads)
    else:
        _print_rows(console, groups, texts, spreads, layout, width)
    print_violations(console, groups)
    print_notes(console, groups)
    console.print()
    print_wrapped(console, _footnote(groups), style="dim")


def _print_rows(
    console: Console,
    groups: "Groups",
    texts: "_AllTexts",
    spreads: "_AllTexts",
    layout: "_Layout",
    width: int,
) -> None:
    """Print a row for each strategy, and below it how far its means are certain."""
    console.print(_table(layout, header=True), width=width)
    console.print(Text("─" * layout.total, style="dim"), soft_wrap=True)
    for workload, strategies in groups.items():
        console.print(Text(workload, style="bold"), soft_wrap=True)
        table = _table(layout, header=False)
        best = _best(strategies, texts[workload])
        for label in sorted(strategies, key=lambda label: _place(strategies[label][0].name)):
            reference = strategies[label][0].name in REFERENCES
            cells = [
                part
                for text, winners in zip(texts[workload][label], best, strict=True)
                for part in _cell(_tight(text, layout), label in winners)
            ]
            style = "dim" if reference else ""
            table.add_row(_folded(label, layout.name), *cells, style=style)
            if any(spreads[workload][label]):
                below = [
                    part
                    for text in spreads[workload][label]
                    for part in _cell(_tight(text, layout), best=False)
                ]
                table.add_row("", *below, style="dim")
        console.print(table, width=width)


def _print_blocks(
    console: Console, groups: "Groups", texts: "_AllTexts", spreads: "_AllTexts"
) -> None:
    """Print a few lines for each strategy, where no row would fit: no figure is ever cut."""
    titles = [" ".join(column.wide.split()) for column in _COLUMNS]
    for workload, strategies in groups.items():
        console.print(Text(workload, style="bold"), soft_wrap=True)
        best = _best(strategies, texts[workload])
        for label in sorted(strategies, key=lambda label: _place(strategies[label][0].name)):
            console.print(Text(_INDENT + label), soft_wrap=True)
            values = zip(
                titles, texts[workload][label], spreads[workload][label], best, strict=True
            )
            for title, text, spread, winners in values:
                mark = _MARK if label in winners else ""
                told = f"{text:>8}{mark} {spread}".rstrip()
                line = Text(f"{_INDENT * 2}{title:<{max(map(len, titles))}} {told}")
                console.print(line, style="bold green" if mark else "", soft_wrap=True)


def _footnote(groups: "Groups") -> str:
    """How to read this very table."""
    cells = [same for strategies in groups.values() for same in strategies.values()]
    results = [row.result for same in cells for row in same if row.result is not None]
    text = _FOOTNOTE
    if any(result.metrics.get("throughput_ratio") is None for result in results):
        text += _NO_BASELINE
    seeds = max(map(len, cells), default=1)
    if seeds > 1:
        text += (
            f" Each row is the mean of {seeds} seeds; ± is half of its 95 % interval (Student's t)."
        )
    return text


@dataclass(frozen=True, slots=True)
class _Layout:
    """Widths of one table, shared by the blocks of all workloads so that they line up."""

    narrow: bool
    name: int
    columns: tuple[int, ...]

    @property
    def gap(self) -> int:
        """Blanks between two columns, beside the place for a mark."""
        return 0 if self.narrow else 1

    @property
    def total(self) -> int:
        """Width of a line."""
        return self.before + sum(self.columns) + len(self.columns) * (len(_MARK) + self.gap)

    @property
    def before(self) -> int:
        """Width of the strategy's name with the blanks around it."""
        return len(_INDENT) + self.name + 1 + self.gap


Groups = dict[str, dict[str, list[Row]]]
_AllTexts = dict[str, dict[str, list[str]]]


def _grouped(rows: Iterable[Row]) -> Groups:
    """Rows by workload and strategy, in the order in which they come."""
    groups: Groups = {}
    for row in rows:
        groups.setdefault(row.workload, {}).setdefault(row.strategy, []).append(row)
    return groups


def _place(name: str) -> int:
    """The baseline stands first, the bound last."""
    return {"none": 0, "oracle": 2}.get(name, 1)


def _values(same: Sequence[Row]) -> list[float | None]:
    """A row's values: means over its seeds, None where any seed has none."""
    results = [row.result for row in same if row.result is not None]
    values: list[float | None] = []
    for column in _COLUMNS:
        found = [column.value(result) for result in results]
        known = [value for value in found if value is not None]
        complete = bool(known) and len(known) == len(found)
        values.append(math.fsum(known) / len(known) if complete else None)
    return values


def _texts(same: Sequence[Row]) -> list[str]:
    if all(row.result is None for row in same):
        return [_FAILED, *[_ABSENT] * (len(_COLUMNS) - 1)]
    values = _values(same)
    return [
        _ABSENT if value is None else column.write(value)
        for column, value in zip(_COLUMNS, values, strict=True)
    ]


def _spreads(same: Sequence[Row]) -> list[str]:
    """Half the 95 % interval of each mean; nothing where all seeds agree, or there is but one."""
    results = [row.result for row in same if row.result is not None]
    spreads = []
    for column in _COLUMNS:
        found = [column.value(result) for result in results]
        known = [value for value in found if value is not None]
        certain = len(set(known)) < 2 or len(known) < len(found)
        spreads.append("" if certain else f"±{column.write(interval(known).half_width)}")
    return spreads


def _best(strategies: dict[str, list[Row]], texts: dict[str, list[str]]) -> list[frozenset[str]]:
    """For each column the labels of the strategies that are best among those that compete.

    Who reports nothing does not compete: it has not done it cheaply. Nor does who breaks rules.
    """
    rivals = {label: _values(same) for label, same in strategies.items() if _competes(same)}
    best: list[frozenset[str]] = []
    for i, column in enumerate(_COLUMNS):
        found = {
            label: value for label, values in rivals.items() if (value := values[i]) is not None
        }
        if len(found) < 2 or column.better is None:
            best.append(frozenset())
            continue
        winner = (max if column.better == "higher" else min)(found, key=found.__getitem__)
        # What reads the same is equally good; where most are, none stands out.
        winners = frozenset(label for label in found if texts[label][i] == texts[winner][i])
        best.append(winners if 2 * len(winners) <= len(found) else frozenset())
    return best


def _competes(same: Sequence[Row]) -> bool:
    results = [row.result for row in same if row.result is not None]
    return (
        same[0].name not in REFERENCES
        and any(result.metrics.get("reported_blocks") for result in results)
        and not any(result.violation_count for result in results)
    )


def _layout(width: int, texts: _AllTexts, spreads: _AllTexts) -> _Layout | None:
    """Choose the wide form where it fits, else the narrow one; None when that does not either."""
    rows = [row for lines in (texts, spreads) for each in lines.values() for row in each.values()]
    longest = max((len(label) for strategies in texts.values() for label in strategies), default=0)
    longest = max(longest, len("strategy"))

    def laid_out(narrow: bool, name: int) -> _Layout:
        titles = [column.narrow if narrow else column.wide for column in _COLUMNS]
        columns = [
            max(
                [
                    *map(len, title.split("\n")),
                    *(len(row[i]) - narrow * row[i].count(" ") for row in rows),
                ]
            )
            for i, title in enumerate(titles)
        ]
        return _Layout(narrow, min(longest, name), tuple(columns))

    choices = [
        (False, _WIDE_NAME),
        (False, _USUAL_NAME),
        (True, _WIDE_NAME),
        (True, _USUAL_NAME),
        (True, _NARROW_NAME),
    ]
    for narrow, name in choices:
        layout = laid_out(narrow, name)
        if layout.total <= width:
            return layout
    return None


def _table(layout: _Layout, header: bool) -> Table:
    """An empty block of rows; every value is followed by a place for its mark."""
    table = Table(box=None, show_header=header, padding=0, pad_edge=False)
    name = f"\n\n{_INDENT}strategy" if header else ""
    table.add_column(name, width=layout.before, no_wrap=True)
    for column, width in zip(_COLUMNS, layout.columns, strict=True):
        title = column.narrow if layout.narrow else column.wide
        table.add_column(title, width=width, justify="right", no_wrap=True)
        # A mark stands in a column of its own, so that digits stay below digits.
        table.add_column("", width=len(_MARK) + layout.gap)
    return table


def _tight(text: str, layout: _Layout) -> str:
    """In the narrow form a value and its unit stand together."""
    return text.replace(" ", "") if layout.narrow else text


def _cell(text: str, best: bool) -> tuple[Text, Text]:
    """A value and its mark."""
    style = "bold green" if best else ""
    return Text(text, style=style), Text(_MARK if best else "", style=style)


def _folded(label: str, width: int) -> Text:
    """Break a label after hyphens and commas, where a reader expects it."""
    lines = [""]
    for part in re.split(r"(?<=[-,=:/])", label):
        if lines[-1] and len(lines[-1]) + len(part) > width:
            lines.append(" ")
        lines[-1] += part
    return Text("\n".join(_INDENT + line for line in lines))
