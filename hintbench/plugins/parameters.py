"""Reading the parameters of a plugin: a pydantic model, a mapping, or keywords, into its model."""

from collections.abc import Mapping
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from hintbench.config.explain import explain
from hintbench.errors import ParameterError, nearest

Model = TypeVar("Model", bound=BaseModel)


class NoParameters(BaseModel):
    """The parameters of a plugin that has none."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def read_parameters(
    plugin: str,
    model: type[Model],
    parameters: BaseModel | Mapping[str, Any] | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Model:
    """Validate what a user gave for a plugin's parameters.

    Args:
        plugin: What the parameters belong to, for messages, such as "strategy 'oracle'".
        model: The plugin's pydantic model.
        parameters: An instance of the model, or values by name; None for the defaults.
        overrides: Values by name that go before those in `parameters`.

    Returns:
        An instance of `model`.

    Raises:
        ParameterError: For an unknown name (with the nearest one), a wrong kind, or a value out of
            range (with the values that are allowed).
    """
    if isinstance(parameters, model) and not overrides:
        return parameters
    if isinstance(parameters, BaseModel):
        if not isinstance(parameters, model):
            raise ParameterError(
                f"{plugin}: its parameters are a {model.__qualname__},"
                f" not a {type(parameters).__qualname__}"
            )
        # Only what was set: a default may depend on another parameter.
        parameters = parameters.model_dump(exclude_unset=True)
    values = {**(parameters or {}), **(overrides or {})}
    values = {name: _nothing(model, name, value) for name, value in values.items()}
    if model.model_config.get("extra") != "forbid":
        _refuse_unknown(plugin, model, values)
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise ParameterError(explain(error, plugin, model, "parameter")) from error


def _nothing(model: type[BaseModel], name: str, value: Any) -> Any:
    """None for the text "none", as lists of parameters print it, where a parameter may be that."""
    field = model.model_fields.get(name)
    takes_none = field is not None and type(None) in get_args(field.annotation)
    return None if value == "none" and takes_none else value


def _refuse_unknown(plugin: str, model: type[BaseModel], values: Mapping[str, Any]) -> None:
    """A misspelt name is an error also for a model that would ignore it."""
    known = set(model.model_fields) | {
        field.alias for field in model.model_fields.values() if field.alias
    }
    for name in values:
        if name not in known:
            near = nearest(name, known)
            hint = f": did you mean {near!r}?" if near else ""
            listed = ", ".join(sorted(known)) or "none"
            raise ParameterError(f"{plugin}: {name}: no such parameter{hint} (known: {listed})")
