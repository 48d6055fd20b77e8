"""The conformance suite for strategies given on the command line.

``pytest --pyargs hintbench.testing.suite --strategy NAME|FILE.py|module:Class``
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import pytest

from hintbench.errors import HintbenchError
from hintbench.testing.checking import Check
from hintbench.testing.conformance import (
    Effort,
    StrategyConformance,
    check_once,
    expect_exploration,
    expect_rule,
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


@pytest.fixture(scope="module")
def hintbench_maker(subject: str) -> Callable[[], Strategy]:
    """What makes instances of the strategy."""
    return _maker_of(subject)


@cache
def _maker_of(subject: str, full: bool = False) -> Callable[[], Strategy]:
    # The same function for the same subject: what is explored once is found again by it.
    return Subject(subject).maker(full)


@pytest.fixture(scope="module")
def hintbench_check(
    subject: str, hintbench_maker: Callable[[], Strategy], request: pytest.FixtureRequest
) -> Check:
    """The exploration, once for all rules."""
    usual = StrategyConformance
    how = Effort(usual.schedules, usual.seconds, usual.seed).chosen(request.config)
    return check_once(hintbench_maker, _maker_of(subject, full=True), how)


def test_something_was_explored(hintbench_check: Check) -> None:
    """A run that checked nothing fails."""
    expect_exploration(hintbench_check)


@pytest.mark.parametrize("rule", RULES)
def test_rule(
    rule: str, subject: str, hintbench_check: Check, hintbench_maker: Callable[[], Strategy]
) -> None:
    """One rule."""
    expect_rule(hintbench_check, rule, hintbench_maker, _maker_of(subject, full=True))
