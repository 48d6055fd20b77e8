"""The tapes of a modelled replay, made of a trace's windows while the guest goes through them.

A first pass counts what the guest must know beforehand: slots, operations, what was in use when
the trace began, and for each window and CPU the first operation. The tapes then make the windows
again, one after the other, when somebody needs more of them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hintbench.core import tracewords
from hintbench.core.tracepages import GIVE_BACK, HAND_OUT
from hintbench.core.traceslots import EMPTY, FILL, MOVE, DeferredFrees, SlotWalk
from hintbench.operations import Operation, OperationBlock, idle_until
from hintbench.traces.codes import allocation_codes
from hintbench.traces.steps import Steps, steps_in_order

if TYPE_CHECKING:
    import numpy.typing as npt

    from hintbench.traces.history import PageHistory
    from hintbench.traces.windows import Window

Blocks = tuple["npt.NDArray[np.int32]", "npt.NDArray[np.int8]", "npt.NDArray[np.int32]"]


@dataclass(frozen=True, slots=True)
class TapePlan:
    """What is known of a modelled replay's tapes before they are made.

    Attributes:
        slots: Slots that they use.
        operations: Their length together.
        in_use: Blocks in use at the start that the trace frees: pfn, order, slot.
        moves: Rows at which compaction freed what it had moved.
        first: By CPU the first operation of each window that has one: the window, and a block.
    """

    slots: int
    operations: int
    in_use: Blocks
    moves: npt.NDArray[np.int64]
    first: tuple[tuple[tuple[int, OperationBlock], ...], ...]


@dataclass(frozen=True, slots=True, eq=False)
class _Part:
    """The operations of one window, of all CPUs, in the order of the trace."""

    cpu: npt.NDArray[np.int16]
    block: OperationBlock
    moves: npt.NDArray[np.int64]

    def of(self, cpu: int) -> OperationBlock:
        return _some(self.block, np.flatnonzero(self.cpu == cpu))


class _Maker:
    """Goes through the windows of a trace and makes operations of them."""

    def __init__(self, found: PageHistory, begin_ns: int) -> None:
        self.begin_ns = begin_ns
        self.walk = SlotWalk(len(found.first))
        self.deferred = DeferredFrees(len(found.first))
        self.windows = found.windows()

    def __iter__(self) -> Iterator[_Part]:
        for window in self.windows:
            yield self._part(window)

    def _part(self, window: Window) -> _Part:
        """Allocations, and frees when they reach the per-CPU lists, in the order of the trace."""
        used, moved = _without_compaction(window, steps_in_order(window))
        is_free = used.action == GIVE_BACK
        what = np.where(is_free, EMPTY, FILL).astype(np.uint8)
        what[moved >= 0] = MOVE
        pages = int((1 << used.order.astype(np.int64)).sum())
        operation, slot = self.walk.walk(what, used.pfn, used.order, moved, pages)
        # An allocation's last entry fills its slot; all other entries empty one.
        fills = ~is_free[operation]
        fills[:-1] &= operation[1:] != operation[:-1]
        row = used.row[operation]
        waits = ~fills & window.deferred[row]
        row, slot, index = self.deferred.order(
            (row, slot, waits.view(np.uint8)), window.settling, window.trace.pfn
        )
        code = np.full(len(row), Operation.FREE, dtype=np.uint32)
        filling = np.flatnonzero(index >= 0)
        filling = filling[fills[index[filling]]]
        code[filling] = allocation_codes(window, used.only(operation[index[filling]]))
        times = window.trace.time_ns[row] - self.begin_ns
        moves = used.row[moved >= 0] + window.low
        return _Part(window.trace.cpu[row], OperationBlock(code, slot, times), moves)


def plan_tapes(found: PageHistory, vcpus: int, begin_ns: int) -> TapePlan:
    """Go through a trace once and count.

    Args:
        found: The trace, understood.
        vcpus: vCPUs of the guest.
        begin_ns: The trace's own time that becomes the virtual time 0.
    """
    maker = _Maker(found, begin_ns)
    first: list[list[tuple[int, OperationBlock]]] = [[] for _ in range(vcpus)]
    moves = [np.zeros(0, dtype=np.int64)]
    operations = 0
    for number, part in enumerate(maker):
        operations += len(part.cpu)
        moves.append(part.moves)
        for cpu, index in zip(*np.unique(part.cpu, return_index=True), strict=True):
            first[cpu].append((number, _some(part.block, np.array([index]))))
    return TapePlan(
        slots=maker.walk.slots(),
        operations=operations,
        in_use=maker.walk.in_use_at_start(),
        moves=np.concatenate(moves),
        first=tuple(map(tuple, first)),
    )


class TapeSource:
    """Makes the tapes of all vCPUs of a replay together, a window at a time.

    A window is made when a vCPU has begun with its own first operation in it, which it knows
    beforehand: no vCPU makes windows that are far ahead of the virtual time only because it has
    nothing to do until then. What is held is what the vCPUs that lag behind have before them.
    """

    def __init__(self, found: PageHistory, plan: TapePlan, begin_ns: int, end_ns: int) -> None:
        """Begin a replay.

        Args:
            found: The trace, understood.
            plan: What is known of its tapes.
            begin_ns: The trace's own time that becomes the virtual time 0.
            end_ns: When the replay ends [virtual ns].
        """
        self._parts = iter(_Maker(found, begin_ns))
        self._first = plan.first
        self._end_ns = end_ns
        self._made = 0
        self._waiting: tuple[deque[OperationBlock], ...] = tuple(deque() for _ in plan.first)

    def tapes(self) -> tuple[Iterator[OperationBlock], ...]:
        """The tape of each vCPU; each is read once."""
        return tuple(self._tape(cpu) for cpu in range(len(self._first)))

    def _tape(self, cpu: int) -> Iterator[OperationBlock]:
        for window, operation in self._first[cpu]:
            yield operation
            while self._made <= window:
                self._make()
            rest = self._waiting[cpu].popleft()
            if len(rest):
                yield rest
        yield idle_until([self._end_ns])

    def _make(self) -> None:
        """Make the next window: each vCPU gets its operations but for the first one."""
        part = next(self._parts)
        for cpu in np.unique(part.cpu).tolist():
            block = part.of(cpu)
            self._waiting[cpu].append(_some(block, slice(1, None)))
        self._made += 1


def _some(block: OperationBlock, which: slice | npt.NDArray[np.integer]) -> OperationBlock:
    return OperationBlock(block.code[which], block.value[which], block.time_ns[which])


def _without_compaction(window: Window, steps: Steps) -> tuple[Steps, npt.NDArray[np.int64]]:
    """Allocations and frees, with each page that compaction moved as one step.

    The model's own kcompactd moves as many pages, those of its choice. For the tapes the owner of
    a page only goes on with another one: the step that hands the destination out becomes the move,
    and the free of its source goes; so do pages that compaction took and did not need.

    Returns:
        The steps, and for each one the page that was left, or -1 when it is no move.
    """
    trace = window.trace
    used = steps.only((steps.action == HAND_OUT) | (steps.action == GIVE_BACK))
    moved = np.full(len(used.row), -1, dtype=np.int64)
    if not len(window.silent.row):
        return used, moved
    row = used.row
    by_compaction = (
        used.derived
        & (used.action == HAND_OUT)
        & (trace.flags[row] & tracewords.BY_KCOMPACTD != 0)
        & (window.action[row] == GIVE_BACK)
        & ~window.deferred[row]
    )
    # Taken and given back by compaction itself, for want of something to move there.
    unused = by_compaction & (trace.pfn[row] == used.pfn)
    moves = by_compaction & ~unused & (used.order == 0) & (window.order[row] == 0)
    index = np.flatnonzero(moves)
    # A source has one destination; what else stands beside its free was handed out otherwise.
    _, first = np.unique(row[index], return_index=True)
    index = index[first]
    moved[index] = trace.pfn[row[index]]
    gone = unused | (~used.derived & np.isin(row, np.concatenate([row[index], row[unused]])))
    return used.only(~gone), moved[~gone]
