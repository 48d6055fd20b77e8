"""page-fault1: map 128 MiB of anonymous memory, touch each page, unmap, loop.

The test `page_fault1` of will-it-scale (tests/page_fault1.c: ``MEMSIZE (128 * 1024 * 1024)``), the
benchmark in the postings of the hinting series: one task a vCPU, each in an address space of its
own. A touch of a new page is a fault, and so an allocation that the guest clears; every 2 MiB also
takes a page table.

It shows what a strategy costs the most common way to use memory, and how a loop that frees much and
takes it back at once suffers from reclaim that is too eager: what is reported between unmap and the
next map is a refault. With huge pages the clearing outweighs everything, and no large difference
between strategies is to be expected but for refaults.
"""

from collections.abc import Iterator

import numpy as np
from pydantic import Field

from hintbench import (
    MOST_OPERATIONS,
    PAGES_PER_MIB,
    Program,
    Workload,
    WorkloadParameters,
    WorkloadSetting,
)
from hintbench.operations import OperationBlock, idle
from hintbench.tapes import HUGE_PAGE_PAGES, AnonymousMapping

_MOST_SHARE = 0.9


class PageFault1Parameters(WorkloadParameters):
    """Parameters of `PageFault1`."""

    operations: int = Field(
        default=2_000_000,
        ge=1,
        le=MOST_OPERATIONS,
        description="wanted allocations and frees of all tasks; each maps and unmaps at least once",
    )
    huge_pages: bool = Field(
        default=False,
        description="whether every fault gets a huge page, as with transparent_hugepage=always",
    )
    mapping_mib: int = Field(
        default=128,
        ge=2,
        le=1 << 20,
        multiple_of=2,
        description="size of a task's mapping; will-it-scale: 128 [MiB]",
    )
    tasks: int | None = Field(
        default=None, ge=1, le=256, description="tasks, one a vCPU; none: one on every vCPU"
    )


class PageFault1(Workload):
    """Every task maps 128 MiB, touches each page and unmaps (will-it-scale page_fault1)."""

    name = "page-fault1"
    Parameters = PageFault1Parameters
    parameters: PageFault1Parameters

    def program(self, setting: WorkloadSetting) -> Program:
        """Lay the tapes out; one round is a map, touch and unmap by every task."""
        parameters = self.parameters
        tasks = parameters.tasks or setting.vcpus
        if tasks > setting.vcpus:
            raise self.refusal(f"tasks={tasks}, but the guest has {setting.vcpus} vCPUs")
        ranges = parameters.mapping_mib * PAGES_PER_MIB // HUGE_PAGE_PAGES
        a_task = ranges * AnonymousMapping.PAGES_A_RANGE
        room = int(setting.memory_pages * _MOST_SHARE)
        if tasks * a_task > room:
            fitting = room // (tasks * AnonymousMapping.PAGES_A_RANGE) * 2
            advice = f"choose mapping_mib={fitting} or less" if fitting else "choose fewer tasks"
            raise self.refusal(
                f"{setting.describe()} is too small for {tasks} mappings of"
                f" {parameters.mapping_mib} MiB: {advice}"
            )
        huge = np.full(ranges, parameters.huge_pages)
        slots = AnonymousMapping(0, huge).slots
        rounds = parameters.rounds(setting, 2 * slots * tasks)
        tapes = tuple(
            self._tape(AnonymousMapping(task * slots, huge), rounds) for task in range(tasks)
        )
        unused = tuple(iter(()) for _ in range(setting.vcpus - tasks))
        return Program(slots * tasks, tapes + unused, 2 * slots * tasks * rounds)

    def _tape(self, mapping: AnonymousMapping, rounds: int) -> Iterator[OperationBlock]:
        for _ in range(rounds):
            yield from mapping.fault_in()
            yield from mapping.unmap()
        yield idle(self.parameters.final_idle_ns)
