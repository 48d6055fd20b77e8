"""`hintbench new`: files to start a plugin or its repository from."""

from typing import Annotated

import typer

app = typer.Typer(help="Write a plugin to start from.", no_args_is_help=True, rich_markup_mode=None)


@app.command("strategy")
def new_strategy(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Its name, such as my-strategy.")],
) -> None:
    """Write NAME.py, a small strategy that works, with comments."""
    from hintbench.cli.new_files import write_new_strategy

    write_new_strategy(name)


@app.command("workload")
def new_workload(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Its name, such as my-workload.")],
) -> None:
    """Write NAME.py, a small workload that works, with comments."""
    from hintbench.cli.new_files import write_new_workload

    write_new_workload(name)


@app.command("benchmarks")
def new_benchmarks(
    plugin: Annotated[
        str,
        typer.Argument(
            metavar="PLUGIN", help="FILE.py in this repository, or the package.module it installs."
        ),
    ],
) -> None:
    """Write asv.conf.json and benchmarks/, which track a plugin's strategies by commit."""
    from hintbench.cli.new_files import write_new_benchmarks

    write_new_benchmarks(plugin)
