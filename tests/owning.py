"""A strategy with a lock of its own, and what tasks and hooks do with it."""

from hintbench import Strategy, hookimpl
from hintbench.operations import Flag, allocate, free, idle
from small_guest import costs, run, small_guest

TAPE = [allocate([0], order=10, flags=Flag.TOUCHED), free([0])]


class Own(Strategy):
    """Makes what it needs, and does something in a task or two."""

    name = "own"

    @hookimpl
    def guest_started(self, guest):
        self.guest = guest
        self.lock = guest.spinlock("own")
        self.prepare(guest)
        for cpu, work in enumerate(self.works):
            guest.spawn(work(self, guest), cpu=cpu, name=f"work/{cpu}")

    def prepare(self, guest):
        """Make more."""


def working(*works, **members):
    """A run of a strategy with a task on each CPU."""
    config = small_guest(len(works), costs=members.pop("costs", costs()))
    strategy = type("Working", (Own,), {"works": works, **members})()
    tapes = [[idle([1])] for _ in works]
    return run(strategy, *tapes, config=config)
