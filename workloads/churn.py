"""churn: a steady population of blocks of many orders, with births, deaths and idle times.

The way Google's fleetbench drives an allocator (fleetbench/tcmalloc/empirical.cc): every class of
block has a rate and a mean number of live blocks, and by Little's law its mean lifetime is the one
over the other. A death picks any live block, so lifetimes are geometric. Blocks die and are born in
bursts of neighbours, as pages of one process do; huge pages one at a time. Some memory is allocated
in interrupts of one vCPU and freed by another, as received packets are. Between bursts the vCPU
computes for a moment. Now and then part of the population goes away, the guest idles, and it comes
back: then the strategies that work in the background get their chance, and what they gave away is
asked for again.

It shows the everyday guest: half full, its free memory scattered over all orders. Which share of
it can be reported at all, and what does a strategy cost when there is little to be had?
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from hintbench import LONGEST_NS, Program, Workload, WorkloadParameters, WorkloadSetting
from hintbench.operations import (
    HUGE_PAGE,
    KERNEL_PAGE,
    SLAB_PAGE,
    USER_PAGE,
    Flag,
    Migratetype,
    Operation,
    OperationBlock,
    concatenate,
    encode,
    free,
    idle,
)
from hintbench.tapes import HUGE_PAGE_ORDER, Draws, allocate_coded, free_range, spans

_KINDS = {
    "user": (Migratetype.MOVABLE, USER_PAGE | Flag.COMPOUND),
    "huge": (Migratetype.MOVABLE, HUGE_PAGE),
    "kernel": (Migratetype.UNMOVABLE, KERNEL_PAGE),
    "slab": (Migratetype.UNMOVABLE, SLAB_PAGE),
    "reclaimable": (Migratetype.RECLAIMABLE, SLAB_PAGE),
}
_BURSTS = np.array([1, 2, 4, 8, 16, 32, 64])
_PACKETS_A_BURST = 16
# Packets live for about one epoch, and their slots serve every other one. Burst number j of epoch e
# first frees the partner's packets j of epoch e-1. The partner allocated those right after it had
# freed this vCPU's packets j of epoch e-2; so their slots are empty when the burst goes on to
# allocate there, however far one vCPU is ahead of the other.
_GENERATIONS = 2
_FILL_STEPS = 64
_MOST_SHARE = 0.95


class OrderClass(BaseModel):
    """Blocks of one order and kind."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    order: int = Field(ge=0, le=10, description="order of the blocks")
    weight: int = Field(
        ge=1, le=1_000_000, description="how many are replaced, relative to the other classes"
    )
    live_share: float = Field(
        gt=0, le=0.95, description="share of the guest's memory that live blocks of the class take"
    )
    kind: Literal["user", "huge", "kernel", "slab", "reclaimable"] = Field(
        description="who uses them, which decides migratetype and flags"
    )


def _read_mix(value: Any) -> Any:
    """Read the command line's ``order:weight:live_share:kind/order:weight...``."""
    if not isinstance(value, str):
        return value
    names = tuple(OrderClass.model_fields)
    entries = [entry.split(":") for entry in value.split("/")]
    for entry in entries:
        if len(entry) != len(names):
            raise ValueError(f"{':'.join(entry)!r} is not {':'.join(names)}")
    return [dict(zip(names, entry, strict=True)) for entry in entries]


class ChurnParameters(WorkloadParameters):
    """Parameters of `Churn`; `operations` counts births and deaths, not the fill and emptying."""

    mix: Annotated[tuple[OrderClass, ...], BeforeValidator(_read_mix)] = Field(
        default=(
            OrderClass(order=0, weight=850, live_share=0.20, kind="user"),
            OrderClass(order=2, weight=20, live_share=0.04, kind="user"),
            OrderClass(order=4, weight=10, live_share=0.05, kind="user"),
            OrderClass(order=9, weight=5, live_share=0.20, kind="huge"),
            OrderClass(order=0, weight=60, live_share=0.01, kind="kernel"),
            OrderClass(order=0, weight=20, live_share=0.01, kind="reclaimable"),
            OrderClass(order=1, weight=15, live_share=0.01, kind="slab"),
            OrderClass(order=3, weight=20, live_share=0.03, kind="slab"),
        ),
        min_length=1,
        max_length=64,
        description="the population: order:weight:live_share:kind of each class, separated by"
        " slashes; weights of order 0 and kernel after the shared trace of Linux 6.12",
    )
    remote_percent: int = Field(
        default=10,
        ge=0,
        le=90,
        description="share of the blocks born that are packets: allocated atomically, freed by the"
        " partner vCPU (0 and 1, 2 and 3, ...) [%]",
    )
    compute_ns: int = Field(
        default=10_000,
        ge=0,
        le=1_000_000_000,
        description="mean computing time between two bursts; drawn evenly from 0 to twice that"
        " [virtual ns]",
    )
    idle_phases: int = Field(
        default=4, ge=0, le=10_000, description="how often the guest idles, if the run is so long"
    )
    idle_ns: int = Field(
        default=2_500_000_000,
        ge=0,
        le=LONGEST_NS,
        description="how long each time; page reporting waits 2 s [virtual ns]",
    )
    idle_release_share: float = Field(
        default=0.125,
        ge=0,
        le=1,
        description="share of the live blocks that are freed before the guest idles, and allocated"
        " again after",
    )


@dataclass(frozen=True, slots=True)
class _Population:
    """How the slots of one vCPU are laid out; the same on all of them."""

    counts: npt.NDArray[np.int64]  # live blocks of each class
    firsts: npt.NDArray[np.int64]  # first slot of each class, from the vCPU's own first
    codes: npt.NDArray[np.uint32]  # the code of an allocation of each class
    together: npt.NDArray[np.bool_]  # whether a burst frees all its blocks before it allocates
    weights: tuple[int, ...]
    cycles: int  # an epoch has each of the burst lengths this often
    packet_bursts: int

    @property
    def packets(self) -> int:
        return self.packet_bursts * _PACKETS_A_BURST

    @property
    def live(self) -> int:
        return int(self.counts.sum())

    @property
    def slots(self) -> int:
        return self.live + _GENERATIONS * self.packets

    @property
    def replaced(self) -> int:
        """Blocks that die, and are born, in one epoch."""
        return self.cycles * int(_BURSTS.sum()) + self.packets

    def packet_slot(self, epoch: int) -> int:
        return self.live + epoch % _GENERATIONS * self.packets


class Churn(Workload):
    """A steady mix of orders with random lifetimes, frees by other vCPUs and idle times."""

    name = "churn"
    Parameters = ChurnParameters
    parameters: ChurnParameters

    def program(self, setting: WorkloadSetting) -> Program:
        """Lay the tapes out; one round is an epoch, in which a vCPU replaces many blocks."""
        parameters = self.parameters
        population = self._population(setting)
        cpus = setting.vcpus
        epochs = parameters.rounds(setting, 2 * population.replaced * cpus)
        released = int(self._released(population).sum()) * min(parameters.idle_phases, epochs)
        steady = population.live + population.packets
        operations = 2 * cpus * (steady + population.replaced * epochs + released)
        tapes = tuple(self._tape(setting, cpu, population, epochs) for cpu in range(cpus))
        return Program(population.slots * cpus, tapes, operations)

    def _population(self, setting: WorkloadSetting) -> _Population:
        """Divide the guest's memory among the vCPUs and classes; tiny classes fall away."""
        counts, codes, weights, together, pages = [], [], [], [], 0
        for entry in self.parameters.mix:
            count = (int(setting.memory_pages * entry.live_share) >> entry.order) // setting.vcpus
            if count:
                counts.append(count)
                codes.append(_code(entry.order, *_KINDS[entry.kind]))
                together.append(entry.order < HUGE_PAGE_ORDER and count >= _BURSTS[-1])
                weights.append(entry.weight)
                pages += count << entry.order
        if not counts:
            raise self.refusal(
                f"{setting.describe()} is too small for one live block of any class of the mix:"
                " raise live_share, or choose lower orders, fewer vCPUs or a larger guest"
            )
        cycles = min(max(sum(counts) // 256, 4), 128)
        percent = self.parameters.remote_percent
        packets = cycles * int(_BURSTS.sum()) * percent // (100 - percent)
        bursts = -(-packets // _PACKETS_A_BURST)
        pages += _GENERATIONS * bursts * _PACKETS_A_BURST
        if pages * setting.vcpus > setting.memory_pages * _MOST_SHARE:
            raise self.refusal(
                f"mix and packets take {pages * setting.vcpus} pages of {setting.memory_pages}:"
                " lower live_share or remote_percent, or choose a larger guest"
            )
        firsts = np.cumsum([0, *counts[:-1]])
        return _Population(
            np.array(counts),
            firsts,
            np.array(codes, dtype=np.uint32),
            np.array(together),
            tuple(weights),
            cycles,
            bursts,
        )

    def _released(self, population: _Population) -> npt.NDArray[np.int64]:
        """Blocks of each class that one vCPU frees before it idles."""
        return (population.counts * self.parameters.idle_release_share).astype(np.int64)

    def _tape(
        self, setting: WorkloadSetting, cpu: int, population: _Population, epochs: int
    ) -> Iterator[OperationBlock]:
        parameters = self.parameters
        draws = Draws(setting.seed, cpu)
        first = cpu * population.slots
        partner = cpu ^ 1 if cpu ^ 1 < setting.vcpus else cpu
        theirs = partner * population.slots
        phases = min(parameters.idle_phases, epochs)
        yield from _fill(population, first)
        for epoch in range(epochs):
            yield _epoch(population, first, theirs, epoch, draws, parameters.compute_ns)
            if (epoch + 1) * phases // epochs > epoch * phases // epochs:
                yield from self._idle_phase(population, first, draws)
        packets = theirs + population.packet_slot(epochs)
        yield from free_range(packets, packets + population.packets)
        yield from free_range(first, first + population.live)
        yield idle(parameters.final_idle_ns)

    def _idle_phase(
        self, population: _Population, first: int, draws: Draws
    ) -> Iterator[OperationBlock]:
        """Free a run of neighbours of every class, idle, and allocate them again."""
        runs = []
        starts = draws.below(population.counts, len(population.counts))
        for number, count in enumerate(self._released(population)):
            base, size = first + population.firsts[number], population.counts[number]
            runs += [
                (number, base + (starts[number] + np.arange(a, b)) % size)
                for a, b in spans(0, int(count))
            ]
        for _, slots in runs:
            yield free(slots)
        yield idle(self.parameters.idle_ns)
        for number, slots in runs:
            yield allocate_coded(population.codes[number], slots)


def _fill(population: _Population, first: int) -> Iterator[OperationBlock]:
    """Allocate the population and the first packets, all classes by turns."""
    steps = max(_FILL_STEPS, population.live >> 14)
    edges = population.counts[:, None] * np.arange(steps + 1) // steps
    for step in range(steps):
        parts = [
            allocate_coded(
                code, first + base + np.arange(edges[number, step], edges[number, step + 1])
            )
            for number, (code, base) in enumerate(
                zip(population.codes, population.firsts, strict=True)
            )
        ]
        block = concatenate(parts)
        if len(block):  # a small population has nothing for most steps
            yield block
    packets = first + population.packet_slot(0)
    for start, stop in spans(packets, packets + population.packets):
        yield allocate_coded(_PACKET, np.arange(start, stop))


def _epoch(
    population: _Population, first: int, theirs: int, epoch: int, draws: Draws, compute_ns: int
) -> OperationBlock:
    """Replace many blocks: bursts of random classes and lengths in random order.

    A burst frees a run of slots and allocates them again; a burst of packets frees what the partner
    allocated in its last epoch and allocates others. Each ends with a moment of computing.
    """
    ordinary = population.cycles * len(_BURSTS)
    bursts = ordinary + population.packet_bursts
    packets = len(population.counts)  # as the number of a class
    lengths = np.full(bursts, _PACKETS_A_BURST)
    lengths[:ordinary] = np.tile(_BURSTS, population.cycles)
    classes = np.full(bursts, packets)
    classes[:ordinary] = draws.choose(population.weights, ordinary)
    order = np.argsort(draws.raw(bursts), kind="stable")
    lengths, classes = lengths[order], classes[order]

    # A run is what is freed before anything is allocated: a whole burst, or a single block.
    together = np.append(population.together, True)[classes]
    runs = np.where(together, 1, lengths)
    kind = np.repeat(classes, runs)
    length = np.repeat(np.where(together, lengths, 1), runs)
    room = np.append(population.counts, population.packets)[kind] - length + 1
    start = draws.below(room, len(kind))
    of_packets = kind == packets
    start[of_packets] = np.arange(population.packet_bursts) * _PACKETS_A_BURST
    bases = first + population.firsts
    death = np.append(bases, theirs + population.packet_slot(epoch))[kind] + start
    birth = np.append(bases, first + population.packet_slot(epoch + 1))[kind] + start
    pause = np.zeros_like(length)
    pause[np.cumsum(runs) - 1] = 1

    counts = np.column_stack((length, length, pause)).ravel()
    slots = np.column_stack((death, birth, pause)).ravel() - (np.cumsum(counts) - counts)
    codes = np.full((len(kind), 3), np.uint32(Operation.FREE))
    codes[:, 1] = np.append(population.codes, _PACKET)[kind]
    codes[:, 2] = Operation.COMPUTE
    code = np.repeat(codes.ravel(), counts)
    slot = np.repeat(slots.astype(np.int32), counts) + np.arange(len(code), dtype=np.int32)
    pauses = np.cumsum(2 * lengths + 1) - 1
    slot[pauses] = 0
    time_ns = np.zeros(len(code), dtype=np.int64)
    time_ns[pauses] = draws.below(2 * compute_ns + 1, bursts)
    return OperationBlock(code, slot, time_ns)


def _code(order: int, migratetype: Migratetype, flags: Flag) -> np.uint32:
    """The code of an allocation; a single page is never compound."""
    flags = flags if order else flags & ~Flag.COMPOUND
    return np.uint32(encode(Operation.ALLOCATE, order, migratetype, flags))


_PACKET = _code(0, Migratetype.UNMOVABLE, KERNEL_PAGE | Flag.ATOMIC)
