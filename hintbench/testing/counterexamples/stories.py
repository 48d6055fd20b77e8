"""A counterexample as a short numbered story in the kernel's words."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from hintbench.config.quantities import counted
from hintbench.core.constants import (
    EVENT_ACKNOWLEDGED,
    EVENT_ALLOCATED,
    EVENT_DISCARDED,
    EVENT_FAILED,
    EVENT_FREED,
    EVENT_ISOLATED,
    EVENT_LOCKED,
    EVENT_PUT_BACK,
    EVENT_REPORTED,
    EVENT_RETURNED,
    EVENT_TAKEN,
    PAGEBLOCK_ORDER,
    PAGEBLOCK_PAGES,
)
from hintbench.testing.exploration import run_scenario
from hintbench.testing.rules import RULES
from hintbench.testing.runs.outcome import RACE

if TYPE_CHECKING:
    from hintbench.core.flags import UnitFlags
    from hintbench.strategy import Strategy
    from hintbench.testing.runs.explored import ExploredRun
    from hintbench.testing.runs.outcome import Outcome, Violation
    from hintbench.testing.scenarios.scenario import Scenario

LONGEST: Final = 24
"""Steps of a story; what lies further back is summed up in one line."""
_VERBS: Final = {
    EVENT_ALLOCATED: "allocates",
    EVENT_FREED: "frees",
    EVENT_TAKEN: "takes from the free lists",
    EVENT_RETURNED: "gives back to the free lists",
    EVENT_ISOLATED: "isolates",
    EVENT_PUT_BACK: "puts back",
    EVENT_DISCARDED: "discards",
}
_OF_PAGES: Final = -1
"""What a step with a text is that concerns some pages only."""
_ALWAYS: Final = (
    EVENT_ISOLATED,
    EVENT_PUT_BACK,
    EVENT_REPORTED,
    EVENT_DISCARDED,
    EVENT_ACKNOWLEDGED,
    EVENT_FAILED,
)


@dataclass(slots=True)
class _Step:
    """One step: several pages that the same CPU moves in the same way are one.

    Its `rule` is the one that it breaks; "" when it breaks none.
    """

    time_ns: int
    cpu: int
    kind: int
    pfn: int
    order: int
    count: int = 1
    text: str = ""
    rule: str = ""

    def __str__(self) -> str:
        who = f"CPU {self.cpu}" if self.cpu >= 0 else "the host"
        return f"{self.time_ns:>14,} ns  {who:<8}  {self.text or self._event()}"

    def _event(self) -> str:
        if self.kind == EVENT_REPORTED:
            return f"reports {counted(self.order, 'block')}, pfn {self.pfn:#x} first"
        if self.kind == EVENT_ACKNOWLEDGED:
            return "hears from the host that a report is done"
        if self.kind == EVENT_FAILED:
            return f"an allocation of order {self.order} fails"
        if self.count > 1:
            return f"{_VERBS[self.kind]} {self.count} blocks, pfn {self.pfn:#x} first"
        return f"{_VERBS[self.kind]} pfn {self.pfn:#x}, order {self.order}"


class _Journal:
    """Collects what happens; it hears of marks as a checker does (`hintbench.guest.watching`)."""

    def __init__(self) -> None:
        self.steps: list[_Step] = []
        self.now: Callable[[], tuple[int, int]] = lambda: (0, 0)
        self._backing: Any = None
        self._refaulted = 0

    def attach(self, run: ExploredRun) -> None:
        """Know the time of what is told, and hear of marks."""
        clock = run.machine.clock
        self.now = lambda: (int(clock.now), clock.cpu)
        self._backing = run.machine.backing
        self._refaulted = self._backing.refaulted_pages
        run.listen(self)

    def event(self, time_ns: int, cpu: int, kind: int, pfn: int, order: int) -> None:
        """An event of the history."""
        self.look_for_refault()
        if kind == EVENT_LOCKED:
            return
        last = self.steps[-1] if self.steps else None
        if (
            last is not None
            and (last.cpu, last.kind) == (cpu, kind)
            and kind in (EVENT_TAKEN, EVENT_RETURNED)
            and not last.text
        ):
            last.count += 1
            return
        self.steps.append(_Step(time_ns, cpu, kind, pfn, order))

    def told(self, what: str, text: str) -> None:
        """Something that is no event: a preemption, a fault, a violation."""
        self.look_for_refault()
        time_ns, cpu = self.now()
        rule = text.partition(":")[0] if what == "violation" else ""
        self.steps.append(_Step(time_ns, cpu, 0, 0, 0, 1, text, rule))

    def flag_set(self, flags: UnitFlags, pfn: int, order: int) -> None:
        """The strategy has marked a block."""
        self._marked(flags, pfn, order, f"marks {{}} as {flags.name}")

    def flag_cleared(self, flags: UnitFlags, pfn: int, order: int) -> None:
        """The strategy has taken such a mark away."""
        self._marked(flags, pfn, order, f"clears the mark {flags.name} of {{}}")

    def _marked(self, flags: UnitFlags, pfn: int, order: int, what: str) -> None:
        self.look_for_refault()
        time_ns, cpu = self.now()
        # What is marked are units, whichever of their pages is named.
        whole = max(order, flags.order)
        first = pfn & -(1 << flags.order)
        text = what.format(f"pfn {first:#x}, order {whole},").rstrip(",")
        self.steps.append(_Step(time_ns, cpu, _OF_PAGES, first, whole, 1, text))

    def look_for_refault(self) -> None:
        """Whether the last allocation has touched what the host took: that is no event itself."""
        before, self._refaulted = self._refaulted, self._backing.refaulted_pages
        pages = self._refaulted - before
        last = self.steps[-1] if self.steps else None
        if not pages or last is None or last.kind != EVENT_ALLOCATED:
            return
        text = f"touches it and refaults: the host backs {counted(pages, 'page')} there again"
        # A host with huge pages brings the whole unit around it back.
        order = max(last.order, PAGEBLOCK_ORDER) if pages >= PAGEBLOCK_PAGES else last.order
        first = last.pfn & -(1 << order)
        self.steps.append(_Step(last.time_ns, last.cpu, _OF_PAGES, first, order, 1, text))

    def in_order(self) -> list[_Step]:
        """The steps by their time.

        A critical section runs at once when it is granted a lock, and may be granted it later than
        what others do next: the order in which steps were carried out is not that of time. The last
        one stays: with it the run ended.
        """
        self.look_for_refault()
        before = sorted(self.steps[:-1], key=lambda step: step.time_ns)
        return [*before, *self.steps[-1:]]


def tell(
    make: Callable[[], Strategy],
    scenario: Scenario,
    key: tuple[str, str],
    everything: bool = False,
) -> tuple[list[str], Outcome]:
    """Run a scenario up to a violation and tell what happened.

    Args:
        make: makes an instance of the strategy.
        scenario: what happens.
        key: rule and kind of the violation.
        everything: tell every step, not only those that matter.

    Returns:
        Numbered lines, and what came of the run.
    """
    journal = _Journal()
    outcome = run_scenario(
        make, scenario, frozenset(RULES), journal.event, journal.told, key, journal.attach
    )
    steps = journal.in_order()
    left_out, cut = 0, 0
    if not everything:
        violation = outcome.shown(key)
        telling = [step for step in steps if _matters(step, violation)]
        left_out, steps = len(steps) - len(telling), telling
        cut = max(0, len(steps) - LONGEST)
    lines = _not_told(cut, left_out)
    lines += [f"{number:>4}. {step}" for number, step in enumerate(steps[cut:], cut + 1)]
    return lines, outcome


def _not_told(before: int, left_out: int) -> list[str]:
    """The line that says how much a story leaves out; none if it is all there.

    Args:
        before: steps before its first one.
        left_out: steps of other pages, single pages and other rules, wherever they were.
    """
    parts = [f"{counted(before, 'step')} before"] if before else []
    if left_out:
        parts.append(f"{counted(left_out, 'step')} of other pages or rules left out")
    return [f"      ({', '.join(parts)}: replay --trace tells all)"] if parts else []


def describe_violation(violation: Violation) -> list[str]:
    """What is said under a story."""
    if violation.rule == RACE:
        lines = [f"race: {violation.kind}"]
    else:
        rule = RULES[violation.rule]
        lines = [f"broken: {violation.rule} ({rule.severity}): {rule.promise}"]
    lines.append(f"        {violation.text}")
    where = f"at {violation.time_ns:,} ns in {violation.context}"
    if violation.line:
        where += f", {violation.line}"
    lines.append(f"        {where}")
    lines += [f"        {lock}" for lock in violation.locks]
    return lines


def _matters(step: _Step, violation: Violation | None) -> bool:
    """Whether a step belongs into the story."""
    if step.rule and violation is not None and violation.rule not in (RACE, step.rule):
        # Tolerated, and another story.
        return False
    if (step.text and step.kind != _OF_PAGES) or step.kind in _ALWAYS or violation is None:
        return True
    if not violation.pages:
        return step.kind in (EVENT_ALLOCATED, EVENT_FREED, _OF_PAGES) and step.order > 0
    end = step.pfn + (1 << step.order)
    return step.pfn < violation.pfn + violation.pages and violation.pfn < end
