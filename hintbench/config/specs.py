"""How a strategy or workload is named on a command line: ``NAME[,key=value...]``."""

import re
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field

from hintbench.errors import ParameterError

# A comma separates parameters only where "key=" follows: values such as a list of orders, and
# paths, may hold commas themselves.
_NEXT_PARAMETER = re.compile(r",(?=\s*[A-Za-z_][A-Za-z0-9_-]*\s*=)")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
TRACE = "trace"


class PluginSpec(BaseModel):
    """A strategy or workload by name, with the parameters that differ from its defaults."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(description="the name it is registered under")
    parameters: dict[str, Any] = Field(
        default_factory=dict, description="parameters by name; text is converted by the plugin"
    )

    @classmethod
    def parse(cls, text: str, kind: str) -> Self:
        """Read ``NAME[,key=value...]``, or for workloads also ``trace:PATH[,key=value...]``.

        Args:
            text: What the user wrote.
            kind: "strategy" or "workload", for the message.

        Raises:
            ParameterError: When it cannot be read so.
        """
        head, *pairs = _NEXT_PARAMETER.split(text.strip())
        parameters: dict[str, Any] = {}
        name, colon, path = head.partition(":")
        if kind == "workload" and colon and name.strip() == TRACE:
            if not path:
                raise ParameterError("workload 'trace:' names no file: write trace:PATH")
            parameters["path"], head = path, TRACE
        for pair in pairs:
            key, _, value = pair.partition("=")
            key = key.strip().replace("-", "_")
            if key in parameters:
                raise ParameterError(f"{kind} {head!r}: parameter {key} is given twice")
            parameters[key] = value.strip()
        head = head.strip()
        if not _NAME.fullmatch(head):
            wrong = "names nothing" if not head else "cannot be read"
            raise ParameterError(
                f"{kind} {text!r} {wrong}: write NAME, or NAME,key=value,key=value"
            )
        return cls(name=head, parameters=parameters)

    def __str__(self) -> str:
        """Write it as `parse` reads it."""
        parameters = dict(self.parameters)
        head = self.name
        if head == TRACE and "path" in parameters:
            head = f"{TRACE}:{parameters.pop('path')}"
        return ",".join([head, *(f"{key}={_text(value)}" for key, value in parameters.items())])


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
