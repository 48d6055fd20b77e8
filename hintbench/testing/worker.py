"""A process that explores one strategy, so that nothing the strategy does reaches anybody else."""

from __future__ import annotations

import errno
import os
import signal
import sys
import time
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection
from types import FrameType
from typing import TYPE_CHECKING, Any, Final

from hintbench.errors import HintbenchError, PluginError, describe, place_in_plugin
from hintbench.plugins.replacements import Replacements
from hintbench.plugins.watchdog import watch
from hintbench.testing.counterexamples.telling import Told, shrink_and_tell
from hintbench.testing.rules import RULES
from hintbench.testing.scenarios.scenario import Scenario
from hintbench.testing.subjects import Subject
from hintbench.testing.tasks import Tasks

if TYPE_CHECKING:
    from hintbench.strategy import Strategy

MEMORY_LIMIT_BYTES: Final = 2 << 30
"""Address space of a worker: a strategy that floods memory meets MemoryError, not the OOM killer
of the machine that checks it."""
WHERE_ARE_YOU: Final[signal.Signals | None] = getattr(signal, "SIGUSR1", None)
"""What a worker that has fallen silent is sent before it is killed; None where there is no such."""
PLACE_BYTES: Final = 256
_NEVER_SECONDS: Final = 3_600
_SECONDS_BETWEEN_LOOKS: Final = 0.01
"""How often a worker that explores looks whether it is to stop [wall s]."""


def work(connection: Connection[Any, Any], subject: Subject, begun: Any, place: Any) -> None:
    """Body of a worker: do one task after the other until there are no more.

    Each task is a method name of `_Tasks` and its arguments; the answer is ("done", result) or
    ("failed", sentence).

    Args:
        connection: to whoever asks.
        subject: which strategy.
        begun: two numbers in memory that both share: how many scenarios have been begun, and the
            seed of the last. A message for each would take a tenth of a scenario's time.
        place: where it says on `WHERE_ARE_YOU` which line of the strategy it stands in; text in
            memory that both share, of `PLACE_BYTES`.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if WHERE_ARE_YOU is not None:
        signal.signal(WHERE_ARE_YOU, lambda _signal, frame: _say_where(frame, place))
    _keep_to_itself()
    for rule in RULES.values():
        _ = rule.checker  # loaded, so that it is among what must stay as it is
    tasks, everybodys = _Tasks(connection, subject, begun), Replacements()
    try:
        while (task := connection.recv()) is not None:
            name, arguments = task
            if name == "enough":
                continue
            try:
                connection.send(("begun", name))
                # Whoever asked ends what hangs; a forgotten await that it knows of is told first.
                with watch(lambda: subject.text, limit_seconds=_NEVER_SECONDS):
                    answer = getattr(tasks, name)(*arguments)
                if replaced := everybodys.undo():
                    # What was found by means of that says nothing.
                    text = f"replaces {replaced}, which is not a strategy's to change"
                    raise PluginError(subject.text, "", text)
                connection.send(("done", answer))
            except HintbenchError as error:
                connection.send(("failed", str(error)))
            except BaseException as error:
                # Ctrl-C does not come here: all of these are the strategy's own.
                failed = f"raises {describe(error)}"
                if isinstance(error, MemoryError) or getattr(error, "errno", 0) == errno.ENOMEM:
                    failed = "needs more memory than there is"
                connection.send(("failed", failed))
    except (EOFError, OSError):
        # Whoever asked has gone.
        return


class _Tasks(Tasks):
    """The tasks of a check, and what its counterexamples need."""

    def __init__(self, connection: Connection[Any, Any], subject: Subject, begun: Any) -> None:
        super().__init__(self._maker, self._before)
        self.makers: dict[bool, Callable[[], Strategy]] = {}
        self.connection = connection
        self.subject = subject
        self.begun = begun
        self.look_at = 0.0

    def _maker(self, full: bool) -> Callable[[], Strategy]:
        # Both at once, while its files are where they are named from.
        if not self.makers:
            self.makers = {each: self.subject.maker(each) for each in (False, True)}
        return self.makers[full]

    def _before(self, seed: int) -> bool:
        self.begun[1] = seed
        self.begun[0] += 1
        now = time.monotonic()
        if now < self.look_at:
            return True
        self.look_at = now + _SECONDS_BETWEEN_LOOKS
        # Anything that is sent to a busy worker means: enough.
        return not self.connection.poll()

    def shrink(self, key: tuple[str, str], scenario: Scenario, seconds: float) -> Told:
        """The smallest scenario that shows a violation, with its story."""
        make = self.maker(scenario.own_constants)
        return shrink_and_tell(self.subject, make, key, scenario, seconds)


def _say_where(frame: FrameType | None, place: Any) -> None:
    place.value = (place_in_plugin(frame) or "?").encode()[: PLACE_BYTES - 1]


def _keep_to_itself() -> None:
    """What a strategy prints is nobody's business, and its memory has an end."""
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
    # A copy would go on exploring, and answer by the same pipe.
    os.register_at_fork(after_in_child=lambda: os._exit(1))
    sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: SIM115 - for the process's life
    warnings.simplefilter("ignore")
    try:
        import resource
    except ImportError:
        return
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT_BYTES, MEMORY_LIMIT_BYTES))
