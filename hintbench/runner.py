"""One simulation in its phases, from a strategy and a workload to a typed result."""

from __future__ import annotations

import time
from collections.abc import Coroutine, Mapping
from dataclasses import replace
from typing import Any, Final

from hintbench.blamed_tape import BlamedTape
from hintbench.config.guest import GuestConfig
from hintbench.core import machine as core_machine
from hintbench.core.constants import PAGEBLOCK_ORDER
from hintbench.core.freelists import inspect_blocks
from hintbench.core.hooks import HookPoint
from hintbench.core.measures import Latencies
from hintbench.errors import (
    HintbenchError,
    PluginError,
    PluginHangError,
    TaskLeakError,
    UsageError,
)
from hintbench.guest.boot import Machine
from hintbench.guest.guest import Guest
from hintbench.guest.validation import check_end
from hintbench.kernel.threads import KernelThreads
from hintbench.plugins.binding import bind_hooks, hook_codes, native_filters, plugin_name
from hintbench.plugins.forgotten import explains, forgotten_awaits
from hintbench.plugins.watchdog import PROGRAM_LIMIT_SECONDS, watch
from hintbench.results.metrics import collect, locks_per_batch
from hintbench.results.result import Result
from hintbench.results.retention import follow_backed_memory
from hintbench.strategy import Claims, Strategy
from hintbench.tasks.scheduler import Scheduler
from hintbench.workload import Program, Workload, WorkloadSetting

SAMPLE_NS: Final = 1_000_000
"""Spacing of the series of backed and used memory [virtual ns]; they are thinned when long."""
START_LIMIT_NS: Final = 120_000_000_000
"""When ``guest_started`` must have ended [virtual ns]."""
STOP_LIMIT_NS: Final = 1_000_000_000
"""How long tasks may go on after ``guest_stopping`` [virtual ns]."""
_CORE_HOOKS: Final = (
    "page_freeing",
    "block_merged",
    "block_freed",
    "block_taken",
    "free_completed",
    "page_allocated",
    "memory_low",
)


class Run:
    """One simulation in its phases: boot, start, tapes, stop, result.

    Args:
        strategy: an instance that has not had its run.
        workload: what drives the guest.
        config: the guest.
        seed: of every random choice.
        attached_but_off, observers: as of `hintbench.run`.
        sample_ns: spacing of the series of backed and used memory [virtual ns].
        latencies: where latencies are counted; None: in tables of the run's own.

    Attributes:
        machine: the booted guest.
        guest: what the strategy sees of it.
        scheduler: its coroutines.
        blamed: the plugin at fault if nothing goes on now.
    """

    def __init__(
        self,
        strategy: Strategy,
        workload: Workload,
        config: GuestConfig,
        seed: int,
        *,
        attached_but_off: bool = False,
        observers: tuple[object, ...] = (),
        sample_ns: int = SAMPLE_NS,
        latencies: Latencies | None = None,
    ) -> None:
        self.strategy = strategy
        self.workload = workload
        self.config = config
        self.seed = seed
        self.off = attached_but_off
        self.observers = observers
        self.strategy_name = plugin_name(strategy)
        self.workload_name = plugin_name(workload)
        self.blamed = self.workload_name
        if strategy.had_its_run:
            raise UsageError(
                f"strategy {self.strategy_name!r}: this instance has had its run: make another one,"
                " or pass the class"
            )
        strategy.had_its_run = True
        self.program: Program = self._program()
        initial = self.program.initial
        self.machine = Machine(
            config,
            self.program.tapes,
            self.program.slots,
            seed,
            sample_ns,
            empty=initial is not None,
            latencies=latencies,
        )
        self.scheduler = self._scheduler()
        self.guest = Guest(self.machine, self.scheduler, config, seed)
        self.threads = KernelThreads(self.machine, self.guest, self.scheduler)
        self.threads.hung = self._stuck
        if initial is not None:
            initial.load(self.machine)
            self.scheduler.timer_phase_ns = initial.timer_phase_ns
        self._follow()
        if config.discarded_at_start:
            self._discard_free()

    def _scheduler(self) -> Scheduler:
        """Who drives the strategy's coroutines, and what waits in a tape."""
        costs = self.config.costs
        scheduler = Scheduler(
            self.machine.simulation,
            self.strategy_name,
            self.machine.irqs_off_until_ns,
            interrupt_ns=costs.interrupt_ns,
            switch_ns=costs.task_switch_ns,
            wake_ns=costs.context_spin_wake_ns,
        )
        atomic = {"block_merged"}
        if self.config.kernel == "5.0":
            # Its free paths have interrupts off until after this hook; 6.12's do not.
            atomic.add("free_completed")
        scheduler.atomic_hooks = frozenset(atomic)
        self.machine.simulation.driver = scheduler
        return scheduler

    def _program(self) -> Program:
        """Have the workload make its tapes."""
        name = self.workload_name
        setting = WorkloadSetting.of(self.config, self.seed)
        try:
            with watch(lambda: name, limit_seconds=PROGRAM_LIMIT_SECONDS):
                program: object = self.workload.program(setting)
        except HintbenchError:
            raise
        except (Exception, SystemExit) as error:
            raise PluginError(name, "program", error) from error
        if not isinstance(program, Program):
            raise PluginError(name, "program", f"returned {type(program).__name__}, not a Program")
        return replace(program, tapes=tuple(BlamedTape(self, tape) for tape in program.tapes))

    def _follow(self) -> None:
        """Keep the series and the split of what the host backs."""
        follow_backed_memory(self.machine, self._min_order())

    def _min_order(self) -> int:
        """The smallest block that the strategy reports; a pageblock if it does not say."""
        if self.off:
            return PAGEBLOCK_ORDER
        try:
            claims: Any = self.strategy.claims()
        except (Exception, SystemExit) as error:
            raise PluginError(self.strategy_name, "claims", error) from error
        if not isinstance(claims, Claims):
            text = f"returned {type(claims).__name__}, not Claims"
            raise PluginError(self.strategy_name, "claims", text)
        return PAGEBLOCK_ORDER if claims.min_order is None else int(claims.min_order)

    def _discard_free(self) -> None:
        """Every free block of order 9 and more was reported before the start."""
        for zone in self.machine.zones:
            for block in inspect_blocks(zone, 9):
                self.machine.backing.discard(block.pfn, block.order)
        self.machine.clock.now = 0

    def execute(self) -> Result:
        """Run it to the end.

        Raises:
            HintbenchError: the tapes cannot be followed; `PluginError`: the strategy is at fault.
        """
        began = time.perf_counter()
        simulation = self.machine.simulation
        self.blamed = self.strategy_name
        with (
            watch(lambda: self.blamed, lambda: simulation.progress, lambda: simulation.clock.now),
            forgotten_awaits() as forgotten,
        ):
            try:
                start_ns = self._start()
                initial = self.program.initial
                self.threads.start(None if initial is None else initial.vmstat_ticks_ns)
                if initial is not None:
                    self.threads.reclaim(initial.kswapd_runs, initial.drains_of_all)
                self.threads.compact(() if initial is None else initial.compaction)
                self.threads.watch_for_hung_tapes()
                simulation.begin_vcpus(start_ns)
                if not core_machine.run_tapes(simulation):
                    raise self._stuck()
                end_ns = max(simulation.clock.now, simulation.last_ns)
                metrics = collect(self.machine, self.guest, self.threads, start_ns, end_ns)
                notes = self._notes(metrics)
                self.threads.stopped = True
                simulation.clock.now = end_ns
                self._stop()
                self.scheduler.rules.check_all_released()
                metrics |= locks_per_batch(self.machine, self.guest)
            except PluginHangError:
                raise
            except HintbenchError as error:
                # What was meant to happen and did not is the likely cause of what then went wrong.
                if forgotten and explains(forgotten[0], error):
                    raise PluginError(self.strategy_name, "", forgotten[0]) from error
                raise
            except (Exception, SystemExit) as error:
                raise self._blame(error) from error
            finally:
                self.scheduler.close()
        if forgotten:
            raise PluginError(self.strategy_name, "", forgotten[0])
        check_end(self.guest, self.machine)
        return self._result(metrics, notes, time.perf_counter() - began)

    # -- phases ---------------------------------------------------------------------------------

    def _start(self) -> int:
        """Bind the hooks and let guest_started run to its end; the time the tapes start at."""
        hooks = bind_hooks(self.strategy, self.observers, off=self.off)
        self.scheduler.rules.hook_codes = hook_codes((*self.observers, self.strategy))
        self.bound = hooks
        started = hooks.get("guest_started")
        if started is None:
            self._attach(hooks)
        else:
            self._run_start(self._call(started))
        return int(self.machine.clock.now)

    def _attach(self, hooks: Mapping[str, Any]) -> None:
        """Give the core the hooks, each with what the strategy narrows it to."""
        # What is off has not started, and has no flags that a filter could name.
        filters = {} if self.off else native_filters(self.strategy, hooks, self.guest)
        for name in _CORE_HOOKS:
            function = hooks.get(name)
            if function is None:
                continue
            narrow = filters.get(name)
            point = HookPoint(
                name,
                function,
                narrow.min_order if narrow else 0,
                narrow.flags if narrow else None,
                narrow.cost_ns if narrow else 0,
            )
            setattr(self.guest.hooks, name, point)

    async def _call(self, function: Any) -> None:
        waiting = function(self.guest)
        if waiting is not None:
            await waiting

    def _run_start(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run guest_started as a task on CPU 0, and every event until it has ended."""
        simulation = self.machine.simulation
        self.machine.clock.cpu = 0
        task = self.scheduler.spawn(coroutine, 0, "guest_started")
        # Its synchronous part has made the flags that filters name.
        simulation.run_event()
        self._attach(self.bound)
        while not task.done:
            late = simulation.events and simulation.events[0][0] > START_LIMIT_NS
            if late or not simulation.events:
                raise PluginError(
                    self.scheduler.plugin,
                    "guest_started",
                    "does not end within two virtual minutes: spawn a task for what goes on"
                    if late
                    else "waits for something that never happens",
                )
            simulation.run_event()

    def _stop(self) -> None:
        """guest_stopping, and a virtual second for tasks to end."""
        simulation = self.machine.simulation
        limit_ns = simulation.clock.now + STOP_LIMIT_NS
        stopping = self.bound.get("guest_stopping")
        if stopping is not None:
            self.machine.clock.cpu = 0
            self.scheduler.spawn(self._call(stopping), 0, "guest_stopping")
        while simulation.events and simulation.events[0][0] <= limit_ns:
            simulation.run_event()
        alive = [context.name for context in self.scheduler.contexts]
        if alive:
            raise TaskLeakError(self.scheduler.plugin, "guest_stopping", ", ".join(alive))

    # -- telling --------------------------------------------------------------------------------

    def _stuck(self) -> HintbenchError:
        """Why nothing can run any more although tapes have not ended."""
        waiting = [
            f"vCPU {vcpu.number} waits for slot {vcpu.slot}"
            for vcpu in self.machine.simulation.vcpus
            if vcpu.phase == 0
        ]
        tasks = [cpu.occupant for cpu in self.scheduler.processors.cpus]
        contexts = [context for context in (*self.scheduler.hooks, *tasks) if context is not None]
        if contexts:
            return PluginError(
                self.scheduler.plugin,
                repr(contexts[0]),
                "waits for something that never happens: the guest is deadlocked",
            )
        return PluginError(
            self.workload_name,
            "program",
            f"its tapes wait for each other ({'; '.join(waiting[:4])})",
        )

    def _blame(self, error: BaseException) -> HintbenchError:
        """Whose fault an exception is that came out of the loop."""
        current = self.scheduler.current
        return self.scheduler.rules.blame(error, current.name if current is not None else "")

    def _notes(self, metrics: dict[str, Any]) -> list[str]:
        notes = ["attached but switched off: the strategy did nothing"] if self.off else []
        if self.program.initial is not None:
            # No plugin's work, and that of a long trace takes long.
            with watch(lambda: self.workload_name, limit_seconds=PROGRAM_LIMIT_SECONDS):
                extra, lines = self.program.initial.compare(self.machine)
            metrics.update(extra)
            notes.extend(lines)
        return notes

    def _result(self, metrics: dict[str, Any], notes: list[str], wall_seconds: float) -> Result:
        return Result(
            strategy=self.strategy_name,
            strategy_parameters=self.strategy.parameters.model_dump(mode="json"),
            workload=self.workload_name,
            workload_parameters=self.workload.parameters.model_dump(mode="json"),
            seed=self.seed,
            guest=self.config.model_dump(mode="json"),
            metrics=metrics,
            violations=dict(sorted(self.guest.violations.items())),
            digest=self.machine.clock.digest.hexadecimal(),
            wall_seconds=wall_seconds,
            notes=notes,
        )
