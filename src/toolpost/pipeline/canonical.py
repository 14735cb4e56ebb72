"""The canonical form of values, and digests of several of them: equal for equal values, and for no others."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import hashlib
import struct
import uuid
from collections.abc import Mapping, Set
from pathlib import PurePath
from typing import Any, Final

import orjson

OPTIONS: Final = orjson.OPT_SORT_KEYS | orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_PASSTHROUGH_DATACLASS


def canonical(arguments: Any) -> bytes:
    """The bytes that stand for a value, equal for equal values however their keys are ordered, else never.

    true, 1, 1.0 and "1" all differ. What is not JSON has a form too where it is plain: integers of any size, NaN,
    bytes, dates, decimals, sets, paths, dataclasses, keys that are not text. Lists and tuples are one thing, as in
    JSON; an enum member and a UUID stand for their JSON value. Raises ValueError for the rest. The form is the same in
    every process.
    """
    try:
        text = orjson.dumps(arguments, None, OPTIONS)
    except TypeError:
        return _spelled_out(arguments)
    if text.find(b"null") >= 0 and _has_nan(arguments):
        return _spelled_out(arguments)
    return text


def _has_nan(value: Any) -> bool:
    """Whether a float without JSON form is in it: orjson writes those as null."""
    if isinstance(value, enum.Enum):
        value = value.value
    if isinstance(value, float):
        return value != value or value in (float("inf"), float("-inf"))
    if isinstance(value, dict):
        return any(_has_nan(v) for v in value.values())
    return isinstance(value, (list, tuple)) and any(_has_nan(v) for v in value)


def _spelled_out(arguments: Any) -> bytes:
    """The longer form; it begins with a byte that no JSON text begins with."""
    out: list[bytes] = [b"\0"]
    try:
        _write(arguments, out)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    return b"".join(out)


def _write(value: Any, out: list[bytes]) -> None:
    """Each value as a letter for its type and what it holds, which says how long it is: so none runs into the next."""
    if isinstance(value, enum.Enum):
        value = value.value
    if value is None:
        out.append(b"n")
    elif isinstance(value, bool):
        out.append(b"t" if value else b"f")
    elif isinstance(value, int):
        _write_text(b"i", hex(value), out)
    elif isinstance(value, float):
        _write_text(b"d", "nan" if value != value else float.hex(value), out)
    elif isinstance(value, str):
        _write_text(b"s", value, out)
    elif isinstance(value, uuid.UUID):
        _write_text(b"s", str(value), out)
    elif isinstance(value, (list, tuple)):
        out.append(b"l" + _length(len(value)))
        for item in value:
            _write(item, out)
    elif isinstance(value, Mapping):
        pairs = sorted((_alone(key), _alone(item)) for key, item in value.items())
        out.append(b"m" + _length(len(pairs)))
        out.extend(part for pair in pairs for part in pair)
    else:
        _write_other(value, out)


def _write_other(value: Any, out: list[bytes]) -> None:
    if isinstance(value, (bytes, bytearray, memoryview)):
        data = bytes(value)
        out.append(b"b" + _length(len(data)) + data)
    elif isinstance(value, datetime.datetime):
        _write_text(b"D", f"{value.isoformat()};{value.fold}", out)
    elif isinstance(value, datetime.date):
        _write_text(b"Y", value.isoformat(), out)
    elif isinstance(value, datetime.time):
        _write_text(b"T", f"{value.isoformat()};{value.fold}", out)
    elif isinstance(value, datetime.timedelta):
        _write_text(b"L", f"{value.days};{value.seconds};{value.microseconds}", out)
    elif isinstance(value, decimal.Decimal):
        _write_text(b"N", str(value), out)
    elif isinstance(value, PurePath):
        _write_text(b"p", str(value), out)
    elif isinstance(value, Set):
        members = sorted(_alone(item) for item in value)
        out.append(b"e" + _length(len(members)))
        out.extend(members)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        _write_text(b"c", f"{type(value).__module__}:{type(value).__qualname__}", out)
        _write({field.name: getattr(value, field.name) for field in dataclasses.fields(value)}, out)
    elif callable(getattr(value, "model_dump", None)):
        _write_text(b"o", f"{type(value).__module__}:{type(value).__qualname__}", out)
        _write(_fields_of(value), out)
    else:
        raise ValueError(f"a value of type {type(value).__name__} has no canonical form")


def _fields_of(model: Any) -> Any:
    """What a pydantic model holds. Its dump may lack fields, or mask them, so that unequal models would be one."""
    fields = getattr(type(model), "model_fields", None)
    if not isinstance(fields, Mapping):
        return model.model_dump()
    return {**{name: getattr(model, name) for name in fields}, **(getattr(model, "__pydantic_extra__", None) or {})}


def _alone(value: Any) -> bytes:
    out: list[bytes] = []
    _write(value, out)
    return b"".join(out)


def _write_text(letter: bytes, text: str, out: list[bytes]) -> None:
    data = str.encode(text, "utf-8", "surrogatepass")
    out.append(letter + _length(len(data)) + data)


def _length(n: int) -> bytes:
    return n.to_bytes(8, "big")


def digest_of(*parts: bytes | str | None) -> str:
    """SHA-256 in hex over parts that each say how long they are; None is not "", and text is not bytes."""
    return hashlib.sha256(b"".join(map(part_of, parts))).hexdigest()


_pack = struct.Struct(">cQ").pack


def part_of(part: bytes | str | None) -> bytes:
    """One part of a digest: no part begins another, so that parts in a row can be read in one way only."""
    if part is None:
        return b"n"
    if isinstance(part, str):
        part = part.encode("utf-8", "surrogatepass")
        return _pack(b"s", len(part)) + part
    return _pack(b"b", len(part)) + part
