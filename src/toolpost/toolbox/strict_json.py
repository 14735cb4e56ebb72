"""Reads JSON text as RFC 8259 has it and nothing beyond: what readers would not agree on is refused, with its place."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from typing import Any, Final

MAX_DEPTH: Final = 128
"""How deep arrays and objects may be nested; what comes out has to fit into a result."""

_STRING: Final = r'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_BRACKETS: Final = re.compile(_STRING + r"|[\[\]{}]", re.DOTALL)
_TOKENS: Final = re.compile(_STRING + r'|[\[\]{},:]|[^\s\[\]{},:"]++', re.DOTALL)
_ORDINARY: Final = re.compile(r"-?[0-9]{1,18}|true|false|null")
_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_ESCAPED_SURROGATE: Final = re.compile(r"\\u[dD][89a-fA-F]")


class NotStrictJson(ValueError):
    """A text is not JSON. problem says what is wrong, as JSON: path, type, msg, line and column (both from 1)."""

    def __init__(self, source: str, at: int, type: str, what: str, path: str = "") -> None:
        line, column = source.count("\n", 0, at) + 1, at - source.rfind("\n", 0, at)
        where = f" at {path}" if path else ""
        msg = f"{what}{where} (line {line}, column {column})"
        self.problem = {"path": path, "type": type, "msg": msg, "line": line, "column": column}
        super().__init__(msg)


class _Refused(ValueError):
    """What the grammar lets pass and we do not: (type, what). _find_refused tells where it is."""


def parse(text: str) -> Any:
    """The value of a JSON text; a byte order mark is passed over. Raises NotStrictJson.

    Refused beyond the grammar: a key given twice in an object, NaN and Infinity, numbers that are no finite double or
    no 64-bit integer, half a surrogate pair, and more than MAX_DEPTH levels.
    """
    source = text.removeprefix("\ufeff")
    _check_depth(source)
    try:
        value = _DECODER.decode(source)
    except json.JSONDecodeError as exc:
        got = f"got {source[exc.pos]!r}" if exc.pos < len(source) else "but the text ends"
        raise NotStrictJson(source, exc.pos, "json_syntax", f"{exc.msg.removesuffix(' at')}, {got}") from None
    except _Refused:
        _find_refused(source)
        raise
    if _SURROGATE.search(source) or _ESCAPED_SURROGATE.search(source):
        _find_refused(source)
    return value


def _check_depth(source: str) -> None:
    if source.count("[") + source.count("{") <= MAX_DEPTH:
        return
    depth = 0
    for token in _BRACKETS.finditer(source):
        bracket = source[token.start()]
        depth += (bracket in "[{") - (bracket in "]}")
        if depth > MAX_DEPTH:
            raise NotStrictJson(source, token.start(), "json_depth", f"nested more than {MAX_DEPTH} levels deep")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        raise _Refused
    return value


def _integer(digits: str) -> int:
    if len(digits) > 20 or not -(2**63) <= (value := int(digits)) < 2**64:
        raise _Refused("json_number", "an integer beyond 64 bits")
    return value


def _float(digits: str) -> float:
    value = float(digits)
    if math.isinf(value):
        raise _Refused("json_number", "a number beyond what a double holds")
    return value


def _constant(name: str) -> float:
    raise _Refused("json_constant", f"{name} is not JSON")


_DECODER: Final = json.JSONDecoder(
    object_pairs_hook=_object, parse_int=_integer, parse_float=_float, parse_constant=_constant
)


def _find_refused(source: str) -> None:
    """Raise NotStrictJson for the first thing refused in a text that is JSON by its grammar up to there."""
    path: list[str | int | None] = []  # a step for each open bracket: an index, a key, or None where a key comes next
    keys: list[set[str]] = []
    for at, token in _tokens(source):
        in_object = bool(path) and not isinstance(path[-1], int)
        if token in ("{", "["):
            path.append(None if token == "{" else 0)
            keys.append(set())
        elif token in ("}", "]"):
            path.pop()
            keys.pop()
        elif token == ",":
            step = path[-1]
            path[-1] = step + 1 if isinstance(step, int) else None
        elif token[0] == '"':
            text = json.loads(token)
            if _SURROGATE.search(text):
                raise NotStrictJson(
                    source, at, "json_surrogate", "half a surrogate pair is no character", _joined(path)
                )
            if in_object and path[-1] is None:
                path[-1] = text
                if text in keys[-1]:
                    what = f"the key {text[:60]!r} is given twice"
                    raise NotStrictJson(source, at, "json_duplicate_key", what, _joined(path))
                keys[-1].add(text)
        elif token != ":" and not _ORDINARY.fullmatch(token):
            try:
                _DECODER.decode(token)
            except _Refused as exc:
                kind, what = exc.args
                raise NotStrictJson(source, at, kind, what, _joined(path)) from None


def _tokens(source: str) -> Iterator[tuple[int, str]]:
    return ((found.start(), found.group()) for found in _TOKENS.finditer(source))


def _joined(path: list[str | int | None]) -> str:
    steps = (str(step).replace("~", "~0").replace("/", "~1") for step in path if step is not None)
    return "".join("/" + step for step in steps)
