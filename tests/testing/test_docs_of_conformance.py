"""docs/conformance.md lists the rules as they are."""

from pathlib import Path

import pytest

from hintbench.testing.rules import RULES

TEXT = Path(__file__).parents[2].joinpath("docs", "conformance.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("rule", RULES.values(), ids=lambda rule: rule.name)
def test_every_rule_is_in_the_table(rule):
    assert f"| `{rule.name}` | {rule.severity} | {rule.promise} |" in TEXT
