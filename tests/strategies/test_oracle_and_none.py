"""The two ends of every comparison."""

import pytest

from hintbench.strategies.none import Nothing
from hintbench.strategies.oracle import Oracle

from .fake_guest import Guest


def test_none_implements_no_hook():
    guest = Guest()
    guest.attach(Nothing())
    assert set(guest.hooks.values()) == {None}


@pytest.mark.parametrize(("order", "outside"), [(0, False), (9, True)])
def test_the_oracle_claims_from_the_start(order, outside):
    guest = Guest()
    guest.attach(Oracle(at_order=order))
    assert guest.host.claimed == (order, outside)
