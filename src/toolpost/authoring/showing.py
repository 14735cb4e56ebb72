"""Shows values as short, safe text: without secrets, within a limit, and without running a value's own code."""

from __future__ import annotations

import datetime
import decimal
import uuid
from collections.abc import Iterable, Sequence
from typing import Any, Final

from toolpost.calls.redaction import HIDDEN, scrub
from toolpost.calls.secret_names import could_be_secret, secret_name

__all__ = ["HIDDEN", "could_be_secret", "cut", "scrub", "secret_name", "show"]


def show(value: Any, *, name: str = "", limit: int = 80) -> str:
    """A value as short, safe text: at most limit characters (or 32), no secret, no code of the value's class run.

    name is the parameter or key the value came under: where it names a secret the text is [hidden]. Long strings
    are cut, with an ellipsis and their length; containers that do not fit become "object with 3 keys" or "array of
    12 items"; objects that are not JSON are shown as their type's name.
    """
    if name and secret_name(name) and could_be_secret(value):
        return HIDDEN
    return _render(value, max(limit, 32), 3)


_AS_TEXT: Final = frozenset(
    {decimal.Decimal, uuid.UUID, datetime.datetime, datetime.date, datetime.time, datetime.timedelta}
)


def _render(value: Any, room: int, depth: int) -> str:
    if isinstance(value, str):
        return _render_string(value, room)
    if value is None or isinstance(value, bool):
        return repr(value)
    if isinstance(value, int):
        return _render_integer(value, room)
    if isinstance(value, float):
        return float.__repr__(value)
    if isinstance(value, dict):
        return _render_object(value, room, depth)
    if isinstance(value, (list, tuple)):
        return _render_array(value, room, depth)
    if isinstance(value, (bytes, bytearray)):
        return f"{len(value)} byte{'' if len(value) == 1 else 's'}"
    if type(value) in _AS_TEXT:
        return cut(str(value), room)
    return cut(f"<{type(value).__name__}>", room)


def _render_string(value: str, room: int) -> str:
    head = scrub(str.__str__(value)[: room + 512])
    text = repr(head)
    if len(text) <= room and len(value) <= room + 512:
        return text
    tail = f" ({len(value)} characters)"
    head = head[: max(0, room - len(tail) - 3)]  # two quotes and the ellipsis
    while len(repr(head)) + 1 + len(tail) > room and head:
        head = head[: len(head) * 9 // 10]
    text = repr(head)
    return f"{text[:-1]}…{text[-1]}{tail}"


def _render_integer(value: int, room: int) -> str:
    if value.bit_length() < room * 3:
        return int.__repr__(value)
    return f"an integer of {int(value.bit_length() * 0.30103) + 1} digits"


def _render_object(value: dict[Any, Any], room: int, depth: int) -> str:
    size = len(value)
    summary = f"object with {size} key{'' if size == 1 else 's'}"
    pairs = (_render_pair(key, item, room - 2, depth - 1) for key, item in value.items())
    return _render_parts(pairs, size, "{}", summary, room, depth)


def _render_pair(key: Any, item: Any, room: int, depth: int) -> str:
    hidden = isinstance(key, str) and secret_name(key) and could_be_secret(item)
    return f"{_render(key, room, 0)}: {HIDDEN if hidden else _render(item, room, depth)}"


def _render_array(value: Sequence[Any], room: int, depth: int) -> str:
    size = len(value)
    summary = f"array of {size} item{'' if size == 1 else 's'}"
    return _render_parts((_render(item, room - 2, depth - 1) for item in value), size, "[]", summary, room, depth)


def _render_parts(parts: Iterable[str], size: int, ends: str, summary: str, room: int, depth: int) -> str:
    """The parts in their brackets when they fit into room, else the summary; looks at no more than fits."""
    if size == 0:
        return ends
    if depth <= 0 or size * 3 > room:
        return summary
    text = ends[0]
    for part in parts:
        text += (", " if len(text) > 1 else "") + part
        if len(text) >= room:
            return summary
    return text + ends[1]


def cut(text: str, room: int) -> str:
    """text in at most room characters, the last an ellipsis where some are left out."""
    return text if len(text) <= room else text[: room - 1] + "…"
