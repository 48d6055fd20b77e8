"""Writes the text of kernel traces, and reads what was made of them, for tests."""

import dataclasses

import numpy as np

from hintbench.core.tracepages import GIVE_BACK, HAND_OUT, RETURN, TAKE
from hintbench.operations import Operation, concatenate
from hintbench.traces import read_trace
from hintbench.traces.hidden import HiddenPages, list_steps
from hintbench.traces.steps import Steps, steps_in_order

KERNEL_PAGE = "GFP_KERNEL_ACCOUNT|__GFP_COMP|__GFP_ZERO"
USER_PAGE = "GFP_HIGHUSER_MOVABLE|__GFP_COMP|__GFP_ZERO"
NAMES = {TAKE: "take", HAND_OUT: "hand out", GIVE_BACK: "give back", RETURN: "return"}


class Recording:
    """Writes the text of a trace, an event a microsecond."""

    def __init__(self):
        self.lines = []
        self.now = 1_000_000

    def event(self, text, cpu=0, task="work-200", wait=1):
        self.now += wait
        seconds = f"{self.now // 10**6}.{self.now % 10**6:06}"
        self.lines.append(f"{task} [{cpu:03}] ..... {seconds}: {text}\n")
        return self

    def block(self, event, pfn, order=0, tail="", **where):
        return self.event(f"{event}: page=0 pfn={pfn:#x} order={order}{tail}", **where)

    def lock(self, pfn, order=0, kind=1, **where):
        tail = f" migratetype={kind} percpu_refill=1"
        return self.block("mm_page_alloc_zone_locked", pfn, order, tail, **where)

    def alloc(self, pfn, order=0, kind=1, gfp=USER_PAGE, **where):
        return self.block(
            "mm_page_alloc", pfn, order, f" migratetype={kind} gfp_flags={gfp}", **where
        )

    def free(self, pfn, order=0, **where):
        return self.block("mm_page_free", pfn, order, **where)

    def batched(self, pfn, **where):
        return self.block("mm_page_free_batched", pfn, **where)

    def drain(self, pfn, order=0, kind=1, **where):
        return self.block("mm_page_pcpu_drain", pfn, order, f" migratetype={kind}", **where)

    def extfrag(self, pfn, block_order, kind=1, fallback=0, change=0, **where):
        return self.event(
            f"mm_page_alloc_extfrag: page=0 pfn={pfn:#x} alloc_order=0 fallback_order={block_order}"
            f" pageblock_order=9 alloc_migratetype={kind} fallback_migratetype={fallback}"
            f" fragmenting=1 change_ownership={change}",
            **where,
        )

    def mark(self, text, **where):
        return self.event(f"tracing_mark_write: {text}", **where)

    def compaction(self):
        """Three movable pages move up from the second pageblock; one destination is seen again."""
        kcompactd = {"task": "kcompactd0-51", "cpu": 1}
        for pfn in (512, 513, 514):
            self.alloc(pfn)
        self.mark("kpageflags-dumped /tmp/kpf0")
        for pfn in (514, 513, 512):
            self.free(pfn, **kcompactd)
        self.free(1026, wait=500_000)
        return self

    def read(self, tmp_path):
        file = tmp_path / "trace.txt"
        file.write_text("".join(self.lines))
        return read_trace(file)


def all_steps(found):
    """The steps of a history, those of one window behind those of another."""
    windows = list(found.windows())
    steps = [steps_in_order(window) for window in windows]
    columns = {
        field.name: np.concatenate([getattr(some, field.name) for some in steps])
        for field in dataclasses.fields(Steps)
    }
    columns["row"] = np.concatenate(
        [some.row + window.low for some, window in zip(steps, windows, strict=True)]
    )
    return Steps(**columns)


def told(found):
    """The steps of a history in words."""
    steps = all_steps(found)
    return [
        (NAMES[action], pfn, "derived" if derived else "event")
        for action, pfn, derived in zip(
            steps.action.tolist(), steps.pfn.tolist(), steps.derived.tolist(), strict=True
        )
    ]


def tape(program, cpu=0):
    """What a vCPU does until it only waits for the replay to end."""
    block = concatenate(program.tapes[cpu])
    *entries, last = [
        (Operation(int(operation)).name, int(value), int(time))
        for operation, value, time in zip(block.operation, block.value, block.time_ns, strict=True)
    ]
    assert last == ("IDLE_UNTIL", 0, program.initial.end_ns)
    return entries


def flags(count, *free):
    known = np.zeros(count, dtype=bool)
    for first, last in free:
        known[first : last + 1] = True
    return known


def hidden_pages(start, zone_of, high_min):
    """How many pages the lists of a replay hold that are never named, by CPU and zone."""
    hidden = HiddenPages(start.pcp, zone_of, high_min)
    for window, steps, decay in list_steps(start.history):
        hidden.follow(window, steps, decay)
    return hidden.pages()
