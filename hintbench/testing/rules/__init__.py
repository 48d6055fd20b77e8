"""The rules every strategy is held to, one file a rule.

A rule's class is S (a violation is corruption or deadlock), L (progress) or C (a claim that the
strategy makes about itself, checked only where it makes it). Some rules are checked by the guest
itself, which refuses or records what breaks them; their file says where.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from hintbench.strategy import Claims
    from hintbench.testing.checker import Checker


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule.

    Attributes:
        name: as in reports and `Strategy.declared_failures`.
        severity: "S", "L" or "C".
        promise: what must hold, in one sentence.
    """

    name: str
    severity: str
    promise: str

    @property
    def checker(self) -> type[Checker] | None:
        """Who checks it in a run; None when the guest itself or a comparison of runs does."""
        return _checker_of(self.name)

    def applies(self, claims: Claims) -> str:
        """Why the rule does not apply to a strategy with these claims; "" when it does."""
        if self.name in _NEEDS and getattr(claims, _NEEDS[self.name]) in (None, False):
            return f"makes no claim ({_NEEDS[self.name]})"
        return ""


@cache
def _checker_of(rule: str) -> type[Checker] | None:
    """Asked for every rule of every run."""
    module = import_module(f"hintbench.testing.rules.{rule.replace('-', '_')}")
    checker: type[Checker] | None = getattr(module, "RuleChecker", None)
    return checker


_NEEDS: Final = {
    "liveness": "liveness_bound_ns",
    "no-silent-drop": "liveness_bound_ns",
    "bounded-in-flight": "in_flight_pages",
    "lock-takes": "lock_takes",
    "one-zone": "one_zone",
    "bounded-hold": "hold_visits",
    "once": "once",
    "any-pfn": "any_pfn",
}

RULES: Final = {
    rule.name: rule
    for rule in (
        Rule("conservation", "S", "every page is in exactly one place, and lists and counts agree"),
        Rule("locked-lists", "S", "a zone's free lists change only while its lock is held"),
        Rule("irq-safe", "S", "a lock that an interrupt takes is taken with interrupts off"),
        Rule("atomic-context", "S", "nothing sleeps or waits in atomic context"),
        Rule("owned-while-reported", "S", "what is reported belongs to the report until its end"),
        Rule("no-discard-in-use", "S", "no discard takes what a caller has"),
        Rule("returned", "S", "every isolated block comes back exactly once"),
        Rule("ack-before-return", "S", "nothing comes back before the host has answered"),
        Rule("completion-once", "S", "each completion is consumed exactly once"),
        Rule("teardown", "S", "after guest_stopping nothing is held, marked or scheduled"),
        Rule("per-cpu", "S", "per-CPU state is touched by its CPU only, with interrupts off"),
        Rule("locked-state", "S", "state that a lock guards is touched with that lock held"),
        Rule("liveness", "L", "every large free block is told within the declared time"),
        Rule("progress-under-spin", "L", "an acknowledgement ends every spin"),
        Rule("flag-truth", "L", "what is believed to be told is not backed by the host"),
        Rule("no-silent-drop", "L", "a dropped hint is found by a later pass"),
        Rule("no-false-oom", "L", "no blocking allocation fails for what the strategy holds"),
        Rule("bounded-in-flight", "L", "what is in its hands stays within the declared cap"),
        Rule("lock-takes", "C", "takes of the zone lock per batch are as declared"),
        Rule("one-zone", "C", "a batch of isolated blocks is of one zone"),
        Rule("bounded-hold", "C", "structures looked at under one hold are bounded"),
        Rule("once", "C", "an unchanged block is not reported again"),
        Rule("any-pfn", "C", "a block is found whichever of its pages was freed last"),
        Rule("deterministic", "C", "the same seed gives the same run"),
        Rule("off-is-none", "C", "attached but disabled, it changes nothing"),
    )
}
"""Every rule by name, in the order of reports; docs/conformance.md lists them."""
