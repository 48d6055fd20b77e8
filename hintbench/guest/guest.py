"""What a strategy sees and holds of the guest: ``guest`` in every hook."""

from __future__ import annotations

import random
from collections.abc import Callable, Coroutine
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from hintbench.config.plain import plain
from hintbench.core.contexts import Context, Park, Step
from hintbench.core.flags import UnitFlags
from hintbench.core.hooks import CoreHooks
from hintbench.core.measures import Integral
from hintbench.guest.own_state import OwnState
from hintbench.guest.sharing import Sharing
from hintbench.guest.spinning import Spinners
from hintbench.guest.struct_pages import StructPages
from hintbench.host.host import Host
from hintbench.tasks.arguments import check_coroutine, whole_ns
from hintbench.tasks.events import Event
from hintbench.tasks.scheduler import Scheduler, Task

if TYPE_CHECKING:
    from hintbench.config.costs import Costs
    from hintbench.config.guest import GuestConfig
    from hintbench.core.zone import Zone
    from hintbench.guest.boot import Machine
    from hintbench.guest.watching import Watcher

MEANINGS = ("candidate", "in-flight", "told")
FORGET = ("never", "taken", "allocated")
_ATOMIC_SLEEP_NS = 20_000
"""For how long a sleeping allocation lets others in, in explored runs."""
MOST_MARKS = 10_000


class Guest(StructPages, OwnState):
    """The modelled VM, as a strategy sees it.

    Attributes:
        zones: all zones, lowest addresses first.
        cpus: the vCPUs' numbers.
        kernel: ``"5.0"`` or ``"6.12"``.
        host: who takes memory back.
        costs: the prices, for what a strategy charges itself.
        rng: random numbers that repeat with the seed.
        violations: how often each rule was broken, as far as a run sees that by itself.
        marks: what `mark` has noted.
        discarded_at_start: whether the host has taken back every free block of order 9 and more
            before the start; a strategy that remembers what it told then begins with that.
        machine, scheduler, hooks, config: the model underneath; these and what follows are the
            framework's and its tests', and nothing that a strategy may use.
        watcher, on_violation, buffer_fails: what an explored run looks on and intervenes with.
        drops: how many hints were lost, by reason.
        flag_sets: by name, the flags that the strategy has made and what they mean.
        isolated, held: pages in the strategy's hands over time, of all zones.
    """

    def __init__(
        self, machine: Machine, scheduler: Scheduler, config: GuestConfig, seed: int
    ) -> None:
        super().__init__(machine.simulation)
        self.machine = machine
        self.scheduler = scheduler
        self._clock = machine.clock
        self.config = config
        self.discarded_at_start: bool = config.discarded_at_start
        self.kernel: str = config.kernel
        self.zones: tuple[Zone, ...] = tuple(machine.zones)
        self.cpus = range(config.vcpus)
        self.costs: Costs = config.costs
        self._prices = plain(config.costs)
        self.host = Host(plain(config.host), machine.simulation, scheduler)
        self._spinners = Spinners(scheduler, self.host)
        self._sharing = Sharing(self, machine.clock, self._prices, self._spinners)
        self.rng = random.Random(seed)
        self.watcher: Watcher | None = None
        self.on_violation: Callable[[str, str, str], None] | None = None
        self.buffer_fails: Callable[[], bool] | None = None
        self.drops: dict[str, int] = {}
        self.violations: dict[str, int] = {}
        self.marks: list[tuple[int, int, str]] = []
        self.flag_sets: dict[str, tuple[UnitFlags, str]] = {}
        self.hooks = CoreHooks(self)
        machine.simulation.hooks = self.hooks
        scheduler.rules.violate = self.violate
        self.host.violate = self.violate
        self.isolated = Integral(0)
        self.held = Integral(0)
        for zone in machine.zones:
            zone.in_flight = self.isolated
            zone.held = self.held
            zone.hooks = self.hooks
            zone.violate = self.violate
            zone.lock.taken_in_place = scheduler.taken_in_place
            zone.lock.taken_again = scheduler.rules.check_again
            zone.lock.left_in_place = scheduler.takes.end_in_place

    # -- where and when -------------------------------------------------------------------------

    @property
    def now(self) -> int:
        """The running context's virtual time [ns]."""
        return self._clock.now

    @property
    def cpu(self) -> int:
        """The CPU that the running context is on."""
        return self._clock.cpu

    def spend(self, ns: int) -> None:
        """Charge the running context virtual time.

        Args:
            ns: how much [virtual ns].

        Raises:
            TypeError: ``ns`` is no whole number.
            ValueError: ``ns`` is negative.
        """
        self._clock.now += whole_ns("spend", ns)

    # -- waiting --------------------------------------------------------------------------------

    def spawn(
        self,
        coroutine: Coroutine[Any, Any, Any],
        *,
        cpu: int,
        name: str,
        delay_ns: int = 0,
    ) -> Task:
        """Start a kthread or work item; legal everywhere, also in atomic context.

        To start one of the guest's at once costs the caller a wake-up, `Costs.task_wake_ns`; a
        timer costs nothing to arm.

        Args:
            coroutine: what it does.
            cpu: the vCPU it runs on; -1 for a thread of the host.
            name: for messages.
            delay_ns: as queue_delayed_work(): it starts when a timer of so much virtual time
                fires, which the kernel's timer wheel makes up to an eighth longer. Until then
                `Task.cancel` undoes it. 0: it starts at once.

        Raises:
            TypeError: ``coroutine`` is none, or the CPU or the delay is no whole number.
            ValueError: there is no such CPU, or the delay is negative.
        """
        check_coroutine(f"spawn {name!r}", coroutine)
        try:
            if not hasattr(cpu, "__index__"):
                raise TypeError(f"spawn {name!r}: cpu={cpu!r} is no CPU's number")
            if not -1 <= cpu < len(self.cpus):
                raise ValueError(f"spawn {name!r}: CPU {cpu} is not one of 0..{len(self.cpus) - 1}")
            delay_ns = whole_ns(f"spawn {name!r}: delay_ns", delay_ns)
        except (TypeError, ValueError):
            coroutine.close()
            raise
        if cpu >= 0 and not delay_ns:
            self._clock.now += self._prices.task_wake_ns
        return self.scheduler.spawn(coroutine, cpu, name, delay_ns=delay_ns)

    async def sleep(self, ns: int) -> None:
        """Give the CPU away for a while; only where sleeping is allowed.

        Args:
            ns: for how long [virtual ns].

        Raises:
            TypeError: ``ns`` is no whole number, such as the seconds of ``asyncio.sleep``.
            ValueError: ``ns`` is negative.
        """
        ns = whole_ns("sleep", ns)
        scheduler = self.scheduler

        def register(context: Context) -> None:
            scheduler.simulation.schedule(
                scheduler.clock.now + ns,
                context.rank,
                context.cpu,
                lambda: scheduler.unpark(context, None),
            )

        await Park("sleep", register)

    async def step(self) -> None:
        """Let everything happen first that is earlier in virtual time.

        What a coroutine does from one await to the next happens at once. One that has spent time,
        and then looks at what others change without a lock, sees it as it was before it did.
        """
        await Step()

    async def spin_while(
        self, condition: Callable[[], bool], poll: Callable[[], None] | None = None
    ) -> None:
        """Keep the vCPU busy as long as ``condition()`` holds.

        It is looked at again whenever a flag is cleared or an `Atomic` written, and whenever a
        task, an interrupt or a waiting hook has run up to its next await. What a plain hook changes
        otherwise is not seen by itself.

        Args:
            condition: cheap and without side effects.
            poll: called in the spinner's context whenever the host has a completion that nobody
                has fetched.
        """
        await self._spinners.spin_while(condition, poll)

    def event(self) -> Event:
        """Something that tasks can wait for."""
        return Event(self.scheduler, self._prices.task_wake_ns)

    def interrupts_off(self) -> AbstractContextManager[None]:
        """``with guest.interrupts_off():`` as local_irq_save(); nests."""
        return self.scheduler.interrupts_off()

    # -- memory of the strategy's own -----------------------------------------------------------

    async def allocate_buffer(self, size: int) -> bool:
        """kmalloc(size, GFP_KERNEL): may sleep, so not in atomic context.

        It costs `Costs.buffer_ns`, and takes nothing from the guest's memory.

        Args:
            size: how much [bytes].

        Returns:
            Whether there was memory.
        """
        fails = self.buffer_fails is not None and self.buffer_fails()
        if self.scheduler.atomic or self.scheduler.takes.held_by(self._clock.context):
            self.violate("atomic-context", f"allocate_buffer({size}) in atomic context", "buffer")
            if self.watcher is not None:
                # It sleeps all the same: interrupts are on meanwhile, and others run.
                await self._sleep_in_atomic_context()
        if self.watcher is not None:
            self.watcher.buffer_asked(size)
        self._clock.now += self._prices.buffer_ns
        return not fails

    async def _sleep_in_atomic_context(self) -> None:
        """might_sleep() where nobody may: whoever has been kept out comes in."""
        context = self.scheduler.current
        if context is None:
            return
        depth, context.interrupts_off = context.interrupts_off, 0
        self.scheduler.processors.release_soon(context.cpu)
        self._clock.now += _ATOMIC_SLEEP_NS
        await Step()
        context.interrupts_off = depth

    def flags(
        self, name: str, *, order: int, forget: str = "never", meaning: str = "candidate"
    ) -> UnitFlags:
        """A flag for every unit of ``1 << order`` pages of the guest.

        Args:
            name: for messages.
            order: the unit's order.
            forget: when the guest clears it by itself: ``"taken"`` when the unit's block leaves
                its free list, ``"allocated"`` when a page of it is handed to a caller.
            meaning: what a set flag says, for the rules: ``"candidate"``, ``"in-flight"`` or
                ``"told"``.

        Raises:
            ValueError: an argument is wrong, or there are flags of that name already.
        """
        if name in self.flag_sets:
            raise ValueError(f"flags {name!r} exist already: choose another name")
        if forget not in FORGET or meaning not in MEANINGS or not 0 <= order <= 10:
            raise ValueError(
                f"flags {name!r}: order 0..10, forget one of {', '.join(FORGET)},"
                f" meaning one of {', '.join(MEANINGS)}"
            )
        flags = UnitFlags(name, order, self._pages.page_count, self, self._spinners.wake)
        self.flag_sets[name] = (flags, meaning)
        watched: Any = flags
        watched.watcher = None if self.watcher is None else self.watcher.of_flags(meaning)
        if meaning == "in-flight":
            watched.split = self.machine.backing.split
            self.scheduler.takes.in_flight_flags.append(flags)
        if forget == "taken":
            self.hooks.forget_when_taken.append(flags)
        elif forget == "allocated":
            self.hooks.forget_when_allocated.append(flags)
        return flags

    # -- telling --------------------------------------------------------------------------------

    def count_drop(self, reason: str, count: int = 1) -> None:
        """A hint was lost; the metric `dropped_hints` shows how many.

        Args:
            reason: why, in a few words, such as "ring full".
            count: how many hints.
        """
        self.drops[reason] = self.drops.get(reason, 0) + count
        if self.watcher is not None:
            self.watcher.dropped(reason, count)

    def mark(self, name: str) -> None:
        """A tracepoint of the strategy's own, such as the beginning of a pass; costs nothing.

        Whoever looks at a run finds it in ``guest.marks`` as (virtual ns, CPU, name); only the
        first 10,000 are kept.

        Args:
            name: what has happened.
        """
        if len(self.marks) < MOST_MARKS:
            self.marks.append((self._clock.now, self._clock.cpu, name))

    def oops(self, rule: str, text: str) -> None:
        """The kernel would have died or warned here: a violation, and on it goes.

        Args:
            rule: which is broken, one of `hintbench.testing.rules`.
            text: how.
        """
        self.violate(rule, text, "oops")

    def violate(self, rule: str, text: str, kind: str = "") -> None:
        """Record that a rule was broken, as the model finds; a strategy says `oops`.

        Args:
            rule: which.
            text: how.
            kind: a word that tells ways of breaking one rule apart.
        """
        self.violations[rule] = self.violations.get(rule, 0) + 1
        if self.on_violation is not None:
            self.on_violation(rule, text, kind)

    def __repr__(self) -> str:
        return f"<Guest {self.kernel}, {len(self.cpus)} vCPUs, {len(self.zones)} zones>"
