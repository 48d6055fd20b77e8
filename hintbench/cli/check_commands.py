"""What `hintbench check` and `hintbench replay` do, once the command line has been read."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from hintbench.cli.check_report import Files, as_json, print_check
from hintbench.cli.printing import printing_to_stderr, warn_interpreted
from hintbench.cli.report_notes import open_console
from hintbench.config.defaults import CHECK_SCHEDULES, CHECK_SECONDS, COUNTEREXAMPLES
from hintbench.errors import PluginError, UsageError
from hintbench.plugins.finding import load_plugin
from hintbench.plugins.watchdog import watch
from hintbench.results.files import STDOUT, check_writable, write_text
from hintbench.testing import checking
from hintbench.testing.checking import Check
from hintbench.testing.counterexamples.files import (
    read_counterexample,
    save_counterexample,
    source_hash,
)
from hintbench.testing.counterexamples.stories import describe_violation, tell
from hintbench.testing.runs.outcome import RACE
from hintbench.testing.subjects import Subject
from hintbench.workers import worker_count

_FAILED: Final = 1


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
    schedules: int = CHECK_SCHEDULES
    seconds: float = CHECK_SECONDS
    seed: int = 1
    jobs: int | str | None = None
    json: str | None = None
    save: str = COUNTEREXAMPLES
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
    warn_interpreted()
    faults = [_fault_of(subject) for subject in subjects]
    checks: list[tuple[Check, Files]] = []
    console = open_console(stderr=request.json == STDOUT, highlight=False)
    try:
        for subject, fault in zip(subjects, faults, strict=True):
            failed = Check(subject.text, error=fault, seed=request.seed)
            check = failed if fault else _check_one(subject, request)
            checks.append((check, _save(check, request)))
            print_check(console, *checks[-1])
            if check.interrupted:
                raise KeyboardInterrupt
    finally:
        if request.json is not None:
            write_text(request.json, json.dumps(as_json(checks), indent=1) + "\n")
    return 0 if all(check.passed for check, _ in checks) else _FAILED


def _fault_of(subject: Subject) -> str:
    """What is wrong with a strategy's module or constructor, which run here; "" if nothing is.

    Raises:
        HintbenchError: there is no such strategy, or it has no such parameter.
    """
    try:
        with watch(lambda: subject.text), printing_to_stderr():
            subject.instance()
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
    console = Console(stderr=True)
    # In a file or a pipe all that would be left of it is an empty line.
    idle = not console.is_terminal
    progress = Progress(*columns, console=console, transient=True, disable=idle)
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


def _check_folder(folder: Path) -> None:
    """Find out whether a folder for counterexamples can be made, without making it.

    Raises:
        ResultFileError: it cannot, or nothing can be written to it.
    """
    nearest = next(each for each in (folder, *folder.absolute().parents) if each.exists())
    check_writable(str(nearest / "counterexample.json"), f"--save {folder}")


def _save(check: Check, request: CheckRequest) -> Files:
    """Write the counterexamples; where each went."""
    return {
        told.key: save_counterexample(told.counterexample, Path(request.save))
        for told in check.counterexamples
    }


def run_replay(path: str, trace: bool, plugins: tuple[str, ...] = ()) -> int:
    """Show a counterexample again; 0 when it shows the same violation with the same digest."""
    saved = read_counterexample(Path(path))
    subject = Subject(saved.strategy, tuple(saved.plugins)).located(Path(path), plugins)
    warn_interpreted()
    scenario = saved.scenario.scenario()
    with printing_to_stderr():
        make = subject.maker(scenario.own_constants)
    key = saved.rule, saved.kind
    with printing_to_stderr(), watch(lambda: subject.text):
        lines, outcome = tell(make, scenario, key, everything=trace)
    for line in lines:
        typer.echo(line)
    violation = outcome.shown(key)
    if violation is not None:
        for line in describe_violation(violation):
            typer.echo(line)
    if outcome.error:
        typer.echo(f"the strategy's own fault: {outcome.error}")
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
