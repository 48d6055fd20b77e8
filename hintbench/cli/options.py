"""Options that several commands have, and how a command ends."""

from typing import Annotated

import typer

Plugins = Annotated[
    list[str] | None,
    typer.Option(
        "--plugin",
        "-p",
        metavar="PLUGIN",
        help="Load a plugin: FILE.py or package.module. Repeatable.",
    ),
]
Memory = Annotated[
    str | None, typer.Option(metavar="SIZE", help="Size of the guest, such as 8GiB.")
]
Vcpus = Annotated[str | None, typer.Option(metavar="N", help="vCPUs of the guest.")]
JsonFile = Annotated[
    str | None,
    typer.Option(
        "--json", metavar="FILE", help="Also write the figures to FILE; - is standard output."
    ),
]


def whole_number(text: str) -> int:
    """Read a whole number of the command line.

    Raises:
        typer.BadParameter: It is none; typer names the option.
    """
    try:
        return int(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a whole number") from None


def number(text: str) -> float:
    """Read a number of the command line.

    Raises:
        typer.BadParameter: It is none; typer names the option.
    """
    try:
        return float(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a number") from None


def end_with(status: int) -> None:
    """End a command with an exit status.

    Raises:
        typer.Exit: It is not 0.
    """
    if status:
        raise typer.Exit(status)
