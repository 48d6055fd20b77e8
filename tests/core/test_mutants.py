"""The comparison with the reference notices every mutant of ``mutants.txt``."""

from __future__ import annotations

from pathlib import Path

import pytest

from mutants_of_the_core import Mutant, copy_tree, is_killed, read_mutants, run_tests

MUTANTS = read_mutants()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("mutants")
    copy_tree(path)
    return path


@pytest.mark.parametrize("mutant", MUTANTS, ids=str)
def test_every_mutant_can_be_made(mutant: Mutant) -> None:
    compile(mutant.text(), mutant.module, "exec")


@pytest.mark.long
def test_the_core_itself_passes(folder: Path) -> None:
    done = run_tests(folder)
    assert done.returncode == 0, done.stdout[-3000:]


@pytest.mark.long
@pytest.mark.parametrize("mutant", MUTANTS, ids=str)
def test_every_mutant_is_killed(mutant: Mutant, folder: Path) -> None:
    assert is_killed(mutant, folder)
