"""How an explored run ends: settled, stopped, stuck, with tasks that do not end, or abandoned."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from hintbench.core import machine as core_machine
from hintbench.core.processors import as_coroutine
from hintbench.core.zone import dismantle
from hintbench.runner import STOP_LIMIT_NS
from hintbench.testing.runs.nested import SPIN_LIMIT_NS, NestedRun
from hintbench.testing.runs.outcome import ScheduleStoppedError
from hintbench.testing.runs.untold import untold_blocks, untold_huge_pages

if TYPE_CHECKING:
    from hintbench.core.contexts import Context
    from hintbench.errors import HintbenchError, TaskLeakError
    from hintbench.strategy import Claims
    from hintbench.testing.checker import Checker
    from hintbench.testing.runs.faults import Faults

FIRST_LOOK_NS: Final = 1_000_000
"""How soon after the last operation it is asked whether all is told, then ever later."""


class EndedRun(NestedRun):
    """It asks its checkers at every end that it comes to.

    Attributes:
        claims: what the strategy says of itself.
        checkers: who is asked.
        faults: what goes wrong.
        auditor: who has each page.
        settled: the time that the strategy claims to need has passed.
    """

    claims: Claims
    checkers: list[Checker]
    faults: Faults
    auditor: Any
    settled: bool

    # -- settled --------------------------------------------------------------------------------

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
        self._look_for_spinners()
        for checker in self.checkers:
            checker.at_settled()
        return int(simulation.clock.now)

    def _look_for_spinners(self) -> None:
        """Whoever has spun for so long will never stop, and holds up what others have to do.

        Raises:
            ScheduleStoppedError: somebody has, and the strategy does not declare it.
        """
        now = int(self.machine.clock.now)
        for each in self._spinning():
            if now - each.parked_at > SPIN_LIMIT_NS:
                text = f"{each.name} on CPU {each.cpu} has spun since {each.parked_at:,} ns"
                self.violate("progress-under-spin", text, "deadlock")

    def _spinning(self) -> list[Context]:
        """Everybody who spins now."""
        return [each for each in self.scheduler.everybody() if each.parked == "spin"]

    def _idle(self) -> bool:
        """Whether all that could be told is told, and nothing is under way.

        Who claims no time gets what a run's end has, or until no huge page is untold.
        """
        flags = self.guest.flag_sets.values()
        untold = untold_blocks(self)
        if self.claims.liveness_bound_ns is None and not self.claims.reports_nothing:
            untold = untold_huge_pages(self)
        return (
            not any(zone.isolated_pages for zone in self.machine.zones)
            and not any(each.count for each, meaning in flags if meaning == "in-flight")
            and not self.guest.host.has_completions
            and next(untold, None) is None
        )

    # -- stopped --------------------------------------------------------------------------------

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

    # -- not as it should -----------------------------------------------------------------------

    def _leaked(self, error: TaskLeakError) -> None:
        """Tasks do not end: perhaps they wait for what another rule knows to be lost."""
        try:
            self._look_for_spinners()
            for checker in self.checkers:
                checker.at_stuck()
        except ScheduleStoppedError:
            pass
        known = ("returned", "completion-once", "progress-under-spin")
        if self.outcome.counts.keys().isdisjoint(known):
            self._quietly("teardown", str(error), "tasks")

    def _explain_endless(self) -> bool:
        """Steps are taken without end: whether that breaks rules, and is not merely a loop."""
        for look in (self._look_for_spinners, *(each.at_endless for each in self.checkers)):
            try:
                look()
            except ScheduleStoppedError:
                continue
        return bool(self.outcome.counts)

    def _stuck(self) -> HintbenchError:
        """Nothing can go on: a spinner that nobody ends is a rule of its own."""
        error = super()._stuck()
        if spinning := self._spinning():
            names = ", ".join(f"{each.name} on CPU {each.cpu}" for each in spinning)
            self._quietly("progress-under-spin", f"{names} spin for ever", "deadlock")
        for checker in self.checkers:
            checker.at_stuck()
        return error

    def _abandon(self) -> None:
        """Close what is still suspended, so that none of it runs during the next schedule."""
        self.dead = True
        self.scheduler.close()

    def dismantle(self) -> None:
        """Take the run apart: it is a knot of references, and looking for those costs a tenth."""
        machine, guest, scheduler = self.machine, self.guest, self.scheduler
        simulation: Any = machine.simulation
        simulation.hooks = simulation.driver = None
        simulation.events.clear()
        for zone in machine.zones:
            dismantle(zone)
        clock: Any = machine.clock
        clock.digest.listener = None
        for flags, _ in guest.flag_sets.values():
            known: Any = flags
            known.guest = known.on_clear = known.watcher = known.split = None
        scheduler.dismantle()
        parts = (*self.checkers, guest.host, guest, scheduler.rules)
        for part in (*parts, scheduler, self.threads, self.faults, self.watcher, machine, self):
            part.__dict__.clear()
