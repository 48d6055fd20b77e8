"""What should happen at the same time at least once: races, and the stories of the posted v9.

A race is legal for a strategy that is right: it shows that the schedules come where the strategy
could go wrong. A story is a race that the posted v9 loses. Each is a small detector over the
events of a run, and names the strategies it concerns; `check` says in how many schedules each was
provoked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from hintbench.testing.races import batching, marking, posted, torn

if TYPE_CHECKING:
    from hintbench.strategy import Strategy
    from hintbench.testing.races.race import Race

RACES: Final[dict[str, type[Race]]] = {
    race.name: race for module in (marking, batching, torn, posted) for race in module.RACES
}
"""Every race by name, in the order of reports."""


def races_of(strategy: Strategy | type[Strategy]) -> list[type[Race]]:
    """The races that concern a strategy."""
    return [race for race in RACES.values() if strategy.name in race.strategies]
