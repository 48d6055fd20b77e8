"""What `hintbench check` prints for each strategy, and writes for other programs."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from hintbench import __version__
from hintbench.cli.report_notes import print_wrapped
from hintbench.config.quantities import counted
from hintbench.core import BUILD
from hintbench.testing.checking import SHORT, Check
from hintbench.testing.counterexamples.telling import Told
from hintbench.testing.races import RACES
from hintbench.testing.rules import RULES
from hintbench.testing.runs.outcome import RACE
from hintbench.testing.scenarios.families import OPERATIONS
from hintbench.testing.verdicts import Verdict

Files = Mapping[tuple[str, str], Path]
"""Where the counterexample of each rule and kind was saved."""
_MARKS: Final = {
    Verdict.HOLDS: "[green]holds[/]",
    Verdict.UNEXPLORED: "[dim]not explored[/]",
    Verdict.BROKEN: "[bold red]BROKEN[/]",
    Verdict.DECLARED: "[yellow]declared[/]",
    Verdict.UNSHOWN: "[bold red]not shown[/]",
    Verdict.UNTESTED: "[bold red]untested[/]",
    Verdict.NOT_APPLICABLE: "[dim]n/a[/]",
}
"""Those that are not printed as they are."""
RARE: Final = 10
"""Reports in fewer than one schedule of so many are few."""
_COVERED: Final = {
    "reports": "report",
    "contended_takes": "contended take",
    "preemptions": "preemption",
    "interrupts": "interrupt",
    "faults": "fault",
}
"""What is counted of an exploration, and what one of them is called."""


def print_check(console: Console, check: Check, files: Files) -> None:
    """One strategy's table, what was explored, and the stories.

    Args:
        console: where to.
        check: what came of it.
        files: the counterexamples that were saved.
    """
    if check.verdicts:
        _print_verdicts(console, check)
        _print_explored(console, check)
        _print_races(console, check)
    for told in check.counterexamples:
        title = told.key[1] if told.key[0] == RACE else told.key[0]
        size = f"{_steps(told.size)}{_cut_off(told)}"
        console.print(f"\n[bold]{title}[/], shrunk to {size}:", soft_wrap=True)
        for line in told.story:
            console.print(line, markup=False, soft_wrap=True)
        if told.key in files:
            console.print(
                f"again: hintbench replay {files[told.key]}", markup=False, soft_wrap=True
            )
    if check.verdicts:
        console.print()
    style = "bold red" if check.error else ""
    print_wrapped(console, _summary(check), style=style)
    console.print()


def _print_verdicts(console: Console, check: Check) -> None:
    """The table of rules."""
    table = Table(
        title=check.strategy + _cut_short(check), title_justify="left", box=None, pad_edge=False
    )
    table.add_column("rule", no_wrap=True)
    table.add_column("class", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    table.add_column("broken in", justify="right")
    table.add_column("why", overflow="fold")
    for each in check.verdicts:
        count = str(each.schedules) if each.schedules else ""
        mark = _MARKS.get(each.verdict, each.verdict.value)
        table.add_row(each.rule, RULES[each.rule].severity, mark, count, each.why)
    console.print(table)
    _say(console, "class S: corruption or deadlock, L: progress, C: what the strategy claims")


def _print_explored(console: Console, check: Check) -> None:
    """How much was explored, and what is to be known before the verdicts are believed."""
    exploration = check.exploration
    covered = [counted(exploration.coverage.get(name, 0), noun) for name, noun in _COVERED.items()]
    _say(
        console,
        f"{counted(exploration.schedules, 'schedule')} ({exploration.with_reports:,} with reports)"
        f" from seed {check.seed} in {check.seconds:.1f} s: {', '.join(covered)}",
    )
    if exploration.long_schedules:
        _say(
            console,
            f"{exploration.long_schedules:,} of them with {OPERATIONS:,} operations or more,"
            f" {exploration.long_per_minute:,.0f} per minute and core; reports in the median one:"
            f" {exploration.median_reports}",
        )
    if exploration.schedules and (check.error or check.failing(Verdict.BROKEN)):
        _say(
            console,
            "the check ended at the first fault that is not declared, so other rules are told only"
            f" for what came before it: mend it{_or_declare(check)} to have all explored",
        )
    elif 0 < RARE * exploration.with_reports < exploration.schedules:
        _say(
            console,
            "few schedules had a report, so little speaks for the rules that hold: smaller delays"
            " and thresholds in check_parameters let the strategy act more often",
        )
    if check.counterexamples:
        median = statistics.median(told.size for told in check.counterexamples)
        _say(
            console,
            f"{counted(len(check.counterexamples), 'counterexample')}; the median one has"
            f" {_steps(median)}",
        )


def _say(console: Console, text: str) -> None:
    print_wrapped(console, text)


def _or_declare(check: Check) -> str:
    return "" if check.error else " (or name the rule in declared_failures, with the reason)"


def _cut_short(check: Check) -> str:
    """What follows a strategy's name where its table says less than it was to say."""
    if not check.interrupted:
        return ""
    return f" (interrupted after {counted(check.exploration.schedules, 'schedule')})"


def _steps(number: float) -> str:
    """What is left of a scenario; its story has a line for each of their effects."""
    if number in (0, 1):
        return f"{counted(number, 'operation')}, delay or fault"
    return f"{number:,g} operations, delays and faults"


def _cut_off(told: Told) -> str:
    """What is to be said of a story that had no time to become short."""
    if told.size <= SHORT or not told.stopped_after_seconds:
        return ""
    seconds = told.stopped_after_seconds
    return f" (shrinking stopped after {seconds:.1f} s; more --jobs leave more time to it)"


def _print_races(console: Console, check: Check) -> None:
    """How often each race that concerns the strategy was provoked."""
    if not check.races:
        return
    watched, schedules = check.exploration.watched, check.exploration.schedules
    title = f"races provoked (those that follow pages: looked for in {watched} of {schedules})"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    table.add_column("race", no_wrap=True)
    table.add_column("in", justify="right")
    table.add_column("what happens", overflow="fold")
    for name, count in check.races.items():
        table.add_row(name, str(count) if count else "[bold red]never[/]", RACES[name].text)
    console.print()
    console.print(table)


def _summary(check: Check) -> str:
    """The last line: what is to be said of a strategy in one sentence."""
    broken, unshown = check.failing(Verdict.BROKEN), check.failing(Verdict.UNSHOWN)
    if check.error:
        return f"{check.strategy}: failed by its own fault: {check.error}"
    if broken:
        return f"{check.strategy}: refuted by {', '.join(broken)}"
    if check.interrupted:
        return f"{check.strategy}: interrupted, so nothing is said of what holds"
    if check.idle:
        return f"{check.strategy}: {check.idle}"
    if unshown:
        return (
            f"{check.strategy}: declares to break {', '.join(unshown)}, which no schedule showed:"
            " take the declaration away, or explore more (--schedules, --seconds)"
        )
    if untested := check.failing(Verdict.UNTESTED):
        return f"{check.strategy}: claims {', '.join(untested)}, which was not put to the test"
    shown = sum(each.verdict is Verdict.DECLARED for each in check.verdicts)
    nothing = f"{check.strategy}: no rule broken"
    if shown:
        nothing = f"{check.strategy}: {counted(shown, 'rule')} broken, as declared"
    if check.few:
        return f"{nothing}, but in {check.few} (--schedules, --seconds)"
    explored = check.exploration
    return (
        f"{nothing}, in {counted(explored.schedules, 'schedule')} of which"
        f" {explored.with_reports:,} had reports"
    )


def as_json(checks: Sequence[tuple[Check, Files]]) -> dict[str, Any]:
    """The figures for other programs; docs/conformance.md describes them.

    Args:
        checks: what came of each strategy, with the counterexamples that were saved.
    """
    return {
        "schema": 2,
        "hintbench": __version__,
        "core": BUILD,
        "checks": [_one_as_json(check, files) for check, files in checks],
    }


def _one_as_json(check: Check, files: Files) -> dict[str, Any]:
    return {
        "strategy": check.strategy,
        "passed": check.passed,
        "error": check.error or check.idle,
        "too_few": check.few,
        "interrupted": check.interrupted,
        "seed": check.seed,
        "schedules": check.exploration.schedules,
        "schedules_with_reports": check.exploration.with_reports,
        "wall_seconds": check.seconds,
        "long_schedules": check.exploration.long_schedules,
        "long_schedules_per_minute_and_core": round(check.exploration.long_per_minute),
        "reports_in_the_median_long_schedule": check.exploration.median_reports,
        "coverage": check.exploration.coverage,
        "races": check.races,
        "verdicts": {
            each.rule: {
                "class": RULES[each.rule].severity,
                "verdict": each.verdict.value,
                "schedules": each.schedules,
                "why": each.why,
            }
            for each in check.verdicts
        },
        "counterexamples": [
            {
                "rule": told.key[0],
                "kind": told.key[1],
                "steps": told.size,
                "file": str(files[told.key]) if told.key in files else None,
            }
            for told in check.counterexamples
        ],
    }
