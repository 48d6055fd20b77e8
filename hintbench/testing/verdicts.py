"""The verdict on each rule, for whoever shows it: the table, ``--json``, the pytest suite."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from hintbench.config.quantities import counted
from hintbench.testing.comparisons import COMPARED
from hintbench.testing.exploration import of_own_constants
from hintbench.testing.rules import RULES

if TYPE_CHECKING:
    from hintbench.strategy import Claims
    from hintbench.testing.exploration import Exploration

ENOUGH_SCHEDULES: Final = 400
"""So many schedules, with reports unless the strategy claims that it reports nothing, must have
kept a rule before it is said to hold: within so many 152 of 158 checks of wrong strategies
(`hintbench.testing.mutants`, two seeds each) came to an end, and 155 within 1,000."""


_OF_STATE: Final = {
    "per-cpu": "guest.per_cpu()",
    "locked-state": "guest.guarded()",
}
"""Rules on what a strategy keeps, and what makes such state; it is counted by the rule's name."""


class Verdict(StrEnum):
    """What became of a rule; the value is what is printed, and stands in ``--json``."""

    HOLDS = "holds"
    """Nothing broke it, in `ENOUGH_SCHEDULES` schedules or more, or in all that is compared."""
    SO_FAR = "so far"
    """No schedule broke it, but there were fewer, or the check was cut short."""
    UNEXPLORED = "not explored"
    """No schedule was run, or none in which anything could have broken it."""
    BROKEN = "broken"
    """Some schedule broke it, and the strategy does not declare that."""
    DECLARED = "declared"
    """Some schedule broke it, as the strategy declares."""
    UNSHOWN = "not shown"
    """The strategy declares to break it, and no schedule did."""
    UNTESTED = "untested"
    """The strategy claims it, and nothing happened that could have broken it."""
    NOT_APPLICABLE = "n/a"
    """The strategy makes no such claim, or has nothing that could break it."""

    @property
    def is_failure(self) -> bool:
        """Whether a strategy with it does not pass."""
        return self in (Verdict.BROKEN, Verdict.UNSHOWN, Verdict.UNTESTED)


@dataclass(frozen=True, slots=True)
class RuleVerdict:
    """What became of one rule.

    Attributes:
        rule: its name.
        verdict: what became of it.
        schedules: how many showed it broken.
        why: the reason of a declaration, or why the rule does not apply, or what was broken.
    """

    rule: str
    verdict: Verdict
    schedules: int = 0
    why: str = ""


def judge(
    explored: Exploration, claims: Claims, declared: Mapping[str, str], cut_short: bool
) -> list[RuleVerdict]:
    """Come to a verdict on every rule, in their order.

    Args:
        explored: what was explored.
        claims: what the strategy says of itself.
        declared: the rules that it says it breaks, with the reasons.
        cut_short: the exploration has ended before it was complete.
    """
    texts = {
        key[0]: of_own_constants(scenario) + violation.text
        for key, (violation, scenario) in explored.found.items()
    }
    few = bool(too_few(explored, claims))
    unshown = explored.unshown | ({} if few else _behind_gates(explored))
    unbroken = _unbroken(explored, claims, cut_short or few)
    compared = _unbroken(explored, claims, cut_short)
    verdicts = []
    for name, rule in RULES.items():
        count = explored.counts.get(name, 0)
        reason = rule.applies(claims) or _without_state(name, explored)
        if count and name in declared:
            verdicts.append(RuleVerdict(name, Verdict.DECLARED, count, declared[name]))
        elif count:
            verdicts.append(RuleVerdict(name, Verdict.BROKEN, count, texts.get(name, "")))
        elif name in declared and explored.schedules and compared is not Verdict.SO_FAR:
            verdicts.append(RuleVerdict(name, Verdict.UNSHOWN, 0, declared[name]))
        elif reason:
            verdicts.append(RuleVerdict(name, Verdict.NOT_APPLICABLE, 0, reason))
        elif name in unshown:
            verdicts.append(RuleVerdict(name, Verdict.UNTESTED, 0, unshown[name]))
        else:
            verdict = compared if name in COMPARED else unbroken
            why = f"declared: {declared[name]}" if name in declared else ""
            verdicts.append(RuleVerdict(name, verdict, 0, why))
    return verdicts


def too_few(explored: Exploration, claims: Claims) -> str:
    """Why what nothing broke is not said to hold; "" if enough was explored.

    Args:
        explored: what was explored.
        claims: what the strategy says of itself.
    """
    if _schedules_that_count(explored, claims) >= ENOUGH_SCHEDULES:
        return ""
    kind = "" if claims.reports_nothing else " with reports"
    return (
        f"{counted(_schedules_that_count(explored, claims), 'schedule')}{kind}, too few to say that"
        f" a rule holds: that takes {ENOUGH_SCHEDULES}"
    )


def _behind_gates(explored: Exploration) -> dict[str, str]:
    """Rules that nothing could break, since the strategy's gate was never open when it was asked.

    Args:
        explored: what was explored, which was enough.
    """
    if explored.gates_open or not explored.gates_shut:
        return {}
    text = f"its gate was shut in every zone, all {explored.gates_shut:,} times that it was asked"
    return dict.fromkeys(("liveness", "no-silent-drop"), text)


def _without_state(rule: str, explored: Exploration) -> str:
    """Why a rule on a strategy's own state does not apply; "" when some run had such state."""
    if rule not in _OF_STATE or not explored.schedules:
        return ""
    return "" if explored.coverage.get(rule) else f"it has no state of {_OF_STATE[rule]}"


def _schedules_that_count(explored: Exploration, claims: Claims) -> int:
    return explored.schedules if claims.reports_nothing else explored.with_reports


def _unbroken(explored: Exploration, claims: Claims, too_little: bool) -> Verdict:
    """The verdict on a rule that nothing broke."""
    if not _schedules_that_count(explored, claims):
        return Verdict.UNEXPLORED
    return Verdict.SO_FAR if too_little else Verdict.HOLDS
