"""A strategy that replaces parts of the guest is at fault, whatever the checkers have seen."""

import copy

import numpy
import pytest

from hintbench import Claims, Guest, Strategy, hookimpl
from hintbench.core import BUILD
from hintbench.errors import PluginError
from hintbench.plugins.finding import load_plugin
from hintbench.plugins.replacements import Replacements
from hintbench.testing.checker import Checker
from hintbench.testing.exploration import run_scenario
from hintbench.testing.rules import returned
from hintbench.testing.runs.explored import ExploredRun
from hintbench.testing.scenarios.families import draw_scenario, tiny_scenario
from hintbench.testing.scenarios.scenario import Fault


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


def wake_for_nothing(guest):
    guest._prices = copy.copy(guest._prices)


def share_unseen(guest):
    guest._sharing = copy.copy(guest._sharing)


def share_for_nothing(guest):
    guest._sharing._prices = copy.copy(guest._sharing._prices)


def unmap_nothing(guest):
    guest.host.unmapping = copy.copy(guest.host.unmapping)


def hide_what_is_kept(guest):
    guest.zones[0].kept = None


def mute_a_zone(guest):
    guest.zones[0].violate = None


def hurry_edits(guest):
    guest.zones[0].torn = None


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (wake_for_nothing, "guest._prices"),
        (share_unseen, "guest._sharing"),
        (share_for_nothing, "guest._sharing._prices"),
        (unmap_nothing, "guest.host.unmapping"),
        (hide_what_is_kept, "zone.kept"),
        (mute_a_zone, "zone.violate"),
        (hurry_edits, "zone.torn"),
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


def turn_back(guest):
    guest.machine.clock.now -= 100


def forward(guest):
    guest._clock.now += 100


def of_a_vcpu(guest):
    guest.machine.simulation.set_clock(0, 0)


def unguard(guest):
    guest.machine.clock.guarded = False


@pytest.mark.skipif(BUILD == "interpreted", reason="there the clock's attributes are plain ones")
@pytest.mark.parametrize("change", [turn_back, forward, of_a_vcpu, unguard])
def test_virtual_time_is_not_a_strategys_to_set(change):
    class Meddles(Strategy):
        """Sets the clock."""

        name = "meddles"

        @hookimpl
        def page_allocated(self, guest):
            change(guest)

    error = run_scenario(Meddles, tiny_scenario(1, ("6.12",))).error
    assert "meddles" in error and "page_allocated" in error
    assert "is not a strategy's to set: guest.spend(ns) charges time" in error


def cheap(guest):
    guest.machine.clock.costs.lock_take_ns = 0


def cheap_for_a_moment(guest):
    costs = guest.machine.clock.costs
    costs.lock_take_ns, costs.lock_take_ns = 0, costs.lock_take_ns


def other_prices(guest):
    guest.host.config = copy.copy(guest.host.config)


def retype(guest):
    types = guest.machine.pages.pageblock_type
    types[len(types) - 1] = 2 if types[len(types) - 1] != 2 else 0


def lower(guest):
    guest.zones[-1].watermark_low = 0


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (cheap, "guest.machine.clock.costs"),
        (other_prices, "guest.host.config"),
        (retype, "guest.machine.pages.pageblock_type"),
        (lower, "zone.watermark_min, _low or _high"),
    ],
)
def test_prices_types_and_watermarks_stay_what_they_were(change, name):
    class Meddles(Strategy):
        """Changes them once, in the middle of things."""

        name = "meddles"

        @hookimpl
        def guest_started(self, guest):
            self.changed = False

        @hookimpl
        def page_allocated(self, guest):
            if not self.changed:
                self.changed = True
                change(guest)

    assert f"replaces {name}" in run_scenario(Meddles, tiny_scenario(1, ("6.12",))).error


@pytest.mark.skipif(BUILD == "interpreted", reason="there prices are compared, not counted")
def test_a_price_that_is_set_and_set_back_was_set():
    class Meddles(Strategy):
        """Has something for nothing."""

        name = "meddles"

        @hookimpl
        def page_allocated(self, guest):
            cheap_for_a_moment(guest)

    error = run_scenario(Meddles, tiny_scenario(1, ("6.12",))).error
    assert "replaces guest.machine.clock.costs" in error


@pytest.mark.parametrize("where", ["config", "_prices"])
def test_the_terms_of_a_run_cannot_be_written(where):
    guest = ExploredRun(Strategy(), tiny_scenario(1, ("6.12",)), []).guest
    part = guest.host if where == "config" else guest
    with pytest.raises(AttributeError, match="is part of a configuration"):
        getattr(part, where).descriptor_ns = 0


def test_the_kernel_may_change_the_types_of_pageblocks():
    changed = 0
    for seed in range(1, 41):
        runs = []
        outcome = run_scenario(Strategy, draw_scenario(seed), attach=runs.append)
        assert outcome.error == ""
        changed += runs[0].machine.pages.retyped != 0
    assert changed > 0


def of_everybody(name, place):
    text = "import numpy\nfrom hintbench import Strategy\nfrom hintbench.testing import checker\n"
    return f"{text}{place} = None\n\n\nclass Mine(Strategy):\n    name = '{name}'\n"


@pytest.mark.parametrize(
    ("name", "place", "told"),
    [
        ("sorts", "numpy.sort", "numpy.sort"),
        ("judges", "checker.Checker.violate", "hintbench.testing.checker.Checker.violate"),
    ],
)
def test_what_a_file_replaces_on_import_is_put_back(name, place, told, tmp_path):
    before = numpy.sort, Checker.violate
    path = tmp_path / f"{name}.py"
    path.write_text(of_everybody(name, place))
    with pytest.raises(PluginError, match=f"replaces {told}, which is everybody's"):
        load_plugin(str(path))
    assert (numpy.sort, Checker.violate) == before


def test_constants_and_new_names_of_modules(monkeypatch):
    everybodys = Replacements()
    monkeypatch.setattr(returned, "GRACE_NS", 1)
    monkeypatch.setattr(returned, "another", 1, raising=False)
    assert everybodys.undo() == "hintbench.testing.rules.returned.GRACE_NS"
    assert returned.GRACE_NS == 500_000_000
    assert everybodys.undo() == ""


def test_a_gate_that_raises_is_the_strategys_own_fault():
    class Shut(Strategy):
        """Its gate does not know."""

        name = "shut"

        def claims(self):
            return Claims(min_order=9, liveness_bound_ns=1, gate=lambda zone: 1 // 0)

    error = run_scenario(Shut, tiny_scenario(1, ("6.12",)).but(settle=True)).error
    assert error.startswith("plugin 'shut': claims: gate: ZeroDivisionError")
