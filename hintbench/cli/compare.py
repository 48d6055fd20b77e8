"""`hintbench compare`: the results of two versions, side by side."""

from typing import Annotated

import typer

from hintbench.cli.options import end_with


def compare(
    base: Annotated[
        str, typer.Argument(metavar="BASE.json", help="Results of `run --json`, the older ones.")
    ],
    new: Annotated[str, typer.Argument(metavar="NEW.json", help="The newer ones.")],
    metric: Annotated[
        list[str] | None,
        typer.Option(
            "--metric",
            "-m",
            metavar="PATTERN",
            help="Compare these only, such as 'retained_*'. Repeatable; default: all.",
        ),
    ] = None,
    fail_above: Annotated[
        str | None,
        typer.Option(
            metavar="PERCENT",
            help="End with status 1 when a metric got worse by more, such as 2%.",
        ),
    ] = None,
) -> None:
    """Show two result files side by side, and only what really differs.

    Of one seed every difference is real, since runs repeat to the last digit. Of several seeds
    (run -n SEEDS) those are left out that chance alone may have made.
    """
    from hintbench.cli.compare_commands import run_compare

    end_with(run_compare(base, new, tuple(metric or ()), fail_above))
