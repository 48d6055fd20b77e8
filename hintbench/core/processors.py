"""Who has a vCPU: interrupt before task before tape.

A vCPU belongs to one context at a time.  A task takes its time from the tape, which is put off by
as much; an interrupt runs to its end before anything else of its vCPU.  While a vCPU spins, holds
a lock, has interrupts off or is out of the guest, whoever else wants it waits here.
"""

from collections.abc import Callable
from typing import Any

import cython

if cython.compiled:
    from cython.cimports.hintbench.core.accounts import Accounts
    from cython.cimports.hintbench.core.constants import NEVER, RANK_INTERRUPT, ROLE_INTERRUPT
    from cython.cimports.hintbench.core.contexts import Context, Cpu
    from cython.cimports.hintbench.core.simulation import Simulation, requeue_at
    from cython.cimports.hintbench.core.vcpu import Vcpu
else:
    from hintbench.core.accounts import Accounts
    from hintbench.core.constants import NEVER, RANK_INTERRUPT, ROLE_INTERRUPT
    from hintbench.core.contexts import Context, Cpu
    from hintbench.core.simulation import Simulation, requeue_at
    from hintbench.core.vcpu import Vcpu

_FIRST_INTERRUPT_NUMBER = cython.declare(cython.longlong, 1 << 40)


@cython.final
@cython.cclass
class Processors:
    """The vCPUs of one simulation, shared among tapes, tasks and interrupts.

    Args:
        simulation: the core's state; its clocks are those of the tapes.
        irqs_off_until_ns: by CPU, until when its interrupts are off as far as is known.
        driver: runs the contexts: a :class:`hintbench.core.scheduler.CoreScheduler`.
        accounts: learns how long interrupts were off.
        interrupt_ns: the cost of taking an interrupt.
        switch_ns: the cost of switching to a task.

    Attributes:
        cpus: by number, who has it.
        hooks: by CPU, the hook of its tape that waits.
        interrupts_taken: how many.
    """

    def __init__(
        self,
        simulation: Simulation,
        irqs_off_until_ns: Any,
        driver: Any,
        accounts: Accounts,
        interrupt_ns: cython.longlong,
        switch_ns: cython.longlong,
    ) -> None:
        self.simulation = simulation
        self.clock = simulation.clock
        self.irqs_off_until_ns = irqs_off_until_ns
        self.driver = driver
        self.accounts = accounts
        self.interrupt_ns = interrupt_ns
        self.switch_ns = switch_ns
        self.cpus = [Cpu() for _ in simulation.vcpus]
        self.hooks = [None] * len(simulation.vcpus)
        self.interrupts_taken = 0

    def dismantle(self) -> None:
        """The run is over: let go of whoever knows it, or waits in it."""
        self.driver = None
        self.cpus.clear()
        self.hooks.clear()

    # -- tasks ----------------------------------------------------------------------------------

    def make_ready(self, context: Context, at_ns: cython.longlong) -> cython.int:
        """A task wants to run from ``at_ns`` on."""
        due = Ready(self, context)
        self.simulation.schedule(at_ns, context.rank_of(), context.cpu, due)
        return 0

    def _ready(self, context: Context) -> cython.int:
        """A task may run: at once, or when its CPU is free for it."""
        if context.cpu < 0:
            self.driver.resume(context)
            return 0
        cpu: Cpu = self.cpus[context.cpu]
        if cpu.occupant is not None or self._blocked(context.cpu) or len(cpu.runnable) > 0:
            cpu.runnable.append(context)
            return 0
        return self._dispatch(context)

    def _dispatch(self, context: Context) -> cython.int:
        cpu: Cpu = self.cpus[context.cpu]
        now: cython.longlong = self.clock.now
        start: cython.longlong = max(now, self.irqs_off_until_ns[context.cpu], cpu.free_at)
        if start > now:
            if len(cpu.runnable) > 0:
                # Behind the others it would wait for a release that never comes.
                cpu.runnable.insert(0, context)
                release = Release(self, context.cpu)
                self.simulation.schedule(start, context.rank_of(), context.cpu, release)
                return 0
            return self.make_ready(context, start)
        cpu.occupant = context
        self._save_tape(context.cpu)
        self.clock.now += self.switch_ns
        self.driver.resume(context, now)
        return 0

    def _save_tape(self, number: cython.int) -> cython.int:
        cpu: Cpu = self.cpus[number]
        cpu.saved = self.simulation.winner.keys[number]
        cpu.woken = False
        cpu.began = self.clock.now
        return requeue_at(self.simulation, number, NEVER)

    def _restore_tape(self, number: cython.int) -> cython.int:
        """The tape has its CPU back, as much later as the others used it."""
        cpu: Cpu = self.cpus[number]
        vcpu: Vcpu = self.simulation.vcpus[number]
        now: cython.longlong = self.clock.now
        if cpu.saved >= NEVER:
            return 0
        if cpu.woken or vcpu.idle:
            return requeue_at(self.simulation, number, max(cpu.saved, now))
        return requeue_at(self.simulation, number, cpu.saved + now - cpu.began)

    def wake_tape(self, number: cython.int, at_ns: cython.longlong) -> cython.int:
        """What a tape waited for has come: it goes on as soon as it has its vCPU."""
        cpu: Cpu = self.cpus[number]
        if cpu.is_taken():
            cpu.saved = at_ns
            cpu.woken = True
            return 0
        return requeue_at(self.simulation, number, max(at_ns, cpu.free_at))

    def postpone(self, number: cython.int) -> cython.bint:
        """Whether an interrupt has the vCPU; if so its task goes on when that ends."""
        cpu: Cpu = self.cpus[number]
        if cpu.interrupt is None:
            return False
        cpu.postponed = True
        return True

    def keep_out(self, number: cython.int, until_ns: cython.longlong) -> cython.int:
        """No interrupt reaches a vCPU before some time."""
        self.irqs_off_until_ns[number] = max(self.irqs_off_until_ns[number], until_ns)
        return 0

    def vacate(self, context: Context) -> cython.int:
        """A task gives its CPU away."""
        if context.cpu < 0:
            return 0
        cpu: Cpu = self.cpus[context.cpu]
        if cpu.occupant is context:
            cpu.occupant = None
            cpu.free_at = self.clock.now
            if cpu.interrupt is None:
                self._restore_tape(context.cpu)
        return self.release_soon(context.cpu)

    def suspend(self, number: cython.int, interrupts_on: cython.bint) -> int:
        """Others will run inside the step of whoever has a vCPU: no task there, nor its tape.

        Args:
            number: the vCPU.
            interrupts_on: whether interrupts reach it, as they would between any two instructions.

        Returns:
            What `resume_suspended` is to be given.
        """
        cpu: Cpu = self.cpus[number]
        before: cython.int = cpu.suspended
        cpu.suspended = 1 if interrupts_on else 2
        return before

    def resume_suspended(self, number: cython.int, before: cython.int) -> None:
        """The step goes on; who has been kept from the vCPU gets it when the step has ended."""
        cpu: Cpu = self.cpus[number]
        cpu.suspended = before
        self.release_soon(number)

    def release_soon(self, number: cython.int) -> cython.int:
        """Whoever waits for the CPU gets it as the next event, not inside this step."""
        # There are no CPUs any more when the last of a run's coroutines are closed.
        if number < 0 or number >= len(self.cpus):
            return 0
        cpu: Cpu = self.cpus[number]
        if len(cpu.interrupts) > 0 or len(cpu.runnable) > 0:
            self.simulation.schedule(self.clock.now, RANK_INTERRUPT, number, Release(self, number))
        return 0

    def _release(self, number: cython.int) -> cython.int:
        """A CPU may be free: interrupts first, then the next task."""
        cpu: Cpu = self.cpus[number]
        while len(cpu.interrupts) > 0 and cpu.interrupt is None and self._takes_interrupts(number):
            name, handler = cpu.interrupts.pop(0)
            self._interrupt(number, name, handler)
        if len(cpu.runnable) > 0 and cpu.occupant is None and not self._blocked(number):
            self._dispatch(cpu.runnable.pop(0))
        return 0

    def _blocked(self, number: cython.int) -> cython.bint:
        """Whether the vCPU cannot run a task: in an interrupt, spinning, or out of the guest."""
        cpu: Cpu = self.cpus[number]
        hook: Context = self.hooks[number]
        if cpu.interrupt is not None or cpu.suspended:
            return True
        return hook is not None and hook.parked != "sleep"

    def _takes_interrupts(self, number: cython.int) -> cython.bint:
        cpu: Cpu = self.cpus[number]
        hook: Context = self.hooks[number]
        if cpu.suspended:
            return cpu.suspended == 1
        if hook is not None and hook.parked != "sleep":
            if hook.interrupts_off or hook.parked == "held":
                return False
        hook = cpu.occupant
        if hook is not None and hook.parked != "sleep":
            if hook.interrupts_off or hook.parked == "held":
                return False
        return True

    # -- interrupts -----------------------------------------------------------------------------

    def deliver(self, number: cython.int, name: str, handler: "Callable[[], Any]") -> None:
        """Raise an interrupt on a vCPU: it runs when the vCPU has interrupts on.

        Args:
            number: the vCPU.
            name: for messages.
            handler: called in hard-interrupt context; may return a coroutine that spins.
        """
        due = Raise(self, number, name, handler)
        self.simulation.schedule(self.clock.now, RANK_INTERRUPT, number, due)

    def _interrupt(self, number: cython.int, name: str, handler: "Callable[[], Any]") -> cython.int:
        cpu: Cpu = self.cpus[number]
        if cpu.interrupt is not None or not self._takes_interrupts(number):
            cpu.interrupts.append((name, handler))
            return 0
        now: cython.longlong = self.clock.now
        if self.irqs_off_until_ns[number] > now:
            due = Raise(self, number, name, handler)
            self.simulation.schedule(self.irqs_off_until_ns[number], RANK_INTERRUPT, number, due)
            return 0
        self.interrupts_taken += 1
        identity: cython.longlong = _FIRST_INTERRUPT_NUMBER + self.interrupts_taken
        context = Context(as_coroutine(handler), ROLE_INTERRUPT, number, identity, name)
        context.interrupts_off = 1
        cpu.interrupt = context
        cpu.interrupted_at = now
        if cpu.occupant is None:
            self._save_tape(number)
        else:
            cpu.was_busy = cpu.occupant.parked == "lock" or cpu.occupant.parked == "ready"
        self.clock.now += self.interrupt_ns
        self.driver.resume(context, now)
        return 0

    def end_interrupt(self, context: Context) -> cython.int:
        """An interrupt handler has returned."""
        number: cython.int = context.cpu
        cpu: Cpu = self.cpus[number]
        now: cython.longlong = self.clock.now
        cpu.interrupt = None
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
        return self.release_soon(number)

    def kick_others(self, cost_ns: cython.longlong) -> int:
        """A remote TLB flush costs every running vCPU ``cost_ns``; how many there were.

        Those that are out of the guest, such as the one that reports synchronously, or that have
        nothing to do flush when they come back.
        """
        kicked: cython.int = 0
        number: cython.int
        for number in range(len(self.cpus)):
            if self._in_guest(number):
                kicked += 1
                self._delay(number, cost_ns)
        return kicked

    def _in_guest(self, number: cython.int) -> cython.bint:
        """Whether a vCPU runs: not idle, and not out of the guest."""
        cpu: Cpu = self.cpus[number]
        hook: Context = self.hooks[number]
        vcpu: Vcpu = self.simulation.vcpus[number]
        if cpu.is_taken():
            return cpu.occupant is None or cpu.occupant.parked != "held"
        if hook is not None:
            return hook.parked != "held" and hook.parked != "sleep"
        if cpu.free_at > self.clock.now:
            return True
        return not vcpu.idle and self.simulation.winner.keys[number] < NEVER

    def _delay(self, number: cython.int, cost_ns: cython.longlong) -> cython.int:
        cpu: Cpu = self.cpus[number]
        vcpu: Vcpu = self.simulation.vcpus[number]
        top: Context = cpu.interrupt if cpu.interrupt is not None else cpu.occupant
        if top is not None:
            if top.parked == "lock" or top.parked == "ready":
                top.delay_ns += cost_ns
            return 0
        at_ns: cython.longlong = self.simulation.winner.keys[number]
        if at_ns < NEVER and not vcpu.idle:
            return requeue_at(self.simulation, number, at_ns + cost_ns)
        return 0

    def interrupts_were_off(
        self, number: cython.int, since_ns: cython.longlong, payer: str
    ) -> cython.int:
        """A vCPU had interrupts off until now, which may be ahead of what waits for it."""
        self.accounts.irqs_off(payer, since_ns, self.clock.now)
        self.irqs_off_until_ns[number] = max(self.irqs_off_until_ns[number], self.clock.now)
        return self.release_soon(number)

    def standstill(self) -> "tuple[int, ...] | None":
        """The clocks of all tapes if none of them can go on by itself, else None.

        Each has ended, or waits for somebody, or somebody else has its vCPU. The same clocks
        again much later mean that nobody will ever let them go on.
        """
        clocks = []
        cpu: Cpu
        number: cython.int
        for number in range(len(self.cpus)):
            if self.simulation.winner.keys[number] < NEVER:
                return None
            cpu = self.cpus[number]
            clocks.append(cpu.saved if cpu.is_taken() else NEVER)
        return tuple(clocks)


@cython.final
@cython.freelist(8)
@cython.cclass
class Ready:
    """An event: a task wants its CPU."""

    def __init__(self, processors: Processors, context: Context) -> None:
        self.processors = processors
        self.context = context

    def __call__(self) -> None:
        """Its time has come."""
        self.processors._ready(self.context)


@cython.final
@cython.freelist(8)
@cython.cclass
class Release:
    """An event: a CPU may be free for whoever waits for it."""

    def __init__(self, processors: Processors, number: cython.int) -> None:
        self.processors = processors
        self.number = number

    def __call__(self) -> None:
        """Its time has come."""
        self.processors._release(self.number)


@cython.final
@cython.freelist(8)
@cython.cclass
class Raise:
    """An event: an interrupt is raised."""

    def __init__(
        self, processors: Processors, number: cython.int, name: str, handler: object
    ) -> None:
        self.processors = processors
        self.number = number
        self.name = name
        self.handler = handler

    def __call__(self) -> None:
        """Its time has come."""
        self.processors._interrupt(self.number, self.name, self.handler)


async def as_coroutine(handler: "Callable[[], Any]") -> None:
    """Run a plain function as a context; it may return a coroutine."""
    waiting = handler()
    if waiting is not None:
        await waiting
