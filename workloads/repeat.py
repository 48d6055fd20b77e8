"""Repeat: allocate and free one block, again and again.

The second of the three benchmarks of LLFree (Wrenger et al., USENIX ATC 2023; `repeat` in llfree-rs
eval/src/bin/bench.rs). Half of the memory is in use meanwhile; it is taken in huge pages here,
so that filling it does not outweigh what is to be measured.

It shows the fast path and nothing else. In orders that the per-CPU lists hold (0 to 3 and 9; in 5.0
only 0) neither the zone lock nor a strategy is met: a strategy that costs anything here charges
every allocation of the guest. In orders 4 to 8 and 10 every free reaches the buddy allocator, and
with order 10 a strategy sees the same block come and go all the time.
"""

from collections.abc import Iterator

import numpy as np
from pydantic import Field

from hintbench import Program, Workload, WorkloadParameters, WorkloadSetting
from hintbench.operations import HUGE_PAGE, OperationBlock, allocate, free, idle, interleave
from hintbench.tapes import (
    BLOCK_OPERATIONS,
    HUGE_PAGE_ORDER,
    HUGE_PAGE_PAGES,
    allocate_range,
    free_range,
    spans,
    user_flags,
)


class RepeatParameters(WorkloadParameters):
    """Parameters of `Repeat`; `operations` counts the repetitions, not the memory held."""

    order: int = Field(default=0, ge=0, le=10, description="order of the block")
    held_share: float = Field(
        default=0.5,
        ge=0,
        le=0.95,
        description="share of the guest's memory in use meanwhile, in huge pages; LLFree: half",
    )
    zero: bool = Field(
        default=True,
        description="whether the pages are cleared, and so touched, as those of a user are",
    )


class Repeat(Workload):
    """Every vCPU allocates and frees the same block again and again (LLFree)."""

    name = "repeat"
    Parameters = RepeatParameters
    parameters: RepeatParameters

    def program(self, setting: WorkloadSetting) -> Program:
        """Lay the tapes out; one round is an allocation and a free on every vCPU."""
        parameters, cpus = self.parameters, setting.vcpus
        held_pages = int(setting.memory_pages * parameters.held_share)
        held = held_pages // HUGE_PAGE_PAGES // cpus
        wanted = (held * cpus * HUGE_PAGE_PAGES) + (cpus << parameters.order)
        if wanted > setting.memory_pages:
            raise self.refusal(
                f"{setting.describe()} has no room for a block of order {parameters.order} on every"
                f" vCPU beside held_share={parameters.held_share:g}: lower one of them"
            )
        repetitions = parameters.rounds(setting, 2 * cpus)
        tapes = tuple(self._tape(cpu * (held + 1), held, repetitions) for cpu in range(cpus))
        return Program((held + 1) * cpus, tapes, 2 * cpus * (held + repetitions))

    def _tape(self, first: int, held: int, repetitions: int) -> Iterator[OperationBlock]:
        parameters = self.parameters
        last = first + held
        yield from allocate_range(first, last, order=HUGE_PAGE_ORDER, flags=HUGE_PAGE)
        flags = user_flags(parameters.order, parameters.zero)
        slots = np.full(min(repetitions, BLOCK_OPERATIONS // 2), last)
        many = interleave(allocate(slots, order=parameters.order, flags=flags), free(slots))
        for start, stop in spans(0, 2 * repetitions):
            count = stop - start
            yield OperationBlock(many.code[:count], many.value[:count], many.time_ns[:count])
        yield from free_range(first, last)
        yield idle(parameters.final_idle_ns)
