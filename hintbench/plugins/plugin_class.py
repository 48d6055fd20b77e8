"""What strategies and workloads have in common: a name, a summary and validated parameters."""

import inspect
import re
from collections.abc import Mapping
from typing import Any, ClassVar, Final

from pydantic import BaseModel

from hintbench.plugins.parameters import NoParameters, read_parameters

PLUGIN_NAME: Final = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
"""What a plugin may be called: something that a command line takes without quotes."""


class PluginClass:
    """A base of strategies and workloads, which says what a plugin is called and takes.

    Attributes:
        kind: "strategy" or "workload".
        name: What users call it; lower case, digits and hyphens.
        summary: The first line of the docstring.
        Parameters: The pydantic model of its parameters.
        parameters: This instance's parameters.
    """

    kind: ClassVar[str] = ""
    name: ClassVar[str] = ""
    summary: ClassVar[str] = ""
    Parameters: ClassVar[type[BaseModel]] = NoParameters
    parameters: BaseModel

    def __init_subclass__(cls, **keywords: Any) -> None:
        """Read the summary, and refuse a name that a command line could not take."""
        super().__init_subclass__(**keywords)
        cls.summary = inspect.cleandoc(cls.__dict__.get("__doc__") or "").partition("\n")[0]
        if cls.name and not PLUGIN_NAME.fullmatch(cls.name):
            raise ValueError(
                f"{cls.__qualname__}: name is {cls.name!r},"
                " must be lower-case letters, digits and single hyphens"
            )
        model: object = cls.Parameters
        if not (isinstance(model, type) and issubclass(model, BaseModel)):
            raise TypeError(f"{cls.__qualname__}: Parameters must be a pydantic model")

    def __init__(
        self, parameters: BaseModel | Mapping[str, Any] | None = None, **overrides: Any
    ) -> None:
        """Validate the parameters.

        Args:
            parameters: An instance of `Parameters`, or values by name; None for the defaults.
            **overrides: Single parameters by name; these go first.

        Raises:
            ParameterError: When a name is unknown or a value is not allowed.
        """
        self.parameters = read_parameters(self.label, self.Parameters, parameters, overrides)

    @property
    def label(self) -> str:
        """What it is called in a message, such as "strategy 'oracle'"."""
        return f"{self.kind} {self.name or type(self).__name__!r}"

    def __repr__(self) -> str:
        given = ", ".join(f"{name}={value!r}" for name, value in self.parameters)
        return f"{type(self).__name__}({given})"
