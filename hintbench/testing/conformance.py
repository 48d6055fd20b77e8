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
from typing import TYPE_CHECKING, Any, ClassVar

import pytest

from hintbench.testing.checking import (
    BROKEN,
    DECLARED,
    NOT_APPLICABLE,
    SO_FAR,
    UNEXPLORED,
    UNSHOWN,
    UNTRIED,
    Check,
    check_here,
)
from hintbench.testing.rules import RULES
from hintbench.testing.shrinking import shrink
from hintbench.testing.stories import describe_violation, tell

if TYPE_CHECKING:
    from hintbench.strategy import Strategy

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
    schedules: ClassVar[int] = 1_000
    seconds: ClassVar[float] = 20.0
    seed: ClassVar[int] = 1

    @pytest.fixture
    def hintbench_check(self, request: pytest.FixtureRequest) -> Check:
        """The exploration, once for all rules."""
        how = Effort(self.schedules, self.seconds, self.seed).chosen(request.config)
        return check_once(self._maker(), self._maker(full=True), how)

    def test_something_was_explored(self, hintbench_check: Check) -> None:
        """A run that checked nothing fails."""
        expect_exploration(hintbench_check)

    @pytest.mark.parametrize("rule", RULES)
    def test_rule(self, rule: str, hintbench_check: Check) -> None:
        """One rule."""
        expect_rule(hintbench_check, rule, self._maker(), self._maker(full=True))

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
    if strategy is None:
        pytest.fail("set `strategy` to the class of the strategy that is to be checked")
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


def expect_exploration(check: Check) -> None:
    """Fail when the strategy failed by its own fault, or nothing happened that could be checked."""
    if check.error:
        pytest.fail(f"{check.strategy}: {check.error}", pytrace=False)
    assert check.exploration.schedules > 0, "no schedule was explored"
    if check.idle:
        pytest.fail(f"{check.strategy} {check.idle}", pytrace=False)


def expect_rule(
    check: Check, rule: str, make: Callable[[], Strategy], full_make: Callable[[], Strategy]
) -> None:
    """Fail when a rule is broken, or declared to be and is not."""
    if check.error:
        pytest.fail(f"{check.strategy}: {check.error}", pytrace=False)
    verdict = next(each for each in check.verdicts if each.rule == rule)
    if verdict.verdict == NOT_APPLICABLE:
        pytest.skip(f"{check.strategy} {verdict.why}")
    if verdict.verdict == DECLARED:
        pytest.xfail(f"declared: {verdict.why}")
    if verdict.verdict == UNSHOWN:
        pytest.fail(
            f"{check.strategy} declares to break {rule}, but none of"
            f" {check.exploration.schedules} schedules shows it",
            pytrace=False,
        )
    if verdict.verdict == UNTRIED:
        pytest.fail(f"{check.strategy} claims {rule}, not shown: {verdict.why}", pytrace=False)
    if verdict.verdict == UNEXPLORED:
        pytest.skip(f"{check.strategy}: no schedule could have broken it")
    if verdict.verdict == SO_FAR:
        pytest.skip(
            f"{check.strategy}: not broken in {check.exploration.schedules} schedules, after which"
            " another rule was"
        )
    if verdict.verdict == BROKEN:
        pytest.fail("\n".join(_story(check, rule, make, full_make)), pytrace=False)


def _story(
    check: Check, rule: str, make: Callable[[], Strategy], full_make: Callable[[], Strategy]
) -> list[str]:
    """How a rule was broken, as short as it can be told."""
    found = check.exploration.found
    key = next(key for key in found if key[0] == rule)
    violation, scenario = found[key]
    if violation.cpu < 0 and not violation.time_ns:
        return [f"{check.strategy} breaks {rule}: {violation.text}"]
    if scenario.own_constants:
        make = full_make
    small = shrink(make, scenario, key, SHRINK_SECONDS)
    lines, outcome = tell(make, small, key)
    shown = outcome.violations.get(key, violation)
    how = " with its own constants" if scenario.own_constants else ""
    return [f"{check.strategy} breaks {rule}{how}:", *lines, *describe_violation(shown)]
