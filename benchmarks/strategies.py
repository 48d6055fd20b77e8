"""What each strategy costs the guest and the host, and what memory it leaves with the host.

One class a workload; its simulations run once, in `setup_cache`, which must stand in the class
itself: asv tells caches apart by file and line. Each class tracks what its workload moves; all
else is in ``hintbench run --json`` and ``hintbench compare``.
"""

import math
from typing import Final

from .simulations import (
    STRATEGIES,
    Cache,
    ns_per_operation,
    require,
    simulate,
    tracked,
    unit,
)


class Churn:
    """A steady mix of orders with random lifetimes, then idle: the everyday cost."""

    params = STRATEGIES
    param_names = ["strategy"]
    version = "1"

    def setup_cache(self) -> Cache:
        return simulate("churn", operations=200_000)

    def setup(self, cache: Cache, strategy: str) -> None:
        require(cache, strategy)

    @unit("virtual ns / operation")
    def track_ns_per_operation(self, cache: Cache, strategy: str) -> float:
        return ns_per_operation(cache, strategy)

    @unit("virtual ns")
    def track_allocation_p99_ns(self, cache: Cache, strategy: str) -> float:
        return tracked(cache, strategy, "alloc_p99_ns")

    @unit("virtual ns")
    def track_zone_lock_wait_ns(self, cache: Cache, strategy: str) -> float:
        return tracked(cache, strategy, "lock_wait_ns")

    @unit("GiB s")
    def track_retained_gib_s(self, cache: Cache, strategy: str) -> float:
        return tracked(cache, strategy, "retained_gib_s")


class Memhog:
    """Processes fill most of the memory, free it, and idle: what comes back, how soon, at what."""

    params = STRATEGIES
    param_names = ["strategy"]
    version = "1"

    IDLE_NS: Final = 3_000_000_000

    def setup_cache(self) -> Cache:
        return simulate("memhog", passes=2, processes=4, final_idle_ns=self.IDLE_NS)

    def setup(self, cache: Cache, strategy: str) -> None:
        require(cache, strategy)

    @unit("virtual ns / operation")
    def track_ns_per_operation(self, cache: Cache, strategy: str) -> float:
        return ns_per_operation(cache, strategy)

    @unit("GiB s")
    def track_retained_gib_s(self, cache: Cache, strategy: str) -> float:
        return tracked(cache, strategy, "retained_gib_s")

    @unit("GiB s")
    def track_footprint_gib_s(self, cache: Cache, strategy: str) -> float:
        return tracked(cache, strategy, "footprint_gib_s")

    @unit("host ns / reclaimed GiB")
    def track_host_cpu_per_gib_ns(self, cache: Cache, strategy: str) -> float:
        return tracked(cache, strategy, "host_cpu_per_gib_ns")

    @unit("virtual ns")
    def track_free_to_reclaimed_ns(self, cache: Cache, strategy: str) -> float:
        """From the end of the large free until the host has 90 % of it back.

        Who never comes that far counts with the whole idle time: getting there is an improvement,
        and no longer getting there must not look like a figure that is not known.
        """
        if math.isnan(tracked(cache, strategy, "large_free_bytes")):
            return math.nan
        delay_ns = tracked(cache, strategy, "time_to_reclaim_90_percent_ns")
        return self.IDLE_NS if math.isnan(delay_ns) else min(delay_ns, self.IDLE_NS)


class Zones:
    """Pressure across zones: memory runs short while a strategy has blocks in hand."""

    params = STRATEGIES
    param_names = ["strategy"]
    version = "1"

    def setup_cache(self) -> Cache:
        return simulate("zones", operations=200_000)

    def setup(self, cache: Cache, strategy: str) -> None:
        require(cache, strategy)

    @unit("virtual ns / operation")
    def track_ns_per_operation(self, cache: Cache, strategy: str) -> float:
        return ns_per_operation(cache, strategy)

    @unit("virtual ns")
    def track_zone_lock_wait_ns(self, cache: Cache, strategy: str) -> float:
        return tracked(cache, strategy, "lock_wait_ns")

    @unit("allocations")
    def track_false_ooms(self, cache: Cache, strategy: str) -> float:
        return tracked(cache, strategy, "false_ooms")
