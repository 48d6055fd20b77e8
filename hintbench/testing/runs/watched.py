"""A run that says of everything that happens in it who did it where, and records violations."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import TYPE_CHECKING, Any, Final

from hintbench.core.measures import Latencies
from hintbench.runner import Run
from hintbench.testing.runs.outcome import RACE, Outcome, ScheduleStoppedError, Violation
from hintbench.testing.scenarios.scenario import Scenario, ScenarioWorkload
from hintbench.workload import Program

if TYPE_CHECKING:
    from hintbench.core.contexts import Context
    from hintbench.core.locks import LockTimeline
    from hintbench.strategy import Strategy
    from hintbench.testing.races.race import Race

FATAL: Final = frozenset({"conservation"})
"""After these nothing that happens means anything: the lists may lead anywhere."""
_UNREAD: Final = Latencies()
"""Where latencies of these runs go, which nobody measures: to clear a table of each run's own would
make a short run a twentieth longer. Nothing may read it, since what it says is of no one run."""


class WatchedRun(Run):
    """A run of a scenario that ends at the first violation which is not tolerated.

    Args:
        strategy: a fresh instance.
        scenario: what happens.
        tolerated: rules whose violation does not end the run: those the strategy declares.
        told: called with what happens besides the history's events: (what, text).

    Attributes:
        outcome: what has come of it so far.
        stop_at: rule and kind of the violation that ends the run in any case.
        races: what is looked for besides the rules.
        dead: the run is over, and what its plugin still does concerns nobody.
    """

    def __init__(
        self,
        strategy: Strategy,
        scenario: Scenario,
        tolerated: frozenset[str] = frozenset(),
        told: Callable[[str, str], None] | None = None,
    ) -> None:
        workload: Any = ScenarioWorkload(scenario.operations)
        self._tapes: ScenarioWorkload = workload
        super().__init__(strategy, workload, scenario.guest, scenario.seed, latencies=_UNREAD)
        self.scenario = scenario
        self.tolerated = tolerated
        self.told = told
        self.outcome = Outcome()
        self.stop_at: tuple[str, str] | None = None
        self.dead = False
        self.races: list[Race] = []
        self.strategy_file = _file_of(strategy)

    def _program(self) -> Program:
        """The tapes, which are no plugin's: nobody has to be blamed for them."""
        return self._tapes.program(self.config)

    # -- violations -----------------------------------------------------------------------------

    def violate(self, rule: str, text: str, kind: str = "", pfn: int = 0, pages: int = 0) -> None:
        """Record a violation; end the run unless its rule is tolerated.

        Raises:
            ScheduleStoppedError: the run is over.
        """
        if self.dead:
            return
        self._quietly(rule, text, kind, pfn, pages)
        if rule not in self.tolerated or rule in FATAL or (rule, kind) == self.stop_at:
            raise ScheduleStoppedError

    def _quietly(self, rule: str, text: str, kind: str = "", pfn: int = 0, pages: int = 0) -> None:
        """Record a violation, which ends nothing by itself."""
        counts = self.outcome.counts
        counts[rule] = counts.get(rule, 0) + 1
        # What is declared happens a hundred times in a run, and is told of once.
        if (rule, kind) not in self.outcome.violations:
            self._enter(self._violation(rule, text, kind, pfn, pages))

    def _enter(self, violation: Violation) -> None:
        """The first violation of its rule and kind; `_quietly` counts them all."""
        self.outcome.violations[violation.rule, violation.kind] = violation
        self.tell("violation", f"{violation.rule}: {violation.text}")
        for race in self.races:
            race.violated(violation)

    def _violation(self, rule: str, text: str, kind: str, pfn: int, pages: int) -> Violation:
        """What happens now, with all that is to be said of where and by whom."""
        clock = self.machine.clock
        locks = tuple(
            f"{lock.name} held by {self.name_of(lock.holder)}" for lock in self.locks if lock.held
        )
        time_ns, where = int(clock.now), self.context_name
        return Violation(
            rule, kind, text, time_ns, clock.cpu, where, pfn, pages, locks, self._line()
        )

    def provoked(self, race: Race, pfn: int = 0, pages: int = 0) -> None:
        """A race has happened that was looked for.

        Raises:
            ScheduleStoppedError: the run was to end with it.
        """
        name = race.name
        if self.dead or name in self.outcome.races:
            return
        self.outcome.races[name] = self._violation(RACE, race.text, name, pfn, pages)
        self.tell("race", race.text)
        if self.stop_at == (RACE, name):
            raise ScheduleStoppedError

    def tell(self, what: str, text: str) -> None:
        """Add a line to the story, if anybody listens."""
        if self.told is not None:
            self.told(what, text)

    # -- who and where --------------------------------------------------------------------------

    @property
    def hook(self) -> tuple[str, tuple[Any, ...]]:
        """The strategy's hook that runs, and its arguments."""
        hook: tuple[str, tuple[Any, ...]] = self.scheduler.plain_hook
        return hook

    @property
    def context_name(self) -> str:
        """Who runs."""
        current = self.scheduler.rules.waiting or self.scheduler.current
        if current is not None:
            return f"{current.kind} {current.name}"
        if self.hook[0]:
            return f"hook {self.hook[0]}"
        cpu = self.machine.clock.cpu
        return f"vCPU {cpu}" if cpu >= 0 else "the host"

    @property
    def interrupts_off(self) -> bool:
        """Whether the running context has interrupts off."""
        current = self.scheduler.current
        if current is None:
            return bool(self.scheduler.off_in_hook or self.scheduler.off_by_hook)
        if current.kind == "interrupt" or current.interrupts_off:
            return True
        if not self.scheduler.takes.held_by(self.machine.clock.context):
            return False
        return any(lock.held_here and not lock.interrupts_on for lock in self.locks)

    @property
    def locks(self) -> list[LockTimeline]:
        """All locks of zones, and those that the strategy has made."""
        return [*(zone.lock for zone in self.machine.zones), *self.scheduler.takes.own_locks]

    def name_of(self, number: int) -> str:
        """The name of the context with a number."""
        for context in self.scheduler.everybody():
            if context.number == number:
                return f"{context.kind} {context.name}"
        return f"vCPU {number}"

    def _line(self) -> str:
        """The innermost line of the strategy's file that is being executed."""
        left = self.scheduler.rules.left_at
        if left is not None:
            code, number = left
            return f"{_short(code.co_filename)}:{number} in {code.co_name}"
        for step in self._frames():
            if step.f_code.co_filename == self.strategy_file:
                return f"{_short(self.strategy_file)}:{step.f_lineno} in {step.f_code.co_name}"
        return ""

    def _frames(self) -> Iterator[FrameType]:
        """What runs, innermost first; or what a context stands in that should not wait."""
        waiting: Context | None = self.scheduler.rules.waiting
        if waiting is None:
            frame: FrameType | None = sys._getframe(1)
            while frame is not None:
                yield frame
                frame = frame.f_back
            return
        frames = []
        awaited: Any = waiting.coroutine
        while getattr(awaited, "cr_frame", None) is not None:
            frames.append(awaited.cr_frame)
            awaited = awaited.cr_await
        yield from reversed(frames)


def _short(path: str) -> str:
    return path.replace("\\", "/").rsplit("/", 1)[-1]


def _file_of(strategy: object) -> str:
    """The file a strategy's class was written in."""
    module = sys.modules.get(type(strategy).__module__)
    return str(getattr(module, "__file__", "") or "")
