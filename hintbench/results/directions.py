"""Which end of a metric is better, by its name.

A metric of `hintbench.results.metrics` that no rule names is a fault that the tests find; a metric
of somebody else's, or of a later version, is told without a judgement.
"""

import re
from typing import Final, Literal

Better = Literal["lower", "higher"]

_HIGHER: Final = (
    "throughput_ops_s",
    "throughput_ratio",
    r"reclaimed_(gib_s|end_bytes|peak_bytes)",
    r"free_blocks_order9_end(_ratio)?",
    r"trace_(refills_of_equal_size|\w+_agreement)",
)
_LOWER: Final = (
    "busy_ns",
    r"alloc_\w+_ns",
    r"(strategy_)?(empty_)?lock_(takes|contended|wait|hold)\w*",
    r"longest_\w+_ns",
    r"footprint_(gib_s|end_bytes)",
    r"retained_\w+",
    "free_fragments_end_bytes",
    r"time_to_reclaim_\d+_percent_ns",
    r"refault(s|ed_bytes|_stall\w*_ns|_ratio_\d+_s)",
    "redundant_reported_bytes",
    "refused_reports",
    r"host_(cpu_ns|calls|cpu_per_gib_ns|calls_per_gib)",
    r"discards(_per_gib)?",
    r"vcpu_kicks(_per_gib)?",
    "dropped_hints",
    "isolation_refusals",
    r"held_(peak_bytes|ns)",
    "peak_in_flight_bytes",
    "isolated_end_bytes",
    r"(failed_allocations|(non)?blocking_failures|false_ooms)",
    r"(stalls|stall_ns|slow_paths|spin_ns)",
    r"guest_cpu_\w*ns",
    r"exact_(taken_again|returned_again|waits)",
    r"trace_(pages_different_end|\w+_unknown)",
    r"violations\..+",
)
_NEITHER: Final = (
    # How much was done, which is the workload's matter, or how: a means, not an end.
    r"(operations|allocations|frees|virtual_ns|large_free_bytes)",
    r"reported_(blocks|batches|bytes)",
    r"(discarded_bytes|installs|kswapd_wakes|pcp_end_bytes)",
    # The model against the kernel: to be near is good.
    r"trace_\w+_(kernel|model|ratio|foretold)",
)


def _joined(patterns: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(f"(?:{pattern})" for pattern in patterns))


_RULES: Final[dict[Better | None, re.Pattern[str]]] = {
    "higher": _joined(_HIGHER),
    "lower": _joined(_LOWER),
    None: _joined(_NEITHER),
}


def better(metric: str) -> Better | None:
    """Which end of a metric is better; None where neither is, or the metric is not known.

    Args:
        metric: Its name; a broken rule's is ``violations.RULE``.
    """
    return next((end for end, rule in _RULES.items() if end and rule.fullmatch(metric)), None)


def is_known(metric: str) -> bool:
    """Whether exactly one rule is about a metric."""
    return sum(rule.fullmatch(metric) is not None for rule in _RULES.values()) == 1
