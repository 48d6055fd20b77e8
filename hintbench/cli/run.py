"""`hintbench run`: strategies on workloads, and one table."""

from typing import Annotated

import typer

from hintbench.cli.options import JsonFile, Memory, Plugins, Vcpus, end_with


def run(
    context: typer.Context,
    strategy: Annotated[
        list[str] | None,
        typer.Option(
            "--strategy",
            "-s",
            metavar="NAME[,key=value...]",
            help="A strategy to compare; FILE.py, FILE.py:Class or module:Class will do for a name."
            " Repeatable; default: all of hintbench's own.",
        ),
    ] = None,
    workload: Annotated[
        list[str] | None,
        typer.Option(
            "--workload",
            "-w",
            metavar="NAME[,key=value...]",
            help="A workload to run them on, by name or FILE.py, or trace:PATH. Repeatable;"
            " default: a selection.",
        ),
    ] = None,
    guest: Annotated[str, typer.Option(metavar="FILE.toml|PRESET", help="The guest.")] = "default",
    memory: Memory = None,
    vcpus: Vcpus = None,
    kernel: Annotated[
        str | None, typer.Option(metavar="5.0|6.12", help="Whose page allocator it has.")
    ] = None,
    seed: Annotated[
        list[str] | None,
        typer.Option(
            metavar="N",
            help="Seed of all random choices; repeatable, rows are then means. Default: 1.",
        ),
    ] = None,
    seeds: Annotated[
        str | None,
        typer.Option(
            "-n",
            metavar="SEEDS",
            help="Run so many seeds, from --seed on; rows are means with their 95 % interval.",
        ),
    ] = None,
    json: JsonFile = None,
    jobs: Annotated[
        str | None,
        typer.Option("--jobs", "-j", metavar="N", help="Worker processes. Default: one a CPU."),
    ] = None,
    plugin: Plugins = None,
    off: Annotated[
        bool,
        typer.Option(
            "--off", help="Attach the strategies but switch them off; each must equal none."
        ),
    ] = False,
) -> None:
    """Run strategies on workloads and print one table.

    With no arguments: every strategy on the default workloads, on the default guest.
    """
    from hintbench.cli.run_commands import RunRequest, run_comparison

    request = RunRequest(
        strategies=tuple(strategy or ()),
        workloads=tuple(workload or ()),
        guest=guest,
        memory=memory,
        vcpus=vcpus,
        kernel=kernel,
        seeds=tuple(seed or ()),
        seed_count=seeds,
        json=json,
        jobs=jobs,
        plugins=tuple(plugin or ()),
        attached_but_off=off,
    )
    end_with(run_comparison(request, debug=bool(context.find_root().params.get("debug"))))
