"""Per-CPU state behind its guard looks like itself, and every use is seen."""

import copy
import operator

import pytest

from hintbench.core.guarding import Gate, HookWatch
from hintbench.guest.guarded import guard
from small_guest import boot, small_guest


class Counter:
    def __init__(self):
        self.value = 0


@pytest.fixture
def touches():
    return []


def test_a_list_is_a_list(touches):
    ring = guard([1, 2], lambda: touches.append(1))
    ring.append(3)
    ring += [4]
    ring[0] = 9
    assert isinstance(ring, list)
    assert (len(ring), list(ring), ring[1:], 3 in ring, ring == [9, 2, 3, 4]) == (
        *(4, [9, 2, 3, 4], [2, 3, 4]),
        *(True, True),
    )
    assert len(touches) >= 8


def test_attributes_are_seen(touches):
    state = guard(Counter(), lambda: touches.append(1))
    state.value += 1
    assert state.value == 1
    assert len(touches) == 3


@pytest.mark.parametrize("value", [3, "a", None, (1,), 1.5])
def test_what_cannot_change_is_left_alone(value, touches):
    assert guard(value, lambda: touches.append(1)) is value


def test_an_empty_dictionary_is_false(touches):
    assert not guard({}, lambda: touches.append(1))


class Number:
    """Has every operator, and changes in place."""

    def __init__(self, value):
        self.value = value

    def __eq__(self, other):
        return self.value == getattr(other, "value", other)

    def __hash__(self):
        return hash(self.value)

    def __lt__(self, other):
        return self.value < getattr(other, "value", other)

    def __invert__(self):
        return ~self.value


def _operator(name):
    function = getattr(operator, f"__{name}__")

    def operate(self, other):
        return function(self.value, getattr(other, "value", other))

    def operate_from_the_right(self, other):
        return function(other, self.value)

    def operate_in_place(self, other):
        self.value = operate(self, other)
        return self

    return operate, operate_from_the_right, operate_in_place


BINARY = [
    *("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "lshift", "rshift"),
    *("and", "xor", "or"),
]
for _name in BINARY:
    _plain, _right, _in_place = _operator(_name)
    setattr(Number, f"__{_name}__", _plain)
    setattr(Number, f"__r{_name}__", _right)
    setattr(Number, f"__i{_name}__", _in_place)


@pytest.mark.parametrize("name", BINARY)
def test_operators(name, touches):
    function = getattr(operator, f"__{name}__")
    seven = guard(Number(7), lambda: touches.append("seven"))
    two = guard(Number(2), lambda: touches.append("two"))
    assert function(seven, 2) == function(7, 2)
    assert function(7, two) == function(7, 2)
    assert touches == ["seven", "two"]
    assert function(seven, two) == function(7, 2)
    assert touches[2:] == ["seven", "two"]
    before = seven
    seven = getattr(operator, f"__i{name}__")(seven, 2)
    assert seven is before
    assert seven.value == function(7, 2)


def test_comparisons_hashes_and_truth(touches):
    seven = guard(Number(7), lambda: touches.append(1))
    assert seven == 7
    assert seven == guard(Number(7), list)
    assert seven != 8
    assert seven < 8
    assert {seven: "there"}[Number(7)] == "there"
    assert ~seven == ~7
    assert bool(seven)
    with pytest.raises(TypeError, match="unhashable"):
        hash(guard([], list))


def test_a_hash_by_identity_touches_nothing(touches):
    counter = Counter()
    assert hash(guard(counter, lambda: touches.append(1))) == hash(counter)
    assert touches == []


def test_a_list_adds_to_a_guarded_one(touches):
    ring = guard([2], lambda: touches.append(1))
    other = guard([3], list)
    assert operator.add([1], ring) == [1, 2]
    assert ring + other == [2, 3]
    assert ring != other
    assert ring * 2 == 2 * ring == [2, 2]
    with pytest.raises(TypeError):
        ring + 1


def test_sets_and_dictionaries_in_place(touches):
    kept = guard({1, 2}, lambda: touches.append(1))
    before = kept
    kept |= {3}
    kept -= {1}
    kept ^= {9}
    assert kept is before
    assert kept == {2, 3, 9}
    table = guard({"a": 1}, lambda: touches.append(1))
    del table["a"]
    table |= {"b": 2}
    assert table == {"b": 2}
    assert len(touches) == 7


def test_an_attribute_that_is_deleted_is_seen(touches):
    counter = Counter()
    state = guard(counter, lambda: touches.append(1))
    del state.value
    assert touches == [1]
    assert not hasattr(counter, "value")


def test_iterators_and_copies(touches):
    numbers = guard(iter([1, 2, 3]), lambda: touches.append(1))
    assert iter(numbers) is numbers
    assert next(numbers) == 1
    assert list(numbers) == [2, 3]
    ring = guard([[1]], lambda: touches.append(1))
    shallow, deep = copy.copy(ring), copy.deepcopy(ring)
    assert type(shallow) is type(deep) is list
    assert shallow[0] is ring[0]
    assert deep == [[1]]
    assert deep[0] is not ring[0]


def test_a_gate_lets_its_cpu_pass_while_it_has_interrupts_off():
    running = boot(config=small_guest(2))
    scheduler, asked = running.scheduler, []
    gate = Gate(scheduler, 1, asked.append, False)
    ring = guard([], gate)
    running.machine.clock.cpu = 1
    ring.append(1)
    assert asked == [1]  # interrupts are on
    with running.guest.interrupts_off():
        ring.append(2)
        scheduler.off_by_hook = True
    ring.append(3)
    assert asked == [1]
    running.machine.clock.cpu = 0
    ring.append(4)
    assert asked == [1, 1]  # another CPU
    running.machine.clock.cpu = 1
    always = guard([], Gate(scheduler, 1, asked.append, True))
    always.append(5)
    assert asked == [1, 1, 1]
    assert ring == [1, 2, 3, 4]


def test_a_watched_hook_is_known_while_it_runs():
    running = boot()
    scheduler, seen = running.scheduler, []

    def hook(*arguments):
        seen.append((scheduler.plain_hook, scheduler.off_by_hook, arguments))
        raise ValueError("in the middle")

    told = [lambda name, arguments: seen.append((name, arguments))]
    watch = HookWatch(scheduler, "block_freed", hook, True, told)
    with pytest.raises(ValueError, match="in the middle"):
        watch(1, 2)
    assert seen == [("block_freed", (1, 2)), (("block_freed", (1, 2)), True, (1, 2))]
    assert (scheduler.plain_hook, scheduler.off_by_hook) == (("", ()), False)
