"""Coroutines in virtual time, as strategies and the kernel's own threads start them.

A *context* is a coroutine with a CPU: a hook that waits (it is the vCPU), a task (a kthread or
work item), an interrupt.  How they wait and go on is in :mod:`hintbench.core.scheduler`, which of
several has a vCPU in :mod:`hintbench.core.processors`, and what they may do in
:mod:`hintbench.tasks.context_rules` and :mod:`hintbench.tasks.sections`.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator
from typing import TYPE_CHECKING, Any

from hintbench.core.constants import RANK_INTERRUPT, ROLE_TASK
from hintbench.core.contexts import KERNEL, Context, Park
from hintbench.tasks.context_rules import ContextRules
from hintbench.tasks.jiffies import timer_fires_ns
from hintbench.tasks.sections import Sections

if TYPE_CHECKING:
    from hintbench.core.simulation import Simulation
    from hintbench.core.vcpu import Vcpu


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

    def __await__(self) -> Generator[Any, Any, None]:
        """``await task`` is ``await task.join()``, as of asyncio's."""
        return self.join().__await__()

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
        rules = ContextRules(simulation, plugin)
        super().__init__(simulation, rules, irqs_off_until_ns, interrupt_ns, switch_ns, wake_ns)
        rules.takes = self.takes
        self.plugin = plugin
        self.reclaim: Callable[[Vcpu], Coroutine[Any, Any, Any]] | None = None
        self.on_failure: Callable[[Vcpu], None] = lambda vcpu: None
        self.on_kswapd: Callable[[int, int], bool] = lambda cpu, node: False
        self.timer_phase_ns = 0

    # -- what the core calls --------------------------------------------------------------------

    def slow_path(self, vcpu: Vcpu) -> Coroutine[Any, Any, Any]:
        """Direct reclaim of a blocking allocation."""
        assert self.reclaim is not None
        return self.reclaim(vcpu)

    def allocation_failed(self, vcpu: Vcpu) -> None:
        """An allocation has failed for good."""
        self.on_failure(vcpu)

    def wake_kswapd(self, number: int, node: int) -> bool:
        """An allocation needs kswapd of a node, or -1: of every one; whether one slept."""
        return self.on_kswapd(number, node)

    # -- tasks ----------------------------------------------------------------------------------

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
        context = Context(coroutine, ROLE_TASK, cpu, self.next_number, name)
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

    def everybody(self) -> list[Context]:
        """All that have begun or may begin, and have not ended: hooks, tasks, interrupts."""
        interrupts = (cpu.interrupt for cpu in self.processors.cpus)
        return [one for one in (*self.hooks, *self.contexts, *interrupts) if one is not None]

    def close(self) -> None:
        """The run is over, perhaps given up: nothing goes on, and nothing waits to be begun.

        Python would complain of coroutines that never began, whosever they are.
        """
        for context in self.everybody():
            try:
                context.coroutine.close()
            except KeyboardInterrupt:
                raise
            except BaseException:
                # What a plugin does on the way out of a run that is over concerns nobody.
                continue

    def _expire(self, context: Context) -> None:
        """The timer of a delayed task fires, unless the task was cancelled."""
        if context.parked == "timer":
            context.parked = "ready"
            self.processors.make_ready(context, self.clock.now)
