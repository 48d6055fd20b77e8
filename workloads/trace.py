"""trace: the replay of a real kernel's page allocator events.

*Modelled* (``-w trace:PATH``): the allocations and frees of the trace, by CPU and time, drive the
guest's own per-CPU lists and buddy allocator. How close the model comes to the kernel is printed
and measured: refills, drains, free blocks at the end.

*Exact* (``-w trace:PATH,exact=true,pages=KPAGEFLAGS``): the kernel's own choices are followed page
by page, from the free blocks that a copy of /proc/kpageflags shows, so that a strategy meets the
free lists that the real machine had. Only what the strategy itself takes out of them differs: a
vCPU waits for a block that is being reported, and a strategy that allocates for itself gets none of
the pages that the recording ever names.

Without a path (``-w trace --guest sample-trace``) a small trace is replayed that belongs to
hintbench, with its page flags; ``exact=true`` works with it too.

Record with ftrace: enable the events mm_page_alloc, mm_page_free, mm_page_free_batched,
mm_page_pcpu_drain, mm_page_alloc_zone_locked and mm_page_alloc_extfrag of the system kmem, copy
/proc/kpageflags, and write ``kpageflags-dumped`` to trace_marker after each copy.
"""

from dataclasses import replace
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from hintbench import Program, Workload, WorkloadSetting
from hintbench.replay import (
    SAMPLE,
    SAMPLE_PAGES,
    SAMPLE_PAGES_END,
    exact_program,
    modelled_program,
    read_lru_pages,
    read_page_flags,
    read_trace,
)


class TraceParameters(BaseModel):
    """Parameters of `TraceReplay`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str | None = Field(
        default=None,
        min_length=1,
        description="text of ftrace, perf script or trace-cmd report, plain or gzip, or what"
        " `hintbench trace import` wrote; none: hintbench's sample, for --guest sample-trace",
    )
    exact: bool = Field(
        default=False, description="whether the kernel's own choices are followed; needs pages"
    )
    pages: str | None = Field(
        default=None,
        description="copy of /proc/kpageflags from when the trace began, plain or gzip; in a"
        " modelled replay it says which memory is free at the start, which matters under pressure",
    )
    pages_end: str | None = Field(
        default=None,
        description="copy of /proc/kpageflags from when the trace ended, to compare with; none:"
        " with pages, what the events lead to",
    )
    check: bool = Field(
        default=False,
        description="with exact: ask the model at every choice which block it would have taken",
    )
    migratetypes: Literal["modern", "old"] = Field(
        default="modern", description="old: numbers of kernels before 4.4"
    )


class TraceReplay(Workload):
    """A real kernel's allocations and frees, or with exact=true its own choices of pages."""

    name = "trace"
    Parameters = TraceParameters
    parameters: TraceParameters

    def program(self, setting: WorkloadSetting) -> Program:
        """Read the trace and make tapes of it."""
        parameters = self.parameters
        pages, pages_end = self._page_files()
        if parameters.exact and pages is None:
            raise self.refusal("exact=true needs pages=FILE, a copy of /proc/kpageflags")
        if parameters.check and not parameters.exact:
            raise self.refusal("check=true needs exact=true: else the model's choices are followed")
        free = None if pages is None else read_page_flags(pages)
        movable = None if pages is None else read_lru_pages(pages)
        end = None if pages_end is None else read_page_flags(pages_end)
        if free is not None and end is not None and len(free) != len(end):
            raise self.refusal(
                f"pages covers {len(free)} pages and pages_end {len(end)}: they are not of one"
                " machine"
            )
        if parameters.path is None:
            trace = replace(read_trace(SAMPLE), sources=("sample-trace",))
        else:
            trace = read_trace(parameters.path, parameters.migratetypes)
        if parameters.exact and free is not None:
            return exact_program(
                trace,
                free,
                vcpus=setting.vcpus,
                free_at_end=end,
                movable=movable,
                kernel=setting.kernel,
                check=parameters.check,
            )
        return modelled_program(
            trace,
            vcpus=setting.vcpus,
            free=free,
            free_at_end=end,
            movable=movable,
            kernel=setting.kernel,
        )

    def _page_files(self) -> tuple[str | Path | None, str | Path | None]:
        """Where the page flags of the trace's beginning and end are."""
        parameters = self.parameters
        given = parameters.pages, parameters.pages_end
        if parameters.path is not None:
            return given
        if any(given) or parameters.migratetypes != "modern":
            raise self.refusal(
                "pages, pages_end and migratetypes belong to the trace that path names,"
                " and there is no path: write trace:FILE"
            )
        return SAMPLE_PAGES, SAMPLE_PAGES_END
