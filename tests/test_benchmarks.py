"""The asv suite: its numbers repeat, a broken benchmark is noticed, plugins can have one too."""

import ast
import importlib
import inspect
import json
import math
import os
import re
import subprocess
import sys
import venv
from pathlib import Path

import pytest

import hintbench
from hintbench import cli
from hintbench.config import defaults
from hintbench.errors import PluginError

ROOT = Path(__file__).resolve().parents[1]
SUITE = sorted(path.stem for path in ROOT.glob("benchmarks/*.py") if path.stem != "__init__")
METHOD = re.compile(r"(track|time|timeraw|peakmem)_\w+")
asv = pytest.importorskip("asv")


@pytest.fixture(scope="module", autouse=True)
def importable():
    sys.path.insert(0, str(ROOT))
    yield
    sys.path.remove(str(ROOT))


def classes():
    """Every class of the suite that has benchmarks, with their names."""
    for module in SUITE:
        loaded = importlib.import_module(f"benchmarks.{module}")
        for name, each in vars(loaded).items():
            if inspect.isclass(each) and each.__module__ == loaded.__name__:
                methods = [method for method in vars(each) if METHOD.fullmatch(method)]
                if methods and not name.startswith("_"):
                    yield each, methods


def cells(each):
    params = getattr(each, "params", ((None,),))
    return math.prod(len(one) for one in (params if isinstance(params[0], tuple) else (params,)))


class TestSuite:
    def test_versions_are_fixed_and_units_are_set(self):
        found = list(classes())
        assert len(found) > 5
        for each, methods in found:
            assert isinstance(vars(each).get("version"), str), each
            for method in methods:
                if method.startswith("track_"):
                    assert getattr(each, method).unit, f"{each}.{method}"

    def test_no_more_than_about_150_cells(self):
        assert sum(cells(each) * len(methods) for each, methods in classes()) <= 155

    def test_a_cache_is_never_inherited(self):
        for each, _ in classes():
            assert "setup_cache" in vars(each) or not hasattr(each, "setup_cache"), each

    def test_strategies_are_named_as_they_are_registered(self):
        from benchmarks.simulations import STRATEGIES

        assert set(STRATEGIES) <= set(defaults.STRATEGIES)

    def test_the_configuration_names_every_requirement_at_run_time(self):
        import tomllib

        from asv.config import Config

        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        required = {re.match(r"[\w-]+", text)[0] for text in project["dependencies"]}
        config = Config.load(str(ROOT / "asv.conf.json"))
        assert required <= set(config.matrix["req"])
        assert "HINTBENCH_BUILD=required" in config.build_command[0]
        assert "--no-deps" in config.build_command[0]


SIMULATE = """
import json, sys
sys.path.insert(0, sys.argv[1])
from benchmarks.strategies import Churn, Memhog, Zones
print(json.dumps([each().setup_cache() for each in (Churn, Memhog, Zones)]))
"""


class TestVirtualTime:
    def test_two_runs_agree_to_the_last_digit(self):
        outputs = [
            subprocess.run(
                [sys.executable, "-c", SIMULATE, str(ROOT)],
                env={**os.environ, "PYTHONHASHSEED": seed},
                capture_output=True,
                check=True,
                text=True,
                timeout=300,
            ).stdout
            for seed in ("1", "2")
        ]
        assert outputs[0] == outputs[1]
        churn, *_ = json.loads(outputs[0])
        assert len(churn) == len(defaults.STRATEGIES)
        assert all(isinstance(values, dict) for values in churn.values())

    def test_comments_change_no_number(self, tmp_path):
        from benchmarks.simulations import GUEST

        source = (ROOT / "strategies" / "bitmap_and_spin.py").read_text()
        bare = ast.unparse(ast.parse(source))
        digests = set()
        # Without any comment, on other lines, and with comments that the source has not.
        for number, text in enumerate((source, bare, f"# one\n\n{source}\n# another\n")):
            path = tmp_path / f"copy{number}.py"
            path.write_text(text.replace("bitmap-and-spin", f"copy-{number}"))
            found = hintbench.run(
                f"copy-{number}", "churn,operations=50000", GUEST, plugins=[str(path)]
            )
            digests.add((found.digest, json.dumps(found.metrics)))
        assert len(digests) == 1

    def test_what_a_commit_lacks_is_left_out(self, monkeypatch, capsys):
        from benchmarks import simulations

        monkeypatch.setattr(simulations, "STRATEGIES", ("none", "of-tomorrow"))
        monkeypatch.setattr(simulations, "GUEST", {"memory": "64MiB", "vcpus": 1})
        cache = simulations.simulate("repeat", operations=2)
        assert list(cache) == ["none"]
        assert "of-tomorrow" in capsys.readouterr().err
        with pytest.raises(NotImplementedError):
            simulations.require(cache, "of-tomorrow")
        assert math.isnan(simulations.tracked(cache, "none", "metric_of_tomorrow"))
        assert simulations.simulate("workload-of-tomorrow") == {}

    def test_what_fails_is_not_left_out(self, monkeypatch):
        from benchmarks import simulations

        def fails(*_, **__):
            raise PluginError("none", "guest_started", ValueError("on purpose"))

        monkeypatch.setattr(simulations, "run", fails)
        cache = simulations.simulate("churn")
        simulations.require(cache, "none")
        with pytest.raises(RuntimeError, match="on purpose"):
            simulations.tracked(cache, "none", "lock_wait_ns")


def git(folder, *arguments):
    identity = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
    subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True)


BROKEN = {
    "nothing": ("", 0, ""),
    "raises, a cache, skipped": (
        "    def track_b(self): raise ValueError\n"
        "class Cached:\n"
        "    def setup_cache(self): raise ValueError\n"
        "    def track_c(self, cache): return 1\n"
        "class Skipped:\n"
        "    def setup(self): raise NotImplementedError\n"
        "    def track_d(self): return 1\n",
        1,
        "Cached.track_c failed;Some.track_b failed in 1 of 1 cells;Skipped.track_d has no number",
    ),
    "a call": ("    def track_b(self, missing): return 1\n", 1, "wrong number of arguments"),
    "syntax": ("    def track_b(\n", 1, "SyntaxError"),
}


class TestCi:
    @pytest.mark.parametrize(("code", "status", "told"), BROKEN.values(), ids=BROKEN)
    def test_a_broken_benchmark_fails(self, tmp_path, code, status, told):
        (tmp_path / "benchmarks").mkdir()
        (tmp_path / "benchmarks" / "__init__.py").touch()
        text = f"class Some:\n    def track_a(self, *cache): return 1\n{code}"
        (tmp_path / "benchmarks" / "some.py").write_text(text)
        config = {"version": 1, "project": "some", "repo": ".", "environment_type": "virtualenv"}
        (tmp_path / "asv.conf.json").write_text(json.dumps(config))
        git(tmp_path, "init", "-q")
        git(tmp_path, "add", "-A")
        git(tmp_path, "commit", "-qm", "some")
        done = subprocess.run(
            [sys.executable, ROOT / ".ci" / "benchmarks", tmp_path],
            capture_output=True,
            check=False,
            text=True,
            timeout=120,
        )
        assert done.returncode == status, done.stdout + done.stderr
        for each in told.split(";"):
            assert each in done.stdout + done.stderr


@pytest.fixture
def repository(tmp_path, monkeypatch, capsys):
    """A plugin's repository with a strategy in a file, and a Python that can import it."""
    folder = tmp_path / "my-repository"
    folder.mkdir()
    monkeypatch.chdir(folder)
    git(folder, "init", "-q")
    assert cli.main(["new", "strategy", "my-own"]) == 0
    assert cli.main(["new", "benchmarks", "my_own.py"]) == 0
    capsys.readouterr()
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "a strategy and its benchmarks")
    venv.create(tmp_path / "venv", with_pip=False)
    (packages,) = (tmp_path / "venv").glob("lib/python*/site-packages")
    # Everything that is installed here, and the plugin as if it were.
    lines = [f"import site; site.addsitedir({path!r})" for path in sys.path if "-packages" in path]
    (packages / "here.pth").write_text("\n".join([*lines, str(folder), ""]))
    return folder, tmp_path / "venv" / "bin" / "python"


class TestNewBenchmarks:
    def asv(self, repository, *arguments):
        folder, python = repository
        return subprocess.run(
            [sys.executable, "-m", "asv", *arguments, "-E", f"existing:{python}"],
            cwd=folder,
            env={**os.environ, "HOME": str(folder.parent)},
            capture_output=True,
            check=False,
            text=True,
            timeout=240,
        )

    def test_they_run_and_track_what_hintbench_measures(self, repository):
        folder, _ = repository
        subprocess.run(
            [sys.executable, "-m", "asv", "machine", "--yes"],
            cwd=folder,
            env={**os.environ, "HOME": str(folder.parent)},
            check=True,
            capture_output=True,
        )
        checked = self.asv(repository, "check")
        assert checked.returncode == 0, checked.stdout
        done = self.asv(repository, "run", "--quick", "--set-commit-hash", "HEAD", "--show-stderr")
        assert done.returncode == 0, done.stdout
        (path,) = folder.glob(".asv/results/*/*-existing-*.json")
        content = json.loads(path.read_text())
        tracked = {
            name.rpartition(".")[2]: row[content["result_columns"].index("result")]
            for name, row in content["results"].items()
        }
        assert len(tracked) == 8
        guest = {"memory": "2GiB", "vcpus": 4, "kernel": "6.12"}
        found = hintbench.run(
            "my-own", "churn,operations=200000", guest, plugins=[str(folder / "my_own.py")]
        )
        first = {name: values[0] for name, values in tracked.items()}
        assert first["track_retained_gib_s"] == found.metrics["retained_gib_s"]
        assert first["track_zone_lock_wait_ns"] == found.metrics["lock_wait_ns"]
        assert first["track_ns_per_operation"] == 1e9 / found.metrics["throughput_ops_s"]
        assert first["track_violations"] == 0

    def test_a_module_is_built_as_a_wheel(self, tmp_path, monkeypatch, capsys):
        package = tmp_path / "some_plugin"
        package.mkdir()
        (package / "__init__.py").touch()
        monkeypatch.chdir(tmp_path)
        assert cli.main(["new", "strategy", "its-own"]) == 0
        Path("its_own.py").rename(package / "its_own.py")
        monkeypatch.syspath_prepend(str(tmp_path))
        assert cli.main(["new", "benchmarks", "some_plugin.its_own"]) == 0
        config = asv.config.Config.load("asv.conf.json")
        assert "pip wheel --no-deps" in config.build_command[0]
        text = Path("benchmarks", "its_own.py").read_text()
        assert 'PLUGIN = "some_plugin.its_own"' in text
        assert 'STRATEGIES = ("its-own",)' in text

    @pytest.mark.parametrize("version", ["0.2.0.dev0", "0.2.0", "1.0rc1", "1.0.post2"])
    def test_asv_asks_pip_for_this_very_version(self, tmp_path, monkeypatch, version):
        from asv.util import ParsedPipDeclaration, construct_pip_call

        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(hintbench, "__version__", version)
        assert cli.main(["new", "strategy", "mine"]) == 0
        assert cli.main(["new", "benchmarks", "mine.py"]) == 0
        config = asv.config.Config.load("asv.conf.json")
        (entry,) = asv.environment.iter_matrix("virtualenv", ["3.11"], config)
        ((_, name), value) = next(item for item in entry.items() if item[0][0] == "req")
        # As asv's environments of virtualenv and uv put it together.
        asked = ParsedPipDeclaration(f"{name.removeprefix('pip+')} {value}")
        call = construct_pip_call(lambda _: None, asked)
        assert call.args[0][-1] == f"hintbench=={version}"

    @pytest.mark.parametrize(
        ("files", "plugin", "match"),
        [
            ({}, "absent.py", "no such file"),
            ({"empty.py": "X = 1\n"}, "empty.py", "defines no Strategy"),
            ({"asv.conf.json": "{}"}, "mine.py", "asv.conf.json exists already"),
        ],
    )
    def test_what_cannot_be_is_said_in_one_sentence(
        self, tmp_path, monkeypatch, capsys, files, plugin, match
    ):
        monkeypatch.chdir(tmp_path)
        assert cli.main(["new", "strategy", "mine"]) == 0
        capsys.readouterr()
        for name, text in files.items():
            Path(name).write_text(text)
        before = sorted(tmp_path.iterdir())
        assert cli.main(["new", "benchmarks", plugin]) != 0
        error = capsys.readouterr().err
        assert re.search(match, error), error
        assert error.count("\n") == 1
        assert sorted(path for path in tmp_path.iterdir() if path.name != "__pycache__") == before


class TestSideBySide:
    def test_medians_of_rounds_without_the_warm_up(self):
        from benchmarks.side_by_side import Job, measure

        made = []

        def job(name):
            made.append(name)
            return Job(lambda: sum(range(1000)), 10, lambda: "the same")

        found = measure({name: lambda name=name: job(name) for name in "ab"}, rounds=3)
        assert made == ["a", "b"] * 4
        for timing in found.values():
            assert 0 < timing.lowest_ns <= timing.median_ns <= timing.highest_ns

    def test_no_time_without_the_same_end(self):
        from benchmarks.side_by_side import Job, measure

        ends = iter(range(9))
        with pytest.raises(RuntimeError, match="two rounds ended differently"):
            measure({"drifts": lambda: Job(lambda: None, 1, lambda: next(ends))})

    def test_the_lock_of_simpy_waits_as_long_as_arithmetic_says(self):
        pytest.importorskip("simpy")
        from benchmarks.neighbours import simpy_lock

        job = simpy_lock(4000)
        job.run()
        assert job.end() > 0

    def test_the_cache_of_libcachesim_is_an_lru(self):
        pytest.importorskip("libcachesim", reason="it does not install everywhere")
        from benchmarks.neighbours import plugin_cache

        job = plugin_cache(5000)
        job.run()
        assert 1000 < job.end() < 5000

    def test_the_interpreted_core_ends_where_the_compiled_one_does(self):
        from benchmarks.side_by_side import interpreted_churn, tape
        from hintbench.speed import churn

        _, digest = interpreted_churn(800, 400)
        job = tape(churn, 800, live_slots=400)
        job.run()
        assert job.end() == digest

    def test_what_meets_a_target(self):
        from benchmarks.figures import at_least, at_most

        assert at_most("a", 2.0, 2.5, "ns").met
        assert not at_most("a", 2.6, 2.5, "ns").met
        assert at_least("a", 2.5, 2.5, "M") == ("a", "2.5 M", "at least 2.5", True)

    def test_a_trace_of_the_benchmarks_can_be_read_without_a_fault(self, tmp_path):
        from benchmarks.recorded import write_trace
        from hintbench.traces import read_trace

        write_trace(tmp_path / "trace.txt", 60_000)
        trace = read_trace(tmp_path / "trace.txt")
        assert len(trace) == 60_000
        assert not trace.faults
