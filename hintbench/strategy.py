"""What every strategy derives from, and the small things it needs to declare itself."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import pluggy

from hintbench.plugins.plugin_class import PluginClass
from hintbench.tasks.arguments import MOST_NS

if TYPE_CHECKING:
    from hintbench.core.flags import UnitFlags
    from hintbench.core.zone import Zone

_MOST_ORDER = 10
"""MAX_PAGE_ORDER: no free block is larger."""

hookimpl = pluggy.HookimplMarker("hintbench")
"""Marks a method as the implementation of the hook of the same name (`hintbench.hookspecs`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HookFilter:
    """Which blocks a hook concerns; the core makes the test without a Python call.

    Attributes:
        min_order: The hook is called only for blocks of at least this order (after merging).
        flags: The hook is called only for blocks that overlap a unit that carries this flag.
        cost_ns: What the test or look-up costs the guest [virtual ns]; charged to the running
            context each time the test is made, whether the hook is called or not.
    """

    min_order: int = 0
    flags: "UnitFlags | None" = None
    cost_ns: int = 0

    def __post_init__(self) -> None:
        for name, most in (("min_order", _MOST_ORDER), ("cost_ns", 1_000_000)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
                raise ValueError(f"HookFilter: {name} is {value!r}, must be a number in 0..{most}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Claims:
    """What a strategy promises of itself, for the conformance suite.

    The suite holds an instance to each claim it makes and to none that it does not make. A plain
    run measures, and checks no claim.

    Attributes:
        min_order: The order of the smallest block it reports, 0 to 10.
        liveness_bound_ns: With an idle workload every block of `min_order` that was freed is
            reported within this time [virtual ns], unless behind a gate of the strategy.
        initial_flush: Blocks that were free at the start are reported too.
        in_flight_pages: At most this many pages of one zone are in its hands at once: isolated,
            held, allocated for itself, or marked.
        lock_takes: Takes of the zone lock for one batch: to collect, to return, and perhaps a third
            number: for each further free list that a batch was collected from.
        hold_visits: Structures (list entries, head look-ups, pages) looked at under one hold.
        one_zone: A batch holds blocks of one zone only.
        once: A block whose report was acknowledged is not reported again before it changed.
        any_pfn: The same block is found whichever of its pages was captured.
        reports_nothing: It never tells the host of anything, as the baseline `none` does: a check
            of any other strategy in which nothing was reported fails, and of this one if it was.
        gate: Whether a zone is too low on memory for the strategy to report there now; blocks
            that are untold behind a gate do not count against `liveness_bound_ns`.
    """

    min_order: int | None = None
    liveness_bound_ns: int | None = None
    initial_flush: bool = False
    in_flight_pages: int | None = None
    lock_takes: tuple[int, int] | tuple[int, int, int] | None = None
    hold_visits: int | None = None
    one_zone: bool = False
    once: bool = False
    any_pfn: bool = False
    reports_nothing: bool = False
    gate: "Callable[[Zone], bool] | None" = None

    def __post_init__(self) -> None:
        takes: Any = self.lock_takes
        if takes is not None and (not isinstance(takes, tuple) or len(takes) not in (2, 3)):
            raise ValueError(f"Claims: lock_takes is {takes!r}, must be a tuple of two or three")
        numbers: list[tuple[str, Any, int]] = [("min_order", self.min_order, _MOST_ORDER)]
        for name in ("liveness_bound_ns", "in_flight_pages", "hold_visits"):
            numbers.append((name, getattr(self, name), MOST_NS))
        numbers += [("lock_takes", each, MOST_NS) for each in takes or ()]
        for name, value, most in numbers:
            whole = isinstance(value, int) and not isinstance(value, bool)
            if value is not None and not (whole and 0 <= value <= most):
                raise ValueError(f"Claims: {name} is {value!r}, must be a number in 0..{most}")


class Strategy(PluginClass):
    """Decides which free blocks the host is told of, and when.

    A subclass gives itself a `name`, says in the first line of its docstring what it is, and
    implements hooks (`hintbench.hookspecs`), each marked with `hookimpl`. Its parameters, if any,
    are a pydantic model with the name `Parameters`, every field with a range and a description
    that names the unit. One instance serves one run, since its attributes are the run's state.

    Attributes:
        declared_failures: Rules that it is known to break, each with the reason. The conformance
            suite expects exactly these failures. An instance may replace it, when that depends on
            the parameters.
        check_parameters: Values of parameters with which the conformance suite explores it: small
            enough that reports, full arrays and timers happen within a thousand operations on
            64 MiB. Those the user gives go first.
        kernels: The kernels whose page allocator it is explored on.
        had_its_run: Whether a run has begun with this instance; no other one can.
    """

    kind = "strategy"
    declared_failures: Mapping[str, str] = {}
    check_parameters: ClassVar[Mapping[str, Any]] = {}
    kernels: ClassVar[tuple[str, ...]] = ("6.12", "5.0")
    had_its_run: bool = False

    def hook_filters(self) -> Mapping[str, HookFilter]:
        """Say which blocks each hook concerns; asked once, when `guest_started` first waits.

        Returns:
            Filters by the name of the hook. A hook without one is called every time.
        """
        return {}

    def claims(self) -> Claims:
        """Say what the conformance suite may hold this instance to."""
        return Claims()
