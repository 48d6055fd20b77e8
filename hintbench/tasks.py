"""Coroutines in virtual time: who waits for what, and which context has a vCPU.

A *context* is a coroutine with a CPU: a hook that waits (it is the vCPU), a task (a kthread or
work item), an interrupt.  The core calls :class:`Scheduler` when a hook returns a coroutine; the
event queue calls it for everything else.  A vCPU belongs to one context at a time: interrupt
before task before tape; a vCPU that spins, holds a lock or is out of the guest belongs to nobody
else.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Coroutine, Generator, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from hintbench.core.constants import NEVER, PAYER_INTERRUPT, PAYER_TASK, PAYER_THREAD
from hintbench.core.locks import LockRequest
from hintbench.errors import HintbenchError, PluginError

if TYPE_CHECKING:
    from hintbench.core.simulation import Simulation, Timer
    from hintbench.core.vcpu import Vcpu

RANK_HOST: Final = 0
RANK_INTERRUPT: Final = 1
RANK_TASK: Final = 2

HOOK: Final = "hook"
TASK: Final = "task"
INTERRUPT: Final = "interrupt"
_FIRST_TASK_NUMBER = 1 << 16


class Park:
    """What a coroutine yields to wait: somebody calls :meth:`Scheduler.unpark` on its context.

    Args:
        kind: ``"sleep"`` gives the CPU away; ``"spin"`` keeps it busy; ``"held"`` means that the
            vCPU is out of the guest, where not even interrupts reach it.
        register: called with the context once it is parked.
    """

    __slots__ = ("kind", "register")

    def __init__(self, kind: str, register: Callable[[Context], None]) -> None:
        self.kind = kind
        self.register = register

    def __await__(self) -> Generator[Any, Any, Any]:
        return (yield self)


class Context:
    """A coroutine, where it runs, and how it waits."""

    __slots__ = (
        "coroutine",
        "cpu",
        "delay_ns",
        "interrupts_off",
        "joiners",
        "kind",
        "name",
        "number",
        "outcome",
        "parked",
        "parked_at",
        "pending_lock",
        "timer",
        "token",
    )

    def __init__(
        self, coroutine: Coroutine[Any, Any, Any], kind: str, cpu: int, number: int, name: str
    ) -> None:
        self.coroutine = coroutine
        self.kind = kind
        self.cpu = cpu
        self.number = number
        self.name = name
        self.interrupts_off = 0
        self.parked = ""
        self.parked_at = 0
        self.token = 0
        self.delay_ns = 0
        self.pending_lock: Any = None
        self.timer: Timer | None = None
        self.outcome: Any = None
        self.joiners: list[Context] = []

    def __repr__(self) -> str:
        return f"<{self.kind} {self.name} on CPU {self.cpu}>"


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


class Cpu:
    """Who has a vCPU besides its tape, and who waits for it."""

    __slots__ = ("began", "interrupt", "interrupts", "occupant", "runnable", "saved", "woken")

    def __init__(self) -> None:
        self.occupant: Context | None = None
        self.interrupt: Context | None = None
        self.runnable: deque[Context] = deque()
        self.interrupts: deque[tuple[str, Callable[[], Any]]] = deque()
        self.saved = 0
        self.woken = False
        self.began = 0


class Scheduler:
    """Runs contexts over a simulation; the core's ``driver``.

    Args:
        simulation: the core's state.
        plugin: whose coroutines these are, for error messages.
        interrupt_ns: the cost of taking an interrupt.
        switch_ns: the cost of switching to a task.
        wake_ns: how long a spinner takes to see the change it spins for.
    """

    def __init__(
        self,
        simulation: Simulation,
        plugin: str,
        *,
        interrupt_ns: int,
        switch_ns: int,
        wake_ns: int,
    ) -> None:
        self.simulation = simulation
        self.clock = simulation.clock
        self.plugin = plugin
        self.interrupt_ns = interrupt_ns
        self.switch_ns = switch_ns
        self.wake_ns = wake_ns
        self.cpus = [Cpu() for _ in simulation.vcpus]
        self.hooks: list[Context | None] = [None] * len(simulation.vcpus)
        self.contexts: list[Context] = []
        self.current: Context | None = None
        self.next_number = _FIRST_TASK_NUMBER
        self.violate: Callable[[str, str], None] = lambda rule, text: None
        self.reclaim: Callable[[Vcpu], Coroutine[Any, Any, Any]] | None = None
        self.on_failure: Callable[[Vcpu], None] = lambda vcpu: None
        self.on_kswapd: Callable[[int], None] = lambda cpu: None
        self.irqs_off_until_ns: Any = None
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
        at_ns = self.clock.now
        cpu = self.cpus[number]
        if cpu.occupant or cpu.interrupt:
            cpu.saved, cpu.woken = at_ns, True
        else:
            self.simulation.wake(number, at_ns)

    def slow_path(self, vcpu: Vcpu) -> Coroutine[Any, Any, Any]:
        """Direct reclaim of a blocking allocation."""
        assert self.reclaim is not None
        return self.reclaim(vcpu)

    def allocation_failed(self, vcpu: Vcpu) -> None:
        """An allocation has failed for good."""
        self.on_failure(vcpu)

    def wake_kswapd(self, number: int) -> None:
        """An allocation went below the low watermark."""
        self.on_kswapd(number)

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
            self.lock_takes += context.name != "vmstat"
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
        elif context.kind == TASK and request.kind == "sleep":
            self._vacate(context)
        request.register(context)

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
            self._release_soon(context.cpu)
            return
        if context.kind == INTERRUPT:
            self._end_interrupt(context)
            return
        self.contexts.remove(context)
        for joiner in context.joiners:
            self.unpark(joiner, None)
        self._vacate(context)

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
            cpu = self.cpus[context.cpu]
            if cpu.occupant or cpu.interrupt:
                cpu.saved, cpu.woken = now, True
            else:
                self.simulation.set_clock(context.cpu, now)
        elif kind in ("spin", "held"):
            self._come_back(context, now)
        else:
            self._schedule_ready(context, now)

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
        self._schedule_ready(context, self.clock.now)
        return Task(self, context)

    def _schedule_ready(self, context: Context, at_ns: int) -> None:
        context.timer = self.simulation.schedule(
            at_ns, RANK_TASK, context.cpu, lambda: self._ready(context)
        )

    def _ready(self, context: Context) -> None:
        """A task may run: at once, or when its CPU is free for it."""
        if context.cpu < 0:
            self._continue(context)
            return
        cpu = self.cpus[context.cpu]
        if cpu.occupant is not None or self._blocked(context.cpu) or cpu.runnable:
            cpu.runnable.append(context)
            return
        self._dispatch(context)

    def _dispatch(self, context: Context) -> None:
        cpu = self.cpus[context.cpu]
        start = max(self.clock.now, self.irqs_off_until_ns[context.cpu])
        if start > self.clock.now:
            self._schedule_ready(context, start)
            return
        cpu.occupant = context
        self._save_tape(context.cpu)
        self.clock.now += self.switch_ns
        self._continue(context)

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

    def _vacate(self, context: Context) -> None:
        """A task gives its CPU away."""
        if context.cpu < 0:
            return
        cpu = self.cpus[context.cpu]
        if cpu.occupant is context:
            cpu.occupant = None
            if cpu.interrupt is None:
                self._restore_tape(context.cpu)
        self._release_soon(context.cpu)

    def _release_soon(self, number: int) -> None:
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

    def _takes_interrupts(self, number: int) -> bool:
        for context in (self.hooks[number], self.cpus[number].occupant):
            if context is None or context.parked == "sleep":
                continue
            if context.interrupts_off or context.parked in ("held", "lock"):
                return False
        return True

    # -- interrupts -----------------------------------------------------------------------------

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
        self.next_number += 1
        context = Context(_as_coroutine(handler), INTERRUPT, number, self.next_number, name)
        context.interrupts_off = 1
        cpu.interrupt = context
        context.parked_at = self.clock.now
        if cpu.occupant is None:
            self._save_tape(number)
        self.clock.now += self.interrupt_ns
        self._advance(context, None)

    def _end_interrupt(self, context: Context) -> None:
        number = context.cpu
        cpu = self.cpus[number]
        cpu.interrupt = None
        self.irqs_off_until_ns[number] = max(self.irqs_off_until_ns[number], self.clock.now)
        if cpu.occupant is None:
            self._restore_tape(number)
        elif cpu.occupant.parked in ("lock", "ready"):
            cpu.occupant.delay_ns += self.clock.now - context.parked_at
        self._release_soon(number)

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
                self._release_soon(number)

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


async def _as_coroutine(handler: Callable[[], Any]) -> None:
    """Run a plain function as a context; it may return a coroutine."""
    waiting = handler()
    if waiting is not None:
        await waiting
