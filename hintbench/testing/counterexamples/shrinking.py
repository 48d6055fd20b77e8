"""Making a counterexample smaller: fewer operations, vCPUs, pages, preemptions and faults.

A scenario shrinks as long as a smaller one still shows the same violation (the same rule, broken in
the same way). Removing something moves all that follows, so nothing is assumed: every candidate is
run.

Source: Zeller, Hildebrandt: "Simplifying and Isolating Failure-Inducing Input", IEEE TSE 2002.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, TypeVar

import numpy as np

from hintbench.operations import ORDER_SHIFT, Operation
from hintbench.testing.exploration import run_scenario
from hintbench.testing.races import races_of
from hintbench.testing.rules import RULES
from hintbench.testing.runs.outcome import RACE
from hintbench.testing.scenarios.guests import small_guest
from hintbench.testing.scenarios.scenario import Operations, Scenario

if TYPE_CHECKING:
    from hintbench.strategy import Strategy

Item = TypeVar("Item")

MOST_ROUNDS: Final = 4
"""How often all kinds of shrinking are tried in turn."""
_PAUSE: Final = -1


@dataclass(frozen=True, slots=True)
class Shrunk:
    """What shrinking has led to.

    Attributes:
        scenario: the smallest that was found; the one it began with if nothing smaller shows it.
        late: its time was over before it had tried everything.
    """

    scenario: Scenario
    late: bool


def shrink(
    make: Callable[[], Strategy],
    scenario: Scenario,
    key: tuple[str, str],
    seconds: float = 4.0,
) -> Scenario:
    """Find a smaller scenario that shows the same violation, as `shrink_within`."""
    return shrink_within(make, scenario, key, seconds).scenario


def shrink_within(
    make: Callable[[], Strategy],
    scenario: Scenario,
    key: tuple[str, str],
    seconds: float,
) -> Shrunk:
    """Find a smaller scenario that shows the same violation.

    Args:
        make: makes an instance of the strategy.
        scenario: one that shows it.
        key: rule and kind of the violation.
        seconds: wall time after which the smallest so far is good enough.

    Returns:
        The smallest that was found, and whether there was time to try everything.
    """
    shrinker = _Shrinker(make, scenario, key, time.perf_counter() + seconds)
    smallest = shrinker.shrink()
    return Shrunk(smallest, shrinker.cut_short)


class _Shrinker:
    def __init__(
        self,
        make: Callable[[], Strategy],
        scenario: Scenario,
        key: tuple[str, str],
        until: float,
    ) -> None:
        self.make = make
        self.best = scenario
        self.key = key
        self.until = until
        self.cut_short = False
        self.tolerated = frozenset(RULES)
        # Detectors change nothing, and to look for nothing else saves a third of the time.
        self.races = [race for race in races_of(make()) if key == (RACE, race.name)]

    def shrink(self) -> Scenario:
        if self.best.preemptions or self.best.faults:
            # Most need neither, and then every step below costs less.
            self._try(self.best.but(preemptions=(), faults=()))
        self._cut_tail()
        self._no_pauses()
        for _ in range(MOST_ROUNDS):
            before = self._measure()
            self._fewer_operations()
            self._fewer("preemptions")
            self._fewer("faults")
            self._fewer_vcpus()
            self._smaller_guest()
            self._larger_blocks()
            self._rounder_delays()
            if self._measure() == before or self._late:
                break
        return self.best

    def _measure(self) -> tuple[int, int, int]:
        return self.best.size, self.best.guest.vcpus, self.best.guest.memory_pages

    @property
    def _late(self) -> bool:
        self.cut_short = self.cut_short or time.perf_counter() > self.until
        return self.cut_short

    def _try(self, scenario: Scenario) -> bool:
        """Keep a scenario if it shows the violation."""
        if self._late:
            return False
        outcome = run_scenario(
            self.make, scenario, self.tolerated, stop_at=self.key, races=self.races
        )
        if outcome.shown(self.key) is not None:
            self.best = scenario
            return True
        return False

    # -- operations -----------------------------------------------------------------------------

    def _cut_tail(self) -> None:
        """Leave out what comes last, by halves: most of a run comes after the violation."""
        cut = len(self.best.operations) // 2
        while cut and not self._late:
            operations = self.best.operations
            keep = np.arange(len(operations)) < len(operations) - cut
            if cut < len(operations) and self._try(
                self.best.but(operations=_whole(operations, keep))
            ):
                cut = min(cut, len(self.best.operations) // 2)
            else:
                cut //= 2

    def _no_pauses(self) -> None:
        """Leave out all that only passes time, or all that is idle."""
        operations = self.best.operations
        if not operations.on_slots.all():
            idle = operations.operation == int(Operation.IDLE)
            for keep in (operations.on_slots, ~idle):
                if self._try(self.best.but(operations=operations.keep(keep))):
                    return

    def _fewer_operations(self) -> None:
        """Leave out groups: a slot's allocation and free together, or a pause."""
        operations = self.best.operations
        groups = np.where(operations.on_slots, operations.value, _PAUSE)
        pauses = np.flatnonzero(groups == _PAUSE)
        top = int(groups.max(initial=0)) + 1
        groups[pauses] = top + np.arange(len(pauses))
        names = sorted(set(groups.tolist()))

        def without(left: Sequence[int]) -> Scenario:
            return self.best.but(operations=operations.keep(np.isin(groups, left)))

        self._minimise(names, without)
        # A free that is not needed is one step less.
        at = len(self.best.operations) - 1
        while at >= 0 and not self._late:
            operations = self.best.operations
            if operations.operation[at] == int(Operation.FREE):
                keep = np.arange(len(operations)) != at
                self._try(self.best.but(operations=operations.keep(keep)))
            at -= 1

    def _minimise(self, items: list[Item], build: Callable[[Sequence[Item]], Scenario]) -> None:
        """Delta debugging: leave out ever smaller chunks."""
        size = max(1, len(items) // 2)
        while items and not self._late:
            at, shrunk = 0, False
            while at < len(items):
                left = items[:at] + items[at + size :]
                if self._try(build(left)):
                    items, shrunk = left, True
                else:
                    at += size
            if size == 1 and not shrunk:
                break
            size = max(1, size // 2)

    # -- the rest -------------------------------------------------------------------------------

    def _fewer(self, name: str) -> None:
        """Leave out preemptions or faults."""
        items: list[Any] = list(getattr(self.best, name))
        if items and not self._try(self.best.but(**{name: ()})):
            self._minimise(items, lambda left: self.best.but(**{name: tuple(left)}))

    def _fewer_vcpus(self) -> None:
        """Let the vCPUs that are left do what the last of them did."""
        for count in range(1, self.best.guest.vcpus):
            operations = self.best.operations
            moved = Operations(
                operations.vcpu % count, operations.code, operations.value, operations.time_ns
            )
            faults = tuple(each for each in self.best.faults if each.cpu < count)
            guest = self.best.guest.model_copy(update={"vcpus": count})
            if self._try(self.best.but(operations=moved, guest=guest, faults=faults)):
                return

    def _smaller_guest(self) -> None:
        """Try the smallest guests."""
        config = self.best.guest
        for layout in ("tiny", "half", "one"):
            small = small_guest(config.kernel, layout, "device", config.vcpus)
            small = small.model_copy(update={"host": config.host})
            if small.memory_pages < config.memory_pages and self._try(self.best.but(guest=small)):
                return

    def _larger_blocks(self) -> None:
        """One block of the largest order does for many that only use memory up.

        Or it needs fewer to merge. What is too much for the guest fails, and shows nothing.
        """
        operations = self.best.operations
        orders = operations.order
        allocates = operations.operation == int(Operation.ALLOCATE)
        for small in sorted(set(orders[allocates].tolist())):
            for large in (10, 9, 7):
                if small >= large or self._late:
                    continue
                code = operations.code.copy()
                code[allocates & (orders == small)] += (large - small) << ORDER_SHIFT
                before = self.best
                if not self._try(before.but(operations=replace(operations, code=code))):
                    continue
                self._fewer_operations()
                if len(self.best.operations) < len(operations):
                    return
                self.best = before

    def _rounder_delays(self) -> None:
        """Powers of ten are easier to read."""
        for at, each in enumerate(self.best.preemptions):
            for delay_ns in (1_000, 10_000, 100_000, 1_000_000):
                if delay_ns < each.delay_ns:
                    rounded = type(each)(each.point, each.number, delay_ns)
                    changed = list(self.best.preemptions)
                    changed[at] = rounded
                    if self._try(self.best.but(preemptions=tuple(changed))):
                        break


def _whole(operations: Operations, keep: np.ndarray) -> Operations:
    """Without operations on slots whose allocation is left out."""
    allocated = operations.value[
        keep & operations.on_slots & (operations.operation == int(Operation.ALLOCATE))
    ]
    alive = ~operations.on_slots | np.isin(operations.value, allocated)
    return operations.keep(keep & alive)
