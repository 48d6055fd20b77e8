"""The tapes of a replay, made of a trace's windows while the guest goes through them.

A first pass counts what the guest must know beforehand: slots, operations, what was in use when
the trace began, and for each window and CPU the first operation. The tapes then make the windows
again, one after the other, when somebody needs more of them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Final, Protocol

import numpy as np

from hintbench.core import tracewords
from hintbench.core.tracepages import GIVE_BACK, HAND_OUT
from hintbench.core.tracetapes import TapeWalk
from hintbench.operations import Operation, OperationBlock, idle_until
from hintbench.traces.codes import allocation_codes, code_tables
from hintbench.traces.drains import times_of_frees
from hintbench.traces.steps import Steps

if TYPE_CHECKING:
    import numpy.typing as npt

    from hintbench.traces.history import PageHistory
    from hintbench.traces.windows import DerivedSteps, Window

KEPT_OPERATIONS: Final = 1 << 22
"""Of a trace of no more operations the tapes are made once, and kept: 64 MiB."""
Blocks = tuple["npt.NDArray[np.int32]", "npt.NDArray[np.int8]", "npt.NDArray[np.int32]"]


@dataclass(frozen=True, slots=True)
class TapePlan:
    """What is known of a replay's tapes before they are made.

    Attributes:
        slots: Slots that they use.
        operations: Their length together.
        in_use: Blocks in use at the start that the trace frees: pfn, order, slot.
        moves: Rows at which compaction freed what it had moved.
        first: By CPU the first operation of each window that has one: the window, and a block.
        parts: The windows' operations, where they are few enough to be kept; else None.
    """

    slots: int
    operations: int
    in_use: Blocks
    moves: npt.NDArray[np.int64]
    first: tuple[tuple[tuple[int, OperationBlock], ...], ...]
    parts: deque[Part] | None


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """The operations of one window: of one CPU after the other, whose bounds are known."""

    block: OperationBlock
    bounds: list[int]
    moves: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.block)

    def of(self, cpu: int) -> OperationBlock:
        """The operations of one CPU."""
        return _some(self.block, slice(self.bounds[cpu], self.bounds[cpu + 1]))

    def cpus(self) -> list[int]:
        """The CPUs that do something."""
        return [cpu for cpu, (low, high) in enumerate(pairwise(self.bounds)) if low < high]


class Maker(Protocol):
    """Goes through the windows of a trace and makes operations of them."""

    def __iter__(self) -> Iterator[Part]:
        """The operations of one window after the other."""
        ...

    def slot_count(self) -> int:
        """Slots that the windows so far use."""
        ...

    def in_use_at_start(self) -> Blocks:
        """Blocks in use at the start that the windows so far free."""
        ...


class ModelledMaker:
    """Makes the operations of a modelled replay.

    Args:
        found: The trace, understood.
        begin_ns: The trace's own time that becomes the virtual time 0.
    """

    def __init__(self, found: PageHistory, begin_ns: int) -> None:
        self.walk = TapeWalk(len(found.first), found.trace.cpus, begin_ns, code_tables())
        self.found = found
        self.windows = found.windows()

    def __iter__(self) -> Iterator[Part]:
        for window in self.windows:
            yield self._part(window)

    def slot_count(self) -> int:
        """Slots that the windows so far use."""
        return self.walk.slot_count()

    def in_use_at_start(self) -> Blocks:
        """Blocks in use at the start that the windows so far free."""
        return self.walk.in_use_at_start()

    def _part(self, window: Window) -> Part:
        """Allocations, and frees when they reach the per-CPU lists, in the order of the trace."""
        steps, source, gone, moves = _silent_steps(window)
        silent = (
            *(steps.row, steps.after.view(np.uint8), steps.action, steps.pfn, steps.order),
            *(source, _silent_codes(window, steps)),
        )
        free_ns = times_of_frees(self.found.trace, self.found.end, window)
        code, value, time_ns, bounds = self.walk.walk(window, silent, gone, free_ns)
        return Part(OperationBlock(code, value, time_ns), bounds.tolist(), moves + window.low)


def plan_tapes(maker: Maker, vcpus: int, kept_operations: int = KEPT_OPERATIONS) -> TapePlan:
    """Go through a trace once and count.

    Args:
        maker: Makes the operations.
        vcpus: vCPUs of the guest.
        kept_operations: How many may be kept, rather than made again when they are needed.
    """
    first: list[list[tuple[int, OperationBlock]]] = [[] for _ in range(vcpus)]
    moves = [np.zeros(0, dtype=np.int64)]
    operations = 0
    parts: deque[Part] | None = deque()
    for number, part in enumerate(maker):
        operations += len(part)
        if parts is not None:
            parts.append(part)
        if operations > kept_operations:
            parts = None
        moves.append(part.moves)
        for cpu in part.cpus():
            operation = part.of(cpu)
            first[cpu].append((number, _copy(_some(operation, slice(0, 1)))))
    return TapePlan(
        slots=maker.slot_count(),
        operations=operations,
        in_use=maker.in_use_at_start(),
        moves=np.concatenate(moves),
        first=tuple(map(tuple, first)),
        parts=parts,
    )


class TapeSource:
    """Makes the tapes of all vCPUs of a replay together, a window at a time.

    A window is made when a vCPU has begun with its own first operation in it, which it knows
    beforehand: no vCPU makes windows that are far ahead of the virtual time only because it has
    nothing to do until then. What is held is what the vCPUs that lag behind have before them.
    """

    def __init__(self, make: Callable[[], Maker], plan: TapePlan, end_ns: int) -> None:
        """Begin a replay.

        Args:
            make: Makes what makes the operations, if they were not kept.
            plan: What is known of the tapes.
            end_ns: When the replay ends [virtual ns].
        """
        self._parts = _kept(plan.parts) if plan.parts is not None else iter(make())
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
        for cpu in part.cpus():
            self._waiting[cpu].append(_some(part.of(cpu), slice(1, None)))
        self._made += 1


def _kept(parts: deque[Part]) -> Iterator[Part]:
    """One part after the other, each of which is gone then."""
    while parts:
        yield parts.popleft()


def _some(block: OperationBlock, which: slice) -> OperationBlock:
    return OperationBlock(block.code[which], block.value[which], block.time_ns[which])


def _copy(block: OperationBlock) -> OperationBlock:
    """The same, which does not keep a whole window's arrays alive."""
    return OperationBlock(block.code.copy(), block.value.copy(), block.time_ns.copy())


def _silent_steps(
    window: Window,
) -> tuple[DerivedSteps, npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """What happened without an event, with each page that compaction moved as one step.

    The model's own kcompactd moves as many pages, those of its choice. For the tapes the owner of
    a page only goes on with another one: the step that hands the destination out becomes the move,
    and the free of its source goes; so do pages that compaction took and did not need.

    Returns:
        The steps in order, the page that each one's owner left, or -1 when it is no move, the rows
        whose events go, and those at which kcompactd freed the source of a move, also where nothing
        tells of a destination.
    """
    silent, trace = window.silent, window.trace
    concerns = (silent.action == HAND_OUT) | (silent.action == GIVE_BACK)
    silent = silent.only(np.flatnonzero(concerns))
    silent = silent.only(np.lexsort((silent.after, silent.row)))
    row = silent.row
    by_compaction = (
        (silent.action == HAND_OUT)
        & (trace.flags[row] & tracewords.BY_KCOMPACTD != 0)
        & (window.action[row] == GIVE_BACK)
        & ~window.deferred[row]
    )
    # Taken and given back by compaction itself, for want of something to move there.
    unused = by_compaction & (trace.pfn[row] == silent.pfn)
    moves = by_compaction & ~unused & (silent.order == 0) & (window.order[row] == 0)
    index = np.flatnonzero(moves)
    # A source has one destination; what else stands beside its free was handed out otherwise.
    _, first = np.unique(row[index], return_index=True)
    index = index[first]
    source = np.full(len(row), -1, dtype=np.int64)
    source[index] = trace.pfn[row[index]]
    gone = np.unique(np.concatenate([row[index], row[unused]]))
    freed = np.flatnonzero(
        (trace.flags & tracewords.BY_KCOMPACTD != 0)
        & (window.action == GIVE_BACK)
        & ~window.deferred
        & (window.order == 0)
    )
    moved = np.setdiff1d(freed, row[unused])
    return silent.only(np.flatnonzero(~unused)), source[~unused], gone, moved


def _silent_codes(window: Window, silent: DerivedSteps) -> npt.NDArray[np.uint32]:
    """The code of each silent step as an allocation, and that of a free where it is one."""
    derived = np.ones(len(silent.row), dtype=np.bool_)
    steps = Steps(silent.row, silent.action, silent.pfn, silent.order, derived)
    codes = allocation_codes(window, steps)
    return np.where(silent.action == HAND_OUT, codes, np.uint32(Operation.FREE)).astype(np.uint32)
