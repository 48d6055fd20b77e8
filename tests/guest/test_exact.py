"""The operations of an exact replay where they contradict what is free in the guest."""

import numpy as np
import pytest

from hintbench import Strategy, hookimpl
from hintbench.guest.validation import validate
from hintbench.operations import Operation, OperationBlock
from small_guest import MS, START, US, Tapes, boot, small_guest, zone


class Exact(Tapes):
    """Operations by name, first page, order and time."""

    def __init__(self, *steps):
        codes = [Operation[name] | order << 4 | 1 << 8 for name, _, order, _ in steps]
        block = OperationBlock(
            np.array(codes, dtype=np.uint32),
            np.array([pfn for _, pfn, _, _ in steps], dtype=np.int32),
            np.array([time for *_, time in steps], dtype=np.int64),
        )
        super().__init__([[block]])


def replay(*steps, strategy=None, workload=None):
    running = boot(strategy, config=small_guest(zones=(zone(4),)), workload=Exact(*steps))
    running.result = running.execute()
    return running


def free_by_lists(zone):
    return sum(
        len(zone.blocks_of(order, kind)) << order for order in range(11) for kind in range(4)
    )


@pytest.mark.parametrize(
    ("name", "pfn", "order"),
    [("HAND_OUT", 5, 0), ("HAND_OUT", 0, 10), ("HAND_OUT", 512, 9), ("GIVE_BACK", 6, 1)],
)
def test_a_page_that_is_free_leaves_its_list_first(name, pfn, order):
    """A state byte is never written over that of a linked block: its list would lose its end."""
    running = replay((name, START + pfn, order, 0))
    assert running.machine.simulation.exact_taken_again == 1
    normal = running.machine.zones[0]
    assert normal.free_pages == free_by_lists(normal) == 4 * 1024 - (1 << order)


def test_a_block_of_which_parts_are_free():
    steps = [("TAKE", START + page, 0, page) for page in (0, 3)]
    running = replay(*steps, ("HAND_OUT", START, 3, 10))
    # Page 1, page 2, and the four behind them.
    assert running.machine.simulation.exact_taken_again == 3
    normal = running.machine.zones[0]
    assert normal.free_pages == free_by_lists(normal) == 4 * 1024 - 8


def test_a_return_over_pages_that_are_free_is_not_carried_out():
    running = replay(("TAKE", START, 0, 0), ("RETURN", START, 3, 1))
    assert running.machine.simulation.exact_returned_again == 1
    normal = running.machine.zones[0]
    assert normal.free_pages == free_by_lists(normal) == 4 * 1024 - 1


def test_a_hand_out_waits_for_a_page_that_a_strategy_has_isolated():
    class Holds(Strategy):
        name = "holds"

        @hookimpl
        def guest_started(self, guest):
            guest.spawn(self.work(guest), cpu=0, name="holds")

        async def work(self, guest):
            normal = guest.zones[0]
            async with normal.lock:
                block = normal.isolate(START)
            await guest.sleep(MS)
            async with normal.lock:
                normal.put_back(block)

    running = replay(("HAND_OUT", START + 5, 0, 10 * US), strategy=Holds())
    simulation = running.machine.simulation
    assert simulation.exact_waits > 100
    assert simulation.exact_taken_again == 1
    assert running.result.violations == {}
    assert validate(running.machine) == []
