"""Scenes for strategies on the real guest: looks at given times, and tapes in blocks of 4 MiB."""

from hintbench import hookimpl
from hintbench.operations import Flag, allocate, free, idle
from small_guest import BLOCK, MS, START, boot, small_guest, zone

FAST = Flag.TOUCHED | Flag.NORETRY


class At:
    """An observer that looks at things, or changes them, at given virtual times."""

    name = "at"

    def __init__(self, looks):
        self.looks = looks

    @hookimpl
    def guest_started(self, guest):
        for at_ns, look in self.looks.items():
            guest.spawn(self.look(guest, at_ns, look), cpu=-1, name=f"look at {at_ns}")

    async def look(self, guest, at_ns, look):
        await guest.sleep(at_ns)
        look(guest)


def play(strategy, *tapes, at=None, blocks=64, config=None, before=None, **given):
    """Run a strategy; the run with its `result`, and its `reports`.

    Args:
        strategy: an instance, or a class: what is given by a name of its parameters goes there.
        tapes: operation blocks a vCPU.
        at: what to do at which times.
        blocks: size of the zone.
        before: called with the run before it begins.
        given: of the guest.
    """
    if isinstance(strategy, type):
        fields = strategy.Parameters.model_fields
        strategy = strategy(**{name: given.pop(name) for name in list(given) if name in fields})
    given.setdefault("zones", (zone(blocks),))
    config = config or small_guest(max(1, len(tapes)), **given)
    running = boot(strategy, *tapes, config=config, observers=[At(at)] if at else [])
    running.reports = Reports(running)
    if before:
        before(running)
    running.result = running.execute()
    return running


def take(slots, order=10, **given):
    """Allocate blocks; they are written, at no cost."""
    given.setdefault("flags", FAST)
    return allocate(slots, order=order, **given)


def give(slots, **given):
    return free(slots, **given)


def rest(duration_ns):
    return idle([duration_ns])


def number_of(pfn):
    """Which order-10 block of the zone."""
    return (pfn - START) // BLOCK


def block_at(number):
    return START + number * BLOCK


def free_storm():
    """Two vCPUs free thousands of pages at once, then whole blocks, and rest."""
    return [
        [
            take(range(first, first + 9000), order=0),
            give(range(first, first + 9000)),
            take(range(first, first + 6)),
            give(range(first, first + 6)),
            rest(2900 * MS),
        ]
        for first in (0, 9000)
    ]


class Reports:
    """Every batch that the host was told, as (time, [(pfn, order), ...])."""

    def __init__(self, running):
        self.batches = []
        host = running.guest.host
        count = host._count

        def counted(report):
            blocks = [(block.pfn, block.order) for block in report.blocks]
            self.batches.append((running.guest.now, blocks))
            count(report)

        host._count = counted

    @property
    def blocks(self):
        """Order-10 blocks in the order in which they were told."""
        return [number_of(pfn) for _, batch in self.batches for pfn, _ in batch]

    @property
    def times(self):
        return [at for at, _ in self.batches]

    @property
    def sizes(self):
        return [len(batch) for _, batch in self.batches]

    def since(self, at_ns):
        """Order-10 blocks told from some time on."""
        return [number_of(pfn) for at, batch in self.batches if at >= at_ns for pfn, _ in batch]
