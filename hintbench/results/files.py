"""Files of results: one that grows while a comparison runs, and reading it again."""

import json
import math
import os
import stat
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hintbench.config.explain import explain
from hintbench.errors import ResultFileError
from hintbench.results.result import Result, Summary, summarize, with_ratios

SCHEMA: Final = 1
STDOUT: Final = "-"
_SECONDS_BETWEEN_WRITES = 1.0


class ResultFile(BaseModel):
    """A file of results: ``{"schema": 1, "hintbench": "0.1.0", "results": [...]}``."""

    model_config = ConfigDict(extra="ignore", frozen=True, populate_by_name=True)

    schema_version: Literal[1] = Field(default=SCHEMA, alias="schema", description="of this file")
    hintbench: str = Field(description="the version that wrote the file")
    results: tuple[Result, ...] = Field(description="one for each simulation that was finished")
    summaries: tuple[Summary, ...] = Field(
        default=(), description="one for each cell that ran with several seeds"
    )


class ResultWriter:
    """Keeps finished results in a file, so that an interrupted comparison loses none.

    The file is replaced as a whole: it is a complete result file at every moment. It is not
    touched before the first result, so that wrong input leaves an older file as it was.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Check that the file can be written, before any time is spent on results.

        Args:
            path: The file; "-" is standard output, written by `close` only.

        Raises:
            ResultFileError: It is a directory, or its directory cannot be written to.
        """
        self.path = str(path)
        self._results: Sequence[Result] = ()
        self._written_at = -math.inf
        self._pending = False
        # A pipe or a device cannot be replaced; it takes the text once, when everything is known.
        self._once = self.path == STDOUT or _is_special(self.path)
        check_writable(self.path)

    def update(self, results: Iterable[Result]) -> None:
        """Take the results so far; write them unless the last write was less than a second ago.

        Args:
            results: Every finished result; each gets its ratios (`with_ratios`) when it is written.
        """
        self._results = tuple(results)
        # An older file is worth more than one that says nothing.
        self._pending = bool(self._results) or self._once
        if (
            self._pending
            and not self._once
            and time.monotonic() - self._written_at >= _SECONDS_BETWEEN_WRITES
        ):
            self._write()

    def close(self) -> None:
        """Write what has not been written yet."""
        if self._pending:
            self._write()

    def _write(self) -> None:
        write_results(self.path, with_ratios(self._results))
        self._written_at = time.monotonic()
        self._pending = False


def results_as_json(results: Iterable[Result]) -> str:
    """Write results as the text of a result file.

    Args:
        results: The results, in the order in which they are kept.
    """
    from hintbench import __version__

    kept = tuple(results)
    file = ResultFile(hintbench=__version__, results=kept, summaries=tuple(summarize(kept)))
    return json.dumps(file.model_dump(mode="json", by_alias=True), indent=1, ensure_ascii=False)


def write_results(path: str | os.PathLike[str], results: Iterable[Result]) -> None:
    """Write a result file, replacing an older one as a whole.

    Args:
        path: The file; "-" is standard output.
        results: The results.

    Raises:
        ResultFileError: It cannot be written.
    """
    write_text(path, results_as_json(results) + "\n")


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a file, replacing an older one as a whole.

    Args:
        path: The file; "-" is standard output.
        text: What it is to hold.

    Raises:
        ResultFileError: It cannot be written.
    """
    try:
        if str(path) == STDOUT:
            import sys

            sys.stdout.write(text)
        elif _is_special(path):
            Path(path).write_text(text, encoding="utf-8")
        else:
            # A link stays a link: what it points to is replaced.
            target = Path(path).resolve()
            partial = target.with_name(f"{target.name}.{os.getpid()}.partial")
            try:
                partial.write_text(text, encoding="utf-8")
                partial.replace(target)
            finally:
                partial.unlink(missing_ok=True)
    except OSError as error:
        raise _unwritable(path, error) from None


def load_results(path: str | os.PathLike[str]) -> ResultFile:
    """Read a result file.

    Args:
        path: The file.

    Raises:
        ResultFileError: It cannot be read, is not a result file, or has another schema.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ResultFileError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError:
        raise ResultFileError(f"{path}: not a result file: it is not JSON") from None
    if not isinstance(content, Mapping) or "schema" not in content:
        raise ResultFileError(f"{path}: not a result file: it has no entry 'schema'")
    if content["schema"] != SCHEMA:
        writer = content.get("hintbench", "an unknown version")
        raise ResultFileError(
            f"{path}: schema {content['schema']!r} was written by hintbench {writer};"
            f" this version reads schema {SCHEMA}"
        )
    try:
        return ResultFile.model_validate(content)
    except ValidationError as error:
        raise ResultFileError(explain(error, str(path), ResultFile, "entry")) from None


def _is_special(path: str | os.PathLike[str]) -> bool:
    """Whether the path exists as something that cannot be replaced: a pipe, a device."""
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def check_writable(path: str, called: str = "") -> None:
    """Find out whether a file can be written, without touching an older one.

    Args:
        path: The file; "-", a pipe or a device is taken as it is.
        called: What the user calls it; empty for its path.

    Raises:
        ResultFileError: It is a directory, or its directory cannot be written to.
    """
    if path == STDOUT or _is_special(path):
        return
    target = Path(path).resolve()
    if not path or target.is_dir():
        raise ResultFileError(f"{path or '--json'}: cannot be written: this is not a file name")
    try:
        probe = target.with_name(f"{target.name}.{os.getpid()}.partial")
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise _unwritable(called or path, error) from None


def _unwritable(path: str | os.PathLike[str], error: OSError) -> ResultFileError:
    return ResultFileError(f"{path}: cannot be written: {error.strerror or error}")
