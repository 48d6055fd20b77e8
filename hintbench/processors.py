"""Who has a vCPU: interrupt before task before tape.

A vCPU belongs to one context at a time.  A task takes its time from the tape, which is put off by
as much; an interrupt runs to its end before anything else of its vCPU.  While a vCPU spins, holds
a lock, has interrupts off or is out of the guest, whoever else wants it waits here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from hintbench.contexts import INTERRUPT, RANK_INTERRUPT, RANK_TASK, Context, Cpu
from hintbench.core.constants import NEVER

if TYPE_CHECKING:
    from hintbench.core.simulation import Simulation

_FIRST_INTERRUPT_NUMBER = 1 << 40


class Processors:
    """The vCPUs of one simulation, shared among tapes, tasks and interrupts.

    Args:
        simulation: the core's state; its clocks are those of the tapes.
        irqs_off_until_ns: by CPU, until when its last lock hold or spin had interrupts off.
        resume: goes on with a context that has its CPU.
        begin: starts the context of an interrupt.
        interrupt_ns: the cost of taking an interrupt.
        switch_ns: the cost of switching to a task.
    """

    def __init__(
        self,
        simulation: Simulation,
        irqs_off_until_ns: Any,
        resume: Callable[[Context], object],
        begin: Callable[[Context], object],
        *,
        interrupt_ns: int,
        switch_ns: int,
    ) -> None:
        self.simulation = simulation
        self.clock = simulation.clock
        self.irqs_off_until_ns = irqs_off_until_ns
        self.resume = resume
        self.begin = begin
        self.interrupt_ns = interrupt_ns
        self.switch_ns = switch_ns
        self.cpus = [Cpu() for _ in simulation.vcpus]
        self.hooks: list[Context | None] = [None] * len(simulation.vcpus)
        self.interrupts_taken = 0

    # -- tapes ----------------------------------------------------------------------------------

    def wake_tape(self, number: int, at_ns: int) -> None:
        """A vCPU's tape, or the hook it waits in, goes on at ``at_ns`` or when it has its CPU."""
        cpu = self.cpus[number]
        if cpu.occupant or cpu.interrupt:
            cpu.saved, cpu.woken = at_ns, True
        else:
            self.simulation.set_clock(number, at_ns)

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

    # -- tasks ----------------------------------------------------------------------------------

    def make_ready(self, context: Context, at_ns: int) -> None:
        """A task wants to run from ``at_ns`` on."""
        context.timer = self.simulation.schedule(
            at_ns, RANK_TASK, context.cpu, lambda: self._ready(context)
        )

    def _ready(self, context: Context) -> None:
        """A task may run: at once, or when its CPU is free for it."""
        if context.cpu < 0:
            self.resume(context)
            return
        cpu = self.cpus[context.cpu]
        if cpu.occupant is not None or self._blocked(context.cpu) or cpu.runnable:
            cpu.runnable.append(context)
            return
        self._dispatch(context)

    def _dispatch(self, context: Context) -> None:
        cpu = self.cpus[context.cpu]
        start = max(self.clock.now, self.irqs_off_until_ns[context.cpu], cpu.busy_until_ns)
        if start > self.clock.now:
            self.make_ready(context, start)
            return
        cpu.occupant = context
        self._save_tape(context.cpu)
        self.clock.now += self.switch_ns
        self.resume(context)

    def vacate(self, context: Context) -> None:
        """A task gives its CPU away."""
        if context.cpu < 0:
            return
        cpu = self.cpus[context.cpu]
        if cpu.occupant is context:
            cpu.occupant = None
            # A task computes at once: until then its CPU is taken.
            cpu.busy_until_ns = self.clock.now
            if cpu.interrupt is None:
                self._restore_tape(context.cpu)
        self.release_soon(context.cpu)

    def release_soon(self, number: int) -> None:
        """Whoever waits for the CPU gets it as the next event, not inside this step."""
        cpu = self.cpus[number]
        if cpu.interrupts or cpu.runnable:
            self.simulation.schedule(
                self.clock.now, RANK_INTERRUPT, number, lambda: self._release(number)
            )

    def _release(self, number: int) -> None:
        """A CPU may be free: interrupts first, then the next task."""
        cpu = self.cpus[number]
        while cpu.interrupts and self._takes_interrupts(number) and cpu.interrupt is None:
            name, handler = cpu.interrupts.popleft()
            self.deliver(number, name, handler)
        if cpu.runnable and cpu.occupant is None and not self._blocked(number):
            self._dispatch(cpu.runnable.popleft())

    def _blocked(self, number: int) -> bool:
        """Whether the vCPU cannot run a task: in an interrupt, spinning, or out of the guest."""
        context = self.hooks[number]
        if self.cpus[number].interrupt is not None:
            return True
        return context is not None and context.parked != "sleep"

    # -- interrupts -----------------------------------------------------------------------------

    def _takes_interrupts(self, number: int) -> bool:
        for context in (self.hooks[number], self.cpus[number].occupant):
            if context is None or context.parked == "sleep":
                continue
            if context.interrupts_off or context.parked in ("held", "lock"):
                return False
        return True

    def deliver(self, number: int, name: str, handler: Callable[[], Any]) -> None:
        """Raise an interrupt on a vCPU: it runs when the vCPU has interrupts on."""
        cpu = self.cpus[number]
        if cpu.interrupt is not None or not self._takes_interrupts(number):
            cpu.interrupts.append((name, handler))
            return
        start = max(self.clock.now, self.irqs_off_until_ns[number])
        if start > self.clock.now:
            self.simulation.schedule(
                start, RANK_INTERRUPT, number, lambda: self.deliver(number, name, handler)
            )
            return
        self.interrupts_taken += 1
        identity = _FIRST_INTERRUPT_NUMBER + self.interrupts_taken
        context = Context(_as_coroutine(handler), INTERRUPT, number, identity, name)
        context.interrupts_off = 1
        cpu.interrupt = context
        context.parked_at = self.clock.now
        if cpu.occupant is None:
            self._save_tape(number)
        self.clock.now += self.interrupt_ns
        self.begin(context)

    def end_interrupt(self, context: Context) -> None:
        """An interrupt handler has returned."""
        number = context.cpu
        cpu = self.cpus[number]
        cpu.interrupt = None
        self.irqs_off_until_ns[number] = max(self.irqs_off_until_ns[number], self.clock.now)
        if cpu.occupant is None:
            self._restore_tape(number)
        elif cpu.occupant.parked in ("lock", "ready"):
            cpu.occupant.delay_ns += self.clock.now - context.parked_at
        self.release_soon(number)

    def kick_others(self, but: int, cost_ns: int) -> int:
        """A remote TLB flush interrupts every running vCPU; how many there were."""
        kicked = 0
        for vcpu in self.simulation.vcpus:
            number = vcpu.number
            if number == but or vcpu.idle:
                continue
            cpu = self.cpus[number]
            if cpu.occupant or cpu.interrupt:
                if cpu.saved < NEVER:
                    cpu.saved += cost_ns
                    kicked += 1
                continue
            at_ns = self.simulation.clock_of(number)
            if at_ns < NEVER:
                self.simulation.set_clock(number, at_ns + cost_ns)
                kicked += 1
        return kicked


async def _as_coroutine(handler: Callable[[], Any]) -> None:
    """Run a plain function as a context; it may return a coroutine."""
    waiting = handler()
    if waiting is not None:
        await waiting
