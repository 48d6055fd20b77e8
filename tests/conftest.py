"""The order of the long tests, of which a time limit lets only some run."""

import os
import random
import signal

import pytest

# Started in the background by a shell, we ignore Ctrl-C, and so would the processes of the tests.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With HINTBENCH_LONG_SEED=NUMBER the long tests come first, shuffled by that seed."""
    seed = os.environ.get("HINTBENCH_LONG_SEED")
    if seed is None:
        return
    long = [item for item in items if item.get_closest_marker("long")]
    others = [item for item in items if not item.get_closest_marker("long")]
    random.Random(int(seed)).shuffle(long)
    items[:] = [*long, *others]
