"""Retained memory by where it is, page by page, and how long it takes to reclaim it."""

import random

import numpy as np
import pytest

from hintbench import Claims, HostConfig, Strategy, hookimpl
from hintbench.core.constants import BUDDY, IN_USE, ISOLATED, KIND_MASK, ORDER_MASK, SLAB
from hintbench.operations import Flag, allocate, free, idle
from hintbench.results.retention import LargeFree, find_large_free, split_of, time_to_reclaim_ns
from hintbench.strategies.bitmap_and_spin import BitmapAndSpin
from hintbench.strategies.oracle import Oracle
from hintbench.strategies.percpu_array_v9 import PercpuArrayV9
from hintbench.strategies.zone_confined_batching import ZoneConfinedBatching
from small_guest import BLOCK, START, boot, host, run, small_guest, zone

KERNELS = ["5.0", "6.12"]
PARTS = ["retained_pcp", "retained_fragments", "retained_untold", "retained_in_hand"]
MS = 1_000_000


def pages(slots, **given):
    return allocate(slots, flags=Flag.TOUCHED, **given)


class Watched(Strategy):
    """Has a minimum order, and compares the split with every page's state as often as asked."""

    name = "watched"

    def __init__(self, min_order=9):
        super().__init__()
        self.min_order = min_order

    def claims(self):
        return Claims(min_order=self.min_order)


def counted(running, marks=()):
    """The split, counted page by page."""
    machine = running.machine
    backing, states = machine.backing, np.asarray(machine.pages.state)
    min_order = backing.split.min_order
    marked = {unit + page for unit, order in marks for page in range(1 << order)}
    found = dict.fromkeys(PARTS, 0)
    for head in np.flatnonzero(states & KIND_MASK).tolist():
        kind, order = int(states[head]) & KIND_MASK, int(states[head]) & ORDER_MASK
        backed = [page for page in range(head, head + (1 << order)) if backing.is_backed(page)]
        if IN_USE <= kind <= SLAB:
            continue
        if kind == ISOLATED:
            found["retained_in_hand"] += len(backed)
        elif kind == BUDDY and order < min_order:
            found["retained_fragments"] += len(backed)
        elif kind == BUDDY:
            inside = len(marked.intersection(backed))
            found["retained_in_hand"] += inside
            found["retained_untold"] += len(backed) - inside
        else:
            found["retained_pcp"] += len(backed)
    return found


def told(running):
    return {name: part.value for name, part in split_of(running.machine).items() if name in PARTS}


class TestSplit:
    @pytest.mark.parametrize("min_order", [0, 4, 9, 10])
    @pytest.mark.parametrize("granule", ["4KiB", "2MiB"])
    @pytest.mark.parametrize("kernel", KERNELS)
    def test_it_is_what_the_pages_say(self, kernel, granule, min_order):
        """Whatever is allocated, freed, isolated, discarded and put back."""
        rng = random.Random(f"{kernel} {granule} {min_order}")
        config = small_guest(
            kernel=kernel,
            host=HostConfig(granule=granule),
            zones=(zone(24, managed_pages=23 * BLOCK),),
        )
        checks = []

        class Stirring(Watched):
            @hookimpl
            def guest_started(self, guest):
                self.mid = guest.flags("mid", order=9, meaning="in-flight")
                self.stopping = False
                guest.spawn(self.stir(guest), cpu=0, name="stir")

            async def stir(self, guest):
                zone = guest.zones[0]
                while not self.stopping:
                    async with zone.lock:
                        free = zone.free_blocks(max(self.min_order - 1, 0))
                        some = rng.sample(free, min(len(free), rng.randrange(1, 5)))
                        batch = [block for block in some if zone.isolate(block.pfn)]
                        units = [b.pfn for b in zone.free_blocks(9) if rng.random() < 0.2]
                        for unit in units:
                            self.mid.set(unit)
                        self.compare(units)
                    if rng.random() < 0.8:
                        await guest.host.report(batch)
                        self.compare(units)
                    for unit in units:
                        guest.host.backing.discard(unit, 9)
                        self.compare(units)
                    await guest.sleep(rng.randrange(200_000))
                    self.compare(units)
                    for unit in units:
                        self.mid.clear(unit)
                    async with zone.lock:
                        for block in batch:
                            zone.put_back(block)
                    self.compare()

            def compare(self, units=()):
                got = told(running)
                assert got == counted(running, [(unit, 9) for unit in units])
                checks.append(got)

            @hookimpl
            def guest_stopping(self):
                self.stopping = True

        tape = []
        live = []
        for slot in range(400):
            order = rng.choice([0, 0, 0, 1, 3, 5, 8, 9])
            touched = rng.choice([Flag.TOUCHED, Flag.TOUCHED, Flag(0)])
            tape.append(allocate([slot], order=order, flags=touched | Flag.NORETRY))
            live.append(slot)
            while len(live) > 60 or (live and rng.random() < 0.4):
                tape.append(free([live.pop(rng.randrange(len(live)))]))
            tape.append(idle([rng.randrange(30_000)]))
        running = boot(Stirring(min_order), tape, config=config)
        metrics = running.execute().metrics
        assert len(checks) > 60
        for name in PARTS[1:] if min_order else PARTS[2:]:
            assert any(check[name] for check in checks), name
        assert metrics["retained_gib_s"] == pytest.approx(sum(metrics[f"{n}_gib_s"] for n in PARTS))
        assert metrics["retained_end_bytes"] == sum(metrics[f"{n}_end_bytes"] for n in PARTS)

    @pytest.mark.parametrize(
        "strategy", [None, Oracle, BitmapAndSpin, PercpuArrayV9, ZoneConfinedBatching]
    )
    @pytest.mark.parametrize("kernel", KERNELS)
    def test_under_every_strategy(self, kernel, strategy):
        tape = [pages(range(9000)), free(range(0, 9000, 3)), free(range(1, 9000, 3)), idle([MS])]
        tape += [pages(range(9000, 9020), order=10), free(range(9000, 9020)), idle([500 * MS])]
        config = small_guest(kernel=kernel, host=HostConfig())
        made = strategy() if strategy else None
        if strategy is PercpuArrayV9:
            made = PercpuArrayV9(threshold=4, locked_return=True)
        running = boot(made, tape, config=config)
        running.execute()
        assert told(running) == counted(running)

    def test_over_time(self):
        """A second each: all whole, then all in use, then on pcp, fragments and whole blocks."""
        config = small_guest(kernel="5.0", zones=(zone(16, low=40),))
        batch_of = boot(config=config).machine.simulation.vcpus[0].pcps[0].batch
        tape = [idle([1000 * MS]), pages(range(1000)), idle([1000 * MS])]
        tape += [free(range(0, 1000, 2)), idle([1000 * MS])]
        running = run(Watched(9), tape, config=config)
        metrics = running.result.metrics
        gib_s = 4096 / (1 << 30)
        pcp = running.machine.simulation.vcpus[0].pcps[0].count
        assert pcp >= batch_of
        got = {name: metrics[f"{name}_gib_s"] / gib_s for name in PARTS}
        refilled = -(-1000 // batch_of) * batch_of - 1000
        rest = 1024 - 1000 - refilled
        assert got["retained_untold"] == pytest.approx((16 + 15 + 15) * 1024)
        # What the tape did not take of the first block; then every second page of it.
        assert got["retained_pcp"] == pytest.approx(refilled + pcp)
        assert got["retained_fragments"] == pytest.approx(2 * rest + 500 + refilled - pcp)
        assert got["retained_in_hand"] == 0
        assert metrics["retained_gib_s"] / gib_s == pytest.approx(46 * 1024 + 2 * 24 + 500)

    def test_in_hand_and_gone(self):
        """Isolated for 3 s, and told after the first; marked for 2 s without being told."""

        class Holding(Watched):
            @hookimpl
            async def guest_started(self, guest):
                zone = guest.zones[0]
                async with zone.lock:
                    block = zone.isolate(START)
                await guest.sleep(1000 * MS)
                guest.host.backing.discard(START, 10)
                await guest.sleep(2000 * MS)
                async with zone.lock:
                    zone.put_back(block)
                    mid = guest.flags("mid", order=9, meaning="in-flight")
                    mid.set(START + BLOCK)
                await guest.sleep(2000 * MS)
                mid.clear(START + BLOCK)

        config = small_guest(zones=(zone(2, low=40),))
        metrics = run(Holding(), [idle([1000 * MS])], config=config).result.metrics
        gib_s = 4096 / (1 << 30)
        assert metrics["retained_in_hand_gib_s"] == pytest.approx((1024 + 2 * 512) * gib_s)
        assert metrics["retained_untold_gib_s"] == pytest.approx((6 * 1024 - 2 * 512) * gib_s)
        assert metrics["reclaimed_gib_s"] == pytest.approx(5 * 1024 * gib_s)

    def test_what_the_zones_do_not_manage_is_in_use(self):
        config = small_guest(zones=(zone(4, managed_pages=3 * BLOCK),))
        metrics = run(None, [idle([1000 * MS])], config=config).result.metrics
        assert metrics["footprint_end_bytes"] == 4 * BLOCK * 4096
        assert metrics["retained_end_bytes"] == 3 * BLOCK * 4096


class TestLargeFree:
    @pytest.mark.parametrize(
        ("used", "found"),
        [
            ([(0, 5)], None),
            ([(0, 5), (3, 9)], None),
            ([(0, 5), (3, 9), (4, 7), (8, 2), (9, 3)], LargeFree(3, 8, 7)),
            # The small free at 2 is not the large one.
            ([(0, 9), (2, 8), (3, 10), (5, 1), (6, 2), (7, 1)], LargeFree(3, 5, 9)),
            # A rise in between does not end it.
            ([(0, 9), (2, 5), (3, 6), (5, 1)], LargeFree(0, 5, 8)),
            # From the last time of the peak, and of equal ones the last.
            ([(0, 9), (2, 3), (4, 9), (5, 9), (7, 3), (8, 4)], LargeFree(5, 7, 6)),
            ([(0, 9), (2, 3), (4, 8), (7, 3)], LargeFree(0, 2, 6)),
        ],
    )
    def test_the_largest_fall(self, used, found):
        assert find_large_free(used) == found

    @pytest.mark.parametrize(
        ("percent", "expected"), [(50, 40 - 20), (60, 60 - 20), (90, 80 - 20), (99, None)]
    )
    def test_how_long_it_takes(self, percent, expected):
        backed = [(0, 500), (12, 480), (40, 450), (50, 460), (60, 440), (80, 410), (90, 600)]
        assert time_to_reclaim_ns(backed, LargeFree(10, 20, 100), percent) == expected

    def test_what_is_reclaimed_while_it_is_freed_took_no_time(self):
        backed = [(0, 500), (12, 440), (25, 400)]
        assert time_to_reclaim_ns(backed, LargeFree(10, 20, 100), 50) == 0
        assert time_to_reclaim_ns(backed, LargeFree(10, 20, 100), 99) == 5


class Halves(Watched):
    """A second after the start it reports all free blocks of order 10, one after the other."""

    @hookimpl
    def guest_started(self, guest):
        guest.spawn(self.work(guest), cpu=0, name="work")

    async def work(self, guest):
        await guest.sleep(1000 * MS)
        zone = guest.zones[0]
        for block in zone.free_blocks(10)[:16]:
            await guest.host.report([block])


class TestTimesToReclaim:
    def measured(self, strategy, tape, **given):
        config = small_guest(zones=(zone(16, low=160),), host=host(descriptor_ns=10 * MS), **given)
        metrics = run(strategy, [*tape, idle([3000 * MS])], config=config).result.metrics
        names = [f"time_to_reclaim_{percent}_percent_ns" for percent in (50, 90, 99)]
        return metrics["large_free_bytes"], [metrics[name] for name in names]

    def test_half_of_it_and_all_of_it(self):
        tape = [idle([100 * MS]), pages(range(15), order=10), idle([100 * MS]), free(range(15))]
        size, times = self.measured(Halves(10), tape)
        assert size == 15 * BLOCK * 4096
        # The host needs 10 ms a block, and 8, 14 and 15 blocks are half, 90 % and 99 % of 15.
        assert times == pytest.approx([(800 + 10 * blocks) * MS for blocks in (8, 14, 15)], abs=MS)

    def test_never(self):
        tape = [pages(range(15), order=10), idle([MS]), free(range(15))]
        assert self.measured(None, tape) == (15 * BLOCK * 4096, [None] * 3)

    def test_no_large_free(self):
        # Less than a sixteenth of the guest.
        tape = [pages([0], order=9), idle([MS]), free([0])]
        assert self.measured(Halves(10), tape) == (None, [None] * 3)

    def test_the_oracle_takes_no_time(self):
        tape = [pages(range(8), order=10), idle([MS]), free(range(8))]
        assert self.measured(Oracle(), tape) == (8 * BLOCK * 4096, [0, 0, 0])
