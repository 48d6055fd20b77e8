"""A process that explores one strategy, so that nothing the strategy does reaches anybody else."""

from __future__ import annotations

import os
import signal
import sys
import time
import warnings
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Final

from hintbench.errors import HintbenchError, describe
from hintbench.testing.counterexamples import Counterexample, SavedScenario, source_hash
from hintbench.testing.scenario import Scenario
from hintbench.testing.shrinking import shrink
from hintbench.testing.stories import describe_violation, tell
from hintbench.testing.subjects import Subject
from hintbench.testing.tasks import Tasks
from hintbench.watchdog import watch

MEMORY_LIMIT_BYTES: Final = 2 << 30
"""Address space of a worker: a strategy that floods memory meets MemoryError, not the OOM killer
of the machine that checks it."""
_NEVER_SECONDS: Final = 3_600
_SECONDS_BETWEEN_LOOKS: Final = 0.01
"""How often a worker that explores looks whether it is to stop [wall s]."""


@dataclass(frozen=True, slots=True)
class Told:
    """A counterexample, shrunk and told.

    Attributes:
        key: rule and kind.
        counterexample: what is saved.
        story: its lines.
        size: operations, preemptions and faults.
    """

    key: tuple[str, str]
    counterexample: Counterexample
    story: list[str]
    size: int


def work(connection: Connection[Any, Any], subject: Subject, begun: Any) -> None:
    """Body of a worker: do one task after the other until there are no more.

    Each task is a method name of `_Tasks` and its arguments; the answer is ("done", result) or
    ("failed", sentence).

    Args:
        connection: to whoever asks.
        subject: which strategy.
        begun: two numbers in memory that both share: how many scenarios have been begun, and the
            seed of the last. A message for each would take a tenth of a scenario's time.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _keep_to_itself()
    tasks = _Tasks(connection, subject, begun)
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
                connection.send(("done", answer))
            except HintbenchError as error:
                connection.send(("failed", str(error)))
            except MemoryError:
                connection.send(("failed", f"{subject.text} needs more memory than there is"))
            except (Exception, SystemExit) as error:
                connection.send(("failed", f"{subject.text}: {describe(error)}"))
    except (EOFError, OSError):
        # Whoever asked has gone.
        return


class _Tasks(Tasks):
    """The tasks of a check, and what its counterexamples need."""

    def __init__(self, connection: Connection[Any, Any], subject: Subject, begun: Any) -> None:
        super().__init__(subject.maker, self._before)
        self.connection = connection
        self.subject = subject
        self.begun = begun
        self.look_at = 0.0

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
        make = self.subject.maker(scenario.own_constants)
        small = shrink(make, scenario, key, seconds)
        story, outcome = tell(make, small, key)
        violation = outcome.shown(key)
        if violation is not None:
            story += describe_violation(violation)
        counterexample = Counterexample(
            strategy=self.subject.text,
            plugins=list(self.subject.plugins),
            source=source_hash(make),
            rule=key[0],
            kind=key[1],
            text=violation.text if violation is not None else "",
            digest=outcome.digest,
            scenario=SavedScenario.of(small),
        ).sealed()
        return Told(key, counterexample, story, small.size)


def _keep_to_itself() -> None:
    """What a strategy prints is nobody's business, and its memory has an end."""
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
    sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: SIM115 - for the process's life
    warnings.simplefilter("ignore")
    try:
        import resource
    except ImportError:
        return
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT_BYTES, MEMORY_LIMIT_BYTES))
