"""Page arrays, lists, flags and what struct page says, beside plain Python."""

from __future__ import annotations

import mmap
import random

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hintbench.core import scan
from hintbench.core.constants import (
    BUDDY,
    COMPOUND,
    COMPOUND_MOVABLE,
    IN_USE,
    IN_USE_MOVABLE,
    ISOLATED,
    KIND_MASK,
    ORDER_MASK,
    PCP,
    SLAB,
    TAIL,
)
from hintbench.core.flags import UnitFlags
from hintbench.core.hooks import Block
from hintbench.core.hugepages import HUGE_BYTES, zeros
from hintbench.core.pages import Pages

from .comparison import lists_of
from .driver import Bench, Setup, scaled, zone_config
from .player import Player
from .setups import MIB

USED = (IN_USE, IN_USE_MOVABLE, COMPOUND, COMPOUND_MOVABLE, SLAB)


def make_lists(pages: Pages, first: int, contents: list[list[int]]) -> None:
    """Link pages by hand as include/linux/list.h does."""
    for head, pfns in enumerate(contents, first):
        ring = [head, *pfns]
        for here, after in zip(ring, [*ring[1:], head], strict=True):
            pages.next[here] = after
            pages.prev[after] = here


@pytest.mark.parametrize(("wanted", "got"), [(1, 1024), (1024, 1024), (1025, 2048), (5000, 5120)])
def test_pages_come_in_whole_blocks_of_the_top_order(wanted: int, got: int) -> None:
    pages = Pages(wanted, 3)
    assert pages.page_count == got
    assert len(pages.state) == got
    assert len(pages.next) == len(pages.prev) == got + 3
    assert len(pages.pageblock_type) == len(pages.pageblock_cpu) == got // 512
    assert set(pages.state) == {TAIL}
    assert set(pages.pageblock_type) == {1}


@pytest.mark.parametrize("kind", [numpy.uint8, numpy.int32, numpy.uint64])
@pytest.mark.parametrize("size", [0, 100, HUGE_BYTES - 8, HUGE_BYTES, 3 * HUGE_BYTES + 4096])
def test_arrays_on_huge_pages_are_arrays_of_zeros(size: int, kind: type[numpy.generic]) -> None:
    count = size // numpy.dtype(kind).itemsize
    array = zeros(count, kind)
    assert (array.shape, array.dtype) == ((count,), kind)
    assert not array.any()
    array[:] = 77
    assert array.sum(dtype=numpy.int64) == 77 * count
    if size >= HUGE_BYTES and hasattr(mmap, "MADV_HUGEPAGE"):
        assert array.ctypes.data % HUGE_BYTES == 0


def test_new_lists_are_empty_and_of_their_own() -> None:
    pages = Pages(1024, 10)
    first, second = pages.new_lists(4), pages.new_lists(6)
    assert (first, second) == (1024, 1028)
    assert all(pages.list_pages(head) == [] for head in range(first, second + 6))
    with pytest.raises(ValueError, match="no room for 1 more"):
        pages.new_lists(1)


@settings(max_examples=scaled(100), deadline=None, derandomize=True)
@given(st.lists(st.lists(st.integers(0, 1023), unique=True, max_size=8), min_size=1, max_size=4))
def test_a_list_is_read_from_its_head_on(contents: list[list[int]]) -> None:
    seen: set[int] = set()
    contents = [[p for p in row if not (p in seen or seen.add(p))] for row in contents]
    pages = Pages(1024, len(contents))
    first = pages.new_lists(len(contents))
    make_lists(pages, first, contents)
    assert [pages.list_pages(first + at) for at in range(len(contents))] == contents


@pytest.mark.parametrize("link", ["next", "prev"])
@pytest.mark.parametrize("at", [5, 6, 7, 1024])
def test_a_wrong_link_is_noticed(link: str, at: int) -> None:
    pages = Pages(1024, 2)
    head = pages.new_lists(2)
    make_lists(pages, head, [[5, 6, 7], []])
    links = getattr(pages, link)
    links[at] = 9 if links[at] != 9 else 8
    with pytest.raises(ValueError, match="list 1024"):
        pages.list_pages(head)


def test_a_ring_without_its_head_is_noticed() -> None:
    pages = Pages(1024, 1)
    head = pages.new_lists(1)
    make_lists(pages, head, [[1, 2, 3]])
    pages.next[3], pages.prev[1] = 1, 3
    with pytest.raises(ValueError, match="list 1024"):
        pages.list_pages(head)


def lived_in(seed: int) -> Bench:
    """A guest with blocks of every kind and order."""
    zones = (
        zone_config("DMA32", 700, 3000, marks=(10, 20, 30)),
        zone_config("Normal", 4096, 12 * MIB, managed=3000, marks=(10, 20, 30)),
    )
    bench = Bench(Setup(zones, vcpus=2, pcp=(7, 60, 300)))
    player = Player(bench, random.Random(seed))
    for _ in range(scaled(600)):
        player.step()
    return bench


def owners(bench: Bench) -> dict[int, int]:
    """The head of every page that is in some block: what the reference and the slots say."""
    blocks: list[tuple[int, int]] = []
    for zone in bench.model.zones:
        blocks += [(pfn, block.order) for pfn, block in zone.lists.free.items()]
    for row in bench.model.pcps:
        for pcp in row:
            for index, pfns in enumerate(pcp.lists):
                blocks += [(pfn, pcp.order_of_list(index)) for pfn in pfns]
    blocks += list(bench.model.orders.items())
    blocks += [(block.pfn, block.order) for block in bench.isolated]
    found: dict[int, int] = {}
    for pfn, order in blocks:
        for page in range(pfn, pfn + (1 << order)):
            assert page not in found
            found[page] = pfn
    return found


@pytest.mark.parametrize("seed", range(3))
def test_every_page_knows_its_block(seed: int) -> None:
    bench = lived_in(seed)
    pages, owner = bench.machine.pages, owners(bench)
    for pfn in range(-2, pages.page_count + 2):
        assert pages.head_of(pfn) == owner.get(pfn, -1)
    managed = sum(zone.managed_pages for zone in bench.zones)
    assert len(owner) == managed


@pytest.mark.parametrize("seed", range(3))
def test_the_state_says_who_has_a_block(seed: int) -> None:
    bench = lived_in(seed)
    state = bench.machine.pages.state
    for zone in bench.model.zones:
        for pfn, block in zone.lists.free.items():
            assert state[pfn] == BUDDY | block.order
    for row in bench.model.pcps:
        for pcp in row:
            for index, pfns in enumerate(pcp.lists):
                assert all(state[pfn] == PCP | pcp.order_of_list(index) for pfn in pfns)
    for pfn, order in bench.model.orders.items():
        assert state[pfn] & KIND_MASK in USED
        assert state[pfn] & ORDER_MASK == order
    assert all(state[block.pfn] == ISOLATED | block.order for block in bench.isolated)
    heads = set(owners(bench).values())
    assert all((state[pfn] != TAIL) == (pfn in heads) for pfn in range(len(state)))


@pytest.mark.parametrize("seed", range(3))
def test_struct_page_tells_no_more_than_the_kernels(seed: int) -> None:
    """A reference count of 0 does not mean free, and only compound tails know their head."""
    bench = lived_in(seed)
    pages, owner, guest = bench.machine.pages, owners(bench), bench.guest
    for pfn in range(pages.page_count):
        head = owner.get(pfn, -1)
        kind = pages.state[head] & KIND_MASK if head >= 0 else TAIL
        order = pages.state[head] & ORDER_MASK if head >= 0 else 0
        assert bool(scan.ref_count(pages, pfn)) == (head == pfn and kind in USED)
        compound = kind in (COMPOUND, COMPOUND_MOVABLE, SLAB) and order > 0
        assert scan.compound_head(pages, pfn) == (head if compound else -1)
        assert guest.is_compound(pfn) == compound
        assert guest.compound_order(pfn) == (order if compound else 0)
        assert guest.is_slab(pfn) == (kind == SLAB)


@pytest.mark.parametrize("seed", range(3))
def test_zones_know_their_free_blocks(seed: int) -> None:
    bench = lived_in(seed)
    owner = owners(bench)
    for zone in bench.zones:
        free = {pfn: order for (order, _), pfns in lists_of(zone).items() for pfn in pfns}
        kinds = {pfn: kind for (_, kind), pfns in lists_of(zone).items() for pfn in pfns}
        for pfn in range(zone.start_pfn - 3, zone.end_pfn + 3):
            assert zone.free_order(pfn) == free.get(pfn, -1)
            block = zone.free_block_of(pfn)
            head = owner.get(pfn)
            if head in free and zone.start_pfn <= pfn < zone.end_pfn:
                assert block == Block(head, free[head], zone)
            else:
                assert block is None
        for pfn, order in free.items():
            assert zone.list_type(pfn, order) == kinds[pfn]
        for limit, look in ((0, 0), (3, 0), (0, 4), (2, 9)):
            expected = [
                Block(pfn, order, zone)
                for (order, _), pfns in lists_of(zone).items()
                if order >= 1
                for pfn in pfns
            ]
            if look:
                expected = expected[:look]
            if limit:
                expected = expected[:limit]
            assert zone.free_blocks(1, limit=limit, look_at_most=look) == expected


class NaiveFlags:
    """A set of units."""

    def __init__(self, order: int) -> None:
        self.order = order
        self.units: set[int] = set()

    def of(self, pfn: int, order: int) -> set[int]:
        return set(range(pfn >> self.order, ((pfn + (1 << order) - 1) >> self.order) + 1))


actions = st.tuples(
    st.sampled_from(("set", "clear", "test and set")),
    st.integers(0, 1023),
    st.integers(0, 10),
)


@settings(max_examples=scaled(150), deadline=None, derandomize=True)
@given(st.integers(0, 10), st.lists(actions, max_size=30))
def test_unit_flags(order: int, plan: list[tuple[str, int, int]]) -> None:
    flags, naive = UnitFlags("test", order, 2048), NaiveFlags(order)
    for action, where, block_order in plan:
        pfn = where >> block_order << block_order
        units = naive.of(pfn, block_order)
        assert flags.any(pfn, block_order) == bool(units & naive.units)
        assert flags.all(pfn, block_order) == (units <= naive.units)
        assert flags.test(where) == (where >> order in naive.units)
        if action == "set":
            assert flags.set(pfn, block_order) == len(units - naive.units)
            naive.units |= units
        elif action == "clear":
            assert flags.clear(pfn, block_order) == len(units & naive.units)
            naive.units -= units
        else:
            assert flags.test_and_set(where) == (where >> order in naive.units)
            naive.units.add(where >> order)
        assert flags.count == len(naive.units)
        firsts = [unit << order for unit in sorted(naive.units)]
        assert flags.set_units() == firsts
        assert flags.find(0, 2048) == firsts
        assert flags.find(0, 2048, 3) == firsts[:3]
        end = max(where, 1)
        last = (end - 1) >> order
        assert flags.find(pfn, end) == [
            each for each in firsts if pfn >> order <= each >> order <= last
        ]


def test_flags_refuse_pages_that_do_not_exist() -> None:
    flags = UnitFlags("test", 9, 2048)
    for pfn, order in ((-1, 0), (1 << 20, 0), (0, 12)):
        with pytest.raises(ValueError, match=r"outside the guest|order is 12"):
            flags.set(pfn, order)


def test_clearing_wakes_only_when_something_was_set() -> None:
    flags = UnitFlags("test", 0, 1024)
    calls: list[UnitFlags] = []
    flags.on_clear = calls.append
    flags.clear(3)
    flags.set(3)
    flags.clear(3)
    assert calls == [flags]
