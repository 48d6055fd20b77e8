"""build: a wave as a compile makes it, then idleness, `make clean`, and a dropped page cache.

Every vCPU runs compilers, one after the other. Each is a short process: a stack and page tables of
the kernel, anonymous memory that is touched bit by bit while sources are read, and an exit that
frees all of it at once. What it read and wrote stays behind as page cache, a few pages here and
there between the memory of processes that end, and so do the slabs of its inodes (192 KiB, less
where all of them would be more than a twentieth of the memory). When all are done, one linker takes
a larger part of the memory, in huge pages where it gets them. Then the guest idles, the objects are
deleted, it idles again, and at last the page cache is dropped with the slabs, as ``echo 3 >
/proc/sys/vm/drop_caches`` does.

Building a kernel is what Wei Wang measured free page hinting with (2018), and what HyperAlloc and
LLFree show footprints of (EuroSys 2025: compiling with clang, with idle time, clean-up and a cache
drop in between). It shows what a strategy gets out of memory that is free in pieces: of what the
compilers leave, little makes up 2 MiB until the page cache goes.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from pydantic import Field

from hintbench import (
    LONGEST_NS,
    PAGES_PER_MIB,
    Program,
    Workload,
    WorkloadParameters,
    WorkloadSetting,
)
from hintbench.operations import (
    KERNEL_PAGE,
    USER_PAGE,
    Flag,
    Migratetype,
    Operation,
    OperationBlock,
    allocate,
    compute,
    encode,
    free,
    idle,
)
from hintbench.tapes import AnonymousMapping, Draws, free_range, pieces

_BURST = 128  # allocations between two computations
_READ = 16  # of them, page cache
_TABLE_PAGES = 512  # pages that one page table maps
_SLABS = 24  # of a job's inodes and dentries, that stay, of two pages each
_MOST_SLABS_SHARE = 0.05  # of the memory, for those of all jobs: many jobs have fewer each
_OBJECTS_SHARE = 3  # every third page of the cache is an object, and deleted by the clean-up
_MOST_JOBS_SHARE = 0.3  # of the memory, for all compilers that run at once
_LEAST_JOB = 64  # pages

_ANONYMOUS = encode(Operation.ALLOCATE, 0, Migratetype.MOVABLE, USER_PAGE)
_FILE = encode(Operation.ALLOCATE, 0, Migratetype.MOVABLE, Flag.TOUCHED | Flag.MOVABLE_ZONE)
_TABLE = encode(Operation.ALLOCATE, 0, Migratetype.UNMOVABLE, Flag.ZERO)
_STACK = encode(Operation.ALLOCATE, 2, Migratetype.UNMOVABLE, KERNEL_PAGE)
_INODES = encode(
    Operation.ALLOCATE, 1, Migratetype.RECLAIMABLE, Flag.TOUCHED | Flag.COMPOUND | Flag.SLAB
)
_COMPUTE = encode(Operation.COMPUTE)


class BuildParameters(WorkloadParameters):
    """Parameters of `Build`."""

    jobs: int = Field(
        default=8, ge=1, le=10_000, description="compilers that each vCPU runs in a wave"
    )
    job_mib: int = Field(
        default=32,
        ge=1,
        le=1 << 20,
        description="anonymous memory of the largest compiler; the others have half as much and"
        " more; all together never more than 30 % of the guest [MiB]",
    )
    cache_share: float = Field(
        default=0.1,
        ge=0,
        le=0.3,
        description="share of the guest's memory that becomes page cache in a wave; a third of it"
        " are objects",
    )
    link_share: float = Field(
        default=0.15, ge=0, le=0.3, description="share of the guest's memory that the linker takes"
    )
    compute_ns: int = Field(
        default=200_000,
        ge=0,
        le=1_000_000_000,
        description="mean computing time between two bursts of 128 faults; drawn evenly from 0 to"
        " twice that [virtual ns]",
    )
    idle_ns: int = Field(
        default=5_000_000_000,
        ge=0,
        le=LONGEST_NS,
        description="idle time after the link, and again after the clean-up [virtual ns]",
    )
    final_idle_ns: int = Field(
        default=5_000_000_000,
        ge=0,
        le=LONGEST_NS,
        description="idle time after the page cache was dropped, in each wave [virtual ns]",
    )


class Build(Workload):
    """A compile-like wave: short processes, growing page cache, idleness, clean-up, cache drop."""

    name = "build"
    Parameters = BuildParameters
    parameters: BuildParameters

    def program(self, setting: WorkloadSetting) -> Program:
        """Lay the tapes out; a round is a wave of all vCPUs."""
        parameters, cpus = self.parameters, setting.vcpus
        most = min(
            parameters.job_mib * PAGES_PER_MIB,
            int(setting.memory_pages * _MOST_JOBS_SHARE) // cpus,
        )
        if most < _LEAST_JOB:
            raise self.refusal(f"{setting.describe()} has no {_LEAST_JOB} pages for each compiler")
        cache = int(setting.memory_pages * parameters.cache_share) // (parameters.jobs * cpus)
        most_slabs = int(setting.memory_pages * _MOST_SLABS_SHARE) // 2
        slabs = min(_SLABS, most_slabs // (parameters.jobs * cpus))
        builders = [
            _Builder(setting.seed, cpu, parameters, most, cache, slabs) for cpu in range(cpus)
        ]
        first = 0
        for builder in builders:
            builder.first = first
            first += builder.slots
        ranges = int(setting.memory_pages * parameters.link_share) // AnonymousMapping.PAGES_A_RANGE
        # Half of the linker's memory is huge: the page cache lies in between.
        linker = AnonymousMapping(first, np.arange(ranges) % 2 == 0)
        tokens = linker.stop
        wave = _Wave(parameters, builders, linker, tokens)
        a_wave = 2 * (sum(builder.allocations for builder in builders) + linker.slots)
        a_wave += 2 * 2 * (cpus - 1)
        waves = parameters.rounds(setting, a_wave)
        tapes = tuple(wave.tape(cpu, waves) for cpu in range(cpus))
        return Program(tokens + 2 * (cpus - 1), tapes, a_wave * waves)


class _Builder:
    """The compilers of one vCPU: a region of slots that each uses anew, and what they leave."""

    def __init__(
        self,
        seed: int,
        cpu: int,
        parameters: BuildParameters,
        most: int,
        cache: int,
        slabs: int,
    ) -> None:
        """Draw the sizes, the same in every wave."""
        self.first = 0
        self._draws = Draws(seed, cpu)
        self._compute_ns = parameters.compute_ns
        self.sizes = (most - self._draws.below(most // 2 + 1, parameters.jobs)).tolist()
        self._cache = cache
        self._job_slots = 1 + -(-most // _TABLE_PAGES) + most
        self._slabs = slabs
        self._left = self._cache + self._slabs  # of each job
        self.slots = self._job_slots + parameters.jobs * self._left
        self.allocations = sum(
            1 + -(-size // _TABLE_PAGES) + size + self._left for size in self.sizes
        )

    def compile(self) -> Iterator[OperationBlock]:
        """One compiler after the other."""
        for number, size in enumerate(self.sizes):
            tables = -(-size // _TABLE_PAGES)
            codes, slots = self._faults(number, size, tables)
            places = np.arange(_BURST, len(codes), _BURST)
            times = np.zeros(len(codes), dtype=np.int64)
            pauses = self._draws.below(2 * self._compute_ns + 1, len(places))
            yield OperationBlock(
                np.insert(codes, places, _COMPUTE).astype(np.uint32),
                np.insert(slots, places, 0).astype(np.int32),
                np.insert(times, places, pauses),
            )
            yield compute([self._compute_ns])
            # Unmapped in the order of addresses, then the page tables, then the stack.
            pages = self.first + 1 + tables
            yield from free_range(pages, pages + size)
            yield from free_range(self.first + 1, pages)
            yield free([self.first])

    def _faults(
        self, number: int, size: int, tables: int
    ) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.int64]]:
        """What a compiler allocates, in order: each with its slot."""
        left = self.first + self._job_slots + number * self._left
        pages = np.arange(size)
        # When: the stack first, a page table before its first page, files in even portions.
        reads = np.arange(self._cache) // _READ * (size / max(1, -(-self._cache // _READ)))
        when = np.concatenate([[-1.0], np.arange(tables) * _TABLE_PAGES - 0.5, pages, reads - 0.25])
        kinds = ((1, _STACK), (tables, _TABLE), (size, _ANONYMOUS), (self._cache, _FILE))
        codes = np.concatenate([np.full(count, code) for count, code in kinds])
        slots = np.concatenate(
            [self.first + np.arange(1 + tables + size), left + np.arange(self._cache)]
        )
        order = np.argsort(when, kind="stable")
        slabs = left + self._cache + np.arange(self._slabs)
        return (
            np.concatenate([codes[order], np.full(self._slabs, _INODES)]),
            np.concatenate([slots[order], slabs]),
        )

    def kept(self, *, objects: bool) -> npt.NDArray[np.int64]:
        """The slots of all jobs' objects, or of everything else that they leave."""
        jobs = np.arange(len(self.sizes))[:, None] * self._left
        inside = np.arange(self._left)
        is_object = (inside < self._cache) & (inside % _OBJECTS_SHARE == 0)
        return (self.first + self._job_slots + jobs + inside[is_object == objects]).ravel()


class _Wave:
    """What each vCPU does in a wave; the first one does what happens once."""

    def __init__(
        self,
        parameters: BuildParameters,
        builders: list[_Builder],
        linker: AnonymousMapping,
        tokens: int,
    ) -> None:
        """Take the parts; `tokens` is the first of two slots for each vCPU but the first."""
        self._parameters = parameters
        self._builders = builders
        self._linker = linker
        others = np.arange(len(builders) - 1)
        self._compiled, self._dropped = tokens + 2 * others, tokens + 2 * others + 1

    def tape(self, cpu: int, waves: int) -> Iterator[OperationBlock]:
        """All waves of one vCPU."""
        idle_ns = self._parameters.idle_ns
        for _ in range(waves):
            yield from self._builders[cpu].compile()
            if cpu == 0:
                yield from self._link_and_clean()
            else:
                # A free waits until its slot is filled: that is how vCPUs wait for each other.
                yield allocate([self._compiled[cpu - 1]])
                yield idle([2 * idle_ns])
                yield free([self._dropped[cpu - 1]])
            yield idle([self._parameters.final_idle_ns])

    def _link_and_clean(self) -> Iterator[OperationBlock]:
        """The linker, and then first the objects, then everything else."""
        yield from pieces(free, self._compiled)
        yield from self._linker.fault_in()
        yield from self._linker.unmap()
        yield idle([self._parameters.idle_ns])
        for builder in self._builders:
            yield from pieces(free, builder.kept(objects=True))
        yield idle([self._parameters.idle_ns])
        for builder in self._builders:
            yield from pieces(free, builder.kept(objects=False))
        yield from pieces(allocate, self._dropped)
