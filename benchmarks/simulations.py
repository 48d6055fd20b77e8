"""What the suites of `strategies` track: figures of simulations, as plain numbers by strategy.

Everything is in virtual time and of one seed, so a difference between two commits is a difference
of the model or of the strategy. asv takes every number for better when it is lower; so costs are
tracked, and what memory a strategy leaves with the host, not what it takes back.
"""

import math
import sys
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

# Named here and not taken from hintbench: the cells must be the same whichever commit runs.
STRATEGIES: Final = (
    "none",
    "percpu-array-v9",
    "bitmap-and-spin",
    "zone-confined-batching",
    "sync-hypercall",
    "zone-bitmap",
    "page-reporting",
    "report-then-hold",
    "shared-state",
    "oracle",
)
GUEST: Final = {"memory": "2GiB", "vcpus": 4, "kernel": "6.12"}
SEED: Final = 1
# What a commit may lack; everything else that goes wrong is an error.
_LACKING: Final = frozenset(("UnknownNameError", "ParameterError"))

Values = dict[str, float | int | None]
Cache = dict[str, Values | str]
Method = TypeVar("Method", bound=Callable[..., Any])


def run(strategy: str, workload: str, guest: Any = GUEST, **parameters: Any) -> Any:
    """Run one simulation, in a way that every commit understands.

    Args:
        strategy: its name.
        workload: its name.
        guest: as `hintbench.run` takes it.
        **parameters: of the workload.

    Returns:
        The `hintbench.Result`.
    """
    import hintbench

    try:
        from hintbench.plugins.finding import find_strategy, find_workload
    except ImportError:  # an older commit
        from hintbench.plugins import (  # type: ignore[attr-defined,no-redef]
            find_strategy,
            find_workload,
        )

    return hintbench.run(
        strategy=find_strategy(strategy)(),
        workload=find_workload(workload)(**parameters),
        guest=guest,
        seed=SEED,
    )


def simulate(workload: str, **parameters: object) -> Cache:
    """Run every strategy that this commit has on a workload.

    Args:
        workload: its name.
        **parameters: of the workload.

    Returns:
        The metrics by strategy, or an error's text; strategies that the commit lacks are missing.
    """
    import hintbench

    found: Cache = {}
    for strategy in STRATEGIES:
        try:
            found[strategy] = dict(run(strategy, workload, **parameters).metrics)
        except hintbench.HintbenchError as error:
            if type(error).__name__ in _LACKING:
                print(f"left out: {strategy} on {workload}: {error}", file=sys.stderr)
            else:
                found[strategy] = f"{strategy} on {workload}: {error}"
    return found


def require(cache: Mapping[str, object], strategy: str) -> None:
    """Let asv skip what the commit does not have.

    Raises:
        NotImplementedError: it lacks the strategy, the workload or one of their parameters.
    """
    if strategy not in cache:
        raise NotImplementedError(f"this commit has no {strategy}, or not this workload")


def tracked(cache: Cache, strategy: str, metric: str) -> float:
    """A metric of one simulation; NaN, which asv takes for none, where it does not apply.

    Raises:
        RuntimeError: the simulation failed.
    """
    values = cache[strategy]
    if isinstance(values, str):
        raise RuntimeError(values)
    value = values.get(metric)
    return math.nan if value is None else value


def ns_per_operation(cache: Cache, strategy: str) -> float:
    """Virtual time of the busiest vCPU for each operation [ns]; the throughput, lower is better."""
    return 1e9 / tracked(cache, strategy, "throughput_ops_s")


def unit(text: str) -> Callable[[Method], Method]:
    """Give a benchmark its unit."""

    def give(method: Method) -> Method:
        # Where asv looks for it; functions have no such attribute by themselves.
        method.unit = text  # type: ignore[attr-defined]
        return method

    return give
