"""Checking strategies: explore each in its own processes, come to a verdict on every rule."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from pydantic import ValidationError

from hintbench.config.defaults import CHECK_SCHEDULES, CHECK_SECONDS
from hintbench.config.quantities import counted
from hintbench.errors import HintbenchError
from hintbench.plugins.binding import plugin_name
from hintbench.plugins.watchdog import watch
from hintbench.testing.comparisons import COMPARED, compare_digests
from hintbench.testing.counterexamples.telling import Told
from hintbench.testing.exploration import Exploration
from hintbench.testing.pool import COMPARE_SECONDS, Pool
from hintbench.testing.races import RACES, races_of
from hintbench.testing.rules import RULES
from hintbench.testing.runs.outcome import RACE
from hintbench.testing.subjects import Subject
from hintbench.testing.tasks import Task, Tasks, first_seed, tasks_of
from hintbench.testing.verdicts import RuleVerdict, Verdict, judge, too_few

if TYPE_CHECKING:
    from hintbench.strategy import Claims, Strategy
    from hintbench.testing.scenarios.scenario import Scenario

SHRINK_SECONDS: Final = 6.0
SHORT: Final = 12
"""Steps of a counterexample that need not be made shorter."""


@dataclass(slots=True)
class Progress:
    """How far an exploration has come, for whoever watches that it goes on.

    Attributes:
        progress: the number of scenarios begun.
    """

    progress: int = 0

    def note(self, _seed: int) -> bool:
        """One more has begun; go on."""
        self.progress += 1
        return True


@dataclass(slots=True)
class Check:
    """What came of checking one strategy.

    Attributes:
        strategy: as on the command line.
        verdicts: of every rule, in their order.
        exploration: what was explored.
        counterexamples: shrunk and told.
        error: the strategy's own fault; "" if none.
        seconds: wall time of all of it.
        seed: of the first scenario.
        races: by name, in how many schedules each race that concerns the strategy happened.
        interrupted: Ctrl-C has ended it.
        idle: why the check says nothing, since the strategy did nothing; "" if it did.
        few: why what nothing broke is not said to hold, though all was explored that was asked for;
            "" if it is.
    """

    strategy: str
    verdicts: list[RuleVerdict] = field(default_factory=list)
    exploration: Exploration = field(default_factory=Exploration)
    counterexamples: list[Told] = field(default_factory=list)
    error: str = ""
    seconds: float = 0.0
    seed: int = 1
    progress: Progress = field(default_factory=Progress)
    races: dict[str, int] = field(default_factory=dict)
    idle: str = ""
    few: str = ""
    interrupted: bool = False

    @property
    def passed(self) -> bool:
        """Whether nothing is broken but what is declared, and all of that, by one that reported."""
        if self.error or self.idle or self.interrupted:
            return False
        return not any(each.verdict.is_failure for each in self.verdicts)

    def failing(self, *verdicts: Verdict) -> list[str]:
        """The rules with one of some verdicts."""
        return [each.rule for each in self.verdicts if each.verdict in verdicts]

    def conclude(self, instance: Strategy) -> None:
        """Come to the verdicts on what was explored.

        Args:
            instance: of the strategy.
        """
        claims, declared = instance.claims(), dict(instance.declared_failures)
        unknown = sorted(set(declared) - set(RULES))
        if self.exploration.error is not None:
            self.error = self.error or self.exploration.error[0]
        if unknown:
            self.error = self.error or f"declares to fail {', '.join(unknown)}, which is no rule"
        if not (self.error or self.interrupted):
            self.idle = _idleness(self.exploration, claims, instance)
        cut_short = bool(self.error or self.interrupted or _undeclared(self.exploration, declared))
        if not (cut_short or self.idle):
            self.few = too_few(self.exploration, claims)
        self.verdicts = judge(self.exploration, claims, declared, cut_short)
        self.races = {race.name: 0 for race in races_of(instance)} | self.exploration.races


def check_strategy(
    subject: Subject,
    *,
    schedules: int = CHECK_SCHEDULES,
    seconds: float = CHECK_SECONDS,
    seed: int = 1,
    jobs: int = 1,
    stories: bool = True,
    on_progress: Callable[[int], None] | None = None,
) -> Check:
    """Check one strategy.

    Args:
        subject: which.
        schedules: how many scenarios to run, at most.
        seconds: how long to run them, at most [wall s].
        seed: of the first; the others follow.
        jobs: how many processes.
        stories: shrink and tell what is declared too, not only what is not.
        on_progress: called with the number of scenarios begun so far.

    Raises:
        HintbenchError: there is no such strategy.
    """
    began = time.perf_counter()
    instance = subject.instance()
    declared = dict(instance.declared_failures)
    check = Check(subject.text, seed=seed)
    pool = Pool(subject, max(1, jobs), on_progress, seconds)
    try:
        tasks = tasks_of(seed, schedules, seconds, pool.size)
        _explore(check, pool, [each for each in tasks if each[0] != "explore"], declared)
        if not _is_over(check, pool, declared):
            digests = pool.run_in_several(("digests", (first_seed(seed),)))
            if not (pool.error or pool.interrupted):
                check.exploration.merge(compare_digests(instance, first_seed(seed), digests))
        if not _is_over(check, pool, declared):
            _explore(check, pool, [each for each in tasks if each[0] == "explore"], declared)
        check.interrupted = pool.interrupted
        keys = [key for key in check.exploration.found if stories or key[0] not in declared]
        found = {key: check.exploration.found[key][1] for key in keys}
        found = {key: each for key, each in found.items() if key[0] not in COMPARED}
        if stories:
            raced = check.exploration.raced
            found.update({(RACE, name): raced[name][1] for name in RACES if name in raced})
        if not pool.interrupted:
            check.counterexamples = _shrunk(pool, found)
            check.interrupted = pool.interrupted
    finally:
        pool.close()
    check.error = pool.error
    check.conclude(instance)
    check.seconds = time.perf_counter() - began
    return check


def _is_over(check: Check, pool: Pool, declared: dict[str, str]) -> bool:
    """Whether nothing more is to be explored."""
    return bool(pool.error or pool.interrupted or _undeclared(check.exploration, declared))


def _explore(check: Check, pool: Pool, tasks: list[Task], declared: Iterable[str]) -> None:
    """Have some tasks done, and enter what comes of them; a fault ends all of them."""
    for answer in pool.run(tasks, stop=lambda found: _undeclared(found, declared)):
        check.exploration.merge(answer)


def check_here(
    make: Callable[[], Strategy],
    full_make: Callable[[], Strategy] | None = None,
    *,
    schedules: int = CHECK_SCHEDULES,
    seconds: float = CHECK_SECONDS,
    seed: int = 1,
) -> Check:
    """Check a strategy in this process, without counterexamples; for test suites.

    Args:
        make: makes an instance of it.
        full_make: makes one with its own constants; None when `make` does.
        schedules: how many scenarios to run, at most.
        seconds: how long to run them, at most [wall s].
        seed: of the first; the others follow.
    """
    began = time.perf_counter()
    instance = make()
    name = plugin_name(instance)
    check = Check(name, seed=seed)
    tasks = Tasks(lambda full: (full and full_make) or make, check.progress.note)
    try:
        for task, arguments in tasks_of(seed, schedules, seconds):
            limit = int(COMPARE_SECONDS) if task == "compare" else None
            with watch(lambda: name, lambda: check.progress.progress, limit_seconds=limit):
                check.exploration.merge(getattr(tasks, task)(*arguments))
            if check.exploration.error is not None:
                break
    except HintbenchError as error:
        check.error = str(error)
    check.conclude(instance)
    check.seconds = time.perf_counter() - began
    return check


def _shrunk(pool: Pool, found: dict[tuple[str, str], Scenario]) -> list[Told]:
    """Counterexamples for what was found, in its order.

    Each gets a little time, and what is then still long shares the rest.
    """
    told: dict[tuple[str, str], Told] = {}
    until = time.monotonic() + SHRINK_SECONDS
    waiting, each = found, max(0.3, SHRINK_SECONDS * pool.size / (3 * max(1, len(found))))
    while waiting:
        tasks: list[Task] = [("shrink", (key, scenario, each)) for key, scenario in waiting.items()]
        for answer in pool.run(tasks):
            told[answer.key] = answer
        left = until - time.monotonic()
        long = [each for each in told.values() if each.size > SHORT]
        if left <= 0 or not long or len(waiting) < len(found) or pool.error or pool.interrupted:
            break
        waiting = {each.key: each.counterexample.scenario.scenario() for each in long}
        each = max(0.3, left * pool.size / len(long))
    return [told[key] for key in found if key in told]


def _undeclared(found: Exploration, declared: Iterable[str]) -> bool:
    return found.error is not None or bool(set(found.counts) - set(declared))


def _idleness(explored: Exploration, claims: Claims, instance: Strategy) -> str:
    """Why an exploration says nothing of a strategy that did nothing in it; "" if it did."""
    if claims.reports_nothing:
        if explored.with_reports:
            reported = counted(explored.with_reports, "schedule")
            return f"claims to report nothing, and reported in {reported}"
        return ""
    if explored.with_reports:
        return ""
    nothing = f"reported nothing in any of {counted(explored.schedules, 'schedule')}"
    if chosen := _chosen(instance):
        return (
            f"{nothing} with {', '.join(chosen)}, so nothing was checked: a schedule has some"
            " milliseconds and 64 MiB, choose values with which it acts in these"
        )
    return (
        f"{nothing}, so nothing was"
        " checked: give it check_parameters that are small enough for some milliseconds on 64 MiB,"
        " or claims() with reports_nothing=True"
    )


def _chosen(instance: Strategy) -> list[str]:
    """The parameters with which somebody has it checked instead of those that it would choose."""
    parameters = instance.parameters
    try:
        usual = type(parameters).model_validate(dict(type(instance).check_parameters))
    except ValidationError:
        # It has none of its own that would do.
        return []
    return [
        f"{name}={value} (of itself: {getattr(usual, name)})"
        for name, value in parameters
        if value != getattr(usual, name)
    ]
