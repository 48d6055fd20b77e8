"""Finding plugins: our own, files, modules, entry points; and what is said when one is wrong."""

import importlib.metadata
import pickle
import subprocess
import sys
from importlib.metadata import EntryPoint
from typing import Literal, get_origin

import pytest

from hintbench.errors import ParameterError, PluginError, UnknownNameError, UsageError
from hintbench.plugins import finding, registry
from hintbench.strategy import Strategy

MINE = """
from hintbench import Strategy, hookimpl

class Mine(Strategy):
    "Tells nobody."
    name = "mine"

    @hookimpl
    def block_freed(self, pfn, order):
        pass
"""


@pytest.fixture(autouse=True)
def only_our_own(monkeypatch):
    """Each test starts from what hintbench brings along, and leaves nothing behind."""
    for kind in ("strategy", "workload"):
        monkeypatch.setitem(registry.contributed, kind, {})
    monkeypatch.setattr(finding, "_files", {})
    monkeypatch.delenv(finding.DISABLE_VARIABLE, raising=False)
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [])


@pytest.fixture
def installed(monkeypatch, tmp_path):
    """Pretend that modules are installed with an entry point each: name -> source text."""
    monkeypatch.syspath_prepend(tmp_path)
    points = []

    def install(name, source, attribute=""):
        module = f"installed_{name.replace('-', '_')}_{tmp_path.name.replace('-', '_')}"
        (tmp_path / f"{module}.py").write_text(source)
        value = f"{module}:{attribute}" if attribute else module
        points.append(EntryPoint(name, value, "hintbench"))
        return module

    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: points)
    return install


def write(path, text):
    path.write_text(text)
    return str(path)


class TestOwn:
    @pytest.mark.parametrize("name", registry.OWN_STRATEGIES)
    def test_strategy_is_found_by_its_name(self, name):
        found = finding.find_strategy(name)
        assert found.name == name
        assert issubclass(found, Strategy)
        assert found.summary
        assert registry.source_of(found) == "hintbench"

    @pytest.mark.parametrize("name", registry.OWN_STRATEGIES)
    def test_every_parameter_says_what_it_is(self, name):
        fields = finding.find_strategy(name).Parameters.model_fields
        for field in fields.values():
            assert field.description
            chosen = field.annotation is bool or get_origin(field.annotation) is Literal
            assert chosen or field.metadata, "a range, or what there is to choose from"

    def test_entry_points_are_not_read_for_our_own(self, monkeypatch):
        def read(group):
            pytest.fail("the entry points were read")

        monkeypatch.setattr(importlib.metadata, "entry_points", read)
        assert finding.find_strategy("none").name == "none"

    def test_known_lists_our_own_first(self, installed):
        installed("aaa", MINE.replace('"mine"', '"aaa"'))
        assert list(finding.known_strategies()) == [*registry.OWN_STRATEGIES, "aaa"]

    def test_importing_a_strategy_imports_neither_core_nor_workloads(self):
        code = (
            "import sys; from hintbench.plugins.finding import find_strategy\n"
            "find_strategy('oracle')\n"
            "print([m for m in sys.modules if m.startswith(('numpy', 'hintbench.core.'))])"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        )
        assert done.stdout.strip() == "[]"


class TestUnknownNames:
    @pytest.mark.parametrize(
        ("name", "near"),
        [
            ("bitmap", "zone-bitmap"),
            ("spin", "bitmap-and-spin"),
            ("percpu_array_v8", "percpu-array-v9"),
            ("zone-confined", "zone-confined-batching"),
            ("orcale", "oracle"),
        ],
    )
    def test_the_nearest_name_is_offered(self, name, near):
        with pytest.raises(UnknownNameError, match=f"did you mean '{near}'") as caught:
            finding.find_strategy(name)
        assert caught.value.exit_status == 2

    def test_names_of_loaded_plugins_are_offered_too(self, tmp_path):
        finding.load_plugin(write(tmp_path / "mine.py", MINE))
        with pytest.raises(UnknownNameError, match="did you mean 'mine'"):
            finding.find_strategy("mines")

    def test_a_plugin_that_could_not_be_looked_into_is_named(self, installed):
        installed("broken", "1 / 0")
        with pytest.raises(UnknownNameError, match="not loaded: broken"):
            finding.find_strategy("nobody-has-this")


class TestFiles:
    def test_a_file_contributes_its_strategies(self, tmp_path):
        path = write(tmp_path / "mine.py", MINE)
        finding.load_plugin(path)
        found = finding.find_strategy("mine")
        assert found.summary == "Tells nobody."
        assert registry.source_of(found) == path
        assert "mine" in finding.known_strategies()

    def test_a_file_is_not_imported_under_its_bare_name(self, tmp_path):
        module = finding.load_plugin(write(tmp_path / "pickle.py", MINE))
        assert module is not pickle
        assert sys.modules["pickle"] is pickle

    def test_files_of_one_name_in_two_folders_are_two_plugins(self, tmp_path):
        for name in ("one", "two"):
            (tmp_path / name).mkdir()
            text = MINE.replace('"mine"', f'"{name}"')
            finding.load_plugin(write(tmp_path / name / "plugin.py", text))
        assert finding.find_strategy("one") is not finding.find_strategy("two")

    def test_a_file_is_imported_once_until_it_changes(self, tmp_path):
        path = write(tmp_path / "mine.py", MINE)
        first = finding.load_plugin(path)
        assert finding.load_plugin(path) is first
        write(tmp_path / "mine.py", MINE.replace('"mine"', '"renamed"'))
        finding.load_plugin(path)
        assert finding.find_strategy("renamed")
        with pytest.raises(UnknownNameError):
            finding.find_strategy("mine")

    def test_what_a_file_only_imports_is_not_its_own(self, tmp_path):
        source = "from hintbench.strategies.oracle import Oracle\nfrom hintbench import Strategy\n"
        with pytest.raises(PluginError, match="defines no Strategy and no Workload"):
            finding.load_plugin(write(tmp_path / "empty.py", source))

    def test_a_base_with_an_underscore_needs_no_name(self, tmp_path):
        source = MINE.replace(
            "class Mine(Strategy)", "class _Base(Strategy): pass\n\nclass M(_Base)"
        )
        finding.load_plugin(write(tmp_path / "mine.py", source))
        assert finding.find_strategy("mine").__name__ == "M"

    def test_a_file_may_hold_a_workload(self, tmp_path):
        source = """
from hintbench import Workload

class Quiet(Workload):
    "Does nothing."
    name = "quiet"

    def program(self, setting):
        raise AssertionError
"""
        finding.load_plugin(write(tmp_path / "quiet.py", source))
        assert finding.find_workload("quiet").name == "quiet"
        with pytest.raises(UnknownNameError):
            finding.find_strategy("quiet")


class TestFaultyFiles:
    @pytest.mark.parametrize(
        ("source", "text"),
        [
            ("x = 1\ndef f(:\n", r"bad\.py:2: SyntaxError: "),
            ("\n\n1 / 0\n", r"bad\.py:3: ZeroDivisionError: division by zero"),
            ("import not_a_module_at_all", r"bad\.py:1: ModuleNotFoundError"),
            ("import sys\nsys.exit(3)", r"bad\.py:2: SystemExit: 3"),
            ("import json\njson.loads('{')", r"bad\.py:2: JSONDecodeError"),
            (
                "from hintbench import Strategy\nclass A(Strategy):\n    pass\n",
                "class A has no name of its own",
            ),
            (
                "from hintbench import Strategy\nclass A(Strategy):\n    name = 'Bad Name'\n",
                r"bad\.py:2: ValueError: A: name is 'Bad Name'",
            ),
            (MINE.replace('"mine"', '"none"'), "'none' is one of hintbench's own names"),
        ],
    )
    def test_file_line_and_cause_are_named(self, tmp_path, source, text):
        path = write(tmp_path / "bad.py", source)
        with pytest.raises(PluginError, match=text) as caught:
            finding.load_plugin(path)
        assert caught.value.plugin == path
        assert caught.value.exit_status == 1
        assert "\n" not in str(caught.value)

    def test_a_name_that_another_plugin_has_is_refused(self, tmp_path):
        first = write(tmp_path / "first.py", MINE)
        finding.load_plugin(first)
        with pytest.raises(PluginError, match=r"'mine' is already defined by .*first\.py"):
            finding.load_plugin(write(tmp_path / "second.py", MINE))

    def test_a_faulty_file_leaves_no_module_behind(self, tmp_path):
        before = set(sys.modules)
        with pytest.raises(PluginError):
            finding.load_plugin(write(tmp_path / "bad.py", "1 / 0"))
        assert {name for name in set(sys.modules) - before if "bad" in name} == set()

    def test_a_missing_file(self, tmp_path):
        with pytest.raises(UsageError, match="no such file"):
            finding.load_plugin(str(tmp_path / "absent.py"))

    def test_a_file_that_is_not_python(self, tmp_path):
        with pytest.raises(UsageError, match=r"must end in \.py"):
            finding.load_plugin(write(tmp_path / "mine.txt", MINE))


class TestModules:
    def test_a_module_by_its_dotted_name(self, tmp_path, monkeypatch):
        (tmp_path / "package_of_mine").mkdir()
        write(tmp_path / "package_of_mine" / "__init__.py", "from .inner import Mine\n")
        write(tmp_path / "package_of_mine" / "inner.py", MINE)
        monkeypatch.syspath_prepend(tmp_path)
        finding.load_plugin("package_of_mine.inner")
        assert finding.find_strategy("mine").__module__ == "package_of_mine.inner"
        finding.load_plugin("package_of_mine")

    @pytest.mark.parametrize("name", ["no_such_module_here", "json.no_such_module"])
    def test_a_missing_module(self, name):
        with pytest.raises(UsageError, match="no module named"):
            finding.load_plugin(name)

    def test_something_that_is_neither(self):
        with pytest.raises(UsageError, match=r"neither a FILE\.py nor the name of a module"):
            finding.load_plugin("..")

    def test_a_module_that_needs_something_missing(self, tmp_path, monkeypatch):
        write(tmp_path / "needs_more.py", "\nimport not_a_module_at_all\n")
        monkeypatch.syspath_prepend(tmp_path)
        with pytest.raises(PluginError, match=r"needs_more\.py:2: ModuleNotFoundError"):
            finding.load_plugin("needs_more")

    def test_our_own_module_is_no_conflict(self):
        finding.load_plugin("hintbench.strategies.oracle")
        assert finding.find_strategy("oracle").__module__ == "hintbench.strategies.oracle"


class TestEntryPoints:
    def test_a_module(self, installed):
        module = installed("mine", MINE)
        assert finding.find_strategy("mine").__module__ == module

    def test_a_class(self, installed):
        installed("mine", MINE, attribute="Mine")
        assert finding.find_strategy("mine").name == "mine"

    def test_a_module_whose_entry_point_is_called_otherwise(self, installed):
        installed("other", MINE)
        assert finding.find_strategy("mine").name == "mine"

    def test_only_the_one_of_that_name_is_imported(self, installed):
        module = installed("unrelated", MINE.replace('"mine"', '"unrelated"'))
        installed("mine", MINE)
        finding.find_strategy("mine")
        assert module not in sys.modules

    def test_they_can_be_blocked(self, installed, monkeypatch):
        installed("mine", MINE)
        monkeypatch.setenv(finding.DISABLE_VARIABLE, "1")
        with pytest.raises(UnknownNameError):
            finding.find_strategy("mine")
        assert "mine" not in finding.known_strategies()

    def test_a_broken_one_is_an_error_only_for_who_wants_it(self, installed):
        installed("broken", "\n1 / 0")
        installed("mine", MINE)
        assert finding.find_strategy("mine").name == "mine"
        with pytest.raises(PluginError, match=r"installed_broken.*:2: ZeroDivisionError"):
            finding.find_strategy("broken")

    def test_broken_ones_are_collected_when_listing(self, installed):
        installed("broken", "1 / 0")
        installed("number", "value = 3", attribute="value")
        broken = []
        assert list(finding.known_strategies(broken)) == list(registry.OWN_STRATEGIES)
        assert [error.plugin for error in broken] == ["broken", "number"]


class TestParameters:
    def test_defaults_and_overrides(self):
        strategy = finding.find_strategy("percpu-array-v9")({"threshold": 7}, array_entries="16")
        assert strategy.parameters.threshold == 7
        assert strategy.parameters.array_entries == 16

    def test_an_instance_of_the_model(self):
        oracle = finding.find_strategy("oracle")
        parameters = oracle.Parameters(at_order=9)
        assert oracle(parameters).parameters is parameters
        assert oracle(parameters, at_order=3).parameters.at_order == 3

    @pytest.mark.parametrize(
        ("given", "text"),
        [
            ({"treshold": 1}, "treshold: .*did you mean 'threshold'"),
            ({"threshold": 0}, r"threshold: 0 is out of range 1\.\.65536"),
            ({"threshold": "many"}, "threshold: 'many' is not a whole number"),
            ({"locked_return": "perhaps"}, "locked_return: 'perhaps' is not true or false"),
        ],
    )
    def test_errors_name_the_path_and_what_is_allowed(self, given, text):
        with pytest.raises(ParameterError, match=f"strategy 'percpu-array-v9': {text}"):
            finding.find_strategy("percpu-array-v9")(**given)

    def test_another_strategys_parameters_are_refused(self):
        parameters = finding.find_strategy("oracle").Parameters()
        with pytest.raises(ParameterError, match="are a NoParameters, not a Oracle"):
            finding.find_strategy("none")(parameters)

    def test_a_model_that_would_ignore_a_misspelling_does_not(self):
        from pydantic import BaseModel

        class Lenient(Strategy):
            """Forgot extra="forbid"."""

            name = "lenient"

            class Parameters(BaseModel):
                delay_ns: int = 1

        with pytest.raises(ParameterError, match="did you mean 'delay_ns'"):
            Lenient(dealy_ns=2)


def test_a_misspelt_hook_is_found_when_the_plugin_is_loaded(tmp_path):
    path = write(tmp_path / "misspelt.py", MINE.replace("def block_freed", "def block_freeed"))
    with pytest.raises(PluginError, match="no hook 'block_freeed': did you mean 'block_freed'"):
        finding.load_plugin(path)
    with pytest.raises(UnknownNameError):
        finding.find_strategy("mine")


def test_a_strategy_that_cannot_be_made_yet_is_checked_without(tmp_path):
    """Its constructor, which may want parameters, is not called."""
    source = MINE + "\n    def __init__(self, needed):\n        raise SystemExit\n"
    path = write(tmp_path / "needy.py", source)
    assert finding.load_plugin(path).Mine is finding.find_strategy("mine")


def test_a_file_without_its_ending_and_a_folder(tmp_path, monkeypatch):
    write(tmp_path / "here.py", MINE)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r"no module named 'here': did you mean 'here\.py'\?"):
        finding.load_plugin("here")
    with pytest.raises(UsageError, match="is a folder: name a FILE"):
        finding.load_plugin(str(tmp_path))


def test_a_constructor_that_does_not_call_ours():
    plugin = type("Own", (Strategy,), {"name": "own", "__init__": lambda self, **given: None})
    with pytest.raises(PluginError, match=r"__init__: does not call super\(\)\.__init__"):
        finding.make("strategy", plugin)
