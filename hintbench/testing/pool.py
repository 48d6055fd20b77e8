"""Worker processes that check one strategy: who does what, and who has fallen silent."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Final

from hintbench.testing.subjects import Subject
from hintbench.testing.tasks import Task
from hintbench.testing.worker import work
from hintbench.workers import SECONDS_TO_END, end_all, start_worker

SILENCE_SECONDS: Final = 12.0
"""A worker that begins no scenario for so long hangs, and is killed [wall s]."""
COMPARE_SECONDS: Final = 30.0
"""How long its comparisons of runs may take, which come before the first scenario [wall s]."""
_START_SECONDS: Final = 60.0
"""How long a process may take to start, and a scenario that has not begun [wall s]."""


@dataclass(slots=True)
class _Worker:
    process: BaseProcess
    connection: Connection[Any, Any]
    deadline: float
    task: str = ""
    seed: int | None = None
    patience_seconds: float = SILENCE_SECONDS

    def begin(self, task: Task) -> None:
        """Note what it is to do, and how long it may be silent then."""
        self.task, self.seed = task[0], None
        self.patience_seconds = SILENCE_SECONDS
        if self.task in ("compare", "digests"):
            self.patience_seconds = COMPARE_SECONDS
        elif self.task == "shrink":
            # Its last argument is the time that it may take.
            self.patience_seconds += task[1][-1]


class Pool:
    """Worker processes for one strategy."""

    def __init__(
        self, subject: Subject, size: int, on_progress: Callable[[int], None] | None
    ) -> None:
        self.subject = subject
        self.size = size
        self.error = ""
        self._begun = 0
        self._on_progress = on_progress
        self._workers = [self._start() for _ in range(size)]

    def _start(self, hash_seed: int | None = None) -> _Worker:
        process, connection = start_worker(work, self.subject, hash_seed=hash_seed)
        return _Worker(process, connection, 0.0)

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
        """Have tasks done; the answers of those that succeeded, in the order of the tasks."""
        waiting = list(enumerate(tasks))
        answers: dict[int, Any] = {}
        busy: dict[int, _Worker] = {}
        while (waiting and not self.error) or busy:
            idle = [each for each in self._workers if each not in busy.values()]
            while waiting and idle and not self.error:
                number, task = waiting.pop(0)
                worker = idle.pop()
                worker.begin(task)
                worker.deadline = time.monotonic() + _START_SECONDS
                worker.connection.send(task)
                busy[number] = worker
            for number, worker in list(busy.items()):
                done, answer = self._listen(worker)
                if not done:
                    continue
                del busy[number]
                if answer is not None:
                    answers[number] = answer
                if self.error or (answer is not None and stop(answer)):
                    waiting = []
                    self._enough(busy.values())
            if busy:
                wait([worker.connection for worker in busy.values()], timeout=0.2)
        return [answers[number] for number in sorted(answers)]

    def _listen(self, worker: _Worker) -> tuple[bool, Any]:
        """Take what a worker has to say: (whether it is done, its answer)."""
        try:
            while worker.connection.poll():
                what, value = worker.connection.recv()
                worker.deadline = time.monotonic() + SILENCE_SECONDS
                if what == "begun":
                    worker.deadline = time.monotonic() + worker.patience_seconds
                elif what == "seed":
                    worker.seed, worker.patience_seconds = value, SILENCE_SECONDS
                    self._begun += 1
                    if self._on_progress is not None:
                        self._on_progress(self._begun)
                elif what == "failed":
                    self.error = self.error or value
                    return True, None
                else:
                    return True, value
        except (EOFError, OSError):
            worker.process.join(SECONDS_TO_END)
            code = worker.process.exitcode
            self._give_up(worker, f"its process ended with status {code}")
            return True, None
        if time.monotonic() > worker.deadline:
            self._give_up(worker, f"does not come back within {worker.patience_seconds:.0f} s")
            return True, None
        return False, None

    def _give_up(self, worker: _Worker, why: str) -> None:
        where = f" (schedule {worker.seed})" if worker.seed is not None else ""
        self.error = self.error or f"{self.subject.text} {why}{where}"
        worker.process.kill()
        self._workers.remove(worker)
        self._workers.append(self._start())

    def _enough(self, workers: Iterable[_Worker]) -> None:
        """Tell who explores that what is known suffices; who shrinks has its own time."""
        for worker in workers:
            if worker.task != "shrink":
                try:
                    worker.connection.send(("enough", ()))
                except OSError:
                    continue

    def close(self) -> None:
        """End all workers."""
        end_all(worker.process for worker in self._workers)
