"""hintbench beside other simulators, in one run, as ratios: lower is better for hintbench.

A ratio of two times on one machine at one moment is worth more than either time.
"""

from collections.abc import Callable

from .neighbours import plugin_cache, simpy_lock
from .side_by_side import Job, interpreted_churn, measure, tape
from .simulations import unit


def ratio(ours: Callable[[], Job], theirs: Callable[[], Job]) -> float:
    """Median time of one of our operations over that of one of theirs."""
    theirs()
    found = measure({"ours": ours, "theirs": theirs}, rounds=3)
    return found["ours"].median_ns / found["theirs"].median_ns


class Sizable:
    """Standard tapes of any length; left out on commits that have none."""

    timeout = 120

    def setup(self) -> None:
        try:
            from hintbench import speed

            self.churn, self.huge_pages = speed.churn, speed.huge_pages
        except (ImportError, AttributeError):
            raise NotImplementedError("this commit's tapes cannot be made smaller") from None


class Peers(Sizable):
    """Peers that install everywhere."""

    version = "1"

    @unit("order-0 operation / lock operation of simpy")
    def track_churn_over_simpy(self) -> float:
        return ratio(lambda: tape(self.churn, 500_000), lambda: simpy_lock(16_000))

    @unit("locked operation / lock operation of simpy")
    def track_locked_over_simpy(self) -> float:
        return ratio(
            lambda: tape(self.huge_pages, 80_000, vcpus=8, hooked=False),
            lambda: simpy_lock(16_000),
        )

    @unit("compiled / interpreted core")
    def track_compiled_over_interpreted(self) -> float:
        count, live_slots = 20_000, 4_000
        job = tape(self.churn, count, live_slots=live_slots)
        job.run()
        digest = job.end()
        compiled = measure({"compiled": lambda: tape(self.churn, count, live_slots=live_slots)})
        interpreted_ns, interpreted_digest = interpreted_churn(count, live_slots)
        if interpreted_digest != digest:
            raise RuntimeError("the interpreted core ended in another state than the compiled one")
        return compiled["compiled"].median_ns / interpreted_ns


class PluginCaches(Sizable):
    """Where libCacheSim is installed; elsewhere it is left out, and says so."""

    version = "1"

    def setup(self) -> None:
        super().setup()
        plugin_cache(1)

    @unit("order-9 operation with a hook / request of libCacheSim's plugin cache")
    def track_hook_over_libcachesim(self) -> float:
        return ratio(lambda: tape(self.huge_pages, 80_000), lambda: plugin_cache(80_000))
