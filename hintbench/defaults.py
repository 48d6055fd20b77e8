"""What `hintbench run` compares when nothing is named."""

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
