"""Rules that are checked by comparing runs, and the scenarios made for that."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from hintbench.core.constants import EVENT_ALLOCATED
from hintbench.operations import Operation, encode
from hintbench.runner import Run
from hintbench.testing.exploration import Exploration, run_scenario
from hintbench.testing.rules import RULES
from hintbench.testing.runs.outcome import Outcome, Violation
from hintbench.testing.scenarios.families import OPERATIONS, draw_scenario
from hintbench.testing.scenarios.guests import small_guest
from hintbench.testing.scenarios.handfuls import handful_scenario
from hintbench.testing.scenarios.scenario import Operations, Scenario, ScenarioWorkload

if TYPE_CHECKING:
    from hintbench.strategy import Strategy
    from hintbench.testing.runs.explored import ExploredRun

COMPARED: Final = frozenset({"deterministic", "off-is-none", "any-pfn"})
"""Those rules; how much is compared does not depend on how much else is explored."""
TWICE: Final = 4
"""How many long scenarios are run twice, and how many attached but off."""
SHORT_TWICE: Final = 16
"""How many short scenarios are run twice: the order of a set of two zones is right in every
second, by chance."""
QUIET_NS: Final = 2_000_000_000
"""How long nothing happens before the block is freed whose pages are freed one by one, at least
[virtual ns]."""
COMPANIONS: Final = 4
"""How many further blocks are freed for strategies that do nothing about one alone."""
_GAPS: Final = (*range(16, 1_024, 16), *range(1_024, 4_096, 128))
"""Sizes of the gaps that are left in memory between two runs [bytes]."""
_GAPS_OF_A_SIZE: Final = 6
_FILLER: Final = 300
"""Pages freed after the block, so that its own leave the per-CPU list."""


def compare(make: Callable[[], Strategy], seed: int) -> Exploration:
    """Run what has to be compared.

    Args:
        make: makes an instance of the strategy.
        seed: of the scenarios.

    Returns:
        Violations of deterministic, off-is-none and any-pfn, with the scenarios that show them,
        and why any-pfn could not be put to the test.
    """
    found = Exploration()
    strategy = make()
    kept: list[Any] = []
    for scenario in scenarios_to_repeat(seed, strategy.kernels):
        _twice(make, scenario, found, kept)
        if found.error is not None:
            return found
        if scenario.seed < seed + TWICE and len(scenario.operations) >= OPERATIONS:
            _off(make, scenario, found)
    for run in kept[::2]:
        run.dismantle()
    claims = strategy.claims()
    if claims.any_pfn and claims.min_order is not None:
        _any_pfn(make, found)
    return found


def scenarios_to_repeat(seed: int, kernels: Sequence[str]) -> list[Scenario]:
    """The scenarios whose runs have to be the same again: some long ones, and some short ones.

    These have several zones: whoever walks a set of zones walks it in an order of its own.

    Args:
        seed: of the scenarios.
        kernels: the kernels to choose from.
    """
    handfuls = (handful_scenario(number, kernels) for number in itertools.count(seed))
    several = (each for each in handfuls if each.settle and len(each.guest.zones or ()) > 1)
    return [
        *(draw_scenario(number, kernels) for number in range(seed, seed + TWICE)),
        *itertools.islice(several, SHORT_TWICE),
    ]


def digests_of(make: Callable[[], Strategy], seed: int) -> list[str]:
    """What another process must find too, where texts have other hashes.

    Args:
        make: makes an instance of the strategy.
        seed: of the scenarios.

    Returns:
        The digest of each of `scenarios_to_repeat`.
    """
    strategy = make()
    scenarios, tolerated = scenarios_to_repeat(seed, strategy.kernels), _declared_of(strategy)
    return [run_scenario(make, each, tolerated).digest for each in scenarios]


def _declared_of(strategy: Strategy) -> frozenset[str]:
    """What ends no run that is compared; what else is broken may go round in a circle for ever."""
    return frozenset(strategy.declared_failures)


def compare_digests(strategy: Strategy, seed: int, digests: Sequence[Sequence[str]]) -> Exploration:
    """Whether several processes found the same.

    Args:
        strategy: whose runs they were.
        seed: of the scenarios.
        digests: what `digests_of` returned in each process.
    """
    found = Exploration()
    scenarios = scenarios_to_repeat(seed, strategy.kernels)
    for scenario, several in zip(scenarios, zip(*digests, strict=True), strict=True):
        if len(set(several)) > 1:
            text = (
                f"the same scenario gave the digests {' and '.join(several)} in processes in which"
                " hash() of a text differs: sort what comes out of a set"
            )
            _add(found, scenario, "deterministic", text)
            break
    return found


def _add(found: Exploration, scenario: Scenario, rule: str, text: str) -> None:
    violation = Violation(rule, "", text, 0, -1, "a comparison of runs")
    found.add(scenario, Outcome({(rule, ""): violation}, {rule: 1}))


def _twice(
    make: Callable[[], Strategy], scenario: Scenario, found: Exploration, kept: list[Any]
) -> None:
    # What is kept of earlier runs, and the gaps beside it, make that of the later ones lie
    # elsewhere in memory, in another order: one that follows from id() shows.
    tolerated = _declared_of(make())
    first = run_scenario(make, scenario, tolerated, attach=kept.append)
    kept.append(_stir(random.Random(len(kept))))
    second = run_scenario(make, scenario, tolerated)
    found.schedules += 2
    if first.error or second.error:
        # One that is ended by the wall clock ends elsewhere the next time.
        found.error = found.error or (first.error or second.error, scenario)
    elif first.digest != second.digest:
        text = f"the same scenario gave the digests {first.digest} and {second.digest}"
        _add(found, scenario, "deterministic", text)


def _stir(rng: random.Random) -> list[bytes]:
    """Leave gaps of all sizes in memory, in any order, which what is made next fills in that order.

    Args:
        rng: of the order.

    Returns:
        What keeps the gaps apart.
    """
    made = [bytes(size) for size in _GAPS for _ in range(2 * _GAPS_OF_A_SIZE)]
    kept, given = made[::2], made[1::2]
    del made
    rng.shuffle(given)
    while given:
        given.pop()
    return kept


def _off(make: Callable[[], Strategy], scenario: Scenario, found: Exploration) -> None:
    from hintbench.strategy import Strategy

    digests = []
    for strategy in (Strategy(), make()):
        workload: Any = ScenarioWorkload(scenario.operations)
        run = Run(strategy, workload, scenario.guest, scenario.seed, attached_but_off=True)
        digests.append(run.execute().digest)
    found.schedules += 1
    if digests[0] != digests[1]:
        text = f"attached but off gave the digest {digests[1]}, no strategy {digests[0]}"
        _add(found, scenario, "off-is-none", text)


def _any_pfn(make: Callable[[], Strategy], found: Exploration) -> None:
    """Free one block page by page, so that its head, a middle page, or its tail comes last."""
    min_order = make().claims().min_order or 0
    told: dict[str, bool] = {}
    failing: list[Scenario] = []
    # A strategy that waits until it has several blocks gets them only when one alone leads to
    # nothing: what it does about the others may lead it to the one that matters.
    for companions in (0, COMPANIONS):
        for name, scenario, target in _places(make, companions):
            told[name] = _is_told(make, scenario, target, 1 << min_order)
            found.schedules += 1
            if not told[name]:
                failing.append(scenario)
        if any(told.values()):
            break
    if not told:
        found.unshown["any-pfn"] = f"no whole block of order {min_order} was allocated to be freed"
    elif not any(told.values()):
        found.unshown["any-pfn"] = (
            f"a block of order {min_order} is not told whichever of its pages is freed last"
        )
    elif not all(told.values()):
        names = " or ".join(name for name, yes in told.items() if not yes)
        text = f"a block of order {min_order} is not told when its {names} page is freed last"
        _add(found, failing[-1], "any-pfn", text)


def _places(make: Callable[[], Strategy], companions: int) -> Iterator[tuple[str, Scenario, int]]:
    """Scenarios that free a block with another of its pages last each.

    Args:
        make: makes an instance of the strategy.
        companions: how many further blocks are freed after it.

    Yields:
        Which page is the last, the scenario, and the block's first page.
    """
    strategy = make()
    claims, kernels = strategy.claims(), strategy.kernels
    # What was free at the start has been told by then, or is no candidate any more: only the free
    # itself can lead to the block.
    quiet_ns = max(claims.liveness_bound_ns or 0, QUIET_NS)
    kernel = "5.0" if "5.0" in kernels else kernels[0]
    guest = small_guest(kernel, "one", "device", 1)
    pages = 1 << (claims.min_order or 0)
    count = (3 + 2 * companions) * pages + 2 * _FILLER
    before = Scenario(guest, _allocations(count), settle=False)
    slots = {pfn: slot for slot, pfn in enumerate(_allocated(make, before))}
    whole = [
        pfn
        for pfn in slots
        if pfn % pages == 0 and all(each in slots for each in range(pfn, pfn + pages))
    ]
    if not whole:
        return
    target = whole[0]
    # Every other one: no two of them merge.
    further = [pfn for pfn in whole[1:] if pfn & pages == target & pages][:companions]
    used = {each for pfn in (target, target ^ pages, *further) for each in range(pfn, pfn + pages)}
    filler = [pfn for pfn in slots if pfn not in used][::2][:_FILLER]
    after = [each for pfn in further for each in range(pfn, pfn + pages)]
    places = {"head": target, "middle": target + pages // 3, "tail": target + pages - 1}
    for name, last in places.items():
        order = [each for each in range(target, target + pages) if each != last] + [last]
        frees = [slots[pfn] for pfn in (*order, *after, *filler)]
        operations = _allocations(count, frees, quiet_ns)
        yield name, before.but(operations=operations, settle=True), target


def _allocated(make: Callable[[], Strategy], scenario: Scenario) -> list[int]:
    """The pages that a scenario gets, in the order of its allocations."""
    pfns: list[int] = []

    def remember(_time: int, _cpu: int, kind: int, pfn: int, _order: int) -> None:
        if kind == EVENT_ALLOCATED:
            pfns.append(pfn)

    run_scenario(make, scenario, frozenset(RULES), remember)
    return pfns


def _allocations(count: int, frees: Sequence[int] = (), quiet_ns: int = QUIET_NS) -> Operations:
    """Single pages into all slots, nothing for a while, then some of them back."""
    slots = np.array([*range(count), 0, *frees], dtype=np.int32)
    codes = np.full(len(slots), encode(Operation.FREE), dtype=np.uint32)
    codes[:count] = encode(Operation.ALLOCATE, 0, 1, 0)
    codes[count] = encode(Operation.IDLE)
    times = np.zeros(len(slots), dtype=np.int64)
    times[count] = quiet_ns
    return Operations(np.zeros(len(slots), dtype=np.int8), codes, slots, times)


def _is_told(make: Callable[[], Strategy], scenario: Scenario, target: int, pages: int) -> bool:
    """Whether the host has been told of a block in the end."""
    runs: list[ExploredRun] = []
    run_scenario(make, scenario, frozenset(RULES), attach=runs.append)
    return runs[0].auditor.first_untold(target, pages) < 0
