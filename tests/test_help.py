"""What help() shows of the public names: a text and the arguments, also where it is compiled."""

import inspect
import re
from pathlib import Path

import pytest

import hintbench
import hintbench.strategies
from small_guest import boot

PUBLIC = [name for name in hintbench.__all__ if callable(getattr(hintbench, name))]


def methods_of(public):
    """The methods that a reader of help() is meant to call, by name."""
    for owner in inspect.getmro(public) if inspect.isclass(public) else ():
        if owner.__module__.startswith("hintbench"):
            for name, member in vars(owner).items():
                if inspect.isroutine(member) and not name.startswith("_"):
                    yield name, getattr(owner, name)


@pytest.mark.parametrize("name", PUBLIC)
def test_help_tells_the_arguments(name):
    public = getattr(hintbench, name)
    assert inspect.getdoc(public)
    for method, member in methods_of(public):
        try:
            inspect.signature(member)
        except ValueError:
            pytest.fail(f"{name}.{method} does not tell its arguments")


def test_a_compiled_method_is_among_them():
    methods = dict(methods_of(hintbench.Zone))
    assert list(inspect.signature(methods["put_back"]).parameters) == [
        "self",
        "block",
        "tail",
        "notify",
    ]
    assert inspect.getdoc(methods["isolate"]).startswith("__isolate_free_page()")


def attributes_told(public):
    """The attributes of which the text of a class says what they are."""
    _, text = inspect.getdoc(public).split("\nAttributes:\n")
    lines = re.findall(r"^    (\w[\w, ]*): ", text, re.MULTILINE)
    return {name for line in lines for name in line.split(", ")}


def test_the_attributes_of_a_zone_that_strategies_use_are_told():
    zone = boot(None, []).guest.zones[0]
    told = attributes_told(hintbench.Zone)
    assert [name for name in told if not hasattr(zone, name)] == []
    folder = Path(hintbench.strategies.__file__).parent
    texts = [file.read_text(encoding="utf-8") for file in folder.glob("*.py")]
    used = {name for text in texts for name in re.findall(r"\bzone\.(\w+)", text)}
    assert {"lock", "free_pages", "isolate"} < used
    assert {name for name in used if not callable(getattr(zone, name))} <= told


def test_the_attributes_of_guest_and_host_are_told():
    guest = boot(None, []).guest
    for part in (guest, guest.host):
        told = inspect.getdoc(type(part))
        shown = [name for name in vars(part) if not name.startswith("_")]
        assert shown
        for name in shown:
            assert re.search(rf"^[\w, ]*\b{name}\b[\w, ]*: ", told, re.MULTILINE), name


def test_what_a_guest_shows_is_what_its_strategy_may_call():
    # violate() is for what the model itself finds: a strategy says oops().
    assert {name for name, _ in methods_of(hintbench.Guest)} - {"violate"} == {
        *("spend", "spawn", "sleep", "step", "spin_while", "event", "interrupts_off"),
        *("allocate_buffer", "flags", "spinlock", "guarded", "atomic", "per_cpu"),
        *("zone_of", "page_ref_count", "is_compound", "compound_head", "compound_order"),
        *("is_slab", "count_drop", "mark", "oops"),
    }
