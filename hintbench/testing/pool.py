"""Worker processes that check one strategy: who does what, and who has fallen silent."""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from multiprocessing.sharedctypes import RawArray
from typing import Any, Final

from hintbench.testing.subjects import Subject
from hintbench.testing.tasks import Task
from hintbench.testing.worker import PLACE_BYTES, WHERE_ARE_YOU, work
from hintbench.workers import SECONDS_TO_END, end_all, start_worker

SILENCE_SECONDS: Final = 12.0
"""A worker that begins no scenario for so long hangs, and is killed [wall s]; one that is to
explore for less than that, when it has been silent as long, but not before `_LEAST_SECONDS`."""
_LEAST_SECONDS: Final = 4.0
COMPARE_SECONDS: Final = 30.0
"""How long its comparisons of runs may take, which come before the first scenario, where a scenario
may take `SILENCE_SECONDS` [wall s]."""
_GRACE_SECONDS: Final = 1.0
"""How long the others may take to come back once one of them knows enough [wall s]."""
_TELLING_SECONDS: Final = 0.5
"""How long one that hangs may take to say where [wall s]."""
_LAST_WORDS_SECONDS: Final = 0.2
"""How long they may take after Ctrl-C [wall s]."""
_START_SECONDS: Final = 60.0
"""How long a process may take to start, and a scenario that has not begun [wall s]."""


@dataclass(slots=True)
class _Worker:
    process: BaseProcess
    connection: Connection[Any, Any]
    begun: Any
    place: Any
    deadline: float = 0.0
    task: str = ""
    seed: int | None = None
    known: int = 0
    patience_seconds: float = SILENCE_SECONDS
    ends: float = math.inf

    def begin(self, task: Task, silence_seconds: float) -> None:
        """Note what it is to do, and how long it may be silent then."""
        self.task, self.seed, self.ends = task[0], None, math.inf
        self.patience_seconds = silence_seconds
        if self.task in ("compare", "digests"):
            self.patience_seconds *= COMPARE_SECONDS / SILENCE_SECONDS
        elif self.task == "shrink":
            # Its last argument is the time that it may take.
            self.patience_seconds += task[1][-1]

    def stands_at(self) -> str:
        """Which line of the strategy it hangs in, by its own word; "" if it cannot say."""
        if WHERE_ARE_YOU is None or self.process.pid is None:
            return ""
        with suppress(ProcessLookupError):
            os.kill(self.process.pid, WHERE_ARE_YOU)
        until = time.monotonic() + _TELLING_SECONDS
        while not self.place.value and time.monotonic() < until:
            time.sleep(0.01)
        said: str = self.place.value.decode(errors="replace")
        return "" if said == "?" else said


class Pool:
    """Worker processes for one strategy.

    Args:
        subject: which.
        size: how many.
        on_progress: called with the number of scenarios begun so far.
        seconds: how long each explores, at most [wall s].

    Attributes:
        error: the strategy's own fault; "" if none.
        interrupted: Ctrl-C has ended what was to be done.
    """

    def __init__(
        self,
        subject: Subject,
        size: int,
        on_progress: Callable[[int], None] | None,
        seconds: float = SILENCE_SECONDS,
    ) -> None:
        self.subject = subject
        self.size = size
        self.error = ""
        self.interrupted = False
        self.silence_seconds = min(SILENCE_SECONDS, max(_LEAST_SECONDS, seconds))
        self._begun = 0
        self._on_progress = on_progress
        self._workers = [self._start() for _ in range(size)]

    def _start(self, hash_seed: int | None = None) -> _Worker:
        begun = RawArray("q", 2)
        place = RawArray("c", PLACE_BYTES)
        process, connection = start_worker(work, self.subject, begun, place, hash_seed=hash_seed)
        return _Worker(process, connection, begun, place)

    def run_in_several(self, task: Task) -> list[Any]:
        """Have two processes do the same in which hash() of a text differs; their answers."""
        kept = self._workers
        self._workers = [self._start(hash_seed) for hash_seed in (1, 2)]
        try:
            return self.run([task] * len(self._workers))
        finally:
            end_all(each.process for each in self._workers)
            self._workers = kept

    def run(
        self,
        tasks: list[Task],
        stop: Callable[[Any], bool] = lambda answer: False,
    ) -> list[Any]:
        """Have tasks done; the answers of those that succeeded, in the order of the tasks.

        After Ctrl-C these are the answers so far, and whatever those who explore know by then.
        """
        answers: dict[int, Any] = {}
        busy: dict[int, _Worker] = {}
        try:
            self._run(list(enumerate(tasks)), stop, answers, busy)
        except KeyboardInterrupt:
            self.interrupted = True
            self._hear_last_words(answers, busy)
        return [answers[number] for number in sorted(answers)]

    def _run(
        self,
        waiting: list[tuple[int, Task]],
        stop: Callable[[Any], bool],
        answers: dict[int, Any],
        busy: dict[int, _Worker],
    ) -> None:
        while (waiting and not self.error) or busy:
            idle = [each for each in self._workers if each not in busy.values()]
            while waiting and idle and not self.error:
                number, task = waiting.pop(0)
                worker = idle.pop()
                # What it began last for the task before belongs to that.
                self._look(worker)
                worker.begin(task, self.silence_seconds)
                worker.deadline = time.monotonic() + _START_SECONDS
                worker.connection.send(task)
                busy[number] = worker
            for answer in self._heard(answers, busy):
                if self.error or (answer is not None and stop(answer)):
                    waiting = []
                    self._enough(busy.values())
            if busy:
                wait([worker.connection for worker in busy.values()], timeout=0.2)

    def _heard(self, answers: dict[int, Any], busy: dict[int, _Worker]) -> Iterator[Any]:
        """Take the answers of those who are done; None for one that failed."""
        for number, worker in list(busy.items()):
            done, answer = self._listen(worker)
            if not done:
                continue
            del busy[number]
            if answer is not None:
                answers[number] = answer
            yield answer

    def _hear_last_words(self, answers: dict[int, Any], busy: dict[int, _Worker]) -> None:
        """Tell everybody that it is over, and take what comes at once."""
        exploring = {number: each for number, each in busy.items() if each.task != "shrink"}
        self._enough(exploring.values())
        until = time.monotonic() + _LAST_WORDS_SECONDS
        while exploring and (left := until - time.monotonic()) > 0:
            wait([worker.connection for worker in exploring.values()], timeout=left)
            for _ in self._heard(answers, exploring):
                pass

    def _listen(self, worker: _Worker) -> tuple[bool, Any]:
        """Take what a worker has to say: (whether it is done, its answer)."""
        self._look(worker)
        try:
            while worker.connection.poll():
                what, value = worker.connection.recv()
                worker.deadline = time.monotonic() + self.silence_seconds
                if what == "begun":
                    worker.deadline = time.monotonic() + worker.patience_seconds
                elif what == "failed":
                    self.error = self.error or value
                    return True, None
                else:
                    return True, value
        except (EOFError, OSError):
            worker.process.join(SECONDS_TO_END)
            self._look(worker)
            self._give_up(worker, _how_it_ended(worker.process.exitcode))
            return True, None
        if time.monotonic() > worker.ends:
            self._replace(worker)
            return True, None
        if time.monotonic() > worker.deadline:
            at = worker.stands_at()
            why = f"does not come back within {worker.patience_seconds:.0f} s"
            self._give_up(worker, f"{why}, at {at}" if at else why)
            return True, None
        return False, None

    def _look(self, worker: _Worker) -> None:
        """See how far a worker has come, without a word from it."""
        count, seed = worker.begun
        if count == worker.known:
            return
        self._begun += count - worker.known
        worker.known, worker.seed = count, seed
        worker.patience_seconds = self.silence_seconds
        worker.deadline = time.monotonic() + self.silence_seconds
        if self._on_progress is not None:
            self._on_progress(self._begun)

    def _give_up(self, worker: _Worker, why: str) -> None:
        if self.interrupted:
            # Who ends jobs sends SIGTERM to all of the group: that is no fault of the strategy.
            return
        where = f" (schedule {worker.seed})" if worker.seed is not None else ""
        self.error = self.error or f"{why}{where}"
        self._replace(worker)

    def _replace(self, worker: _Worker) -> None:
        worker.process.kill()
        self._workers.remove(worker)
        self._workers.append(self._start())

    def _enough(self, workers: Iterable[_Worker]) -> None:
        """Tell everybody that what is known suffices; who shrinks has its own time.

        Others may turn in a circle, since what is known to be broken ends no run that is compared.

        Args:
            workers: who is busy.
        """
        for worker in workers:
            if worker.task != "shrink":
                worker.ends = min(worker.ends, time.monotonic() + _GRACE_SECONDS)
                try:
                    worker.connection.send(("enough", ()))
                except OSError:
                    continue

    def close(self) -> None:
        """End all workers."""
        end_all(worker.process for worker in self._workers)


def _how_it_ended(status: int | None) -> str:
    """What became of a process that has hung up.

    Args:
        status: its exit status, minus a signal's number; None if it goes on without its pipe.
    """
    if status is None:
        return "its process has closed the pipe that it was to answer by"
    if status >= 0:
        return f"its process ended with status {status} instead of answering"
    return f"its process was killed by {signal.Signals(-status).name}"
