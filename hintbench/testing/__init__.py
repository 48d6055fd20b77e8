"""Is a strategy right? Rules, a schedule explorer, faults, counterexamples, a pytest suite.

`hintbench check` holds strategies to every rule of `hintbench.testing.rules`; `StrategyConformance`
does the same in anybody's pytest run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hintbench.testing.conformance import StrategyConformance

__all__ = ["StrategyConformance"]


def __getattr__(name: str) -> Any:
    # pytest loads this package's plugin in every run; the rest is imported when it is used.
    if name == "StrategyConformance":
        from hintbench.testing.conformance import StrategyConformance

        return StrategyConformance
    raise AttributeError(f"module 'hintbench.testing' has no attribute {name!r}")
