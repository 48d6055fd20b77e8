"""A small guest, tapes written by hand, and prices that make sums easy: for tests of both."""

from hintbench import Costs, GuestConfig, HostConfig, Program, Strategy, Workload, ZoneConfig
from hintbench.runner import Run

START = 0x10000
"""The first pfn of the one zone, unless a test says otherwise."""
BLOCK = 1024
US = 1_000
MS = 1_000_000
SECOND = 1_000_000_000


def costs(**given):
    """Everything is free but what a test gives."""
    return Costs(**{**dict.fromkeys(Costs.model_fields, 0), "reclaim_retries": 1, **given})


def host(**given):
    """A host whose every step is free but what a test gives."""
    free = {name: 0 for name in HostConfig.model_fields if name.endswith("_ns")}
    return HostConfig(**{**free, **given})


def zone(blocks=64, start_pfn=START, name="Normal", low=160, **given):
    """A zone of so many order-10 blocks, with watermarks that are out of the way."""
    marks = {"watermark_min": low - 32, "watermark_low": low, "watermark_high": low + 32}
    return ZoneConfig(
        name=name, start_pfn=start_pfn, spanned_pages=blocks * BLOCK, **{**marks, **given}
    )


def small_guest(vcpus=1, *, zones=None, kernel="6.12", **given):
    """One zone of 256 MiB in which nothing costs anything."""
    given.setdefault("costs", costs())
    given.setdefault("host", host())
    return GuestConfig(zones=zones or (zone(),), vcpus=vcpus, kernel=kernel, **given)


class Tapes(Workload):
    """What each vCPU does, as a list of operation blocks a vCPU."""

    name = "tapes"

    def __init__(self, tapes):
        super().__init__()
        self.tapes = tapes

    def program(self, setting):
        tapes = [*self.tapes, *([] for _ in range(setting.vcpus - len(self.tapes)))]
        slots = 1 + max((int(block.value.max()) for tape in tapes for block in tape), default=0)
        return Program(slots, tuple(iter(tape) for tape in tapes), operations=0)


class Silent(Strategy):
    """Does nothing."""

    name = "silent"


def boot(strategy=None, *tapes, config=None, observers=(), workload=None, **given):
    """A run that has not begun: its `machine` and `guest` can still be looked at and changed."""
    config = config or small_guest(max(1, len(tapes)))
    workload = workload or Tapes(tapes)
    return Run(strategy or Silent(), workload, config, seed=1, observers=observers, **given)


def run(strategy=None, *tapes, **given):
    """Run to the end; the run with its `result`."""
    running = boot(strategy, *tapes, **given)
    running.result = running.execute()
    return running


def trace_lock(running, index=0):
    """A list that fills with (take or release, CPU, time) of a zone's lock."""
    trace = []
    clock = running.machine.clock
    running.machine.zones[index].lock.observer = lambda what, lock: trace.append(
        (what, clock.cpu, clock.now)
    )
    return trace
