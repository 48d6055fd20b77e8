"""Coroutines in virtual time: who waits for what.

A *context* is a coroutine with a CPU: a hook that waits (it is the vCPU), a task (a kthread or
work item), an interrupt.  The core calls :class:`Scheduler` when a hook returns a coroutine; the
event queue calls it for everything else.  Which of several contexts has a vCPU is decided in
:mod:`hintbench.processors`, what they may do in :mod:`hintbench.context_rules` and
:mod:`hintbench.sections`.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from hintbench.accounting import PAYERS
from hintbench.context_rules import MAY_SLEEP, ContextRules
from hintbench.contexts import (
    HOOK,
    INTERRUPT,
    KERNEL,
    RANK_INTERRUPT,
    TASK,
    Context,
    Park,
    Step,
)
from hintbench.core.locks import LockRequest
from hintbench.errors import HintbenchError, PluginError
from hintbench.jiffies import timer_fires_ns
from hintbench.processors import Processors
from hintbench.sections import Sections

if TYPE_CHECKING:
    from hintbench.core.simulation import Simulation
    from hintbench.core.vcpu import Vcpu

_FIRST_TASK_NUMBER = 1 << 16


class Task:
    """A spawned coroutine: a kthread or work item.

    Attributes:
        name: for messages.
    """

    def __init__(self, context: Context, scheduler: Scheduler) -> None:
        self._context = context
        self._scheduler = scheduler
        self.name = context.name

    @property
    def done(self) -> bool:
        """Whether it has ended, or was cancelled."""
        return self._context.parked == "done"

    def cancel(self) -> bool:
        """cancel_delayed_work(): it does not start, if it was spawned with a delay that still runs.

        Returns:
            Whether it was cancelled; False when it has begun.
        """
        context = self._context
        if context.parked != "timer":
            return False
        context.coroutine.close()
        self._scheduler.dismiss(context)
        return True

    async def join(self) -> None:
        """Sleep until it has ended."""
        if not self.done:
            await Park("sleep", self._context.joiners.append)

    def __repr__(self) -> str:
        return repr(self._context)


class Scheduler(Sections):
    """Runs contexts over a simulation; the core's ``driver``.

    Args:
        simulation: the core's state.
        plugin: whose coroutines these are, for error messages.
        irqs_off_until_ns: by CPU, until when its interrupts are off as far as is known.
        interrupt_ns: the cost of taking an interrupt.
        switch_ns: the cost of switching to a task.
        wake_ns: how long a spinner takes to see the change it spins for.

    Attributes:
        in_hand: returns something that changes with what the strategy has isolated or marked.
        look_again: called after every advance of a context while somebody spins.
        lock_takes, empty_lock_takes: takes of zone locks by the strategy's contexts, and those
            among them under which nothing was isolated, marked or given back.
        timer_phase_ns: a time at which the kernel's timer wheel stands at its beginning.
    """

    def __init__(
        self,
        simulation: Simulation,
        plugin: str,
        irqs_off_until_ns: Any,
        *,
        interrupt_ns: int,
        switch_ns: int,
        wake_ns: int,
    ) -> None:
        super().__init__(simulation.clock, ContextRules(simulation, plugin))
        self.simulation = simulation
        self.plugin = plugin
        self.irqs_off_until_ns = irqs_off_until_ns
        self.processors = Processors(
            simulation,
            irqs_off_until_ns,
            self,
            self.accounts,
            interrupt_ns=interrupt_ns,
            switch_ns=switch_ns,
        )
        self.hooks = self.processors.hooks
        self.next_number = _FIRST_TASK_NUMBER
        self.wake_ns = wake_ns
        self.contexts: list[Context] = []
        self.in_hand: Callable[[], object] = lambda: None
        self.look_again: Callable[[], None] | None = None
        self.reclaim: Callable[[Vcpu], Coroutine[Any, Any, Any]] | None = None
        self.on_failure: Callable[[Vcpu], None] = lambda vcpu: None
        self.on_kswapd: Callable[[int], bool] = lambda cpu: False
        self.zone_locks = frozenset(zone.lock for zone in simulation.zones)
        self.lock_takes = 0
        self.empty_lock_takes = 0
        self.timer_phase_ns = 0

    # -- what the core calls --------------------------------------------------------------------

    def start_hook(self, vcpu: Vcpu) -> bool:
        """A hook returned a coroutine; whether it ended at once."""
        if not hasattr(vcpu.coroutine, "send"):
            kind = type(vcpu.coroutine).__name__
            raise PluginError(self.plugin, vcpu.hook, f"returned {kind}: None or a coroutine only")
        coroutine: Any = vcpu.coroutine
        context = Context(coroutine, HOOK, vcpu.number, vcpu.number, vcpu.hook)
        # Direct reclaim is the kernel's; only the strategy's part in it has this hook's name.
        if vcpu.hook == MAY_SLEEP:
            context.payer = KERNEL
        context.interrupts_off = int(vcpu.hook in self.atomic_hooks)
        context.irqs_off_ns = vcpu.irqs_off_ns
        self.hooks[vcpu.number] = context
        return self._advance(context, None, self.clock.now)

    def resume_hook(self, vcpu: Vcpu) -> bool:
        """The vCPU's turn came while a hook's coroutine waits; whether it has ended now."""
        context = self.hooks[vcpu.number]
        assert context is not None
        return self.resume(context)

    def wake_vcpu(self, number: int) -> None:
        """A vCPU waits for a slot that has just been filled."""
        self.processors.wake_tape(number, self.clock.now)

    def interrupts_were_off(self, number: int, since_ns: int) -> None:
        """A vCPU had interrupts off from ``since_ns`` up to now, the last part for a hook."""
        self.processors.interrupts_were_off(number, since_ns, HOOK)

    def slow_path(self, vcpu: Vcpu) -> Coroutine[Any, Any, Any]:
        """Direct reclaim of a blocking allocation."""
        assert self.reclaim is not None
        return self.reclaim(vcpu)

    def allocation_failed(self, vcpu: Vcpu) -> None:
        """An allocation has failed for good."""
        self.on_failure(vcpu)

    def wake_kswapd(self, number: int) -> bool:
        """An allocation went below the low watermark; whether kswapd slept."""
        return self.on_kswapd(number)

    # -- driving a coroutine --------------------------------------------------------------------

    def resume(self, context: Context, began_ns: int | None = None) -> bool:
        """A context's turn has come: take the lock it asked for, or go on after its wait.

        Args:
            context: it.
            began_ns: since when it uses its CPU; now if None.
        """
        began = self.clock.now if began_ns is None else began_ns
        value, context.outcome = context.outcome, None
        lock, context.pending_lock = context.pending_lock, None
        if lock is not None:
            self.enter(context)
            waited = lock.take()
            if context.pending_irqs_on:
                self.rules.check_interrupts_off(context, lock)
            if not context.kernel and lock in self.zone_locks:
                self.lock_takes += 1
                context.take_seen = (self.in_hand(),)
            if context.kind == HOOK:
                self.simulation.vcpus[context.cpu].lock_wait += waited
        return self._advance(context, value, began)

    def enter(self, context: Context) -> None:
        """What happens now is the context's doing."""
        clock = self.clock
        clock.context = context.number
        clock.cpu = context.cpu
        clock.payer = PAYERS[context.payer]

    def _advance(self, context: Context, value: Any, began_ns: int) -> bool:
        """Run a coroutine to its next wait; True when it has ended."""
        clock = self.clock
        self.enter(context)
        outer, self.current = self.current, context
        context.parked = ""
        context.booked_ns = began_ns
        try:
            request = context.coroutine.send(value)
        except StopIteration as stop:
            self.rules.check_end(context)
            context.parked = "done"
            context.outcome = stop.value
            self._finished(context)
            return True
        except HintbenchError:
            raise
        except (Exception, SystemExit) as error:
            raise self.rules.blame(error, context.name) from error
        finally:
            self.current = outer
            self.accounts.book(context, clock.now)
            self.count_take(context)
        self._wait(context, request)
        if self.look_again is not None:
            self.look_again()
        return False

    def count_take(self, context: Context) -> None:
        """Note whether a context has found anything since it took a lock last, if it did."""
        if context.take_seen is not None:
            self.empty_lock_takes += context.take_seen == (self.in_hand(),)
            context.take_seen = None

    def _wait(self, context: Context, request: Any) -> None:
        """Let a context wait for what it asked for."""
        clock = self.clock
        if isinstance(request, LockRequest):
            self.rules.check_wait(context, "asks for another lock")
            # The request is a step of its own: others may be earlier.
            context.pending_lock = request.lock
            context.pending_irqs_on = not request.interrupts_off
            context.parked = "lock"
            self.come_back(context, clock.now)
            return
        self.rules.check_wait(context)
        if isinstance(request, Step):
            context.parked = "ready"
            self.come_back(context, clock.now)
            return
        if not isinstance(request, Park):
            raise PluginError(
                self.plugin,
                context.name,
                f"awaits {type(request).__name__}: only the guest's, its host's and its zones'"
                " own awaitables exist in virtual time",
            )
        if request.kind == "sleep":
            self.rules.check_sleep(context)
        context.parked = request.kind
        context.parked_at = clock.now
        context.token += 1
        if context.kind == HOOK:
            self.simulation.block(self.simulation.vcpus[context.cpu])
        elif context.kind == TASK and request.kind == "sleep":
            self.processors.vacate(context)
        if context.kind != INTERRUPT:
            # Until here the context was in a step; now its CPU takes interrupts, perhaps tasks.
            self.processors.release_soon(context.cpu)
        request.register(context)

    # -- going on -------------------------------------------------------------------------------

    def come_back(self, context: Context, at_ns: int) -> None:
        """Have a context go on at a virtual time, in its order among all others."""
        if context.kind == HOOK:
            self.simulation.set_clock(context.cpu, at_ns)
        else:
            self.simulation.schedule(at_ns, context.rank, context.cpu, lambda: self._turn(context))

    def _turn(self, context: Context) -> None:
        """A task's or interrupt's turn in the event queue."""
        if context.kind == TASK and context.cpu >= 0:
            cpu = self.processors.cpus[context.cpu]
            if cpu.interrupt is not None:
                cpu.postponed = True
                return
        if context.delay_ns:
            # An interrupt or a kick took its CPU in between.
            delay, context.delay_ns = context.delay_ns, 0
            self.come_back(context, self.clock.now + delay)
            return
        self.resume(context)

    def _finished(self, context: Context) -> None:
        if context.kind == HOOK:
            self.hooks[context.cpu] = None
            if context.interrupts_off:
                self._interrupts_on(context)
            self.processors.release_soon(context.cpu)
        elif context.kind == INTERRUPT:
            self.processors.end_interrupt(context)
        else:
            self.dismiss(context)
            self.processors.vacate(context)
        if self.look_again is not None:
            self.look_again()

    def dismiss(self, context: Context) -> None:
        """A task is over: who waits for that goes on."""
        context.parked = "done"
        self.contexts.remove(context)
        for joiner in context.joiners:
            self.unpark(joiner, None)

    def unpark(self, context: Context, outcome: Any, at_ns: int | None = None) -> None:
        """What a context waits for has happened.

        Args:
            context: it.
            outcome: the value of its ``await``.
            at_ns: when; now if None.
        """
        kind = context.parked
        if kind not in ("sleep", "spin", "held"):
            return
        now: int = self.clock.now if at_ns is None else at_ns
        if kind == "spin":
            now += self.wake_ns
        if kind != "sleep":
            self._waited(context, now)
        context.parked = "ready"
        context.outcome = outcome
        if context.kind == HOOK:
            self.processors.wake_tape(context.cpu, now)
        elif kind == "sleep":
            self.processors.make_ready(context, now)
        else:
            self.come_back(context, now)
        if kind == "held":
            # Interrupts that came meanwhile are taken on the way back into the guest.
            self.processors.release_soon(context.cpu)

    def _waited(self, context: Context, now: int) -> None:
        """Book the time that a context kept its vCPU busy, or out of the guest."""
        waited = max(0, now - context.parked_at)
        self.accounts.waited(context, waited)
        if context.parked == "spin" and context.kind == HOOK:
            self.simulation.vcpus[context.cpu].spin += waited
        if context.cpu >= 0 and (context.parked == "held" or context.interrupts_off):
            self.irqs_off_until_ns[context.cpu] = max(self.irqs_off_until_ns[context.cpu], now)

    def spawn(
        self,
        coroutine: Coroutine[Any, Any, Any],
        cpu: int,
        name: str,
        *,
        kernel: bool = False,
        delay_ns: int = 0,
    ) -> Task:
        """Start a task.

        Args:
            coroutine: what it does.
            cpu: where; -1: on the host's side, where it takes no vCPU's time.
            name: for messages.
            kernel: it is the kernel's own, not the strategy's.
            delay_ns: start it by a timer of the kernel that runs so long; 0: at once.
        """
        self.next_number += 1
        context = Context(coroutine, TASK, cpu, self.next_number, name)
        if kernel:
            context.payer = KERNEL
        self.contexts.append(context)
        now: int = self.clock.now
        if not delay_ns:
            # queue_delayed_work() without a delay uses no timer.
            context.parked = "ready"
            self.processors.make_ready(context, now)
        else:
            context.parked = "timer"
            fires_ns = timer_fires_ns(now, delay_ns, self.timer_phase_ns)
            self.simulation.schedule(fires_ns, RANK_INTERRUPT, cpu, lambda: self._expire(context))
        return Task(context, self)

    def close(self) -> None:
        """The run is over: timers that still run start nothing any more."""
        for context in self.contexts:
            if context.parked == "timer":
                context.coroutine.close()

    def _expire(self, context: Context) -> None:
        """The timer of a delayed task fires, unless the task was cancelled."""
        if context.parked == "timer":
            context.parked = "ready"
            self.processors.make_ready(context, self.clock.now)
