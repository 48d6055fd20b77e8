"""A run in which others come between the parts of an edit that nobody locked."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from hintbench.core import machine as core_machine
from hintbench.core.audit import PageFollower
from hintbench.core.consistency import list_fault
from hintbench.core.constants import NEVER
from hintbench.core.contexts import HOOK
from hintbench.core.preemption import Preemptions
from hintbench.core.scheduler import NO_HOOK
from hintbench.core.tearing import Between
from hintbench.testing.runs.watched import WatchedRun

if TYPE_CHECKING:
    from hintbench.core.contexts import Context
    from hintbench.guest.watching import Watcher
    from hintbench.strategy import Strategy
    from hintbench.testing.scenarios.scenario import Scenario

MOST_NESTED: Final = 2
"""How deep steps may stand inside each other."""
SPIN_LIMIT_NS: Final = 500_000_000
"""Longer than any host of an explored run takes for a report, faults included [virtual ns]."""
FIRST_SLICE_NS: Final = 1_000
"""How soon it is asked for the first time whether an interrupt has ended, then ever later."""


class NestedRun(WatchedRun):
    """Its contexts are late where the scenario says so, also in the middle of such an edit.

    Args:
        strategy: a fresh instance.
        scenario: what happens.
        tolerated: rules whose violation does not end the run: those the strategy declares.
        told: called with what happens besides the history's events: (what, text).

    Attributes:
        preemptions: who is late where.
        depth: how many edits stand inside each other now.
        inside: of the races that look at nothing but what others do inside a step.
    """

    watcher: Watcher

    def __init__(
        self,
        strategy: Strategy,
        scenario: Scenario,
        tolerated: frozenset[str] = frozenset(),
        told: Callable[[str, str], None] | None = None,
    ) -> None:
        super().__init__(strategy, scenario, tolerated, told)
        self.depth = 0
        self.inside: list[PageFollower] = []
        self._reached_ns = 0
        self.preemptions = Preemptions(scenario.preemptions)
        self._preempt = Between(self.preemptions, self._late, self._edited)

    def _late(self, part: str, delay_ns: int) -> None:
        """Between two parts of an unlocked edit, before this one: others run for so long."""
        self.tell("preempted", f"preempted for {delay_ns:,} ns before it can {part}")
        self.watcher.edit_preempted(part)
        self._run_others(delay_ns)

    def _edited(self) -> None:
        """After the last part of an unlocked edit."""
        if self.depth == 0:
            self.check_lists()

    def _looked(self) -> None:
        """The strategy has looked at free lists without their lock: what it saw may be over."""
        self._let_others_in("act on a look without the lock")

    def overtaken(self, part: str) -> None:
        """An event of the watcher's: the strategy has touched what CPUs share, and others may come.

        Not while anybody holds a lock: those who wait for it would run into it.
        """
        if not any(lock.held for lock in self.locks):
            self._let_others_in(part)

    def _let_others_in(self, part: str) -> None:
        current = self.scheduler.current
        if self.dead or (current is None and not self.hook[0]) or self.machine.clock.cpu < 0:
            # Nobody's of the strategy; or a host's, whose lock others would find taken.
            return
        if current is None or not (current.parked or current.kernel):
            self._preempt(part)

    def _run_others(self, delay_ns: int) -> None:
        """Everybody but the running context goes on for a while, inside its step."""
        simulation, clock, scheduler = self.machine.simulation, self.machine.clock, self.scheduler
        until_ns = clock.now + delay_ns
        holds = any(lock.held for lock in self.locks)
        if holds or self.depth >= MOST_NESTED:
            clock.now = until_ns
            return
        where = clock.cpu, clock.payer, clock.context
        outer, off = scheduler.current, scheduler.off_in_hook
        hook, off_by_hook = scheduler.plain_hook, scheduler.off_by_hook
        if outer is not None:
            scheduler.takes.end(outer)
        key, suspended = NEVER, 0
        if clock.cpu >= 0:
            # Inside another's step an interrupt might spin for that one, which cannot go on before.
            reached = self.depth == 0 and not self.interrupts_off
            suspended = scheduler.processors.suspend(clock.cpu, reached)
            key = simulation.clock_of(clock.cpu)
            simulation.set_clock(clock.cpu, NEVER)
        scheduler.current, scheduler.off_in_hook = None, 0
        scheduler.plain_hook, scheduler.off_by_hook = NO_HOOK, False
        flags = [(zone, zone.quiet) for zone in self.machine.zones]
        self._step_inside(1)
        try:
            core_machine.run_until(simulation, until_ns)
            if where[0] >= 0:
                until_ns = self._end_interrupt(where[0], outer, until_ns)
            # Who was preempted meanwhile may have let everybody run further than that.
            until_ns = self._reached_ns = max(until_ns, self._reached_ns)
        finally:
            self._step_inside(-1)
            for zone, quiet in flags:
                zone.quiet = quiet
            scheduler.current, scheduler.off_in_hook = outer, off
            scheduler.plain_hook, scheduler.off_by_hook = hook, off_by_hook
            clock.cpu, clock.payer, clock.context = where
            clock.now = until_ns
            if clock.cpu >= 0:
                if key < NEVER:
                    simulation.set_clock(clock.cpu, key)
                scheduler.processors.resume_suspended(clock.cpu, suspended)

    def _step_inside(self, deeper: int) -> None:
        """Others run inside a step, or do no longer: some races look at nothing else."""
        self.depth += deeper
        for follower in self.inside:
            follower.armed = self.depth > 0

    def _end_interrupt(self, number: int, outer: Context | None, until_ns: int) -> int:
        """Let an interrupt that has come to a CPU end before what it interrupted goes on.

        Args:
            number: the CPU.
            outer: what stands in the middle of its step there; perhaps an interrupt itself.
            until_ns: up to when everybody has run.

        Returns:
            When what was interrupted goes on.
        """
        cpu = self.scheduler.processors.cpus[number]
        limit_ns, slice_ns = until_ns + SPIN_LIMIT_NS, FIRST_SLICE_NS
        while cpu.interrupt is not None and cpu.interrupt is not outer:
            if until_ns > limit_ns:
                text = f"{cpu.interrupt.name} spins on CPU {number} for what it has interrupted"
                self.violate("progress-under-spin", text, "deadlock")
            until_ns += slice_ns
            slice_ns *= 2
            core_machine.run_until(self.machine.simulation, until_ns)
        return max(until_ns, int(self.machine.irqs_off_until_ns[number]))

    def check_lists(self) -> None:
        """Whether the free lists are in order; they must be whenever nobody edits them."""
        for zone in self.machine.zones:
            fault = list_fault(zone)
            if fault is not None and not self._merge_waits():
                self.violate("conservation", fault[1], fault[0])

    def _merge_waits(self) -> bool:
        """Whether a hook has dropped the lock in the middle of a merge: the block is on no list."""
        # The payer tells a hook from a task of the strategy's that has the same name.
        return any(
            each.name == "block_merged" and each.payer == HOOK
            for each in self.scheduler.everybody()
        )
