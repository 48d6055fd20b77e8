"""Preemptions: the decisions by which a schedule differs from the undisturbed one.

Virtual time decides who runs next: whoever has the lowest clock.  A schedule is explored by making
some contexts late, at points where a real machine can lose time to its hypervisor, to an interrupt
or to a slow cache line: before a step, right after a lock was granted, and between the parts of an
edit that nobody locked.  Each point has a number in its own sequence, so a schedule is a short
list of (point, number, delay), and the same list gives the same run again.
"""

import array
from collections.abc import Iterable

import cython

STEP = 0
HOLD = 1
EDIT = 2
EVENT = 3
POINTS = 4
"""How many kinds of points there are: before a step, with a lock held, inside an unlocked edit,
and before a step that is not a vCPU's: those of tasks, interrupts and the host are few, and counted
apart, so that a schedule can aim at them."""


class EndlessRunError(RuntimeError):
    """A run takes steps without end."""

    def __init__(self, steps: int) -> None:
        super().__init__(f"no end after {steps:,} steps: does a loop let no time pass?")


@cython.final
@cython.cclass
class Preemptions:
    """The delays of one schedule.

    Args:
        delays: (point, number, virtual nanoseconds) each; numbers count from 1 and each point's
            are taken in ascending order.

    Attributes:
        steps, holds, edits, events: how many points of each kind have been passed.
        taken: how many delays have been applied.
        most_steps: after so many steps the run is ended as one that gets nowhere.
    """

    def __init__(self, delays: Iterable[tuple[int, int, int]] = ()) -> None:
        chosen: list[dict[int, int]] = [{} for _ in range(POINTS)]
        for point, number, delay_ns in delays:
            if not 0 <= point < POINTS or number < 1 or delay_ns < 0:
                raise ValueError(f"preemption ({point}, {number}, {delay_ns}) is out of range")
            chosen[point][number] = delay_ns
        self.step_numbers, self.step_delays = _sequence(chosen[STEP])
        self.hold_numbers, self.hold_delays = _sequence(chosen[HOLD])
        self.edit_numbers, self.edit_delays = _sequence(chosen[EDIT])
        self.event_numbers, self.event_delays = _sequence(chosen[EVENT])
        self.events = 0
        self.event_at = 0
        self.steps = 0
        self.holds = 0
        self.edits = 0
        self.step_at = 0
        self.hold_at = 0
        self.edit_at = 0
        self.taken = 0
        self.most_steps = 1_000_000

    def at_step(self) -> cython.Py_ssize_t:
        """A vCPU, task, interrupt or the host is about to take a step; by how much it is late."""
        delay: cython.longlong
        self.steps += 1
        if self.steps != self.step_numbers[self.step_at]:
            if self.steps > self.most_steps:
                raise EndlessRunError(self.most_steps)
            return 0
        delay = self.step_delays[self.step_at]
        self.step_at += 1
        self.taken += 1
        return delay

    def at_event(self) -> cython.Py_ssize_t:
        """A task, interrupt or the host is about to take a step, which counts as one as well."""
        delay: cython.longlong
        self.events += 1
        if self.events != self.event_numbers[self.event_at]:
            return self.at_step()
        delay = self.event_delays[self.event_at]
        self.event_at += 1
        self.taken += 1
        return delay

    def at_hold(self) -> cython.Py_ssize_t:
        """A lock has been granted; for how long its holder loses its CPU."""
        delay: cython.longlong
        self.holds += 1
        if self.holds != self.hold_numbers[self.hold_at]:
            return 0
        delay = self.hold_delays[self.hold_at]
        self.hold_at += 1
        self.taken += 1
        return delay

    def at_edit(self) -> cython.Py_ssize_t:
        """Between two parts of an unlocked edit; for how long others run meanwhile."""
        delay: cython.longlong
        self.edits += 1
        if self.edits != self.edit_numbers[self.edit_at]:
            return 0
        delay = self.edit_delays[self.edit_at]
        self.edit_at += 1
        self.taken += 1
        return delay


def _sequence(delays: dict[int, int]) -> tuple[memoryview, memoryview]:
    """Numbers and delays in ascending order, with a number at the end that never comes."""
    numbers = sorted(delays)
    return (
        memoryview(array.array("q", [*numbers, 0x3FFFFFFFFFFFFFFF])),
        memoryview(array.array("q", [*(delays[number] for number in numbers), 0])),
    )
