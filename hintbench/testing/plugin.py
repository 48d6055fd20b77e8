"""The pytest plugin: options for the conformance suite.

It is loaded in everybody's pytest run, so it imports pytest and nothing else; what it offers is
imported when a test of the suite runs.
"""

from __future__ import annotations

import argparse

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options of ``pytest --pyargs hintbench.testing.suite``."""
    group = parser.getgroup("hintbench", "hintbench: conformance of free page hinting strategies")
    group.addoption(
        "--strategy",
        action="append",
        default=[],
        metavar="NAME|FILE.py|module:Class",
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
    pytest.register_assert_rewrite("hintbench.testing.suite", "hintbench.testing.conformance")
