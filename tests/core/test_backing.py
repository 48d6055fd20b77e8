"""The host's side of every page beside a naive model: a set of pages, a list of changes."""

from __future__ import annotations

import random
from itertools import pairwise
from typing import Literal

import pytest

from hintbench import operations
from hintbench.config.costs import HostConfig
from hintbench.config.guest import GuestConfig
from hintbench.config.layout import ZoneConfig
from hintbench.operations import Flag
from reference.guest import Request
from reference.lists import MOVABLE, PAGEBLOCK_PAGES

from .driver import NO_FLAGS, Bench, Setup, scaled, zone_config
from .setups import MIB

Granule = Literal["4KiB", "2MiB"]
BOTH: tuple[Granule, ...] = ("4KiB", "2MiB")
both_granules = pytest.mark.parametrize("granule", BOTH)
ZONES = (zone_config("Normal", 0, 16 * MIB, marks=(0, 0, 0)),)


class NaiveBacking:
    """What the host backs, page by page."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.present = {
            page for zone in bench.zones for page in range(zone.start_pfn, zone.end_pfn)
        }
        self.backed = set(self.present)
        self.small_units: set[int] = set()
        self.discarded = self.refaulted = self.small = self.huge = 0
        self.changes: dict[str, list[tuple[int, int]]] = {
            "backed": [(0, len(self.present))],
            "reclaimed": [(0, 0)],
            "used": [(0, 0)],
        }

    def pages(self, pfn: int, order: int) -> range:
        return range(pfn, pfn + (1 << order))

    def used(self) -> int:
        """Pages that somebody has and the host backs."""
        orders = self.bench.model.orders
        return sum(
            page in self.backed for pfn, order in orders.items() for page in self.pages(pfn, order)
        )

    def discard(self, pfn: int, order: int, piecemeal: bool = False) -> int:
        taken = self.backed & set(self.pages(pfn, order))
        if order < 9 or piecemeal:
            # The table of small pages that this needs is never taken away again.
            self.small_units |= {page // PAGEBLOCK_PAGES for page in taken}
        self.backed -= taken
        self.discarded += len(taken)
        return len(taken)

    def touch(self, pfn: int, order: int) -> int:
        """The owner touches the block; the virtual nanoseconds of its refaults."""
        costs = self.bench.config.costs
        cost = 0
        for page in self.pages(pfn, order):
            if page in self.backed:
                continue
            start = page - page % PAGEBLOCK_PAGES
            unit = set(range(start, start + PAGEBLOCK_PAGES))
            whole = self.bench.config.host.granule == "2MiB" and unit <= self.present
            mapped_small = page // PAGEBLOCK_PAGES in self.small_units
            if whole and not mapped_small and not unit & self.backed:
                self.backed |= unit
                self.refaulted += PAGEBLOCK_PAGES
                self.huge += 1
                cost += costs.refault_huge_ns
            else:
                self.backed.add(page)
                self.refaulted += 1
                self.small += 1
                cost += costs.refault_small_ns
        return cost

    def note(self, name: str, at_ns: int) -> None:
        value = {
            "backed": len(self.backed),
            "reclaimed": len(self.present) - len(self.backed),
            "used": self.used(),
        }[name]
        self.changes[name].append((at_ns, value))

    def page_seconds(self, name: str, end_ns: int) -> float:
        """The integral, rectangle by rectangle."""
        changes = [*self.changes[name], (end_ns, 0)]
        return (
            sum(value * (after - before) for (before, value), (after, _) in pairwise(changes)) / 1e9
        )

    def compare(self) -> None:
        backing = self.bench.machine.backing
        assert {page for page in self.present if backing.is_backed(page)} == self.backed
        self.compare_counts()

    def compare_counts(self) -> None:
        backing = self.bench.machine.backing
        assert backing.backed.value == len(self.backed)
        assert backing.reclaimed.value == len(self.present) - len(self.backed)
        assert backing.used.value == self.used()
        got = (backing.small_refaults, backing.huge_refaults, backing.refaulted_pages)
        assert got == (self.small, self.huge, self.refaulted)
        assert backing.discarded_pages == self.discarded


class HostedBench(Bench):
    """A :class:`Bench` whose host backs memory in granules of a size."""

    def __init__(self, granule: Granule, zones: tuple[ZoneConfig, ...] = ZONES) -> None:
        super().__init__(Setup(zones, pcp=(4, 24, 60)), host=HostConfig(granule=granule))
        self.naive = NaiveBacking(self)

    def discard(self, pfn: int, order: int, piecemeal: bool = False) -> int:
        """The host takes a block at the vCPU's time."""
        self.machine.clock.now = now = self.simulation.clock_of(0)
        taken = self.machine.backing.discard(pfn, order, piecemeal)
        assert taken == self.naive.discard(pfn, order, piecemeal)
        self.naive.note("backed", now)
        self.naive.note("reclaimed", now)
        return taken

    def touch(self, slot: int) -> int:
        """The owner of a slot touches all its pages; how long that took [virtual ns]."""
        began = self.simulation.clock_of(0)
        pfn = self.slots[slot]
        order = self.model.orders[pfn]
        cost = self.naive.touch(pfn, order)
        self.run(0, operations.touch(slot))
        ended = self.simulation.clock_of(0)
        assert ended - began == cost + (self.config.costs.touch_page_ns << order)
        for name in ("backed", "reclaimed"):
            self.naive.note(name, began)
        self.naive.note("used", ended)
        return ended - began

    def idle(self, ns: int) -> None:
        self.run(0, operations.idle(ns))

    def take(self, order: int, flags: Flag = NO_FLAGS) -> int | None:
        """Allocate a block; its slot."""
        pfn = self.allocate(0, Request(order, MOVABLE, may_block=False), flags)
        if pfn is None:
            return None
        if flags & (Flag.ZERO | Flag.TOUCHED):
            self.naive.touch(pfn, order)
        now = self.simulation.clock_of(0)
        for name in ("backed", "reclaimed", "used"):
            self.naive.note(name, now)
        return next(reversed(self.slots))

    def give(self, slot: int) -> None:
        """Free a slot."""
        began = self.simulation.clock_of(0)
        self.free(0, slot)
        self.naive.note("used", began)


def free_piece(bench: HostedBench, rng: random.Random) -> tuple[int, int]:
    """A random free block, or part of it; something is always free."""
    block = rng.choice(bench.zones[0].free_blocks(0))
    order = block.order if rng.random() < 0.7 else rng.randrange(block.order + 1)
    return block.pfn + (rng.randrange(1 << (block.order - order)) << order), order


def first(bench: HostedBench, order: int) -> int:
    """The slot of the first block ever allocated, at pfn 0."""
    slot = bench.take(order)
    assert slot is not None
    assert bench.slots[slot] == 0
    return slot


@both_granules
def test_random_discards_touches_allocations_and_frees(granule: Granule) -> None:
    totals = [0, 0, 0]
    # One guest after the other, since a unit that is split once stays so.
    for seed in range(8):
        bench = HostedBench(granule)
        rng = random.Random(seed)
        for step in range(scaled(100)):
            _random_step(bench, rng)
            bench.naive.compare_counts()
            if step % 20 == 0:
                bench.naive.compare()
        naive = bench.naive
        seen = (naive.small, naive.discarded, naive.huge)
        totals = [total + one for total, one in zip(totals, seen, strict=True)]
    assert min(totals[:2]) > 0
    assert (totals[2] > 0) == (granule == "2MiB")


def _random_step(bench: HostedBench, rng: random.Random) -> None:
    chance = rng.random()
    if chance < 0.3:
        bench.discard(*free_piece(bench, rng), piecemeal=rng.random() < 0.2)
    elif chance < 0.6:
        flags = rng.choice((NO_FLAGS, Flag.ZERO, Flag.TOUCHED))
        bench.take(rng.choice((0, 0, 0, 1, 3, 6, 9, 10)), flags)
    elif bench.slots and chance < 0.8:
        bench.touch(rng.choice(list(bench.slots)))
    elif bench.slots:
        bench.give(rng.choice(list(bench.slots)))


@both_granules
def test_integrals_over_virtual_time(granule: Granule) -> None:
    """Whoever touches or frees does so at its vCPU's time, so that every change is known."""
    bench = HostedBench(granule)
    rng = random.Random(12)
    slots = [slot for slot in (bench.take(rng.choice((0, 4, 9))) for _ in range(30)) if slot]
    for _ in range(scaled(300)):
        bench.idle(rng.randrange(50_000_000))
        chance = rng.random()
        if chance < 0.4:
            bench.discard(*free_piece(bench, rng), piecemeal=rng.random() < 0.2)
        elif chance < 0.8:
            bench.touch(rng.choice(slots))
        elif len(slots) > 1:
            bench.give(slots.pop(rng.randrange(len(slots))))
            slot = bench.take(rng.choice((0, 4, 9)))
            slots += [] if slot is None else [slot]
    end = bench.simulation.clock_of(0) + 1_000_000_000
    backing = bench.machine.backing
    for name in ("backed", "reclaimed", "used"):
        got = getattr(backing, name).page_seconds(end)
        assert got == pytest.approx(bench.naive.page_seconds(name, end), rel=1e-12)


def test_a_wholly_unbacked_unit_comes_back_as_one_huge_page() -> None:
    bench = HostedBench("2MiB")
    assert bench.discard(0, 9) == PAGEBLOCK_PAGES
    costs = bench.config.costs
    assert bench.touch(first(bench, 0)) == costs.refault_huge_ns + costs.touch_page_ns
    assert bench.machine.backing.count_backed(0, 9) == PAGEBLOCK_PAGES
    bench.naive.compare()


@both_granules
def test_a_split_unit_comes_back_page_by_page(granule: Granule) -> None:
    bench = HostedBench(granule)
    assert bench.discard(64, 6) == 64
    costs = bench.config.costs
    assert bench.touch(first(bench, 9)) == 64 * costs.refault_small_ns + (costs.touch_page_ns << 9)
    bench.naive.compare()


def test_one_block_over_a_whole_and_a_split_unit() -> None:
    bench = HostedBench("2MiB")
    bench.discard(0, 9)
    bench.discard(512, 3)
    costs = bench.config.costs
    expected = costs.refault_huge_ns + 8 * costs.refault_small_ns + (costs.touch_page_ns << 10)
    assert bench.touch(first(bench, 10)) == expected
    bench.naive.compare()


def test_what_went_in_parts_comes_back_in_small_pages() -> None:
    """zap_pte_range() leaves the table that __split_huge_pmd() made, empty as it is."""
    bench = HostedBench("2MiB")
    for part in range(8):
        bench.discard(64 * part, 6)
    bench.touch(first(bench, 9))
    assert (bench.machine.backing.huge_refaults, bench.machine.backing.small_refaults) == (0, 512)
    bench.naive.compare()


def test_a_unit_is_split_for_good() -> None:
    """Nothing but khugepaged puts a huge page together: not its refault, nor a whole discard."""
    bench = HostedBench("2MiB")
    backing = bench.machine.backing
    slot = first(bench, 9)
    assert backing.is_huge(511)
    bench.discard(0, 0)
    bench.touch(slot)
    assert backing.count_backed(0, 9) == 512
    assert not backing.is_huge(0)
    bench.discard(0, 9)
    bench.touch(slot)
    assert (backing.huge_refaults, backing.small_refaults) == (0, 1 + 512)
    bench.naive.compare()


def test_calls_for_4_kib_each_split_the_units_they_take() -> None:
    bench = HostedBench("2MiB")
    backing = bench.machine.backing
    bench.discard(512, 9)
    bench.discard(0, 10, piecemeal=True)
    bench.touch(first(bench, 10))
    # Of the second unit nothing was mapped any more that could have been split.
    assert (backing.huge_refaults, backing.small_refaults) == (1, 512)
    bench.naive.compare()


def test_granules_of_4_kib_never_come_back_huge() -> None:
    bench = HostedBench("4KiB")
    bench.discard(0, 9)
    bench.touch(first(bench, 9))
    assert (bench.machine.backing.huge_refaults, bench.machine.backing.small_refaults) == (0, 512)


def test_a_second_discard_takes_nothing() -> None:
    bench = HostedBench("2MiB")
    assert bench.discard(0, 9) == 512
    assert bench.discard(0, 10) == 512
    assert bench.discard(0, 10) == 0
    bench.naive.compare()


@pytest.mark.parametrize("order", range(11))
def test_every_order_is_discarded_to_the_page(order: int) -> None:
    bench = HostedBench("2MiB")
    bench.discard(1 << order, order)
    bench.naive.compare()
    assert bench.machine.backing.count_backed(0, 10) == 1024 - (1 << order if order < 10 else 0)


def test_a_unit_that_is_not_all_there_is_never_huge() -> None:
    """A memory slot that begins inside a unit cannot map it with a huge page."""
    zone = zone_config("Normal", 700, 4 * MIB, marks=(0, 0, 0))
    bench = HostedBench("2MiB", (zone,))
    for pfn, order in ((700, 2), (704, 6), (768, 8)):
        bench.discard(pfn, order)
    while (slot := bench.take(0)) is not None and bench.slots[slot] >= 1024:
        pass
    assert slot is not None
    bench.touch(slot)
    assert (bench.machine.backing.huge_refaults, bench.machine.backing.small_refaults) == (0, 1)
    bench.naive.compare()


def test_pages_in_use_beside_a_touched_one_are_used_again() -> None:
    """They were never touched since, but the huge page that came back holds them too."""
    bench = HostedBench("2MiB")
    bench.discard(0, 10)
    slots = [bench.take(0), bench.take(3), bench.take(0)]
    backing = bench.machine.backing
    assert backing.used.value == 0
    bench.touch(slots[0])
    assert backing.used.value == 10
    for slot in slots:
        bench.give(slot)
    assert backing.used.value == 0
    bench.naive.compare()


def test_the_oracle_pays_nothing_for_refaults() -> None:
    bench = HostedBench("2MiB")
    bench.machine.backing.free_of_charge = True
    bench.machine.backing.discard(0, 4)
    slot = first(bench, 4)
    began = bench.simulation.clock_of(0)
    bench.run(0, operations.touch(slot))
    assert bench.simulation.clock_of(0) - began == bench.config.costs.touch_page_ns << 4
    assert bench.simulation.refault_stall_ns == 0
    assert bench.machine.backing.small_refaults == 16


@pytest.mark.parametrize(
    ("age_ns", "early"),
    [
        (999_000_000, (5, 5, 5)),
        (2_000_000_000, (0, 5, 5)),
        (30_000_000_000, (0, 0, 5)),
        (61_000_000_000, (0, 0, 0)),
    ],
)
def test_early_refaults_are_counted_by_their_age(age_ns: int, early: tuple[int, int, int]) -> None:
    """Each unit by its own discard: the older of two is not taken for the younger."""
    bench = HostedBench("2MiB")
    bench.discard(0, 1)
    bench.idle(100_000_000_000)
    bench.discard(600, 2)
    bench.discard(700, 0)
    bench.idle(age_ns)
    bench.touch(first(bench, 10))
    assert tuple(bench.machine.backing.refaulted_within) == early


def test_what_the_guest_config_says_is_what_the_host_does() -> None:
    for granule in BOTH:
        config = GuestConfig(zones=ZONES, host=HostConfig(granule=granule))
        assert HostedBench(config.host.granule).machine.backing.huge_granule == (granule == "2MiB")
