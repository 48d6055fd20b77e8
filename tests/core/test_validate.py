"""``validate()`` is silent on a healthy guest and names every kind of damage."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy
import pytest

from hintbench import operations
from hintbench.config.guest import GuestConfig
from hintbench.core import BUILD
from hintbench.core.constants import (
    BUDDY,
    IN_USE,
    ISOLATED,
    KIND_MASK,
    ORDER_MASK,
    PCP,
)
from hintbench.core.machine import step_vcpu
from hintbench.guest.validation import validate
from hintbench.plugins.finding import find_strategy, find_workload
from hintbench.runner import Run
from reference.guest import Request
from reference.lists import HIGHATOMIC, MOVABLE, UNMOVABLE

from .driver import Bench, Setup, scaled, zone_config
from .player import Player
from .setups import MIB

Damage = Callable[[Bench], None]


def lived_in(kernel: str = "6.12") -> Bench:
    """A guest with something in every state."""
    zones = (
        zone_config("DMA32", 0, 8 * MIB, marks=(10, 20, 30)),
        zone_config("Normal", 4096, 16 * MIB, marks=(10, 20, 30)),
    )
    types = {number: number % 3 for number in range(16)} | {7: HIGHATOMIC}
    bench = Bench(Setup(zones, kernel, 2, types if kernel == "6.12" else {}))
    player = Player(bench, random.Random(5))
    for _ in range(300):
        player.step()
    for cpu in range(2):
        for _ in range(20):
            bench.allocate(cpu, Request(0, MOVABLE))
    for _ in range(100):
        bench.allocate(0, Request(0, UNMOVABLE))
    for slot in list(bench.slots)[-100:-20:2]:
        bench.free(1, slot)
    if not bench.isolated:
        bench.isolate(1, bench.zones[1].free_blocks(3)[0].pfn)
    return bench


def states(bench: Bench) -> numpy.ndarray:
    return numpy.asarray(bench.machine.pages.state)


def a_head(bench: Bench, kind: int, least_order: int = 0) -> int:
    """The last head of a kind."""
    marks = states(bench)
    found = numpy.flatnonzero((marks & KIND_MASK == kind) & (marks & ORDER_MASK >= least_order))
    return int(found[-1])


def a_listed(bench: Bench, least_order: int = 0) -> int:
    """A free block of the last zone, of a large order or with a neighbour on its list."""
    lists = bench.model.zones[-1].lists.all_lists()
    return next(
        pfns[0]
        for (order, _), pfns in lists.items()
        if order >= least_order and (least_order or len(pfns) > 1)
    )


def break_next(bench: Bench) -> None:
    pages, pfn = bench.machine.pages, a_listed(bench)
    pages.next[pfn] = pages.next[pages.next[pfn]]


def break_prev(bench: Bench) -> None:
    pages, pfn = bench.machine.pages, a_listed(bench)
    pages.prev[pages.next[pfn]] = pages.next[pfn]


def make_a_ring(bench: Bench) -> None:
    """A list that never comes back to its head."""
    pages, pfn = bench.machine.pages, a_listed(bench)
    pages.next[pages.next[pfn]] = pfn


def unlink(bench: Bench) -> None:
    """A free block is on no list."""
    pages, pfn = bench.machine.pages, a_listed(bench)
    before, after = pages.prev[pfn], pages.next[pfn]
    pages.next[before], pages.prev[after] = after, before


def link_what_is_in_use(bench: Bench) -> None:
    """A block in use is put on a free list as well."""
    pages, pfn = bench.machine.pages, a_head(bench, IN_USE)
    head = bench.zones[1].first_list
    first = pages.next[head]
    pages.next[pfn], pages.prev[pfn] = first, head
    pages.prev[first] = pages.next[head] = pfn


def break_pcp_link(bench: Bench) -> None:
    pages, pfn = bench.machine.pages, a_head(bench, PCP)
    pages.prev[pages.next[pfn]] = pfn + 1 if pages.next[pfn] != pfn + 1 else pfn + 2


def unlink_from_pcp(bench: Bench) -> None:
    pages, pfn = bench.machine.pages, a_head(bench, PCP)
    before, after = pages.prev[pfn], pages.next[pfn]
    pages.next[before], pages.prev[after] = after, before


def count_a_free_page(bench: Bench) -> None:
    bench.zones[1].free_pages += 1


def count_a_block(bench: Bench) -> None:
    bench.zones[1].nr_free[4] += 1


def count_a_reserved_page(bench: Bench) -> None:
    bench.zones[0].free_highatomic -= 1


def count_a_pcp_page(bench: Bench) -> None:
    pcp = next(pcp for pcp in bench.simulation.vcpus[0].pcps if pcp.count)
    pcp.count += 1


def swap_pcp_counts(bench: Bench) -> None:
    one, other = (vcpu.pcps[1] for vcpu in bench.simulation.vcpus)
    assert one.count != other.count
    one.count, other.count = other.count, one.count


def free_head_says_in_use(bench: Bench) -> None:
    states(bench)[a_listed(bench)] ^= BUDDY ^ IN_USE


def free_head_has_another_order(bench: Bench) -> None:
    states(bench)[a_listed(bench, 2)] -= 1


def pcp_head_has_another_order(bench: Bench) -> None:
    states(bench)[a_head(bench, PCP)] ^= 1


def pcp_head_says_free(bench: Bench) -> None:
    states(bench)[a_head(bench, PCP)] ^= PCP ^ BUDDY


def isolated_head_says_in_use(bench: Bench) -> None:
    states(bench)[a_head(bench, ISOLATED)] ^= ISOLATED ^ IN_USE


def in_use_says_isolated(bench: Bench) -> None:
    states(bench)[a_head(bench, IN_USE)] ^= ISOLATED ^ IN_USE


def lose_a_page(bench: Bench) -> None:
    """A page in use is forgotten: its head says nothing any more."""
    states(bench)[a_head(bench, IN_USE)] = 0


def two_halves_are_not_merged(bench: Bench) -> None:
    """A free block falls apart into buddies, everything else is as it should be."""
    zone, pages = bench.zones[1], bench.machine.pages
    (order, kind), pfns = next(
        (key, pfns)
        for key, pfns in bench.model.zones[1].lists.all_lists().items()
        if 0 < key[0] < 9
    )
    pfn = pfns[0]
    before, after = pages.prev[pfn], pages.next[pfn]
    pages.next[before], pages.prev[after] = after, before
    zone.nr_free[order] -= 1
    for half in (pfn, pfn + (1 << order - 1)):
        head = zone.first_list + 4 * (order - 1) + kind
        first = pages.next[head]
        pages.next[half], pages.prev[half] = first, head
        pages.prev[first] = pages.next[head] = half
        states(bench)[half] = BUDDY | order - 1
        zone.nr_free[order - 1] += 1


def blocks_overlap(bench: Bench) -> None:
    """Another block begins inside a free one, and a page elsewhere is missing for it."""
    states(bench)[a_head(bench, IN_USE)] = 0
    states(bench)[a_listed(bench, 2) + 1] = IN_USE


def a_block_is_not_aligned(bench: Bench) -> None:
    """Two pages in use become one block at an odd page."""
    marks = states(bench)
    single = marks == IN_USE
    pfns = numpy.flatnonzero(single[:-1] & single[1:])
    pfn = int(pfns[pfns % 2 == 1][0])
    marks[pfn], marks[pfn + 1] = IN_USE | 1, 0


def a_zone_has_a_page_of_another(bench: Bench) -> None:
    """A free block of one zone on the list of the other; both count right."""
    pages = bench.machine.pages
    low, high = bench.zones
    lists = bench.model.zones[1].lists.all_lists()
    (order, kind), pfns = next((key, pfns) for key, pfns in lists.items() if key[1] != HIGHATOMIC)
    pfn = pfns[0]
    before, after = pages.prev[pfn], pages.next[pfn]
    pages.next[before], pages.prev[after] = after, before
    head = low.first_list + 4 * order + kind
    first = pages.next[head]
    pages.next[pfn], pages.prev[pfn] = first, head
    pages.prev[first] = pages.next[head] = pfn
    for zone, sign in ((low, 1), (high, -1)):
        zone.nr_free[order] += sign
        zone.free_pages += sign << order


DAMAGE: dict[Damage, str] = {
    break_next: "does not link back",
    break_prev: "does not link back",
    make_a_ring: "does not link back",
    unlink: "are on lists",
    link_what_is_in_use: "on list 0 has 0x3",
    break_pcp_link: "pcp of CPU",
    unlink_from_pcp: "are marked per-CPU",
    count_a_free_page: "free pages",
    count_a_block: "order 4 counts",
    count_a_reserved_page: "HIGHATOMIC",
    count_a_pcp_page: "pcp of CPU 0",
    swap_pcp_counts: "counts",
    free_head_says_in_use: "has 0x3",
    free_head_has_another_order: "on list",
    pcp_head_has_another_order: "pcp of CPU",
    pcp_head_says_free: "are marked free",
    isolated_head_says_in_use: "isolated pages",
    in_use_says_isolated: "isolated pages",
    lose_a_page: "its blocks have",
    two_halves_are_not_merged: "are both free",
    blocks_overlap: "lies inside the block",
    a_block_is_not_aligned: "is not aligned",
    a_zone_has_a_page_of_another: "is of another zone",
}


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage.__name__)
def test_damage_is_found(damage: Damage) -> None:
    bench = lived_in()
    assert validate(bench.machine) == []
    damage(bench)
    faults = validate(bench.machine)
    assert any(DAMAGE[damage] in fault for fault in faults), faults


@pytest.mark.parametrize("kernel", ["5.0", "6.12"])
def test_a_lived_in_guest_is_healthy_at_every_step(kernel: str) -> None:
    bench = lived_in(kernel)
    kinds = set((states(bench) & KIND_MASK).tolist())
    assert {BUDDY, IN_USE, ISOLATED} <= kinds
    assert kernel == "5.0" or PCP in kinds
    player = Player(bench, random.Random(6))
    for _ in range(scaled(200)):
        player.step()
        assert validate(bench.machine) == []


def test_a_block_in_transit_is_not_lost() -> None:
    """Between two steps of an allocation its block is in the CPU's hands."""
    bench = lived_in()
    vcpu = bench.simulation.vcpus[0]
    bench.feeds[0].blocks.append(operations.allocate(bench.free_slots.pop(), order=5))
    phases = set()
    while not phases or vcpu.phase != 0:
        step_vcpu(bench.simulation, 0)
        phases.add(vcpu.phase)
        assert validate(bench.machine) == []
    assert len(phases) > 2


def test_what_a_recording_leaves_out_is_no_fault() -> None:
    bench = lived_in()
    lose_a_page(bench)
    bench.machine.empty = True
    assert validate(bench.machine) == []


WORKLOADS: dict[str, dict[str, object]] = {
    "churn": {"compute_ns": 1000},
    "rand": {},
    "slab": {},
    "zones": {},
    "memhog": {},
    "page-fault1": {"mapping_mib": 8},
}


STRATEGIES = [
    (strategy, kernel)
    for kernel in ("5.0", "6.12")
    for strategy in ("none", "percpu-array-v9", "zone-confined-batching")
]
if BUILD == "interpreted":
    # What is wrong with one build alone lies in the types of single statements: every workload
    # on every kernel, once, goes through them.
    STRATEGIES = [("percpu-array-v9", "5.0"), ("zone-confined-batching", "6.12")]


@pytest.mark.parametrize("workload", WORKLOADS)
@pytest.mark.parametrize(("strategy", "kernel"), STRATEGIES)
def test_a_run_ends_in_a_healthy_guest(strategy: str, kernel: str, workload: str) -> None:
    config = GuestConfig(memory=64 << 20, vcpus=2, kernel=kernel)
    tape = find_workload(workload)(
        operations=scaled(20_000, 40), final_idle_ns=10_000_000, **WORKLOADS[workload]
    )
    run = Run(find_strategy(strategy)(), tape, config, 3)
    run.execute()
    assert validate(run.machine) == []
    assert run.machine.simulation.operations > 0
