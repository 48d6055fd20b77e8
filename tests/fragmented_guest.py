"""A guest in which kcompactd finds something to do."""

from hintbench.kernel.compaction import CompactionRun
from hintbench.operations import Flag, allocate, free, idle
from small_guest import MS, START, Silent, boot, small_guest, zone

MOVABLE = {"migratetype": 1, "flags": Flag.TOUCHED}


def fragmented(strategy=None):
    """32 MiB: below a movable page in 64 is in use, in the upper half every second one."""
    pages = range(8000)
    kept = [page for page in pages if page % (64 if page < 4096 else 2) == 0]
    tape = [
        allocate(pages, order=0, **MOVABLE),
        free(sorted(set(pages) - set(kept))),
        idle([100 * MS]),
    ]
    return boot(strategy or Silent(), tape, config=small_guest(zones=(zone(8, low=40),)))


def run_of(pages, at_ms=50, cpus=None, **given):
    """A run that frees the source of a page every 10 us."""
    times = [at_ms * MS + 10_000 * page for page in range(pages)]
    return CompactionRun(times, cpus or [0] * pages, START, **given)


def compact(running, pages, at_ms=50, **given):
    """Let kcompactd move some pages, and the guest run to its end."""
    if pages:
        running.threads.compact([run_of(pages, at_ms, **given)])
    running.result = running.execute()
    return running


def used(running):
    """Which slots hold which pages."""
    slots = running.machine.simulation.slot_pfns()
    return {slot: int(pfn) for slot, pfn in enumerate(slots) if pfn >= 0}


def moved_by(running):
    """Where pages were that have moved, and where they are now, by slot."""
    before, after = used(compact(fragmented(), 0)), used(running)
    moved = [slot for slot in before if before[slot] != after[slot]]
    return {slot: before[slot] for slot in moved}, {slot: after[slot] for slot in moved}
