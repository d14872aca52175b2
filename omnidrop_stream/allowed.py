"""What a setting allows, in our words: from a mistake that pydantic found, and from its field."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

_BOUNDS = ("gt", "ge", "lt", "le")
_WHOLE = ("int_parsing", "int_type", "int_from_float", "int_parsing_size")
_REAL = ("float_parsing", "float_type")
_BEYOND = (
    "greater_than",
    "greater_than_equal",
    "less_than",
    "less_than_equal",
    "finite_number",
)
PATTERNS = {
    r"^(auto|cpu|cuda(:\d+)?)$": "give auto, cpu or cuda[:n]",
    r"^[a-z0-9][a-z0-9_-]{0,63}$": "give a name of small letters, digits, - and _ that begins with "
    "a letter or digit, at most 64 characters",
    r"^[A-Za-z0-9_.-]{1,64}(/[A-Za-z0-9_.-]{1,64}){0,3}$": "give one to four parts with / between "
    "them, each of letters, digits, _, . and -",
    r"^[A-Za-z0-9_.-]{1,64}$": "give 1 to 64 letters, digits, _, . and -",
    r"^[a-z0-9]+$": "give small letters and digits",
    r"^\d{2,5}x\d{2,5}$": "write it like 1280x720",
    r"^[^\x00-\x1f]{0,128}$": "give at most 128 characters, none of them a control character",
}


def allowed(mistake: ErrorDetails, field: FieldInfo | None) -> str:
    """What is allowed instead, as the end of a sentence. field: as `field_at` finds it."""
    kind, context = mistake["type"], mistake.get("ctx", {})
    if kind in (*_WHOLE, *_REAL, *_BEYOND):
        return _number(kind, context, mistake["input"], field)
    told = _TOLD.get(kind)
    return told(context) if told is not None else mistake["msg"].removeprefix("Value error, ")


def field_at(model: type[BaseModel], path: Sequence[str | int]) -> FieldInfo | None:
    """The field that a path of keys leads to; names of a mapping's members are passed over."""
    field: FieldInfo | None = None
    models = [model]
    for part in path:
        name = str(part)
        found = next((m.model_fields[name] for m in models if name in m.model_fields), None)
        if found is not None:
            field = found
            models = list(_models(found.annotation))
    return field


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _models(inner)


def _bounds(metadata: Any, annotation: Any) -> dict[str, float]:
    """Every bound in a field, also in the branches of a union."""
    found: dict[str, float] = {}
    for one in metadata:
        if isinstance(one, FieldInfo):
            found |= _bounds(one.metadata, None)
        values = {name: getattr(one, name, None) for name in _BOUNDS}
        found |= {name: value for name, value in values.items() if value is not None}
    for inner in get_args(annotation):
        found |= _bounds(getattr(inner, "__metadata__", ()), inner)
    return found


def _number(kind: str, context: Mapping[str, Any], value: Any, field: FieldInfo | None) -> str:
    bounds = {} if field is None else _bounds(field.metadata, field.annotation)
    bounds |= {name: context[name] for name in _BOUNDS if name in context}
    whole = kind in _WHOLE or (field is not None and _takes(int, field.annotation))
    if _is_share(bounds) and not whole:
        percent = isinstance(value, int | float) and 1 < value <= 100
        example = f": {value / 100:g} for {value:g} %" if percent else f" {_range(bounds)}"
        return f"give a share{example}"
    return f"give a {'whole ' * whole}number {_range(bounds)}".rstrip()


def _is_share(bounds: Mapping[str, float]) -> bool:
    return (bounds.get("ge", bounds.get("gt")), bounds.get("le", bounds.get("lt"))) == (0, 1)


def _takes(kind: type, annotation: Any) -> bool:
    """Whether it is of this kind and of no other number."""
    if annotation is float:
        return False
    return annotation is kind or any(_takes(kind, inner) for inner in get_args(annotation)[:1])


def _range(bounds: Mapping[str, float]) -> str:
    low, high = bounds.get("ge"), bounds.get("le")
    if low is not None and high is not None:
        return f"from {low:g} to {high:g}"
    parts = [
        f"{word} {bounds[name]:g}"
        for name, word in (("ge", "from"), ("gt", "above"), ("le", "at most"), ("lt", "below"))
        if name in bounds
    ]
    return f"{parts[0]} on" if parts and low is not None and len(parts) == 1 else ", ".join(parts)


def _pattern(context: Mapping[str, Any]) -> str:
    pattern = str(context["pattern"])
    return PATTERNS.get(pattern, f"it must match {pattern}")


_TOLD: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "bool_parsing": lambda _: "give true or false",
    "bool_type": lambda _: "give true or false",
    "literal_error": lambda context: f"give {context['expected']}",
    "enum": lambda context: f"give {context['expected']}",
    "string_type": lambda _: "give a text; one that looks like a number needs quotes",
    "string_too_short": lambda _: "it is empty: give at least one character",
    "string_too_long": lambda context: f"give at most {context['max_length']} characters",
    "string_pattern_mismatch": _pattern,
    "invalid_key": lambda _: "a key must be a text: put it in quotes",
    "model_type": lambda _: "give a mapping of settings, one `key: value` a line",
    "model_attributes_type": lambda _: "give a mapping of settings, one `key: value` a line",
    "dict_type": lambda _: "give a mapping, one `key: value` a line",
    "list_type": lambda _: "give a list, one `- value` a line",
    "tuple_type": lambda _: "give a list, one `- value` a line",
}
