"""The result of one simulation, and the file that keeps many."""

import json
import math
import os
import stat
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from hintbench.errors import ResultFileError
from hintbench.explain import explain
from hintbench.seeds import interval

SCHEMA: Final = 1
STDOUT: Final = "-"
BASELINE: Final = "none"
RATIOS: Final = {
    "throughput_ratio": "throughput_ops_s",
    "free_blocks_order9_end_ratio": "free_blocks_order9_end",
}
"""Metrics that are compared with those of `none`, by the name of the ratio."""
_SECONDS_BETWEEN_WRITES = 1.0

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


class ResultFile(BaseModel):
    """A file of results: ``{"schema": 1, "hintbench": "0.1.0", "results": [...]}``."""

    model_config = ConfigDict(extra="ignore", frozen=True, populate_by_name=True)

    schema_version: Literal[1] = Field(default=SCHEMA, alias="schema", description="of this file")
    hintbench: str = Field(description="the version that wrote the file")
    results: tuple[Result, ...] = Field(description="one for each simulation that was finished")
    summaries: tuple[Summary, ...] = Field(
        default=(), description="one for each cell that ran with several seeds"
    )


class ResultWriter:
    """Keeps finished results in a file, so that an interrupted comparison loses none.

    The file is replaced as a whole: it is a complete result file at every moment. It is not
    touched before the first result, so that wrong input leaves an older file as it was.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Check that the file can be written, before any time is spent on results.

        Args:
            path: The file; "-" is standard output, written by `close` only.

        Raises:
            ResultFileError: It is a directory, or its directory cannot be written to.
        """
        self.path = str(path)
        self._results: Sequence[Result] = ()
        self._written_at = -math.inf
        self._pending = False
        # A pipe or a device cannot be replaced; it takes the text once, when everything is known.
        self._once = self.path == STDOUT or _is_special(self.path)
        check_writable(self.path)

    def update(self, results: Iterable[Result]) -> None:
        """Take the results so far; write them unless the last write was less than a second ago.

        Args:
            results: Every finished result; each gets its ratios (`with_ratios`) when it is written.
        """
        self._results = tuple(results)
        # An older file is worth more than one that says nothing.
        self._pending = bool(self._results) or self._once
        if (
            self._pending
            and not self._once
            and time.monotonic() - self._written_at >= _SECONDS_BETWEEN_WRITES
        ):
            self._write()

    def close(self) -> None:
        """Write what has not been written yet."""
        if self._pending:
            self._write()

    def _write(self) -> None:
        write_results(self.path, with_ratios(self._results))
        self._written_at = time.monotonic()
        self._pending = False


def results_as_json(results: Iterable[Result]) -> str:
    """Write results as the text of a result file.

    Args:
        results: The results, in the order in which they are kept.
    """
    from hintbench import __version__

    kept = tuple(results)
    file = ResultFile(hintbench=__version__, results=kept, summaries=tuple(summarize(kept)))
    return json.dumps(file.model_dump(mode="json", by_alias=True), indent=1, ensure_ascii=False)


def write_results(path: str | os.PathLike[str], results: Iterable[Result]) -> None:
    """Write a result file, replacing an older one as a whole.

    Args:
        path: The file; "-" is standard output.
        results: The results.

    Raises:
        ResultFileError: It cannot be written.
    """
    write_text(path, results_as_json(results) + "\n")


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a file, replacing an older one as a whole.

    Args:
        path: The file; "-" is standard output.
        text: What it is to hold.

    Raises:
        ResultFileError: It cannot be written.
    """
    try:
        if str(path) == STDOUT:
            import sys

            sys.stdout.write(text)
        elif _is_special(path):
            Path(path).write_text(text, encoding="utf-8")
        else:
            # A link stays a link: what it points to is replaced.
            target = Path(path).resolve()
            partial = target.with_name(f"{target.name}.{os.getpid()}.partial")
            try:
                partial.write_text(text, encoding="utf-8")
                partial.replace(target)
            finally:
                partial.unlink(missing_ok=True)
    except OSError as error:
        raise _unwritable(path, error) from None


def load_results(path: str | os.PathLike[str]) -> ResultFile:
    """Read a result file.

    Args:
        path: The file.

    Raises:
        ResultFileError: It cannot be read, is not a result file, or has another schema.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ResultFileError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError:
        raise ResultFileError(f"{path}: not a result file: it is not JSON") from None
    if not isinstance(content, Mapping) or "schema" not in content:
        raise ResultFileError(f"{path}: not a result file: it has no entry 'schema'")
    if content["schema"] != SCHEMA:
        writer = content.get("hintbench", "an unknown version")
        raise ResultFileError(
            f"{path}: schema {content['schema']!r} was written by hintbench {writer};"
            f" this version reads schema {SCHEMA}"
        )
    try:
        return ResultFile.model_validate(content)
    except ValidationError as error:
        raise ResultFileError(explain(error, str(path), ResultFile, "entry")) from None


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


def _is_special(path: str | os.PathLike[str]) -> bool:
    """Whether the path exists as something that cannot be replaced: a pipe, a device."""
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def check_writable(path: str, called: str = "") -> None:
    """Find out whether a file can be written, without touching an older one.

    Args:
        path: The file; "-", a pipe or a device is taken as it is.
        called: What the user calls it; empty for its path.

    Raises:
        ResultFileError: It is a directory, or its directory cannot be written to.
    """
    if path == STDOUT or _is_special(path):
        return
    target = Path(path).resolve()
    if not path or target.is_dir():
        raise ResultFileError(f"{path or '--json'}: cannot be written: this is not a file name")
    try:
        probe = target.with_name(f"{target.name}.{os.getpid()}.partial")
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise _unwritable(called or path, error) from None


def _unwritable(path: str | os.PathLike[str], error: OSError) -> ResultFileError:
    return ResultFileError(f"{path}: cannot be written: {error.strerror or error}")
