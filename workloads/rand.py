"""Rand: fill half of the memory, then replace blocks at random.

The third of the three benchmarks of LLFree (Wrenger et al., USENIX ATC 2023; `rand` in llfree-rs
eval/src/bin/bench.rs). After the fill the blocks are shuffled between the vCPUs, so that most are
freed by another vCPU than the one that allocated them; then each vCPU frees one of its blocks and
takes a new one, over and over.

It shows a fragmented guest: the memory that is free stays free, but in pieces that the per-CPU
lists and the merges move about. Frees rarely complete a large block, so a strategy that looks at
every order-0 free pays most here and gains least.
"""

from collections.abc import Iterator

import numpy as np
from pydantic import Field

from hintbench import Program, Workload, WorkloadParameters, WorkloadSetting
from hintbench.operations import OperationBlock, allocate, free, idle, interleave
from hintbench.tapes import BLOCK_OPERATIONS, Draws, Shuffle, allocate_range, spans, user_flags


class RandParameters(WorkloadParameters):
    """Parameters of `Rand`; `operations` counts the replacements, not the fill and the emptying."""

    order: int = Field(default=0, ge=0, le=10, description="order of every block")
    share: float = Field(
        default=0.5,
        gt=0,
        le=0.95,
        description="share of the guest's memory that all vCPUs hold together; LLFree: half",
    )
    zero: bool = Field(
        default=True,
        description="whether the pages are cleared, and so touched, as those of a user are",
    )


class Rand(Workload):
    """Every vCPU replaces random blocks of a half-full guest (LLFree)."""

    name = "rand"
    Parameters = RandParameters
    parameters: RandParameters

    def program(self, setting: WorkloadSetting) -> Program:
        """Lay the tapes out; one round is a replacement on every vCPU."""
        parameters, cpus = self.parameters, setting.vcpus
        blocks = self.blocks_a_vcpu(setting, parameters.share, parameters.order)
        replaced = parameters.rounds(setting, 2 * cpus)
        tapes = tuple(self._tape(setting, cpu, blocks, replaced) for cpu in range(cpus))
        return Program(blocks * cpus, tapes, 2 * cpus * (blocks + replaced))

    def _tape(
        self, setting: WorkloadSetting, cpu: int, blocks: int, replaced: int
    ) -> Iterator[OperationBlock]:
        order = self.parameters.order
        flags = user_flags(order, self.parameters.zero)
        first = cpu * blocks
        yield from allocate_range(first, first + blocks, order=order, flags=flags)
        # From here on a slot belongs to the vCPU that the shuffle gives it to. Every vCPU makes the
        # same shuffle. The first free of a slot waits for the fill, which itself waits for nothing;
        # later ones follow this vCPU's own allocation.
        shuffle = Shuffle(blocks * setting.vcpus, Draws(setting.seed, setting.vcpus))
        draws = Draws(setting.seed, cpu)
        for start, stop in spans(0, replaced, BLOCK_OPERATIONS // 2):
            slots = shuffle(first + draws.below(blocks, stop - start))
            yield interleave(free(slots), allocate(slots, order=order, flags=flags))
        for start, stop in spans(first, first + blocks):
            yield free(shuffle(np.arange(start, stop)))
        yield idle(self.parameters.final_idle_ns)
