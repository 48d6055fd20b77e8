"""A plugin that does not come back is interrupted after ten seconds of wall time."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Final

from hintbench.errors import PluginHangError

LIMIT_SECONDS: Final = 10
_FRAMEWORK: Final = "hintbench"


@contextmanager
def watch(simulation: Any, plugin: str) -> Iterator[None]:
    """Raise `PluginHangError` where the plugin hangs, when the simulation makes no progress.

    It needs the main thread and a platform with interval timers; elsewhere nothing is watched.

    Args:
        simulation: its ``progress`` counts steps and events.
        plugin: whom to blame.
    """
    usable = hasattr(signal, "setitimer") and (
        threading.current_thread() is threading.main_thread()
    )
    if not usable:
        yield
        return
    seen = -1
    quiet = 0

    def look(_signal: int, frame: FrameType | None) -> None:
        nonlocal seen, quiet
        quiet = quiet + 1 if simulation.progress == seen else 0
        seen = simulation.progress
        if quiet >= LIMIT_SECONDS:
            raise PluginHangError(plugin, _where(frame), f"no return within {LIMIT_SECONDS} s")

    before = signal.signal(signal.SIGALRM, look)
    signal.setitimer(signal.ITIMER_REAL, 1.0, 1.0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _where(frame: FrameType | None) -> str:
    """The innermost frame, as function and line."""
    if frame is None:
        return ""
    return f"{frame.f_code.co_name} (line {frame.f_lineno})"
