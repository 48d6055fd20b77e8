"""A third party's package (examples/) is installed, discovered, run, checked and tested."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import hintbench

EXAMPLE = Path(hintbench.__file__).parents[1] / "examples" / "hintbench-nightly"
HERE = os.pathsep.join(str(Path(entry)) for entry in sys.path if entry)

pytestmark = pytest.mark.skipif(not EXAMPLE.exists(), reason="no examples beside the package")


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder with the package in it, as pip puts it there, without a network."""
    folder = tmp_path_factory.mktemp("site")
    source = folder / "source"
    shutil.copytree(EXAMPLE, source)
    target = folder / "packages"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"),
            *("--no-build-isolation", "--disable-pip-version-check"),
            *("--target", str(target), str(source)),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return target


def run(installed, *arguments, cwd):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(installed), HERE])}
    environment.pop("PYTEST_ADDOPTS", None)
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def test_it_is_discovered(installed, tmp_path):
    done = run(installed, "hintbench", "list", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "nightly" in done.stdout
    assert "tides" in done.stdout


def test_it_is_run_with_its_workload(installed, tmp_path):
    done = run(
        installed,
        *("hintbench", "run", "-s", "none", "-s", "nightly", "-w", "tides", "--json", "out.json"),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "nightly" in done.stdout


def test_it_is_checked(installed, tmp_path):
    done = run(
        installed,
        *("hintbench", "check", "nightly", "--schedules", "120", "--json", "out.json"),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    check = json.loads((tmp_path / "out.json").read_text())["checks"][0]
    assert check["verdicts"]["no-false-oom"]["verdict"] == "declared"
    assert check["schedules_with_reports"] > 100


def test_its_own_tests_pass(installed, tmp_path):
    shutil.copytree(EXAMPLE / "tests", tmp_path / "tests")
    done = run(
        installed, "pytest", "-q", "-p", "no:cacheprovider", "--strict-markers", cwd=tmp_path
    )
    assert done.returncode == 0, done.stdout
    assert "1 xfailed" in done.stdout


def test_its_readme_and_its_tests_name_what_it_has():
    readme = (EXAMPLE / "README.md").read_text(encoding="utf-8")
    for word in ("hintbench list", "hintbench check nightly", "hintbench run", "pytest"):
        assert word in readme
