"""`hintbench new`: files to start from, written from the templates that come with hintbench."""

import json
import keyword
import sys
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Final

import typer

from hintbench.errors import UsageError
from hintbench.hookspecs import PROJECT
from hintbench.plugins.plugin_class import PLUGIN_NAME

# A package: without --no-deps asv would find the wheels of its requirements, too.
_FROM_WHEEL: Final = """\
    "build_command": ["python -m pip wheel --no-deps -w {build_cache_dir} {build_dir}"],
    "install_command": [
        "in-dir={env_dir} python -m pip install --no-deps --force-reinstall {wheel_file}"
    ],"""
# A single file: there is nothing to build, and it is importable once it is in place.
_COPY: Final = "import shutil, sysconfig; shutil.copy('$file', sysconfig.get_path('purelib'))"
_FROM_FILE: Final = f"""\
    "build_command": [],
    "install_command": ["python -c \\"{_COPY}\\""],"""


def write_new_strategy(name: str, folder: Path | None = None) -> Path:
    """Write a strategy plugin to start from.

    Args:
        name: The strategy's name: lower-case letters, digits and single hyphens.
        folder: Where to; None for the current one.

    Returns:
        The file.

    Raises:
        UsageError: The name cannot be one, or is taken, or the file exists.
    """
    path = _write_plugin("strategy", name, folder)
    typer.echo(f"wrote {path}; try it: hintbench run -s none -s {path} -w churn")
    return path


def write_new_workload(name: str, folder: Path | None = None) -> Path:
    """Write a workload plugin to start from.

    Args:
        name: The workload's name: lower-case letters, digits and single hyphens.
        folder: Where to; None for the current one.

    Returns:
        The file.

    Raises:
        UsageError: The name cannot be one, or is taken, or the file exists.
    """
    path = _write_plugin("workload", name, folder)
    typer.echo(f"wrote {path}; try it: hintbench run -s none -s bitmap-and-spin -w {path}")
    return path


def _write_plugin(kind: str, name: str, folder: Path | None) -> Path:
    """Write a strategy or a workload under a name that is free."""
    from hintbench.plugins.registry import OWN_STRATEGIES, OWN_WORKLOADS

    module = name.replace("-", "_")
    if keyword.iskeyword(module):
        raise UsageError(f"{name!r} cannot be a {kind}'s name: it is a keyword of Python")
    if not PLUGIN_NAME.fullmatch(name) or not module.isidentifier():
        raise UsageError(
            f"{name!r} cannot be a {kind}'s name: lower-case letters, digits and single hyphens,"
            f" starting with a letter, such as 'my-{kind}'"
        )
    if name in (OWN_STRATEGIES if kind == "strategy" else OWN_WORKLOADS):
        ours = "strategies" if kind == "strategy" else "workloads"
        raise UsageError(f"{name!r} is the name of one of hintbench's own {ours}")
    if hidden := _hidden_by(module):
        raise UsageError(
            f"{name!r} cannot be a {kind}'s name: {module}.py would hide the module {module!r}"
            f" {hidden} from whatever runs beside it"
        )
    path = (folder or Path()) / f"{module}.py"
    class_name = "".join(part.capitalize() for part in name.split("-"))
    _write(path, f"{kind}.py.txt", name=name, class_name=class_name, file=path.name)
    return path


def _hidden_by(module: str) -> str:
    """Whose module a file of that name would hide; "" if there is none."""
    from importlib.metadata import packages_distributions

    if module in sys.stdlib_module_names:
        return "of Python"
    if module == PROJECT:
        return "of hintbench"
    owners = packages_distributions().get(module)
    return f"of {owners[0]}" if owners else ""


def write_new_benchmarks(plugin: str, folder: Path | None = None) -> None:
    """Write what tracks a plugin's strategies from commit to commit with asv.

    Args:
        plugin: A FILE.py in the repository, or the module that the repository installs.
        folder: The repository; None for the current folder.

    Raises:
        UsageError: The plugin has no strategy or is not in the repository, or a file exists.
        PluginError: It cannot be loaded.
    """
    from hintbench import __version__

    repository = (folder or Path()).resolve()
    strategies = _strategies_of(plugin)
    commands, module = _FROM_WHEEL, plugin
    if plugin.endswith(".py"):
        path = Path(plugin).resolve()
        module = path.stem
        if not path.is_relative_to(repository) or not module.isidentifier():
            raise UsageError(
                f"{plugin}: must be in this repository, and its name one that can be imported"
            )
        commands = Template(_FROM_FILE).substitute(file=path.relative_to(repository).as_posix())
    configuration = repository / "asv.conf.json"
    benchmarks = repository / "benchmarks" / f"{module.rpartition('.')[2]}.py"
    for path in (configuration, benchmarks):
        if path.exists():
            raise UsageError(f"{path} exists already and is left as it is")
    _write(
        configuration,
        "asv.conf.json.txt",
        project=repository.name,
        version=__version__,
        commands=commands,
    )
    names = ", ".join(json.dumps(name) for name in strategies)
    _write(benchmarks.with_name("__init__.py"), "", exist_ok=True)
    _write(benchmarks, "benchmarks.py.txt", module=module, strategies=f"({names},)")
    typer.echo(
        f"wrote {configuration.name} and benchmarks/{benchmarks.name} for {', '.join(strategies)};"
        " commit the strategy, then: pip install asv virtualenv && asv machine --yes && asv run"
    )
    if ".dev" in __version__:
        typer.echo(
            f"hintbench: note: {__version__} is a version between two releases, which no package"
            " index has: put its wheel into a folder (pip wheel --no-deps -w FOLDER, and where you"
            " installed it from), and name that: PIP_FIND_LINKS=FOLDER asv run",
            err=True,
        )


def _strategies_of(plugin: str) -> list[str]:
    """Names of the strategies that a plugin contributes."""
    from hintbench.plugins.finding import load_plugin
    from hintbench.plugins.registry import classes_in

    module = load_plugin(plugin)
    found = [each.name for kind, each in classes_in(module, plugin) if kind == "strategy"]
    if not found:
        raise UsageError(
            f"plugin {plugin!r} has no strategy with a name: there is nothing to track"
        )
    return found


def _write(path: Path, template: str, exist_ok: bool = False, **values: str) -> None:
    """Write a file from a template, and never over another one."""
    text = ""
    if template:
        source = files("hintbench").joinpath("templates", template)
        text = Template(source.read_text(encoding="utf-8")).substitute(values)
    try:
        path.parent.mkdir(exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        if not exist_ok:
            raise UsageError(f"{path} exists already and is left as it is") from None
    except OSError as error:
        raise UsageError(f"{path}: cannot be written: {error.strerror}") from None
