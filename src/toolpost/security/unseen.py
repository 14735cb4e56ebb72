"""Characters that nobody sees: controls, direction marks, zero widths, tags. They make a text read as another one."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping
from typing import Any, Final

SUSPECT: Final = re.compile(
    "[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f"  # controls, but not tab, line feed and carriage return
    "\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180e"  # fillers and marks of nothing
    "\u200b-\u200f\u2028-\u202e\u2060-\u206f"  # zero widths, line separators, directions
    "\u3164\ufeff\uffa0\ufff9-\ufffb\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
    "|[\ud800-\udfff]"
)
"""Each of them alone; what stands around it may excuse a joiner."""

_JOINERS: Final = "\u200c\u200d"
_DIRECTIONS: Final = "\u200e\u200f\u061c"
MAX_FOUND: Final = 50


def unseen(text: str) -> Iterator[tuple[int, str]]:
    """(place, "U+202E RIGHT-TO-LEFT OVERRIDE") of each character that nobody sees; place counts from 0.

    Joiners within emoji and within words of scripts that need them are seen by what they join, and direction marks
    beside letters that run from right to left are no surprise.
    """
    if text.isascii() and text.isprintable():
        return
    for found in SUSPECT.finditer(text):
        at, character = found.start(), found[0]
        if not _excused(text, at, character):
            yield at, f"U+{ord(character):04X} {_name(character)}"


def _excused(text: str, at: int, character: str) -> bool:
    before, after = text[at - 1 : at], text[at + 1 : at + 2]
    if character in _JOINERS:
        return bool(before and after) and not (before.isascii() or after.isascii())
    if character in _DIRECTIONS:
        return any(unicodedata.bidirectional(one) in ("R", "AL") for one in (before, after) if one)
    return False


def _name(character: str) -> str:
    if "\U000e0020" <= character <= "\U000e007e":
        return f"TAG {chr(ord(character) - 0xE0000)!r}"
    return unicodedata.name(character, "CONTROL" if unicodedata.category(character) == "Cc" else "UNNAMED")


def unseen_in(value: Any, path: str = "") -> Iterator[str]:
    """A sentence for each such character in the texts and keys of a JSON value, at most MAX_FOUND."""
    left = MAX_FOUND
    for where, text in _texts(value, path):
        for at, name in unseen(text):
            yield f"{visible(where) or 'it'} has {name} at character {at + 1}"
            left -= 1
            if not left:
                return


def _texts(value: Any, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            below = f"{path}/{key}"
            if isinstance(key, str):
                yield f"the name {below}", key
            yield from _texts(item, below)
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from _texts(item, f"{path}/{index}")


def visible(text: str) -> str:
    """text with each such character written as JSON writes it, so that reviewers see it."""
    return SUSPECT.sub(_escaped, text)


def visible_in(value: Any) -> Any:
    """A JSON value whose texts and names hide nothing from whoever reads them."""
    if isinstance(value, str):
        return visible(value)
    if isinstance(value, dict):
        return {visible(name): visible_in(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [visible_in(item) for item in value]
    return value


def _escaped(found: re.Match[str]) -> str:
    number = ord(found[0])
    if number < 0x10000:
        return f"\\u{number:04x}"
    number -= 0x10000
    return f"\\u{0xD800 + (number >> 10):04x}\\u{0xDC00 + (number & 0x3FF):04x}"


__all__ = ["unseen", "unseen_in", "visible", "visible_in"]
