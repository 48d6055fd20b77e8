"""Make the sample trace that hintbench ships: ``python tests/make_sample_trace.py``.

A guest of 128 MiB and two CPUs does a little of everything: short-lived processes, 16 MiB of small
pages touched and freed, huge pages, a comb of pages that stay, and idleness in which vmstat decays
the per-CPU lists. Its allocator is the second model of ``tests/reference/``, which shares
nothing with hintbench: what the replay is compared with was not computed by the core.

Nothing here is random but by a generator of its own with a fixed seed, so that every Python
writes the same files. Recording begins with per-CPU lists that are empty and have learnt nothing,
since a trace cannot tell what a kernel's lists had learnt before it.
"""

from __future__ import annotations

import gzip
import heapq
import struct
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

from reference.guest import NodeZone, Request
from reference.lists import MOVABLE, RECLAIMABLE, UNMOVABLE
from reference.tracing import Tracer, TracingGuest, TracingPcp, TracingZone
from reference.watermarks import MOVABLE_ZONE, ReferenceWatermarks, ZoneSize, pcp_limits

FOLDER = Path(__file__).resolve().parent.parent / "hintbench" / "data"
NAMES = TRACE, BEFORE, AFTER = (
    "sample-trace.txt.gz",
    "sample-kpageflags-before.u64.gz",
    "sample-kpageflags-after.u64.gz",
)
CPUS = 2
PAGES = 128 << 8
# The first MiB and the kernel's image and tables, at the low end of each zone, are nobody's.
DMA, DMA32 = 0, 1
SPANS = {DMA: (1, 4095), DMA32: (4096, PAGES - 4096)}
MANAGED = {DMA: (256, 3840), DMA32: (8192, PAGES - 8192)}
KPF_BUDDY, KPF_NOPAGE, KPF_RESERVED = 10, 20, 32

SECOND_NS = 1_000_000_000
TICK_NS = 1_024_000_000
"""vmstat runs every second; with HZ=250 the timer wheel makes 1.024 s of it."""
TICKS_AFTER_WAKING = 6
IDLE_NS = 9 * SECOND_NS  # longer than vmstat goes on
BATCH = 31  # PAGEVEC_SIZE

USER = (Request(0, MOVABLE, MOVABLE_ZONE), "GFP_HIGHUSER_MOVABLE|__GFP_COMP|__GFP_ZERO", 700)
CACHE = (Request(0, MOVABLE, MOVABLE_ZONE), "GFP_HIGHUSER_MOVABLE|__GFP_COMP", 900)
TABLE = (Request(0, UNMOVABLE), "GFP_KERNEL_ACCOUNT|__GFP_COMP|__GFP_ZERO", 600)
DIRECTORY = (Request(1, UNMOVABLE), "GFP_KERNEL_ACCOUNT|__GFP_ZERO", 1_000)
SLAB = tuple(
    (Request(order, UNMOVABLE), "GFP_KERNEL|__GFP_NOWARN|__GFP_NORETRY|__GFP_COMP", 500)
    for order in range(3)
)
INODES = (
    Request(2, RECLAIMABLE),
    "GFP_NOFS|__GFP_NOWARN|__GFP_NORETRY|__GFP_COMP|__GFP_RECLAIMABLE",
    800,
)
HUGE = (Request(9, MOVABLE, MOVABLE_ZONE), "GFP_TRANSHUGE|__GFP_NORETRY|__GFP_THISNODE", 150_000)


Kind = tuple[Request, str, int]
"""What is asked for, with which flags, and the time until the next step [ns]."""


class Sample(NamedTuple):
    """What is shipped, unpacked, and the figures of the guest.

    Attributes:
        trace: the text of ftrace.
        before: /proc/kpageflags at the first marker.
        after: the same at the second one.
        watermarks: ``(min, low, high)`` of each zone.
    """

    trace: str
    before: bytes
    after: bytes
    watermarks: list[tuple[int, int, int]]


class Chance:
    """xorshift64: the same numbers in every version of Python."""

    def __init__(self, seed: int) -> None:
        self.state = seed

    def below(self, bound: int) -> int:
        self.state ^= self.state << 13 & (1 << 64) - 1
        self.state ^= self.state >> 7
        self.state ^= self.state << 17 & (1 << 64) - 1
        return (self.state >> 20) % bound


class Machine:
    """The guest, its tasks, and who runs when.

    A task is a generator that yields the nanoseconds until its next step; a step is not
    interrupted, and there is one clock.
    """

    def __init__(self) -> None:
        self.tracer = Tracer(CPUS, 14 * SECOND_NS)
        sizes = [ZoneSize(number, pages) for number, (_, pages) in MANAGED.items()]
        marks = ReferenceWatermarks(sizes, "6.12", huge_pages=True)
        self.watermarks = marks.marks
        zones = []
        for size, mark, reserve in zip(sizes, marks.marks, marks.lowmem_reserve, strict=True):
            start, spanned = SPANS[size.number]
            lists = TracingZone(
                start, [MANAGED[size.number]], "6.12", end_pfn=start + spanned, watermarks=mark
            )
            lists.lowmem_reserve = reserve
            zones.append(NodeZone(size.number, 0, lists))
        self.guest = TracingGuest(zones, self.tracer, CPUS)
        self.queue: list[tuple[int, int, Callable[[], None]]] = []
        self.steps = 0
        self.chain_end_ns = [0] * CPUS
        self.tracer.woken = self._woken
        for zone in zones:
            zone.lists.free_boot_memory()
        self.new_lists()

    def new_lists(self) -> None:
        """setup_zone_pageset(): empty lists that have learnt nothing."""
        self.guest.pcps = [
            [
                # As hintbench's guest: the CPU does not say how large its caches are.
                TracingPcp(
                    zone.lists,
                    *pcp_limits("6.12", zone.lists.managed_pages, zone.lists.watermarks[1], CPUS),
                    free_high_batch=False,
                )
                for zone in self.guest.zones
            ]
            for _ in range(CPUS)
        ]

    # Time.

    def at(self, time_ns: int, step: Callable[[], None]) -> None:
        self.steps += 1
        heapq.heappush(self.queue, (time_ns, self.steps, step))

    def start(self, cpu: int, task: str, body: Iterator[int], wait_ns: int = 0) -> None:
        """Let a task run from ``wait_ns`` on."""

        def step() -> None:
            self.tracer.run(cpu, task)
            wait = next(body, None)
            if wait is not None:
                self.at(self.tracer.now_ns + wait, step)

        self.at(self.tracer.now_ns + wait_ns, step)

    def run(self) -> None:
        """Until every task has ended, and vmstat with it."""
        while self.queue:
            time_ns, _, step = heapq.heappop(self.queue)
            self.tracer.now_ns = max(self.tracer.now_ns, time_ns)
            step()

    def _woken(self, cpu: int) -> None:
        """A CPU leaves its idleness: its chain of vmstat timers begins.

        The timer is deferrable, so that it first runs two seconds later, and the chain ends when
        there is nothing left to decay, taken as six runs.
        """
        assert self.tracer.now_ns >= self.chain_end_ns[cpu], "the last chain must have ended"
        first_ns = self.tracer.now_ns + 2 * TICK_NS
        self.chain_end_ns[cpu] = first_ns + TICKS_AFTER_WAKING * TICK_NS
        for number in range(TICKS_AFTER_WAKING):
            self.at(first_ns + number * TICK_NS, lambda: self.guest.vmstat(cpu))

    # /proc/kpageflags.

    def page_flags(self) -> bytes:
        words = [1 << KPF_NOPAGE] + [1 << KPF_RESERVED] * (PAGES - 1)
        for first, pages in MANAGED.values():
            words[first : first + pages] = [0] * pages
        for zone in self.guest.zones:
            for pfn, block in zone.lists.free.items():
                words[pfn : pfn + (1 << block.order)] = [1 << KPF_BUDDY] * (1 << block.order)
        return struct.pack(f"<{PAGES}Q", *words)


# What the guest does.


def boot(machine: Machine, chance: Chance) -> None:
    """Before recording: slabs and page cache, of which a part is freed again."""
    guest, tracer = machine.guest, machine.tracer
    held = []
    for _ in range(700):
        tracer.run(chance.below(CPUS), "swapper-0")
        kinds = (SLAB[0], SLAB[1], SLAB[2], INODES, TABLE, CACHE, CACHE, CACHE, CACHE, CACHE)
        kind = kinds[chance.below(len(kinds))]
        held += [guest.get(*kind) for _ in range(1 + chance.below(4))]
    for pfn in held:
        if chance.below(4) == 0:
            guest.put(pfn)
    guest.drain_all()
    machine.new_lists()


def processes(machine: Machine, chance: Chance, count: int, first_pid: int) -> Iterator[int]:
    """fork, exec, exit: page tables, kernel objects and a few pages each."""
    guest, tracer = machine.guest, machine.tracer
    for pid in range(first_pid, first_pid + count):
        cpu = tracer.cpu
        objects = [guest.get(*DIRECTORY)]
        objects += [guest.get(*SLAB[chance.below(3)]) for _ in range(1 + chance.below(3))]
        objects += [guest.get(*TABLE) for _ in range(4 + chance.below(3))]
        yield 20_000
        tracer.run(cpu, f"sh-{pid}")
        pages = []
        for _ in range(8 + chance.below(24)):
            pages.append(guest.get(*(USER if chance.below(4) else CACHE)))
            if not chance.below(6):
                yield 1_000 * chance.below(20)
                tracer.run(cpu, f"sh-{pid}")
        yield 100_000 + 1_000 * chance.below(200)
        tracer.run(cpu, f"sh-{pid}")
        for first in range(0, len(pages), BATCH):
            guest.put_batch(pages[first : first + BATCH])
        # The parent collects what is left, perhaps on the other CPU.
        tracer.run(chance.below(CPUS), "init-1")
        for pfn in reversed(objects):
            guest.put(pfn)
        yield 1_000_000 + 1_000 * chance.below(2_000)


def touch(machine: Machine, kind: Kind, blocks: int, held: list[int]) -> Iterator[int]:
    """Page faults from one end of a mapping to the other; a page table for every 2 MiB."""
    for number in range(blocks):
        if kind is USER and number % 512 == 0:
            machine.guest.get(*TABLE)
        held.append(machine.guest.get(*kind))
        if number % 64 == 63:
            yield 2_000


def unmap(machine: Machine, pfns: list[int]) -> Iterator[int]:
    """munmap(): a batch at a time."""
    for first in range(0, len(pfns), BATCH):
        machine.guest.put_batch(pfns[first : first + BATCH])
        yield 1_000


def workload(machine: Machine, chance: Chance) -> Iterator[int]:
    """The main task, on CPU 0 between the two dumps; it starts the others."""
    tracer = machine.tracer
    tracer.mark("scn-start small mb=16")
    machine.start(1, "init-1", processes(machine, chance, 8, 300), 1_000_000)
    small: list[int] = []
    yield from touch(machine, USER, 4096, small)
    yield SECOND_NS // 2
    tracer.mark("free-begin small")
    machine.start(1, "init-1", processes(machine, chance, 6, 400))
    yield from unmap(machine, small)
    tracer.mark("free-end small")
    yield IDLE_NS
    tracer.mark("scn-start huge mb=12")
    huge: list[int] = []
    yield from touch(machine, HUGE, 6, huge)
    yield SECOND_NS // 2
    yield from unmap(machine, huge)
    tracer.mark("free-end huge")
    yield from processes(machine, chance, 8, 500)
    tracer.mark("scn-start inodes")
    inodes: list[int] = []
    yield from touch(machine, INODES, 200, inodes)
    for pfn in inodes[::2]:
        machine.guest.put(pfn)
    yield IDLE_NS
    tracer.mark("scn-start comb mb=4 keep_every=64")
    comb: list[int] = []
    yield from touch(machine, USER, 1024, comb)
    yield from unmap(machine, [pfn for number, pfn in enumerate(comb) if number % 64])
    tracer.mark("free-end comb")
    yield IDLE_NS
    # A replay goes on until the last allocation or free: idleness behind it would be lost.
    yield from processes(machine, chance, 1, 600)


def record(machine: Machine, chance: Chance, dumps: list[bytes]) -> Iterator[int]:
    """The shell that records, around the workload."""
    for number in range(2):
        machine.tracer.on = True
        dumps.append(machine.page_flags())
        machine.tracer.mark(f"kpageflags-dumped /tmp/kpf{number} off=0 bytes={8 * PAGES}")
        if number == 0:
            yield from workload(machine, chance)
    machine.tracer.on = False


@cache
def sample() -> Sample:
    """Run the guest."""
    machine, chance, dumps = Machine(), Chance(0x9E3779B97F4A7C15), []
    boot(machine, chance)
    machine.start(0, "work-200", record(machine, chance, dumps))
    machine.run()
    for zone in machine.guest.zones:
        zone.lists.validate()
    before, after = dumps
    return Sample(machine.tracer.text(), before, after, machine.watermarks)


def files() -> dict[str, bytes]:
    """The files' contents by name, unpacked."""
    made = sample()
    return {TRACE: made.trace.encode(), BEFORE: made.before, AFTER: made.after}


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for name, content in files().items():
        packed = gzip.compress(content, compresslevel=9, mtime=0)
        (FOLDER / name).write_bytes(packed)
        sys.stdout.write(f"{name}: {len(content)} bytes, packed {len(packed)}\n")


if __name__ == "__main__":
    main()
