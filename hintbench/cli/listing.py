"""`hintbench list`: what can be compared, on what, and with which parameters."""

import os
import textwrap
from collections.abc import Iterator, Mapping
from enum import Enum
from typing import Any, Final, Literal, get_args, get_origin

import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from rich.console import Console

from hintbench.config.explain import allowed_range
from hintbench.config.guest import PRESETS, load_guest
from hintbench.config.quantities import format_bytes
from hintbench.errors import PluginError
from hintbench.plugins.finding import known_strategies, known_workloads, load_plugin
from hintbench.plugins.registry import source_of

_MOST_COLUMNS: Final = 120
_OWN: Final = "hintbench"


def print_list(plugins: tuple[str, ...] = ()) -> int:
    """Print every strategy and workload with its parameters, and the guests.

    Args:
        plugins: Plugins to load first.

    Returns:
        The exit status: 1 when an installed plugin could not be loaded.
    """
    for plugin in plugins:
        load_plugin(plugin)
    broken: list[PluginError] = []
    strategies = known_strategies(broken)
    workloads = known_workloads()
    lines = ["strategies (-s NAME[,key=value...])"]
    for found in (*strategies.values(), "workloads", *workloads.values()):
        if isinstance(found, str):
            lines += ["", "workloads (-w NAME[,key=value...], or -w trace:PATH)"]
        else:
            lines += _plugin_lines(found, _width())
    lines += ["", "guests (--guest NAME, or --guest FILE.toml)"]
    for name in PRESETS:
        lines += _two_columns(f"  {name}", _guest_summary(name), 28, _width())
    typer.echo("\n".join(lines))
    for error in broken:
        typer.echo(f"hintbench: {error}", err=True)
    return 1 if broken else 0


def parameter_type(field: FieldInfo) -> str:
    """Say what a parameter takes, such as "int 0..10", "true|false" or "a|b|c".

    Args:
        field: The parameter's field in its pydantic model.
    """
    kind = _type_name(field.annotation)
    allowed = allowed_range(field)
    return f"{kind} {allowed}" if allowed else kind


def _plugin_lines(plugin: Any, width: int) -> Iterator[str]:
    """One strategy or workload: a line for itself and one for each parameter."""
    source = source_of(plugin)
    summary = plugin.summary + (f" [{source}]" if source != _OWN else "")
    yield from _two_columns(f"  {plugin.name}", summary, 28, width)
    fields: Mapping[str, FieldInfo] = plugin.Parameters.model_fields
    for name, field in fields.items():
        default = default_text(field)
        head = f"      {name}={default}" if default is not None else f"      {name} (required)"
        text = f"{parameter_type(field)}: {field.description or 'no description'}"
        yield from _two_columns(head, text, 40, width)


def _two_columns(head: str, text: str, indent: int, width: int) -> Iterator[str]:
    """A head, and beside it a text in lines of the same indent, less where there is no room."""
    indent = min(indent, width // 3)
    lines = textwrap.wrap(
        text, max(width - indent, 30), break_on_hyphens=False, break_long_words=False
    ) or [""]
    if len(head) >= indent - 1:
        # A long default: broken where its entries end, so that it can still be read.
        spaced = head.strip().replace("/", "/ ")
        margin = " " * (len(head) - len(head.lstrip()))
        for line in textwrap.wrap(spaced, width - len(margin) - 2):
            yield margin + line.replace("/ ", "/")
    else:
        lines[0] = f"{head:<{indent}}{lines[0]}"
        yield lines.pop(0)
    for line in lines:
        yield f"{'':<{indent}}{line}"


def default_text(field: FieldInfo) -> str | None:
    """A parameter's default as one would type it, or None when it has none."""
    if field.is_required():
        return None
    value = field.get_default(call_default_factory=True)
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    if isinstance(value, Enum):
        return str(value.value)
    if isinstance(value, BaseModel):
        return ":".join(str(part) for _, part in value)
    if isinstance(value, tuple | list):
        return "/".join(
            ":".join(str(part) for _, part in entry) if isinstance(entry, BaseModel) else str(entry)
            for entry in value
        )
    return str(value)


def _type_name(annotation: Any) -> str:
    """Name a type as users know it."""
    if get_origin(annotation) is Literal:
        return "|".join(str(choice) for choice in get_args(annotation))
    names = {int: "int", float: "number", bool: "true|false", str: "text", type(None): "none"}
    if annotation in names:
        return names[annotation]
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return "|".join(str(member.value) for member in annotation)
    parts = [part for part in get_args(annotation) if part is not Ellipsis]
    if get_origin(annotation) in (tuple, list):
        return "list"
    if parts and isinstance(annotation, type):
        return annotation.__name__
    if parts:
        return " or ".join(_type_name(part) for part in parts)
    return getattr(annotation, "__name__", str(annotation))


def _guest_summary(name: str) -> str:
    guest = load_guest(name)
    vcpus = "1 vCPU" if guest.vcpus == 1 else f"{guest.vcpus} vCPUs"
    nodes = f", {guest.nodes} nodes" if guest.nodes > 1 else ""
    return (
        f"{format_bytes(guest.memory)}, {vcpus}, kernel {guest.kernel}{nodes},"
        f" reports served by {guest.host.kick}"
    )


def _width() -> int:
    console = Console()
    told = console.is_terminal or "COLUMNS" in os.environ
    return min(console.width, _MOST_COLUMNS) if told else _MOST_COLUMNS
