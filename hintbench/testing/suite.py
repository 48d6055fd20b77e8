"""The conformance suite for strategies given on the command line.

``pytest --pyargs hintbench.testing.suite --strategy NAME|FILE.py[:Class]|module:Class``
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import pytest

from hintbench.errors import HintbenchError
from hintbench.testing.checking import Check
from hintbench.testing.conformance import (
    Case,
    Effort,
    StrategyConformance,
    expect_exploration,
    expect_rule,
    folder_of,
)
from hintbench.testing.rules import RULES
from hintbench.testing.subjects import Subject

if TYPE_CHECKING:
    from collections.abc import Callable

    from hintbench.strategy import Strategy


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One set of tests for each strategy."""
    strategies = check_strategies(metafunc.config)
    if "subject" in metafunc.fixturenames:
        metafunc.parametrize("subject", strategies, scope="module")


def check_strategies(config: pytest.Config) -> list[str]:
    """The strategies of the command line, each of which can be made.

    Raises:
        pytest.UsageError: There is none, or one cannot be found, loaded or made.
    """
    strategies: list[str] = config.getoption("--strategy")
    if not strategies:
        raise pytest.UsageError("hintbench.testing.suite: name what to check with --strategy NAME")
    for strategy in strategies:
        try:
            _maker_of(strategy)
        except HintbenchError as error:
            raise pytest.UsageError(f"--strategy {strategy}: {error}") from None
    return strategies


@cache
def _maker_of(subject: str, full: bool = False) -> Callable[[], Strategy]:
    # The same function for the same subject: what is explored once is found again by it.
    return Subject(subject).maker(full)


@pytest.fixture(scope="module")
def hintbench_case(subject: str, request: pytest.FixtureRequest) -> Case:
    """The strategy, and how much of it is explored."""
    usual = StrategyConformance
    effort = Effort(usual.schedules, usual.seconds, usual.seed).chosen(request.config)
    makers = _maker_of(subject), _maker_of(subject, full=True)
    return Case(*makers, effort, folder_of(request.config), Subject(subject))


@pytest.fixture(scope="module")
def hintbench_check(hintbench_case: Case) -> Check:
    """The exploration, once for all rules."""
    return hintbench_case.check()


def test_something_was_explored(
    hintbench_check: Check, record_property: Callable[[str, object], None]
) -> None:
    """A run that checked nothing fails."""
    expect_exploration(hintbench_check, record_property)


@pytest.mark.parametrize("rule", RULES)
def test_rule(rule: str, hintbench_case: Case) -> None:
    """One rule."""
    expect_rule(hintbench_case, rule)
