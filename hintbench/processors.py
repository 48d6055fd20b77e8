"""Who has a vCPU: interrupt before task before tape.

A vCPU belongs to one context at a time.  A task takes its time from the tape, which is put off by
as much; an interrupt runs to its end before anything else of its vCPU.  While a vCPU spins, holds
a lock, has interrupts off or is out of the guest, whoever else wants it waits here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from hintbench.contexts import INTERRUPT, RANK_INTERRUPT, Context, Cpu
from hintbench.core.constants import NEVER

if TYPE_CHECKING:
    from hintbench.accounting import Accounts
    from hintbench.core.simulation import Simulation

_FIRST_INTERRUPT_NUMBER = 1 << 40


class Driver(Protocol):
    """Who runs the contexts."""

    def resume(self, context: Context, began_ns: int | None = None) -> bool:
        """Go on with a context that has its CPU, and uses it since ``began_ns``."""

    def come_back(self, context: Context, at_ns: int) -> None:
        """Have a context that has its CPU go on at a virtual time."""


class Processors:
    """The vCPUs of one simulation, shared among tapes, tasks and interrupts.

    Args:
        simulation: the core's state; its clocks are those of the tapes.
        irqs_off_until_ns: by CPU, until when its interrupts are off as far as is known.
        driver: runs the contexts.
        accounts: learns how long interrupts were off.
        interrupt_ns: the cost of taking an interrupt.
        switch_ns: the cost of switching to a task.

    Attributes:
        hooks: by CPU, the hook of its tape that waits.
    """

    def __init__(
        self,
        simulation: Simulation,
        irqs_off_until_ns: Any,
        driver: Driver,
        accounts: Accounts,
        *,
        interrupt_ns: int,
        switch_ns: int,
    ) -> None:
        self.simulation = simulation
        self.clock = simulation.clock
        self.irqs_off_until_ns = irqs_off_until_ns
        self.driver = driver
        self.accounts = accounts
        self.interrupt_ns = interrupt_ns
        self.switch_ns = switch_ns
        self.cpus = [Cpu() for _ in simulation.vcpus]
        self.hooks: list[Context | None] = [None] * len(simulation.vcpus)
        self.interrupts_taken = 0

    # -- tasks ----------------------------------------------------------------------------------

    def make_ready(self, context: Context, at_ns: int) -> None:
        """A task wants to run from ``at_ns`` on."""
        self.simulation.schedule(at_ns, context.rank, context.cpu, lambda: self._ready(context))

    def _ready(self, context: Context) -> None:
        """A task may run: at once, or when its CPU is free for it."""
        if context.cpu < 0:
            self.driver.resume(context)
            return
        cpu = self.cpus[context.cpu]
        if cpu.occupant is not None or self._blocked(context.cpu) or cpu.runnable:
            cpu.runnable.append(context)
            return
        self._dispatch(context)

    def _dispatch(self, context: Context) -> None:
        cpu = self.cpus[context.cpu]
        now: int = self.clock.now
        start = max(now, self.irqs_off_until_ns[context.cpu], cpu.free_at)
        if start > now:
            if cpu.runnable:
                # Behind the others it would wait for a release that never comes.
                number = context.cpu
                cpu.runnable.appendleft(context)
                self.simulation.schedule(start, context.rank, number, lambda: self._release(number))
            else:
                self.make_ready(context, start)
            return
        cpu.occupant = context
        self._save_tape(context.cpu)
        self.clock.now += self.switch_ns
        self.driver.resume(context, now)

    def _save_tape(self, number: int) -> None:
        cpu = self.cpus[number]
        cpu.saved = self.simulation.clock_of(number)
        cpu.woken = False
        cpu.began = self.clock.now
        self.simulation.set_clock(number, NEVER)

    def _restore_tape(self, number: int) -> None:
        """The tape has its CPU back, as much later as the others used it."""
        cpu = self.cpus[number]
        now = self.clock.now
        if cpu.saved >= NEVER:
            return
        if cpu.woken or self.simulation.vcpus[number].idle:
            self.simulation.set_clock(number, max(cpu.saved, now))
        else:
            self.simulation.set_clock(number, cpu.saved + now - cpu.began)

    def wake_tape(self, number: int, at_ns: int) -> None:
        """What a tape waited for has come: it goes on as soon as it has its vCPU."""
        cpu = self.cpus[number]
        if cpu.taken:
            cpu.saved, cpu.woken = at_ns, True
        else:
            self.simulation.set_clock(number, max(at_ns, cpu.free_at))

    def vacate(self, context: Context) -> None:
        """A task gives its CPU away."""
        if context.cpu < 0:
            return
        cpu = self.cpus[context.cpu]
        if cpu.occupant is context:
            cpu.occupant = None
            cpu.free_at = self.clock.now
            if cpu.interrupt is None:
                self._restore_tape(context.cpu)
        self.release_soon(context.cpu)

    def release_soon(self, number: int) -> None:
        """Whoever waits for the CPU gets it as the next event, not inside this step."""
        if number < 0:
            return
        cpu = self.cpus[number]
        if cpu.interrupts or cpu.runnable:
            self.simulation.schedule(
                self.clock.now, RANK_INTERRUPT, number, lambda: self._release(number)
            )

    def _release(self, number: int) -> None:
        """A CPU may be free: interrupts first, then the next task."""
        cpu = self.cpus[number]
        while cpu.interrupts and cpu.interrupt is None and self._takes_interrupts(number):
            name, handler = cpu.interrupts.popleft()
            self._interrupt(number, name, handler)
        if cpu.runnable and cpu.occupant is None and not self._blocked(number):
            self._dispatch(cpu.runnable.popleft())

    def _blocked(self, number: int) -> bool:
        """Whether the vCPU cannot run a task: in an interrupt, spinning, or out of the guest."""
        context = self.hooks[number]
        if self.cpus[number].interrupt is not None:
            return True
        return context is not None and context.parked != "sleep"

    def _takes_interrupts(self, number: int) -> bool:
        for context in (self.hooks[number], self.cpus[number].occupant):
            if context is None or context.parked == "sleep":
                continue
            if context.interrupts_off or context.parked == "held":
                return False
        return True

    # -- interrupts -----------------------------------------------------------------------------

    def deliver(self, number: int, name: str, handler: Callable[[], Any]) -> None:
        """Raise an interrupt on a vCPU: it runs when the vCPU has interrupts on.

        Args:
            number: the vCPU.
            name: for messages.
            handler: called in hard-interrupt context; may return a coroutine that spins.
        """
        self._interrupt_at(self.clock.now, number, name, handler)

    def _interrupt_at(self, at_ns: int, number: int, name: str, handler: Callable[[], Any]) -> None:
        self.simulation.schedule(
            at_ns, RANK_INTERRUPT, number, lambda: self._interrupt(number, name, handler)
        )

    def _interrupt(self, number: int, name: str, handler: Callable[[], Any]) -> None:
        cpu = self.cpus[number]
        if cpu.interrupt is not None or not self._takes_interrupts(number):
            cpu.interrupts.append((name, handler))
            return
        now: int = self.clock.now
        start = max(now, self.irqs_off_until_ns[number])
        if start > now:
            self._interrupt_at(start, number, name, handler)
            return
        self.interrupts_taken += 1
        identity = _FIRST_INTERRUPT_NUMBER + self.interrupts_taken
        context = Context(as_coroutine(handler), INTERRUPT, number, identity, name)
        context.interrupts_off = 1
        cpu.interrupt = context
        cpu.interrupted_at = now
        if cpu.occupant is None:
            self._save_tape(number)
        else:
            cpu.was_busy = cpu.occupant.parked in ("lock", "ready")
        self.clock.now += self.interrupt_ns
        self.driver.resume(context, now)

    def end_interrupt(self, context: Context) -> None:
        """An interrupt handler has returned."""
        number = context.cpu
        cpu = self.cpus[number]
        cpu.interrupt = None
        now: int = self.clock.now
        self.accounts.irqs_off(context.payer, cpu.interrupted_at, now)
        cpu.free_at = max(cpu.free_at, now)
        self.irqs_off_until_ns[number] = max(self.irqs_off_until_ns[number], now)
        if cpu.occupant is None:
            self._restore_tape(number)
        elif cpu.postponed:
            cpu.postponed = False
            self.driver.come_back(cpu.occupant, now)
        elif cpu.was_busy:
            cpu.occupant.delay_ns += now - cpu.interrupted_at
        cpu.was_busy = False
        self.release_soon(number)

    def kick_others(self, cost_ns: int) -> int:
        """A remote TLB flush costs every running vCPU ``cost_ns``; how many there were.

        Those that are out of the guest, such as the one that reports synchronously, or that have
        nothing to do flush when they come back.
        """
        kicked = 0
        for number in range(len(self.cpus)):
            if self._in_guest(number):
                kicked += 1
                self._delay(number, cost_ns)
        return kicked

    def _in_guest(self, number: int) -> bool:
        """Whether a vCPU runs: not idle, and not out of the guest."""
        cpu, hook = self.cpus[number], self.hooks[number]
        if cpu.taken:
            return cpu.occupant is None or cpu.occupant.parked != "held"
        if hook is not None:
            return hook.parked not in ("held", "sleep")
        if cpu.free_at > self.clock.now:
            return True
        vcpu = self.simulation.vcpus[number]
        return not vcpu.idle and self.simulation.clock_of(number) < NEVER

    def _delay(self, number: int, cost_ns: int) -> None:
        cpu = self.cpus[number]
        top = cpu.interrupt or cpu.occupant
        if top is not None:
            if top.parked in ("lock", "ready"):
                top.delay_ns += cost_ns
            return
        at_ns = self.simulation.clock_of(number)
        if at_ns < NEVER and not self.simulation.vcpus[number].idle:
            self.simulation.set_clock(number, at_ns + cost_ns)

    def interrupts_were_off(self, number: int, since_ns: int, payer: str) -> None:
        """A vCPU had interrupts off until now, which may be ahead of what waits for it."""
        self.accounts.irqs_off(payer, since_ns, self.clock.now)
        self.irqs_off_until_ns[number] = max(self.irqs_off_until_ns[number], self.clock.now)
        self.release_soon(number)

    def standstill(self) -> tuple[int, ...] | None:
        """The clocks of all tapes if none of them can go on by itself, else None.

        Each has ended, or waits for somebody, or somebody else has its vCPU. The same clocks
        again much later mean that nobody will ever let them go on.
        """
        if any(self.simulation.clock_of(number) < NEVER for number in range(len(self.cpus))):
            return None
        return tuple(cpu.saved if cpu.taken else NEVER for cpu in self.cpus)


async def as_coroutine(handler: Callable[[], Any]) -> None:
    """Run a plain function as a context; it may return a coroutine."""
    waiting = handler()
    if waiting is not None:
        await waiting
