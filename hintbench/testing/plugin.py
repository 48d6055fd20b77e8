"""The pytest plugin: options for the conformance suite.

It is loaded in everybody's pytest run, so it imports pytest and next to nothing else; what it
offers is imported when a test of the suite runs.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Final

import pytest

from hintbench.config.defaults import SUITE_SECONDS, TOO_FEW_PROPERTY

_SUITE: Final = "hintbench.testing.suite"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options of ``pytest --pyargs hintbench.testing.suite``."""
    group = parser.getgroup("hintbench", "hintbench: conformance of free page hinting strategies")
    group.addoption(
        "--strategy",
        action="append",
        default=[],
        metavar="NAME|FILE.py[:Class]|module:Class",
        help="a strategy that hintbench.testing.suite checks, with ,key=value...; repeatable",
    )
    group.addoption(
        "--hintbench-schedules",
        type=_positive_count,
        default=None,
        metavar="N",
        help="explore at most so many schedules of each strategy",
    )
    group.addoption(
        "--hintbench-seconds",
        type=_positive_seconds,
        default=None,
        metavar="S",
        help="explore each strategy for at most so many seconds",
    )
    group.addoption(
        "--hintbench-seed", type=_seed, default=None, metavar="N", help="where the schedules begin"
    )
    group.addoption(
        "--hintbench-save",
        type=_folder,
        default=None,
        metavar="FOLDER",
        help="where counterexamples are written (default: counterexamples)",
    )


def _folder(text: str) -> str:
    if Path(text).exists() and not Path(text).is_dir():
        raise argparse.ArgumentTypeError(f"{text!r} is not a folder")
    return text


def _positive_count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 on")
    return int(text)


def _positive_seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return seconds


def _seed(text: str) -> int:
    if not text.isdecimal() or int(text) >= 1 << 32:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number in 0..{(1 << 32) - 1}")
    return int(text)


def pytest_configure(config: pytest.Config) -> None:
    """Let assertions of the suite explain themselves."""
    pytest.register_assert_rewrite(_SUITE, "hintbench.testing.conformance")


def pytest_report_header(config: pytest.Config) -> str | None:
    """Say what is waited for: the first test of a strategy explores for all others."""
    strategies: list[str] = config.getoption("--strategy")
    if not strategies:
        return None
    seconds = config.getoption("--hintbench-seconds") or SUITE_SECONDS
    names = ", ".join(strategies)
    return f"hintbench: the first test of each explores for up to {seconds:g} s: {names}"


def pytest_sessionstart(session: pytest.Session) -> None:
    """Refuse strategies that cannot be had, where the suite is all that runs.

    What else is collected may make a strategy known or a module importable; the suite looks again
    when its own turn comes.

    Raises:
        pytest.UsageError: There is none, or not this one.
    """
    config = session.config
    is_worker = hasattr(config, "workerinput")
    alone = config.args and all(each.partition("::")[0] == _SUITE for each in config.args)
    if not alone or is_worker:
        return
    from hintbench.testing.suite import check_strategies

    check_strategies(config)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say of which strategies too little was explored: their tests pass, and prove nothing."""
    for report in terminalreporter.getreports("passed"):
        for name, text in report.user_properties:
            if name == TOO_FEW_PROPERTY:
                terminalreporter.write_line(f"hintbench: {text}", yellow=True)
