"""One schedule as data: a guest, what its vCPUs do, who is late where, and what goes wrong.

A scenario says everything that a run depends on besides the strategy, so the same scenario gives
the same run, and a smaller one that still shows a violation is a better counterexample.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from hintbench.operations import Operation, OperationBlock
from hintbench.plugins.parameters import NoParameters
from hintbench.testing.schedules.preemption import Preemption
from hintbench.workload import Program

if TYPE_CHECKING:
    from hintbench.config.guest import GuestConfig


class Fault(NamedTuple):
    """Something goes wrong.

    Attributes:
        kind: one of `hintbench.testing.scenarios.faults.KINDS`.
        number: which time, from 1 on, of what the kind counts (reports, answers, buffers ...); of
            an interrupt that comes at a time, that [virtual ns].
        amount: how long [virtual ns], or how many batches or pages, as the kind has it.
        cpu: where, for interrupts.
    """

    kind: str
    number: int
    amount: int = 0
    cpu: int = 0


@dataclass(frozen=True, slots=True)
class Operations:
    """What the vCPUs do, in one order for all of them.

    Each operation belongs to one vCPU, which does its own in this order; a free waits for its
    slot's allocation, whoever makes it. Since every allocation precedes its free here, no two
    vCPUs can wait for each other.

    Attributes:
        vcpu, code, value, time_ns: equally long arrays; code, value and time as in a tape.
    """

    vcpu: npt.NDArray[np.int8]
    code: npt.NDArray[np.uint32]
    value: npt.NDArray[np.int32]
    time_ns: npt.NDArray[np.int64]

    @classmethod
    def from_rows(cls, rows: Sequence[tuple[Any, ...]]) -> Operations:
        """Operations from (vCPU, code, slot or 0, time) of each."""
        table = np.array(rows, dtype=np.int64)
        return cls(
            table[:, 0].astype(np.int8),
            table[:, 1].astype(np.uint32),
            table[:, 2].astype(np.int32),
            table[:, 3],
        )

    def __len__(self) -> int:
        return len(self.code)

    @property
    def operation(self) -> npt.NDArray[np.integer]:
        """The operation of each entry."""
        return self.as_tape.operation

    @property
    def order(self) -> npt.NDArray[np.integer]:
        """The order of each entry; only allocations have one."""
        return self.as_tape.order

    @property
    def as_tape(self) -> OperationBlock:
        """All of them as one block, as if one vCPU did them."""
        return OperationBlock(self.code, self.value, self.time_ns)

    @property
    def on_slots(self) -> npt.NDArray[np.bool_]:
        """Which operations name a slot, rather than passing time."""
        return self.operation <= int(Operation.TOUCH)

    def keep(self, mask: npt.NDArray[Any]) -> Operations:
        """Those that a mask or an index picks."""
        return Operations(self.vcpu[mask], self.code[mask], self.value[mask], self.time_ns[mask])

    def tapes(self, vcpus: int) -> list[OperationBlock]:
        """One block a vCPU."""
        # One stable sort, by counting since these are bytes, costs less than a mask for each.
        order = np.argsort(self.vcpu, kind="stable")
        code, value, time_ns = self.code[order], self.value[order], self.time_ns[order]
        ends = np.searchsorted(self.vcpu[order], np.arange(vcpus + 1)).tolist()
        return [
            OperationBlock(code[first:end], value[first:end], time_ns[first:end])
            for first, end in pairwise(ends)
        ]


@dataclass(frozen=True, slots=True)
class Scenario:
    """Everything a run depends on besides the strategy.

    Attributes:
        guest: the guest, its host and its prices.
        operations: what its vCPUs do.
        preemptions: who is late where.
        faults: what goes wrong.
        seed: of the strategy's random numbers and the digest.
        settle: after the last operation wait until the strategy must have told everything;
            otherwise it is stopped at once, with whatever is in flight.
        family: what kind of scenario it is, for reports.
        own_constants: the strategy runs with its own default parameters, not with the small ones
            for exploration.
    """

    guest: GuestConfig
    operations: Operations
    preemptions: tuple[Preemption, ...] = ()
    faults: tuple[Fault, ...] = ()
    seed: int = 1
    settle: bool = True
    family: str = ""
    own_constants: bool = False

    def but(self, **changes: Any) -> Scenario:
        """A copy with some fields changed."""
        return replace(self, **changes)

    @property
    def size(self) -> int:
        """How much there is to tell: operations, preemptions and faults."""
        return len(self.operations) + len(self.preemptions) + len(self.faults)


_NO_PARAMETERS: Final = NoParameters()


@dataclass(slots=True)
class ScenarioWorkload:
    """The workload that a scenario's operations are.

    It stands where a workload plugin stands in an ordinary run.
    """

    operations: Operations
    name: str = "scenario"
    parameters: NoParameters = _NO_PARAMETERS

    def program(self, setting: Any) -> Program:
        """The tapes."""
        slots, blocks = _prepared(self.operations, setting.vcpus)
        return Program(slots, tuple(iter((block,)) for block in blocks), len(self.operations))


_last_prepared: list[tuple[Operations, int, tuple[int, list[OperationBlock]]]] = []
"""The operations prepared last, for so many vCPUs: scenarios in a row share them."""


def _prepared(operations: Operations, vcpus: int) -> tuple[int, list[OperationBlock]]:
    """How many slots operations use, and one block of them a vCPU, which nobody changes."""
    for known, cpus, prepared in _last_prepared:
        if known is operations and cpus == vcpus:
            return prepared
    slots = 1
    if len(operations):
        slots += int(operations.value[operations.on_slots].max(initial=0))
    prepared = slots, operations.tapes(vcpus)
    _last_prepared[:] = [(operations, vcpus, prepared)]
    return prepared


def join(parts: Sequence[Operations]) -> Operations:
    """One after the other."""
    return Operations(
        np.concatenate([part.vcpu for part in parts]),
        np.concatenate([part.code for part in parts]),
        np.concatenate([part.value for part in parts]),
        np.concatenate([part.time_ns for part in parts]),
    )
