"""What a JSON Schema says of roles: by x-role and format, also in lists, alternatives, definitions and fields."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any, Final

from toolpost.security.roles import Role, role_of
from toolpost.security.rules import Finding, Screen

NO_TEXT: Final = frozenset({"integer", "number", "boolean", "null"})
MAX_DEPTH: Final = 8
"""Levels of a schema that are looked at; definitions may refer to themselves."""

Schema = Mapping[str, Any]


class Fields:
    """Judges objects, alone or in a list, whose fields have roles of their own; the rest of them is judged by `own`."""

    __slots__ = ("_fields", "_own")

    def __init__(self, own: Screen, fields: Mapping[str, Screen | Fields]):
        self._own = own
        self._fields = dict(fields)

    def check(self, value: Any) -> Finding | None:
        """The first reason to refuse a value, or None."""
        if isinstance(value, (list, tuple)):
            for item in value:
                finding = self._own.check(item) if isinstance(item, (list, tuple)) else self.check(item)
                if finding is not None:
                    return finding
            return None
        parts = _fields_of(value)
        if parts is None:
            return self._own.check(value)
        rest = {}
        for name, item in parts.items():
            judge = self._fields.get(name)
            if judge is None:
                rest[name] = item
            elif (finding := judge.check(item)) is not None:
                return finding
        return self._own.check(rest)


def judge_of(schema: Any, root: Schema, own: Screen, make: Callable[[Role], Screen]) -> Screen | Fields:
    """`own`, or what judges the fields that declare a role or format by them; make gives the screen of a role."""
    return _judge(schema, root, own, make, MAX_DEPTH)


def _judge(schema: Any, root: Schema, own: Screen, make: Callable[[Role], Screen], depth: int) -> Screen | Fields:
    found: dict[str, Screen | Fields] = {}
    for part in _below(schema, root, depth):
        for name, field in part.get("properties", {}).items():
            if not isinstance(field, Mapping) or depth <= 0:
                continue
            role = _role(name, field, root)
            judge = _judge(field, root, own if role is None else make(role), make, depth - 1)
            if judge is not own:
                found[name] = judge
    return Fields(own, found) if found else own


def _role(name: str, field: Schema, root: Schema) -> Role | None:
    """The role that a field declares, or its format has; None where neither says one."""
    declared = said(field, root, "x-role")
    if declared is not None:
        return role_of(name, declared=declared)
    role = role_of("", format=said(field, root, "format"))
    return None if role == "text" else role


def said(schema: Any, root: Schema, keyword: str) -> str | None:
    """What a schema says by a keyword: itself, what it refers to, its items, or all of its alternatives alike."""
    return _said(schema, root, keyword, MAX_DEPTH)


def _said(schema: Any, root: Schema, keyword: str, depth: int) -> str | None:
    if not isinstance(schema, Mapping) or depth <= 0:
        return None
    if isinstance(schema.get(keyword), str):
        return str(schema[keyword])
    for part in (_referred(schema, root), schema.get("items"), *_list(schema, "allOf")):
        found = _said(part, root, keyword, depth - 1)
        if found is not None:
            return found
    for alternatives in (_list(schema, "anyOf"), _list(schema, "oneOf")):
        told = {_said(part, root, keyword, depth - 1) for part in alternatives if _can_hold_text(part)}
        if len(told) == 1 and (found := told.pop()) is not None:
            return found
    return None


def _below(schema: Any, root: Schema, depth: int) -> Iterator[Schema]:
    """A schema, what it refers to, its items and its alternatives: whatever may describe an object."""
    if not isinstance(schema, Mapping) or depth <= 0:
        return
    yield schema
    alternatives = [part for keyword in ("allOf", "anyOf", "oneOf") for part in _list(schema, keyword)]
    for part in (_referred(schema, root), schema.get("items"), *alternatives):
        yield from _below(part, root, depth - 1)


def _list(schema: Schema, keyword: str) -> list[Any]:
    found = schema.get(keyword)
    return found if isinstance(found, list) else []


def _referred(schema: Schema, root: Schema) -> Any:
    reference = schema.get("$ref")
    if not isinstance(reference, str) or not reference.startswith("#/"):
        return None
    found: Any = root
    for step in reference[2:].split("/"):
        found = found.get(step.replace("~1", "/").replace("~0", "~")) if isinstance(found, Mapping) else None
    return found


def _can_hold_text(schema: Any) -> bool:
    if not isinstance(schema, Mapping):
        return schema is not False
    kinds = schema.get("type", "string")
    return not {*([kinds] if isinstance(kinds, str) else kinds)} <= NO_TEXT


def _fields_of(value: Any) -> Mapping[Any, Any] | None:
    if isinstance(value, Mapping):
        return value
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name, None) for field in fields(value)}
    if hasattr(value, "__pydantic_fields__") and not isinstance(value, type):
        return {**vars(value), **(value.__pydantic_extra__ or {})}
    return None
