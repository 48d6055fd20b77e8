"""`hintbench speed`: what this build costs, on the standard tapes or on guests of many sizes."""

from typing import Annotated

import typer

from hintbench.cli.options import JsonFile


def speed(
    json: JsonFile = None,
    scale: Annotated[
        bool,
        typer.Option(
            "--scale", help="Instead: guests of 4 GiB to 1 TiB and 1 to 256 vCPUs (needs 3 GiB)."
        ),
    ] = False,
) -> None:
    """Measure this build.

    Prints the wall nanoseconds for each operation on the standard tapes: bare replay of the
    allocator, order-0 churn with 8 vCPUs, order 9 with a hook on every free.
    """
    if scale:
        from hintbench.cli.speed_report import measure_scale

        measure_scale(json)
        return
    from hintbench.cli.speed_report import measure_speed

    measure_speed(json)
