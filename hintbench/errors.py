"""Every error that hintbench reports to its user, and the exit status each one means.

An error's text is one sentence that says what is wrong, where, and what would be right. The command
line prints that sentence after ``hintbench:`` and ends with the error's `exit_status`: 2 when the
input is wrong, 1 when a plugin is at fault or a run could not be finished.

All errors here survive being pickled, so that a worker process can hand them back.
"""

import difflib
import os
from collections.abc import Iterable
from types import FrameType
from typing import ClassVar, Final

_PACKAGE: Final = os.path.join(os.path.dirname(os.path.abspath(__file__)), "")
_PLUGIN_ROOMS: Final = tuple(
    os.path.join(_PACKAGE, room, "") for room in ("strategies", "workloads")
)
_STANDARD_LIBRARY: Final = os.path.join(os.path.dirname(os.__file__), "")
_INSTALLED: Final = tuple(
    os.path.join(_STANDARD_LIBRARY, folder, "") for folder in ("site-packages", "dist-packages")
)


class HintbenchError(Exception):
    """Something that the user can mend; the base class of every error of this package.

    Attributes:
        message: The sentence that is printed.
        exit_status: What the command line ends with.
    """

    exit_status: ClassVar[int] = 2

    def __init__(self, message: str) -> None:
        """Keep the sentence.

        Args:
            message: What is wrong, where, and what would be right; one line.
        """
        super().__init__(message)
        self.message = message

    def __str__(self) -> str:
        """The sentence itself."""
        return self.message


class ParameterError(HintbenchError):
    """A parameter of a strategy or workload is misspelt, of the wrong kind or out of range."""


class GuestError(HintbenchError):
    """A guest cannot be built as described, for instance because it is too small for its zones."""


class TraceError(HintbenchError):
    """A trace cannot be read, holds nothing usable, or does not fit the guest."""


class ResultFileError(HintbenchError):
    """A result file cannot be read or written, or has a schema that this version does not know."""


class UsageError(HintbenchError):
    """The command line, or a call of `hintbench.run`, contradicts itself."""


class UnknownNameError(HintbenchError):
    """A name that nobody has registered; the message offers the nearest one that exists.

    Attributes:
        kind: What was looked for, such as "strategy".
        name: The name as given.
        known: The names that exist, sorted.
    """

    def __init__(self, kind: str, name: str, known: Iterable[str], hint: str = "") -> None:
        """Build the sentence.

        Args:
            kind: What was looked for, such as "strategy".
            name: The name as given.
            known: The names that would be right.
            hint: What else would be right, such as "or the path of a FILE.toml".
        """
        self.kind = kind
        self.name = name
        self.known = tuple(sorted(known))
        self.hint = hint
        sentence = f"unknown {kind} {name!r}"
        near = nearest(name, self.known)
        if near:
            sentence += f": did you mean {near!r}?"
        if self.known:
            sentence += f" (known: {', '.join(self.known)}{f'; {hint}' if hint else ''})"
        elif hint:
            sentence += f" ({hint})"
        super().__init__(sentence)

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle by the arguments, since the sentence alone would not rebuild the object."""
        return type(self), (self.kind, self.name, self.known, self.hint)


class PluginError(HintbenchError):
    """A plugin is at fault: it misspelt a hook, has a wrong signature, or raised.

    Attributes:
        plugin: The plugin's name, as a user would pass it to ``-s``, ``-w`` or ``-p``.
        hook: The hook, task or method that failed, or "" when the plugin failed as a whole.
        cause: What happened: an exception, or a sentence.
    """

    exit_status: ClassVar[int] = 1

    def __init__(self, plugin: str, hook: str, cause: BaseException | str) -> None:
        """Build the sentence ``plugin 'x': hook y: what happened``.

        Args:
            plugin: The plugin's name.
            hook: The hook, task or method, or "".
            cause: The exception that was raised, or what is wrong.
        """
        self.plugin = plugin
        self.hook = hook
        self.cause = cause
        if isinstance(cause, BaseException):
            self.__cause__ = cause
        where = f"plugin {plugin!r}" + (f": {hook}" if hook else "")
        super().__init__(f"{where}: {describe(cause)}")

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle the cause as text: an exception of a plugin need not be picklable."""
        return type(self), (self.plugin, self.hook, describe(self.cause))


class PluginHangError(PluginError):
    """A plugin has not come back within its limit of wall time."""


class TaskLeakError(PluginError):
    """A task of a strategy is still alive a virtual second after `guest_stopping`."""

    def __init__(
        self, plugin: str, hook: str = "guest_stopping", cause: BaseException | str = ""
    ) -> None:
        """Build the sentence.

        Args:
            plugin: The strategy's name.
            hook: The hook that should have ended the tasks.
            cause: The names of the tasks that are still alive, separated by commas.
        """
        text = describe(cause)
        if "still alive" not in text:
            text = (
                f"still alive one virtual second after it returned: {text or 'a task'};"
                " end every task there, or let each one end by itself"
            )
        super().__init__(plugin, hook, text)


class WorkerError(HintbenchError):
    """A worker process ended without handing back a result, for instance out of memory."""

    exit_status: ClassVar[int] = 1


class InternalError(HintbenchError):
    """A fault of hintbench itself."""

    exit_status: ClassVar[int] = 1


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Find the known name that `name` was most likely meant to be.

    Args:
        name: What was typed.
        known: The names that exist.

    Returns:
        The most similar known name, or None when nothing is similar.
    """
    by_folded = {_folded(candidate): candidate for candidate in known}
    folded = _folded(name)
    close = difflib.get_close_matches(folded, by_folded, n=1, cutoff=0.6)
    if close:
        return by_folded[close[0]]
    # "bitmap" or "v9" is too short for a ratio, but says clearly enough what was meant.
    inside = [candidate for key, candidate in by_folded.items() if len(name) > 1 and folded in key]
    return inside[0] if len(inside) == 1 else None


_LONGEST_TEXT: Final = 300
"""So much of what a stranger's exception says is still one sentence."""


def describe(cause: BaseException | str) -> str:
    """Say in one line what an exception says.

    Args:
        cause: An exception, or text that is passed through.

    Returns:
        ``TypeName: message`` without line breaks; the bare message for this package's own errors.
    """
    if isinstance(cause, str):
        return " ".join(cause.split())
    text = " ".join(str(cause).split())
    if isinstance(cause, HintbenchError):
        return text
    if len(text) > _LONGEST_TEXT:
        text = f"{text[:_LONGEST_TEXT]} ..."
    place = _raised_at(cause)
    name = type(cause).__name__
    return f"{name}: {text}{place}" if text else f"{name}{place}"


def _raised_at(cause: BaseException) -> str:
    """Name the plugin's last line of a traceback, as `` (file.py:12)``, or the last of all."""
    places = []
    step = cause.__traceback__
    while step is not None:
        places.append((step.tb_frame.f_code.co_filename, step.tb_lineno))
        step = step.tb_next
    if not places:
        return ""
    # What the plugin calls is no news to its author: the line that calls it is.
    plugin = next((file for file, _ in places if not _is_framework(file)), "")
    file, line = [place for place in places if place[0] == plugin or not plugin][-1]
    return f" ({file.replace(os.sep, '/').rsplit('/', 1)[-1]}:{line})"


def place_in_plugin(frame: FrameType | None) -> str:
    """Where a plugin stands: its innermost line, as ``file.py:12 in function``; "" if in none.

    Args:
        frame: what runs, with its callers.
    """
    while frame is not None and _is_framework(frame.f_code.co_filename):
        frame = frame.f_back
    if frame is None:
        return ""
    file = frame.f_code.co_filename.replace(os.sep, "/").rsplit("/", 1)[-1]
    return f"{file}:{frame.f_lineno} in {frame.f_code.co_name}"


def _is_framework(file: str) -> bool:
    """Whether a line of this file is hintbench's own or Python's, and not a plugin's."""
    if not os.path.isabs(file):
        # Compiled modules and frozen ones.
        return True
    if file.startswith(_PACKAGE):
        return not file.startswith(_PLUGIN_ROOMS)
    return file.startswith(_STANDARD_LIBRARY) and not file.startswith(_INSTALLED)


def _folded(name: str) -> str:
    return name.casefold().replace("_", "-")
