"""Half of what `check` promises: no correct strategy is refuted, whatever its style."""

import pytest

from hintbench.testing.checking import check_here
from hintbench.testing.exploration import explore, explore_handfuls

from .correct import CORRECT

SCHEDULES = 40
ALL_SCHEDULES = 200
by_name = pytest.mark.parametrize("name", CORRECT)


def stands(name, schedules):
    make = CORRECT[name]
    for exploring in (explore_handfuls, explore):
        exploration = exploring(make, range(1, schedules + 1), stop=False)
        assert (exploration.counts, exploration.error) == ({}, None)
        assert exploration.schedules == schedules
        silent = make().claims().reports_nothing
        assert exploration.with_reports == 0 if silent else exploration.with_reports > schedules / 4


@by_name
def test_a_correct_strategy_is_not_refuted(name):
    stands(name, SCHEDULES)


@pytest.mark.long
@by_name
def test_a_correct_strategy_is_not_refuted_by_many(name):
    stands(name, ALL_SCHEDULES)


@pytest.mark.long
@by_name
@pytest.mark.parametrize("seed", range(2, 5))
def test_a_correct_strategy_passes_a_check(name, seed):
    check = check_here(CORRECT[name], schedules=60, seed=seed)
    assert (check.failing("broken"), check.error, check.passed) == ([], "", True)
