"""`hintbench check` and `replay`: whether a strategy is right."""

from typing import Annotated

import typer

from hintbench.cli.options import JsonFile, Plugins, end_with, number, whole_number
from hintbench.config.defaults import CHECK_SCHEDULES, CHECK_SECONDS, COUNTEREXAMPLES


def check(
    strategies: Annotated[
        list[str],
        typer.Argument(
            metavar="STRATEGY...",
            help="NAME[,key=value...]; FILE.py, FILE.py:Class or module:Class will do for a name.",
            show_default=False,
        ),
    ],
    schedules: Annotated[
        int,
        typer.Option(
            parser=whole_number,
            metavar="N",
            help="Explore at most so many long schedules of each strategy, half as many of a"
            " handful of operations, and a quarter as many (400 at most) of one tiny scenario;"
            " some 50 runs that are compared come on top.",
        ),
    ] = CHECK_SCHEDULES,
    seconds: Annotated[
        float,
        typer.Option(
            parser=number,
            metavar="S",
            help="Explore long schedules of each strategy for at most so many seconds, and either"
            " kind of short ones for a quarter of that; comparing runs and shrinking what was"
            " found come on top.",
        ),
    ] = CHECK_SECONDS,
    seed: Annotated[
        int, typer.Option(parser=whole_number, metavar="N", help="Where the schedules begin.")
    ] = 1,
    stories: Annotated[
        bool, typer.Option("--stories", help="Tell also how rules are broken as declared.")
    ] = False,
    save: Annotated[
        str, typer.Option(metavar="FOLDER", help="Where counterexamples are written.")
    ] = COUNTEREXAMPLES,
    json: JsonFile = None,
    jobs: Annotated[
        str | None,
        typer.Option("--jobs", "-j", metavar="N", help="Worker processes. Default: one a CPU."),
    ] = None,
    plugin: Plugins = None,
) -> None:
    """Hold strategies to every rule, under thousands of schedules and faults.

    Exit status 0 when every strategy reported something, and nothing is broken but what it
    declares; 1 otherwise, 2 for wrong input.
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
    """Show a counterexample again, step by step.

    Exit status 0 when it breaks the same rule with the same digest, 1 when the strategy does not do
    that any more, 2 when the file cannot be read or the strategy is not found.
    """
    from hintbench.cli.check_commands import run_replay

    end_with(run_replay(file, trace, tuple(plugin or ())))
