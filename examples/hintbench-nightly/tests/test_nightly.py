"""What a third party tests: the rules, by deriving from the suite, and its own ideas."""

from hintbench_nightly import Nightly

import hintbench
from hintbench.testing import StrategyConformance


class TestRules(StrategyConformance):
    strategy = Nightly
    schedules = 300


def test_the_ebb_is_taken_back() -> None:
    result = hintbench.run(strategy="nightly", workload="tides", guest="default", seed=1)
    reclaimed = result.metrics["reclaimed_gib_s"]
    assert reclaimed is not None and reclaimed > 0
    assert not result.violations
