"""memhog: a process fills most of the memory, holds it, frees all of it; then the guest idles.

memhog of numactl (memhog.c: map, memset from the lowest address to the highest, exit), a test of
the hinting series of 2019: guests that run it in turn fit on a host that could not hold them
together (Nitesh Narayan Lal, v9, March 2019: 45 s or 60 s without hinting, 40 s to 50 s with it;
Alexander Duyck, 32 GB in a guest of 32 GB: 20 s without, over 50 s with v9).

It shows what hinting is for. Some GiB become free at once, on one vCPU, and nobody needs them for
seconds: how fast does the host get them, how much is left behind, and what does the next pass
pay for having them back? Most of the memory comes as huge pages, the rest in single pages, as on
a distribution's kernel with transparent_hugepage=always and some fragmentation.

With `share` 0.85 one vCPU of v9, which takes up to 256 blocks of 4 MiB out of use, still leaves
enough of the default guest. More processes, or no idle time, bring the false OOM: one process fills
while the blocks of another that ended are out of use.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from pydantic import Field

from hintbench import LONGEST_NS, Program, Workload, WorkloadParameters, WorkloadSetting
from hintbench.operations import OperationBlock, idle
from hintbench.tapes import AnonymousMapping, Draws


class MemhogParameters(WorkloadParameters):
    """Parameters of `Memhog`."""

    share: float = Field(
        default=0.85,
        gt=0,
        le=0.98,
        description="share of the guest's memory that all processes fill together",
    )
    passes: int | None = Field(
        default=None,
        ge=1,
        le=1_000_000,
        description="how often each process runs; none: at least twice, because the first pass of a"
        " fresh guest meets no refaults, and as often as `operations` needs",
    )
    processes: int = Field(
        default=1, ge=1, le=256, description="processes that run at once, each on a vCPU of its own"
    )
    huge_pages: bool = Field(
        default=True, description="whether the processes get huge pages at all"
    )
    huge_share: float = Field(
        default=0.75,
        ge=0,
        le=1,
        description="with huge_pages: share of the 2 MiB ranges that are one huge page; the others"
        " are 512 single pages",
    )
    hold_ns: int = Field(
        default=200_000_000,
        ge=0,
        le=LONGEST_NS,
        description="how long a process sleeps with its memory filled [virtual ns]",
    )
    idle_ns: int = Field(
        default=3_000_000_000,
        ge=0,
        le=LONGEST_NS,
        description="idle time after a process, before the next pass [virtual ns]",
    )
    final_idle_ns: int = Field(
        default=3_000_000_000,
        ge=0,
        le=LONGEST_NS,
        description="idle time after the last pass [virtual ns]",
    )


class Memhog(Workload):
    """A process fills most of the memory, holds it, frees it; the guest idles (numactl memhog)."""

    name = "memhog"
    Parameters = MemhogParameters
    parameters: MemhogParameters

    def program(self, setting: WorkloadSetting) -> Program:
        """Lay the tapes out; one round is a pass of every process."""
        parameters = self.parameters
        processes = parameters.processes
        if processes > setting.vcpus:
            raise self.refusal(f"processes={processes}, but the guest has {setting.vcpus} vCPUs")
        pages = int(setting.memory_pages * parameters.share)
        ranges = pages // processes // AnonymousMapping.PAGES_A_RANGE
        if ranges == 0:
            raise self.refusal(
                f"{setting.describe()} has less than 2 MiB for each of {processes} processes in"
                f" {pages} pages: raise share, or choose fewer processes or a larger guest"
            )
        mappings = []
        first = 0
        for process in range(processes):
            mapping = AnonymousMapping(first, self._huge(setting.seed, process, ranges))
            mappings.append(mapping)
            first = mapping.stop
        rounds = parameters.passes or max(2, parameters.rounds(setting, 2 * first))
        tapes = tuple(self._tape(mapping, rounds) for mapping in mappings)
        unused = tuple(iter(()) for _ in range(setting.vcpus - processes))
        return Program(first, tapes + unused, 2 * first * rounds)

    def _huge(self, seed: int, process: int, ranges: int) -> npt.NDArray[np.bool_]:
        """Choose the ranges that are huge pages."""
        parameters = self.parameters
        threshold = int(parameters.huge_share * (1 << 32)) if parameters.huge_pages else 0
        return Draws(seed, process).below(1 << 32, ranges) < threshold

    def _tape(self, mapping: AnonymousMapping, rounds: int) -> Iterator[OperationBlock]:
        parameters = self.parameters
        for number in range(rounds):
            if number:
                yield idle(parameters.idle_ns)
            yield from mapping.fault_in()
            yield idle(parameters.hold_ns)
            yield from mapping.unmap()
        yield idle(parameters.final_idle_ns)
