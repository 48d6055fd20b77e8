"""A strategy that tests give a fault, and the error with which its run ends."""

import pytest

from hintbench import PluginError, Strategy
from hintbench.operations import Flag, allocate, free
from small_guest import run

TAPE = [allocate([0], order=10, flags=Flag.TOUCHED), free([0])]


class Faulty(Strategy):
    """Has a fault in one hook."""

    name = "faulty"


def fails(strategy, *tapes, **given):
    """The error that the run ends with."""
    with pytest.raises(PluginError) as caught:
        run(strategy() if isinstance(strategy, type) else strategy, *(tapes or [TAPE]), **given)
    return caught.value
