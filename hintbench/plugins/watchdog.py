"""A plugin that does not come back is interrupted after a while of wall time."""

from __future__ import annotations

import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

from hintbench.errors import PluginError, PluginHangError
from hintbench.plugins.forgotten import forgotten_now, is_being_told

LIMIT_SECONDS: Final = 10
"""How long a hook, a task, a tape or a constructor may keep the simulation waiting."""
PROGRAM_LIMIT_SECONDS: Final = 120
"""How long `Workload.program` may take, which may read a long trace."""
_SECONDS_BETWEEN_LOOKS: Final = 1.0
_SECONDS_TO_NEXT_TRY: Final = 0.001
"""How soon to look again when nothing can be raised at this moment."""


@contextmanager
def watch(
    plugin: Callable[[], str],
    progress: Callable[[], int] = lambda: 0,
    virtual_ns: Callable[[], int] | None = None,
    limit_seconds: int | None = None,
) -> Iterator[None]:
    """Raise `PluginHangError` where a plugin hangs, when nothing makes progress any more.

    A forgotten await, once known, is raised as `PluginError` at the next look: a loop that was to
    wait in it will not end.

    It needs the main thread and a platform with interval timers; elsewhere nothing is watched, and
    a warning says so. A timer and a handler that the process had before come back afterwards.

    Args:
        plugin: names whom to blame at that moment.
        progress: a number that grows with every step and event of the simulation.
        virtual_ns: the virtual time, which must move too: a task that sleeps 0 ns again and again
            makes steps for ever. None where there is none.
        limit_seconds: how long it may stand still; None for `LIMIT_SECONDS`.
    """
    limit = LIMIT_SECONDS if limit_seconds is None else limit_seconds
    usable = hasattr(signal, "setitimer") and (
        threading.current_thread() is threading.main_thread()
    )
    if not usable:
        text = "a plugin that hangs will not be noticed: only the main thread can be interrupted"
        warnings.warn(text, RuntimeWarning, stacklevel=3)
        yield
        return
    before = signal.signal(signal.SIGALRM, _Looker(plugin, progress, virtual_ns, limit).look)
    left, interval = signal.setitimer(
        signal.ITIMER_REAL, _SECONDS_BETWEEN_LOOKS, _SECONDS_BETWEEN_LOOKS
    )
    began = time.monotonic()
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        # None: the handler was not installed from Python.
        signal.signal(signal.SIGALRM, signal.SIG_DFL if before is None else before)
        if left:
            # What ran out meanwhile does so now.
            left = max(left - (time.monotonic() - began), 1e-6)
            signal.setitimer(signal.ITIMER_REAL, left, interval)


class _Looker:
    """Looks once a second, whether anything has moved since."""

    def __init__(
        self,
        plugin: Callable[[], str],
        progress: Callable[[], int],
        virtual_ns: Callable[[], int] | None,
        limit_seconds: int,
    ) -> None:
        self.plugin = plugin
        self.progress = progress
        self.virtual_ns = virtual_ns
        self.limit_seconds = limit_seconds
        self.seen = progress()
        self.seen_ns = virtual_ns() if virtual_ns is not None else 0
        self.quiet_seconds = self.still_seconds = 0

    def look(self, _signal: int, frame: FrameType | None) -> None:
        """The handler of the timer's signal: raise when it has been too long."""
        if is_being_told(frame):
            # A loop that throws coroutines away spends most of its time there.
            signal.setitimer(signal.ITIMER_REAL, _SECONDS_TO_NEXT_TRY, _SECONDS_BETWEEN_LOOKS)
            return
        if forgotten := forgotten_now():
            raise PluginError(self.plugin(), "", forgotten)
        now = self.progress()
        self.quiet_seconds = self.quiet_seconds + 1 if now == self.seen else 0
        self.seen = now
        limit = self.limit_seconds
        if self.quiet_seconds >= limit:
            raise PluginHangError(self.plugin(), _where(frame), f"no return within {limit} s")
        if self.virtual_ns is not None and self._stands_still(self.virtual_ns()) > limit:
            text = (
                f"virtual time has stood still for {limit} s: something waits again and again"
                " for what takes no time, such as guest.sleep(0)"
            )
            raise PluginHangError(self.plugin(), _where(frame), text)

    def _stands_still(self, now_ns: int) -> int:
        """For how many looks the virtual time has not moved though there were steps."""
        if now_ns != self.seen_ns:
            self.still_seconds = 0
        elif not self.quiet_seconds:
            self.still_seconds += 1
        self.seen_ns = now_ns
        return self.still_seconds


def _where(frame: FrameType | None) -> str:
    """The innermost frame, as function and line."""
    if frame is None:
        return ""
    return f"{frame.f_code.co_name} (line {frame.f_lineno})"
