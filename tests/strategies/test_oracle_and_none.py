"""The two bounds: nothing, and everything at once."""

import pytest

from hintbench.strategies.none import Nothing
from hintbench.strategies.oracle import Oracle

from .stage import give, play, take

TAPE = [take(range(3000), order=0), give(range(3000)), take([0], order=9), give([0])]


def test_none_has_no_hook():
    running = play(Nothing(), TAPE)
    assert set(running.bound.values()) == {None}
    assert running.result.metrics["discarded_bytes"] == 0


@pytest.mark.parametrize("order", [0, 9, 10])
def test_the_oracle_takes_free_memory_for_nothing(order):
    running = play(Oracle(at_order=order), TAPE)
    metrics = running.result.metrics
    assert metrics["discarded_bytes"] > 0
    assert metrics["host_cpu_ns"] == metrics["strategy_lock_takes"] == 0
    assert running.result.violations == {}
    in_pcp_and_fragments = metrics["retained_end_bytes"] > 0
    assert in_pcp_and_fragments == (order > 0)
