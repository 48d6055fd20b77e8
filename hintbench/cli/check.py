"""`hintbench check` and `replay`: whether a strategy is right."""

from typing import Annotated

import typer

from hintbench.cli.options import JsonFile, Plugins, end_with


def check(
    strategies: Annotated[
        list[str],
        typer.Argument(
            metavar="STRATEGY...",
            help="NAME[,key=value...], FILE.py or module:Class.",
            show_default=False,
        ),
    ],
    schedules: Annotated[
        int,
        typer.Option(
            metavar="N",
            help="Explore at most so many schedules of each, and three short ones for every four.",
        ),
    ] = 3000,
    seconds: Annotated[
        float,
        typer.Option(
            metavar="S",
            help="Explore each for at most so many seconds, and short schedules for half of that;"
            " comparing runs and shrinking what was found come on top.",
        ),
    ] = 25.0,
    seed: Annotated[int, typer.Option(metavar="N", help="Where the schedules begin.")] = 1,
    stories: Annotated[
        bool, typer.Option("--stories", help="Tell also how rules are broken as declared.")
    ] = False,
    save: Annotated[
        str, typer.Option(metavar="FOLDER", help="Where counterexamples are written.")
    ] = "counterexamples",
    json: JsonFile = None,
    jobs: Annotated[
        str | None,
        typer.Option("--jobs", "-j", metavar="N", help="Worker processes. Default: one a CPU."),
    ] = None,
    plugin: Plugins = None,
) -> None:
    """Hold strategies to every rule, under thousands of schedules and faults.

    Exit status 0 when nothing is broken but what a strategy declares, 1 otherwise.
    """
    from hintbench.workers import prepare_workers

    prepare_workers("hintbench.testing.worker")

    from hintbench.cli.check_commands import CheckRequest, run_check

    request = CheckRequest(
        strategies=tuple(strategies),
        schedules=schedules,
        seconds=seconds,
        seed=seed,
        jobs=jobs,
        json=json,
        save=save,
        stories=stories,
        plugins=tuple(plugin or ()),
    )
    end_with(run_check(request))


def replay(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A counterexample of check.")],
    trace: Annotated[
        bool, typer.Option("--trace", help="Every step, not only those that matter.")
    ] = False,
    plugin: Plugins = None,
) -> None:
    """Show a counterexample again, step by step."""
    from hintbench.cli.check_commands import run_replay

    end_with(run_replay(file, trace, tuple(plugin or ())))
