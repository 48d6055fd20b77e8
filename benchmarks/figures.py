"""The project's figures, beside what they are compared with: ``python -m benchmarks.figures``.

Prints a table for docs/figures.md: what was measured, the target, met or not. Everything is timed
in turns after a warm-up round, medians of several rounds count, and no time is given unless the
work ended in the state that it must end in. Take a machine that does nothing else; about four
minutes on two cores.
"""

import argparse
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

from . import memory
from .neighbours import plugin_cache, simpy_lock
from .recorded import write_trace
from .side_by_side import (
    ROUNDS,
    Job,
    Timing,
    command_job,
    interpreted_churn,
    measure,
    tape,
)
from .startup import COMMAND

_TRACE_LINES: Final = 2_000_000


class Figure(NamedTuple):
    """A line of the table.

    Attributes:
        what: what was measured; what the project promises begins with a number.
        measured: with its unit.
        target: what it is held to.
        met: whether it is; None where it could not be measured.
    """

    what: str
    measured: str
    target: str
    met: bool | None


def at_most(what: str, value: float, most: float, unit: str) -> Figure:
    """A figure that must not be above its target."""
    return Figure(what, f"{value:,.3g} {unit}", f"at most {most:g}", value <= most)


def at_least(what: str, value: float, least: float, unit: str) -> Figure:
    """A figure that must not be below its target."""
    return Figure(what, f"{value:,.3g} {unit}", f"at least {least:g}", value >= least)


def operations(rounds: int) -> Iterator[Figure]:
    """Figures 1 to 3, and the rate half of 4: what one operation costs."""
    from hintbench import speed

    jobs: dict[str, Callable[[], Job]] = {
        "256 vCPUs": lambda: tape(speed.churn, 2_000_000, vcpus=256),
        "1 TiB": lambda: tape(speed.churn, 2_000_000, memory=1 << 40),
    }
    for each in speed.TAPES:
        jobs[each.key] = partial(tape, each.prepare, each.operations)
    missing = {}
    for name, make in (("simpy", simpy_lock), ("libcachesim", plugin_cache)):
        try:
            make(1000)
        except NotImplementedError as error:
            missing[name] = str(error)
        else:
            jobs[name] = partial(make, 100_000)
    found = measure(jobs, rounds)
    call, bare, churn, hook = (found[name].median_ns for name in ("call", "bare", "churn", "hook"))
    yield at_most("1: order-0 simulation, in empty method calls", churn / call, 2.5, "calls")
    yield at_least("1: interpreted core over compiled core", _interpreted(rounds), 25, "times")
    if "simpy" in found:
        ratio = found["simpy"].median_ns / churn
        yield at_least("1: simpy's lock over a whole operation", ratio, 100, "times")
    yield at_most("2: bare replay over simulation", bare / churn, 0.25, "times")
    yield at_least("3: order 9 with a Python hook", 1e3 / hook, 5, "M operations/s")
    if "libcachesim" in found:
        ratio = found["libcachesim"].median_ns / hook
        yield at_least("3: libCacheSim's plugin cache over it", ratio, 5 / 0.8, "times")
    for name in ("256 vCPUs", "1 TiB"):
        than = "8" if "vCPUs" in name else "4 GiB"
        share = churn / found[name].median_ns
        yield at_least(f"4: rate with {name} over that with {than}", share, 0.5, "times")
    yield at_most("bare replay", bare, 8, "ns")
    yield at_most("order-0 simulation", churn, 40, "ns")
    yield at_most("order 9 with hook and call back", hook, 100, "ns")
    for name, reason in missing.items():
        yield Figure(f"beside {name}", "not measured", reason, None)
    yield Figure("empty method call", _spread(found["call"]), "for comparison", None)


def _spread(timing: Timing) -> str:
    return f"{timing.median_ns:.3g} ns ({timing.lowest_ns:.3g} to {timing.highest_ns:.3g})"


def _interpreted(rounds: int) -> float:
    """How many times slower the interpreted core is, on one tape, both in turns."""
    from hintbench import speed

    count, live_slots = 40_000, 20_000
    ratios = []
    for _ in range(rounds):
        interpreted_ns, digest = interpreted_churn(count, live_slots)
        job = tape(speed.churn, count, live_slots=live_slots)
        began = time.perf_counter_ns()
        job.run()
        compiled_ns = (time.perf_counter_ns() - began) / job.operations
        if job.end() != digest:
            raise RuntimeError("the interpreted core ended in another state than the compiled one")
        ratios.append(interpreted_ns / compiled_ns)
    return statistics.median(ratios)


def memory_figures(rounds: int) -> Iterator[Figure]:
    """Figure 4: memory, in a process of its own for each size."""
    code = (
        "import sys, time; from benchmarks.memory import boot, bytes_per_page, resident_bytes\n"
        "gib = int(sys.argv[1]); a = bytes_per_page(gib); peak = resident_bytes('VmHWM')\n"
        "began = time.perf_counter(); boot(gib); print(a, peak, time.perf_counter() - began)"
    )
    for gib in memory.Guest.params:
        measured = []
        for _ in range(rounds):
            text = subprocess.run(
                [sys.executable, "-c", code, str(gib)], check=True, capture_output=True, text=True
            ).stdout
            measured.append([float(value) for value in text.split()])
        per_page, peak, seconds = map(statistics.median, zip(*measured, strict=True))
        what = f"4: memory for a page of a guest of {gib} GiB"
        if gib == memory.Guest.params[-1]:
            yield at_most(what, per_page, 9.25, "bytes")
        else:
            # Here the megabyte that any guest takes is a share of each page's.
            yield Figure(what, f"{per_page:.3g} bytes", "for comparison", None)
    yield at_most("4: peak of a guest of 1 TiB, Python included", peak / (1 << 30), 2.5, "GiB")
    yield at_most("a guest of 1 TiB is built in", seconds, 3, "s")


def start_up(rounds: int) -> Iterator[Figure]:
    """Figure 5: imports and help, in fresh interpreters."""
    found = measure(
        {
            "python": lambda: command_job("-c", "pass"),
            "numpy": lambda: command_job("-c", "import numpy"),
            "hintbench": lambda: command_job("-c", "import hintbench"),
            "help": lambda: command_job("-c", COMMAND, "--help"),
        },
        rounds,
    )
    ms = {name: timing.median_ns / 1e6 for name, timing in found.items()}
    yield at_most("5: import hintbench, the interpreter included", ms["hintbench"], 150, "ms")
    yield at_most("5: hintbench --help", ms["help"], 250, "ms")
    compared = f"{ms['numpy']:.3g} ms (a bare interpreter {ms['python']:.3g})"
    yield Figure("import numpy", compared, "for comparison", None)


def traces(rounds: int) -> Iterator[Figure]:
    """Text import and replay of a trace of two million events."""
    import hintbench
    from hintbench.traces import read_trace, save_trace

    from .side_by_side import Job

    with tempfile.TemporaryDirectory() as folder:
        text, imported = (str(Path(folder, f"trace.{end}")) for end in ("txt", "npz"))
        write_trace(text, _TRACE_LINES)
        save_trace(read_trace(text), imported)
        results: list[hintbench.Result] = []

        def replay() -> None:
            results.append(hintbench.run("none", f"trace:{imported}"))

        def reading() -> Job:
            lengths: list[int] = []
            return Job(
                lambda: lengths.append(len(read_trace(text))), _TRACE_LINES, lambda: lengths[-1]
            )

        found = measure(
            {
                "import": reading,
                "replay": lambda: Job(replay, _TRACE_LINES, lambda: results[-1].digest),
            },
            rounds,
        )
    rates = {name: 1e3 / timing.median_ns for name, timing in found.items()}
    yield at_least("trace text import", rates["import"], 1.5, "M lines/s")
    simulated_s = statistics.median(result.wall_seconds for result in results[1:])
    rate = _TRACE_LINES / simulated_s / 1e6
    yield at_least("replay of an imported trace with none", rate, 10, "M operations/s")
    whole = f"{rates['replay']:.3g} M operations/s"
    yield Figure("the same, with reading, loading and boot", whole, "for comparison", None)


def comparison(rounds: int) -> Iterator[Figure]:
    """Figures 6 and 7: the default comparison, and Ctrl-C in the middle of one."""
    with tempfile.TemporaryDirectory() as folder:
        output = str(Path(folder, "results.json"))
        seconds = []
        for _ in range(rounds):
            began = time.perf_counter()
            subprocess.run(
                [sys.executable, "-c", COMMAND, "run", "--json", output],
                check=True,
                stdout=subprocess.DEVNULL,
            )
            seconds.append(time.perf_counter() - began)
        cells = len(json.loads(Path(output).read_text())["results"])
        target = 30 if (os.cpu_count() or 1) >= 2 else 60
        yield at_most(
            f"6: the default comparison, {cells} cells", statistics.median(seconds), target, "s"
        )
        waits, kept = [], []
        for number in range(rounds):
            # Each time at another moment of the run.
            delay_seconds = 3.0 + 3.5 * number / rounds
            process = subprocess.Popen(
                [sys.executable, "-c", COMMAND, "run", "--json", output],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
            time.sleep(delay_seconds)
            began = time.perf_counter()
            # As a terminal does: the whole group, workers included.
            os.killpg(process.pid, signal.SIGINT)
            process.wait(timeout=60)
            waits.append(time.perf_counter() - began)
            kept.append(len(json.loads(Path(output).read_text())["results"]))
        if not all(kept):
            raise RuntimeError("Ctrl-C lost the results that were finished")
        what = f"7: the longest of {rounds} answers to Ctrl-C"
        yield at_most(what, max(waits), 0.5, "s")


GROUPS: dict[str, Callable[[int], Iterator[Figure]]] = {
    "operations": operations,
    "memory": memory_figures,
    "start-up": start_up,
    "traces": traces,
    "comparison": comparison,
}


def main() -> None:
    """Measure what was asked for, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.figures", description=__doc__)
    parser.add_argument("groups", nargs="*", choices=[*GROUPS, []], metavar="GROUP")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    given = parser.parse_args()
    from hintbench import __version__
    from hintbench.core import BUILD

    print(
        f"hintbench {__version__}, {BUILD} core, Python {platform.python_version()},"
        f" {platform.machine()}, {os.cpu_count()} CPUs, medians of {given.rounds} rounds\n"
    )
    print("| figure | measured | target | |\n|---|---|---|---|")
    for name in given.groups or GROUPS:
        for figure in GROUPS[name](given.rounds):
            verdict = {True: "met", False: "**not met**", None: ""}[figure.met]
            print(
                f"| {figure.what} | {figure.measured} | {figure.target} | {verdict} |", flush=True
            )


if __name__ == "__main__":
    main()
