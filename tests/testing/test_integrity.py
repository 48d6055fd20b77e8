"""A strategy that replaces parts of the guest is at fault, whatever the checkers have seen."""

import pytest

from hintbench import Guest, Strategy, hookimpl
from hintbench.testing.exploration import run_scenario
from hintbench.testing.families import tiny_scenario
from hintbench.testing.scenario import Fault


async def always_yes(blocks, **_more):
    return True


def blind(guest):
    guest.watcher = None


def silence(guest):
    guest.violate = lambda *_arguments: None


def answer(guest):
    guest.host.report = always_yes


def disconnect(guest):
    guest.host.watcher = None


def have_memory(guest):
    guest.buffer_fails = None


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (blind, "guest.watcher"),
        (silence, "guest.violate"),
        (answer, "guest.host.report"),
        (disconnect, "guest.host.watcher"),
    ],
)
def test_a_replacement_is_named(change, name):
    class Meddles(Strategy):
        """Changes what is not its own."""

        name = "meddles"

        @hookimpl
        def guest_started(self, guest):
            change(guest)

    outcome = run_scenario(Meddles, tiny_scenario(1, ("6.12",)))
    assert f"plugin 'meddles': replaces {name}" in outcome.error


def test_a_fault_that_is_switched_off_is_named():
    class Meddles(Strategy):
        """Takes the faults away."""

        name = "meddles"

        @hookimpl
        def guest_started(self, guest):
            have_memory(guest)

    scenario = tiny_scenario(1, ("6.12",)).but(faults=(Fault("buffer-fails", 1),))
    assert "replaces guest.buffer_fails" in run_scenario(Meddles, scenario).error


def test_a_replaced_method_of_the_class_is_named(monkeypatch):
    class Meddles(Strategy):
        """Changes every guest."""

        name = "meddles"

        @hookimpl
        def guest_started(self, guest):
            monkeypatch.setattr(Guest, "oops", lambda *_arguments: None)

    outcome = run_scenario(Meddles, tiny_scenario(1, ("6.12",)))
    assert "replaces Guest.oops" in outcome.error


def test_a_strategy_of_good_manners_is_left_alone():
    assert run_scenario(Strategy, tiny_scenario(1, ("6.12",))).error == ""
