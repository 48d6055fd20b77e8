"""Two result files side by side: what differs between them for real, and for better or worse."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Final, Literal

from hintbench.errors import ResultFileError, UsageError
from hintbench.results.directions import better
from hintbench.results.files import ResultFile
from hintbench.results.matching import Pair, match
from hintbench.results.result import Metric, Result
from hintbench.results.seeds import beyond_chance, chance_of, interval

VIOLATIONS: Final = "violations."
"""Prefix of the count of each broken rule, which compares like a metric."""

Verdict = Literal["better", "worse", "changed"]


@dataclass(frozen=True, slots=True)
class Difference:
    """A metric of one cell that is not the same in both files.

    Attributes:
        cell: The cell's name.
        metric: The metric's name.
        base: Its mean over the seeds in the base file; None where it does not apply.
        new: The same in the new file.
        ratio: new / base; None where the base is 0 or either does not apply.
        half_width: Of the 95 % interval of `ratio`; None for a single seed.
        verdict: What the change means.
        chance: How likely chance alone makes it; 0 where there is nothing to average.
    """

    cell: str
    metric: str
    base: float | None
    new: float | None
    ratio: float | None
    half_width: float | None
    verdict: Verdict
    chance: float

    @property
    def size(self) -> float:
        """By which share of the base value it changed; from 0, or from nothing, infinitely."""
        return math.inf if self.ratio is None else abs(self.ratio - 1)


@dataclass(slots=True)
class Comparison:
    """What comparing two files found.

    Attributes:
        differences: The real ones, cell by cell, the largest first.
        by_chance: How many differences several seeds do not tell from chance.
        other_events: Cells of which all metrics are the same, but not the events.
        cells: Names of the cells that both files have.
        seeds: Fewest seeds that a cell has in both files.
        only_base, only_new: Names of cells that one file has.
        notes: Sentences about what was left out.
    """

    differences: list[Difference]
    by_chance: int
    other_events: list[str]
    cells: list[str]
    seeds: int
    only_base: list[str]
    only_new: list[str]
    notes: list[str] = field(default_factory=list)

    def worse_by(self, share: float) -> list[Difference]:
        """The real changes for the worse by more than a share of the base value."""
        return [one for one in self.differences if one.verdict == "worse" and one.size > share]


def compare(base: ResultFile, new: ResultFile, patterns: Sequence[str] = ()) -> Comparison:
    """Compare two result files.

    With one seed every difference is real: a simulation repeats to the last digit. With several
    seeds one is real when chance is not likely to make it, seed by seed; of all that are told, at
    most 5 % are there by chance.

    Args:
        base: The older file.
        new: The newer one.
        patterns: Shell patterns of the metrics to compare; none means all.

    Raises:
        ResultFileError: No cell is in both.
        UsageError: A pattern matches no metric.
    """
    matching = match(base, new)
    if not matching.pairs:
        raise ResultFileError(
            "the files have nothing to compare: no strategy on the same workload with the same"
            " guest and seed is in both"
        )
    notes = list(matching.notes)
    names = _common_metrics(matching.pairs, patterns, notes)
    differences: list[Difference] = []
    other_events = []
    for pair in matching.pairs:
        of_cell = [one for name in names if (one := _difference(pair, name)) is not None]
        differences += sorted(of_cell, key=lambda one: -one.size)
        if not of_cell and [one.digest for one in pair.base] != [one.digest for one in pair.new]:
            other_events.append(pair.name)
    real = _real(differences)
    return Comparison(
        differences=real,
        by_chance=len(differences) - len(real),
        other_events=other_events,
        cells=[pair.name for pair in matching.pairs],
        seeds=min(len(pair.base) for pair in matching.pairs),
        only_base=matching.only_base,
        only_new=matching.only_new,
        notes=notes,
    )


def _real(differences: Sequence[Difference]) -> list[Difference]:
    """Leave out what chance may have made; equal cells are not even counted as tried."""
    uncertain = [one.chance for one in differences if one.chance]
    verdicts = iter(beyond_chance(uncertain))
    return [one for one in differences if not one.chance or next(verdicts)]


def _common_metrics(pairs: Sequence[Pair], patterns: Sequence[str], notes: list[str]) -> list[str]:
    """Names of the metrics that both files know, in the order of the new one; then broken rules."""
    before = _wanted((result for pair in pairs for result in pair.base), patterns)
    after = _wanted((result for pair in pairs for result in pair.new), patterns)
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in (*before, *after)):
            raise UsageError(f"--metric: {pattern!r} matches no metric of these files")
    # A rule that a file does not name was not broken there.
    rules = sorted(name for name in {*before, *after} if name.startswith(VIOLATIONS))
    for which, own, other in (("base", before, after), ("new", after, before)):
        alone = [name for name in own if name not in other and name not in rules]
        if alone:
            notes.append(f"metrics that only the {which} file has: {', '.join(alone)}")
    return [name for name in after if name in before and name not in rules] + rules


def _wanted(results: Iterable[Result], patterns: Sequence[str]) -> list[str]:
    names: dict[str, None] = {}
    for result in results:
        names |= dict.fromkeys(result.metrics)
        names |= dict.fromkeys(f"{VIOLATIONS}{rule}" for rule in result.violations)
    return [
        name for name in names if not patterns or any(fnmatchcase(name, one) for one in patterns)
    ]


def _value(result: Result, name: str) -> Metric:
    if name.startswith(VIOLATIONS):
        return result.violations.get(name.removeprefix(VIOLATIONS), 0)
    return result.metrics.get(name)


def _difference(pair: Pair, name: str) -> Difference | None:
    """What differs, or None where every seed has the same value in both files."""
    before = [_value(result, name) for result in pair.base]
    after = [_value(result, name) for result in pair.new]
    if before == after:
        return None
    base, new = _mean(before), _mean(after)
    ratio = half_width = None
    verdict: Verdict = "changed"
    chance = 0.0
    if base is not None and new is not None:
        good = better(name)
        if good is not None and new != base:
            verdict = "better" if (new > base) == (good == "higher") else "worse"
        ratio = new / base if base else None
        if len(before) > 1:
            by_seed = [(b or 0) - (a or 0) for a, b in zip(before, after, strict=True)]
            chance = chance_of(by_seed)
            half_width = interval(by_seed).half_width / abs(base) if base else None
    return Difference(pair.name, name, base, new, ratio, half_width, verdict, chance)


def _mean(values: Sequence[Metric]) -> float | None:
    """The mean over seeds; None where any seed has none."""
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if len(known) == len(values) else None
