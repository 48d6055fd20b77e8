"""The result of one simulation, and what several say together."""

import json
import math
from collections.abc import Iterable, Sequence
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field, field_validator

from hintbench.results.seeds import interval

BASELINE: Final = "none"
RATIOS: Final = {
    "throughput_ratio": "throughput_ops_s",
    "free_blocks_order9_end_ratio": "free_blocks_order9_end",
}
"""Metrics that are compared with those of `none`, by the name of the ratio."""

Metric = int | float | None
"""A measured value; None where it does not apply."""


class Result(BaseModel):
    """What one simulation of a strategy on a workload measured.

    Everything but `wall_seconds` is the same for the same seed and configuration, on any machine.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    strategy: str = Field(description="the strategy's name")
    strategy_parameters: dict[str, Any] = Field(
        default_factory=dict, description="its parameters by name"
    )
    workload: str = Field(description="the workload's name")
    workload_parameters: dict[str, Any] = Field(
        default_factory=dict, description="its parameters by name"
    )
    seed: int = Field(description="seed of every random choice")
    guest: dict[str, Any] = Field(default_factory=dict, description="the guest, as `GuestConfig`")
    metrics: dict[str, Metric] = Field(description="measured values; names end in their unit")
    violations: dict[str, int] = Field(
        default_factory=dict, description="broken rules, and how often"
    )
    digest: str = Field(
        pattern=r"^[0-9a-f]{16}$", description="digest of the whole event history, 16 hex digits"
    )
    wall_seconds: float = Field(default=0.0, ge=0, description="how long the simulation took")
    notes: list[str] = Field(
        default_factory=list, description="what a reader should know about this run"
    )

    @field_validator("metrics")
    @classmethod
    def _finite(cls, metrics: dict[str, Metric]) -> dict[str, Metric]:
        # JSON has no NaN: a ratio to nothing does not apply, which is None.
        return {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in metrics.items()
        }

    @property
    def violation_count(self) -> int:
        """How often any rule was broken."""
        return sum(self.violations.values())


class Mean(BaseModel):
    """A metric over several seeds."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    mean: float = Field(description="of the seeds that were run")
    low: float = Field(description="lower end of its 95 % interval, by Student's t")
    high: float = Field(description="upper end of the interval")


class Summary(BaseModel):
    """What several seeds of one cell say together."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    strategy: str = Field(description="the strategy's name")
    strategy_parameters: dict[str, Any] = Field(description="its parameters by name")
    workload: str = Field(description="the workload's name")
    workload_parameters: dict[str, Any] = Field(description="its parameters by name")
    seeds: tuple[int, ...] = Field(description="the seeds, in the order of the results")
    metrics: dict[str, Mean] = Field(description="metrics that every seed has, by name")


def with_ratios(results: Sequence[Result]) -> list[Result]:
    """Give every result its ratios to the baseline `none` of the same cell (`RATIOS`).

    Args:
        results: Results, of which some may have the strategy "none".

    Returns:
        The same results in the same order; the ratios are None where no result of `none` with the
        same workload, seed and guest is among them, or its value is 0.
    """
    baselines = {
        _conditions(result): result.metrics for result in results if result.strategy == BASELINE
    }
    compared = []
    for result in results:
        baseline = baselines.get(_conditions(result), {})
        ratios = {
            ratio: _ratio(result.metrics.get(name), baseline.get(name))
            for ratio, name in RATIOS.items()
        }
        compared.append(result.model_copy(update={"metrics": {**result.metrics, **ratios}}))
    return compared


def summarize(results: Iterable[Result]) -> list[Summary]:
    """Means and intervals of every cell that has several seeds.

    Args:
        results: Results on one guest.
    """
    cells: dict[str, list[Result]] = {}
    for result in results:
        plugins = (result.strategy, result.strategy_parameters)
        conditions = (result.workload, result.workload_parameters, result.guest)
        cells.setdefault(json.dumps((plugins, conditions), sort_keys=True), []).append(result)
    return [_summary(same) for same in cells.values() if len(same) > 1]


def _summary(same: Sequence[Result]) -> Summary:
    first = same[0]
    means = {}
    for name in first.metrics:
        values = [value for one in same if (value := one.metrics.get(name)) is not None]
        if len(values) == len(same):
            means[name] = Mean(**interval(values)._asdict())
    return Summary(
        strategy=first.strategy,
        strategy_parameters=first.strategy_parameters,
        workload=first.workload,
        workload_parameters=first.workload_parameters,
        seeds=tuple(one.seed for one in same),
        metrics=means,
    )


def _ratio(own: Metric, baseline: Metric) -> float | None:
    return own / baseline if own is not None and baseline else None


def _conditions(result: Result) -> str:
    """Everything but the strategy that decides a result, as one comparable text."""
    conditions = (result.workload, result.workload_parameters, result.seed, result.guest)
    return json.dumps(conditions, sort_keys=True, default=str)
