"""The names of JSON's seven types, and which of them somebody meant by another name."""

from __future__ import annotations

from typing import Any, Final

from toolpost.authoring import problems as wording
from toolpost.authoring.showing import show

__all__ = ["JSON_TYPES", "not_a_type", "type_meant"]

JSON_TYPES: Final = ("string", "integer", "number", "boolean", "array", "object", "null")
_OTHER_NAMES: Final = {
    "str": "string",
    "text": "string",
    "int": "integer",
    "long": "integer",
    "float": "number",
    "double": "number",
    "decimal": "number",
    "bool": "boolean",
    "list": "array",
    "tuple": "array",
    "set": "array",
    "dict": "object",
    "map": "object",
    "mapping": "object",
    "none": "null",
    "nil": "null",
}


def type_meant(name: str) -> str | None:
    """The JSON type that somebody meant by name, as int or strng; None when there is no telling."""
    return _OTHER_NAMES.get(name.lower()) or wording.nearest(name, JSON_TYPES)


def not_a_type(name: Any) -> str:
    """The predicate for a type name that is none, with the type meant or all there are."""
    meant = type_meant(name) if isinstance(name, str) else None
    hint = f"did you mean '{meant}'?" if meant else f"known are {', '.join(JSON_TYPES)}"
    return f"{show(name)} is not a JSON type; {hint}"
