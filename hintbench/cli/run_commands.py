"""What `hintbench run` does, once the command line has been read."""

import re
from bisect import insort
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from hintbench.cli.printing import printing_to_stderr, warn_interpreted
from hintbench.cli.report import Row, print_comparison
from hintbench.cli.report_notes import open_console, print_conditions
from hintbench.config import defaults
from hintbench.config.experiment import Experiment
from hintbench.config.explain import explain
from hintbench.config.guest import load_guest
from hintbench.config.specs import PluginSpec
from hintbench.errors import ParameterError, ResultFileError, UsageError
from hintbench.matrix import Failure, Outcome, check, run_experiment
from hintbench.plugins.places import class_at, split_place
from hintbench.results.files import STDOUT, ResultWriter
from hintbench.results.result import Result, with_ratios
from hintbench.workers import worker_count

_INTERRUPTED: Final = 130
_MOST_SEEDS: Final = 1000


@dataclass(frozen=True, slots=True)
class RunRequest:
    """What `hintbench run` was asked for; empty or None is the default.

    Attributes:
        strategies: Each as ``NAME[,key=value...]``, or with its place instead of its name:
            ``FILE.py``, ``FILE.py:Class`` or ``module:Class``.
        workloads: The same, or ``trace:PATH[,key=value...]``.
        guest: A preset's name, or the path of a TOML file.
        memory: Replaces the guest's size.
        vcpus: Replaces the guest's number of vCPUs.
        kernel: Replaces the guest's kernel preset.
        seeds: Seeds of all random choices.
        seed_count: Run so many seeds, from the one in `seeds` on.
        json: Path of a result file.
        jobs: Number of worker processes.
        plugins: Plugins to load.
        attached_but_off: Attach every strategy but switch it off.
    """

    strategies: tuple[str, ...] = ()
    workloads: tuple[str, ...] = ()
    guest: str = defaults.GUEST
    memory: str | None = None
    vcpus: int | str | None = None
    kernel: str | None = None
    seeds: tuple[int | str, ...] = ()
    seed_count: int | str | None = None
    json: str | None = None
    jobs: int | str | None = None
    plugins: tuple[str, ...] = ()
    attached_but_off: bool = False

    def experiment(self) -> Experiment:
        """Turn the request into an experiment.

        Raises:
            HintbenchError: When something in it is wrong.
        """
        strategies = self.strategies or defaults.STRATEGIES
        workloads = self.workloads or defaults.WORKLOADS
        guest = load_guest(self.guest, memory=self.memory, vcpus=self.vcpus, kernel=self.kernel)
        plugins = list(self.plugins)
        try:
            return Experiment.model_validate(
                {
                    "strategies": [_spec(text, "strategy", plugins) for text in strategies],
                    "workloads": [_spec(text, "workload", plugins) for text in workloads],
                    "seeds": self._all_seeds(),
                    "guest": guest,
                    "plugins": tuple(dict.fromkeys(plugins)),
                    "attached_but_off": self.attached_but_off,
                }
            )
        except ValidationError as error:
            # Seeds are a list there, and an option each on the command line.
            text = re.sub(r"\bseeds\[\d+\]", "--seed", explain(error, "", Experiment))
            raise ParameterError(text) from None

    def _all_seeds(self) -> tuple[int | str, ...]:
        """The seeds that were named, or as many as were asked for."""
        seeds = self.seeds or (defaults.SEED,)
        if self.seed_count is None:
            return seeds
        if len(seeds) > 1:
            raise UsageError("-n and --seed: give the number of seeds or each of them, not both")
        count, first = str(self.seed_count), str(seeds[0])
        if not count.isdecimal() or not 1 <= int(count) <= _MOST_SEEDS:
            raise UsageError(f"-n: {count!r} is not a number in 1..{_MOST_SEEDS}")
        # What is wrong with the first seed is said where every seed is looked at.
        return tuple(range(int(first), int(first) + int(count))) if first.isdecimal() else seeds


def _spec(text: str, kind: str, plugins: list[str]) -> PluginSpec:
    """Read how a strategy or workload is named; where it stands becomes one more plugin."""
    head, comma, rest = text.partition(",")
    place = split_place(head, kind)
    if place is None:
        return PluginSpec.parse(text, kind)
    plugins.append(place[0])
    return PluginSpec.parse(f"{class_at(kind, *place).name}{comma}{rest}", kind)


def run_comparison(request: RunRequest, debug: bool = False) -> int:
    """Run a comparison with a progress bar, and print its table.

    Args:
        request: What is compared.
        debug: Print the tracebacks of failed cells.

    Returns:
        The exit status: 0, or 130 after Ctrl-C, or what the failed cells ask for.

    Raises:
        HintbenchError: When the request is wrong; nothing has been run then.
    """
    with printing_to_stderr():
        experiment = request.experiment()
    jobs = worker_count(request.jobs)
    with printing_to_stderr():
        check(experiment)
    file = _KeptResults(request.json)
    outcomes: list[Outcome] = []
    order = {str(cell): place for place, cell in enumerate(experiment.cells())}
    status = 0
    try:
        with printing_to_stderr(), _Bar(len(order)) as bar:

            def keep(outcome: Outcome) -> None:
                # Results stand in the order of the cells, however they came in.
                insort(outcomes, outcome, key=lambda outcome: order[str(outcome.cell)])
                if outcome.result is not None:
                    file.update(_results(outcomes))
                bar.advance(str(outcome.cell))

            run_experiment(experiment, jobs, keep)
    except KeyboardInterrupt:
        status = _INTERRUPTED
    file.update(_results(outcomes))
    file.close()
    _print_outcomes(outcomes, request.guest, experiment, to_stderr=request.json == STDOUT)
    warn_interpreted()
    if status == _INTERRUPTED:
        finished = len(_results(outcomes))
        _say(f"interrupted: {finished} of {len(order)} cells are finished")
    failed = _report_failures(outcomes, debug)
    if file.error is not None:
        _say(str(file.error))
        failed = max(failed, file.error.exit_status)
    return status or failed


class _KeptResults:
    """The result file of a comparison, if there is one.

    A disk that fills up half-way costs the file: the comparison goes on, and its table is printed.
    """

    def __init__(self, path: str | None) -> None:
        self._writer = ResultWriter(path) if path is not None else None
        self.error: ResultFileError | None = None

    def update(self, results: Sequence[Result]) -> None:
        """Take the results so far."""
        if self._writer is not None:
            try:
                self._writer.update(results)
            except ResultFileError as error:
                self.error = error

    def close(self) -> None:
        """Write what has not been written; the last attempt decides whether there is an error."""
        if self._writer is not None:
            try:
                self._writer.close()
            except ResultFileError as error:
                self.error = error
            else:
                self.error = None


class _Bar:
    """The progress bar on standard error; silent where that is no terminal."""

    def __init__(self, cells: int) -> None:
        console = Console(stderr=True)
        self._progress = Progress(
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.description}"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task("simulating", total=cells)

    def __enter__(self) -> "_Bar":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def advance(self, finished: str) -> None:
        """Count one cell, and name it."""
        self._progress.update(self._task, advance=1, description=f"finished {finished}")


def _results(outcomes: Iterable[Outcome]) -> list[Result]:
    return [outcome.result for outcome in outcomes if outcome.result is not None]


def _print_outcomes(
    outcomes: Sequence[Outcome], guest: str, experiment: Experiment, to_stderr: bool
) -> None:
    """Print the table of what was finished, if anything was."""
    compared = iter(with_ratios(_results(outcomes)))
    rows = [
        Row(
            workload=str(outcome.cell.workload),
            strategy=str(outcome.cell.strategy),
            result=next(compared) if outcome.result is not None else None,
            name=outcome.cell.strategy.name,
        )
        for outcome in outcomes
    ]
    if any(row.result is not None for row in rows):
        console = open_console(stderr=to_stderr)
        off = experiment.attached_but_off
        print_conditions(console, guest, experiment.guest, experiment.seeds, off)
        print_comparison(console, rows)


def _report_failures(outcomes: Sequence[Outcome], debug: bool) -> int:
    """Print each failure once, and choose the exit status."""
    failed: dict[str, tuple[Failure, list[str]]] = {}
    skipped = 0
    for outcome in outcomes:
        if outcome.repeated and outcome.result is not None:
            _say(
                f"note: a worker process {outcome.repeated}; {outcome.cell} was repeated in another"
            )
        if outcome.failure is not None:
            failure = outcome.failure
            failed.setdefault(failure.message, (failure, []))[1].append(str(outcome.cell))
        elif outcome.result is None:
            skipped += 1
    for failure, cells in failed.values():
        if debug:
            typer.echo(failure.details, err=True)
        more = f" and {len(cells) - 1} more" if len(cells) > 1 else ""
        where = f" (running {cells[0]}{more})" if len(outcomes) > 1 else ""
        _say(failure.message + where)
    if skipped:
        _say(f"{skipped} further cells of the failed plugins were left out")
    # Wrong input goes first: whoever mends it should not look for a fault in a plugin.
    return max((failure.exit_status for failure, _ in failed.values()), default=0)


def _say(message: str) -> None:
    typer.echo(f"hintbench: {message}", err=True)
