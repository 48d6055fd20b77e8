"""The program itself, as a user runs it."""

import os
import subprocess
import sys


def hintbench(*arguments, cwd, timeout=120):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.run(
        [sys.executable, "-m", "hintbench", *arguments],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout,
    )


def without_notes(error):
    """What the program printed on standard error, less what it says of the machine."""
    lines = error.splitlines(keepends=True)
    return "".join(line for line in lines if not line.startswith("hintbench: note:"))


def run_pytest(*arguments, cwd):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    # Where CI or BUILD_NUMBER is set, pytest's summary repeats what the failures said.
    for name in ("PYTEST_ADDOPTS", "CI", "BUILD_NUMBER"):
        environment.pop(name, None)
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
