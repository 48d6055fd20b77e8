"""What help() shows of the public names: a text and the arguments, also where it is compiled."""

import inspect

import pytest

import hintbench

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
