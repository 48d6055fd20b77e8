"""`hintbench trace verify`: a strategy on a recorded kernel's free lists, against that kernel."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Final

from hintbench.config.guest import GuestConfig, load_guest
from hintbench.core import tracewords
from hintbench.core.constants import BUDDY, ISOLATED, KIND_MASK, ORDER_MASK
from hintbench.errors import InternalError, TraceError
from hintbench.plugins.finding import load_plugin, make
from hintbench.plugins.places import resolve
from hintbench.runner import Run
from hintbench.traces import MigratetypeOrder, Trace, read_trace
from hintbench.traces.compare import implied_and_faulty
from hintbench.traces.fit import fitting_preset, name_of
from hintbench.traces.program import exact_program
from hintbench.traces.reported import Batch, Block, Pass, block_name, in_passes, read_recorded
from hintbench.traces.start import TraceStart
from hintbench.traces.state import read_page_flags
from hintbench.workload import Program, Workload, WorkloadSetting

if TYPE_CHECKING:
    from hintbench.core.hooks import Block as ReportedBlock
    from hintbench.core.zone import Zone
    from hintbench.strategy import Strategy

PASS_MARK: Final = "page_reporting_process"
"""What a strategy marks at the beginning of a pass (`Guest.mark`)."""
_SAME_PASS_NS: Final = 1_000_000_000
_NEEDED: Final = {
    (tracewords.PAGE_ALLOC,): "mm_page_alloc",
    (tracewords.PAGE_FREE, tracewords.PAGE_FREE_BATCHED): "mm_page_free",
    (tracewords.ZONE_LOCKED,): "mm_page_alloc_zone_locked",
    (tracewords.PCPU_DRAIN,): "mm_page_pcpu_drain",
}


@dataclass(frozen=True, slots=True)
class VerifyRequest:
    """What is held against what.

    Attributes:
        trace: The recording's events.
        pages: Its page flags at the beginning.
        reported: What its host was told.
        strategy: As ``-s`` takes it.
        guest: The traced machine; None: a preset that fits.
        memory: Replaces its size.
        vcpus: Replaces its number of vCPUs.
        tolerance_ns: How far passes, and their first calls, may lie apart.
        migratetypes: "old" for a kernel before 4.4.
        plugins: Plugins to load.
    """

    trace: str
    pages: str
    reported: str
    strategy: str = "page-reporting"
    guest: str | None = None
    memory: str | None = None
    vcpus: str | None = None
    tolerance_ns: int = 10_000_000
    migratetypes: MigratetypeOrder = "modern"
    plugins: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Verification:
    """A recording's passes beside the model's.

    Attributes:
        pairs: Passes that belong together by time; None where one side has none.
        found: What the model had at each recorded block's place when the kernel told of it.
        begin_ns: The trace's own time that is virtual time 0.
        tolerance_ns: How far passes, and their first calls, may lie apart.
        violations: Rules that the strategy broke, with their number.
        notes: What was wrong with the recording, and what of it had to be inferred.
    """

    pairs: tuple[tuple[Pass | None, Pass | None], ...]
    found: dict[tuple[int, Block], str]
    begin_ns: int
    tolerance_ns: int
    violations: dict[str, int]
    notes: tuple[str, ...] = ()

    @property
    def recorded(self) -> list[Block]:
        """Every block that the kernel told of, in order."""
        return [block for one, _ in self.pairs if one is not None for block in one.blocks]

    @property
    def modelled(self) -> list[Block]:
        """Every block that the strategy told of, in order."""
        return [block for _, one in self.pairs if one is not None for block in one.blocks]

    @property
    def same_blocks(self) -> int:
        """Blocks that both told of in the same pass."""
        return sum(
            (Counter(kernel.blocks) & Counter(model.blocks)).total()
            for kernel, model in self.pairs
            if kernel is not None and model is not None
        )

    @property
    def same_places(self) -> int:
        """Blocks that stand at the same place of the same call of the same pass."""
        return sum(
            mine == theirs
            for kernel, model in self.pairs
            if kernel is not None and model is not None
            for one, other in zip(kernel.batches, model.batches, strict=False)
            for mine, theirs in zip(one.blocks, other.blocks, strict=False)
        )

    @property
    def largest_gap_ns(self) -> int:
        """How far the beginnings of one pass lie apart at most."""
        return max((abs(gap) for gap in self._gaps()), default=0)

    @property
    def largest_first_call_gap_ns(self) -> int:
        """How far the first calls of one pass lie apart at most."""
        return max((gaps[0] for gaps in self._call_gaps()), default=0)

    @property
    def largest_call_gap_ns(self) -> int:
        """How far any calls of one pass lie apart at most."""
        return max(chain.from_iterable(self._call_gaps()), default=0)

    def _call_gaps(self) -> Iterator[list[int]]:
        """How far the calls of a pass lie apart, of each in which both made some."""
        for kernel, model in self.pairs:
            if kernel is not None and model is not None and kernel.batches and model.batches:
                pairs = zip(kernel.batches, model.batches, strict=False)
                yield [abs(other.time_ns - one.time_ns) for one, other in pairs]

    def _gaps(self) -> Iterator[int]:
        for kernel, model in self.pairs:
            if kernel is not None and model is not None:
                yield model.time_ns - kernel.time_ns

    @property
    def agrees(self) -> bool:
        """Whether passes, calls, blocks and their order are the same, and times close enough.

        Of the calls of a pass only the first is judged by its time: when the next one comes depends
        on how long the host takes.
        """
        return (
            all(None not in pair for pair in self.pairs)
            and self.largest_gap_ns <= self.tolerance_ns
            and self.largest_first_call_gap_ns <= self.tolerance_ns
            and all(
                kernel is not None
                and model is not None
                and [batch.blocks for batch in kernel.batches]
                == [batch.blocks for batch in model.batches]
                for kernel, model in self.pairs
            )
        )


def verify(request: VerifyRequest) -> Verification:
    """Replay a recording exactly under a strategy, and pair the passes.

    Args:
        request: What is held against what.

    Raises:
        HintbenchError: An input cannot be read, the inputs do not fit each other, or the strategy
            is at fault.
    """
    for plugin in request.plugins:
        load_plugin(plugin)
    strategy = make("strategy", *resolve("strategy", request.strategy))
    trace = read_trace(request.trace, request.migratetypes)
    _check_events(trace)
    recorded = read_recorded(trace, request.reported)
    guest = _guest(request, trace)
    return _Replay(trace, request.pages, recorded, strategy, guest, request.tolerance_ns).compare()


def _check_events(trace: Trace) -> None:
    """Refuse a trace without a kind of event that says where pages are."""
    for kinds, name in _NEEDED.items():
        if not any((trace.kind == kind).any() for kind in kinds):
            raise TraceError(
                f"{name_of(trace)} has no event {name}: the recorded kernel's free lists cannot be"
                " followed without it, so record it too"
            )


def _check_blocks(recorded: Sequence[Pass], zones: Sequence[Zone]) -> None:
    """Refuse blocks of which no zone of the guest has all pages."""
    for pfn, order in (block for one in recorded for call in one.batches for block in call.blocks):
        end = pfn + (1 << order)
        if not any(zone.start_pfn <= pfn and end <= zone.end_pfn for zone in zones):
            raise TraceError(
                f"the host was told of {block_name((pfn, order))}, which is in no zone of the"
                " guest: the list is of another machine, or the guest is"
            )


def _guest(request: VerifyRequest, trace: Trace) -> GuestConfig:
    """The traced machine, whose host has everything of order 9 and more already."""
    name = request.guest or fitting_preset(trace.page_count, trace.cpus, 1 << 62)
    if name is None:
        raise TraceError(
            "no preset is like the traced machine: give --guest FILE.toml with its [[zones]] as"
            " /proc/zoneinfo tells them"
        )
    guest = load_guest(name, memory=request.memory, vcpus=request.vcpus)
    return guest.model_copy(update={"discarded_at_start": True})


class _Exact(Workload):
    """The replay of a trace that has been read."""

    name = "trace"

    def __init__(self, trace: Trace, pages: str) -> None:
        super().__init__()
        self.trace = trace
        self.free = read_page_flags(pages)

    def program(self, setting: WorkloadSetting) -> Program:
        return exact_program(self.trace, self.free, vcpus=setting.vcpus, kernel=setting.kernel)


class _Replay:
    """One exact replay, which looks at the model whenever the kernel reported something."""

    def __init__(
        self,
        trace: Trace,
        pages: str,
        recorded: list[Pass],
        strategy: Strategy,
        guest: GuestConfig,
        tolerance_ns: int,
    ) -> None:
        self.recorded = recorded
        self.tolerance_ns = tolerance_ns
        self.run = Run(strategy, _Exact(trace, pages), guest, seed=1)
        _check_blocks(recorded, self.run.machine.zones)
        initial = self.run.program.initial
        if not isinstance(initial, TraceStart):
            raise InternalError("an exact replay begins in no state of a trace")
        self.start = initial
        self.begin_ns = initial.begin_ns
        self.end_ns = initial.end_ns
        self.found: dict[tuple[int, Block], str] = {}

    def compare(self) -> Verification:
        """Run it, and pair the passes by time."""
        run = self.run
        log: list[tuple[int, tuple[ReportedBlock, ...]]] = []
        run.guest.host.log = log
        for number, one in enumerate(self.recorded):
            for batch in one.batches:
                self._look_later(number, batch)
        result = run.execute()
        began = [at for at, _, name in run.guest.marks if name == PASS_MARK]
        batches = [
            Batch(at, tuple((block.pfn, block.order) for block in blocks)) for at, blocks in log
        ]
        model = [self._on_trace_clock(one) for one in in_passes(began, batches)]
        return Verification(
            tuple(_paired(self.recorded, model)),
            self.found,
            self.begin_ns,
            self.tolerance_ns,
            dict(result.violations),
            tuple(implied_and_faulty(self.start.history)),
        )

    def _on_trace_clock(self, one: Pass) -> Pass:
        begin = self.begin_ns
        batches = tuple(Batch(each.time_ns + begin, each.blocks) for each in one.batches)
        return Pass(one.time_ns + begin, batches)

    def _look_later(self, number: int, batch: Batch) -> None:
        """When the kernel told of a batch, note what the model has there."""
        at_ns = batch.time_ns - self.begin_ns
        if 0 <= at_ns <= self.end_ns:
            self.run.machine.simulation.schedule(at_ns, 0, 0, lambda: self._look(number, batch))

    def _look(self, number: int, batch: Batch) -> None:
        for block in batch.blocks:
            self.found[number, block] = self._state_of(*block)

    def _state_of(self, pfn: int, order: int) -> str:
        """What the model has at a block's place, in words."""
        pages = self.run.machine.pages
        head = pages.head_of(pfn)
        state = pages.state[head] if head >= 0 else 0
        kind, found = state & KIND_MASK, state & ORDER_MASK
        if kind == ISOLATED:
            return "being told"
        if kind != BUDDY:
            return "not free"
        if found < order:
            return f"free only in parts, the first of order {found}"
        told = any(
            flags.all(pfn, order)
            for flags, meaning in self.run.guest.flag_sets.values()
            if meaning == "told"
        )
        where = "free" if (head, found) == (pfn, order) else f"inside {block_name((head, found))}"
        return f"{where}, {'told before' if told else 'not told'}"


def _paired(
    kernel: Sequence[Pass], model: Sequence[Pass]
) -> Iterator[tuple[Pass | None, Pass | None]]:
    """Pass by pass in the order of time; those within a second of each other are one."""
    left, right = list(kernel), list(model)
    while left or right:
        if left and right and abs(left[0].time_ns - right[0].time_ns) < _SAME_PASS_NS:
            yield left.pop(0), right.pop(0)
        elif not right or (left and left[0].time_ns < right[0].time_ns):
            yield left.pop(0), None
        else:
            yield None, right.pop(0)
