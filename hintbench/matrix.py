"""Running a comparison: every cell in this process, or in several workers side by side.

A cell's result does not depend on where it ran. Whatever happens to one cell, be it an exception in
a plugin or a worker that is killed, the others go on and finished results are kept.
"""

import contextlib
import signal
import traceback
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from hintbench.config.experiment import Cell, Experiment
from hintbench.config.guest import GuestConfig
from hintbench.errors import HintbenchError, InternalError, PluginError, WorkerError, describe
from hintbench.plugins.finding import find_strategy, find_workload, load_plugin, make
from hintbench.results.result import Result
from hintbench.workers import SECONDS_TO_END, end_all, start_worker


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a cell has no result.

    Attributes:
        message: One sentence.
        exit_status: What the command line ends with: 2 for wrong input, 1 for anything else.
        plugin: The plugin at fault, or "".
        details: The traceback, for ``--debug``.
    """

    message: str
    exit_status: int
    plugin: str = ""
    details: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one cell: a result or a failure, or neither when it was left out.

    Attributes:
        cell: The cell.
        result: Its result.
        failure: Why it has none.
        repeated: How the worker process ended that had begun it first, if it was begun twice.
    """

    cell: Cell
    result: Result | None = None
    failure: Failure | None = None
    repeated: str = ""


OnOutcome = Callable[[Outcome], None]


@dataclass(frozen=True, slots=True)
class _Setting:
    """What all cells of an experiment share; travels to a worker once."""

    guest: GuestConfig
    plugins: tuple[str, ...]
    attached_but_off: bool


@dataclass(slots=True)
class _Worker:
    """A worker process, the cell that it is busy with, and how that one's first worker ended."""

    process: BaseProcess
    connection: "Connection[Any, Any]"
    cell: Cell
    repeated: str = ""

    def send(self, cell: Cell | None) -> None:
        """Give it a cell, or None to end it."""
        # If it has died by now, waiting for its answer will show that.
        with contextlib.suppress(OSError):
            self.connection.send(cell)

    def receive(self) -> Outcome | None:
        """Take its answer, or None when it died without one."""
        try:
            outcome = self.connection.recv()
        except (EOFError, OSError):
            self.process.join(SECONDS_TO_END)
            return None
        return outcome if isinstance(outcome, Outcome) else None


def check(experiment: Experiment) -> None:
    """Find wrong names and parameters before any time is spent.

    Args:
        experiment: What is to be run.

    Raises:
        UnknownNameError: No plugin has that name.
        ParameterError: A parameter is wrong.
        PluginError: A plugin cannot be loaded or made.
    """
    for plugin in experiment.plugins:
        load_plugin(plugin)
    for spec in experiment.strategies:
        make("strategy", find_strategy(spec.name), spec.parameters)
    for spec in experiment.workloads:
        make("workload", find_workload(spec.name), spec.parameters)


def run_experiment(
    experiment: Experiment, jobs: int = 1, on_outcome: OnOutcome | None = None
) -> list[Outcome]:
    """Run every cell of an experiment.

    A plugin that has failed in one cell is not tried in further ones.

    Args:
        experiment: What is to be run.
        jobs: Number of worker processes; 1 runs everything in this one.
        on_outcome: Called for each cell as it ends, in the order in which they end.

    Returns:
        The outcomes in the order of `Experiment.cells`, whatever `jobs` is.

    Raises:
        KeyboardInterrupt: As it comes; workers have been ended by then.
    """
    cells = {str(cell): cell for cell in experiment.cells()}
    setting = _Setting(experiment.guest, experiment.plugins, experiment.attached_but_off)
    outcomes: dict[str, Outcome] = {}
    failed_plugins: set[str] = set()

    def keep(outcome: Outcome) -> None:
        outcomes[str(outcome.cell)] = outcome
        if outcome.failure is not None and outcome.failure.plugin:
            failed_plugins.add(outcome.failure.plugin)
        if on_outcome is not None:
            on_outcome(outcome)

    def wanted(cell: Cell) -> bool:
        return failed_plugins.isdisjoint((cell.strategy.name, cell.workload.name))

    jobs = min(jobs, len(cells))
    if jobs <= 1:
        for cell in cells.values():
            keep(_simulate(cell, setting) if wanted(cell) else Outcome(cell))
    else:
        _Pool(setting, wanted, keep).run(cells.values(), jobs)
    return [outcomes[name] for name in cells]


class _Pool:
    """Hands cells to workers one at a time, and replaces a worker that dies.

    What it was busy with is begun once more, in the fresh worker: a run comes out the same, and
    whoever killed the first one (a person, a machine short of memory) may spare the second.

    A pool of `concurrent.futures` breaks as a whole when one worker is killed, and does not say
    which cell it was busy with.
    """

    def __init__(self, setting: _Setting, wanted: Callable[[Cell], bool], keep: OnOutcome) -> None:
        self._setting = setting
        self._wanted = wanted
        self._keep = keep
        self._cells: deque[Cell] = deque()
        self._workers: list[_Worker] = []

    def run(self, cells: Iterable[Cell], jobs: int) -> None:
        """Run all cells; return when the last one has ended."""
        self._cells.extend(cells)
        try:
            for _ in range(jobs):
                self._start_worker()
            while self._workers:
                ready = wait([worker.connection for worker in self._workers])
                for worker in tuple(self._workers):
                    if worker.connection in ready:
                        self._take_answer(worker)
        finally:
            end_all(worker.process for worker in self._workers)

    def _start_worker(self) -> None:
        """Start a worker on the next cell, if there is one."""
        cell = self._next_cell()
        if cell is not None:
            self._start_on(cell)

    def _start_on(self, cell: Cell, repeated: str = "") -> None:
        process, connection = start_worker(_work, self._setting)
        worker = _Worker(process, connection, cell, repeated)
        self._workers.append(worker)
        worker.send(cell)

    def _take_answer(self, worker: _Worker) -> None:
        """Keep what a worker has to say and give it the next cell."""
        outcome = worker.receive()
        if outcome is None:
            self._workers.remove(worker)
            if not worker.repeated:
                self._start_on(worker.cell, _ending(worker.process))
                return
            self._keep(Outcome(worker.cell, None, _death(worker), worker.repeated))
            self._start_worker()
            return
        self._keep(replace(outcome, repeated=worker.repeated))
        worker.repeated = ""
        cell = self._next_cell()
        worker.send(cell)
        if cell is None:
            self._workers.remove(worker)
            worker.process.join(SECONDS_TO_END)
        else:
            worker.cell = cell

    def _next_cell(self) -> Cell | None:
        while self._cells:
            cell = self._cells.popleft()
            if self._wanted(cell):
                return cell
            self._keep(Outcome(cell))
        return None


def _ending(process: BaseProcess) -> str:
    """How a worker ended: what follows "a worker process"."""
    code = process.exitcode
    if code is None or code >= 0:
        return f"ended with status {code}"
    name = signal.Signals(-code).name
    return f"was killed by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")


def _death(worker: _Worker) -> Failure:
    """Why a cell has no result whose second worker has died, too."""
    how = _ending(worker.process)
    error = WorkerError(f"a worker process {worker.repeated}, a second one {how}; try --jobs 1")
    return Failure(str(error), error.exit_status)


def _work(connection: "Connection[Any, Any]", setting: _Setting) -> None:
    """Body of a worker: simulate one cell after the other until there are no more."""
    # Ctrl-C reaches the whole group; the parent decides, and ends its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        while (cell := connection.recv()) is not None:
            connection.send(_simulate(cell, setting))
    except (EOFError, OSError):
        # The parent is gone, and nobody waits for a result.
        return


def _simulate(cell: Cell, setting: _Setting) -> Outcome:
    """Run one cell; whatever it raises becomes a failure."""
    try:
        return Outcome(cell, result=_run_cell(cell, setting))
    except HintbenchError as error:
        plugin = error.plugin if isinstance(error, PluginError) else ""
        return Outcome(cell, failure=Failure(str(error), error.exit_status, plugin, _traceback()))
    except MemoryError as error:
        message = f"not enough memory to simulate {cell}: {describe(error)}"
        return Outcome(cell, failure=Failure(message, WorkerError.exit_status, "", _traceback()))
    except (Exception, SystemExit) as error:
        message = f"internal error while running {cell}: {describe(error)}"
        return Outcome(cell, failure=Failure(message, InternalError.exit_status, "", _traceback()))


def _run_cell(cell: Cell, setting: _Setting) -> Result:
    from hintbench.named_run import run

    for plugin in setting.plugins:
        load_plugin(plugin)
    return run(
        strategy=make("strategy", find_strategy(cell.strategy.name), cell.strategy.parameters),
        workload=make("workload", find_workload(cell.workload.name), cell.workload.parameters),
        guest=setting.guest,
        seed=cell.seed,
        attached_but_off=setting.attached_but_off,
    )


def _traceback() -> str:
    return traceback.format_exc()
