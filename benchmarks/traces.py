"""Reading the text of a real kernel's trace, and replaying it, in wall time."""

from typing import Any

from .recorded import write_trace
from .simulations import run

LINES = 400_000


def replayed(path: str) -> Any:
    """The result of a trace's replay with the strategy `none`."""
    return run("none", "trace", "default", path=path)


class Traces:
    """A trace of 400,000 events: from text to columns, and from columns through the guest."""

    version = "1"
    number = 1
    repeat = (3, 5, 6.0)

    def setup_cache(self) -> dict[str, Any]:
        from hintbench.traces import read_trace, save_trace

        write_trace("trace.txt", LINES)
        trace = read_trace("trace.txt")
        save_trace(trace, "trace.npz")
        return {"events": len(trace), "digest": replayed("trace.npz").digest}

    def setup(self, facts: dict[str, Any]) -> None:
        self.events: int | None = None
        self.digest: str | None = None

    def time_import(self, facts: dict[str, Any]) -> None:
        from hintbench.traces import read_trace

        self.events = len(read_trace("trace.txt"))

    def time_replay(self, facts: dict[str, Any]) -> None:
        self.digest = replayed("trace.npz").digest

    def teardown(self, facts: dict[str, Any]) -> None:
        if self.events not in (None, facts["events"]) or self.digest not in (None, facts["digest"]):
            raise RuntimeError("two runs of one trace ended in different states")
