"""Bulk: allocate half of the memory in blocks of one order, then free all of it.

The first of the three benchmarks of LLFree (Wrenger et al., "LLFree: Scalable and
Optionally-Persistent Page-Frame Allocation", USENIX ATC 2023; `bulk` in llfree-rs
eval/src/bin/bench.rs): every CPU takes its share of half the memory, then frees it, last block
first. There the kernel module leaves the pages as they are; here they are user pages and cleared,
because a block that was reclaimed costs its refault only when it is touched.

It shows the price of every allocation and free when nothing else goes on, how a strategy takes a
large free that comes all at once (1 GiB from each vCPU of the default guest), and how much of it
comes back to the host. With several rounds it shows the refaults too.
"""

from collections.abc import Iterator
from typing import Literal

import numpy as np
from pydantic import Field

from hintbench import LONGEST_NS, Program, Workload, WorkloadParameters, WorkloadSetting
from hintbench.operations import OperationBlock, free, idle
from hintbench.tapes import Draws, Shuffle, allocate_range, spans, user_flags


class BulkParameters(WorkloadParameters):
    """Parameters of `Bulk`."""

    order: int = Field(default=0, ge=0, le=10, description="order of every block")
    share: float = Field(
        default=0.5,
        gt=0,
        le=0.95,
        description="share of the guest's memory that all vCPUs take together; LLFree: half",
    )
    free_order: Literal["sequential", "reverse", "random"] = Field(
        default="reverse",
        description="which block is freed first: the oldest, the newest (as LLFree does) or any",
    )
    zero: bool = Field(
        default=True,
        description="whether the pages are cleared, and so touched, as those of a user are",
    )
    idle_ns: int = Field(
        default=0, ge=0, le=LONGEST_NS, description="idle time between two rounds [virtual ns]"
    )


class Bulk(Workload):
    """Every vCPU allocates its share of half the memory in one order, then frees it (LLFree)."""

    name = "bulk"
    Parameters = BulkParameters
    parameters: BulkParameters

    def program(self, setting: WorkloadSetting) -> Program:
        """Lay the tapes out; one round is a fill and a free of everything."""
        parameters = self.parameters
        blocks = self.blocks_a_vcpu(setting, parameters.share, parameters.order)
        a_round = 2 * blocks * setting.vcpus
        rounds = parameters.rounds(setting, a_round)
        tapes = tuple(self._tape(setting, cpu, blocks, rounds) for cpu in range(setting.vcpus))
        return Program(blocks * setting.vcpus, tapes, a_round * rounds)

    def _tape(
        self, setting: WorkloadSetting, cpu: int, blocks: int, rounds: int
    ) -> Iterator[OperationBlock]:
        parameters = self.parameters
        flags = user_flags(parameters.order, parameters.zero)
        first = cpu * blocks
        draws = Draws(setting.seed, cpu)
        for number in range(rounds):
            if number and parameters.idle_ns:
                yield idle(parameters.idle_ns)
            yield from allocate_range(first, first + blocks, order=parameters.order, flags=flags)
            shuffle = Shuffle(blocks, draws)
            for start, stop in spans(0, blocks):
                positions = np.arange(start, stop)
                if parameters.free_order == "reverse":
                    positions = blocks - 1 - positions
                elif parameters.free_order == "random":
                    positions = shuffle(positions)
                yield free(first + positions)
        yield idle(parameters.final_idle_ns)
