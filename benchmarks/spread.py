"""How far a modelled replay varies for no reason: ``python -m benchmarks.spread TRACE ...``.

Several CPUs that share a few thousand free pages amplify every page that somebody else gets. So the
replay is repeated with changes that mean nothing (each CPU's events come up to 2 µs
later) and with other values of what no recording tells (how long a run of kswapd lasts), and what
comes out is printed as mean, standard deviation and 95 % interval of single runs, beside the
kernel's own figure. What lies inside the interval no single replay can be asked to meet.
"""

import argparse
import statistics
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Final
from unittest import mock

import hintbench
from hintbench import OperationBlock, Program, Workload, WorkloadSetting
from hintbench.config.guest import load_guest
from hintbench.kernel import threads as kernel_threads
from hintbench.plugins.finding import find_workload, make

_MOST_SHIFT_NS: Final = 2_000
_KSWAPD_NS: Final = (300_000, 4_000_000)
_TAKES: Final = ("takes", "drains", "refills", "free_pages_end")


class Shifted(Workload):
    """A workload in which each CPU's operations come a little later, in their order."""

    name = "shifted"

    def __init__(self, workload: Workload, shift_ns: tuple[int, ...]) -> None:
        """Shift a workload.

        Args:
            workload: One whose operations have times.
            shift_ns: How much, by CPU [virtual ns].
        """
        super().__init__()
        self.workload = workload
        self.shift_ns = shift_ns

    def program(self, setting: WorkloadSetting) -> Program:
        """The workload's program, shifted."""
        program = self.workload.program(setting)
        pairs = zip(program.tapes, self.shift_ns, strict=True)
        return replace(program, tapes=tuple(_later(tape, shift) for tape, shift in pairs))


def _later(tape: Iterable[OperationBlock], shift_ns: int) -> Iterator[OperationBlock]:
    for block in tape:
        assert block.time_ns is not None
        yield OperationBlock(block.code, block.value, block.time_ns + shift_ns)


def variations(runs: int, cpus: int) -> Iterator[tuple[tuple[int, ...], int]]:
    """Shifts by CPU, and a length of kswapd's runs, evenly over both ranges [virtual ns].

    Args:
        runs: How many.
        cpus: CPUs of the guest.
    """
    low, high = _KSWAPD_NS
    for run in range(runs):
        # Multiples of odd numbers: every run has other shifts, and every CPU another one.
        shift = tuple(1 + (run + 1) * (2 * cpu + 1) * 379 % _MOST_SHIFT_NS for cpu in range(cpus))
        yield shift, round(low * (high / low) ** ((run + 0.5) / runs))


def measure(
    parameters: dict[str, str], guest: str, runs: int, *, kswapd: bool, strategy: str = "none"
) -> tuple[list[float], list[list[float]]]:
    """Replay a trace several times.

    Args:
        parameters: Of the workload `trace`.
        guest: Preset or file.
        runs: How many variations.
        kswapd: Vary the length of kswapd's runs as well as the shifts.
        strategy: What runs beside the replay; a kernel that reported is followed best by one that
            reports (guest with ``discarded_at_start``).

    Returns:
        The kernel's figures, and those of each run: free blocks by order at the end, then takes,
        drains, refills and free pages.
    """
    kernel: list[float] = []
    measured = []
    usual = kernel_threads.KSWAPD_RUN_NS
    for shift, run_ns in variations(runs, load_guest(guest).vcpus):
        workload = Shifted(make("workload", find_workload("trace"), parameters), shift)
        with mock.patch.object(kernel_threads, "KSWAPD_RUN_NS", run_ns if kswapd else usual):
            result = hintbench.run(strategy, workload, guest)
        (line,) = (note for note in result.notes if note.startswith("free blocks at the end"))
        sides = [part.split()[1:] for part in line.split(": ", 1)[1].split("; ")]
        figures = [
            [*map(float, blocks), *_totals(result.metrics, side)]
            for blocks, side in zip(sides, ("kernel", "model"), strict=True)
        ]
        kernel = figures[0]
        measured.append(figures[1])
    return kernel, measured


def _totals(metrics: Mapping[str, int | float | None], side: str) -> Iterator[float]:
    for name in _TAKES:
        value = metrics[f"trace_{name}_{side}"]
        yield float("nan") if value is None else float(value)


def table(kernel: list[float], measured: list[list[float]]) -> Iterator[str]:
    """Lines of a Markdown table."""
    yield "| | kernel | model, mean | standard deviation | 95 % of the runs | kernel inside |"
    yield "|---|---|---|---|---|---|"
    names = [*(f"order {order}" for order in range(len(kernel) - len(_TAKES))), *_TAKES]
    for name, one, column in zip(names, kernel, zip(*measured, strict=True), strict=True):
        mean, deviation = statistics.fmean(column), statistics.stdev(column)
        low, high = mean - 1.96 * deviation, mean + 1.96 * deviation
        inside = "yes" if low <= one <= high else "no"
        yield (
            f"| {name.replace('_', ' ')} | {one:,.0f} | {mean:,.0f} ({mean / one - 1:+.0%})"
            f" | {deviation:,.1f} | {low:,.0f} to {high:,.0f} | {inside} |"
        )


def main() -> None:
    """Parse arguments, replay, print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.spread", description=__doc__)
    parser.add_argument("path", help="the trace")
    parser.add_argument("pages", help="/proc/kpageflags when it began")
    parser.add_argument("pages_end", help="/proc/kpageflags when it ended")
    parser.add_argument("--guest", required=True, help="preset, or a file")
    parser.add_argument("-n", "--runs", type=int, default=32)
    parser.add_argument("-s", "--strategy", default="none", help="runs beside it (default: none)")
    parser.add_argument("--kswapd", action="store_true", help="vary kswapd's runs too")
    given = parser.parse_args()
    parameters = {name: getattr(given, name) for name in ("path", "pages", "pages_end")}
    kernel, measured = measure(
        parameters, given.guest, given.runs, kswapd=given.kswapd, strategy=given.strategy
    )
    print("\n".join(table(kernel, measured)))


if __name__ == "__main__":
    main()
