"""Do the tests of the core notice when the core is wrong?

Each mutant is a copy of the package with one change of its text, run interpreted.  It is killed
when a comparison with the reference fails on it.  All of them must be killed::

    python tests/mutants_of_the_core.py              # a line for each; some minutes
    python tests/mutants_of_the_core.py boost steal  # those whose names contain one of the words

``tests/core/test_mutants.py`` does the same under pytest, marked ``long``.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import hintbench

PACKAGE = Path(hintbench.__file__).parent
TESTS = Path(__file__).resolve().parent
LIST = TESTS / "core" / "mutants.txt"
COMPARISONS = [
    "tests/core/test_reference_corners.py",
    "tests/core/test_against_reference.py",
]
LIMIT_SECONDS = 600
FAILED = 1


@dataclass(frozen=True)
class Mutant:
    """One change of the text of one module.

    Attributes:
        name: what is wrong in it.
        module: the file under ``hintbench/``.
        old: text that stands there exactly once.
        new: what it is replaced by.
    """

    name: str
    module: str
    old: str
    new: str

    def __str__(self) -> str:
        return self.name

    def text(self) -> str:
        """The module's text with the change.

        Raises:
            ValueError: The text to be replaced does not stand there exactly once.
        """
        text = (PACKAGE / self.module).read_text(encoding="utf-8")
        if text.count(self.old) != 1:
            raise ValueError(f"{self.name}: {self.module} has {text.count(self.old)} such places")
        return text.replace(self.old, self.new)


def read_mutants() -> list[Mutant]:
    """The mutants of ``tests/core/mutants.txt``."""
    mutants = []
    for part in LIST.read_text(encoding="utf-8").split("\n## ")[1:]:
        head, *lines = part.splitlines()
        name, module = head.rsplit(": ", 1)
        old, new = ("\n".join(x[1:] for x in lines if x.startswith(sign)) for sign in "-+")
        mutants.append(Mutant(name, module, old, new))
    return mutants


def copy_tree(folder: Path) -> None:
    """Copy what the tests need, without extensions, into an empty folder."""
    nothing = shutil.ignore_patterns("__pycache__", "*.so", "*.pyd", "*.c", "build-stamp.txt")
    shutil.copytree(PACKAGE, folder / "hintbench", ignore=nothing)
    for room in ("core", "reference"):
        shutil.copytree(TESTS / room, folder / "tests" / room, ignore=nothing)
    for room in ("strategies", "workloads"):
        # In a checkout they stand elsewhere.
        origin = Path(import_module(f"hintbench.{room}").__path__[0])
        place = folder / "hintbench" / room
        shutil.copytree(origin, place, ignore=nothing, dirs_exist_ok=True)
    shutil.copy(TESTS.parent / "pyproject.toml", folder)


def run_tests(folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the comparison with the reference on the copy in a folder, up to the first failure."""
    command = ["-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-W", "ignore"]
    environment = {**os.environ, "HINTBENCH_CORE": "interpreted", "PYTHONPATH": str(folder)}
    # Two changes of one second and one length would be one to whoever keeps bytecode.
    environment["PYTHONDONTWRITEBYTECODE"] = "1"
    # In one process: interrupted workers would end it with another status.
    environment.pop("PYTEST_ADDOPTS", None)
    return subprocess.run(
        [sys.executable, *command, *COMPARISONS],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=LIMIT_SECONDS,
        check=False,
    )


def is_killed(mutant: Mutant, folder: Path) -> bool:
    """Whether the tests notice; the copy in ``folder`` is as it was afterwards."""
    path = folder / "hintbench" / mutant.module
    before = path.read_text(encoding="utf-8")
    path.write_text(mutant.text(), encoding="utf-8")
    try:
        done = run_tests(folder)
    except subprocess.TimeoutExpired:
        return True
    finally:
        path.write_text(before, encoding="utf-8")
    if done.returncode not in (0, FAILED):
        raise RuntimeError(f"{mutant}: pytest ended with {done.returncode}\n{done.stdout[-3000:]}")
    return done.returncode == FAILED


def main(words: list[str]) -> int:
    """Say of each mutant whether it was killed; 1 when one survived."""
    survivors = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        copy_tree(folder)
        for mutant in read_mutants():
            if not words or any(word in mutant.name for word in words):
                killed = is_killed(mutant, folder)
                survivors += not killed
                print("killed  " if killed else "SURVIVED", mutant, flush=True)
    return int(survivors > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
