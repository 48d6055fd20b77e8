"""Plugins that are named by where they stand."""

import sys

import pytest

import hintbench
from hintbench.errors import PluginError, UsageError
from hintbench.plugins.finding import find_strategy
from hintbench.plugins.places import class_at, resolve, split_place

ONE = '''
from hintbench import Strategy


class {0}(Strategy):
    """Does nothing."""

    name = "{1}"
'''


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("mine", None),
        ("bitmap-and-spin", None),
        ("mine.py", ("mine.py", "")),
        ("here/mine.py:Mine", ("here/mine.py", "Mine")),
        ("a.py/b.py", ("a.py/b.py", "")),
        ("package.module:Mine", ("package.module", "Mine")),
        ("mine.pyc", None),
    ],
)
def test_a_place_is_told_from_a_name(text, place):
    assert split_place(text) == place


def test_a_trace_is_a_workload_and_no_place():
    assert split_place("trace:FILE.txt", "workload") is None
    assert split_place("trace:Mine") == ("trace", "Mine")


def test_a_file_with_one_strategy_needs_no_class(tmp_path):
    file = tmp_path / "alone.py"
    file.write_text(ONE.format("Alone", "alone-in-its-file"))
    found = class_at("strategy", str(file), "")
    assert (found.__name__, found.name) == ("Alone", "alone-in-its-file")
    assert class_at("strategy", str(file), "Alone") is found
    assert find_strategy("alone-in-its-file") is found


def test_a_file_with_two_says_how_to_name_each(tmp_path):
    file = tmp_path / "both.py"
    file.write_text(ONE.format("Left", "left-of-two") + ONE.format("Right", "right-of-two"))
    with pytest.raises(UsageError, match=r"2 strategies: .*both\.py:Left or .*both\.py:Right"):
        class_at("strategy", str(file), "")
    assert class_at("strategy", str(file), "Right").name == "right-of-two"


def test_what_names_a_strategy_may_have_parameters(tmp_path):
    file = tmp_path / "with_some.py"
    file.write_text(ONE.format("WithSome", "with-some"))
    found, parameters = resolve("strategy", f"{file}:WithSome,batch=8")
    assert (found.name, dict(parameters)) == ("with-some", {"batch": "8"})
    assert resolve("strategy", "with-some") == (found, {})
    assert resolve("workload", "trace:FILE.txt,exact=true")[0].name == "trace"


def test_a_file_stands_for_a_name_in_python_too(tmp_path):
    file = tmp_path / "by_place.py"
    file.write_text(ONE.format("ByPlace", "by-its-place"))
    result = hintbench.run(str(file), "churn,operations=1000", {"memory": "64MiB", "vcpus": 1})
    assert result.strategy == "by-its-place"


def test_a_strategy_is_no_workload(tmp_path):
    file = tmp_path / "kind.py"
    file.write_text(ONE.format("Kind", "one-kind"))
    with pytest.raises(UsageError, match=r"defines no workload, only the strategy 'one-kind'"):
        class_at("workload", str(file), "")
    with pytest.raises(UsageError, match=r"kind\.py has no workload 'Kind'"):
        class_at("workload", str(file), "Kind")


def test_a_module_of_the_current_folder_is_found(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [path for path in sys.path if path])
    (tmp_path / "beside_us.py").write_text(ONE.format("Beside", "beside-us"))
    assert class_at("strategy", "beside_us", "Beside").name == "beside-us"
    with pytest.raises(UsageError, match=r"beside_us has no strategy 'Absent'"):
        class_at("strategy", "beside_us", "Absent")


def test_what_a_module_raises_is_its_own_fault(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [str(tmp_path), *sys.path])
    (tmp_path / "raises_here.py").write_text("1 / 0\n")
    with pytest.raises(PluginError, match=r"ZeroDivisionError"):
        class_at("strategy", "raises_here", "Mine")
