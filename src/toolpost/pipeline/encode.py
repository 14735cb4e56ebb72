"""Turns what a body returned into JSON values, or says why it cannot."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import PurePath
from types import AsyncGeneratorType, CoroutineType, GeneratorType
from typing import Any

from pydantic_core import PydanticSerializationError, to_jsonable_python

from toolpost.calls.errors import OutputValidationError

MAX_DEPTH = 200
PLAIN = frozenset({str, int, float, bool, type(None), dict, list})


def check_shape(value: Any) -> None:
    """Refuse results that are no results: generators, coroutines and other things that still have to run."""
    kind = value.__class__
    if kind in PLAIN:
        return
    name = kind.__name__
    if isinstance(value, (CoroutineType, GeneratorType, AsyncGeneratorType)):
        if not isinstance(value, AsyncGeneratorType):
            value.close()
        hint = {
            "coroutine": "declare the tool with async def, or await it",
            "generator": "return a list",
            "async_generator": "collect it into a list and return that",
        }[name]
        raise OutputValidationError(f"the tool returned a {name.replace('_', ' ')}, not a value; {hint}")
    if hasattr(value, "__await__") or hasattr(value, "__anext__"):
        raise OutputValidationError(
            f"the tool returned {name}, which has to be awaited; declare the tool with async def"
        )


def to_json(value: Any) -> Any:
    """A JSON value equal to value, sharing nothing that can change.

    Models, dataclasses, enums, dates, paths, UUIDs, decimals, sets and tuples have a JSON form; bytes, NaN, files,
    modules and objects that contain themselves do not. Raises OutputValidationError naming where and what.
    """
    return _encode(value, "", 0)


def _encode(value: Any, path: str, depth: int) -> Any:
    kind = value.__class__
    if kind is str:
        if not value.isascii():
            _check_text(value, path)
        return value
    if kind is bool or value is None:
        return value
    if kind is int:
        if not -(2**63) <= value < 2**64:
            raise OutputValidationError(f"the result{_at(path)} is an integer beyond 64 bits; return it as text")
        return value
    if kind is float:
        if not math.isfinite(value):
            raise OutputValidationError(
                f"the result{_at(path)} is {value!r}, which JSON does not have; return None instead"
            )
        return value
    if depth > MAX_DEPTH:
        raise OutputValidationError(f"the result is nested more than {MAX_DEPTH} levels deep, or contains itself")
    if kind is dict:
        return _encode_object(value, path, depth)
    if kind is list or kind is tuple:
        return [_encode(item, f"{path}/{i}", depth + 1) for i, item in enumerate(value)]
    return _encode_other(value, path, depth)


def _encode_object(value: Mapping[Any, Any], path: str, depth: int) -> dict[str, Any]:
    encoded = {_key(k, path): _encode(v, f"{path}/{k}", depth + 1) for k, v in value.items()}
    if len(encoded) != len(value):
        raise OutputValidationError(f"the result{_at(path)} has keys that are the same in JSON, such as 1 and '1'")
    return encoded


def _encode_other(value: Any, path: str, depth: int) -> Any:
    if isinstance(value, (bytes, bytearray, memoryview)):
        raise OutputValidationError(
            f"the result{_at(path)} is {type(value).__name__}, which JSON lacks; decode it, or encode it as base64"
        )
    if isinstance(value, (set, frozenset)):
        items = [_encode(item, f"{path}/-", depth + 1) for item in value]
        try:
            return sorted(items)
        except TypeError:
            return sorted(items, key=repr)
    if isinstance(value, Mapping) and not hasattr(value, "model_dump"):
        return _encode_object(value, path, depth)
    if isinstance(value, PurePath):
        return str(value)
    check_shape(value)
    if hasattr(value, "read") or hasattr(value, "__next__"):
        raise OutputValidationError(
            f"the result{_at(path)} is {type(value).__name__}, which has no JSON form; read it first"
        )
    try:
        plain = to_jsonable_python(value, by_alias=True)
    except (PydanticSerializationError, ValueError, RecursionError, TypeError) as exc:
        raise OutputValidationError(
            f"the result{_at(path)} is {type(value).__name__}, which has no JSON form; return text, numbers, lists, "
            f"dicts, a dataclass or a pydantic model"
        ) from exc
    if plain.__class__ not in PLAIN:
        raise OutputValidationError(f"the result{_at(path)} is {type(value).__name__}, which has no JSON form")
    return _encode(plain, path, depth + 1)


def _key(key: Any, path: str) -> str:
    if key.__class__ is str:
        if not key.isascii():
            _check_text(key, path)
        return key
    if isinstance(key, str):
        return str(getattr(key, "value", key))
    if isinstance(key, bool) or key is None or not isinstance(key, int):
        raise OutputValidationError(f"the result{_at(path)} has the key {key!r:.40}; keys of an object must be text")
    return str(key)


def _check_text(value: str, path: str) -> None:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise OutputValidationError(f"the result{_at(path)} holds text that is not valid Unicode") from None


def _at(path: str) -> str:
    return f" at {path}" if path else ""
