"""Tapes of operations, with the workload to blame for what goes wrong in them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from hintbench.errors import HintbenchError, PluginError
from hintbench.operations import OperationBlock

if TYPE_CHECKING:
    from hintbench.runner import Run


class BlamedTape:
    """A vCPU's tape: while it is asked for more, the workload is at fault, not the strategy."""

    def __init__(self, run: Run, blocks: Iterator[OperationBlock]) -> None:
        self._run = run
        self._blocks = blocks

    def __iter__(self) -> Iterator[OperationBlock]:
        return self

    def __next__(self) -> OperationBlock:
        run, name = self._run, self._run.workload_name
        blamed, run.blamed = run.blamed, name
        try:
            block: object = next(self._blocks)
        except (StopIteration, HintbenchError):
            raise
        except (Exception, SystemExit) as error:
            raise PluginError(name, "a tape", error) from error
        finally:
            run.blamed = blamed
        if not isinstance(block, OperationBlock):
            text = f"yielded {type(block).__name__}, not an OperationBlock"
            raise PluginError(name, "a tape", text)
        return block
