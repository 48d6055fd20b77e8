"""Random operations on a :class:`driver.Bench`, in moods that drive memory into its corners."""

from __future__ import annotations

import random

from hintbench.guest.validation import validate
from hintbench.operations import Flag
from reference.guest import Request
from reference.lists import MOVABLE, RECLAIMABLE, UNMOVABLE

from .comparison import compare_questions
from .driver import SLOTS, Bench

ORDERS = (
    (0,) * 12 + (1, 2, 3),
    (0, 1, 2, 3),
    tuple(range(11)),
    (9, 9, 10, 8),
    (4, 5, 6, 7, 8),
)
TYPES = (
    (MOVABLE, MOVABLE, MOVABLE, UNMOVABLE, RECLAIMABLE),
    (UNMOVABLE,),
    (RECLAIMABLE, UNMOVABLE),
    (MOVABLE,),
)


class Player:
    """Makes one operation after the other.

    A mood lasts for some operations: it favours orders and types, and grows, keeps or shrinks
    what is allocated; so every zone is filled up and emptied again.

    Args:
        bench: the guest.
        rng: where all choices come from.
    """

    def __init__(self, bench: Bench, rng: random.Random) -> None:
        self.bench = bench
        self.rng = rng
        self.left = 0
        self.grow = 0.5
        self.orders = ORDERS[0]
        self.types = TYPES[0]
        self.order_of_frees = "random"

    def step(self) -> None:
        """One operation on a random vCPU, now and then something that is not on a tape."""
        if self.left <= 0:
            self._change_mood()
        self.left -= 1
        chance = self.rng.random()
        if chance < 0.04:
            self._isolate()
        elif chance < 0.08:
            self._put_back()
        elif chance < 0.09:
            self._rotate()
        elif chance < 0.10:
            self.bench.decay(self._cpu())
        elif chance < 0.11:
            self.bench.kswapd()
        elif chance < 0.12:
            self.bench.wake_kswapd()
        elif self.rng.random() < self.grow and len(self.bench.slots) < SLOTS - 1:
            self._allocate()
        elif self.bench.slots:
            self._free()

    def _change_mood(self) -> None:
        rng = self.rng
        self.left = rng.randrange(20, 120)
        self.grow = rng.choice((0.9, 0.9, 0.5, 0.3, 0.05))
        self.orders = rng.choice(ORDERS)
        self.types = rng.choice(TYPES)
        self.order_of_frees = rng.choice(("random", "oldest", "newest"))

    def _cpu(self) -> int:
        return self.rng.randrange(self.bench.setup.vcpus)

    def _allocate(self) -> None:
        rng = self.rng
        atomic = rng.random() < 0.2
        request = Request(
            rng.choice(self.orders),
            rng.choice(self.types),
            rng.choice((0, 1, 2, 2, 2, 2, 3)),
            atomic,
            not atomic and rng.random() < 0.3,
        )
        flags = Flag(0)
        if rng.random() < 0.3:
            flags |= Flag.COMPOUND
        if request.migratetype != MOVABLE and rng.random() < 0.3:
            flags |= Flag.SLAB
        if rng.random() < 0.3:
            flags |= Flag.ZERO
        self.bench.allocate(self._cpu(), request, flags)

    def _free(self) -> None:
        slots = list(self.bench.slots)
        if self.order_of_frees == "random":
            slot = self.rng.choice(slots)
        else:
            slot = slots[0 if self.order_of_frees == "oldest" else -1]
        self.bench.free(self._cpu(), slot)

    def _isolate(self) -> None:
        index = self.rng.randrange(len(self.bench.zones))
        blocks = self.bench.zones[index].free_blocks(self.rng.choice((0, 0, 8, 9, 10)))
        if blocks:
            self.bench.isolate(index, self.rng.choice(blocks).pfn)

    def _put_back(self) -> None:
        if self.bench.isolated:
            which = self.rng.randrange(len(self.bench.isolated))
            self.bench.put_back(which, self.rng.random() < 0.5)

    def _rotate(self) -> None:
        index = self.rng.randrange(len(self.bench.zones))
        blocks = self.bench.zones[index].free_blocks(0)
        if blocks:
            self.bench.rotate(index, self.rng.choice(blocks).pfn)


def play(bench: Bench, seed: int, steps: int) -> None:
    """Random operations, everything compared after each."""
    rng = random.Random(seed)
    player = Player(bench, rng)
    bench.compare()
    for step in range(steps):
        player.step()
        bench.compare()
        if step % 16 == 0:
            compare_questions(bench, rng.randrange)
            assert validate(bench.machine) == []
