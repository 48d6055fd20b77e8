"""What a check of one strategy consists of: the same tasks wherever they are done."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from hintbench.testing.comparisons import compare, digests_of
from hintbench.testing.exploration import (
    DEPTH_FIRST,
    Exploration,
    explore,
    explore_handfuls,
    run_scenario,
    search_depth_first,
)
from hintbench.testing.scenarios.families import full_scenario

if TYPE_CHECKING:
    from hintbench.strategy import Strategy

FULL_SCENARIOS: Final = 2
"""How many scenarios are run with a strategy's own constants."""

Task = tuple[str, tuple[Any, ...]]
"""The name of a method of `Tasks`, and its arguments."""


def first_seed(seed: int) -> int:
    """The first scenario's seed, of the seed that a user names."""
    return 1_000_000 * seed


def tasks_of(seed: int, schedules: int, seconds: float, parts: int = 1) -> list[Task]:
    """What has to be done to check a strategy.

    Args:
        seed: as a user names it.
        schedules: how many scenarios to explore, at most; short ones come on top.
        seconds: how long to explore them, at most [wall s].
        parts: how many may be explored side by side.
    """
    first = first_seed(seed)
    # What ends soonest and is told shortest comes first.
    handfuls = range(first, first + max(1, schedules // 2))
    most = max(1, min(DEPTH_FIRST, schedules // 4))
    explored = [range(first + part, first + schedules, parts) for part in range(parts)]
    return [
        ("handfuls", (handfuls, seconds / 4)),
        ("compare", (first,)),
        ("search", (first, most, seconds / 4)),
        *(("explore", (seeds, seconds)) for seeds in explored),
    ]


@dataclass(slots=True)
class Tasks:
    """Does the tasks, one after the other.

    Attributes:
        maker: gives what makes instances of the strategy: for exploration, or, when called with
            True, with the strategy's own constants.
        before: called with each seed before its scenario is run; False ends the task.
    """

    maker: Callable[[bool], Callable[[], Strategy]]
    before: Callable[[int], bool]

    def explore(self, seeds: range, seconds: float) -> Exploration:
        """Scenario after scenario."""
        return explore(self.maker(False), seeds, seconds=seconds, before=self.before)

    def handfuls(self, seeds: range, seconds: float) -> Exploration:
        """Scenarios of a handful of operations."""
        return explore_handfuls(self.maker(False), seeds, seconds=seconds, before=self.before)

    def search(self, seed: int, most: int, seconds: float) -> Exploration:
        """Every way to be late in a tiny scenario."""
        return search_depth_first(
            self.maker(False), seed, most=most, seconds=seconds, before=self.before
        )

    def compare(self, seed: int) -> Exploration:
        """Comparisons of runs, and scenarios with the strategy's own constants."""
        found = compare(self.maker(False), seed)
        make = self.maker(True)
        kernels = make().kernels
        for number in range(seed, seed + FULL_SCENARIOS):
            if not self.before(number):
                break
            scenario = full_scenario(number, kernels)
            found.add(scenario, run_scenario(make, scenario))
        return found

    def digests(self, seed: int) -> list[str]:
        """What runs of the same scenarios come to in this process."""
        return digests_of(self.maker(False), seed)
