"""Which results of two files belong together: the same strategy, workload, guest and seed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from hintbench.results.files import ResultFile
from hintbench.results.result import Result

_GUEST = "guest"


@dataclass(frozen=True, slots=True)
class Setup:
    """What decides a result, but for its seed, as a result file tells it.

    Attributes:
        strategy: The strategy's name.
        workload: The workload's name.
        settings: Every setting of strategy, workload and guest as (owner, name, JSON value).
    """

    strategy: str
    workload: str
    settings: frozenset[tuple[str, str, str]]

    @property
    def names(self) -> tuple[str, str]:
        """Strategy and workload, whatever their settings."""
        return self.strategy, self.workload


@dataclass(frozen=True, slots=True)
class Pair:
    """A cell that two files have.

    Attributes:
        name: What to call it.
        base, new: Its results in either file, by seed, in one order.
    """

    name: str
    base: tuple[Result, ...]
    new: tuple[Result, ...]


@dataclass(slots=True)
class Matching:
    """The cells of two files.

    Attributes:
        pairs: What both files have.
        only_base, only_new: Names of the cells that one file has.
        notes: Sentences about what does not match as it might.
    """

    pairs: list[Pair] = field(default_factory=list)
    only_base: list[str] = field(default_factory=list)
    only_new: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def match(base: ResultFile, new: ResultFile) -> Matching:
    """Find the results that belong together, in the order of the new file.

    A setting that one version has and the other has not is taken for equal: a new parameter must
    not keep every cell of a version from being compared with the next one's.

    Args:
        base: The file that is compared with.
        new: The other one.
    """
    found = Matching()
    unknown = _settings_of_one(base, new)
    if unknown:
        names = ", ".join(sorted(f"{owner}.{name}" for owner, name in unknown))
        found.notes.append(f"settings that only one of the files has are taken for equal: {names}")
    before, after = (_by_cell(file, unknown) for file in (base, new))
    before = _pair_changed(before, after, found)
    names_of = _names([*after, *before])
    found.only_base = [names_of[cell] for cell in before if cell not in after]
    found.only_new = [names_of[cell] for cell in after if cell not in before]
    for cell, results in after.items():
        if cell not in before:
            continue
        name, others = names_of[cell], before[cell]
        seeds = [seed for seed in results if seed in others]
        if not seeds:
            found.notes.append(f"{name}: the files have no seed in common")
            continue
        if len(seeds) < max(len(results), len(others)):
            found.notes.append(f"{name}: only {len(seeds)} of its seeds are in both files")
        found.pairs.append(
            Pair(
                name,
                tuple(others[seed] for seed in seeds),
                tuple(results[seed] for seed in seeds),
            )
        )
    return found


def _pair_changed(
    before: dict[Setup, dict[int, Result]], after: dict[Setup, dict[int, Result]], found: Matching
) -> dict[Setup, dict[int, Result]]:
    """Give cells of the base the settings that the new file has, where only these changed.

    A strategy or workload that each file has once beyond the common cells, with other settings, is
    the same one after an edit of its defaults; it must not drop out of the comparison unseen.
    """
    alone = (
        [cell for cell in before if cell not in after],
        [cell for cell in after if cell not in before],
    )
    changed = dict(before)
    for old in alone[0]:
        same = [[one for one in cells if one.names == old.names] for cells in alone]
        if len(same[0]) == len(same[1]) == 1:
            (new,) = same[1]
            differing = sorted(old.settings - new.settings)
            if any(owner == _GUEST for owner, _, _ in differing):
                # Another guest is another question.
                continue
            changed[new] = changed.pop(old)
            values = {(owner, name): value for owner, name, value in new.settings}
            told = ", ".join(
                f"{owner}.{name} {value} -> {values.get((owner, name), 'absent')}"
                for owner, name, value in differing
            )
            found.notes.append(f"{old.strategy} on {old.workload}: settings changed: {told}")
    return changed


def _by_cell(
    file: ResultFile, unknown: frozenset[tuple[str, str]]
) -> dict[Setup, dict[int, Result]]:
    """Results by cell and seed."""
    cells: dict[Setup, dict[int, Result]] = {}
    for result in file.results:
        settings = frozenset(
            (owner, name, json.dumps(value, sort_keys=True))
            for (owner, name), value in _settings(result).items()
            if (owner, name) not in unknown
        )
        cell = Setup(result.strategy, result.workload, settings)
        cells.setdefault(cell, {})[result.seed] = result
    return cells


def _settings(result: Result) -> dict[tuple[str, str], Any]:
    """Every setting of a result by its owner and name."""
    return {
        **_flat(result.strategy, result.strategy_parameters),
        **_flat(result.workload, result.workload_parameters),
        **_flat(_GUEST, result.guest),
    }


def _flat(owner: str, settings: Mapping[str, Any], prefix: str = "") -> dict[tuple[str, str], Any]:
    flat: dict[tuple[str, str], Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            flat |= _flat(owner, value, f"{prefix}{name}.")
        else:
            flat[owner, f"{prefix}{name}"] = value
    return flat


def _settings_of_one(base: ResultFile, new: ResultFile) -> frozenset[tuple[str, str]]:
    """Settings that one file knows and the other does not, of owners that are in both."""
    sides = [
        {setting for result in file.results for setting in _settings(result)}
        for file in (base, new)
    ]
    owners = [
        {_GUEST, *(name for one in file.results for name in (one.strategy, one.workload))}
        for file in (base, new)
    ]
    return frozenset(
        (owner, name) for owner, name in sides[0] ^ sides[1] if owner in owners[0] & owners[1]
    )


def _names(cells: Iterable[Setup]) -> dict[Setup, str]:
    """A name for each cell: with those settings that tell it from others of the same plugins."""
    alike: dict[tuple[str, str], list[Setup]] = {}
    for cell in dict.fromkeys(cells):
        alike.setdefault((cell.strategy, cell.workload), []).append(cell)
    names = {}
    for same in alike.values():
        common = frozenset.intersection(*(cell.settings for cell in same))
        for cell in same:
            own = sorted(cell.settings - common)
            plugins = [
                ",".join([owner, *(f"{name}={value}" for who, name, value in own if who == owner)])
                for owner in (cell.strategy, cell.workload)
            ]
            guest = [f"{name}={value}" for who, name, value in own if who == _GUEST]
            names[cell] = " on ".join(plugins) + (f", guest {', '.join(guest)}" if guest else "")
    return names
