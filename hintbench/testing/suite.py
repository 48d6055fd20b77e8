"""The conformance suite for strategies given on the command line.

``pytest --pyargs hintbench.testing.suite --strategy NAME|FILE.py|module:Class``
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from hintbench.testing.checking import Check
from hintbench.testing.conformance import (
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

_makers: dict[str, Callable[[], Strategy]] = {}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One set of tests for each strategy."""
    strategies = metafunc.config.getoption("--strategy")
    if not strategies:
        raise pytest.UsageError("hintbench.testing.suite: name what to check with --strategy NAME")
    if "subject" in metafunc.fixturenames:
        metafunc.parametrize("subject", strategies, scope="module")


@pytest.fixture(scope="module")
def hintbench_maker(subject: str) -> Callable[[], Strategy]:
    """What makes instances of the strategy."""
    if subject not in _makers:
        _makers[subject] = Subject(subject).maker()
    return _makers[subject]


@pytest.fixture(scope="module")
def hintbench_check(
    hintbench_maker: Callable[[], Strategy], request: pytest.FixtureRequest
) -> Check:
    """The exploration, once for all rules."""
    option = request.config.getoption
    return check_once(
        hintbench_maker,
        option("--hintbench-schedules") or StrategyConformance.schedules,
        option("--hintbench-seconds") or StrategyConformance.seconds,
        option("--hintbench-seed") or StrategyConformance.seed,
    )


def test_something_was_explored(hintbench_check: Check) -> None:
    """A run that checked nothing fails."""
    expect_exploration(hintbench_check)


@pytest.mark.parametrize("rule", RULES)
def test_rule(rule: str, hintbench_check: Check, hintbench_maker: Callable[[], Strategy]) -> None:
    """One rule."""
    expect_rule(hintbench_check, rule, hintbench_maker)
