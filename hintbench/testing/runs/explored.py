"""One run of a scenario, with every rule's checker looking on.

It differs from an ordinary run in four ways: contexts are late where the scenario says so, faults
happen, an edit without its lock is carried out in parts with others in between, and the first
violation of a rule that the strategy does not declare ends it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from hintbench.core import machine as core_machine
from hintbench.core.audit import Auditor
from hintbench.core.blocksout import BlocksOut
from hintbench.core.constants import EVENT_ISOLATED
from hintbench.core.guarding import HookWatch
from hintbench.core.preemption import EndlessRunError
from hintbench.core.tearing import Tear
from hintbench.errors import HintbenchError, PluginError, TaskLeakError
from hintbench.guest.watching import Watcher
from hintbench.plugins.forgotten import explains, forgotten_awaits
from hintbench.testing.checker import Checker
from hintbench.testing.runs.endings import EndedRun
from hintbench.testing.runs.faults import Faults
from hintbench.testing.runs.integrity import Seal
from hintbench.testing.runs.outcome import Outcome, ScheduleStoppedError, Violation
from hintbench.testing.scenarios.faults import AT_RESTORE, IN_HAND
from hintbench.testing.scenarios.scenario import Scenario

if TYPE_CHECKING:
    from hintbench.core.zone import Zone
    from hintbench.host.reports import Completion
    from hintbench.strategy import Strategy
    from hintbench.testing.races.race import Race

LATE_LIMIT_NS: Final = 10_000_000_000
"""How long after the stop something may still happen that should not [virtual ns]."""
EVENT_KINDS: Final = 16
"""More than there are kinds of events in the history."""
OFF_IN_HOOKS: Final = frozenset({"block_merged", "block_freed", "block_taken"})
"""Hooks that run under the zone lock, with interrupts off."""


@dataclass(slots=True)
class _Deferred:
    """What would be a violation if forgotten blocks came back after all, more than some pages."""

    violation: Violation
    spare: int
    lost: set[int]


class ExploredRun(EndedRun):
    """A run of a scenario under observation.

    Args:
        strategy: a fresh instance.
        scenario: what happens.
        checkers: classes of `Checker`, one for each rule that is checked.
        tolerated: rules whose violation does not end the run: those the strategy declares.
        journal: called with (time, CPU, kind, pfn, order) for every event; for stories.
        told: called with what happens besides: (what, text).
        races: what is looked for besides the rules.

    Attributes:
        auditor: who has each page.
        claims: what the strategy says of itself.
        settled: the time that the strategy claims to need has passed.
        stopped: guest_stopping has ended.
        dropped_blocks: pfn and order of the blocks whose hints the strategy said it dropped.
        states_made: how much state of its own it has made, by the rule that looks after it.
        stopping_ns: when it was told to stop; None before.
        out: the blocks that are isolated.
        origins: keep the line of every coroutine, to name that of a forgotten await.
    """

    flag_meanings = ("in-flight",)
    """Of the flags whose setting and clearing it hears of."""

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
        super().__init__(strategy, scenario, tolerated, told)
        self.claims = strategy.claims()
        self.origins = True
        self.settled = False
        self.stopped = False
        self.dropped_blocks: set[tuple[int, int]] = set()
        self.states_made = {"per-cpu": 0, "locked-state": 0}
        self.out = BlocksOut(self.scheduler, self.machine.clock)
        self._deferred: list[_Deferred] = []
        self.stopping_ns: int | None = None
        auditor: Any = Auditor(self.machine.pages.page_count, self._complain, self._notice)
        self.auditor = auditor
        self.auditor.begin(self.machine.zones)
        if self.claims.initial_flush:
            self.auditor.all_untold()
        clock: Any = self.machine.clock
        clock.digest.listener = self.auditor
        self.checkers = [checker(self) for checker in checkers]
        self.races: list[Race] = [race(self) for race in races]
        self.checkers += self.races
        self.auditor.journal = journal
        self._follow_pages()
        self._interrupted_in_hand = any(fault.kind in IN_HAND for fault in scenario.faults)
        if self._interrupted_in_hand:
            # An attribute, so that other runs do not hear of every mark.
            self.flag_set = self._marked
        if any(fault.kind == AT_RESTORE for fault in scenario.faults):
            self.scheduler.restored = self._interrupts_on
        self.listen()
        self.guest.on_violation = self.violate
        zones: list[Any] = self.machine.zones
        for zone in zones:
            zone.torn = Tear(self._preempt, self._looked)
        self.guest.host.torn = self._preempt
        self.faults = Faults(scenario.faults, self)
        self.faults.install()

    def listen(self, *others: object) -> None:
        """Have the checkers hear of events, and others before them; before the run begins."""
        self.watcher = Watcher((*others, self.out, *self.checkers, self))
        self.guest.watcher = self.watcher
        self.guest.host.watcher = self.watcher
        zones: list[Any] = self.machine.zones
        for zone in zones:
            zone.kept = self.watcher.kept

    # -- the run --------------------------------------------------------------------------------

    def explore(self) -> Outcome:
        """Run it to its end, or to the first violation that is not tolerated."""
        seal = Seal(self.guest)
        with forgotten_awaits(origins=self.origins) as forgotten:
            try:
                certain = self._to_its_end(forgotten)
            finally:
                self._abandon()
        if forgotten and certain:
            # What was meant to happen and did not is the likely cause of what then went wrong.
            self.outcome.error = str(PluginError(self.scheduler.plugin, "", forgotten[0]))
            self.outcome.violations.clear()
            self.outcome.counts.clear()
        self.outcome.forgotten = forgotten[0] if forgotten else ""
        if replaced := seal.broken(lasting=not self.outcome.violations):
            # What the checkers have seen of such a guest means nothing.
            self.outcome.error = (
                f"plugin {self.scheduler.plugin!r}: replaces {replaced}, which is not a strategy's"
                " to change: call the guest's services, and leave them as they are"
            )
        self._cover()
        self.outcome.digest = self.machine.clock.digest.hexadecimal()
        return self.outcome

    def _to_its_end(self, forgotten: list[str]) -> bool:
        """Run it; whether what it has forgotten to await by now would never have been awaited."""
        certain = True
        try:
            self._explore()
        except ScheduleStoppedError:
            # Who was cut short may have had the await before it.
            certain = bool(forgotten)
        except TaskLeakError as error:
            self._leaked(error)
        except EndlessRunError as error:
            now, where = int(self.machine.clock.now), self.context_name
            if not self._explain_endless():
                self.outcome.error = (
                    f"{self.scheduler.plugin}: {error} (at {now:,} virtual ns, {where})"
                )
        except HintbenchError as error:
            if not self.outcome.violations:
                self.outcome.error = str(error)
            certain = not forgotten or explains(forgotten[0], error)
        return certain and bool(forgotten)

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
            self.faults.stopping(int(end_ns))
            self._stop()
            self.stopped = True
            core_machine.run_until(simulation, int(simulation.clock.now) + LATE_LIMIT_NS)
            for checker in self.checkers:
                checker.at_end()
        except (HintbenchError, EndlessRunError, ScheduleStoppedError, KeyboardInterrupt):
            raise
        except BaseException as error:
            # Also what a plugin ends Python with: sys.exit() is not for it to call.
            raise self._blame(error) from error

    def _follow(self) -> None:
        """Nothing is measured here."""

    def _attach(self, hooks: Any) -> None:
        super()._attach(hooks)
        for name in ("page_freeing", "block_merged", "block_freed", "block_taken"):
            self._watch_hook(name)
        for name in ("free_completed", "page_allocated", "memory_low"):
            self._watch_hook(name)

    def _watch_hook(self, name: str) -> None:
        """Know which hook of the strategy runs."""
        point: Any = getattr(self.guest.hooks, name)
        if point is not None:
            off = name in OFF_IN_HOOKS or (name == "free_completed" and self.config.kernel == "5.0")
            told = self.watcher.of_hook(name)
            point.function = HookWatch(self.scheduler, name, point.function, off, told)

    # -- what happens ----------------------------------------------------------------------------

    def _follow_pages(self) -> None:
        """Have the auditor call each race for the events of its kinds."""
        calls: list[tuple[Any, ...]] = [()] * EVENT_KINDS
        for race in self.races:
            for kind in race.kinds:
                calls[kind] += (race.follower,)
            if race.inside_only:
                race.follower.armed = False
                self.inside.append(race.follower)
        if any(calls):
            self.auditor.page_calls = calls

    def provoked(self, race: Race, pfn: int = 0, pages: int = 0) -> None:
        """A race has happened: it need not see any more."""
        super().provoked(race, pfn, pages)
        self.watcher.forget(race)
        calls = self.auditor.page_calls
        for kind in race.kinds if calls is not None else ():
            calls[kind] = tuple(each for each in calls[kind] if each is not race.follower)

    def _complain(self, rule: str, kind: str, text: str, pfn: int, pages: int) -> None:
        self.violate(rule, text, kind, pfn, pages)

    def _notice(self, event: int, pfn: int, order: int) -> None:
        zone = self.machine.simulation.zone_of(pfn)
        if event == EVENT_ISOLATED:
            self.watcher.isolated(zone, pfn, order)
            if self._interrupted_in_hand:
                self.faults.in_hand(zone)
        else:
            self.watcher.put_back(zone, pfn, order)

    # -- what is judged later -------------------------------------------------------------------

    def defer(self, violation: tuple[Any, ...], spare: int, lost: list[int]) -> None:
        """A rule is broken only if blocks that seem to be forgotten are not: they may come back.

        If they never do, that is what `returned` and `teardown` say, and the rest follows from it:
        unless they are declared to get lost, which is no excuse for anything else.

        Args:
            violation: the arguments of `violate`.
            spare: how many pages may come back without it.
            lost: the first pages of those blocks.
        """
        if "returned" in self.tolerated:
            super().violate(*violation)
            return
        rule, text, *_ = violation
        self.tell("violation", f"{rule}: {text}, unless that is forgotten")
        self._deferred.append(_Deferred(self._violation(*violation), spare, set(lost)))

    def put_back(self, zone: Zone, pfn: int, order: int) -> None:
        """An event of the watcher's: a block comes back, so it was not forgotten."""
        broken = []
        for each in self._deferred:
            if pfn in each.lost:
                each.lost.discard(pfn)
                each.spare -= 1 << order
                if each.spare < 0:
                    broken.append(each)
        # Each of them knows of this block before the first may end the run.
        for each in broken:
            self._deferred.remove(each)
        for each in broken:
            self._not_forgotten(each.violation)

    def _not_forgotten(self, violation: Violation) -> None:
        """What was deferred is a violation, of the time when it happened."""
        rule, kind = violation.rule, violation.kind
        back = f"what it had in hand comes back at {int(self.machine.clock.now):,} ns"
        if not self.dead and (rule, kind) not in self.outcome.violations:
            self._enter(replace(violation, text=f"{violation.text}; {back}"))
        super().violate(rule, back, kind)

    def violate(self, rule: str, text: str, kind: str = "", pfn: int = 0, pages: int = 0) -> None:
        """As of any run; whether an allocation failed for what was forgotten is judged later."""
        if rule == "no-false-oom" and not kind and not self.dead:
            lost = self.out.idle(int(self.machine.clock.now))
            in_hand = sum(zone.pages_in_hand for zone in self.guest.zones)
            if lost and self.out.pages(lost) == in_hand:
                self.defer((rule, text, kind, pfn, pages), 0, lost)
                return
        super().violate(rule, text, kind, pfn, pages)

    def _marked(self, flags: Any, pfn: int, order: int) -> None:
        """An event of the watcher's: a unit is marked."""
        self.faults.in_hand(self.guest.zone_of(pfn))

    def flag_cleared(self, flags: Any, pfn: int, order: int) -> None:
        """An event of the watcher's: a mark is gone, which other CPUs may see before any more."""
        if not (self.dead or self._polls_in_event()):
            self._preempt("go on after clearing a mark")

    def fetched(self, completion: Completion) -> None:
        """An event of the watcher's: what it tells of is nobody's now but the running context's."""
        if self.dead or self._polls_in_event():
            return
        zone = self.guest.zone_of(completion.blocks[0].pfn) if completion.blocks else None
        if zone is not None and self.faults.at_answer(zone):
            self._let_interrupt_in()
        self._preempt("act on the answer it has fetched")

    def _interrupts_on(self) -> None:
        """A section with interrupts off has ended: one that waited comes before anything else."""
        if self.dead or self.depth or self.interrupts_off or self._polls_in_event():
            return
        if self.faults.at_restore():
            self._run_others(0)

    def overtaken(self, part: str) -> None:
        """An event of the watcher's: the strategy has touched what CPUs share."""
        reached = not (self.dead or self.depth or self.interrupts_off or self._polls_in_event())
        if reached and self.faults.in_between():
            self._run_others(0)
        super().overtaken(part)

    def _let_interrupt_in(self) -> None:
        """An interrupt has been raised in the middle of a step: it comes now, if it may."""
        if not (self.depth or self.interrupts_off):
            self._run_others(0)

    def _polls_in_event(self) -> bool:
        """Whether a spinner polls inside an event of the host's, which has woken it for that.

        Others must not run there: the host stands in the middle of its event, and that is earlier
        than what the spinner would be kept for; nobody may go on in the past of others.
        """
        current = self.scheduler.current
        return current is not None and bool(current.parked)

    def discarded(self, pfn: int, pages: int) -> None:
        """An event of the watcher's: the memory of some pages goes."""
        self.auditor.discarded(pfn, pages)

    def state_made(self, rule: str) -> None:
        """An event of the watcher's: the strategy has state of its own that a rule looks after."""
        self.states_made[rule] += 1

    def dropped(self, reason: str, count: int) -> None:
        """An event of the watcher's: a hint was lost, for the block that a hook told of."""
        name, arguments = self.hook
        if name == "block_freed":
            self.dropped_blocks.add((arguments[3], arguments[4]))

    def was_dropped(self, pfn: int, order: int) -> bool:
        """Whether a block is, or is part of, or has a part of one whose hint was dropped."""
        end = pfn + (1 << order)
        return any(first < end and pfn < first + (1 << size) for first, size in self.dropped_blocks)

    def _cover(self) -> None:
        """What the run held."""
        host, processors = self.guest.host, self.scheduler.processors
        self.outcome.coverage.update(
            self.states_made,
            reports=host.reported_batches + host.shared.takings + host.backing.claimed_blocks,
            contended_takes=sum(lock.contended for lock in self.locks),
            preemptions=self.preemptions.taken,
            interrupts=processors.interrupts_taken,
            faults=sum(self.faults.happened.values()),
            operations=self.machine.simulation.operations,
        )
