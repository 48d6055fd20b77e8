"""A guest whose operations are made one at a time, beside the reference that makes the same.

The core is driven as a run drives it: operations come from tapes, a vCPU steps until its operation
is over, and waiting code runs in the scheduler.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from hintbench import operations
from hintbench.config.guest import GuestConfig
from hintbench.config.layout import ZoneConfig
from hintbench.core import BUILD
from hintbench.core.constants import NEVER
from hintbench.core.hooks import Block
from hintbench.core.machine import step_vcpu
from hintbench.guest.boot import Machine
from hintbench.operations import Flag, OperationBlock
from hintbench.runner import Run
from hintbench.strategy import Strategy
from hintbench.workload import Program, Workload, WorkloadSetting
from reference.allocator import ReferenceZone
from reference.guest import NodeZone, ReferenceGuest, Request
from reference.lists import HIGHATOMIC, PAGEBLOCK_ORDER
from reference.pcp import ReferencePcp
from reference.watermarks import pcp_limits

from .comparison import compare_pcp, compare_zone

SLOTS = 1 << 13
MOST_STEPS = 100_000
ZONE_NAMES = ("DMA", "DMA32", "Normal", "Movable")
NO_FLAGS = Flag(0)


def scaled(count: int, slower: int = 2) -> int:
    """So many repetitions; fewer where the core runs interpreted, which is so much slower."""
    return max(1, count // slower) if BUILD == "interpreted" else count


class Feed:
    """A tape that is written while it is read."""

    def __init__(self) -> None:
        self.blocks: deque[OperationBlock] = deque()

    def __iter__(self) -> Iterator[OperationBlock]:
        return self

    def __next__(self) -> OperationBlock:
        if not self.blocks:
            raise StopIteration
        return self.blocks.popleft()


class Fed(Workload):
    """Tapes that are written while they are read."""

    name = "fed"

    def __init__(self) -> None:
        super().__init__()
        self.feeds: list[Feed] = []
        self.initial: object | None = None

    def program(self, setting: WorkloadSetting) -> Program:
        self.feeds += [Feed() for _ in range(setting.vcpus)]
        return Program(SLOTS, tuple(self.feeds), 0, self.initial)


class Nothing(Strategy):
    """Reports nothing."""

    name = "nothing"


def pieces(pfn: int, end_pfn: int) -> Iterator[tuple[int, int]]:
    """A range of pages in aligned blocks, (pfn, order), none larger than a pageblock."""
    while pfn < end_pfn:
        order = PAGEBLOCK_ORDER
        while pfn % (1 << order) or pfn + (1 << order) > end_pfn:
            order -= 1
        yield pfn, order
        pfn += 1 << order


def zone_config(
    name: str,
    start_pfn: int,
    pages: int,
    *,
    managed: int | None = None,
    node: int = 0,
    marks: tuple[int, int, int] | None = None,
) -> ZoneConfig:
    """A zone; ``marks`` are its watermarks min, low and high, by default the kernel's."""
    values: dict[str, Any] = {
        "name": name,
        "start_pfn": start_pfn,
        "spanned_pages": pages,
        "managed_pages": managed,
        "node": node,
    }
    if marks is not None:
        values |= dict(
            zip(("watermark_min", "watermark_low", "watermark_high"), marks, strict=True)
        )
    return ZoneConfig.model_validate(values)


@dataclass(frozen=True)
class Setup:
    """A guest for :class:`Bench`.

    Attributes:
        zones: its zones.
        kernel: the preset.
        vcpus: how many.
        types: pageblocks that are not MOVABLE, by number (pfn >> 9).
        pcp: (batch, high_min, high_max) of every per-CPU list; None: the kernel's.
        free_high_batch: PCPF_FREE_HIGH_BATCH.
    """

    zones: tuple[ZoneConfig, ...]
    kernel: str = "6.12"
    vcpus: int = 1
    types: Mapping[int, int] = field(default_factory=dict)
    pcp: tuple[int, int, int] | None = None
    free_high_batch: bool = False


class Bench:
    """A booted guest, and a reference in the same state.

    Args:
        setup: the guest.
        seed: enters the digest.
        guest: further fields of its ``GuestConfig``.

    Attributes:
        machine: the core's.
        model: the reference's.
        slots: what is allocated: the pfn by slot.
    """

    def __init__(self, setup: Setup, seed: int = 1, **guest: Any) -> None:
        self.setup = setup
        self.timer_phase_ns = 0
        self.config = GuestConfig(
            zones=setup.zones, kernel=setup.kernel, vcpus=setup.vcpus, **guest
        )
        fed = Fed()
        self.feeds = fed.feeds
        if setup.types:
            fed.initial = self
        run = Run(Nothing(), fed, self.config, seed)
        self.machine, self.guest, self.threads = run.machine, run.guest, run.threads
        self.scheduler = run.scheduler
        self.simulation = self.machine.simulation
        # kswapd comes when a test says so.
        self.scheduler.on_kswapd = lambda cpu, node: False
        self.zones = self.machine.zones
        self.model = self._reference()
        self._free_memory()
        self.slots: dict[int, int] = {}
        self.free_slots = list(range(SLOTS))
        self.isolated: list[Block] = []
        self.failures = 0
        self.simulation.begin_vcpus(0)

    def _reference(self) -> ReferenceGuest:
        zones = []
        for config in sorted(self.config.layout(), key=lambda zone: zone.start_pfn):
            marks = (config.watermark_min, config.watermark_low, config.watermark_high)
            lists = ReferenceZone(
                config.start_pfn,
                [(config.end_pfn - config.managed, config.managed)],
                self.setup.kernel,
                {number << PAGEBLOCK_ORDER: kind for number, kind in self.setup.types.items()},
                watermarks=tuple(mark or 0 for mark in marks),
            )
            lists.lowmem_reserve = list(self.zones[len(zones)].lowmem_reserve)
            zones.append(NodeZone(ZONE_NAMES.index(config.name), config.node, lists))
        nodes = [vcpu.node for vcpu in self.simulation.vcpus]
        pcps = [
            [self._reference_pcp(cpu, zone, nodes) for zone in zones]
            for cpu in range(self.setup.vcpus)
        ]
        return ReferenceGuest(self.setup.kernel, zones, pcps, nodes)

    def _reference_pcp(self, cpu: int, zone: NodeZone, nodes: list[int]) -> ReferencePcp:
        lists = zone.lists
        local = nodes.count(zone.node) or len(nodes)
        batch, least, most = self.setup.pcp or pcp_limits(
            self.setup.kernel, lists.managed_pages, lists.watermarks[1], local
        )
        pcp = ReferencePcp(lists, batch, least, most, self.setup.free_high_batch)
        pcp.high = least
        index = next(i for i, each in enumerate(self.zones) if each.start_pfn == lists.start_pfn)
        mine = self.simulation.vcpus[cpu].pcps[index]
        mine.free_high_batch = self.setup.free_high_batch
        if self.setup.pcp:
            mine.configure(batch, least, most)
        assert (mine.batch, mine.high_min, mine.high_max) == (batch, least, most)
        return pcp

    def load(self, machine: Machine) -> None:
        """Free all memory of a guest to lists of the types that were asked for."""
        types = machine.pages.pageblock_type
        for number, kind in self.setup.types.items():
            if number < len(types):
                types[number] = kind
        for zone in machine.zones:
            for pfn, order in pieces(zone.end_pfn - zone.managed_pages, zone.end_pfn):
                zone.add_free_block(pfn, order)
            if self.setup.kernel == "5.0":
                last = zone.end_pfn - 1 >> PAGEBLOCK_ORDER
                own = types[zone.start_pfn >> PAGEBLOCK_ORDER : last + 1]
                zone.reserved_highatomic = zone.free_highatomic = 512 * list(own).count(HIGHATOMIC)
        # Every page was loaded, as by a boot.
        machine.empty = False

    def _free_memory(self) -> None:
        """The reference's memory becomes free as the core's did."""
        for zone in self.model.zones:
            lists = zone.lists
            if not self.setup.types:
                lists.free_boot_memory()
                continue
            for pfn, order in pieces(lists.end_pfn - lists.managed_pages, lists.end_pfn):
                lists.free_one_page(pfn, order, to_tail=self.setup.kernel == "6.12")

    # -- operations -----------------------------------------------------------------------------

    def run(self, cpu: int, block: OperationBlock) -> int:
        """Let a vCPU make one operation, however many steps and events that takes."""
        self.feeds[cpu].blocks.append(block)
        simulation, vcpu = self.simulation, self.simulation.vcpus[cpu]
        for steps in range(1, MOST_STEPS):
            if simulation.clock_of(cpu) >= NEVER:
                assert simulation.events, f"{vcpu.hook or 'the tape'} waits for ever"
                simulation.run_event()
            else:
                step_vcpu(simulation, cpu)
            over = vcpu.phase == 0 and vcpu.position == vcpu.length
            if over and not self.feeds[cpu].blocks and simulation.clock_of(cpu) < NEVER:
                return steps
        raise AssertionError(f"the operation does not end, phase {vcpu.phase}")

    def allocate(self, cpu: int, request: Request, flags: Flag = NO_FLAGS) -> int | None:
        """Both allocate; the pfn, which must be the same, or None."""
        slot = self.free_slots.pop()
        block = operations.allocate(
            slot,
            order=request.order,
            migratetype=request.migratetype,
            flags=flags | _flags(request),
        )
        self.run(cpu, block)
        expected = self.model.allocate(cpu, request)
        got = int(self.simulation.slot_pfns()[slot])
        if expected is None:
            assert got == -2, f"the core found pfn {got:#x}, the reference nothing"
            self.run(cpu, operations.free(slot))
            self.free_slots.append(slot)
            self.failures += 1
            return None
        assert got == expected, f"the core found pfn {got:#x}, the reference {expected:#x}"
        self.slots[slot] = got
        return got

    def free(self, cpu: int, slot: int) -> None:
        """Both free what a slot holds."""
        self.run(cpu, operations.free(slot))
        self.model.free(cpu, self.slots.pop(slot))
        self.free_slots.append(slot)

    def isolate(self, index: int, pfn: int) -> Block | None:
        """Both isolate the free block at ``pfn`` of a zone, or both refuse."""
        zone = self.zones[index]
        with zone.lock:
            block = zone.isolate(pfn)
        expected = self.model.zones[index].lists.isolate(pfn)
        assert (block.order if block else None) == expected
        if block is not None:
            self.isolated.append(block)
        return block

    def put_back(self, which: int, tail: bool) -> None:
        """Both give an isolated block back."""
        block = self.isolated.pop(which)
        zone = block.zone
        with zone.lock:
            merged = zone.put_back(block, tail=tail)
        lists = self.model.zones[zone.index].lists
        assert lists.put_back(block.pfn, block.order, to_tail=tail)[1] == merged

    def rotate(self, index: int, pfn: int) -> None:
        """Both rotate a list so that the free block at ``pfn`` is its first."""
        zone = self.zones[index]
        with zone.lock:
            zone.rotate_to_front(Block(pfn, zone.free_order(pfn), zone))
        self.model.zones[index].lists.rotate_to_front(pfn)

    def settle(self) -> None:
        """Run every event there is."""
        for _ in range(MOST_STEPS):
            if not self.simulation.events:
                return
            self.simulation.run_event()
        raise AssertionError("events without end")

    def decay(self, cpu: int) -> None:
        """vmstat comes to a CPU."""
        self.threads.start({cpu: [max(self.simulation.clock.now, self.simulation.clock_of(cpu))]})
        self.settle()
        self.model.decay(cpu)

    def wake_kswapd(self) -> None:
        """kswapd begins to look round."""
        for zone, other in zip(self.zones, self.model.zones, strict=True):
            zone.reclaim_active = other.lists.reclaim_active = True

    def kswapd(self) -> None:
        """kswapd wakes, unless it is awake, looks round, and sleeps again."""
        self.threads.wake_kswapd(0)
        self.settle()
        self.model.kswapd()

    # -- the comparison -------------------------------------------------------------------------

    def compare(self) -> None:
        """Everything that both know must be the same."""
        for index, expected in enumerate(self.model.zones):
            compare_zone(self.zones[index], expected.lists)
        for vcpu, row in zip(self.simulation.vcpus, self.model.pcps, strict=True):
            for pcp, other in zip(vcpu.pcps, row, strict=True):
                compare_pcp(pcp, other)


def _flags(request: Request) -> Flag:
    zone_flags = (Flag.DMA, Flag.DMA32, Flag(0), Flag.MOVABLE_ZONE)
    flags = zone_flags[request.highest_zone]
    if request.atomic:
        flags |= Flag.ATOMIC
    elif not request.may_block:
        flags |= Flag.NORETRY
    return flags
