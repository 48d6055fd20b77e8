"""What a context may do where it is, and whom to blame when a plugin raises."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from types import CodeType
from typing import TYPE_CHECKING, Any

from hintbench.core.contexts import HOOK, INTERRUPT, Context
from hintbench.core.hooks import HookResultError
from hintbench.core.locks import LockMisuseError
from hintbench.core.scheduler import MAY_SLEEP
from hintbench.errors import HintbenchError, InternalError, PluginError, describe
from hintbench.tasks.lock_order import LockOrder

if TYPE_CHECKING:
    from hintbench.core.locks import LockTimeline
    from hintbench.core.simulation import Simulation
    from hintbench.core.zone import Zone


class ContextRules:
    """Holds contexts to ``atomic-context``: no sleep, and no wait with a lock held.

    Args:
        simulation: the core's state.
        plugin: who is to blame.

    Attributes:
        violate: called with a rule, a text and perhaps a kind when a context breaks one.
        own_locks: the locks that the strategy has made.
        order: in which order locks are taken, once the strategy has one of its own.
        taken_at: where a plain hook took a lock last: the code, and the line of its file.
        left_at: that, while it is recorded that the hook has returned with the lock.
        waiting: the context whose wait is a violation, while that is recorded.
        hook_codes: by code object, the plugin and the hook that it implements.
    """

    def __init__(self, simulation: Simulation, plugin: str) -> None:
        self.simulation = simulation
        self.plugin = plugin
        self.violate: Callable[..., None] = lambda rule, text, kind="": None
        self.own_locks: list[LockTimeline] = []
        self.order = LockOrder()
        self.taken_at: tuple[CodeType, int] | None = None
        self.left_at: tuple[CodeType, int] | None = None
        self.waiting: Context | None = None
        self.hook_codes: Mapping[CodeType, tuple[str, str]] = {}

    def check_wait(self, context: Context, what: str = "waits") -> None:
        """Refuse to wait for anything while a lock is held.

        Raises:
            PluginError: a lock is held.
        """
        lock = next(self._held(context.number), None)
        if lock is not None:
            self._forbid(
                context,
                "atomic-context",
                f"{what} while it holds the {self._name(lock)}",
                "release it first",
            )

    def check_inside(self, context: Context, lock: LockTimeline) -> None:
        """Refuse to ask for a second zone lock, before it is waited for.

        Raises:
            PluginError: it holds another zone's.
        """
        if lock.of_zone and any(held.of_zone for held in self._held(context.number)):
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
            self.taken_at = _line_of_plugin()
        if lock.of_zone:
            count = 0
            for zone in self.simulation.zones:
                count += zone.lock.held and zone.lock.holder == number
            if count > 1:
                zones = " and of ".join(
                    str(zone)
                    for zone in self.simulation.zones
                    if zone.lock.held and zone.lock.holder == number
                )
                what = f"holds the locks of {zones} at once"
                if context is not None:
                    self._forbid(context, "atomic-context", what, "release one before the other")
                self.violate("atomic-context", f"a hook {what}")
        if self.own_locks:
            self._check_order(context, lock, number)

    def _check_order(self, context: Context | None, lock: LockTimeline, number: int) -> None:
        who = "a hook" if context is None else context.name
        outer = [each for each in self._held(number) if each is not lock]
        for each in outer:
            way = self.order.add(each, lock)
            if way:
                self.violate(
                    "atomic-context",
                    f"{who} takes the {self._name(lock)} while it holds the {self._name(each)};"
                    f" elsewhere {_told(way)}: two CPUs that do so wait for each other",
                    "lock-order",
                )
        if not lock.of_strategy:
            return
        with_interrupts = context is not None and lock.interrupts_on and not context.interrupts_off
        if self.order.taken(
            lock,
            in_interrupts=_runs_in_interrupts(context) or any(each.of_zone for each in outer),
            interrupts_on=with_interrupts and all(each.interrupts_on for each in outer),
        ):
            self.violate(
                "irq-safe",
                f"{who} takes the {lock.name}, which is taken with interrupts on in one place, and"
                " where interrupts take it in another",
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
        what = f"takes the {self._name(lock)} while it holds it"
        if driver.current is not None:
            self._forbid(driver.current, "atomic-context", what, "release it first")
        if driver.plain_hook[0]:
            self.violate("atomic-context", f"{driver.plain_hook[0]} {what}", "recursion")

    def check_returned(self, hook: str, function: Any, count: int) -> None:
        """Refuse that a plain hook returns with other locks than it was called with.

        Args:
            hook: its name.
            function: it.
            count: how many locks were held when it was called.

        Raises:
            PluginError: always.
        """
        held = list(self._held(self.simulation.clock.context))
        if len(held) < count:
            what, rule = "let go of the lock that it was called with", "locked-lists"
        else:
            newest = max(held, key=lambda lock: int(lock.granted_ns))
            what, rule = f"left the {self._name(newest)} taken", "atomic-context"
        code = getattr(function, "__code__", None)
        self.left_at = (code, code.co_firstlineno) if code is not None else None
        if rule == "atomic-context" and self.taken_at is not None:
            self.left_at = self.taken_at
        try:
            self.violate(rule, f"{hook} {what}", "returned")
        finally:
            self.left_at = None
        raise PluginError(self.plugin, hook, f"{what} (rule {rule})")

    def check_interrupts_on(self, context: Context | None, since_ns: int) -> None:
        """local_irq_restore() below a lock: an interrupt that frees would wait for it for ever.

        Args:
            context: whose section with interrupts off ends; None for a plain hook.
            since_ns: when that began; what it has locked since then it must have let go.
        """
        if context is not None and context.kind == INTERRUPT:
            return
        number: int = self.simulation.clock.context if context is None else context.number
        held = list(self._held(number))
        for lock in held:
            if lock.interrupts_on:
                self.order.taken(lock, in_interrupts=False, interrupts_on=True)
        held = [lock for lock in held if not lock.interrupts_on]
        if not held or any(lock.granted_ns <= since_ns for lock in held):
            # Nothing is held, or interrupts have been off since before the section.
            return
        who = "a hook" if context is None else context.name
        self.violate("irq-safe", f"{who} lets interrupts in while it holds the {held[0].name}")

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

    def raise_for(self, error: BaseException, where: str) -> None:
        """Raise what says whose fault an exception is, unless it does that itself.

        Raises:
            HintbenchError: the exception says nothing of a plugin.
        """
        if not isinstance(error, HintbenchError):
            raise self.blame(error, where) from error

    def blame(self, error: BaseException, where: str) -> HintbenchError:
        """Say which hook or task of the plugin an exception came out of.

        Args:
            error: the exception.
            where: the context that ran, unless the traceback shows a hook; "" when none did.
        """
        plugin = self.plugin
        step = error.__traceback__
        while step is not None:
            plugin, where = self.hook_codes.get(step.tb_frame.f_code, (plugin, where))
            step = step.tb_next
        if isinstance(error, HookResultError):
            # The hook had returned by then. Observers are checked where they are called.
            where = error.hook
        if where and isinstance(error, RuntimeError) and "no running event loop" in str(error):
            text = f"{describe(error)}: time is virtual here: await guest.sleep(ns), not asyncio's"
            return PluginError(plugin, where, text)
        if isinstance(error, LockMisuseError) and self.taken_at is not None:
            again = bool(where) and error.lock.holder == self.simulation.clock.context
            return self._misused(error.lock, plugin, where if again else "")
        if not where:
            return InternalError(f"internal error in the simulation: {describe(error)}")
        return PluginError(plugin, where, error)

    def _misused(self, lock: LockTimeline, plugin: str, again: str) -> PluginError:
        """A plain hook has taken a lock that somebody now asks for: hooks end without locks.

        Args:
            lock: it.
            plugin: who asks.
            again: the hook that asks, where it or one before on this CPU has the lock; else "".
        """
        assert self.taken_at is not None
        code, line = self.taken_at
        file = code.co_filename.replace("\\", "/").rsplit("/", 1)[-1]
        where = f"{file}:{line} (rule atomic-context)"
        if again:
            text = f"takes the {self._name(lock)}, which this CPU has held since {where}"
            return PluginError(plugin, again, text)
        plugin, hook = self.hook_codes.get(code, (self.plugin, ""))
        return PluginError(plugin, hook, f"left the {self._name(lock)} taken at {where}")

    def _held(self, number: int) -> Iterator[LockTimeline]:
        """The locks that a context holds."""
        for zone in self.simulation.zones:
            if zone.lock.held and zone.lock.holder == number:
                yield zone.lock
        for lock in self.own_locks:
            if lock.held and lock.holder == number:
                yield lock

    def _name(self, lock: LockTimeline) -> str:
        """A lock in messages, after "the"."""
        for zone in self.simulation.zones:
            if zone.lock is lock:
                return f"lock of {zone}"
        return str(lock.name)

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


def _line_of_plugin() -> tuple[CodeType, int] | None:
    """The code that has just called into hintbench, and its line."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith(
        ("hintbench.core.", "hintbench.tasks.")
    ):
        frame = frame.f_back
    return frame.f_code, frame.f_lineno
