"""Coroutines in virtual time: who waits for what.

A *context* is a coroutine with a CPU: a hook that waits (it is the vCPU), a task (a kthread or
work item), an interrupt.  The core calls :class:`Scheduler` when a hook returns a coroutine; the
event queue calls it for everything else.  Which of several contexts has a vCPU is decided in
:mod:`hintbench.processors`.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from hintbench.contexts import (
    HOOK,
    INTERRUPT,
    RANK_INTERRUPT,
    RANK_TASK,
    TASK,
    Context,
    Park,
)
from hintbench.core.constants import PAYER_INTERRUPT, PAYER_TASK, PAYER_THREAD
from hintbench.core.locks import LockRequest
from hintbench.errors import HintbenchError, PluginError
from hintbench.processors import Processors

if TYPE_CHECKING:
    from hintbench.core.simulation import Simulation
    from hintbench.core.vcpu import Vcpu

_FIRST_TASK_NUMBER = 1 << 16
KERNEL_CONTEXTS = ("vmstat", "memory_low")
"""What the kernel does by itself: decay of the per-CPU lists, direct reclaim."""


class Task:
    """A spawned coroutine: a kthread or work item.

    Attributes:
        name: for messages.
    """

    def __init__(self, scheduler: Scheduler, context: Context) -> None:
        self._scheduler = scheduler
        self._context = context
        self.name = context.name

    @property
    def done(self) -> bool:
        """Whether it has ended."""
        return self._context.parked == "done"

    async def join(self) -> None:
        """Sleep until it has ended."""
        if not self.done:
            await Park("sleep", self._context.joiners.append)

    def __repr__(self) -> str:
        return repr(self._context)


class Scheduler:
    """Runs contexts over a simulation; the core's ``driver``.

    Args:
        simulation: the core's state.
        plugin: whose coroutines these are, for error messages.
        irqs_off_until_ns: by CPU, until when its last lock hold had interrupts off.
        interrupt_ns: the cost of taking an interrupt.
        switch_ns: the cost of switching to a task.
        wake_ns: how long a spinner takes to see the change it spins for.
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
        self.simulation = simulation
        self.clock = simulation.clock
        self.plugin = plugin
        self.wake_ns = wake_ns
        self.irqs_off_until_ns = irqs_off_until_ns
        self.processors = Processors(
            simulation,
            irqs_off_until_ns,
            self._continue,
            lambda context: self._advance(context, None),
            interrupt_ns=interrupt_ns,
            switch_ns=switch_ns,
        )
        self.hooks = self.processors.hooks
        self.contexts: list[Context] = []
        self.current: Context | None = None
        self.next_number = _FIRST_TASK_NUMBER
        self.violate: Callable[[str, str], None] = lambda rule, text: None
        self.reclaim: Callable[[Vcpu], Coroutine[Any, Any, Any]] | None = None
        self.on_failure: Callable[[Vcpu], None] = lambda vcpu: None
        self.on_kswapd: Callable[[int], bool] = lambda cpu: False
        self.spin_ns = 0
        self.lock_takes = 0
        self.atomic_hooks: frozenset[str] = frozenset()
        self.guest_cpu_ns = {HOOK: 0, TASK: 0, INTERRUPT: 0}

    # -- what the core calls --------------------------------------------------------------------

    def start_hook(self, vcpu: Vcpu) -> bool:
        """A hook returned a coroutine; whether it ended at once."""
        coroutine: Any = vcpu.coroutine
        context = Context(coroutine, HOOK, vcpu.number, vcpu.number, vcpu.hook)
        if vcpu.hook in self.atomic_hooks:
            context.interrupts_off = 1
        self.hooks[vcpu.number] = context
        return self._advance(context, None)

    def resume_hook(self, vcpu: Vcpu) -> bool:
        """The vCPU's turn came while a hook's coroutine waits; whether it has ended now."""
        context = self.hooks[vcpu.number]
        assert context is not None
        return self._continue(context)

    def wake_vcpu(self, number: int) -> None:
        """A vCPU waits for a slot that has just been filled."""
        self.processors.wake_tape(number, self.clock.now)

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

    def _continue(self, context: Context) -> bool:
        """A context's turn has come: take the lock it asked for, or go on after its wait."""
        value = context.outcome
        context.outcome = None
        lock = context.pending_lock
        if lock is not None:
            context.pending_lock = None
            self._enter(context)
            waited = lock.take()
            self.lock_takes += context.name not in KERNEL_CONTEXTS
            if context.kind == HOOK:
                self.simulation.vcpus[context.cpu].lock_wait += waited
        return self._advance(context, value)

    def _enter(self, context: Context) -> None:
        clock = self.clock
        clock.context = context.number
        clock.cpu = context.cpu
        clock.payer = (
            PAYER_THREAD
            if context.kind == HOOK
            else PAYER_TASK
            if context.kind == TASK
            else PAYER_INTERRUPT
        )

    def _advance(self, context: Context, value: Any) -> bool:
        """Run a coroutine to its next wait; True when it has ended."""
        clock = self.clock
        self._enter(context)
        outer, self.current = self.current, context
        began = clock.now
        try:
            request = context.coroutine.send(value)
        except StopIteration as stop:
            context.parked = "done"
            context.outcome = stop.value
            if context.name != "block_merged":
                # That hook is called with the zone lock held, and ends with it held again.
                self._check_no_lock(context, "ended")
            self._finished(context)
            return True
        except HintbenchError:
            raise
        except Exception as error:
            raise PluginError(self.plugin, context.name, error) from error
        finally:
            self.current = outer
            self.guest_cpu_ns[context.kind] += clock.now - began
        self._wait(context, request)
        return False

    def _wait(self, context: Context, request: Any) -> None:
        """Let a context wait for what it asked for."""
        clock = self.clock
        if isinstance(request, LockRequest):
            self._check_no_lock(context, "asked for another lock")
            # The request is a step of its own: others may be earlier.
            context.pending_lock = request.lock
            context.parked = "lock"
            self._come_back(context, clock.now)
            return
        if not isinstance(request, Park):
            raise PluginError(
                self.plugin,
                context.name,
                f"awaits {type(request).__name__}: only the guest's, its host's and its zones'"
                " own awaitables exist in virtual time",
            )
        self._check_no_lock(context, "waits")
        if request.kind == "sleep":
            self._check_may_sleep(context)
        context.parked = request.kind
        context.parked_at = clock.now
        context.token += 1
        if context.kind == HOOK:
            self.simulation.block(self.simulation.vcpus[context.cpu])
        # What registering costs (the kick of a report) is still this context's time.
        request.register(context)
        if request.kind == "sleep":
            self.processors.vacate(context)
        elif request.kind == "spin":
            self.processors.release_soon(context.cpu)

    def _check_no_lock(self, context: Context, what: str) -> None:
        for zone in self.simulation.zones:
            if zone.lock.held and zone.lock.holder == context.number:
                self.violate(
                    "atomic-context", f"{context.name} {what} with the lock of {zone} held"
                )
                raise PluginError(
                    self.plugin,
                    context.name,
                    f"{what} while it holds the lock of {zone} (rule atomic-context):"
                    " release it first",
                )

    def _check_may_sleep(self, context: Context) -> None:
        if (
            context.kind == INTERRUPT
            or context.interrupts_off
            or (context.kind == HOOK and context.name != "memory_low")
        ):
            where = "with interrupts off" if context.interrupts_off else f"in {context.name}"
            self.violate("atomic-context", f"{context.name} sleeps {where}")
            raise PluginError(
                self.plugin,
                context.name,
                f"sleeps {where} (rule atomic-context): sleep in a task, or spin",
            )

    def _come_back(self, context: Context, at_ns: int) -> None:
        """Have a context go on at a virtual time, in its order among all others."""
        if context.kind == HOOK:
            self.simulation.set_clock(context.cpu, at_ns)
        else:
            rank = RANK_INTERRUPT if context.kind == INTERRUPT else RANK_TASK
            context.timer = self.simulation.schedule(
                at_ns, rank, context.cpu, lambda: self._turn(context)
            )

    def _turn(self, context: Context) -> None:
        """A task's or interrupt's turn in the event queue."""
        if context.delay_ns:
            # An interrupt took its CPU in between.
            delay, context.delay_ns = context.delay_ns, 0
            self._come_back(context, self.clock.now + delay)
            return
        self._continue(context)

    def _finished(self, context: Context) -> None:
        if context.kind == HOOK:
            self.hooks[context.cpu] = None
            if context.interrupts_off:
                self.irqs_off_until_ns[context.cpu] = max(
                    self.irqs_off_until_ns[context.cpu], self.clock.now
                )
            self.processors.release_soon(context.cpu)
            return
        if context.kind == INTERRUPT:
            self.processors.end_interrupt(context)
            return
        self.contexts.remove(context)
        for joiner in context.joiners:
            self.unpark(joiner, None)
        self.processors.vacate(context)

    # -- waking ---------------------------------------------------------------------------------

    def unpark(self, context: Context, outcome: Any, at_ns: int | None = None) -> None:
        """What a context waits for has happened.

        Args:
            context: it.
            outcome: the value of its ``await``.
            at_ns: when; now if None.
        """
        if not context.parked or context.parked in ("done", "lock", "ready"):
            return
        now = self.clock.now if at_ns is None else at_ns
        kind, context.parked = context.parked, "ready"
        context.outcome = outcome
        if kind == "spin":
            now += self.wake_ns
        if kind in ("spin", "held"):
            self._account_spin(context, now)
        if context.kind == HOOK:
            self.processors.wake_tape(context.cpu, now)
        elif kind in ("spin", "held"):
            self._come_back(context, now)
        else:
            self.processors.make_ready(context, now)

    def _account_spin(self, context: Context, now: int) -> None:
        waited = max(0, now - context.parked_at)
        self.spin_ns += waited
        self.guest_cpu_ns[context.kind] += waited
        if context.kind == HOOK:
            self.simulation.vcpus[context.cpu].spin += waited
        self.irqs_off_until_ns[context.cpu] = max(self.irqs_off_until_ns[context.cpu], now)

    # -- tasks ----------------------------------------------------------------------------------

    def spawn(self, coroutine: Coroutine[Any, Any, Any], cpu: int, name: str) -> Task:
        """Start a task on a CPU (-1: on the host's side, where it takes no vCPU's time)."""
        self.next_number += 1
        context = Context(coroutine, TASK, cpu, self.next_number, name)
        context.parked = "ready"
        self.contexts.append(context)
        self.processors.make_ready(context, self.clock.now)
        return Task(self, context)

    @contextmanager
    def interrupts_off(self) -> Iterator[None]:
        """local_irq_save() .. local_irq_restore() in the running context; nests."""
        context = self.current
        if context is None:
            yield
            return
        context.interrupts_off += 1
        try:
            yield
        finally:
            context.interrupts_off -= 1
            number = context.cpu
            if number >= 0 and not context.interrupts_off:
                now = self.clock.now
                self.irqs_off_until_ns[number] = max(self.irqs_off_until_ns[number], now)
                self.processors.release_soon(number)

    @property
    def atomic(self) -> bool:
        """Whether the running context must not sleep."""
        context = self.current
        if context is None:
            return True
        return (
            context.kind == INTERRUPT
            or context.interrupts_off > 0
            or (context.kind == HOOK and context.name != "memory_low")
        )
