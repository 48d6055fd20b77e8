"""What a context may do where it is, and whom to blame when a plugin raises."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import CodeType
from typing import TYPE_CHECKING

from hintbench.core.contexts import HOOK, INTERRUPT, Context
from hintbench.core.hooks import HookResultError
from hintbench.core.scheduler import MAY_SLEEP
from hintbench.errors import HintbenchError, InternalError, PluginError, describe

if TYPE_CHECKING:
    from hintbench.core.locks import LockTimeline
    from hintbench.core.simulation import Simulation
    from hintbench.core.zone import Zone


class ContextRules:
    """Holds contexts to ``atomic-context``: no sleep, and no wait with a zone lock held.

    Args:
        simulation: the core's state.
        plugin: who is to blame.

    Attributes:
        violate: called with a rule and a text when a context breaks one.
        waiting: the context whose wait is a violation, while that is recorded.
        hook_codes: by code object, the plugin and the hook that it implements.
    """

    def __init__(self, simulation: Simulation, plugin: str) -> None:
        self.simulation = simulation
        self.plugin = plugin
        self.violate: Callable[[str, str], None] = lambda rule, text: None
        self.waiting: Context | None = None
        self.hook_codes: Mapping[CodeType, tuple[str, str]] = {}

    def check_wait(self, context: Context, what: str = "waits") -> None:
        """Refuse to wait for anything while a zone lock is held.

        Raises:
            PluginError: a zone lock is held.
        """
        zone = self._held_by(context)
        if zone is not None:
            self._forbid(
                context,
                "atomic-context",
                f"{what} while it holds the lock of {zone}",
                "release it first",
            )

    def check_nested(self, context: Context | None) -> None:
        """Refuse a second zone lock: all are of one class, "possible recursive locking" (lockdep).

        Args:
            context: the one that has just taken a zone's lock; None for a plain hook.

        Raises:
            PluginError: it holds another zone's too.
        """
        number = self.simulation.clock.context
        held = [
            zone for zone in self.simulation.zones if zone.lock.held and zone.lock.holder == number
        ]
        if len(held) < 2:
            return
        what = f"holds the locks of {' and of '.join(map(str, held))} at once"
        if context is None:
            self.violate("atomic-context", f"a hook {what}")
        else:
            self._forbid(context, "atomic-context", what, "release one before the other")

    def check_interrupts_on(self, context: Context, since_ns: int) -> None:
        """local_irq_restore() below a lock: an interrupt that frees would wait for it for ever.

        Args:
            context: whose section with interrupts off ends.
            since_ns: when that began; what it has locked since then it must have let go.
        """
        zone = self._held_by(context)
        if context.kind != INTERRUPT and zone is not None and zone.lock.granted_ns > since_ns:
            self.violate(
                "irq-safe",
                f"{context.name} lets interrupts in while it holds the {zone.lock.name}",
            )

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
        if not where:
            return InternalError(f"internal error in the simulation: {describe(error)}")
        return PluginError(plugin, where, error)

    def _held_by(self, context: Context) -> Zone | None:
        for zone in self.simulation.zones:
            if zone.lock.held and zone.lock.holder == context.number:
                held: Zone = zone
                return held
        return None

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
