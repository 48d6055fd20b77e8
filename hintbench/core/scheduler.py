"""Contexts in virtual time: who waits for what, and who goes on.

The core calls a :class:`CoreScheduler` when a hook returns a coroutine, the event queue otherwise.
Which of several contexts has a vCPU is decided in :mod:`hintbench.core.processors`.
"""

from typing import Any

import cython

from hintbench.core.accounts import PAYERS
from hintbench.core.contexts import HOOK, KERNEL

if cython.compiled:
    from cython.cimports.hintbench.core.accounts import Accounts
    from cython.cimports.hintbench.core.constants import (
        ROLE_HOOK,
        ROLE_INTERRUPT,
        ROLE_TASK,
    )
    from cython.cimports.hintbench.core.contexts import Context, Park, Step
    from cython.cimports.hintbench.core.locks import LockRequest, LockTimeline
    from cython.cimports.hintbench.core.processors import Processors
    from cython.cimports.hintbench.core.scheduler import send
    from cython.cimports.hintbench.core.simulation import Simulation, requeue_at
    from cython.cimports.hintbench.core.takes import LockTakes
    from cython.cimports.hintbench.core.vcpu import Vcpu
else:
    from hintbench.core.accounts import Accounts
    from hintbench.core.constants import ROLE_HOOK, ROLE_INTERRUPT, ROLE_TASK
    from hintbench.core.contexts import Context, Park, Step
    from hintbench.core.locks import LockRequest, LockTimeline
    from hintbench.core.processors import Processors
    from hintbench.core.simulation import Simulation, requeue_at
    from hintbench.core.takes import LockTakes
    from hintbench.core.vcpu import Vcpu

    def send(coroutine: Any, _ended: Any) -> Any:
        """The next step of a coroutine; `StopIteration` when it has ended."""
        return coroutine.send(None)


MAY_SLEEP = "memory_low"
"""The one hook of a vCPU, not of a task, that may sleep."""
_FIRST_TASK_NUMBER = 1 << 16
NO_HOOK: tuple[str, tuple[Any, ...]] = ("", ())
"""What stands for the hook that runs, and its arguments, when none does."""


@cython.cclass
class CoreScheduler:
    """Runs contexts over a simulation; the core's ``driver``.

    Args:
        simulation: the core's state.
        rules: what contexts may do, a :class:`hintbench.tasks.context_rules.ContextRules`.
        irqs_off_until_ns: by CPU, until when its interrupts are off as far as is known.
        interrupt_ns: the cost of taking an interrupt.
        switch_ns: the cost of switching to a task.
        wake_ns: how long a spinner takes to see the change it spins for.

    Attributes:
        current: the context that runs; None while the core, or a plain hook in a tape, does.
        accounts: whose CPU time it was.
        hooks: by CPU, the hook of its tape that waits.
        contexts: the tasks that have not ended.
        look_again: called after every advance of a context while somebody spins.
        restored: called when the running context has switched interrupts on again, by
            ``with guest.interrupts_off()``; None: nobody listens.
        atomic_hooks: hooks that run with interrupts off.
        off_in_hook: how many sections that switch interrupts off a plain hook in a tape is in.
        plain_hook: in explored runs the strategy's hook that runs, and its arguments.
        off_by_hook: whether that runs with interrupts off.
        takes: the strategy's locks, and how often its contexts took those of zones.
    """

    def __init__(
        self,
        simulation: Simulation,
        rules: Any,
        irqs_off_until_ns: Any,
        interrupt_ns: cython.longlong,
        switch_ns: cython.longlong,
        wake_ns: cython.longlong,
    ) -> None:
        self.simulation = simulation
        self.clock = simulation.clock
        self.rules = rules
        self.accounts = Accounts()
        self.takes = LockTakes(simulation)
        self.processors = Processors(
            simulation, irqs_off_until_ns, self, self.accounts, interrupt_ns, switch_ns
        )
        self.hooks = self.processors.hooks
        self.contexts = []
        self.current = None
        self.look_again = None
        self.restored = None
        self.atomic_hooks = frozenset()
        self.next_number = _FIRST_TASK_NUMBER
        self.off_in_hook = 0
        self.plain_hook = NO_HOOK
        self.off_by_hook = False
        self.wake_ns = wake_ns

    def dismantle(self) -> None:
        """The run is over: let go of whoever waits in it."""
        self.processors.dismantle()
        self.contexts.clear()
        self.takes.dismantle()
        self.current = None
        self.look_again = None
        self.restored = None
        self.plain_hook = NO_HOOK

    # -- what the core calls --------------------------------------------------------------------

    def start_hook(self, vcpu: Vcpu) -> bool:
        """A hook returned a coroutine; whether it ended at once."""
        if not hasattr(vcpu.coroutine, "send"):
            self.rules.refuse_result(vcpu.hook, vcpu.coroutine)
        context = Context(vcpu.coroutine, ROLE_HOOK, vcpu.number, vcpu.number, vcpu.hook)
        # Direct reclaim is the kernel's; only the strategy's part in it has this hook's name.
        if vcpu.hook == MAY_SLEEP:
            context.payer = KERNEL
        context.interrupts_off = vcpu.hook in self.atomic_hooks
        context.irqs_off_ns = vcpu.irqs_off_ns
        self.hooks[vcpu.number] = context
        return self.advance(context, self.clock.now) != 0

    def resume_hook(self, vcpu: Vcpu) -> bool:
        """The vCPU's turn came while a hook's coroutine waits; whether it has ended now."""
        return self.resume(self.hooks[vcpu.number]) != 0

    def wake_vcpu(self, number: cython.int) -> None:
        """A vCPU waits for a slot that has just been filled."""
        self.processors.wake_tape(number, self.clock.now)

    def interrupts_were_off(self, number: cython.int, since_ns: cython.longlong) -> None:
        """A vCPU had interrupts off from ``since_ns`` up to now, the last part for a hook."""
        self.processors.interrupts_were_off(number, since_ns, HOOK)

    # -- driving a coroutine --------------------------------------------------------------------

    def resume(self, context: Context, began_ns: cython.longlong = -1) -> cython.int:
        """A context's turn has come: take the lock it asked for, or go on after its wait.

        Args:
            context: it.
            began_ns: since when it uses its CPU; now if -1.

        Returns:
            Whether it has ended.
        """
        began: cython.longlong = self.clock.now if began_ns < 0 else began_ns
        lock: LockTimeline = context.pending_lock
        if context.park is not None:
            context.park.outcome = context.outcome
            context.park = None
        context.outcome = None
        if lock is not None:
            context.pending_lock = None
            self.take_lock(context, lock)
        return self.advance(context, began)

    def take_lock(self, context: Context, lock: LockTimeline) -> cython.int:
        """A context gets the lock that it has asked for."""
        self.enter(context)
        waited: cython.longlong = lock.take()
        vcpu: Vcpu
        if lock.of_strategy or context.pending_irqs_on or self.current is context:
            self.rules.check_taken(context, lock, interrupts_on=context.pending_irqs_on)
        if not context.is_of_kernel() and lock.of_zone:
            self.takes.begin(context)
        if context.role == ROLE_HOOK:
            vcpu = self.simulation.vcpus[context.cpu]
            vcpu.lock_wait += waited
        return 0

    def take_inside(self, context: Context, asked: LockRequest) -> cython.int:
        """A context asks for a lock while it has another, and takes it where it stands.

        Nothing is suspended with a lock held, so this is no step of its own.
        """
        context.pending_irqs_on = not asked.interrupts_off
        self.rules.check_inside(context, asked.lock)
        return self.take_lock(context, asked.lock)

    def taken_in_place(self, lock: LockTimeline) -> None:
        """Somebody took a lock by ``with``, as a plain hook or an interrupt handler does."""
        lock.interrupts_on = False
        self.rules.check_nested(self.current, lock)
        if lock.of_zone:
            self.takes.begin(self.current)

    def enter(self, context: Context) -> cython.int:
        """What happens now is the context's doing."""
        self.clock.context = context.number
        self.clock.cpu = context.cpu
        self.clock.payer = PAYERS[context.payer]
        return 0

    def advance(self, context: Context, began_ns: cython.longlong) -> cython.int:
        """Run a coroutine to its next wait; 1 when it has ended."""
        ended: cython.int = 0
        request: object = None
        outer: Context = self.current
        self.enter(context)
        self.current = context
        context.parked = ""
        context.booked_ns = began_ns
        try:
            try:
                while True:
                    if cython.compiled:
                        request = send(context.coroutine, cython.address(ended))
                    else:
                        try:
                            request = send(context.coroutine, None)
                        except StopIteration as stop:
                            ended, request = 1, stop.value
                    if ended or not isinstance(request, LockRequest):
                        break
                    if not self.holds_lock(context):
                        break
                    self.take_inside(context, request)
            except (Exception, SystemExit) as error:
                self.rules.raise_for(error, context.name)
                raise
            if ended:
                if self.holds_lock(context) or context.name == "block_merged":
                    self.rules.check_end(context)
                context.parked = "done"
                context.outcome = request
                self._finished(context)
        finally:
            self.current = outer
            self.accounts.book(context, self.clock.now)
            self.takes.end(context)
        if ended:
            return 1
        self._wait(context, request)
        if self.look_again is not None:
            self.look_again()
        return 0

    def _wait(self, context: Context, request: object) -> cython.int:
        """Let a context wait for what it asked for."""
        asked: LockRequest
        park: Park
        if isinstance(request, LockRequest):
            # The request is a step of its own: others may be earlier.
            asked = request
            context.pending_lock = asked.lock
            context.pending_irqs_on = not asked.interrupts_off
            context.parked = "lock"
            return self.come_back(context, self.clock.now)
        if self.holds_lock(context):
            self.rules.check_wait(context)
        if isinstance(request, Step):
            context.parked = "ready"
            return self.come_back(context, self.clock.now)
        if not isinstance(request, Park):
            self.rules.refuse_wait(context, request)
        park = request
        if park.kind == "sleep":
            if context.role != ROLE_TASK or context.interrupts_off or context.atomic:
                self.rules.check_sleep(context)
        context.parked = park.kind
        context.park = park
        context.parked_at = self.clock.now
        context.token += 1
        if context.role == ROLE_HOOK:
            self.simulation.block(self.simulation.vcpus[context.cpu])
        elif context.role == ROLE_TASK and park.kind == "sleep":
            self.processors.vacate(context)
        if context.role != ROLE_INTERRUPT:
            # Until here the context was in a step; now its CPU takes interrupts, perhaps tasks.
            self.processors.release_soon(context.cpu)
        park.register(context)
        return 0

    def holds_lock(self, context: Context) -> cython.bint:
        """Whether a context holds any lock of a zone or of the strategy."""
        return self.takes.held_by(context.number) != 0

    # -- going on -------------------------------------------------------------------------------

    def come_back(self, context: Context, at_ns: cython.longlong) -> cython.int:
        """Have a context go on at a virtual time, in its order among all others."""
        if context.role == ROLE_HOOK:
            return requeue_at(self.simulation, context.cpu, at_ns)
        self.simulation.schedule(at_ns, context.rank_of(), context.cpu, Turn(self, context))
        return 0

    def _turn(self, context: Context) -> cython.int:
        """A task's or interrupt's turn in the event queue."""
        delay_ns: cython.longlong
        if context.role == ROLE_TASK and context.cpu >= 0:
            if self.processors.postpone(context.cpu):
                return 0
        if context.delay_ns:
            # An interrupt or a kick took its CPU in between.
            delay_ns = context.delay_ns
            context.delay_ns = 0
            return self.come_back(context, self.clock.now + delay_ns)
        self.resume(context)
        return 0

    def _finished(self, context: Context) -> cython.int:
        if context.role == ROLE_HOOK:
            self.hooks[context.cpu] = None
            if context.interrupts_off:
                self.interrupts_on(context)
            self.processors.release_soon(context.cpu)
        elif context.role == ROLE_INTERRUPT:
            self.processors.end_interrupt(context)
        else:
            self.dismiss(context)
            self.processors.vacate(context)
        if self.look_again is not None:
            self.look_again()
        return 0

    def dismiss(self, context: Context) -> cython.int:
        """A task is over: who waits for that goes on."""
        context.parked = "done"
        self.contexts.remove(context)
        for joiner in context.joiners:
            self.unpark(joiner, None)
        return 0

    def unpark(self, context: Context, outcome: object, at_ns: object = None) -> object:
        """What a context waits for has happened; None, as handlers of interrupts return.

        Args:
            context: it.
            outcome: what its wait came to.
            at_ns: when; now if None.
        """
        kind: str = context.parked
        if kind != "sleep" and kind != "spin" and kind != "held":
            return None
        now: cython.longlong = self.clock.now if at_ns is None else at_ns
        if kind == "spin":
            now += self.wake_ns
        if kind != "sleep":
            self._waited(context, now)
        context.parked = "ready"
        context.outcome = outcome
        if context.role == ROLE_HOOK:
            self.processors.wake_tape(context.cpu, now)
        elif kind == "sleep":
            self.processors.make_ready(context, now)
        else:
            self.come_back(context, now)
        if kind == "held":
            # Interrupts that came meanwhile are taken on the way back into the guest.
            self.processors.release_soon(context.cpu)
        return None

    def _waited(self, context: Context, now: cython.longlong) -> cython.int:
        """Book the time that a context kept its vCPU busy, or out of the guest."""
        waited: cython.longlong = max(0, now - context.parked_at)
        vcpu: Vcpu
        self.accounts.waited(context, waited)
        if context.parked == "spin" and context.role == ROLE_HOOK:
            vcpu = self.simulation.vcpus[context.cpu]
            vcpu.spin += waited
        if context.cpu >= 0 and (context.parked == "held" or context.interrupts_off):
            self.processors.keep_out(context.cpu, now)
        return 0

    # -- interrupts off -------------------------------------------------------------------------

    def interrupts_on(self, context: Context) -> cython.int:
        """A context switches interrupts on again."""
        return self.processors.interrupts_were_off(context.cpu, context.irqs_off_ns, context.payer)


@cython.final
@cython.freelist(8)
@cython.cclass
class Turn:
    """An event: a context goes on."""

    def __init__(self, scheduler: CoreScheduler, context: Context) -> None:
        self.scheduler = scheduler
        self.context = context

    def __call__(self) -> None:
        """Its time has come."""
        self.scheduler._turn(self.context)
