"""What a context may do where it is, and with the locks that it holds."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from hintbench.core.contexts import HOOK, INTERRUPT, Context
from hintbench.core.scheduler import MAY_SLEEP
from hintbench.errors import PluginError
from hintbench.tasks.blame import Blame, Place, line_of_plugin
from hintbench.tasks.lock_order import LockOrder

if TYPE_CHECKING:
    from hintbench.core.locks import LockTimeline
    from hintbench.core.simulation import Simulation
    from hintbench.core.zone import Zone


class ContextRules(Blame):
    """Holds contexts to ``atomic-context``: no sleep, and no wait with a lock held.

    Args:
        simulation: the core's state.
        plugin: who is to blame.

    Attributes:
        violate: called with a rule, a text and perhaps a kind when a context breaks one.
        takes: who holds which lock.
        order: in which order locks are taken, once the strategy has one of its own.
        left_at: such a place, while it is recorded that the hook has returned with the lock.
        waiting: the context whose wait is a violation, while that is recorded.
    """

    def __init__(self, simulation: Simulation, plugin: str) -> None:
        super().__init__(simulation, plugin)
        self.violate: Callable[..., None] = lambda rule, text, kind="": None
        self.takes: Any = None
        self.order = LockOrder()
        self.left_at: Place | None = None
        self.waiting: Context | None = None

    def check_wait(self, context: Context, what: str = "waits") -> None:
        """Refuse to wait for anything while a lock is held.

        Raises:
            PluginError: a lock is held.
        """
        for lock in self.takes.locks_of(context.number):
            self._forbid(
                context,
                "atomic-context",
                f"{what} while it holds the {self.name_of(lock)}",
                "release it first",
            )

    def check_inside(self, context: Context, lock: LockTimeline) -> None:
        """Refuse to ask for a second zone lock, before it is waited for.

        Raises:
            PluginError: it holds another zone's.
        """
        if lock.of_zone and any(held.of_zone for held in self.takes.locks_of(context.number)):
            self.check_wait(context, "asks for another lock")

    def check_taken(self, context: Context, lock: LockTimeline, *, interrupts_on: bool) -> None:
        """Hold a lock that a coroutine has awaited against what it has, and what it lets in.

        Args:
            context: whose it is; it stands in its await.
            lock: it.
            interrupts_on: it asked for spin_lock(), which leaves interrupts as they are.

        Raises:
            PluginError: as from `check_nested`.
        """
        lock.interrupts_on = interrupts_on and lock.of_strategy
        self.waiting = context
        try:
            if interrupts_on and lock.of_zone:
                self.check_interrupts_off(context, lock)
            self.check_nested(context, lock)
        finally:
            self.waiting = None

    def check_nested(self, context: Context | None, lock: LockTimeline) -> None:
        """Hold a lock that has been taken against those that its taker has already.

        Two zones' are refused: all are of one class, "possible recursive locking" (lockdep). One
        of the strategy's own may be taken inside any other, in the same order everywhere.

        Args:
            context: who has just taken it; None for a plain hook.
            lock: it.

        Raises:
            PluginError: it is a zone's, and its taker holds another zone's too.
        """
        number: int = self.simulation.clock.context
        if context is None:
            self.taken_at[lock] = lock.takes, line_of_plugin()
        if lock.of_zone:
            zones = [zone for zone in self.simulation.zones if zone.lock.held_here]
            if len(zones) > 1:
                what = f"holds the locks of {' and of '.join(map(str, zones))} at once"
                if context is not None:
                    self._forbid(context, "atomic-context", what, "release one before the other")
                self.violate("atomic-context", f"a hook {what}")
        if self.takes.own_locks:
            self._check_order(context, lock, number)

    def _check_order(self, context: Context | None, lock: LockTimeline, number: int) -> None:
        who = "a hook" if context is None else context.name
        outer = [each for each in self.takes.locks_of(number) if each is not lock]
        for each in outer:
            way = self.order.add(each, lock)
            if way:
                self.violate(
                    "atomic-context",
                    f"{who} takes the {self.name_of(lock)} while it holds the {self.name_of(each)};"
                    f" elsewhere {_told(way)}: two CPUs that do so wait for each other",
                    "lock-order",
                )
        if not lock.of_strategy:
            return
        with_interrupts = context is not None and lock.interrupts_on and not context.interrupts_off
        self._note_taken(
            who,
            lock,
            in_interrupts=_runs_in_interrupts(context) or any(each.of_zone for each in outer),
            interrupts_on=with_interrupts and all(each.interrupts_on for each in outer),
        )

    def _note_taken(
        self, who: str, lock: LockTimeline, *, in_interrupts: bool, interrupts_on: bool
    ) -> None:
        """A lock of the strategy's is held, by what and how decides who may deadlock on it."""
        if self.order.taken(lock, in_interrupts=in_interrupts, interrupts_on=interrupts_on):
            self.violate(
                "irq-safe",
                f"{who} has the {lock.name}, which is held with interrupts on in one place, and"
                " taken by interrupts in another",
                "own-lock",
            )

    def check_again(self, lock: LockTimeline) -> None:
        """Its holder asks for a lock once more: it would spin for ever.

        Args:
            lock: it.

        Raises:
            PluginError: always, but for a plain hook's, which the lock itself refuses.
        """
        driver: Any = self.simulation.driver
        what = f"takes the {self.name_of(lock)} while it holds it"
        if driver.current is not None:
            self._forbid(driver.current, "atomic-context", what, "release it first")
        if driver.plain_hook[0]:
            self.violate("atomic-context", f"{driver.plain_hook[0]} {what}", "recursion")

    def check_returned(self, hook: str, function: Any, before: int) -> None:
        """Refuse that a plain hook returns with other locks than it was called with.

        Args:
            hook: its name.
            function: it.
            before: the locks that were held when it was called, as from `LockTakes.held_by`.

        Raises:
            PluginError: always.
        """
        number = self.simulation.clock.context
        code = getattr(function, "__code__", None)
        self.left_at = (code, code.co_firstlineno) if code is not None else None
        left = self.takes.locks_of(number, since=before)
        if before & ~self.takes.held_by(number):
            what, rule = "let go of the lock that it was called with", "locked-lists"
        else:
            what, rule = f"left the {self.name_of(left[-1])} taken", "atomic-context"
            self.left_at = self.place_of_take(left[-1]) or self.left_at
        try:
            self.violate(rule, f"{hook} {what}", "returned")
        finally:
            self.left_at = None
        raise PluginError(self.plugin, hook, f"{what} (rule {rule})")

    def check_all_released(self) -> None:
        """Refuse that a lock is held when all is over: some plain hook has left it.

        Raises:
            PluginError: one is held.
        """
        for lock in self.takes.own_locks:
            place = self.place_of_take(lock) if lock.held else None
            if place is not None:
                raise self.left_taken(lock, place)

    def check_interrupts_on(self, context: Context | None, before: int) -> None:
        """local_irq_restore() below a lock: an interrupt that frees would wait for it for ever.

        Args:
            context: whose section with interrupts off ends; None for a plain hook.
            before: the locks that were held when that began, as from `LockTakes.held_by`; others
                it must have let go by now.
        """
        if context is not None and context.kind == INTERRUPT:
            return
        number: int = self.simulation.clock.context if context is None else context.number
        held = self.takes.locks_of(number)
        if not held:
            return
        off = [lock for lock in held if not lock.interrupts_on]
        since = self.takes.locks_of(number, since=before)
        if any(lock not in since for lock in off):
            # Interrupts have been off since before the section.
            return
        who = "a hook" if context is None else context.name
        for lock in held:
            if lock.interrupts_on:
                self._note_taken(who, lock, in_interrupts=False, interrupts_on=True)
        if off:
            self.violate("irq-safe", f"{who} lets interrupts in while it holds the {off[0].name}")

    def check_end(self, context: Context) -> None:
        """A context ends without locks; block_merged was called with one and ends with it.

        Raises:
            PluginError: it is otherwise.
        """
        if context.kind != HOOK or context.name != "block_merged":
            self.check_wait(context, "ended")
        elif not self._has_lock_of_merge(context):
            self.lock_lost(context)

    def lock_lost(self, context: Context) -> None:
        """A block_merged hook has ended without the lock that it released.

        Raises:
            PluginError: always.
        """
        self._forbid(
            context,
            "locked-lists",
            "ended without the lock of the zone",
            "take it again, since the merge goes on",
        )

    def check_sleep(self, context: Context, what: str = "sleeps") -> None:
        """Refuse to sleep in an interrupt, with interrupts off, or in a hook that may not.

        Raises:
            PluginError: the context is atomic.
        """
        if not is_atomic(context):
            return
        where = f"in {context.name}"
        if context.kind == INTERRUPT:
            where = "in an interrupt"
        elif context.interrupts_off:
            where = "with interrupts off"
        self._forbid(context, "atomic-context", f"{what} {where}", "sleep in a task, or spin")

    def check_interrupts_off(self, context: Context, lock: LockTimeline) -> None:
        """A zone lock is taken by spin_lock(): an interrupt here would wait for it for ever."""
        if context.kind != INTERRUPT and not context.interrupts_off:
            self.violate("irq-safe", f"{context.name} takes the {lock.name} with interrupts on")

    def refuse_result(self, hook: str, result: object) -> None:
        """Refuse what a hook returned that is neither None nor a coroutine.

        Raises:
            PluginError: always.
        """
        kind = type(result).__name__
        raise PluginError(self.plugin, hook, f"returned {kind}: None or a coroutine only")

    def refuse_wait(self, context: Context, awaited: object) -> None:
        """Refuse to wait for what does not exist in virtual time.

        Raises:
            PluginError: always.
        """
        raise PluginError(
            self.plugin,
            context.name,
            f"awaits {type(awaited).__name__}: only the guest's, its host's and its zones'"
            " own awaitables exist in virtual time",
        )

    def _has_lock_of_merge(self, context: Context) -> bool:
        """Whether a block_merged hook ends with the lock of the zone that its vCPU frees to."""
        zone: Zone = self.simulation.zone_of(self.simulation.vcpus[context.cpu].pfn)
        return bool(zone.lock.held and zone.lock.holder == context.number)

    def _forbid(self, context: Context, rule: str, what: str, advice: str) -> None:
        self.waiting = context
        try:
            self.violate(rule, f"{context.name} {what}")
        finally:
            self.waiting = None
        raise PluginError(self.plugin, context.name, f"{what} (rule {rule}): {advice}")


def is_atomic(context: Context) -> bool:
    """Whether a context must not sleep."""
    return (
        context.kind == INTERRUPT
        or context.interrupts_off > 0
        or context.atomic > 0
        or (context.kind == HOOK and context.name != MAY_SLEEP)
    )


def _runs_in_interrupts(context: Context | None) -> bool:
    """Whether a context is an interrupt, or a hook of the allocator, which runs in them too."""
    if context is None or context.kind == INTERRUPT or context.atomic > 0:
        return True
    return bool(context.kind == HOOK and context.name != MAY_SLEEP)


def _told(way: list[str]) -> str:
    """Which lock was taken inside which."""
    return ", and ".join(f"{inner} was taken inside {outer}" for outer, inner in pairwise(way))
