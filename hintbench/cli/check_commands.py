"""What `hintbench check` and `hintbench replay` do, once the command line has been read."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from hintbench import __version__
from hintbench.cli.printing import printing_to_stderr
from hintbench.cli.report_notes import open_console
from hintbench.errors import HintbenchError, PluginError, UsageError
from hintbench.plugins import load_plugin
from hintbench.quantities import counted
from hintbench.results import STDOUT, check_writable, write_text
from hintbench.testing import checking
from hintbench.testing.checking import (
    BROKEN,
    DECLARED,
    HOLDS,
    NOT_APPLICABLE,
    SO_FAR,
    UNEXPLORED,
    UNSHOWN,
    UNTRIED,
    Check,
)
from hintbench.testing.counterexamples import read_counterexample, source_hash
from hintbench.testing.explored import RACE
from hintbench.testing.families import OPERATIONS
from hintbench.testing.races import RACES
from hintbench.testing.rules import RULES
from hintbench.testing.stories import describe_violation, tell
from hintbench.testing.subjects import Subject
from hintbench.watchdog import watch
from hintbench.workers import worker_count

_FAILED: Final = 1
_MARKS: Final = {
    HOLDS: "[green]holds[/]",
    SO_FAR: "so far",
    UNEXPLORED: "[dim]not explored[/]",
    BROKEN: "[bold red]BROKEN[/]",
    DECLARED: "[yellow]declared[/]",
    UNSHOWN: "[bold red]not shown[/]",
    UNTRIED: "[bold red]not shown[/]",
    NOT_APPLICABLE: "[dim]n/a[/]",
}
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


@dataclass(frozen=True, slots=True)
class CheckRequest:
    """What `hintbench check` was asked for.

    Attributes:
        strategies: each as ``NAME[,key=value...]``, ``module:Class`` or ``FILE.py``.
        schedules: how many scenarios for each, at most.
        seconds: how long for each, at most [wall s].
        seed: of the first scenario.
        jobs: number of worker processes.
        json: path of a result file, or None.
        save: the folder for counterexamples.
        stories: tell what is declared too.
        plugins: plugins to load.
    """

    strategies: tuple[str, ...]
    schedules: int = checking.SCHEDULES
    seconds: float = checking.SECONDS
    seed: int = 1
    jobs: int | str | None = None
    json: str | None = None
    save: str = "counterexamples"
    stories: bool = False
    plugins: tuple[str, ...] = ()


def run_check(request: CheckRequest) -> int:
    """Check strategies, print a table for each, and save counterexamples; the exit status."""
    if not request.strategies:
        raise UsageError("check: name at least one strategy (hintbench list shows them)")
    if request.schedules < 1:
        raise UsageError(f"--schedules: {request.schedules} must be at least 1")
    if not request.seconds > 0:
        raise UsageError(f"--seconds: {request.seconds:g} must be above 0")
    if not 0 <= request.seed < 1 << 32:
        raise UsageError(f"--seed: {request.seed} is out of range 0..{(1 << 32) - 1}")
    worker_count(request.jobs)
    if request.json is not None:
        check_writable(request.json)
    _check_folder(Path(request.save))
    subjects = [Subject(text, request.plugins) for text in request.strategies]
    with watch(lambda: ", ".join(request.plugins)), printing_to_stderr():
        for plugin in request.plugins:
            load_plugin(plugin)
    faults = [_fault_of(subject) for subject in subjects]
    checks: list[Check] = []
    console = open_console(stderr=request.json == STDOUT, highlight=False)
    try:
        for subject, fault in zip(subjects, faults, strict=True):
            failed = Check(subject.text, error=fault, seed=request.seed)
            checks.append(failed if fault else _check_one(subject, request))
            _print_check(console, checks[-1], _save(checks[-1], request))
            if checks[-1].interrupted:
                raise KeyboardInterrupt
    finally:
        if request.json is not None:
            _write_json(request.json, checks)
    return 0 if all(check.passed for check in checks) else _FAILED


def _fault_of(subject: Subject) -> str:
    """What is wrong with a strategy's module or constructor, which run here; "" if nothing is.

    Raises:
        HintbenchError: there is no such strategy, or it has no such parameter.
    """
    try:
        with watch(lambda: subject.text), printing_to_stderr():
            subject.maker()
    except PluginError as error:
        return str(error)
    return ""


def _check_one(subject: Subject, request: CheckRequest) -> Check:
    """Check one strategy with a progress bar on standard error."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total} schedules"),
        TimeElapsedColumn(),
    )
    progress = Progress(*columns, console=Console(stderr=True), transient=True)
    with progress, printing_to_stderr():
        task = progress.add_task(subject.text, total=request.schedules)
        return checking.check_strategy(
            subject,
            schedules=request.schedules,
            seconds=request.seconds,
            seed=request.seed,
            jobs=worker_count(request.jobs),
            stories=request.stories,
            on_progress=lambda begun: progress.update(task, completed=begun),
        )


def _print_check(console: Console, check: Check, files: dict[tuple[str, str], Path]) -> None:
    """One strategy's table, what was explored, and the stories."""
    table = Table(
        title=check.strategy + _cut_short(check), title_justify="left", box=None, pad_edge=False
    )
    table.add_column("rule", no_wrap=True)
    table.add_column("class", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    table.add_column("broken in", justify="right")
    table.add_column("why", overflow="fold")
    for each in check.verdicts:
        count = str(each.scenarios) if each.scenarios else ""
        mark = _MARKS[each.verdict]
        table.add_row(each.rule, RULES[each.rule].severity, mark, count, each.why)
    console.print(table)
    console.print(
        "class S: corruption or deadlock, L: progress, C: what the strategy itself claims"
    )
    exploration = check.exploration
    covered = [counted(exploration.coverage.get(name, 0), noun) for name, noun in _COVERED.items()]
    console.print(
        f"{counted(exploration.schedules, 'schedule')} ({exploration.with_reports:,} with reports)"
        f" from seed {check.seed} in {check.seconds:.1f} s: {', '.join(covered)}"
    )
    if check.failing(BROKEN) or exploration.error is not None:
        console.print(
            "stopped at the first fault that is not declared, so the other rules have seen no more"
            " than that; declare it, and they are explored to the end"
        )
    elif 0 < RARE * exploration.with_reports < exploration.schedules:
        console.print(
            "few schedules had a report, so little speaks for the rules that hold: smaller delays"
            " and thresholds in check_parameters let the strategy act more often"
        )
    if exploration.long_schedules:
        console.print(
            f"{exploration.long_schedules:,} of them with {OPERATIONS:,} operations and more,"
            f" {exploration.long_per_minute:,.0f} a minute and core; reports in the median one:"
            f" {exploration.median_reports}"
        )
    if check.counterexamples:
        median = statistics.median(told.size for told in check.counterexamples)
        console.print(
            f"{counted(len(check.counterexamples), 'counterexample')}; the median one has"
            f" {_steps(median)}"
        )
    _print_races(console, check)
    for told in check.counterexamples:
        title = told.key[1] if told.key[0] == RACE else told.key[0]
        console.print(f"\n[bold]{title}[/], shrunk to {_steps(told.size)}:")
        for line in told.story:
            console.print(line, markup=False, soft_wrap=True)
        if told.key in files:
            console.print(
                f"again: hintbench replay {files[told.key]}", markup=False, soft_wrap=True
            )
    if check.error:
        console.print(f"\n{check.error}", markup=False, style="bold red")
    console.print(_summary(check), markup=False)
    console.print()


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
    broken, unshown = check.failing(BROKEN), check.failing(UNSHOWN)
    if check.error:
        return f"{check.strategy}: failed by its own fault"
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
    if untried := check.failing(UNTRIED):
        return f"{check.strategy}: claims {', '.join(untried)}, which was not shown"
    explored = check.exploration
    return (
        f"{check.strategy}: nothing found that it does not declare, in"
        f" {counted(explored.schedules, 'schedule')} of which {explored.with_reports:,} had reports"
    )


def _check_folder(folder: Path) -> None:
    """Find out whether a folder for counterexamples can be made, without making it.

    Raises:
        ResultFileError: it cannot, or nothing can be written to it.
    """
    nearest = next(each for each in (folder, *folder.absolute().parents) if each.exists())
    check_writable(str(nearest / "counterexample.json"), f"--save {folder}")


def _save(check: Check, request: CheckRequest) -> dict[tuple[str, str], Path]:
    """Write the counterexamples; where each went."""
    files = {}
    name = check.strategy.partition(",")[0].replace("/", "_").replace(":", "_")
    for told in check.counterexamples:
        kind = f"-{told.key[1]}" if told.key[1] else ""
        # Another seed, or other parameters, break the same rule in another way.
        digest = told.counterexample.sealed().checksum[:8]
        path = Path(request.save, f"{name}-{told.key[0]}{kind}-{digest}.json")
        told.counterexample.write(path)
        files[told.key] = path
    return files


def _write_json(target: str, checks: Sequence[Check]) -> None:
    """The figures for other programs."""
    content: dict[str, Any] = {
        "schema": 1,
        "hintbench": __version__,
        "checks": [
            {
                "strategy": check.strategy,
                "passed": check.passed,
                "error": check.error or check.idle,
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
                        "verdict": each.verdict,
                        "schedules": each.scenarios,
                        "why": each.why,
                    }
                    for each in check.verdicts
                },
                "counterexamples": [
                    {"rule": told.key[0], "kind": told.key[1], "steps": told.size}
                    for told in check.counterexamples
                ],
            }
            for check in checks
        ],
    }
    text = json.dumps(content, indent=1) + "\n"
    write_text(target, text)


def run_replay(path: str, trace: bool, plugins: tuple[str, ...] = ()) -> int:
    """Show a counterexample again; 0 when it shows the same violation with the same digest."""
    saved = read_counterexample(Path(path))
    subject = Subject(saved.strategy, tuple(saved.plugins)).located(Path(path), plugins)
    scenario = saved.scenario.scenario()
    make = subject.maker(scenario.own_constants)
    key = saved.rule, saved.kind
    lines, outcome = tell(make, scenario, key, everything=trace)
    for line in lines:
        typer.echo(line)
    violation = outcome.shown(key)
    if violation is not None:
        for line in describe_violation(violation):
            typer.echo(line)
    if outcome.error:
        raise HintbenchError(f"{path}: {outcome.error}")
    changed = source_hash(make) != saved.source
    because = ": its source has changed since" if changed else ""
    if violation is None:
        what = f"show {saved.kind}" if saved.rule == RACE else f"break {saved.rule}"
        typer.echo(f"{saved.strategy} does not {what} here any more{because}")
        return _FAILED
    if outcome.digest != saved.digest:
        typer.echo(f"digest {outcome.digest}, saved was {saved.digest}{because}")
        return _FAILED
    typer.echo(f"digest {outcome.digest}, as saved")
    return 0
