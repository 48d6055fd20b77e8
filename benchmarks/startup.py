"""What a user waits for: imports, the help, the smallest run, and the comparison of everything."""

import json
import subprocess
import sys
from typing import Final

from .simulations import run

# As the installed script does, which began in another module on older commits.
COMMAND: Final = """
import sys
try:
    from hintbench.__main__ import main
except ImportError:
    from hintbench.cli import main
sys.exit(main())
"""


def command(*arguments: str) -> str:
    """Run the command line in a process of its own; its standard output."""
    return subprocess.run(
        [sys.executable, "-c", COMMAND, *arguments],
        check=True,
        capture_output=True,
        text=True,
        encoding="utf-8",
    ).stdout


class Imports:
    """A fresh interpreter each; numpy is there for comparison."""

    version = "1"
    repeat = (3, 5, 5.0)
    rounds = 1

    def timeraw_import_hintbench(self) -> str:
        return "import hintbench"

    def timeraw_import_numpy(self) -> str:
        return "import numpy"

    def time_help(self) -> None:
        if "run" not in command("--help"):
            raise RuntimeError("the help does not name its commands")


class SmallestRun:
    """What one simulation costs before its first operation."""

    version = "1"
    rounds = 1

    def setup(self) -> None:
        self.digests: set[str] = set()

    def time_smallest_run(self) -> None:
        guest = {"memory": "64MiB", "vcpus": 1, "kernel": "6.12"}
        self.digests.add(run("none", "repeat", guest, operations=2, held_share=0.0).digest)

    def teardown(self) -> None:
        if len(self.digests) > 1:
            raise RuntimeError("two runs of one seed ended in different states")


class DefaultComparison:
    """``hintbench run`` without arguments, on all CPUs; once, because it takes so long."""

    version = "1"
    timeout = 300
    number = 1
    repeat = 1
    rounds = 1
    min_run_count = 1
    warmup_time = 0.0

    def time_default_comparison(self) -> None:
        try:
            from hintbench.config import defaults
        except ImportError:  # an older commit
            from hintbench import defaults  # type: ignore[no-redef]

        results = json.loads(command("run", "--json", "-"))["results"]
        if len(results) != len(defaults.STRATEGIES) * len(defaults.WORKLOADS):
            raise RuntimeError(f"only {len(results)} cells of the comparison were finished")
