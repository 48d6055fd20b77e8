"""What stands below the table of a comparison: broken rules, notes, text in readable lines."""

from __future__ import annotations

import os
import textwrap
from collections import Counter
from typing import TYPE_CHECKING, Final

from rich.console import Console
from rich.text import Text

from hintbench.config.quantities import counted, format_bytes, format_count

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hintbench.cli.report import Groups
    from hintbench.config.guest import GuestConfig

PIPED_WIDTH: Final = 120
"""Columns to write where there is no terminal that has a width."""
LEAST_WIDTH: Final = 40
"""Columns that are written at least, whatever a terminal says."""


def open_console(stderr: bool = False, highlight: bool = True) -> Console:
    """A console as wide as the terminal, or as what is read from a pipe or a file.

    Args:
        stderr: For standard error instead of standard output.
        highlight: Whether numbers and names are coloured.
    """
    console = Console(stderr=stderr, highlight=highlight)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        return Console(stderr=stderr, highlight=highlight, width=PIPED_WIDTH)
    return console


def print_conditions(
    console: Console, name: str, guest: GuestConfig, seeds: Sequence[int], off: bool
) -> None:
    """Say on which machine, and with which chance, the figures came about.

    Args:
        console: Where to.
        name: What the user called the guest: a preset, or a file.
        guest: The guest.
        seeds: Seeds of all random choices.
        off: Whether the strategies were attached but switched off.
    """
    parts = [format_bytes(guest.memory), counted(guest.vcpus, "vCPU")]
    if guest.nodes > 1:
        parts.append(counted(guest.nodes, "node"))
    parts.append(f"Linux {guest.kernel}")
    spoken = "seed" if len(seeds) == 1 else "seeds"
    told = f"guest {name}: {', '.join(parts)}; {spoken} {_series(seeds)}"
    print_wrapped(console, told + ("; every strategy is switched off" if off else ""))
    console.print()


def _series(seeds: Sequence[int]) -> str:
    """Seeds as people write them: "7", "1 to 5", or one by one."""
    if len(seeds) > 2 and list(seeds) == list(range(seeds[0], seeds[0] + len(seeds))):
        return f"{seeds[0]} to {seeds[-1]}"
    return ", ".join(map(str, seeds))


def print_violations(console: Console, groups: Groups) -> None:
    """Say which rules were broken by whom.

    Args:
        console: Where to.
        groups: The rows by workload and strategy.
    """
    broken: dict[str, Counter[str]] = {}
    for strategies in groups.values():
        for label, same in strategies.items():
            for row in same:
                if row.result is not None and row.result.violations:
                    broken.setdefault(label, Counter()).update(row.result.violations)
    if not broken:
        return
    console.print()
    console.print(Text("rule violations", style="bold"))
    for label, rules in broken.items():
        counts = ", ".join(f"{rule} {format_count(count)}" for rule, count in rules.most_common())
        print_wrapped(console, f"{label}: {counts}", indent="  ")


def print_notes(console: Console, groups: Groups) -> None:
    """Print each note once, under the cells that it belongs to.

    Args:
        console: Where to.
        groups: The rows by workload and strategy.
    """
    notes: dict[tuple[str, ...], list[str]] = {}
    for workload, strategies in groups.items():
        for label, same in strategies.items():
            for row in same:
                if row.result is not None and row.result.notes:
                    labels = notes.setdefault((workload, *row.result.notes), [])
                    if label not in labels:
                        labels.append(label)
    for (workload, *lines), labels in notes.items():
        everyone = len(labels) == len(groups[workload])
        whose = "" if everyone else f", {', '.join(labels)}"
        console.print()
        console.print(Text(f"{workload}{whose}", style="bold"), soft_wrap=True)
        for line in "\n".join(lines).split("\n"):
            print_wrapped(console, line, indent="  ")


def print_wrapped(console: Console, text: str, indent: str = "", style: str = "") -> None:
    """Print text in lines of a readable length; columns that a note has lined up stay.

    Args:
        console: Where to.
        text: One paragraph.
        indent: What each line begins with.
        style: As rich names it.
    """
    width = min(max(console.width, LEAST_WIDTH), PIPED_WIDTH)
    lines = (
        [text] if len(text) + len(indent) <= width else textwrap.wrap(text, width - 4 - len(indent))
    )
    for i, line in enumerate(lines):
        hanging = "  " if i and indent else ""
        console.print(Text(f"{indent}{hanging}{line}", style=style), soft_wrap=True)
