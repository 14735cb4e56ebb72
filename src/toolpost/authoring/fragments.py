"""Makes the object schema of a tool's parameters from one JSON Schema fragment for each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from toolpost.authoring.jsontypes import JSON_TYPES, not_a_type, type_meant
from toolpost.authoring.problems import Loc
from toolpost.authoring.showing import show
from toolpost.authoring.subschemas import SAME_PLACE, at_place, copied, draft_of, subschemas
from toolpost.calls.errors import SchemaError

__all__ = ["parameters_schema"]


def parameters_schema(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The object schema of a mapping parameter name -> JSON Schema fragment.

    A parameter is required unless its fragment has `default`, `required: False` or `optional: True`; unknown arguments
    are refused. A mapping that is an object schema already (`type: object`) is kept, and closed to unknown arguments
    unless it says something about them. The format datetime is read as date-time. Raises SchemaError with the fix for a
    fragment that is not a mapping or names an unknown type.
    """
    plain = copied(parameters, "parameters")
    if not isinstance(plain, dict):
        raise SchemaError(f"parameters must map parameter names to JSON Schemas, got {show(plain)}")
    if plain.get("type") == "object":
        _mend(plain, "parameters")
        return _closed(plain)
    required = []
    for name, fragment in plain.items():
        if not isinstance(fragment, dict):
            raise SchemaError(_not_a_fragment(name, fragment))
        if _is_required(fragment):
            required.append(name)
        _mend(fragment, f"parameter {show(name)}")
    return {"type": "object", "properties": plain, "required": required, "additionalProperties": False}


def _is_required(fragment: dict[str, Any]) -> bool:
    """Whether the parameter must come; the two keys that are not JSON Schema are taken out of the fragment."""
    required = fragment.pop("required") if isinstance(fragment.get("required"), bool) else True
    optional = fragment.pop("optional") if isinstance(fragment.get("optional"), bool) else False
    return required and not optional and "default" not in fragment


def _closed(schema: dict[str, Any]) -> dict[str, Any]:
    """An object schema that refuses unknown keys, unless it says something about them or declares no keys at all."""
    combined = not schema.keys().isdisjoint(SAME_PLACE)
    if not schema.keys().isdisjoint(("additionalProperties", "unevaluatedProperties")):
        return schema
    if combined and draft_of(schema, 2020) >= 2019:
        schema["unevaluatedProperties"] = False  # the properties of allOf and its like stay allowed
    elif not combined and "properties" in schema:
        schema["additionalProperties"] = False
    return schema


def _not_a_fragment(name: str, fragment: Any) -> str:
    meant = type_meant(fragment) if isinstance(fragment, str) else None
    example = {"type": meant or "string"}
    return f"parameter {show(name)} must be a JSON Schema such as {example}, got {show(fragment)}"


def _mend(schema: dict[str, Any], where: str) -> None:
    """Rewrite the format datetime, and refuse unknown type names, in a schema and all its subschemas."""
    todo: list[tuple[Any, Loc]] = [(schema, ())]
    while todo:
        node, loc = todo.pop()
        if not isinstance(node, dict):
            continue
        if node.get("format") == "datetime":
            node["format"] = "date-time"
        types = node.get("type", [])
        for name in types if isinstance(types, list) else [types]:
            if not isinstance(name, str) or name not in JSON_TYPES:
                raise SchemaError(f"{where}: {at_place((*loc, 'type'))} {not_a_type(name)}")
        todo.extend((child, loc + step) for step, child in subschemas(node))
