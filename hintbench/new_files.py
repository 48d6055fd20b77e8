"""`hintbench new`: files to start from, written from the templates that come with hintbench."""

import keyword
import re
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Final

import typer

from hintbench.errors import UsageError

_PLUGIN_NAME: Final = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


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
    from hintbench.plugins import OWN_STRATEGIES

    module = name.replace("-", "_")
    if not _PLUGIN_NAME.fullmatch(name) or not module.isidentifier() or keyword.iskeyword(module):
        raise UsageError(
            f"{name!r} cannot be a strategy's name: lower-case letters, digits and single hyphens,"
            " starting with a letter, such as 'my-strategy'"
        )
    if name in OWN_STRATEGIES:
        raise UsageError(f"{name!r} is the name of one of hintbench's own strategies")
    path = (folder or Path()) / f"{module}.py"
    text = files("hintbench").joinpath("templates/strategy.py.txt").read_text(encoding="utf-8")
    class_name = "".join(part.capitalize() for part in name.split("-"))
    plugin = Template(text).substitute(name=name, class_name=class_name, file=path.name)
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(plugin)
    except FileExistsError:
        raise UsageError(f"{path} exists already and is left as it is") from None
    except OSError as error:
        raise UsageError(f"{path}: cannot be written: {error.strerror}") from None
    typer.echo(f"wrote {path}; try it: hintbench run -p {path} -s none -s {name} -w churn")
    return path
