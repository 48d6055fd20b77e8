"""What all tests share: the order of the long ones, their environment, and no plugins."""

import os
import random
import signal
from collections.abc import Iterator

import pytest

from hintbench.plugins import finding, registry

# Started in the background by a shell, we ignore Ctrl-C, and so would the processes of the tests.
signal.signal(signal.SIGINT, signal.default_int_handler)

# What rich and typer print follows from the terminal, and from these.
for _name in (
    *("COLUMNS", "LINES", "TERMINAL_WIDTH", "NO_COLOR", "FORCE_COLOR", "PY_COLORS"),
    *("TTY_COMPATIBLE", "TTY_INTERACTIVE", "GITHUB_ACTIONS"),
):
    os.environ.pop(_name, None)
os.environ["TERM"] = "xterm"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With HINTBENCH_LONG_SEED=NUMBER the long tests come first, shuffled by that seed."""
    seed = os.environ.get("HINTBENCH_LONG_SEED")
    if seed is None:
        return
    long = [item for item in items if item.get_closest_marker("long")]
    others = [item for item in items if not item.get_closest_marker("long")]
    random.Random(int(seed)).shuffle(long)
    items[:] = [*long, *others]


@pytest.fixture(autouse=True)
def plugins_of_this_test() -> Iterator[None]:
    """Forget afterwards which plugins a test loaded: names are unique in a process."""
    before = {kind: dict(classes) for kind, classes in registry.contributed.items()}
    files = dict(finding._files)
    yield
    for kind, classes in before.items():
        registry.contributed[kind].clear()
        registry.contributed[kind].update(classes)
    finding._files.clear()
    finding._files.update(files)
