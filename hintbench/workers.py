"""Processes that work for this one: how many, how they are started, and how they are ended."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from multiprocessing import resource_tracker, util
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Final

from hintbench.errors import UsageError

SECONDS_TO_END: Final = 2.0
"""How long to wait for a process that is to end, or has been killed [wall s]."""
MOST_JOBS: Final = 1024
_prepared: Final[set[str]] = set()
"""What the process has imported that workers are forked from; nothing if there is none."""


def default_jobs() -> int:
    """How many workers suit this machine: one for each CPU that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def worker_count(jobs: int | str | None) -> int:
    """The number of worker processes.

    Args:
        jobs: As on the command line; None for as many as suit this machine.

    Raises:
        UsageError: It is not a number, or not a positive one.
    """
    if jobs is None:
        return default_jobs()
    text = str(jobs)
    if not text.isdecimal() or not 1 <= int(text) <= MOST_JOBS:
        raise UsageError(f"--jobs: {text!r} is not a number in 1..{MOST_JOBS}")
    return int(text)


def prepare_workers(*modules: str) -> None:
    """Start the process that workers are forked from, which imports what they need meanwhile.

    For commands that end sooner than workers take to import it, and that import as much themselves:
    on two CPUs both happen at once. Without it, on other systems than Linux, and where TMPDIR is
    too long a path for a socket's, each worker starts afresh.

    Args:
        modules: Their names.
    """
    if not sys.platform.startswith("linux"):
        return
    from multiprocessing import forkserver

    # Nobody does linear algebra here, and a fork would not copy the threads that are meant for it.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    multiprocessing.set_forkserver_preload(list(modules))
    with interrupts_held_back(), _environment_of_workers():
        try:
            forkserver.ensure_running()
        except OSError:
            # The name of its socket lies below TMPDIR, and has 107 bytes at most (unix(7)). Workers
            # that start afresh need no socket; if something else is wrong, they will say it.
            return
    _prepared.update(modules)


def start_worker(
    work: Callable[..., None], *arguments: Any, hash_seed: int | None = None
) -> tuple[BaseProcess, Connection[Any, Any]]:
    """Start a process that dies with this one.

    It is started afresh, or by a process that does nothing else (`prepare_workers`). It is no fork
    of this one: numpy has threads by now, and a fork would copy their locks.

    Args:
        work: A function of a module, called with its end of a pipe and the arguments.
        arguments: Whatever can be pickled.
        hash_seed: What hash() of texts follows from in there, in a process started afresh; None:
            whatever it may.

    Returns:
        The process, and this process's end of the pipe.
    """
    ours, theirs = multiprocessing.Pipe()
    how: dict[str, Any] = {"target": work, "args": (theirs, *arguments), "daemon": True}
    process: BaseProcess
    with interrupts_held_back(), _environment_of_workers(hash_seed):
        if _prepared and hash_seed is None:
            process = multiprocessing.get_context("forkserver").Process(**how)
            try:
                process.start()
            except FileNotFoundError:
                # A plugin has deleted the folder in which that process is found.
                _prepared.clear()
                Path(util.get_temp_dir()).mkdir(parents=True, exist_ok=True)
        if not _prepared or hash_seed is not None:
            process = multiprocessing.get_context("spawn").Process(**how)
            process.start()
    theirs.close()
    return process, ours


@contextlib.contextmanager
def _environment_of_workers(hash_seed: int | None = None) -> Iterator[None]:
    """Let a process that is started meanwhile find its modules where this one does.

    Python looks for those of ``python -c`` in the current folder first, where a folder named
    hintbench or a file named numpy.py would be taken for what this process found elsewhere.

    Args:
        hash_seed: What hash() of texts follows from in there; None: whatever it may.
    """
    settings = {}
    if hash_seed is not None:
        settings["PYTHONHASHSEED"] = str(hash_seed)
    with contextlib.suppress(FileNotFoundError):  # nothing is found in a folder that is gone
        if not {"", str(Path.cwd())} & set(sys.path):
            settings["PYTHONSAFEPATH"] = "1"
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextlib.contextmanager
def interrupts_held_back() -> Iterator[None]:
    """Let a worker inherit that Ctrl-C, which reaches the whole group, is not for it."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    # Starting the first worker starts this process too, and that lets interrupts in again.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end_all(processes: Iterable[BaseProcess]) -> None:
    """Kill processes, and wait until they are gone."""
    ending = list(processes)
    for process in ending:
        process.kill()
    for process in ending:
        process.join(SECONDS_TO_END)
