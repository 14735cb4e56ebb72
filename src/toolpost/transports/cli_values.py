"""Arguments as they are written on a command line: name=value, read by the type the tool's schema gives the name."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from toolpost.calls.errors import InputValidationError, Problem
from toolpost.transports.wire_json import parse_json

MAX_SHOWN = 60
_NAMES = {bool: "boolean", int: "integer", float: "number", str: "string", type(None): "null", list: "array"}


def read_arguments(pairs: Sequence[str], schema: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments from name=value, name:=json and name=@file.

    A value whose parameter takes text is taken as it is, any other is read as JSON. Raises
    InputValidationError, which lists every value that cannot be read, and ValueError for what is no such
    pair, or gives a name twice.
    """
    arguments: dict[str, Any] = {}
    problems: list[Problem] = []
    for pair in pairs:
        name, equals, text = pair.partition("=")
        is_json = name.endswith(":")
        name = name.removesuffix(":")
        if not equals or not name:
            raise ValueError(f"{pair!r} is no argument; write name=value, name:=json or name=@file")
        if name in arguments:
            raise ValueError(f"{name!r} is given twice; write several values as one: {name}:='[1, 2]'")
        arguments[name] = None
        try:
            arguments[name] = _value(text, {"JSON"} if is_json else types_of(schema, name))
        except _Unreadable as exc:
            problems.append(_problem(name, text, *exc.args))
    if problems:
        raise InputValidationError(problems=problems)
    return arguments


def read_object(text: str) -> dict[str, Any]:
    """All arguments as one JSON object; "-" reads it from standard input. Raises InputValidationError."""
    value = parse_json(sys.stdin.buffer.read() if text == "-" else text)
    if not isinstance(value, dict):
        message = f"arguments must be a JSON object, got {type_of(value)}"
        problem = {"path": "", "loc": (), "parameter": "", "type": "type", "msg": message}
        raise InputValidationError(problems=[{**problem, "expected": "an object", "got": type_of(value)}])
    return value


def types_of(schema: Mapping[str, Any], name: str) -> set[str]:
    """The JSON types a parameter takes; empty when the schema does not say."""
    properties = schema.get("properties")
    return _types(properties.get(name) if isinstance(properties, Mapping) else None, schema, 0)


def type_words(schema: Any, root: Mapping[str, Any], depth: int = 0) -> str:
    """What a schema takes, in a few words: integer, "a" | "b", array of string, string (date)."""
    schema = _target(schema, root)
    if not isinstance(schema, Mapping) or depth > 3:
        return "any"
    for word in ("enum", "const"):
        if word in schema:
            values = schema[word] if word == "enum" else [schema[word]]
            return " | ".join(_shown(value) for value in values)
    for word in ("anyOf", "oneOf"):
        if isinstance(schema.get(word), list):
            return " | ".join(dict.fromkeys(type_words(one, root, depth + 1) for one in schema[word]))
    kind = schema.get("type", "any")
    words = " | ".join(kind) if isinstance(kind, list) else str(kind)
    if kind == "array" and "items" in schema:
        words = f"array of {type_words(schema['items'], root, depth + 1)}"
    return f"{words} ({schema['format']})" if isinstance(schema.get("format"), str) else words


def type_of(value: Any) -> str:
    """The JSON type of a value."""
    return _NAMES.get(type(value), "object")


class _Unreadable(Exception):
    """A value that cannot be read: what was expected, and why."""


def _value(text: str, types: set[str]) -> Any:
    if text.startswith("@"):
        text = _file(text[1:])
    if not types or "string" in types:
        return text
    expected = " or ".join(sorted(types - {"null"})) or "null"
    try:
        return parse_json(text)
    except InputValidationError as exc:
        structured = types & {"array", "object", "JSON"}
        raise _Unreadable(expected, exc.message if structured else "") from None


def _file(name: str) -> str:
    try:
        return Path(name).expanduser().read_bytes().decode()
    except OSError as exc:
        reason = f"{name!r} cannot be read ({exc.strerror}); a value that begins with @ is written as :='\"@...\"'"
        raise _Unreadable("a file's name after @", reason) from None
    except UnicodeDecodeError:
        raise _Unreadable("a file of UTF-8 text after @", f"{name!r} is not UTF-8") from None


def _problem(name: str, text: str, expected: str, why: str) -> Problem:
    got = repr(text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}...")
    article = "" if expected.startswith(("a ", "JSON")) else "an " if expected[0] in "aeiou" else "a "
    msg = f"{name!r} must be {article}{expected}, got {got}" + (f": {why}" if why else "")
    path = "/" + name.replace("~", "~0").replace("/", "~1")
    problem = {"path": path, "loc": (name,), "parameter": name, "type": "unreadable", "msg": msg}
    return {**problem, "expected": f"{article}{expected}", "got": got}


def _types(schema: Any, root: Mapping[str, Any], depth: int) -> set[str]:
    schema = _target(schema, root)
    if not isinstance(schema, Mapping) or depth > 8:
        return set()
    kind = schema.get("type")
    if isinstance(kind, str):
        return {kind}
    if isinstance(kind, list):
        return {str(one) for one in kind}
    for word in ("enum", "const"):
        if word in schema:
            return {type_of(value) for value in (schema[word] if word == "enum" else [schema[word]])}
    for word in ("anyOf", "oneOf"):
        if isinstance(schema.get(word), list):
            branches = [_types(one, root, depth + 1) for one in schema[word]]
            return set().union(*branches) if all(branches) else set()
    if isinstance(schema.get("allOf"), list):
        return next((found for one in schema["allOf"] if (found := _types(one, root, depth + 1))), set())
    return set()


def _target(schema: Any, root: Mapping[str, Any]) -> Any:
    """The schema itself, or what its "$ref" within the root names."""
    for _ in range(8):
        reference = schema.get("$ref") if isinstance(schema, Mapping) else None
        if not isinstance(reference, str) or not reference.startswith("#"):
            return schema
        schema = root
        for step in reference[1:].split("/")[1:]:
            name = step.replace("~1", "/").replace("~0", "~")
            schema = schema.get(name) if isinstance(schema, Mapping) else None
    return None


def _shown(value: Any) -> str:
    from toolpost.transports.cli_show import to_json

    return to_json(value).decode()
