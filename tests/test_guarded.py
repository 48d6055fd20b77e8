"""Per-CPU state behind its guard looks like itself, and every use is seen."""

import pytest

from hintbench.guarded import guard


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
