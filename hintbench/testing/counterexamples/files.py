"""Counterexamples as files: saved, checked when read, replayed with the same digest."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hintbench import __version__
from hintbench.config.guest import GuestConfig
from hintbench.errors import ResultFileError, describe
from hintbench.results.files import write_text
from hintbench.testing.scenarios.scenario import Fault, Operations, Scenario
from hintbench.testing.schedules.preemption import Preemption

if TYPE_CHECKING:
    from hintbench.strategy import Strategy

SCHEMA: Final = 2


class SavedScenario(BaseModel):
    """A `Scenario` in a file."""

    model_config = ConfigDict(extra="forbid")

    guest: dict[str, Any] = Field(description="the guest, its host and its prices")
    operations: list[tuple[int, int, int, int]] = Field(
        description="(vCPU, code, value, time [virtual ns]) of each, as in a tape"
    )
    preemptions: list[tuple[int, int, int]] = Field(
        description="(0 step, 1 hold, 2 edit, 3 event; number; delay [virtual ns])"
    )
    faults: list[tuple[str, int, int, int]] = Field(
        description="(kind, number, length [virtual ns], CPU)"
    )
    seed: int = Field(description="of the strategy's random numbers and the digest")
    settle: bool = Field(description="whether the strategy has its time before it is stopped")
    family: str = Field(default="", description="what kind of scenario it was drawn from")
    own_constants: bool = Field(
        default=False, description="whether the strategy has its own default parameters"
    )

    @classmethod
    def of(cls, scenario: Scenario) -> Self:
        """A scenario as it is saved."""
        operations = scenario.operations
        vcpus, codes = operations.vcpu.tolist(), operations.code.tolist()
        values, times_ns = operations.value.tolist(), operations.time_ns.tolist()
        return cls(
            guest=scenario.guest.model_dump(mode="json", exclude={"memory", "movable"}),
            operations=list(zip(vcpus, codes, values, times_ns, strict=True)),
            preemptions=[(each.point, each.number, each.delay_ns) for each in scenario.preemptions],
            faults=[(each.kind, each.number, each.amount, each.cpu) for each in scenario.faults],
            seed=scenario.seed,
            settle=scenario.settle,
            family=scenario.family,
            own_constants=scenario.own_constants,
        )

    def scenario(self) -> Scenario:
        """The scenario."""
        table = np.array(self.operations, dtype=np.int64).reshape(-1, 4)
        return Scenario(
            guest=GuestConfig.model_validate(self.guest),
            operations=Operations(
                table[:, 0].astype(np.int8),
                table[:, 1].astype(np.uint32),
                table[:, 2].astype(np.int32),
                table[:, 3],
            ),
            preemptions=tuple(Preemption(*each) for each in self.preemptions),
            faults=tuple(Fault(*each) for each in self.faults),
            seed=self.seed,
            settle=self.settle,
            family=self.family,
            own_constants=self.own_constants,
        )


class Counterexample(BaseModel):
    """A violation, and everything that it takes to see it again."""

    model_config = ConfigDict(extra="forbid")

    counterexample: int = Field(default=SCHEMA, description="the schema of this file")
    hintbench: str = Field(default=__version__, description="the version that wrote it")
    strategy: str = Field(description="the strategy, as on the command line")
    plugins: list[str] = Field(default_factory=list, description="plugins that were loaded")
    source: str = Field(description="a hash of the strategy's source [hexadecimal]")
    rule: str = Field(description="the rule that is broken")
    kind: str = Field(description="which way of breaking it")
    text: str = Field(description="what happened")
    digest: str = Field(description="of the event history up to the violation [hexadecimal]")
    scenario: SavedScenario = Field(description="what happens")
    checksum: str = Field(default="", description="of all the rest, so that edits are noticed")

    def sealed(self) -> Self:
        """A copy with its checksum."""
        return self.model_copy(update={"checksum": self._sum()})

    def _sum(self) -> str:
        content = self.model_dump(mode="json", exclude={"checksum"})
        text = json.dumps(content, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    def write(self, path: Path) -> None:
        """Save it.

        Raises:
            ResultFileError: it cannot be written.
        """
        text = json.dumps(self.sealed().model_dump(mode="json", exclude_defaults=False))
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ResultFileError(f"{path} cannot be written: {describe(error)}") from None
        write_text(path, text + "\n")


def save_counterexample(counterexample: Counterexample, folder: Path) -> Path:
    """Save one beside others; where it went.

    Args:
        counterexample: what is saved.
        folder: is made if there is none.

    Raises:
        ResultFileError: it cannot be written.
    """
    sealed = counterexample.sealed()
    name = sealed.strategy.partition(",")[0].replace("/", "_").replace(":", "_")
    # "../mine.py" and "/home/me/mine.py" would give hidden files, and ones that look private.
    name = name.lstrip("._")
    kind = f"-{sealed.kind}" if sealed.kind else ""
    # Another seed, or other parameters, break the same rule in another way.
    path = folder / f"{name}-{sealed.rule}{kind}-{sealed.checksum[:8]}.json"
    sealed.write(path)
    return path


def read_counterexample(path: Path) -> Counterexample:
    """Read a counterexample's file.

    Raises:
        ResultFileError: it is none, is of another version, or was edited.
    """
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ResultFileError(f"{path}: cannot be read: {error.strerror or error}") from None
    except (ValueError, RecursionError):
        # The latter of one that consists of thousands of brackets.
        raise ResultFileError(f"{path} is not a counterexample: it is not JSON") from None
    if not isinstance(content, dict) or "counterexample" not in content:
        raise ResultFileError(f"{path} is not a counterexample of hintbench check")
    if content["counterexample"] != SCHEMA:
        raise ResultFileError(
            f"{path} has schema {content['counterexample']!r}, this version reads {SCHEMA}"
        )
    if content.get("hintbench") != __version__:
        raise ResultFileError(
            f"{path} was written by hintbench {content.get('hintbench')}, this is {__version__}:"
            " another version runs the same scenario otherwise; find it again with check"
        )
    try:
        found = Counterexample.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ResultFileError(f"{path} was edited: {where}: {first['msg']}") from None
    if found.sealed().checksum != found.checksum:
        raise ResultFileError(f"{path} was edited: its checksum does not match its content")
    return found


def source_hash(make: Callable[[], Strategy]) -> str:
    """A hash of the source of a strategy's class [hexadecimal]."""
    strategy = type(make())
    try:
        text = inspect.getsource(strategy)
    except (OSError, TypeError):
        text = strategy.__qualname__
    return hashlib.sha256(text.encode()).hexdigest()[:16]
