"""One run of a scenario, with every rule's checker looking on.

It differs from an ordinary run in four ways: contexts are late where the scenario says so, faults
happen, an edit without its lock is carried out in parts with others in between, and the first
violation of a rule that the strategy does not declare ends it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from hintbench.core import machine as core_machine
from hintbench.core.audit import Auditor
from hintbench.core.consistency import list_fault
from hintbench.core.constants import EVENT_ISOLATED, NEVER
from hintbench.core.preemption import EndlessRunError, Preemptions
from hintbench.core.tearing import Tear
from hintbench.errors import HintbenchError, TaskLeakError
from hintbench.processors import as_coroutine
from hintbench.runner import STOP_LIMIT_NS, Run
from hintbench.testing.faults import Faults
from hintbench.testing.integrity import Seal
from hintbench.testing.scenario import Scenario, ScenarioWorkload
from hintbench.watching import Watcher

if TYPE_CHECKING:
    from hintbench.strategy import Strategy
    from hintbench.testing.races.race import Race

MOST_NESTED: Final = 2
"""How deep unlocked edits may stand inside each other."""
LATE_LIMIT_NS: Final = 10_000_000_000
"""How long after the stop something may still happen that should not [virtual ns]."""
FIRST_LOOK_NS: Final = 1_000_000
"""How soon after the last operation it is asked whether all is told, then ever later."""
EVENT_KINDS: Final = 16
"""More than there are kinds of events in the history."""
FATAL: Final = frozenset({"conservation"})
"""After these nothing that happens means anything: the lists may lead anywhere."""


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
        coverage: what the run held: reports, contended takes, preemptions, interrupts, faults ...
        races: by name the first time that each race happened which was looked for.
    """

    violations: dict[tuple[str, str], Violation] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    error: str = ""
    digest: str = ""
    coverage: dict[str, int] = field(default_factory=dict)
    races: dict[str, Violation] = field(default_factory=dict)

    def shown(self, key: tuple[str, str]) -> Violation | None:
        """The first violation with this rule and kind, or the race (``("race", name)``)."""
        return self.races.get(key[1]) if key[0] == RACE else self.violations.get(key)

    @property
    def first(self) -> Violation | None:
        """The first violation of all."""
        return next(iter(self.violations.values()), None)


class Checker:
    """Base of every rule's checker; one instance sees one run.

    Besides the methods below a checker has methods for the events of `hintbench.watching` that it
    wants to see.
    """

    rule = ""

    def __init__(self, run: ExploredRun) -> None:
        self.run = run

    def at_settled(self) -> None:
        """The workload has ended and the strategy had the time that it claims to need."""

    def at_stuck(self) -> None:
        """Nobody can go on any more."""

    def at_stopping(self) -> None:
        """The strategy is about to be told to stop."""

    def at_stopped(self) -> None:
        """guest_stopping has ended, at this very moment."""

    def at_end(self) -> None:
        """The strategy has been stopped, and all that could still happen has."""

    def violate(self, text: str, kind: str = "", pfn: int = 0, pages: int = 0) -> None:
        """Say that the rule is broken."""
        self.run.violate(self.rule, text, kind, pfn, pages)


class ExploredRun(Run):
    """A run of a scenario under observation.

    Args:
        strategy: a fresh instance.
        scenario: what happens.
        checkers: classes of `Checker`, one for each rule that is checked.
        tolerated: rules whose violation does not end the run: those the strategy declares.
        journal: called with (time, CPU, kind, pfn, order) for every event; for stories.
        told: called with what happens besides, for stories.
        races: what is looked for besides the rules.

    Attributes:
        auditor: who has each page.
        claims: what the strategy says of itself.
        outcome: what has come of it so far.
        stop_at: rule and kind of the violation that ends the run in any case.
        settled: the time that the strategy claims to need has passed.
        stopped: guest_stopping has ended.
        dropped_blocks: pfn and order of the blocks whose hints the strategy said it dropped.
        stopping_ns: when it was told to stop; None before.
        hook: the strategy's hook that runs, and its arguments.
    """

    def __init__(
        self,
        strategy: Strategy,
        scenario: Scenario,
        checkers: Iterable[type[Checker]],
        tolerated: frozenset[str] = frozenset(),
        journal: Callable[[int, int, int, int, int], None] | None = None,
        told: Callable[[str, str], None] | None = None,
        races: Iterable[type[Race]] = (),
    ) -> None:
        workload: Any = ScenarioWorkload(scenario.operations)
        super().__init__(strategy, workload, scenario.guest, scenario.seed)
        self.scenario = scenario
        self.tolerated = tolerated
        self.told = told
        self.outcome = Outcome()
        self.claims = strategy.claims()
        self.stop_at: tuple[str, str] | None = None
        self.settled = False
        self.stopped = False
        self.dropped_blocks: set[tuple[int, int]] = set()
        self.stopping_ns: int | None = None
        self.hook: tuple[str, tuple[Any, ...]] = ("", ())
        self.depth = 0
        self.dead = False
        self.strategy_file = _file_of(strategy)
        self.preemptions = Preemptions(
            (each.point, each.number, each.delay_ns) for each in scenario.preemptions
        )
        auditor: Any = Auditor(self.machine.pages.page_count, self._complain, self._notice)
        self.auditor = auditor
        self.auditor.begin(self.machine.zones)
        if self.claims.initial_flush:
            self.auditor.all_untold()
        clock: Any = self.machine.clock
        clock.digest.listener = self.auditor
        self.checkers = [checker(self) for checker in checkers]
        self.races = [race(self) for race in races]
        self.checkers += self.races
        self.auditor.journal = self._journal(journal)
        self.watcher = Watcher((*self.checkers, self))
        self.guest.watcher = self.watcher
        self.guest.host.watcher = self.watcher
        self.guest.on_violation = self.violate
        zones: list[Any] = self.machine.zones
        for zone in zones:
            zone.torn = Tear(self._preempt)
        self.guest.host.torn = self._preempt
        if self.watcher.wants("lock_taken") or self.watcher.wants("lock_released"):
            for zone in self.machine.zones:
                zone.lock.observer = _join(zone.lock.observer, self._lock_event)
        self.faults = Faults(scenario.faults, self)
        self.faults.install()
        self.seal = Seal(self.guest)

    # -- the run --------------------------------------------------------------------------------

    def explore(self) -> Outcome:
        """Run it to its end, or to the first violation that is not tolerated."""
        try:
            self._explore()
        except ScheduleStoppedError:
            pass
        except TaskLeakError as error:
            self._leaked(error)
        except EndlessRunError as error:
            self.outcome.error = f"{self.scheduler.plugin}: {error}"
        except HintbenchError as error:
            if not self.outcome.violations:
                self.outcome.error = str(error)
        finally:
            self._abandon()
        if replaced := self.seal.broken():
            # What the checkers have seen of such a guest means nothing.
            self.outcome.error = (
                f"plugin {self.scheduler.plugin!r}: replaces {replaced}, which is not a strategy's"
                " to change: call the guest's services, and leave them as they are"
            )
        self._cover()
        self.outcome.digest = self.machine.clock.digest.hexadecimal()
        return self.outcome

    def _explore(self) -> None:
        simulation = self.machine.simulation
        try:
            start_ns = self._start()
            clock: Any = self.machine.clock
            clock.preemptions = self.preemptions
            self.threads.start(None)
            self.threads.watch_for_hung_tapes()
            simulation.begin_vcpus(start_ns)
            if not core_machine.run_tapes(simulation):
                raise self._stuck()
            end_ns = max(simulation.clock.now, simulation.last_ns)
            if self.scenario.settle:
                end_ns = self._settle(end_ns)
            self.threads.stopped = True
            simulation.clock.now = end_ns
            self.stopping_ns = end_ns
            self.tell("phase", "the guest stops")
            for checker in self.checkers:
                checker.at_stopping()
            self._stop()
            self.stopped = True
            core_machine.run_until(simulation, int(simulation.clock.now) + LATE_LIMIT_NS)
            for checker in self.checkers:
                checker.at_end()
        except (HintbenchError, EndlessRunError):
            raise
        except Exception as error:
            raise self._blame(error) from error

    def _follow(self) -> None:
        """Nothing is measured here."""

    def _stop(self) -> None:
        """Ask at the moment when guest_stopping has ended what it leaves behind."""
        stopping = self.bound.get("guest_stopping")
        if stopping is None:
            self._stopped()
        else:

            async def stop(guest: Any) -> None:
                await as_coroutine(lambda: stopping(guest))
                self._stopped()

            self.bound["guest_stopping"] = stop
        super()._stop()

    def _stopped(self) -> None:
        for checker in self.checkers:
            checker.at_stopped()

    def _leaked(self, error: TaskLeakError) -> None:
        """Tasks do not end: perhaps they wait for what another rule knows to be lost."""
        try:
            for checker in self.checkers:
                checker.at_stuck()
        except ScheduleStoppedError:
            pass
        if self.outcome.counts.keys().isdisjoint(("returned", "completion-once")):
            self._quietly("teardown", str(error), "tasks")

    def _settle(self, end_ns: int) -> int:
        """Let the guest idle for as long as the strategy claims to need, or until it is done."""
        bound_ns = self.claims.liveness_bound_ns
        simulation = self.machine.simulation
        limit_ns = end_ns + (bound_ns if bound_ns is not None else STOP_LIMIT_NS)
        pause_ns = FIRST_LOOK_NS
        until_ns = end_ns
        while until_ns < limit_ns:
            until_ns = min(until_ns + pause_ns, limit_ns)
            pause_ns *= 4
            core_machine.run_until(simulation, until_ns)
            if self._idle():
                break
        simulation.clock.now = max(until_ns, simulation.clock.now)
        self.settled = True
        for checker in self.checkers:
            checker.at_settled()
        return int(simulation.clock.now)

    def _idle(self) -> bool:
        """Whether all that could be told is told, and nothing is under way."""
        from hintbench.testing.untold import untold_blocks

        flags = self.guest.flag_sets.values()
        return (
            not any(zone.isolated_pages for zone in self.machine.zones)
            and not any(each.count for each, meaning in flags if meaning == "in-flight")
            and not self.guest.host.has_completions
            and next(untold_blocks(self), None) is None
        )

    def _attach(self, hooks: Any) -> None:
        super()._attach(hooks)
        for name in ("page_freeing", "block_merged", "block_freed", "block_taken"):
            self._watch_hook(name)
        for name in ("free_completed", "page_allocated", "memory_low"):
            self._watch_hook(name)

    def _watch_hook(self, name: str) -> None:
        """Know which hook of the strategy runs."""
        point: Any = getattr(self.guest.hooks, name)
        if point is None:
            return
        function = point.function

        def called(*arguments: Any) -> Any:
            outer, self.hook = self.hook, (name, arguments)
            self.watcher.hook_called(name, arguments)
            try:
                return function(*arguments)
            finally:
                self.hook = outer

        point.function = called

    def _stuck(self) -> HintbenchError:
        """Nothing can go on: a spinner that nobody ends is a rule of its own."""
        error = super()._stuck()
        contexts = [*self.scheduler.hooks, *self.scheduler.contexts]
        spinning = [each for each in contexts if each is not None and each.parked == "spin"]
        if spinning:
            names = ", ".join(f"{each.name} on CPU {each.cpu}" for each in spinning)
            self._quietly("progress-under-spin", f"{names} spin for ever", "deadlock")
        for checker in self.checkers:
            checker.at_stuck()
        return error

    def _abandon(self) -> None:
        """Close what is still suspended, so that none of it runs during the next schedule."""
        self.dead = True
        cpus = self.scheduler.processors.cpus
        contexts = [*self.scheduler.contexts, *self.scheduler.hooks]
        contexts += [cpu.interrupt for cpu in cpus]
        for context in contexts:
            if context is None:
                continue
            try:
                context.coroutine.close()
            except (Exception, ScheduleStoppedError):
                # The run is over; what its plugin does on the way out concerns nobody.
                continue

    # -- late contexts and torn edits -----------------------------------------------------------

    def _preempt(self, part: str) -> None:
        """Between two parts of an unlocked edit; "" after its last part."""
        if not part:
            if self.depth == 0:
                self.check_lists()
            return
        delay_ns = self.preemptions.at_edit()
        if delay_ns:
            self.tell("preempted", f"preempted for {delay_ns} ns before: {part}")
            self.watcher.edit_preempted(part)
            self._run_others(delay_ns)

    def _run_others(self, delay_ns: int) -> None:
        """Everybody but the running context goes on for a while, inside its step."""
        simulation, clock, scheduler = self.machine.simulation, self.machine.clock, self.scheduler
        until_ns = clock.now + delay_ns
        holds = any(zone.lock.held for zone in self.machine.zones)
        if holds or self.depth >= MOST_NESTED:
            clock.now = until_ns
            return
        where = clock.cpu, clock.payer, clock.context
        outer, scheduler.current = scheduler.current, None
        hook, self.hook = self.hook, ("", ())
        key = NEVER
        if clock.cpu >= 0:
            key = simulation.clock_of(clock.cpu)
            simulation.set_clock(clock.cpu, NEVER)
        flags = [(zone, zone.quiet) for zone in self.machine.zones]
        self.depth += 1
        try:
            core_machine.run_until(simulation, until_ns)
        finally:
            self.depth -= 1
            for zone, quiet in flags:
                zone.quiet = quiet
            scheduler.current, self.hook = outer, hook
            clock.cpu, clock.payer, clock.context = where
            if clock.cpu >= 0 and key < NEVER:
                simulation.set_clock(clock.cpu, key)
            clock.now = until_ns

    def check_lists(self) -> None:
        """Whether the free lists are in order; they must be whenever nobody edits them."""
        for zone in self.machine.zones:
            fault = list_fault(zone)
            if fault is not None:
                self.violate("conservation", fault[1], fault[0])

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
        outcome = self.outcome
        outcome.counts[rule] = outcome.counts.get(rule, 0) + 1
        if (rule, kind) in outcome.violations:
            return
        violation = self._violation(rule, text, kind, pfn, pages)
        outcome.violations[rule, kind] = violation
        self.tell("violation", f"{rule}: {text}")
        for race in self.races:
            race.violated(violation)

    def _violation(self, rule: str, text: str, kind: str, pfn: int, pages: int) -> Violation:
        """What happens now, with all that is to be said of where and by whom."""
        clock = self.machine.clock
        locks = tuple(
            f"{zone.lock.name} held by {self.name_of(zone.lock.holder)}"
            for zone in self.machine.zones
            if zone.lock.held
        )
        time_ns, where = int(clock.now), self.context_name
        return Violation(
            rule, kind, text, time_ns, clock.cpu, where, pfn, pages, locks, self._line()
        )

    def provoked(self, name: str, text: str, pfn: int = 0, pages: int = 0) -> None:
        """A race has happened that was looked for.

        Raises:
            ScheduleStoppedError: the run was to end with it.
        """
        if self.dead or name in self.outcome.races:
            return
        self.outcome.races[name] = self._violation(RACE, text, name, pfn, pages)
        self.tell("race", text)
        if self.stop_at == (RACE, name):
            raise ScheduleStoppedError

    def _journal(
        self, listener: Callable[[int, int, int, int, int], None] | None
    ) -> Callable[[int, int, int, int, int], None] | None:
        """Hand every event of the history to whoever tells a story and to the races."""
        calls: list[list[Any]] = [[] for _ in range(EVENT_KINDS)]
        for race in self.races:
            for kind in race.kinds:
                calls[kind].append(race.page_event)  # type: ignore[attr-defined]
        if not any(calls):
            return listener

        def event(time_ns: int, cpu: int, kind: int, pfn: int, order: int) -> None:
            if listener is not None:
                listener(time_ns, cpu, kind, pfn, order)
            for call in calls[kind]:
                call(cpu, kind, pfn, order)

        return event

    def _complain(self, rule: str, kind: str, text: str, pfn: int, pages: int) -> None:
        self.violate(rule, text, kind, pfn, pages)

    def _notice(self, event: int, pfn: int, order: int) -> None:
        zone = self.guest.zone_of(pfn)
        if event == EVENT_ISOLATED:
            self.watcher.isolated(zone, pfn, order)
        else:
            self.watcher.put_back(zone, pfn, order)

    def _lock_event(self, what: str, lock: Any) -> None:
        if what == "take":
            self.watcher.lock_taken(lock)
        else:
            self.watcher.lock_released(lock)

    def discarded(self, pfn: int, pages: int) -> None:
        """An event of the watcher's: the memory of some pages goes."""
        self.auditor.discarded(pfn, pages)

    def dropped(self, reason: str, count: int) -> None:
        """An event of the watcher's: a hint was lost, for the block that a hook told of."""
        name, arguments = self.hook
        if name == "block_freed":
            self.dropped_blocks.add((arguments[3], arguments[4]))

    def was_dropped(self, pfn: int, order: int) -> bool:
        """Whether a block is, or is part of, or has a part of one whose hint was dropped."""
        end = pfn + (1 << order)
        return any(first < end and pfn < first + (1 << size) for first, size in self.dropped_blocks)

    @property
    def context_name(self) -> str:
        """Who runs."""
        current = self.scheduler.current
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
            name = self.hook[0]
            if name == "free_completed":
                return bool(self.config.kernel == "5.0")
            return name in ("block_merged", "block_freed", "block_taken")
        if current.kind == "interrupt" or current.interrupts_off:
            return True
        number = self.machine.clock.context
        return any(zone.lock.held and zone.lock.holder == number for zone in self.machine.zones)

    def name_of(self, number: int) -> str:
        """The name of the context with a number."""
        interrupts = (cpu.interrupt for cpu in self.scheduler.processors.cpus)
        for context in (*self.scheduler.contexts, *self.scheduler.hooks, *interrupts):
            if context is not None and context.number == number:
                return f"{context.kind} {context.name}"
        return f"vCPU {number}"

    def tell(self, what: str, text: str) -> None:
        """Add a line to the story, if anybody listens."""
        if self.told is not None:
            self.told(what, text)

    def _line(self) -> str:
        """The innermost line of the strategy's file that is being executed."""
        frame = sys._getframe(1)
        step: Any = frame
        while step is not None:
            if step.f_code.co_filename == self.strategy_file:
                name = self.strategy_file.replace("\\", "/").rsplit("/", 1)[-1]
                return f"{name}:{step.f_lineno} in {step.f_code.co_name}"
            step = step.f_back
        return ""

    def _cover(self) -> None:
        """What the run held."""
        host, processors = self.guest.host, self.scheduler.processors
        self.outcome.coverage.update(
            reports=host.reported_batches,
            contended_takes=sum(zone.lock.contended for zone in self.machine.zones),
            preemptions=self.preemptions.taken,
            interrupts=processors.interrupts_taken,
            faults=sum(self.faults.happened.values()),
            operations=self.machine.simulation.operations,
        )


def _join(
    first: Callable[[str, Any], None] | None, second: Callable[[str, Any], None]
) -> Callable[[str, Any], None]:
    """Two observers of a lock as one."""
    if first is None:
        return second

    def both(what: str, lock: Any) -> None:
        first(what, lock)
        second(what, lock)

    return both


def _file_of(strategy: object) -> str:
    """The file a strategy's class was written in."""
    module = sys.modules.get(type(strategy).__module__)
    return str(getattr(module, "__file__", "") or "")
