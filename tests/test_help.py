"""What help() shows of the public names: a text and the arguments, also where it is compiled."""

import inspect
import re

import pytest

import hintbench
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


def test_the_attributes_of_guest_and_host_are_told():
    guest = boot(None, []).guest
    for part in (guest, guest.host):
        told = inspect.getdoc(type(part))
        shown = [name for name in vars(part) if not name.startswith("_")]
        assert shown
        for name in shown:
            assert re.search(rf"^[\w, ]*\b{name}\b[\w, ]*: ", told, re.MULTILINE), name


def test_what_a_guest_shows_is_what_its_strategy_may_call():
    assert {name for name, _ in methods_of(hintbench.Guest)} == {
        *("spend", "spawn", "sleep", "step", "spin_while", "event", "interrupts_off"),
        *("allocate_buffer", "flags", "spinlock", "guarded", "atomic", "per_cpu"),
        *("zone_of", "page_ref_count", "is_compound", "compound_head", "compound_order"),
        *("is_slab", "count_drop", "mark", "oops", "violate"),
    }
