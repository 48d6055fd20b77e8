"""Nobody is stepped inside its own step, and virtual time does not run backwards unnoticed."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from hintbench import operations
from hintbench.core.constants import CAUSE_TOTAL, NEVER
from hintbench.core.hooks import HookPoint
from hintbench.core.machine import run_tapes, run_until, step_vcpu

from .driver import Bench, Setup
from .setups import SETUPS


def with_hook(function: Callable[[Bench], object]) -> Bench:
    """A guest of two vCPUs, of which vCPU 0 allocates, and calls ``function`` on the way."""
    bench = Bench(Setup(**SETUPS["four zones"]))

    def page_allocated(_guest: object, cpu: int, _pfn: int, _order: int) -> None:
        if cpu == 0:
            function(bench)

    bench.guest.hooks.page_allocated = HookPoint("page_allocated", page_allocated)
    bench.feeds[1].blocks.append(operations.allocate(1, order=0))
    return bench


@pytest.mark.parametrize(
    "enter",
    [
        lambda simulation: step_vcpu(simulation, 0),
        lambda simulation: step_vcpu(simulation, 1),
        lambda simulation: run_until(simulation, 1_000_000),
        run_tapes,
    ],
    ids=["itself", "another", "everybody", "the tapes"],
)
def test_a_vcpu_is_not_stepped_inside_its_own_step(enter: Callable[[object], object]) -> None:
    entered: list[object] = []
    bench = with_hook(lambda bench: entered.append(enter(bench.simulation)))
    with pytest.raises(RuntimeError, match="vCPU 0 is being stepped already"):
        bench.run(0, operations.allocate(0, order=0))
    assert entered == []


def test_a_vcpu_is_not_stepped_by_number_although_its_clock_is_put_off() -> None:
    def enter(bench: Bench) -> None:
        bench.simulation.set_clock(0, NEVER)
        step_vcpu(bench.simulation, 0)

    with pytest.raises(RuntimeError, match="vCPU 0 is being stepped already"):
        with_hook(enter).run(0, operations.allocate(0, order=0))


def test_others_take_steps_inside_a_step_whose_vcpu_is_put_off() -> None:
    steps: list[int] = []

    def enter(bench: Bench) -> None:
        simulation = bench.simulation
        key, now = simulation.clock_of(0), bench.machine.clock.now
        simulation.set_clock(0, NEVER)
        steps.append(run_until(simulation, now + 100_000))
        simulation.set_clock(0, key)
        bench.machine.clock.cpu = bench.machine.clock.context = 0
        bench.machine.clock.now = now + 100_000

    bench = with_hook(enter)
    bench.run(0, operations.allocate(0, order=0))
    assert steps[0] > 1
    pfns = bench.simulation.slot_pfns()
    assert pfns[0] >= 0 <= pfns[1] != pfns[0]
    # Afterwards vCPU 0 may be stepped as ever.
    bench.run(0, operations.free(0))


def test_an_allocation_that_ends_before_it_began_is_refused() -> None:
    bench = Bench(Setup(**SETUPS["one zone"]))
    bench.simulation.add_latency(0, CAUSE_TOTAL, 0)
    for ns in (-1, -700, -(10**9)):
        with pytest.raises(RuntimeError, match=f"took {ns} ns: virtual time ran backwards"):
            bench.simulation.add_latency(0, CAUSE_TOTAL, ns)
    assert sum(bench.simulation.latencies.histogram(None, CAUSE_TOTAL)) == 1


def test_a_hook_that_turns_virtual_time_back_ends_the_run() -> None:
    def turn_back(bench: Bench) -> None:
        bench.machine.clock.now -= 1_000_000

    with pytest.raises(RuntimeError, match="virtual time ran backwards"):
        with_hook(turn_back).run(0, operations.allocate(0, order=0))
