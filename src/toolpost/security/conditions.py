"""Conditions on arguments that are written as JSON Schema: the where of an Access, compiled, and bound to a caller.

A condition fails closed. What JSON Schema lets pass because a keyword is about another type is refused here: a text
where a number is bounded, a parameter that is not there, NaN, what has no JSON form.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any, Final

from pydantic_core import PydanticSerializationError, to_jsonable_python

from toolpost.calls.access import KIND_OF, REFERENCE
from toolpost.calls.call import Caller

KEPT: Final = 256
"""Callers for whom a condition that refers to them is kept compiled."""

_DEEPEST: Final = 250
_SCALARS: Final = frozenset({str, bool, type(None)})
_NEVER: Final = object()


class Condition:
    """What one argument must fit."""

    __slots__ = ("_bound", "_check", "_schema", "fields", "parameter", "said")

    def __init__(self, parameter: str, schema: Any) -> None:
        self.parameter, self.said = parameter, schema
        self._schema = strict(schema)
        self.fields = tuple(sorted(references(schema)))
        self._bound: dict[tuple[Any, ...], Callable[[Any], bool]] = {}
        self._check = None if self.fields else compiled(self._schema)

    def possible(self, caller: Caller) -> bool:
        """Whether any argument could fit: none can where the caller has nothing that the condition refers to."""
        return self.said is not False and all(getattr(caller, field) for field in self.fields)

    def holds(self, caller: Caller, arguments: Mapping[str, Any]) -> bool:
        """Whether the argument is there and fits."""
        check = self._check
        if self.parameter not in arguments or (check is None and not self.possible(caller)):
            return False
        try:
            return (check or self._of(caller))(plain(arguments[self.parameter]))
        except (ValueError, RecursionError):
            return False

    def _of(self, caller: Caller) -> Callable[[Any], bool]:
        key = tuple(getattr(caller, field) for field in self.fields)
        check = self._bound.get(key)
        if check is None:
            if len(self._bound) >= KEPT:
                self._bound = {}
            check = self._bound[key] = compiled(filled(self._schema, caller))
        return check


def compiled(schema: Any) -> Callable[[Any], bool]:
    """The check of a schema. Nothing is fetched, and patterns run in linear time."""
    import jsonschema_rs

    options = jsonschema_rs.RegexOptions()
    return jsonschema_rs.Draft202012Validator(
        schema, pattern_options=options, validate_formats=True, offline=True
    ).is_valid


def references(schema: Any) -> set[str]:
    """The caller's fields that a schema refers to."""
    if isinstance(schema, dict):
        if REFERENCE in schema:
            return {schema[REFERENCE]}
        return set().union(*map(references, schema.values()))
    return set().union(*map(references, schema)) if isinstance(schema, list) else set()


def filled(schema: Any, caller: Caller) -> Any:
    """The schema with the caller's own values in the place of references."""
    if isinstance(schema, dict):
        if REFERENCE in schema:
            value = getattr(caller, schema[REFERENCE])
            return value if isinstance(value, str) else sorted(value)
        return {name: filled(one, caller) for name, one in schema.items()}
    return [filled(one, caller) for one in schema] if isinstance(schema, list) else schema


def strict(schema: Any, narrow: bool = True) -> Any:
    """The schema with what its keywords take for granted written out: the type they are about, and what must be there.

    Under not that would widen what fits, so there nothing is written out, down to the next not.
    """
    if not isinstance(schema, dict):
        return schema
    made = dict(schema)
    for keyword in ("items", "additionalProperties", "contains", "not"):
        if keyword in schema:
            made[keyword] = strict(schema[keyword], narrow if keyword != "not" else not narrow)
    for keyword in ("allOf", "anyOf", "prefixItems"):
        if keyword in schema:
            made[keyword] = [strict(one, narrow) for one in schema[keyword]]
    for keyword in ("properties", "patternProperties"):
        if keyword in schema:
            made[keyword] = {name: strict(one, narrow) for name, one in schema[keyword].items()}
    if not narrow:
        return made
    kinds = sorted({KIND_OF[keyword] for keyword in schema if keyword in KIND_OF})
    if kinds and "type" not in schema:
        made["type"] = kinds
    if schema.get("properties"):
        made["required"] = sorted({*schema.get("required", ()), *schema["properties"]})
    return made


def plain(value: Any, depth: int = 0) -> Any:
    """The JSON value of an argument as validation made it. Raises ValueError for what has none, as NaN has not."""
    kind = value.__class__
    if kind in _SCALARS:
        return value
    if isinstance(value, enum.Enum):
        return plain(value.value, depth + 1)
    if isinstance(value, (str, int)):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError("not a finite number")
        return value
    if isinstance(value, Decimal):
        if not value.is_finite():
            raise ValueError("not a finite number")
        return value
    if depth > _DEEPEST:
        raise ValueError("nested too deeply")
    if isinstance(value, Mapping):
        if not all(isinstance(name, str) for name in value):
            raise ValueError("a key that is no text")
        return {name: plain(one, depth + 1) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(one, depth + 1) for one in value]
    try:
        made = to_jsonable_python(value, by_alias=True, inf_nan_mode="constants", fallback=lambda _: _NEVER)
    except (PydanticSerializationError, RecursionError) as failed:
        raise ValueError("no JSON value") from failed
    if made is value or made is _NEVER:
        raise ValueError("no JSON value")
    return plain(made, depth + 1)


__all__ = ["Condition", "plain"]
