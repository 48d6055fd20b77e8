"""What every workload derives from, what it is told about the guest, and what it hands back."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from pydantic import BaseModel, ConfigDict, Field

from hintbench.errors import ParameterError
from hintbench.operations import MAX_SLOTS, OperationBlock
from hintbench.plugins.plugin_class import PluginClass

if TYPE_CHECKING:
    from hintbench.config.guest import GuestConfig
    from hintbench.guest.boot import Machine
    from hintbench.kernel.compaction import CompactionRun
    from hintbench.kernel.kswapd import DrainOfAll, KswapdRun

PAGES_PER_MIB: Final = 256
MOST_OPERATIONS: Final = 100_000_000_000
LONGEST_NS: Final = 3_600_000_000_000
# A PC's layout: the DMA zone ends at 16 MiB (without its first MiB), DMA32 at 3 GiB.
_PC_ZONES: Final = ("DMA", "DMA32", "Normal")
_PC_ZONE_PAGES: Final = {"DMA": 3840, "DMA32": 0xC0000 - 4096}


@dataclass(frozen=True, slots=True)
class WorkloadSetting:
    """The guest that a workload is to drive, as far as a workload may know it.

    Attributes:
        memory_pages: Pages that all zones manage together.
        vcpus: Number of vCPUs.
        kernel: The kernel preset, "5.0" or "6.12".
        seed: Seed of every random choice.
        zones: Names of the zones, by node and number; a name occurs once a node.
        operations: About how many operations the user wishes, or None for the workload's default.
            Workloads come in rounds that fit the guest's memory, so there may be more.
        zone_pages: Managed pages of each of `zones`; may be empty when those are among a PC's.
    """

    memory_pages: int
    vcpus: int
    kernel: str = "6.12"
    seed: int = 1
    zones: tuple[str, ...] = _PC_ZONES
    operations: int | None = None
    zone_pages: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name, least in (("memory_pages", 1), ("vcpus", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise ParameterError(f"setting: {name} must be at least {least}")
        if self.operations is not None and not 1 <= self.operations <= MOST_OPERATIONS:
            raise ParameterError(f"setting: operations must be in 1..{MOST_OPERATIONS}")
        as_on_a_pc = self.zones == tuple(zone for zone in _PC_ZONES if zone in self.zones)
        if not (as_on_a_pc and not self.zone_pages) and len(self.zone_pages) != len(self.zones):
            raise ParameterError("setting: zone_pages must give the pages of each of zones")

    @classmethod
    def of(cls, config: "GuestConfig", seed: int) -> "WorkloadSetting":
        """What a workload may know of a guest.

        Args:
            config: The guest.
            seed: Seed of every random choice.
        """
        layout = config.layout()
        return cls(
            memory_pages=config.memory_pages,
            vcpus=config.vcpus,
            kernel=config.kernel,
            seed=seed,
            zones=tuple(zone.name for zone in layout),
            zone_pages=tuple(zone.managed for zone in layout),
        )

    def pages_of(self, zone: str) -> int:
        """Managed pages of all zones of one name.

        Args:
            zone: The name, such as "Normal".

        Returns:
            Pages; 0 when the guest has no such zone.
        """
        if self.zone_pages:
            named = zip(self.zones, self.zone_pages, strict=True)
            return sum(pages for name, pages in named if name == zone)
        if zone not in self.zones:
            return 0
        left = self.memory_pages
        for name, pages in _PC_ZONE_PAGES.items():
            pages = min(pages, left) if name in self.zones else 0
            if name == zone:
                return pages
            left -= pages
        return left

    def describe(self) -> str:
        """Name the guest in a message."""
        cpus = "1 vCPU" if self.vcpus == 1 else f"{self.vcpus} vCPUs"
        return f"a guest of {self.memory_pages // PAGES_PER_MIB} MiB with {cpus}"


class InitialState(Protocol):
    """The state of a guest that a replay begins in, instead of a fresh boot."""

    @property
    def vmstat_ticks_ns(self) -> dict[int, list[int]] | None:
        """By CPU, when the recorded kernel's vmstat ran [virtual ns]; None: once a second."""

    @property
    def timer_phase_ns(self) -> int:
        """A time at which the recorded kernel's timer wheel stood at its beginning [virtual ns]."""

    @property
    def kswapd_runs(self) -> "Sequence[KswapdRun]":
        """When the recorded kernel's kswapd ran, as far as is known [virtual ns]."""

    @property
    def drains_of_all(self) -> "Sequence[DrainOfAll]":
        """When threads of the recorded kernel drained all per-CPU lists [virtual ns]."""

    @property
    def compaction(self) -> "Sequence[CompactionRun]":
        """What the recorded kernel's kcompactd did."""

    def load(self, machine: "Machine") -> None:
        """Put a booted guest whose zones are empty into this state.

        Args:
            machine: The guest.
        """

    def compare(self, machine: "Machine") -> tuple[dict[str, int | float | None], list[str]]:
        """Compare the guest at the end of the run with what was recorded.

        Args:
            machine: The guest.

        Returns:
            Further metrics by name, and lines to print.
        """


@dataclass(frozen=True, slots=True)
class Program:
    """What a workload does to one guest.

    Attributes:
        slots: Slots 0..slots-1 are used.
        tapes: For each vCPU its operations, produced while they are consumed; each is read once.
        operations: Number of allocations, frees and touches on all tapes, for progress.
        initial: The state to begin with, in the replay of a trace; None for a fresh guest.
    """

    slots: int
    tapes: tuple[Iterator[OperationBlock], ...]
    operations: int
    initial: InitialState | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.slots <= MAX_SLOTS:
            raise ParameterError(
                f"a program of {self.slots} slots: at most {MAX_SLOTS} are possible"
            )


class WorkloadParameters(BaseModel):
    """The parameters that the workloads here have in common."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    operations: int = Field(
        default=1_000_000,
        ge=1,
        le=MOST_OPERATIONS,
        description="wanted allocations and frees of all vCPUs; a workload does whole rounds, at"
        " least one",
    )
    final_idle_ns: int = Field(
        default=1_000_000_000,
        ge=0,
        le=LONGEST_NS,
        description="idle time after everything was freed, in which reclaim can be watched"
        " [virtual ns]",
    )

    def rounds(self, setting: WorkloadSetting, operations_a_round: int) -> int:
        """Whole rounds that make at least the wanted operations, at least one.

        Args:
            setting: The guest; its wish goes before the parameter.
            operations_a_round: Operations of all vCPUs in one round.
        """
        wanted = self.operations if setting.operations is None else setting.operations
        return max(1, -(-wanted // operations_a_round))


class Workload(PluginClass, ABC):
    """Drives allocations and frees.

    A subclass gives itself a `name`, says in the first line of its docstring what it is, and
    writes `program`. Its parameters are a pydantic model with the name `Parameters`, every field
    with a range and a description that names the unit. The same parameters and setting must give
    the same tapes on any machine: draw numbers with `hintbench.tapes.Draws`.
    """

    kind = "workload"

    @abstractmethod
    def program(self, setting: WorkloadSetting) -> Program:
        """Lay out the tapes for a guest; they are produced lazily, in blocks of bounded size.

        Args:
            setting: The guest.

        Raises:
            ParameterError: When the guest is too small for the parameters.
        """

    def blocks_a_vcpu(self, setting: WorkloadSetting, share: float, order: int) -> int:
        """How many blocks of one order each vCPU gets, when all together take a share of memory.

        Args:
            setting: The guest.
            share: Share of the guest's memory, 0 to 1.
            order: The order of every block.

        Raises:
            ParameterError: When there is not one block for each vCPU.
        """
        pages = int(setting.memory_pages * share)
        blocks = (pages >> order) // setting.vcpus
        if blocks == 0:
            fitting = (pages // setting.vcpus).bit_length() - 1
            advice = f"choose order={fitting} or lower" if fitting >= 0 else "choose fewer vCPUs"
            raise self.refusal(
                f"{setting.describe()} has no block of order {order} for every vCPU in {pages}"
                f" pages: {advice}, or a larger guest"
            )
        return blocks

    def refusal(self, reason: str) -> ParameterError:
        """The error to raise when the parameters do not fit the guest.

        Args:
            reason: What does not fit and what would be right.
        """
        return ParameterError(f"{self.label}: {reason}")
