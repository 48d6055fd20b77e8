"""Every mutant is refuted by the rules it breaks and by no other; no correct strategy is."""

from __future__ import annotations

import statistics
from collections.abc import Callable

import pytest

from hintbench.plugins.finding import find_strategy
from hintbench.strategy import Strategy
from hintbench.testing.checking import check_here
from hintbench.testing.comparisons import compare
from hintbench.testing.exploration import Exploration, explore, explore_handfuls
from hintbench.testing.mutants import BASES, MUTANTS
from hintbench.testing.rules import RULES

COMPARED = {"deterministic", "off-is-none", "any-pfn"}
"""Rules that single runs cannot break; they compare several."""
MOST_SCHEDULES = 400
SEED_BASES = 2
ALL_SEED_BASES = 20
SCHEDULES = 60
ALL_SCHEDULES = 200

CORRECT: dict[str, Callable[[], Strategy]] = {base.name: base for base in BASES}
for _name in ("none", "oracle", "bitmap-and-spin", "zone-confined-batching"):
    _class = find_strategy(_name)
    CORRECT[_name] = lambda _class=_class: _class(**_class.check_parameters)

CASES = [
    pytest.param(name, rule, id=f"{name}-{rule}")
    for name, mutant in MUTANTS.items()
    for rule in mutant.breaks
    if rule not in COMPARED and not mutant.rare
]
RARE = [name for name, mutant in MUTANTS.items() if mutant.rare]


def refute(name: str, rule: str, base: int) -> Exploration:
    """Explore until a rule is broken; what else the mutant breaks does not end it."""
    mutant = MUTANTS[name]
    others = {*mutant.breaks, *mutant.may_break} - {rule}

    def make() -> Strategy:
        made = mutant(**mutant.check_parameters)
        made.declared_failures = dict.fromkeys(others, "another subject")
        return made

    first = base * 10_000
    seeds = range(first, first + MOST_SCHEDULES)
    # A check has both kinds of scenarios, in this order.
    exploration = explore_handfuls(make, seeds)
    if rule not in exploration.counts and exploration.error is None:
        exploration.merge(explore(make, seeds))
    return exploration


def check_refuted(name: str, rule: str, bases: int) -> list[Exploration]:
    mutant = MUTANTS[name]
    explorations = [refute(name, rule, base) for base in range(1, bases + 1)]
    for exploration in explorations:
        assert exploration.error is None
        assert rule in exploration.counts
        assert set(exploration.counts) <= {*mutant.breaks, *mutant.may_break}
    return explorations


def test_every_rule_has_a_mutant():
    assert {rule for mutant in MUTANTS.values() for rule in mutant.breaks} == set(RULES)


def test_there_are_enough_mutants():
    assert len(MUTANTS) >= 30
    for mutant in MUTANTS.values():
        assert set(mutant.may_break) <= set(RULES)
        assert not mutant.declared_failures


@pytest.mark.parametrize(("name", "rule"), CASES)
def test_a_mutant_is_refuted(name, rule):
    check_refuted(name, rule, SEED_BASES)


@pytest.mark.long
@pytest.mark.parametrize(("name", "rule"), CASES)
def test_a_mutant_is_refuted_from_any_seed(name, rule):
    explorations = check_refuted(name, rule, ALL_SEED_BASES)
    assert statistics.median(each.seconds for each in explorations) <= 5


@pytest.mark.long
@pytest.mark.parametrize("name", RARE)
@pytest.mark.parametrize("seed", range(1, 6))
def test_a_rare_mutant_is_refuted_by_a_whole_check(name, seed):
    mutant = MUTANTS[name]
    check = check_here(lambda: mutant(**mutant.check_parameters), seed=seed)
    broken = set(check.failing("broken"))
    assert broken & {*mutant.breaks}
    assert broken <= {*mutant.breaks, *mutant.may_break}
    assert check.error == ""


COMPARISONS = [
    pytest.param(name, rule, id=f"{name}-{rule}")
    for name, mutant in MUTANTS.items()
    for rule in mutant.breaks
    if rule in COMPARED
]


def check_refuted_by_comparisons(name: str, rule: str, bases: int) -> None:
    for base in range(1, bases + 1):
        found = compare(MUTANTS[name], base * 1_000_000)
        assert found.error is None
        assert set(found.counts) == {rule}


@pytest.mark.parametrize(("name", "rule"), COMPARISONS)
def test_a_mutant_is_refuted_by_the_comparisons(name, rule):
    check_refuted_by_comparisons(name, rule, SEED_BASES)


@pytest.mark.long
@pytest.mark.parametrize(("name", "rule"), COMPARISONS)
def test_a_mutant_is_refuted_by_the_comparisons_from_any_seed(name, rule):
    check_refuted_by_comparisons(name, rule, ALL_SEED_BASES)


def test_every_comparison_has_a_mutant():
    assert {rule for case in COMPARISONS for rule in case.values[1:]} == COMPARED


@pytest.mark.parametrize("name", CORRECT)
def test_a_correct_strategy_stands_the_comparisons(name):
    for base in range(1, 4):
        found = compare(CORRECT[name], base * 1_000_000)
        assert (found.counts, found.error) == ({}, None)


@pytest.mark.parametrize("name", CORRECT)
def test_a_correct_strategy_is_not_refuted(name):
    exploration = explore(CORRECT[name], range(1, SCHEDULES + 1), stop=False)
    assert (exploration.counts, exploration.error) == ({}, None)


@pytest.mark.long
@pytest.mark.parametrize("name", CORRECT)
def test_a_correct_strategy_is_not_refuted_by_many(name):
    exploration = explore(CORRECT[name], range(1, ALL_SCHEDULES + 1), stop=False)
    assert (exploration.counts, exploration.error) == ({}, None)
