"""The command line.

Each command has a module with its options, which imports the body when it runs: `hintbench --help`
must not wait for numpy. Here they come together, and here is what becomes of errors.
"""

import errno
import os
import sys
import warnings
from collections.abc import Sequence
from typing import Annotated, Any, Final

import typer

from hintbench.cli import check, compare, new, run, speed, trace
from hintbench.cli.options import Plugins, end_with
from hintbench.errors import HintbenchError, describe

_INTERRUPTED: Final = 130
_INTERNAL: Final = 1
_DEBUG: Final = "--debug"
# Files that hintbench writes itself have errors of their own, with their names.
_UNWRITABLE: Final = frozenset(
    getattr(errno, name)
    for name in ("ENOSPC", "EDQUOT", "EFBIG", "EIO", "EBADF")
    if hasattr(errno, name)
)


class _Stopped(Exception):
    """Ctrl-C in a command."""


class _Commands(typer.core.TyperGroup):
    """All commands. typer itself would end at Ctrl-C without a word."""

    def make_context(self, *arguments: Any, **keywords: Any) -> Any:
        try:
            return super().make_context(*arguments, **keywords)
        except KeyboardInterrupt as error:
            raise _Stopped from error

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            raise _Stopped from error


app = typer.Typer(
    name="hintbench",
    cls=_Commands,
    help="Compare strategies by which a guest tells its host of free memory.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from hintbench import __version__

        typer.echo(f"hintbench {__version__}")
        raise typer.Exit


@app.callback()
def _hintbench(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
    debug: Annotated[
        bool, typer.Option(_DEBUG, help="Show tracebacks; may stand anywhere in the line.")
    ] = False,
) -> None:
    pass


app.command()(run.run)


@app.command("list")
def list_plugins(plugin: Plugins = None) -> None:
    """List strategies, workloads and guests."""
    from hintbench.cli.listing import print_list

    end_with(print_list(tuple(plugin or ())))


app.command()(speed.speed)
app.command()(compare.compare)
app.add_typer(trace.app, name="trace")
app.add_typer(new.app, name="new")
app.command()(check.check)
app.command()(check.replay)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: The arguments; None for those of this process.

    Returns:
        The exit status: 0, 1 for a plugin's fault, 2 for wrong input, 130 after Ctrl-C. 0 also
        when the reader of the output has gone, as `head` does: whether that is noticed at all is a
        matter of time.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = _DEBUG in given
    if debug:
        # It belongs to the program, but is asked for when a line has just failed: at its end.
        given = [_DEBUG, *(argument for argument in given if argument != _DEBUG)]
    if sys.stdout is None:
        return _report("standard output is closed", HintbenchError.exit_status, debug)
    _tolerate_narrow_encodings()
    _silence_core_warning()
    try:
        status = typer.main.get_command(app).main(
            args=given, prog_name="hintbench", standalone_mode=False
        )
        # Here it can still be caught that what was printed cannot be written.
        sys.stdout.flush()
    except (_Stopped, KeyboardInterrupt):
        status = _report("stopped", _INTERRUPTED, debug)
    except HintbenchError as error:
        status = _report(str(error), error.exit_status, debug)
    except BrokenPipeError:
        status = _leave_quietly()
    except SystemExit as stop:
        # rich and click make this of a broken pipe.
        if not isinstance(stop.__context__, BrokenPipeError):
            raise
        status = _leave_quietly()
    except Exception as error:
        status = _unforeseen(error, debug)
    return status if isinstance(status, int) else 0


def _unforeseen(error: Exception, debug: bool) -> int:
    """Report what is none of our own errors: a wrong command line, or a fault of hintbench."""
    # typer brings its own copy of click or uses the installed one, depending on its version.
    families = {base.__name__ for base in type(error).__mro__}
    if isinstance(error, OSError) and error.filename is None and error.errno in _UNWRITABLE:
        _drop_output()
        text = f"standard output cannot be written: {error.strerror}"
        return _report(text, HintbenchError.exit_status, debug)
    if "Abort" in families:
        return _report("stopped", _INTERRUPTED, debug)
    context: Any = getattr(error, "ctx", None)
    if "NoArgsIsHelpError" in families and context is not None:
        typer.echo(context.get_help(), err=True)
        return HintbenchError.exit_status
    if "ClickException" in families:
        command = context.command_path if context is not None else "hintbench"
        message = error.format_message() if hasattr(error, "format_message") else str(error)
        message = " ".join(message.split()).rstrip(".")
        return _report(f"{message[:1].lower()}{message[1:]} (see {command} --help)", 2, debug)
    if isinstance(error, MemoryError):
        return _report(f"not enough memory: {describe(error)}", _INTERNAL, debug)
    hint = "" if debug else f"; {_DEBUG} shows the traceback"
    return _report(f"internal error: {describe(error)}{hint}", _INTERNAL, debug)


def _report(message: str, status: int, debug: bool) -> int:
    """Print one line on standard error; with --debug the traceback before it."""
    if debug:
        import traceback

        traceback.print_exc()
    typer.echo(f"hintbench: {message}", err=True)
    return status


def _leave_quietly() -> int:
    """The reader of our output has gone, as `head` does; not a fault, and nothing to print."""
    _drop_output()
    return 0


def _drop_output() -> None:
    """Let what is still buffered, and all that follows, go nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _silence_core_warning() -> None:
    """The commands say themselves, in one line, that the core runs interpreted."""
    rule = "ignore:the compiled core of hintbench:RuntimeWarning"
    warnings.filterwarnings("ignore", "the compiled core of hintbench", RuntimeWarning)
    if rule not in sys.warnoptions:
        # Worker processes are started with these.
        sys.warnoptions.append(rule)


def _tolerate_narrow_encodings() -> None:
    """Print a question mark where a terminal cannot show a character, instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
