"""One sentence out of a pydantic validation error: path, what is wrong, what would be right."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, get_args

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from hintbench.config.quantities import format_bytes
from hintbench.errors import nearest

_MOST_PROBLEMS = 3
_MOST_NAMES = 12
_KINDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "string": "text",
    "list": "a list",
    "tuple": "a list",
    "dict": "a table",
    "model": "a table",
    "finite": "a finite number",
}


def explain(
    error: ValidationError,
    where: str,
    model: type[BaseModel] | None = None,
    noun: str = "setting",
) -> str:
    """Turn a validation error into one sentence.

    Args:
        error: What pydantic raised.
        where: What was validated, such as "guest.toml" or "strategy 'oracle'"; may be "".
        model: The model that refused; with it the sentence can name near misses and whole ranges.
        noun: What an entry of the model is called: "setting" or "parameter".

    Returns:
        For instance ``guest.toml: host.kick: 'vpcu' is not one of vcpu-thread, device-thread``.
    """
    problems = error.errors(include_url=False)
    inside = [problem["loc"] for problem in problems]
    # A list of which an entry is refused is also told to be too short: that helps nobody.
    problems = [
        problem
        for problem, place in zip(problems, inside, strict=True)
        if not any(len(loc) > len(place) and loc[: len(place)] == place for loc in inside)
    ]
    texts = []
    for problem in problems[:_MOST_PROBLEMS]:
        location = problem["loc"]
        path = _path(location)
        text = _problem(dict(problem), location, model, noun)
        texts.append(f"{path}: {text}" if path else text)
    if len(problems) > _MOST_PROBLEMS:
        texts.append(f"and {len(problems) - _MOST_PROBLEMS} more")
    sentence = "; ".join(texts)
    return f"{where}: {sentence}" if where else sentence


def allowed_range(field: FieldInfo) -> str:
    """Say which values a field allows, such as "1..256", "at least 0" or "" for no limit.

    Args:
        field: A field of a pydantic model.
    """
    low = high = None
    for limit in field.metadata:
        if isinstance(limit, Ge | Gt):
            low = limit
        elif isinstance(limit, Le | Lt):
            high = limit
    write: Callable[[Any], str] = format_bytes if _unit(field) == "bytes" else _number
    if isinstance(low, Ge) and isinstance(high, Le):
        return f"{write(low.ge)}..{write(high.le)}"
    words = []
    if low is not None:
        words.append(
            f"at least {write(low.ge)}" if isinstance(low, Ge) else f"above {write(low.gt)}"
        )
    if high is not None:
        words.append(
            f"at most {write(high.le)}" if isinstance(high, Le) else f"below {write(high.lt)}"
        )
    return " and ".join(words)


def _unit(field: FieldInfo) -> str:
    extra = field.json_schema_extra
    return str(extra.get("unit", "")) if isinstance(extra, dict) else ""


def _problem(
    problem: dict[str, Any],
    location: Sequence[int | str],
    model: type[BaseModel] | None,
    noun: str,
) -> str:
    """Say what is wrong at one place, without the path."""
    kind, given = str(problem["type"]), problem["input"]
    context = problem.get("ctx", {})
    if kind == "extra_forbidden":
        return _unknown_key(str(location[-1]), _model_at(model, location[:-1]), noun)
    if kind == "missing":
        return f"this {noun} is missing"
    if kind in ("literal_error", "enum"):
        expected = str(context["expected"]).replace("' or '", "', '")
        choices = [choice.strip("'") for choice in expected.split(", ")]
        near = nearest(given, choices) if isinstance(given, str) else None
        hint = f": did you mean {near!r}?" if near else ""
        return f"{given!r} is not one of {', '.join(choices)}{hint}"
    if kind in ("greater_than_equal", "greater_than", "less_than_equal", "less_than"):
        field = _field_at(model, location)
        allowed = allowed_range(field) if field else ""
        if not allowed:
            relation, limit = next(iter(context.items()))
            words = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
            allowed = f"{words[relation]} {_number(limit)}"
        connection = "must be" if allowed[0].isalpha() else "is out of range"
        return f"{_written(given, field)} {connection} {allowed}"
    if kind in ("too_short", "too_long"):
        least = kind == "too_short"
        limit = context["min_length" if least else "max_length"]
        return f"needs at {'least' if least else 'most'} {limit} of them"
    if kind == "value_error":
        return str(context["error"])
    stem, _, flaw = kind.partition("_")
    if stem in _KINDS and flaw in ("parsing", "type", "from_float", "number", "attributes_type"):
        return f"{given!r} is not {_KINDS[stem]}"
    message = str(problem["msg"])
    return f"{given!r}: {message[:1].lower()}{message[1:]}"


def _unknown_key(key: str, model: type[BaseModel] | None, noun: str) -> str:
    if model is None:
        return f"there is no such {noun}"
    known = sorted(model.model_fields)
    near = nearest(key, known)
    if not known:
        return f"there is no such {noun} (there are none)"
    hint = f": did you mean {near!r}?" if near else ""
    if len(known) > _MOST_NAMES:
        return f"there is no such {noun}{hint or f' (there are {len(known)})'}"
    return f"there is no such {noun}{hint} (known: {', '.join(known)})"


def _path(location: Sequence[int | str]) -> str:
    """Write a location as a reader of the file would: ``zones[0].name``."""
    path = ""
    for step in location:
        path += f"[{step}]" if isinstance(step, int) else f".{step}" if path else str(step)
    return path


def _model_at(
    model: type[BaseModel] | None, location: Sequence[int | str]
) -> type[BaseModel] | None:
    """Walk from a model through the fields of a location to the model there."""
    for step in location:
        if model is None:
            return None
        if isinstance(step, int):
            continue
        field = model.model_fields.get(step)
        model = next(_models_in(field.annotation), None) if field else None
    return model


def _field_at(model: type[BaseModel] | None, location: Sequence[int | str]) -> FieldInfo | None:
    names = [step for step in location if isinstance(step, str)]
    owner = _model_at(model, names[:-1]) if names else None
    return owner.model_fields.get(names[-1]) if owner else None


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """Every model inside an annotation such as ``tuple[ZoneConfig, ...] | None``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models_in(part)


def _written(value: object, field: FieldInfo | None) -> str:
    """Write a refused value as the limits beside it are written."""
    if field is not None and _unit(field) == "bytes" and isinstance(value, int):
        return format_bytes(value)
    # On a command line everything is text, also numbers.
    return value if isinstance(value, str) and value.lstrip("+-").isdecimal() else repr(value)


def _number(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
