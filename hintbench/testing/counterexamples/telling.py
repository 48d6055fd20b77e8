"""From a scenario that breaks a rule to the counterexample that is told and saved."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hintbench.testing.counterexamples.files import Counterexample, SavedScenario, source_hash
from hintbench.testing.counterexamples.shrinking import shrink_within
from hintbench.testing.counterexamples.stories import describe_violation, tell

if TYPE_CHECKING:
    from hintbench.strategy import Strategy
    from hintbench.testing.scenarios.scenario import Scenario
    from hintbench.testing.subjects import Subject


@dataclass(frozen=True, slots=True)
class Told:
    """A counterexample, shrunk and told.

    Attributes:
        key: rule and kind.
        counterexample: what is saved.
        story: its lines.
        size: operations, preemptions and faults.
        stopped_after_seconds: when shrinking ran out of time [wall s]; 0 if it tried everything.
    """

    key: tuple[str, str]
    counterexample: Counterexample
    story: list[str]
    size: int
    stopped_after_seconds: float = 0.0


def shrink_and_tell(
    subject: Subject,
    make: Callable[[], Strategy],
    key: tuple[str, str],
    scenario: Scenario,
    seconds: float,
) -> Told:
    """The smallest scenario that shows a violation, with its story.

    Args:
        subject: the strategy, as the saved file is to name it.
        make: makes an instance of it, with its own constants if the scenario is for these.
        key: rule and kind of the violation.
        scenario: shows it.
        seconds: how long to look for a smaller one [wall s].
    """
    shrunk = shrink_within(make, scenario, key, seconds)
    small = shrunk.scenario
    story, outcome = tell(make, small, key)
    violation = outcome.shown(key)
    if violation is not None:
        story += describe_violation(violation)
    counterexample = Counterexample(
        strategy=subject.text,
        plugins=list(subject.plugins),
        source=source_hash(make),
        rule=key[0],
        kind=key[1],
        text=violation.text if violation is not None else "",
        digest=outcome.digest,
        scenario=SavedScenario.of(small),
    ).sealed()
    return Told(key, counterexample, story, small.size, seconds if shrunk.late else 0.0)
