"""The conformance suite as a class: derive from it in any repository.

::

    from hintbench.testing import StrategyConformance
    from mine import Mine


    class TestMine(StrategyConformance):
        strategy = Mine

One test for each rule. A rule that the strategy declares to break is expected to be broken, and it
is a failure when no schedule breaks it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import pytest

from hintbench.config.defaults import (
    COUNTEREXAMPLES,
    SUITE_SCHEDULES,
    SUITE_SECONDS,
    TOO_FEW_PROPERTY,
)
from hintbench.errors import ResultFileError
from hintbench.strategy import Strategy
from hintbench.testing.checking import Check, check_here
from hintbench.testing.counterexamples.files import save_counterexample
from hintbench.testing.counterexamples.telling import shrink_and_tell
from hintbench.testing.rules import RULES
from hintbench.testing.subjects import Subject, subject_of
from hintbench.testing.verdicts import Verdict

SHRINK_SECONDS = 3.0


class StrategyConformance:
    """Holds one strategy to every rule.

    Attributes:
        strategy: the strategy's class, an instance, or a function that makes one.
        parameters: those it is explored with; they go before its `check_parameters`. A function is
            called with them.
        schedules: how many schedules are explored, at most.
        seconds: for how long, at most [wall s].
        seed: where they begin.
    """

    strategy: ClassVar[Any] = None
    parameters: ClassVar[dict[str, Any]] = {}
    schedules: ClassVar[int] = SUITE_SCHEDULES
    seconds: ClassVar[float] = SUITE_SECONDS
    seed: ClassVar[int] = 1

    @pytest.fixture
    def hintbench_case(self, request: pytest.FixtureRequest) -> Case:
        """The strategy, and how much of it is explored."""
        effort = Effort(self.schedules, self.seconds, self.seed).chosen(request.config)
        return Case(self._maker(), self._maker(full=True), effort, folder_of(request.config))

    @pytest.fixture
    def hintbench_check(self, hintbench_case: Case) -> Check:
        """The exploration, once for all rules."""
        return hintbench_case.check()

    def test_something_was_explored(
        self, hintbench_check: Check, record_property: Callable[[str, object], None]
    ) -> None:
        """A run that checked nothing fails."""
        expect_exploration(hintbench_check, record_property)

    @pytest.mark.parametrize("rule", RULES)
    def test_rule(self, rule: str, hintbench_case: Case) -> None:
        """One rule."""
        expect_rule(hintbench_case, rule)

    @classmethod
    def _maker(cls, full: bool = False) -> Callable[[], Strategy]:
        # From the class: a function that is looked up on an instance would be bound to it.
        return maker_of(cls.strategy, tuple(sorted(cls.parameters.items())), full)


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is explored.

    Attributes:
        schedules: how many schedules, at most.
        seconds: for how long, at most [wall s].
        seed: where they begin.
    """

    schedules: int
    seconds: float
    seed: int

    def chosen(self, config: pytest.Config) -> Effort:
        """The same, with what pytest's command line says instead."""
        return Effort(*(_option(config, name, getattr(self, name)) for name in Effort.__slots__))


@dataclass(frozen=True, slots=True)
class Case:
    """One strategy that is held to the rules.

    Attributes:
        make: makes an instance of it, for exploration.
        full_make: makes one with its own constants.
        effort: how much is explored.
        folder: where its counterexamples are saved.
        subject: how another process finds it; None to find that out.
    """

    make: Callable[[], Strategy]
    full_make: Callable[[], Strategy]
    effort: Effort
    folder: Path
    subject: Subject | None = None

    def check(self) -> Check:
        """The exploration, once however many tests ask."""
        return check_once(self.make, self.full_make, self.effort)


def folder_of(config: pytest.Config) -> Path:
    """Where counterexamples are saved."""
    return Path(config.getoption("--hintbench-save") or COUNTEREXAMPLES)


def _option(config: pytest.Config, name: str, otherwise: Any) -> Any:
    given = config.getoption(f"--hintbench-{name}")
    return otherwise if given is None else given


@cache
def maker_of(
    strategy: Any, parameters: tuple[tuple[str, Any], ...], full: bool = False
) -> Callable[[], Strategy]:
    """What makes instances of a strategy for exploration.

    Args:
        strategy: a class, an instance, or a function that makes one.
        parameters: that go before its `check_parameters`; a function is called with them.
        full: with its own default parameters, where the strategy is a class.
    """
    known = isinstance(strategy, Strategy) or (
        issubclass(strategy, Strategy) if isinstance(strategy, type) else callable(strategy)
    )
    if not known:
        pytest.fail(
            "set `strategy` to the class of the strategy that is to be checked, to an instance, or"
            f" to a function that makes one, not to {strategy!r}",
            pytrace=False,
        )
    given = dict(parameters)
    if isinstance(strategy, type):
        strategy_class: Any = strategy
        chosen = {**({} if full else strategy_class.check_parameters), **given}
        return lambda: strategy_class(**chosen)
    if callable(strategy):
        return lambda: strategy(**given)
    chosen = {**strategy.parameters.model_dump(), **given}
    return lambda: type(strategy)(**chosen)


@cache
def check_once(
    make: Callable[[], Strategy], full_make: Callable[[], Strategy], how: Effort
) -> Check:
    """Explore a strategy, once however many tests ask."""
    return check_here(make, full_make, schedules=how.schedules, seconds=how.seconds, seed=how.seed)


def expect_exploration(check: Check, record: Callable[[str, object], None]) -> None:
    """Fail when the strategy failed by its own fault, or nothing happened that could be checked.

    Args:
        check: what came of the exploration.
        record: is told when there were too few schedules to say that a rule holds.
    """
    if check.error:
        pytest.fail(f"{check.strategy}: {check.error}", pytrace=False)
    assert check.exploration.schedules > 0, "no schedule was explored"
    if check.idle:
        pytest.fail(f"{check.strategy} {check.idle}", pytrace=False)
    if check.few:
        more = "--hintbench-schedules, --hintbench-seconds"
        record(TOO_FEW_PROPERTY, f"{check.strategy}: {check.few} ({more})")


def expect_rule(case: Case, rule: str) -> None:
    """Fail when a rule is broken, or declared to be and is not."""
    check = case.check()
    if check.error:
        pytest.fail(f"{check.strategy}: {check.error}", pytrace=False)
    found = next(each for each in check.verdicts if each.rule == rule)
    schedules = f"{check.exploration.schedules:,} schedules"
    if found.verdict is Verdict.NOT_APPLICABLE:
        pytest.skip(f"{check.strategy} {found.why}")
    if found.verdict is Verdict.DECLARED:
        pytest.xfail(f"declared: {found.why}")
    if found.verdict is Verdict.UNSHOWN:
        pytest.fail(
            f"{check.strategy} declares to break {rule}, but none of {schedules} shows it",
            pytrace=False,
        )
    if found.verdict is Verdict.UNTESTED:
        pytest.fail(f"{check.strategy} claims {rule}, not shown: {found.why}", pytrace=False)
    if found.verdict is Verdict.UNEXPLORED:
        pytest.skip(f"{check.strategy}: no schedule could have broken it")
    if found.verdict is Verdict.SO_FAR and not check.few:
        pytest.skip(f"{check.strategy}: not broken in {schedules}, after which another rule was")
    if found.verdict is Verdict.BROKEN:
        pytest.fail("\n".join(_story(case, check, rule)), pytrace=False)


def _story(case: Case, check: Check, rule: str) -> list[str]:
    """How a rule was broken, as short as it can be told, and how to see it again."""
    found = check.exploration.found
    key = next(key for key in found if key[0] == rule)
    violation, scenario = found[key]
    if violation.cpu < 0 and not violation.time_ns:
        return [f"{check.strategy} breaks {rule}: {violation.text}"]
    make = case.full_make if scenario.own_constants else case.make
    subject = case.subject or subject_of(case.make, case.full_make)
    told = shrink_and_tell(subject or Subject(""), make, key, scenario, SHRINK_SECONDS)
    how = " with its own constants" if scenario.own_constants else ""
    lines = [f"{check.strategy} breaks {rule}{how}:", *told.story]
    if subject is None:
        return [*lines, "not saved: only this test can make the strategy, and replay could not"]
    try:
        file = save_counterexample(told.counterexample, case.folder)
    except ResultFileError as error:
        return [*lines, f"not saved: {error}"]
    return [*lines, f"again: hintbench replay {file}"]
