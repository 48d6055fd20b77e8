"""lock-takes: takes of the zone lock per batch are at most as declared.

Takes under which nothing was isolated, marked or given back are counted apart.

Source: Duyck on v9 2/6: "acquire the lock once ... return the memory" (kernel-facts D3, R3b).
"""

from hintbench.testing.explored import Checker


class RuleChecker(Checker):
    """Compares the takes of the whole run with its batches."""

    rule = "lock-takes"

    def at_settled(self) -> None:
        """All batches have been taken back."""
        declared = self.run.claims.lock_takes
        if declared is None:
            return
        host, scheduler = self.run.guest.host, self.run.scheduler
        batches = host.reported_batches + host.refused_reports
        takes = scheduler.lock_takes - scheduler.empty_lock_takes
        if takes > sum(declared) * batches:
            text = f"{takes} takes of zone locks for {batches} batches, declared are"
            self.violate(f"{text} {declared[0]} + {declared[1]} each", "takes")
