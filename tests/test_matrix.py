"""The runner of cells: their order, their failures, and what is found before anything runs."""

import pytest

from hintbench import matrix
from hintbench.config.experiment import Experiment
from hintbench.config.specs import PluginSpec
from hintbench.errors import ParameterError, PluginError, TraceError
from hintbench.results.result import Result


class FakePlugin:
    """Stands for strategies and workloads; knows one parameter."""

    def __init__(self, name, parameters):
        if parameters.keys() - {"live"}:
            raise ParameterError(f"{name}: there is no such parameter")
        if name == "explodes":
            raise ZeroDivisionError("oops")
        self.name, self.parameters = name, parameters


@pytest.fixture
def fake_run(monkeypatch):
    """Replace simulator and plugins; a strategy's name says what happens to its cells."""

    def find(name):
        maker = type("Maker", (), {"name": name})
        maker.__new__ = lambda _cls, **parameters: FakePlugin(name, parameters)
        return maker

    def run(strategy, workload, guest, seed, attached_but_off):
        troubles = {
            "raises": PluginError("raises", "block_freed", ValueError("bad")),
            "bug": KeyError("x"),
            "big": MemoryError("8 TiB"),
            "interrupts": KeyboardInterrupt(),
        }
        if strategy.name in troubles:
            raise troubles[strategy.name]
        if workload.name == "trace":
            raise TraceError("trace.txt: empty")
        return Result(
            strategy=strategy.name,
            workload=workload.name,
            seed=seed,
            metrics={},
            digest="0123456789abcdef",
        )

    module = type(matrix)("hintbench.named_run")
    module.run = run
    monkeypatch.setitem(__import__("sys").modules, "hintbench.named_run", module)
    for name in ("find_strategy", "find_workload"):
        monkeypatch.setattr(matrix, name, find)


def experiment(strategies, workloads=("churn",), seeds=(1,)):
    return Experiment(
        strategies=[PluginSpec.parse(text, "strategy") for text in strategies],
        workloads=[PluginSpec.parse(text, "workload") for text in workloads],
        seeds=seeds,
    )


@pytest.mark.usefixtures("fake_run")
class TestMatrix:
    def test_every_cell_in_order(self):
        seen = []
        outcomes = matrix.run_experiment(
            experiment(["none", "mine"], ["churn", "bulk"], (1, 2)), 1, seen.append
        )
        names = [(o.result.workload, o.result.seed, o.result.strategy) for o in outcomes]
        assert names == [
            (workload, seed, strategy)
            for workload in ("churn", "bulk")
            for seed in (1, 2)
            for strategy in ("none", "mine")
        ]
        assert seen == outcomes

    def test_a_cell_that_is_named_twice_runs_once(self):
        assert len(matrix.run_experiment(experiment(["none", "none"]))) == 1

    def test_others_go_on_after_a_failure(self):
        bug, big, fine = matrix.run_experiment(experiment(["bug", "big", "none"]))
        assert bug.failure.exit_status == 1
        assert "internal error while running bug on churn, seed 1: KeyError" in bug.failure.message
        assert "Traceback" in bug.failure.details
        assert "not enough memory" in big.failure.message
        assert fine.result is not None

    def test_a_plugin_that_failed_is_not_tried_again(self):
        outcomes = matrix.run_experiment(experiment(["raises", "none"], ["churn", "bulk"]))
        first, fine, left_out, also_fine = outcomes
        assert first.failure.plugin == "raises"
        assert (left_out.result, left_out.failure) == (None, None)
        assert fine.result and also_fine.result

    def test_wrong_input_of_a_cell(self):
        (outcome,) = matrix.run_experiment(experiment(["none"], ["trace,live=1"]))
        assert (outcome.failure.exit_status, outcome.failure.message) == (2, "trace.txt: empty")

    def test_interrupt_keeps_what_was_finished(self):
        seen = []
        with pytest.raises(KeyboardInterrupt):
            matrix.run_experiment(experiment(["none", "interrupts", "mine"]), 1, seen.append)
        assert [outcome.cell.strategy.name for outcome in seen] == ["none"]

    def test_check_finds_wrong_parameters_before_anything_runs(self):
        with pytest.raises(ParameterError, match="no such parameter"):
            matrix.check(experiment(["none,lives=3"]))

    def test_check_blames_a_constructor_that_raises(self):
        with pytest.raises(PluginError, match="plugin 'explodes': making the strategy: ZeroDiv"):
            matrix.check(experiment(["explodes"]))
