"""The strict JSON reader: what cannot be trusted (duplicate keys, NaN, 1e999) is refused, with its place."""

from __future__ import annotations

import json
import math
import re
from typing import Any, NoReturn

from toolpost.calls.errors import InputValidationError

MAX_BYTES = 32 * 1024 * 1024
MAX_DEPTH = 200
MAX_SCANNED = 256 * 1024
"""Of a text that is refused so much is searched for the place, as that is slow; of a larger one it is not said."""

_STRING = r'"[^"\\]*(?:\\.[^"\\]*)*"'
_NESTING = re.compile(_STRING + r"|[\[\]{}]", re.DOTALL)
_STRINGS = re.compile(_STRING, re.DOTALL)
_NO_BRACKETS = re.compile(r"[^\[\]{}]+")
_TOKEN = re.compile(_STRING + r'|[\[\]{},:]|[^\s\[\]{},:"]+', re.DOTALL)
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]|[\ud800-\udfff]")


class _Refused(ValueError):
    """A value that JSON's grammar lets pass and we do not; _scan finds its place and says which."""


def parse_json(text: str | bytes | bytearray, *, max_bytes: int = MAX_BYTES, max_depth: int = MAX_DEPTH) -> Any:
    """The value of a JSON text (RFC 8259), read strictly; a byte order mark is tolerated.

    Raises InputValidationError, whose errors() give path, line, column and offset (in characters, in bytes
    where the text is not UTF-8), for: syntax errors, a key given twice in one object, NaN and Infinity,
    numbers that are no finite double or no 64-bit integer, half a surrogate pair, invalid UTF-8, more than
    max_depth levels, more than max_bytes.
    """
    source = _unicode(text, max_bytes)
    if source.count("[") + source.count("{") > max_depth:
        _check_depth(source, max_depth)
    try:
        value = _DECODER.decode(source)
    except json.JSONDecodeError as exc:
        got = repr(source[exc.pos]) if exc.pos < len(source) else "the end of the text"
        what = exc.msg[:1].lower() + exc.msg[1:]
        _refuse(source, exc.pos, "json_syntax", f"invalid JSON: {what}", expected="JSON", got=got)
    except _Refused:
        _scan(source)
        raise
    except RecursionError:
        _refuse(source, 0, "json_depth", "nested too deeply", expected=f"at most {max_depth} levels", got="more")
    if _SURROGATE.search(source) and not _is_whole(value):
        _scan(source)
    return value


def _is_whole(value: Any) -> bool:
    """Whether texts have no half of a surrogate pair, which UTF-8 cannot say."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _unicode(text: str | bytes | bytearray, max_bytes: int) -> str:
    size = len(text)
    if size > max_bytes:
        expected = f"at most {max_bytes:,} bytes"
        _refuse(
            "",
            0,
            "json_size",
            f"too large: {size:,} bytes, {expected} are read",
            expected=expected,
            got=f"{size:,}",
        )
    if isinstance(text, str):
        return text.removeprefix("\ufeff")
    try:
        return text.decode().removeprefix("\ufeff")
    except UnicodeDecodeError as exc:
        what = f"not UTF-8: byte {exc.start} is 0x{text[exc.start]:02x}, {exc.reason}"
        got = f"0x{text[exc.start]:02x}"
        _refuse("", exc.start, "json_encoding", what, expected="UTF-8", got=got)


def _check_depth(source: str, max_depth: int) -> None:
    if not _is_deeper(source, max_depth):
        return
    expected = f"at most {max_depth} levels"
    what = f"nested too deeply: {expected} are read"
    depth = 0
    for token in _NESTING.finditer(source[:MAX_SCANNED]):
        character = source[token.start()]
        if character in "[{":
            depth += 1
            if depth > max_depth:
                _refuse(source, token.start(), "json_depth", what, expected=expected, got="more")
        elif character != '"':
            depth -= 1
    _refuse("", 0, "json_depth", what, expected=expected, got="more")


def _is_deeper(source: str, levels: int) -> bool:
    """Whether a text has more levels, with as little of Python as that can be found out with."""
    brackets = _NO_BRACKETS.sub("", _STRINGS.sub("", source))
    depth = 0
    for one in brackets:
        if one in "[{":
            depth += 1
            if depth > levels:
                return True
        else:
            depth -= 1
    return False


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise _Refused
    return value


def _integer(digits: str) -> int:
    if len(digits) > 20 or not -(2**63) <= (value := int(digits)) < 2**64:
        raise _Refused("a number beyond 64 bits", "json_number", "an integer from -2**63 to 2**64 - 1")
    return value


def _float(digits: str) -> float:
    if math.isinf(value := float(digits)):
        raise _Refused("a number beyond what a double holds", "json_number", "a finite double")
    return value


def _constant(name: str) -> NoReturn:
    raise _Refused(f"{name} is not JSON", "json_constant", "a number, a string or null")


_DECODER = json.JSONDecoder(object_pairs_hook=_pairs, parse_int=_integer, parse_float=_float, parse_constant=_constant)


class _Open:
    """An object or array being read: where in it we are, and (an object) the keys it has had."""

    __slots__ = ("at", "keys")

    def __init__(self, is_object: bool) -> None:
        self.at: str | int | None = None if is_object else 0
        self.keys: set[str] | None = set() if is_object else None


def _scan(source: str) -> None:
    """Raise what is refused in a text that is JSON by its grammar, with its place; return when there is
    nothing. Of a text of more than MAX_SCANNED characters only that it is refused.
    """
    if len(source) > MAX_SCANNED:
        expected = "each key once, numbers of 64 bits, whole characters"
        _refuse("", 0, "json_refused", f"this JSON is refused: it must have {expected}", expected=expected, got="else")
    opened: list[_Open] = []
    for token in _TOKEN.finditer(source):
        piece, at, top = token.group(), token.start(), opened[-1] if opened else None
        if piece in ("{", "["):
            opened.append(_Open(piece == "{"))
        elif piece in ("}", "]"):
            opened.pop()
        elif piece == "," and top is not None:
            top.at = None if top.keys is not None else int(top.at or 0) + 1
        elif piece[0] == '"':
            value = json.loads(piece)
            if _SURROGATE.search(value):
                what, expected = "half a surrogate pair is no character", "whole characters"
                _refuse(source, at, "json_surrogate", what, opened, expected=expected, got=ascii(value[:40]))
            if top is not None and top.keys is not None and top.at is None:
                top.at = value
                if value in top.keys:
                    what = f"the key {value[:60]!r} is given twice"
                    _refuse(
                        source,
                        at,
                        "json_duplicate_key",
                        what,
                        opened,
                        expected="each key once",
                        got=value[:60],
                    )
                top.keys.add(value)
        elif piece != ":":
            try:
                _DECODER.decode(piece)
            except _Refused as exc:
                what, kind, expected = exc.args
                _refuse(source, at, kind, what, opened, expected=expected, got=piece[:40])


def _refuse(
    source: str, at: int, kind: str, what: str, opened: list[_Open] | None = None, *, expected: str, got: str
) -> NoReturn:
    loc = tuple(o.at for o in opened or () if o.at is not None)
    path = "".join("/" + str(step).replace("~", "~0").replace("/", "~1") for step in loc)
    problem: dict[str, Any] = {
        "path": path,
        "loc": loc,
        "parameter": str(loc[0]) if loc else "",
        "type": kind,
    }
    message = f"{what} at {path}" if path else what
    if source:
        line, column = source.count("\n", 0, at) + 1, at - source.rfind("\n", 0, at)
        message += f" (line {line}, column {column})"
        problem.update(line=line, column=column)
    problem.update(msg=message, expected=expected, got=got, offset=at)
    raise InputValidationError(message, problems=[problem]) from None
