"""What flags cost: a line of 512 units belongs to the CPU that wrote it last."""

import pytest

from hintbench import Strategy, hookimpl
from hintbench.operations import Flag, allocate, idle
from small_guest import START, costs, run, small_guest, zone

LINE = 512
PRICES = {"flag_ns": 1, "flag_contended_ns": 50}


class Turns(Strategy):
    """CPUs set and clear flags by turns, and note what each turn cost."""

    name = "turns"

    def __init__(self, *turns, order=0, forget="never"):
        super().__init__()
        self.turns, self.order, self.forget = turns, order, forget
        self.spent = []

    @hookimpl
    def guest_started(self, guest):
        self.flags = guest.flags("some", order=self.order, forget=self.forget)
        for number, (cpu, act) in enumerate(self.turns):
            guest.spawn(self.turn(guest, number, act), cpu=cpu, name=f"turn {number}")

    async def turn(self, guest, number, act):
        await guest.sleep(1_000_000 * (number + 1))
        before = guest.now
        act(self.flags)
        self.spent.append(guest.now - before)


def spent(*turns, tape=(), **given):
    turning = Turns(*turns, **given)
    config = small_guest(2, zones=(zone(8),), costs=costs(**PRICES))
    run(turning, [*tape, idle([20_000_000])], [idle([20_000_000])], config=config)
    return turning.spent


def put(pfn, order=0):
    return lambda flags: flags.set(START + pfn, order)


def drop(pfn, order=0):
    return lambda flags: flags.clear(START + pfn, order)


def test_the_first_to_write_and_whoever_goes_on_pay_little():
    assert spent((0, put(0)), (0, drop(0)), (0, put(7)), (0, put(LINE - 1))) == [1, 1, 1, 1]


def test_another_cpu_pays_for_the_line_once():
    assert spent((0, put(0)), (1, put(9)), (1, drop(9)), (0, drop(0))) == [1, 50, 1, 50]


def test_also_when_it_changes_nothing():
    assert spent((0, put(0)), (1, put(0)), (0, put(0))) == [1, 50, 50]


def test_another_line_is_nobodys():
    assert spent((0, put(LINE - 1)), (1, put(LINE))) == [1, 1]


def test_a_block_over_several_lines_pays_for_each():
    assert spent((0, put(LINE)), (1, put(0, order=10)), (1, drop(0, order=10))) == [1, 1 + 50, 2]


@pytest.mark.parametrize("order", [9, 10])
def test_units_share_lines_whatever_their_order(order):
    assert spent((0, put(0)), (1, put(1 << order)), order=order) == [1, 50]


def test_a_thread_of_the_host_is_another_writer():
    assert spent((0, put(0)), (-1, put(1)), (-1, put(2)), (0, put(3))) == [1, 50, 1, 50]


def test_looking_costs_nothing_by_itself():
    turns = [(0, put(0)), (1, lambda flags: flags.test(START)), (0, put(1))]
    assert spent(*turns) == [1, 0, 1]


def test_whoever_takes_a_block_writes_its_line():
    """The allocation on CPU 0 clears the flag that CPU 1 has set."""
    tape = [idle([1_500_000]), allocate([0], order=10, flags=Flag.TOUCHED)]
    everywhere = [put(number * 1024) for number in range(8)]

    def put_all(flags):
        for each in everywhere:
            each(flags)

    turns = [(1, put_all), (1, put(0))]
    assert spent(*turns, tape=tape, order=10, forget="allocated") == [8, 50]
    assert spent(*turns, order=10, forget="allocated") == [8, 1]
