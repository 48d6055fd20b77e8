"""What Python passes to the core is checked before it indexes anything.

An argument out of range is an error that names it; a block that is not what the caller takes it for
is the violation of a rule. Neither may crash, loop, or change a free list.
"""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest

import hintbench.core
from hintbench.core.flags import UnitFlags
from hintbench.core.hooks import Block
from hintbench.core.zone import Zone
from hintbench.guest.validation import validate

from .driver import Bench, zone_config
from .setups import MIB, Setup

REFUSALS = (TypeError, ValueError, OverflowError)
FAR = 10**9
HUGE = 10**12
CORE = Path(hintbench.core.__file__).parent


@pytest.fixture
def bench() -> Bench:
    """Two zones with a hole before, between and behind them; the first lock is held."""
    zones = (zone_config("DMA32", 8192, 8 * MIB), zone_config("Normal", 65536, 8 * MIB))
    bench = Bench(Setup(kernel="6.12", zones=zones))
    bench.zones[0].lock.take()
    return bench


# -- arguments out of range ---------------------------------------------------------------------

# By method: arguments that are right, and for each place values that are wrong there, or None
# where every value has a meaning (no page outside a zone is free in it).
ZONE_CALLS: dict[str, tuple[tuple[Any, ...], tuple[tuple[Any, ...] | None, ...]]] = {
    "add_free_block": ((8192, 0, 1), ((-1, 8191, FAR), (-1, 11, 99), (-1, 4, 99))),
    "allocate": ((0, 1), ((-1, 11, 99, "0"), (-1, 4, 99, "1"))),
    "blocks_of": ((0, 1), ((-1, 11, 99, "0"), (-1, 4, 99, "1"))),
    "free": ((8192, 0), ((-1, 8191, 8193, FAR, "8192"), (-1, 11, 99))),
    "free_block_of": ((8192,), (None,)),
    "free_blocks": ((9, None, 0, 0), ((-1, 11, 99, "9"), (7, "told"), (-1, "1"), (-1, "1"))),
    "first_free": ((9, 1), ((-1, 11, 99), (-1, 4, 99))),
    "free_list": ((10, 1, None, 0), ((-1, 11, 99, "9"), (-1, 4, 99), (7, "told"), ("1",))),
    "free_order": ((8192,), (None,)),
    "hold": ((0, 1), ((-1, 11, 99, "0"), (-1, 4, 99, "1"))),
    "isolate": ((8192,), (None,)),
    "let_go": ((None,), ((None, 8192, "block"),)),
    "list_empty": ((9, 1), ((-1, 11, 99), (-1, 4, 99))),
    "list_type": ((8192, 10), ((-1, 8193, FAR), (-1, 0, 9, 11))),
    "pageblock_migratetype": ((8192,), ((-1, 8191, FAR, "8192"),)),
    "put_back": ((None,), ((None, 8192, "block"),)),
    "rotate_to_front": ((None,), ((None, 8192, "block"),)),
    "scan_range": ((8192, 9216, 9), ((-1, FAR, "8192"), ("9",), (-1, 11))),
    "set_pageblock_migratetype": ((8192, 0), ((-1, 8191, FAR, "8192"), (-1, 3, 99, "0"))),
    "watermark_ok": ((100, 0, 0), (("100",), (-1, 11, 99), (-1, 4, 99))),
}
# Without arguments, or of the boot, which no strategy sees.
ZONE_OTHERS = {"add_memory", "free_counts", "set_managed", "set_watermarks"}

FLAG_CALLS: dict[str, tuple[tuple[Any, ...], tuple[tuple[Any, ...], ...]]] = {
    "all": ((0, 0), ((-1, FAR, HUGE, "0"), (-1, 11, 99))),
    "any": ((0, 0), ((-1, FAR, HUGE, "0"), (-1, 11, 99))),
    "clear": ((0, 0), ((-1, FAR, HUGE, "0"), (-1, 11, 99))),
    "find": ((0, 1024, 0), ((-1, 1025, "0"), (-1, "1"), (-1, "1"))),
    "set": ((0, 0), ((-1, FAR, HUGE, "0"), (-1, 11, 99))),
    "test": ((0,), ((-1, FAR, HUGE, "0"),)),
    "test_and_set": ((0,), ((-1, FAR, HUGE, "0"),)),
}
FLAG_OTHERS = {"set_units", "wait_clear"}


def wrong_calls(calls: dict[str, Any]) -> list[Any]:
    return [
        pytest.param(
            method, (*right[:place], value, *right[place + 1 :]), id=f"{method}-{place}-{value}"
        )
        for method, (right, wrong) in calls.items()
        for place, values in enumerate(wrong)
        for value in values or ()
    ]


def public_methods(of: type) -> set[str]:
    names = (name for name in dir(of) if not name.startswith("_"))
    return {name for name in names if callable(getattr(of, name))}


@pytest.mark.skipif(
    hintbench.core.BUILD == "interpreted", reason="there, what is C alone has a name too"
)
def test_the_tables_know_every_public_method() -> None:
    assert public_methods(Zone) == {*ZONE_CALLS, *ZONE_OTHERS}
    assert public_methods(UnitFlags) == {*FLAG_CALLS, *FLAG_OTHERS}


@pytest.mark.parametrize(("method", "given"), wrong_calls(ZONE_CALLS))
def test_a_zone_refuses(bench: Bench, method: str, given: tuple[Any, ...]) -> None:
    if hintbench.core.BUILD == "interpreted" and any(isinstance(each, str) for each in given):
        pytest.skip("types are checked where they are compiled")
    with pytest.raises((*REFUSALS, AttributeError)):
        getattr(bench.zones[0], method)(*given)
    assert validate(bench.machine) == []


@pytest.mark.parametrize(("method", "given"), wrong_calls(FLAG_CALLS))
def test_flags_refuse(method: str, given: tuple[Any, ...]) -> None:
    flags = UnitFlags("test", 9, 2048)
    with pytest.raises(REFUSALS):
        getattr(flags, method)(*given)
    assert flags.count == 0


@pytest.mark.parametrize("pfn", [0, 8191, 10240, FAR])
@pytest.mark.parametrize("method", ["free_block_of", "isolate"])
def test_a_page_of_nobody_is_not_free(bench: Bench, method: str, pfn: int) -> None:
    assert getattr(bench.zones[0], method)(pfn) is None
    assert bench.zones[0].free_order(pfn) == -1


def test_the_message_names_the_argument(bench: Bench) -> None:
    with pytest.raises(ValueError, match=r"free_blocks: min_order is -1, must be in 0\.\.10"):
        bench.zones[0].free_blocks(-1)
    with pytest.raises(ValueError, match=r"watermark_ok: highest_zone is 4, must be in 0\.\.3"):
        bench.zones[0].watermark_ok(0, 0, 4)


@pytest.mark.parametrize(
    ("pfn", "order"), [(-1, 0), (1 << 31, 0), (HUGE, 0), (1, 1), (512, 10), (0, -1), (0, 11)]
)
def test_a_block_that_cannot_be_one(bench: Bench, pfn: int, order: int) -> None:
    with pytest.raises(ValueError, match="Block: "):
        Block(pfn, order, bench.zones[0])


def test_a_hole_belongs_to_the_zone_below(bench: Bench) -> None:
    first, second = bench.zones
    where = {0: first, 8191: first, 9000: first, 50_000: first, 65536: second, 67583: second}
    assert {pfn: bench.simulation.zone_of(pfn) for pfn in where} == where


# -- blocks that are not what the caller takes them for ------------------------------------------


def not_isolated(bench: Bench) -> dict[str, Block]:
    zone, other = bench.zones
    isolated = zone.isolate(8192)
    zone.lock.release()  # one at a time
    with other.lock:
        elsewhere = other.isolate(65536)
    zone.lock.take()
    return {
        "far": Block(FAR, 9, zone),
        "in a hole": Block(16384, 10, zone),
        "below the zone": Block(0, 0, zone),
        "part of an isolated one": Block(8192, 9, zone),
        "tail of an isolated one": Block(8193, 0, zone),
        "of another zone": Block(8192, 10, other),
        "isolated in another zone": elsewhere,
        "another zone's, by name mine": Block(65536, 10, zone),
        "of no zone": Block(isolated.pfn, isolated.order, None),
    }


@pytest.mark.parametrize("call", ["put_back", "rotate_to_front"])
@pytest.mark.parametrize(
    "what",
    [
        "far",
        "in a hole",
        "below the zone",
        "part of an isolated one",
        "tail of an isolated one",
        "of another zone",
        "isolated in another zone",
        "another zone's, by name mine",
        "of no zone",
    ],
)
def test_a_wrong_block_is_a_violation(bench: Bench, call: str, what: str) -> None:
    block = not_isolated(bench)[what]
    zone = bench.zones[0]
    before = [zone.blocks_of(10, kind) for kind in range(4)]
    outcome = getattr(zone, call)(block)
    rule = "returned" if call == "put_back" else "locked-lists"
    assert bench.guest.violations == {rule: 1}
    assert outcome == (-1 if call == "put_back" else None)
    assert [zone.blocks_of(10, kind) for kind in range(4)] == before
    assert validate(bench.machine) == []


def test_a_free_block_is_not_put_back(bench: Bench) -> None:
    assert bench.zones[0].put_back(Block(9216, 10, bench.zones[0])) == -1
    assert bench.guest.violations == {"returned": 1}


def test_a_block_comes_back_once(bench: Bench) -> None:
    zone = bench.zones[0]
    block = zone.isolate(8192)
    assert zone.put_back(block) == 10
    assert zone.put_back(block) == -1
    assert bench.guest.violations == {"returned": 1}


# -- the sources --------------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted(CORE.glob("*.py")), ids=lambda path: path.stem)
def test_no_negative_index(path: Path) -> None:
    """The release build has no wraparound: a list's [-1] is the memory before the list."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.UnaryOp):
            assert not isinstance(node.slice.op, ast.USub), f"{path.name}:{node.lineno}"
