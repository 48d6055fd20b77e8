"""Stories 8 to 15 of the posted v9: its arrays, what it holds, and what it never tells.

Not among them is 14, the compound order that is read without a reference while the huge page is
split: the modelled workloads free a compound page whole, and nobody splits one in use.

Source: reference strategies, percpu-array-v9; Hildenbrand on the depletion of order-10 blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from hintbench.core.constants import EVENT_TAKEN
from hintbench.core.holds import HookTakes
from hintbench.testing.races.race import ReportsRace
from hintbench.testing.races.torn import Story

if TYPE_CHECKING:
    from hintbench.core.zone import Zone
    from hintbench.testing.runs.outcome import Violation


class ArrayStory(Story):
    """What these detectors share: the arrays, looked at without the rules of per-CPU state."""

    @property
    def arrays(self) -> Sequence[Any]:
        """The array of each CPU."""
        arrays: Sequence[Any] = self.strategy.arrays.peek()
        return arrays


class NestedPass(ArrayStory):
    """See `text`."""

    name = "8-sleeping-allocation-nested-pass"
    number = 8
    text = (
        "a sleeping allocation turns interrupts on; one frees, and its nested pass clears the"
        " array; the outer pass goes on over empty slots, and scans from pfn 0"
    )

    def __init__(self, run: Any) -> None:
        super().__init__(run)
        for zone in run.guest.zones:
            zone.lock.meter = HookTakes(run.scheduler, self.hook_took, zone.lock.meter)

    def hook_took(self, cpu: int) -> None:
        """Does a pass begin with an empty array?"""
        if self.run.scheduler.hooks[cpu].name != "free_completed":
            return
        array = self.arrays[cpu]
        if array.index == 0 and not any(array.pfns):
            self.happened()


class InTwoArrays(ArrayStory):
    """See `text`."""

    name = "9-one-block-in-two-arrays"
    number = 9
    text = (
        "a block is in two CPUs' arrays; the second to look for it visits every page that it had,"
        " with the zone lock held"
    )

    def __init__(self, run: Any) -> None:
        super().__init__(run)
        self.gone: dict[int, int] = {}

    def isolated(self, zone: Zone, pfn: int, order: int) -> None:
        """Who else has it in an array?"""
        here = self.run.machine.clock.cpu
        for cpu, array in enumerate(self.arrays):
            if cpu != here and pfn in array.pfns[: array.index]:
                self.gone[cpu] = pfn

    def violated(self, violation: Violation) -> None:
        """The second one's walk."""
        if violation.rule == "bounded-hold" and violation.cpu in self.gone:
            pages = 1 << self.strategy.parameters.min_order
            self.happened(self.gone[violation.cpu], pages)


class ArrayFull(Story):
    """See `text`."""

    name = "10-array-full-dropped-for-ever"
    number = 10
    text = "a capture meets a full array, and no later pass finds the block"

    def violated(self, violation: Violation) -> None:
        """The declared time is over."""
        if violation.rule == "no-silent-drop":
            self.happened(violation.pfn, violation.pages)


class Residue(ArrayStory):
    """See `text`."""

    name = "11-residue-never-told"
    number = 11
    text = "a residue below the threshold stays in an array, and is never told"

    def violated(self, violation: Violation) -> None:
        """The declared time is over."""
        if violation.rule == "liveness":
            pages = range(violation.pfn, violation.pfn + violation.pages)
            if any(pfn in pages for array in self.arrays for pfn in array.pfns[: array.index]):
                self.happened(violation.pfn, violation.pages)


class AllHoldSome(ReportsRace, Story):
    """See `text`."""

    name = "12-cpus-isolate-allocation-fails"
    number = 12
    text = "several CPUs have isolated blocks at once; an allocation fails that they would serve"

    def violated(self, violation: Violation) -> None:
        """It fails."""
        if violation.rule == "no-false-oom" and len({each.cpu for each in self.open}) > 1:
            self.happened()


class NoDevice(Story):
    """See `text`."""

    name = "13-no-device-blocks-leak"
    number = 13
    text = "there is no device: the isolated blocks leak"

    def violated(self, violation: Violation) -> None:
        """They have never come back."""
        if violation.rule == "returned" and not self.run.guest.host.attached:
            self.happened(violation.pfn, violation.pages)


class Depleted(Story):
    """See `text`."""

    name = "15-depleted-lower-orders-split"
    number = 15
    text = (
        "all blocks of the minimum order are isolated; allocations split smaller ones, which"
        " never merge back and are never told"
    )

    kinds = (EVENT_TAKEN,)
    costly = True

    def __init__(self, run: Any) -> None:
        super().__init__(run)
        self.split: set[int] = set()

    def page_event(self, cpu: int, kind: int, pfn: int, order: int) -> None:
        """An allocation finds no large block, since they are all in v9's hands."""
        least = self.strategy.parameters.min_order
        if order >= least or pfn & -(1 << least) in self.split:
            return
        zone = self.run.guest.zone_of(pfn)
        if zone.isolated_pages and not any(zone.free_counts()[least:]):
            self.split.add(pfn & -(1 << least))

    def at_settled(self) -> None:
        """Are they still in pieces, with something free in them that nobody ever told?"""
        pages = 1 << self.strategy.parameters.min_order
        for unit in sorted(self.split):
            orders = [self.order_at(pfn) for pfn in range(unit, unit + pages)]
            in_pieces = all((1 << max(each, 0)) < pages for each in orders)
            untold = self.run.auditor.first_untold
            if in_pieces and any(
                order >= 0 and untold(unit + at, 1) >= 0 for at, order in enumerate(orders)
            ):
                self.happened(unit, pages)


RACES: Final[tuple[type[Story], ...]] = (
    NestedPass,
    InTwoArrays,
    ArrayFull,
    Residue,
    AllHoldSome,
    NoDevice,
    Depleted,
)
