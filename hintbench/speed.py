"""``hintbench speed``: what this build costs per operation, on the standard tapes.

The standard tapes never change, so that figures of different commits compare:

* *bare replay*: one zone of 4 GiB, order 0, 400,000 live slots, allocate and free straight from
  the free lists, no time, no locks;
* *order-0 churn*: 8 vCPUs of the 6.12 preset with 50,000 live slots each, a random slot freed and
  allocated again, everything simulated, no strategy;
* *order-9 hook*: 4 vCPUs of the 5.0 preset with 200 live huge pages each, without clearing, and a
  Python hook on every free that isolates the block and puts it back.

All three live in about 1.6 GiB of the guest's memory (400,000 small or 800 huge pages). Of the
first two, page state, links and slots take 5 MB at random places, more than a core's own cache
holds, and the tape streams by besides; so a figure says what the misses cost as well.

Empty Python method calls are timed beside them: a yardstick of the computer, and what a plugin's
hook costs at least.

Each is timed several times in wall time after a warm-up, the median counts, and the end state's
digest must be the same every time before a figure is given.
"""

from __future__ import annotations

import gc
import hashlib
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

import numpy

from hintbench.config.guest import GuestConfig
from hintbench.core import BUILD, bare
from hintbench.core import machine as core_machine
from hintbench.core.hooks import CoreHooks, HookPoint
from hintbench.errors import InternalError
from hintbench.guest.boot import Machine
from hintbench.operations import Flag, OperationBlock, allocate, free, interleave
from hintbench.tapes import Draws

ROUNDS: Final = 5
LIVE_SLOTS: Final = 400_000
"""Small pages that the order-0 tapes hold at every moment."""
_INTERPRETED_SHARE: Final = 40


class Prepared(NamedTuple):
    """A tape that is ready to run once.

    Attributes:
        run: runs it.
        operations: how many allocations and frees that is.
        digest: says where it ended.
        machine: the guest that it runs on; None for the bare replay, which has none.
    """

    run: Callable[[], None]
    operations: int
    digest: Callable[[], str]
    machine: Machine | None = None


class Tape(NamedTuple):
    """A standard tape.

    Attributes:
        key: a short name.
        name: what it is.
        operations: how many random allocations and frees it has.
        prepare: makes a guest, and the tape with so many of them.
    """

    key: str
    name: str
    operations: int
    prepare: Callable[[int], Prepared]


class Figure(NamedTuple):
    """One measured cost.

    Attributes:
        name: of the tape.
        ns_per_operation: wall nanoseconds per operation, the median of the rounds.
        lowest_ns, highest_ns: the spread.
        operations: how many operations a round timed.
        digest: of the end state.
    """

    name: str
    ns_per_operation: float
    lowest_ns: float
    highest_ns: float
    operations: int
    digest: str


def measure(rounds: int = ROUNDS) -> list[Figure]:
    """Time the standard tapes on this build.

    Raises:
        InternalError: two rounds ended in different states.
    """
    share = _INTERPRETED_SHARE if BUILD == "interpreted" else 1
    times: dict[str, list[float]] = {tape.name: [] for tape in TAPES}
    facts: dict[str, tuple[int, str]] = {}
    # Interleaved, so that a drift of the machine's speed meets all alike.
    for number in range(rounds + 1):
        for tape in TAPES:
            prepared = tape.prepare(tape.operations // share)
            elapsed = time_once(prepared)
            end = prepared.operations, prepared.digest()
            if facts.setdefault(tape.name, end) != end:
                raise InternalError(f"speed: two rounds of {tape.name!r} ended in different states")
            if number:
                times[tape.name].append(elapsed / prepared.operations)
    return [
        Figure(name, statistics.median(each), min(each), max(each), *facts[name])
        for name, each in times.items()
    ]


def time_once(prepared: Prepared) -> int:
    """Run a tape with the garbage collector off.

    Returns:
        Wall nanoseconds.
    """
    gc.collect()
    gc.disable()
    try:
        began = time.perf_counter_ns()
        prepared.run()
        return time.perf_counter_ns() - began
    finally:
        gc.enable()


def _replace_random(first: int, live: int, count: int, order: int, stream: int) -> OperationBlock:
    """Free a random slot and allocate it again, ``count`` times."""
    slots = Draws(1, stream).below(live, count) + first
    freed = free(slots)
    flags = Flag.ZERO if order == 0 else Flag(0)
    taken = allocate(slots, order=order, flags=flags)
    return interleave(freed, taken)


def _blocks(block: OperationBlock, size: int = 65_536) -> Iterator[OperationBlock]:
    for start in range(0, len(block), size):
        piece = slice(start, start + size)
        yield OperationBlock(block.code[piece], block.value[piece], block.time_ns[piece])


class _NoDriver:
    """Stands in for the scheduler where no hook ever waits."""

    def __init__(self, machine: Machine) -> None:
        self.simulation = machine.simulation

    def wake_vcpu(self, number: int) -> None:
        """A slot was filled."""
        self.simulation.wake(number, self.simulation.clock.now)

    def wake_kswapd(self, number: int, node: int) -> None:
        """Memory is never short on the standard tapes."""

    def allocation_failed(self, vcpu: Any) -> None:
        """Nor does an allocation fail."""
        raise InternalError(f"speed: an allocation of order {vcpu.order} failed")


def _machine(config: GuestConfig, tapes: list[list[OperationBlock]], slots: int) -> Machine:
    def chain(blocks: list[OperationBlock]) -> Iterator[OperationBlock]:
        for block in blocks:
            yield from _blocks(block)

    machine = Machine(config, [chain(blocks) for blocks in tapes], slots, seed=1)
    hooks = CoreHooks()
    machine.simulation.hooks = hooks
    for zone in machine.zones:
        zone.hooks = hooks
    machine.simulation.driver = _NoDriver(machine)
    return machine


def _bare(count: int) -> Prepared:
    config = GuestConfig(memory=4 << 30, vcpus=1, kernel="5.0", huge_pages=False)
    machine = _machine(config, [[]], LIVE_SLOTS)
    zone = max(machine.zones, key=lambda each: each.managed_pages)
    slots = (Draws(1, 7).below(LIVE_SLOTS, count // 2)).astype(numpy.int32)
    table = numpy.full(LIVE_SLOTS, -1, dtype=numpy.int32)
    bare.replay(zone, numpy.arange(LIVE_SLOTS, dtype=numpy.int32), table)

    def digest() -> str:
        return hashlib.blake2b(table.tobytes(), digest_size=8).hexdigest()

    def run() -> None:
        bare.replay(zone, slots, table)

    return Prepared(run, 2 * (count // 2), digest)


def churn(
    count: int, *, vcpus: int = 8, memory: int = 4 << 30, live_slots: int = LIVE_SLOTS
) -> Prepared:
    """Order-0 churn, with other guests than that of the standard tape where asked.

    Args:
        count: random allocations and frees of all vCPUs; filling the slots comes on top.
        vcpus: of the guest.
        memory: of the guest [bytes].
        live_slots: of all vCPUs together.
    """
    live = live_slots // vcpus
    each = count // (2 * vcpus)
    config = GuestConfig(memory=memory, vcpus=vcpus, kernel="6.12")
    tapes = [
        [
            allocate(numpy.arange(cpu * live, (cpu + 1) * live)),
            _replace_random(cpu * live, live, each, 0, cpu),
        ]
        for cpu in range(vcpus)
    ]
    machine = _machine(config, tapes, vcpus * live)
    machine.simulation.begin_vcpus(0)
    operations = vcpus * (live + 2 * each)
    return Prepared(lambda: _run(machine), operations, machine.clock.digest.hexadecimal, machine)


def huge_pages(count: int, *, vcpus: int = 4, hooked: bool = True) -> Prepared:
    """Order-9 churn on the 5.0 preset, where every operation takes the zone's lock.

    Args:
        count: random allocations and frees of all vCPUs; filling the slots comes on top.
        vcpus: of the guest.
        hooked: with a Python hook on every free that isolates the block and puts it back.
    """
    live = 800 // vcpus
    each = count // (2 * vcpus)
    config = GuestConfig(memory=8 << 30, vcpus=vcpus, kernel="5.0")
    tapes = [
        [
            allocate(numpy.arange(cpu * live, (cpu + 1) * live), order=9, flags=Flag(0)),
            _replace_random(cpu * live, live, each, 9, cpu),
        ]
        for cpu in range(vcpus)
    ]
    machine = _machine(config, tapes, vcpus * live)

    def block_freed(
        guest: Any, cpu: int, zone: Any, pfn: int, order: int, freed: Any, origin: int
    ) -> None:
        block = zone.isolate(pfn)
        if block is not None:
            zone.put_back(block)

    if hooked:
        point = HookPoint("block_freed", block_freed, 9)
        for zone in machine.zones:
            zone.hooks.block_freed = point
    machine.simulation.begin_vcpus(0)
    operations = vcpus * (live + 2 * each)
    return Prepared(lambda: _run(machine), operations, machine.clock.digest.hexadecimal)


def _run(machine: Machine) -> None:
    if not core_machine.run_tapes(machine.simulation):
        raise InternalError("speed: the standard tapes do not end")


class _Empty:
    def method(self) -> None:
        """Do nothing."""


def _method_calls(count: int) -> Prepared:
    """Empty method calls; the loop around them is part of the figure, and small."""

    def run() -> None:
        method = _Empty().method
        for _ in range(count // 10):
            method(), method(), method(), method(), method()
            method(), method(), method(), method(), method()

    return Prepared(run, count // 10 * 10, lambda: "0" * 16)


TAPES: Final = (
    Tape("bare", "bare replay", 2_000_000, _bare),
    Tape("churn", "order-0 churn, 8 vCPUs", 2_000_000, churn),
    Tape("hook", "order-9 hook that isolates and puts back", 400_000, huge_pages),
    Tape("call", "beside them: an empty method call", 2_000_000, _method_calls),
)
"""The standard tapes."""
