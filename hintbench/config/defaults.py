"""What `hintbench run` compares when nothing is named, and how much `hintbench check` explores."""

from typing import Final

STRATEGIES: Final = (
    "none",
    "percpu-array-v9",
    "bitmap-and-spin",
    "zone-confined-batching",
    "sync-hypercall",
    "zone-bitmap",
    "page-reporting",
    "report-then-hold",
    "shared-state",
    "oracle",
)
"""Every strategy of the project, as ``-s`` takes them."""

WORKLOADS: Final = (
    "churn",
    "page-fault1",
    "page-fault1,huge_pages=true,operations=500000",
    "memhog",
    "bulk",
    "slab,operations=1000000",
    "zones,operations=1000000",
    "build",
)
"""Workloads as ``-w`` takes them; together they end within 30 s on two cores."""

GUEST: Final = "default"
SEED: Final = 1

CHECK_SCHEDULES: Final = 3_000
CHECK_SECONDS: Final = 25.0
"""How many long schedules a strategy that is checked gets, at most, and how much wall time."""
SUITE_SCHEDULES: Final = 1_000
SUITE_SECONDS: Final = 20.0
"""The same in the suite for pytest, in one process."""
COUNTEREXAMPLES: Final = "counterexamples"
"""The folder that counterexamples are saved in."""
TOO_FEW_PROPERTY: Final = "hintbench-too-few-schedules"
"""The property of a test's report that says that its suite explored too little."""
