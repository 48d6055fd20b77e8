"""Fields of pydantic models for code that reads them thousands of times in a run."""

from types import SimpleNamespace
from typing import TypeVar, cast

from pydantic import BaseModel

Model = TypeVar("Model", bound=BaseModel)


class _Fields(SimpleNamespace):
    """The fields of a model, which nobody changes either."""

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{name} is part of a configuration, which a run does not change")


def plain(model: Model) -> Model:
    """A frozen model's fields as the attributes of a plain object.

    To read a field of a pydantic model takes 600 instructions, of such an object a few; to its
    users it is the model, without its methods.

    Args:
        model: whose fields never change.
    """
    return cast(Model, _Fields(**vars(model)))
