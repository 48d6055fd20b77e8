"""Exploring a strategy: many scenarios, each with all rules looking on."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Final, TypeVar

from hintbench.testing.checker import Checker
from hintbench.testing.races import races_of
from hintbench.testing.rules import RULES
from hintbench.testing.runs.explored import ExploredRun
from hintbench.testing.runs.outcome import Outcome, Violation
from hintbench.testing.scenarios.families import OPERATIONS, draw_scenario, is_busy, tiny_scenario
from hintbench.testing.scenarios.handfuls import handful_scenario
from hintbench.testing.scenarios.scenario import Scenario
from hintbench.testing.schedules.depth_first import enumerate_preemptions
from hintbench.testing.schedules.preemption import EDIT, HOLD, STEP

if TYPE_CHECKING:
    from hintbench.strategy import Strategy
    from hintbench.testing.races.race import Race

Key = TypeVar("Key")

DEPTH_FIRST: Final = 400
"""How many schedules a depth-first search tries: all with one preemption, some with two."""
COLLECT_EVERY: Final = 256
"""Runs between two collections of garbage, of which a run that was dismantled leaves little."""
DRAWN_AHEAD: Final = 16
"""So many scenarios are drawn in one go: what draws them is in the caches for all but the first."""


@dataclass(slots=True)
class Exploration:
    """What came of many scenarios.

    Attributes:
        schedules: how many were run.
        found: for every rule and kind the first violation, and the scenario that showed it.
        counts: by rule, in how many scenarios it was broken.
        error: the strategy's own fault, and the scenario.
        coverage: sums of what the runs held.
        races: by name, in how many scenarios each race happened.
        raced: for every race that happened the smallest scenario with it.
        watched: in how many scenarios races were looked for that follow pages; the others are
            looked for in all.
        with_reports: how many scenarios had at least one report.
        seconds: wall time.
        unshown: by rule, why it could not be put to the test.
        gates_open, gates_shut: how often the strategy's gate was open, and shut, when it was asked.
        long_seconds: CPU time of the schedules of `OPERATIONS` operations and more [s].
        long_reports: by number of reports, how many of those schedules had so many.
    """

    schedules: int = 0
    found: dict[tuple[str, str], tuple[Violation, Scenario]] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    error: tuple[str, Scenario] | None = None
    coverage: dict[str, int] = field(default_factory=dict)
    with_reports: int = 0
    watched: int = 0
    seconds: float = 0.0
    long_seconds: float = 0.0
    long_reports: dict[int, int] = field(default_factory=dict)
    races: dict[str, int] = field(default_factory=dict)
    raced: dict[str, tuple[Violation, Scenario]] = field(default_factory=dict)
    unshown: dict[str, str] = field(default_factory=dict)
    gates_open: int = 0
    gates_shut: int = 0

    def add(self, scenario: Scenario, outcome: Outcome, seconds: float = 0.0) -> None:
        """Enter one run, which took so long [CPU s]."""
        self.schedules += 1
        if len(scenario.operations) >= OPERATIONS:
            reports = outcome.coverage.get("reports", 0)
            self.long_reports[reports] = self.long_reports.get(reports, 0) + 1
            self.long_seconds += seconds
        for key, violation in outcome.violations.items():
            _keep_shorter(self.found, key, violation, scenario)
        for rule in outcome.counts:
            self.counts[rule] = self.counts.get(rule, 0) + 1
        if outcome.error and self.error is None:
            self.error = of_own_constants(scenario) + outcome.error, scenario
        for name, violation in outcome.races.items():
            self.races[name] = self.races.get(name, 0) + 1
            _keep_shorter(self.raced, name, violation, scenario)
        for name, count in outcome.coverage.items():
            self.coverage[name] = self.coverage.get(name, 0) + count
        self.with_reports += outcome.coverage.get("reports", 0) > 0
        self.gates_open += outcome.gates_open
        self.gates_shut += outcome.gates_shut

    @property
    def long_schedules(self) -> int:
        """How many of the schedules had `OPERATIONS` operations and more."""
        return sum(self.long_reports.values())

    @property
    def long_per_minute(self) -> float:
        """How many of those one core explores in a minute; 0 if there were none."""
        return 60 * self.long_schedules / self.long_seconds if self.long_seconds else 0.0

    @property
    def median_reports(self) -> int:
        """How many reports the median of those held."""
        left = (self.long_schedules + 1) // 2
        for reports, schedules in sorted(self.long_reports.items()):
            left -= schedules
            if left <= 0:
                return reports
        return 0

    def merge(self, other: Exploration) -> None:
        """Enter what somebody else explored."""
        self.schedules += other.schedules
        for key, (violation, scenario) in other.found.items():
            _keep_shorter(self.found, key, violation, scenario)
        for name, (violation, scenario) in other.raced.items():
            _keep_shorter(self.raced, name, violation, scenario)
        for mine, theirs in (
            (self.counts, other.counts),
            (self.coverage, other.coverage),
            (self.races, other.races),
        ):
            for name, count in theirs.items():
                mine[name] = mine.get(name, 0) + count
        for reports, schedules in other.long_reports.items():
            self.long_reports[reports] = self.long_reports.get(reports, 0) + schedules
        self.long_seconds += other.long_seconds
        self.unshown = other.unshown | self.unshown
        self.error = self.error or other.error
        self.with_reports += other.with_reports
        self.watched += other.watched
        self.gates_open += other.gates_open
        self.gates_shut += other.gates_shut
        self.seconds = max(self.seconds, other.seconds)


def of_own_constants(scenario: Scenario) -> str:
    """How a sentence begins on what happened in a scenario with the strategy's own constants."""
    return "with its own constants: " if scenario.own_constants else ""


def _keep_shorter(
    found: dict[Key, tuple[Violation, Scenario]], key: Key, violation: Violation, scenario: Scenario
) -> None:
    """Keep what is told in fewer steps, and with small parameters if there is a choice."""
    known = found.get(key)
    if known is None or _length(scenario) < _length(known[1]):
        found[key] = violation, scenario


def _length(scenario: Scenario) -> tuple[bool, int]:
    return scenario.own_constants, scenario.size


def checkers_for(strategy: Strategy) -> list[type[Checker]]:
    """The checkers of all rules that apply to a strategy."""
    claims = strategy.claims()
    found = [rule.checker for rule in RULES.values() if not rule.applies(claims)]
    return [checker for checker in found if checker is not None]


def run_scenario(
    make: Callable[[], Strategy],
    scenario: Scenario,
    tolerated: frozenset[str] | None = None,
    journal: Callable[[int, int, int, int, int], None] | None = None,
    told: Callable[[str, str], None] | None = None,
    stop_at: tuple[str, str] | None = None,
    attach: Callable[[ExploredRun], None] | None = None,
    races: Iterable[type[Race]] | None = None,
    checkers: Iterable[type[Checker]] | None = None,
) -> Outcome:
    """Run one scenario with a fresh instance of a strategy.

    Args:
        make: makes the instance.
        scenario: what happens.
        tolerated: rules whose violation does not end the run; None: those it declares.
        journal: called with every event of the history.
        told: called with what happens besides: preemptions, faults, violations.
        stop_at: rule and kind of the violation that ends the run even if tolerated.
        attach: called with the run before it begins.
        races: which races are looked for; None: all that concern the strategy.
        checkers: of which rules; None: of all that apply to the strategy.
    """
    strategy = make()
    if tolerated is None:
        tolerated = frozenset(strategy.declared_failures)
    if checkers is None:
        checkers = checkers_for(strategy)
    if races is None:
        races = races_of(strategy)
    run = ExploredRun(strategy, scenario, checkers, tolerated, journal, told, races)
    run.stop_at = stop_at
    if attach is not None:
        attach(run)
        return run.explore()
    run.origins = journal is not None or told is not None
    outcome = run.explore()
    run.dismantle()
    if outcome.forgotten and journal is None and told is None:
        # Keeping the line of every coroutine costs a schedule a tenth; few need them.
        run = ExploredRun(make(), scenario, checkers, tolerated, races=races)
        run.stop_at = stop_at
        outcome = run.explore()
        run.dismantle()
    if outcome.forgotten and not outcome.error:
        # With nothing that ends it before its end, it shows whether there is an await to come.
        run = ExploredRun(make(), scenario, checkers, frozenset(RULES))
        again = run.explore()
        run.dismantle()
        if again.forgotten and again.error.endswith(again.forgotten):
            return again
    return outcome


def explore(
    make: Callable[[], Strategy],
    seeds: Iterable[int],
    *,
    seconds: float | None = None,
    stop: bool = True,
    before: Callable[[int], bool] | None = None,
) -> Exploration:
    """Run scenario after scenario.

    Args:
        make: makes an instance of the strategy.
        seeds: of the scenarios, as many as shall be run.
        seconds: stop after so much wall time.
        stop: stop at the first violation that the strategy does not declare.
        before: called with each seed before its scenario is run; False ends the exploration.
    """
    scenarios = _drawn_ahead(seeds, type(make()).kernels)
    return explore_scenarios(make, scenarios, seconds=seconds, stop=stop, before=before)


def _drawn_ahead(seeds: Iterable[int], kernels: tuple[str, ...]) -> Iterator[tuple[int, Scenario]]:
    """Scenarios with their seeds, a few of which are drawn at once."""
    left = iter(seeds)
    while some := list(islice(left, DRAWN_AHEAD)):
        yield from [(seed, draw_scenario(seed, kernels)) for seed in some]


def search_depth_first(
    make: Callable[[], Strategy],
    seed: int,
    *,
    most: int = DEPTH_FIRST,
    seconds: float | None = None,
    stop: bool = True,
    before: Callable[[int], bool] | None = None,
) -> Exploration:
    """Try every way to be late at one point, then at two, of a tiny scenario.

    Args:
        make: makes an instance of the strategy.
        seed: of the scenario.
        most: how many schedules, at most.
        seconds: stop after so much wall time.
        stop: stop at the first violation that the strategy does not declare.
        before: called with the seed before each; False ends the search.
    """
    tiny = tiny_scenario(seed, type(make()).kernels)
    runs: list[ExploredRun] = []
    run_scenario(make, tiny, frozenset(RULES), attach=runs.append)
    passed = runs.pop().preemptions
    points = {STEP: int(passed.steps), HOLD: int(passed.holds), EDIT: int(passed.edits)}
    scenarios = (
        (seed, tiny.but(preemptions=preemptions))
        for preemptions in islice(enumerate_preemptions(points), most)
    )
    return explore_scenarios(make, scenarios, seconds=seconds, stop=stop, before=before)


def explore_handfuls(
    make: Callable[[], Strategy],
    seeds: Iterable[int],
    *,
    seconds: float | None = None,
    stop: bool = True,
    before: Callable[[int], bool] | None = None,
) -> Exploration:
    """Run scenarios of a handful of operations; arguments as `explore`."""
    kernels = type(make()).kernels
    scenarios = ((seed, handful_scenario(seed, kernels)) for seed in seeds)
    return explore_scenarios(make, scenarios, seconds=seconds, stop=stop, before=before)


def explore_scenarios(
    make: Callable[[], Strategy],
    scenarios: Iterable[tuple[int, Scenario]],
    *,
    seconds: float | None = None,
    stop: bool = True,
    before: Callable[[int], bool] | None = None,
) -> Exploration:
    """Run scenario after scenario; arguments as `explore`, scenarios each with its seed."""
    began = time.perf_counter()
    strategy = make()
    declared = frozenset(strategy.declared_failures)
    races, checkers = races_of(strategy), checkers_for(strategy)
    cheap = [race for race in races if not race.costly]
    exploration = Exploration()
    enabled = gc.isenabled()
    gc.disable()
    # What exists by now stays; without this every collection would look through it again.
    gc.freeze()
    ended = time.process_time()
    try:
        for number, (seed, scenario) in enumerate(scenarios):
            if before is not None and not before(seed):
                break
            calm = len(scenario.operations) >= OPERATIONS and not is_busy(seed)
            outcome = run_scenario(
                make, scenario, races=cheap if calm else races, checkers=checkers
            )
            exploration.watched += not calm
            # From the end of the one before it: drawing a scenario counts as well.
            started, ended = ended, time.process_time()
            exploration.add(scenario, outcome, ended - started)
            undeclared = set(outcome.counts) - declared
            if stop and (undeclared or outcome.error):
                break
            if number % COLLECT_EVERY == COLLECT_EVERY - 1:
                gc.collect()
            if seconds is not None and time.perf_counter() - began > seconds:
                break
    finally:
        gc.unfreeze()
        if enabled:
            gc.enable()
    exploration.seconds = time.perf_counter() - began
    return exploration
