"""Whether a guest has the CPUs and pages that a trace needs, and which guest would have them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hintbench.errors import TraceError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import numpy.typing as npt

    from hintbench.config.layout import ZoneConfig
    from hintbench.core.zone import Zone
    from hintbench.traces.events import Trace

_MIB_PAGES = 256
_STEP_PAGES = 1024  # a guest's size is a multiple of the largest free block
_LEAST_MIB = 64
_LARGER = 4  # a guest may be larger than what its trace names by a quarter of that


def name_of(trace: Trace) -> str:
    """Name a trace in a message."""
    return f"trace {', '.join(trace.sources)}" if trace.sources else "the trace"


def check_cpus(trace: Trace, vcpus: int) -> None:
    """Refuse a guest that has fewer vCPUs than the trace has CPUs.

    Args:
        trace: The trace.
        vcpus: vCPUs of the guest.

    Raises:
        TraceError: It has fewer.
    """
    if trace.cpus > vcpus:
        advice = _advice(f"--vcpus {trace.cpus}", trace.page_count, trace.cpus)
        raise TraceError(
            f"{name_of(trace)} is of {trace.cpus} CPUs, the guest has {vcpus}:"
            f" give it at least {trace.cpus} vCPUs{advice}"
        )


def check_pages(
    trace: Trace,
    named: npt.NDArray[np.integer],
    zones: Sequence[Zone],
    known_pages: int | None,
    *,
    resizable: bool,
) -> None:
    """Refuse a guest that lacks pages of the trace, or has some of which nothing is known.

    Args:
        trace: The trace.
        named: The pages that the trace or its page flags name.
        zones: The guest's zones.
        known_pages: How many pages the page flags cover, from page 0 on; None without any, when
            all that the trace does not mention counts as free.
        resizable: Whether the guest's size can be given: its zones are not given one by one.

    Raises:
        TraceError: The guest does not fit.
    """
    has = ", ".join(f"{zone.name} {zone.start_pfn:#x}..{zone.end_pfn - 1:#x}" for zone in zones)
    absent = named
    for zone in zones:
        absent = absent[(absent < zone.start_pfn) | (absent >= zone.end_pfn)]
    if len(absent):
        page_count = max(int(named.max()) + 1, trace.page_count)
        memory = _memory_mib(page_count)
        size = f"at least {memory} MiB" if memory else "the traced machine's zones"
        advice = _advice(_memory_option(memory if resizable else None), page_count, trace.cpus)
        raise TraceError(
            f"{name_of(trace)} uses page {int(absent.max()):#x}, which is in no zone of the guest"
            f" ({has}): give it {size}{advice}"
        )
    if known_pages is None:
        return
    most = -(-known_pages // _STEP_PAGES) * _STEP_PAGES
    if max(zone.end_pfn for zone in zones) > most:
        memory = _memory_mib(known_pages)
        size = f"{memory} MiB" if memory else "the traced machine's zones"
        advice = _advice(
            _memory_option(memory if resizable else None), known_pages, trace.cpus, most
        )
        raise TraceError(
            f"{name_of(trace)} comes with the flags of pages up to {known_pages - 1:#x}, and the"
            f" guest has more ({has}): give it {size}{advice}"
        )


def unlike_trace(trace: Trace, zones: Sequence[Zone], vcpus: int) -> list[str]:
    """Say that a guest has much that the trace knows nothing of, where no page flags tell.

    Args:
        trace: The trace.
        zones: The guest's zones.
        vcpus: Its vCPUs.

    Returns:
        A line to print, or none.
    """
    end_pfn = max(zone.end_pfn for zone in zones)
    more = []
    if vcpus > trace.cpus:
        more.append(f"{vcpus} vCPUs for {trace.cpus} CPU{'s'[: trace.cpus > 1]}")
    if end_pfn - trace.page_count > max(trace.page_count // _LARGER, _STEP_PAGES):
        more.append(f"pages up to {end_pfn - 1:#x} for {trace.page_count - 1:#x}")
    if not more:
        return []
    memory = _memory_mib(trace.page_count)
    advice = _advice(_memory_option(memory), trace.page_count, trace.cpus)
    return [
        f"the guest is not the traced machine: {' and '.join(more)} of the trace; what the trace"
        f" does not mention is free{advice}"
    ]


def _memory_option(memory_mib: int | None) -> str:
    return f"--memory {memory_mib}MiB" if memory_mib else "--guest FILE.toml with [[zones]]"


def _advice(option: str, page_count: int, cpus: int, most_pages: int = 1 << 62) -> str:
    preset = fitting_preset(page_count, cpus, most_pages)
    return f" ({option}, or --guest {preset})" if preset else f" ({option})"


def fitting_preset(page_count: int, cpus: int, most_pages: int) -> str | None:
    """The smallest recorded guest that has as many pages and CPUs, but no more than so many."""
    from hintbench.config.guest import PRESETS, load_guest

    fitting = []
    for name, values in PRESETS.items():
        if "zones" in values:
            guest = load_guest(name)
            end_pfn = -(-guest.layout()[-1].end_pfn // _STEP_PAGES) * _STEP_PAGES
            if page_count <= end_pfn <= most_pages and guest.vcpus >= cpus:
                fitting.append((end_pfn, name))
    return min(fitting)[1] if fitting else None


def _memory_mib(page_count: int) -> int | None:
    """Size of the smallest guest, laid out as a PC, that has the last of so many pages [MiB].

    None when that page lies where a PC has no memory.
    """
    from hintbench.config.layout import HOLE_END, HOLE_START, lay_out

    pages = page_count - (HOLE_END - HOLE_START if page_count > HOLE_END else 0)
    mebibytes = max(-(-pages // _STEP_PAGES) * _STEP_PAGES // _MIB_PAGES, _LEAST_MIB)
    zones: Sequence[ZoneConfig] = lay_out(mebibytes << 20, 1, 0)
    has = any(zone.start_pfn < page_count <= zone.end_pfn for zone in zones)
    return mebibytes if has else None
