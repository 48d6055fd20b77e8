"""A lock that is one number gives the very waiting times of a queue made of events."""

from __future__ import annotations

import array
import random

import pytest

from hintbench.config.costs import Costs
from hintbench.config.guest import GuestConfig
from hintbench.core.clock import CostTable, VirtualClock
from hintbench.core.constants import (
    PAYER_HOOK,
    PAYER_INTERRUPT,
    PAYER_KERNEL,
    PAYER_TASK,
    PAYER_THREAD,
)
from hintbench.core.holds import HoldMeter
from hintbench.core.locks import LockTimeline
from hintbench.guest.boot import Machine

from .driver import scaled

TAKE_NS, HANDOFF_NS = 20, 100


class Locked:
    """A lock, its clock, and requests that are made in the order of their times."""

    def __init__(self, cpus: int = 8) -> None:
        costs = Costs(lock_take_ns=TAKE_NS, lock_handoff_ns=HANDOFF_NS)
        self.clock = VirtualClock(CostTable(**costs.model_dump()))
        self.irqs_off_until = memoryview(array.array("q", [0] * cpus))
        self.lock = LockTimeline(self.clock, "lock", self.irqs_off_until)

    def hold(self, at_ns: int, cpu: int, hold_ns: int, payer: int = PAYER_THREAD) -> int:
        """One critical section; how long its request waited."""
        self.clock.now = at_ns
        self.clock.cpu = self.clock.context = cpu
        self.clock.payer = payer
        waited = self.lock.take()
        self.clock.now += hold_ns
        assert self.lock.release() == hold_ns
        return waited


def requests(rng: random.Random, count: int, cpus: int) -> list[tuple[int, int, int]]:
    """(when, which CPU, how long), in order; sometimes crowded, sometimes not."""
    now = 0
    found = []
    for _ in range(count):
        now += rng.choice((0, rng.randrange(50), rng.randrange(2000)))
        found.append((now, rng.randrange(cpus), rng.choice((0, 5, rng.randrange(1500)))))
    return found


@pytest.mark.parametrize("seed", range(4))
def test_waiting_times_are_those_of_simpy(seed: int) -> None:
    simpy = pytest.importorskip("simpy")
    asked = requests(random.Random(seed), scaled(3000, 4), 8)
    timeline = Locked()
    waits = [timeline.hold(*request) for request in asked]

    environment = simpy.Environment()
    resource = simpy.Resource(environment, capacity=1)
    expected: dict[int, int] = {}
    last_cpu = -1

    def customer(number: int, at_ns: int, cpu: int, hold_ns: int):  # type: ignore[no-untyped-def]
        nonlocal last_cpu
        yield environment.timeout(at_ns)
        with resource.request() as request:
            yield request
            expected[number] = environment.now - at_ns
            handoff = HANDOFF_NS if cpu != last_cpu else 0
            last_cpu = cpu
            yield environment.timeout(handoff + TAKE_NS + hold_ns)

    for number, request in enumerate(asked):
        environment.process(customer(number, *request))
    environment.run()
    assert waits == [expected[number] for number in range(len(asked))]
    assert any(waits)
    assert not all(waits)


def test_the_first_to_come_is_the_first_to_go() -> None:
    timeline = Locked()
    assert timeline.hold(0, 0, 1000) == 0
    released = timeline.clock.now
    assert released == HANDOFF_NS + TAKE_NS + 1000
    assert timeline.hold(10, 1, 50) == released - 10
    second = timeline.clock.now
    assert second == released + HANDOFF_NS + TAKE_NS + 50
    assert timeline.hold(20, 2, 5) == second - 20
    assert timeline.hold(timeline.clock.now, 2, 5) == 0
    assert timeline.lock.takes == 4
    assert timeline.lock.contended == 2
    assert timeline.lock.longest_wait_ns == second - 20


def test_the_hand_off_is_paid_by_another_cpu_only() -> None:
    timeline = Locked()
    timeline.hold(0, 3, 0)
    for at_ns, cpu, expected in (
        (1000, 3, TAKE_NS),
        (2000, 4, HANDOFF_NS + TAKE_NS),
        (3000, 4, TAKE_NS),
        (4000, 3, HANDOFF_NS + TAKE_NS),
    ):
        timeline.hold(at_ns, cpu, 0)
        assert timeline.clock.now == at_ns + expected


def test_time_is_booked_to_who_pays() -> None:
    timeline = Locked()
    payers = (PAYER_THREAD, PAYER_TASK, PAYER_INTERRUPT, PAYER_TASK, PAYER_HOOK, PAYER_KERNEL)
    for number, payer in enumerate(payers):
        timeline.hold(0, number, 100 * (number + 1), payer)
    lock = timeline.lock
    assert lock.takes_of == (1, 2, 1, 1, 1)
    assert lock.hold_ns == (100, 200 + 400, 300, 500, 600)
    assert lock.longest_hold_ns == (100, 400, 300, 500, 600)
    step = HANDOFF_NS + TAKE_NS
    ends = [step + 100, 2 * step + 300, 3 * step + 600, 4 * step + 1000, 5 * step + 1500]
    assert lock.wait_ns == (0, ends[0] + ends[2], ends[1], ends[3], ends[4])
    # Interrupts are off from the request on.
    assert lock.longest_irqs_off_ns == (ends[0], ends[3], ends[2], ends[4], 6 * step + 2100)


def test_interrupts_are_off_until_the_release() -> None:
    timeline = Locked(cpus=2)
    timeline.hold(0, 1, 500)
    assert list(timeline.irqs_off_until) == [0, HANDOFF_NS + TAKE_NS + 500]


def test_nobody_takes_what_is_held_or_releases_what_is_not() -> None:
    timeline = Locked()
    timeline.lock.take()
    assert timeline.lock.held_here
    with pytest.raises(RuntimeError, match="taken by"):
        timeline.lock.take()
    timeline.lock.release()
    with pytest.raises(RuntimeError, match="nobody holds it"):
        timeline.lock.release()


def test_another_context_does_not_hold_it() -> None:
    timeline = Locked()
    timeline.clock.context = 1
    with timeline.lock:
        assert timeline.lock.held_here
        timeline.clock.context = 2
        assert timeline.lock.held
        assert not timeline.lock.held_here
        timeline.clock.context = 1
    assert not timeline.lock.held


def test_an_observer_sees_every_take_and_release() -> None:
    timeline = Locked()
    seen: list[tuple[str, bool]] = []
    timeline.lock.observer = lambda what, lock: seen.append((what, lock.held))
    timeline.hold(0, 0, 1)
    assert seen == [("take", True), ("release", False)]


def test_meters_are_asked_in_turn() -> None:
    machine = Machine(GuestConfig(vcpus=1), [iter(())], 1, 1)
    zone = machine.zones[0]
    exceeded: list[int] = []
    first = HoldMeter((zone,), 3, exceeded.append)
    zone.lock.meter = HoldMeter((zone,), 5, lambda looked: exceeded.append(-looked), first)
    for visits in (3, 5, 6):
        with zone.lock:
            zone.visits += visits
    assert exceeded == [5, 6, -6]
