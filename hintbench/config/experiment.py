"""Which simulations a comparison is made of."""

from collections.abc import Iterator
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field

from hintbench.config.guest import GuestConfig
from hintbench.config.specs import PluginSpec

MOST_SEED: Final = (1 << 63) - 1
Seed = Annotated[int, Field(ge=0, le=MOST_SEED)]
"""What a seed may be."""


class Cell(BaseModel):
    """One simulation of an experiment."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    strategy: PluginSpec = Field(description="the strategy")
    workload: PluginSpec = Field(description="the workload")
    seed: Seed = Field(description="seed of every random choice")

    def __str__(self) -> str:
        """Name the cell in a message."""
        return f"{self.strategy} on {self.workload}, seed {self.seed}"


class Experiment(BaseModel):
    """A comparison: every strategy on every workload with every seed, on one guest."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    strategies: tuple[PluginSpec, ...] = Field(min_length=1, description="strategies to compare")
    workloads: tuple[PluginSpec, ...] = Field(min_length=1, description="workloads to run them on")
    seeds: tuple[Seed, ...] = Field(
        default=(1,), min_length=1, description="seeds; each is a whole simulation"
    )
    guest: GuestConfig = Field(default=GuestConfig(), description="the guest they all run on")
    plugins: tuple[str, ...] = Field(
        default=(), description="further plugins: FILE.py or package.module"
    )
    attached_but_off: bool = Field(
        default=False,
        description="attach each strategy's hooks, behind a static key that is off; every result"
        " must then be that of none",
    )

    def cells(self) -> Iterator[Cell]:
        """Every simulation, workload by workload, so that a comparison's rows end together."""
        for workload in self.workloads:
            for seed in self.seeds:
                for strategy in self.strategies:
                    yield Cell(strategy=strategy, workload=workload, seed=seed)
