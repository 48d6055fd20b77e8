"""Whose fault an exception is, or a lock that nobody has let go."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from types import CodeType
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from hintbench.core.hooks import HookResultError
from hintbench.core.locks import LockMisuseError
from hintbench.errors import HintbenchError, InternalError, PluginError, describe

if TYPE_CHECKING:
    from hintbench.core.contexts import Context
    from hintbench.core.locks import LockTimeline
    from hintbench.core.simulation import Simulation

_MODEL: Final = ("hintbench.core.", "hintbench.tasks.", "hintbench.guest.", "hintbench.host.")
"""Modules that a plugin calls: a frame of any other is the plugin's own."""
Place: TypeAlias = tuple[CodeType, int]
"""A line of a plugin: its code, and the line of its file."""


class Blame:
    """Names the plugin, its hook or task, and the line.

    Args:
        simulation: the core's state.
        plugin: who is to blame if nothing says better.

    Attributes:
        taken_at: by lock, which of its takes a plain hook made last, and where.
        hook_codes: by code object, the plugin and the hook that it implements.
    """

    def __init__(self, simulation: Simulation, plugin: str) -> None:
        self.simulation = simulation
        self.plugin = plugin
        self.taken_at: dict[LockTimeline, tuple[int, Place]] = {}
        self.hook_codes: Mapping[CodeType, tuple[str, str]] = {}

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
        if isinstance(error, LockMisuseError):
            misused = self._misused(error.lock, plugin, where)
            if misused is not None:
                return misused
        if not where:
            return InternalError(f"internal error in the simulation: {describe(error)}")
        return PluginError(plugin, where, error)

    def _misused(self, lock: LockTimeline, plugin: str, where: str) -> PluginError | None:
        """Whose fault it is that a lock is asked for which is taken: hooks end without locks.

        Args:
            lock: it.
            plugin: who asks.
            where: the hook or task that asks; "" if none does.

        Returns:
            The fault of who asks, or of the plain hook that has left the lock; None if it is
            neither's.
        """
        place = self.place_of_take(lock)
        if where and lock.holder == self.simulation.clock.context:
            since = (
                "already: the allocator calls with it" if place is None else f"since {_at(place)}"
            )
            text = f"takes the {self.name_of(lock)}, which this CPU has held {since}"
            return PluginError(plugin, where, f"{text} (rule atomic-context)")
        return None if place is None else self.left_taken(lock, place)

    def left_taken(self, lock: LockTimeline, place: Place) -> PluginError:
        """The fault of the plain hook that took a lock there, and has returned with it."""
        plugin, hook = self.hook_codes.get(place[0], (self.plugin, ""))
        text = f"left the {self.name_of(lock)} taken at {_at(place)} (rule atomic-context)"
        return PluginError(plugin, hook, text)

    def place_of_take(self, lock: LockTimeline) -> Place | None:
        """Where a plain hook has taken a lock, if that is its latest take."""
        takes, place = self.taken_at.get(lock, (-1, None))
        return place if takes == lock.takes else None

    def place_of_wait(self, context: Context) -> str:
        """The plugin's line that a context stands in, as `` (FILE:LINE)``; "" if it has ended."""
        place = ""
        awaited: Any = context.coroutine
        while (frame := getattr(awaited, "cr_frame", None)) is not None:
            if not frame.f_globals.get("__name__", "").startswith(_MODEL):
                place = f" ({_at((frame.f_code, frame.f_lineno))})"
            awaited = awaited.cr_await
        return place

    def name_of(self, lock: LockTimeline) -> str:
        """A lock in messages, after "the"."""
        for zone in self.simulation.zones:
            if zone.lock is lock:
                return f"lock of {zone}"
        return str(lock.name)


def _at(place: Place) -> str:
    """A place as file and line."""
    code, line = place
    file = code.co_filename.replace("\\", "/").rsplit("/", 1)[-1]
    return f"{file}:{line}"


def line_of_plugin() -> Place:
    """The code that has just called into hintbench, and its line."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith(
        ("hintbench.core.", "hintbench.tasks.")
    ):
        frame = frame.f_back
    return frame.f_code, frame.f_lineno
