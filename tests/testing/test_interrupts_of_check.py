"""Interrupts that come where a strategy lets them in, and what is asked at the stop."""

import pytest

from hintbench import HookFilter, Strategy, hookimpl
from hintbench.testing.exploration import explore_handfuls, run_scenario
from hintbench.testing.mutants.bases import BASES, Ringed
from hintbench.testing.scenarios.families import tiny_scenario
from hintbench.testing.scenarios.faults import IN_HAND
from hintbench.testing.scenarios.scenario import Fault


class CountsPerCpu(Strategy):
    """Its plain hook switches interrupts off before it touches this CPU's state."""

    name = "counts-per-cpu"

    @hookimpl
    def guest_started(self, guest):
        self.guest, self.freed = guest, guest.per_cpu(list)

    def hook_filters(self):
        return {"page_freeing": HookFilter(min_order=9)}

    @hookimpl
    def page_freeing(self, cpu, pfn):
        with self.guest.interrupts_off():
            self.freed[cpu].append(pfn)


class CountsWithInterruptsOn(CountsPerCpu):
    """The same without switching them off."""

    name = "counts-with-interrupts-on"

    @hookimpl
    def page_freeing(self, cpu, pfn):
        self.freed[cpu].append(pfn)


def test_a_plain_hook_may_switch_interrupts_off():
    assert "per-cpu" not in run_scenario(CountsPerCpu, tiny_scenario(1, ("6.12",))).counts
    assert "per-cpu" in run_scenario(CountsWithInterruptsOn, tiny_scenario(1, ("6.12",))).counts


@pytest.mark.parametrize("kind", sorted(IN_HAND))
def test_an_interrupt_comes_right_after_a_block_is_in_hand(kind):
    faults = tuple(Fault(kind, number, 4) for number in range(1, 4))
    scenario = tiny_scenario(1, ("6.12",)).but(faults=faults, settle=True)
    told = []
    outcome = run_scenario(Ringed, scenario, told=lambda what, text: told.append((what, text)))
    assert sum(what == "fault" for what, _ in told) == 3
    assert (outcome.counts, outcome.error) == ({}, "")


def test_what_is_drained_at_the_stop_breaks_no_base():
    for base in BASES:
        faults = tuple(Fault("interrupt-at-stop", 1, 1_000, cpu) for cpu in range(2))
        outcome = run_scenario(base, tiny_scenario(2, ("6.12",)).but(faults=faults))
        assert (outcome.counts, outcome.error) == ({}, "")


def test_a_task_that_outlives_the_stop_is_named():
    class Leaves(Strategy):
        """Arms a timer that nobody cancels."""

        name = "leaves"

        @hookimpl
        def guest_started(self, guest):
            guest.spawn(self.late(), cpu=0, name="late timer", delay_ns=500_000_000)

        async def late(self):
            """Nothing."""

    found = explore_handfuls(Leaves, range(1, 9), stop=False).found
    violation, _ = found["teardown", "scheduled"]
    assert "late timer, whose timer still runs" in violation.text
