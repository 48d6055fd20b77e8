"""What comes of a run of a scenario: violations of rules, and what the run held."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

RACE: Final = "race"
"""Stands where a violation has its rule, for what is no violation: its kind is the race's name."""


class ScheduleStoppedError(BaseException):
    """Ends a run at a violation; no plugin can catch it by accident."""


@dataclass(frozen=True, slots=True)
class Violation:
    """A rule was broken.

    Attributes:
        rule: which.
        kind: a word that tells ways of breaking one rule apart; may be "".
        text: what happened.
        time_ns: when [virtual ns].
        cpu: on which CPU; -1 on the host's side.
        context: in which hook, task or interrupt, or "vCPU n".
        pfn, pages: which pages; 0 pages when it is not about pages.
        locks: who holds which lock.
        line: the line of the strategy that did it, as ``file:number in function``; "" if none did.
    """

    rule: str
    kind: str
    text: str
    time_ns: int
    cpu: int
    context: str
    pfn: int = 0
    pages: int = 0
    locks: tuple[str, ...] = ()
    line: str = ""

    @property
    def key(self) -> tuple[str, str]:
        """Rule and kind: what makes two violations the same story."""
        return self.rule, self.kind


@dataclass(slots=True)
class Outcome:
    """What came of a scenario.

    Attributes:
        violations: the first of each rule and kind, in the order in which they happened.
        counts: how often each rule was broken.
        error: the strategy's own fault if it raised, hung or misused the guest; else "".
        digest: of the whole event history.
        coverage: what the run held: reports, contended takes, preemptions, interrupts, faults ...,
            and what state of its own the strategy had looked after.
        forgotten: says which coroutine was never awaited; that is no error when a violation ended
            the run, since the await may have been to come.
        gates_open, gates_shut: how often the strategy's gate was, when it was asked whether blocks
            behind it have to be told.
        races: by name the first time that each race happened which was looked for.
    """

    violations: dict[tuple[str, str], Violation] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    error: str = ""
    digest: str = ""
    coverage: dict[str, int] = field(default_factory=dict)
    races: dict[str, Violation] = field(default_factory=dict)
    forgotten: str = ""
    gates_open: int = 0
    gates_shut: int = 0

    def shown(self, key: tuple[str, str]) -> Violation | None:
        """The first violation with this rule and kind, or the race (``("race", name)``)."""
        return self.races.get(key[1]) if key[0] == RACE else self.violations.get(key)

    @property
    def first(self) -> Violation | None:
        """The first violation of all."""
        return next(iter(self.violations.values()), None)
