"""Disguises: a text with its escapes undone, and where in the text each of the characters stood.

Undone are percent-encoding, the backslash escapes of JSON, Python and C, HTML's character references, and the NULs
between the characters of UTF-16 that was read as something else.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Sequence
from typing import Final

ROUNDS: Final = 4
"""How many escapes may lie over each other: JSON in a URL in HTML in JSON."""

_PERCENT: Final = r"(?<=%)[0-9A-Fa-f]{2}(?:%[0-9A-Fa-f]{2})*"
_NUMBERED: Final = (
    r"u[0-9A-Fa-f]{4}(?:\\u[0-9A-Fa-f]{4})*|x[0-9A-Fa-f]{2}(?:\\x[0-9A-Fa-f]{2})*|U[0-9A-Fa-f]{8}"
    r"|[0-3][0-7]{2}(?:\\[0-3][0-7]{2})*"
)
_BACKSLASH: Final = rf"(?<=\\)(?:{_NUMBERED}|[^\r\n])"
_REFERENCE: Final = r"(?<=&)(?:#[0-9]{1,7}|#[xX][0-9A-Fa-f]{1,6}|[A-Za-z]{2,8});"

# Each begins with one character, or with one set of them, which is what re finds fast.
ANY: Final = re.compile(rf"[%\\&\0](?:{_PERCENT}|{_BACKSLASH}|{_REFERENCE}|(?<=\0)\0*)")
"""All kinds of escapes at once."""
EACH: Final = tuple(map(re.compile, (f"%{_PERCENT}", rf"\\{_BACKSLASH}", f"&{_REFERENCE}", "\0+")))
"""One kind alone: for secrets that hold what would be an escape of another kind."""
NUMBERED: Final = re.compile(rf"[%\\&\0](?:{_PERCENT}|(?<=\\)(?:{_NUMBERED})|{_REFERENCE}|(?<=\0)\0*)")
"""All but a backslash before one character, which may as well be a lone one before something else."""
_BACKSLASHES: Final = re.compile(r"\\{2,}(?=\\)")
"""All but the last of three or more: one stays for what is written, one for what it may escape."""

_CONTROLS: Final = {r"\n": "\n", r"\t": "\t", r"\r": "\r", r"\b": "\b", r"\f": "\f", r"\v": "\v", r"\0": "\0"}

_REFERENCES: Final = {"&amp;": "&", "&lt;": "<", "&gt;": ">", "&quot;": '"', "&#39;": "'", "&#x27;": "'"}
_LETTERS: Final = {control: escape[1] for escape, control in _CONTROLS.items()}


def has_escapes(text: str) -> bool:
    """Whether a text has a character with which escapes begin."""
    return "%" in text or "\\" in text or "&" in text or "\0" in text


def undone(text: str, kind: re.Pattern[str] = ANY) -> str | None:
    """text with one layer of escapes undone; None where there is none."""
    if not has_escapes(text):
        return None
    plain = kind.sub(_plain, text)
    return None if plain == text else plain


def undone_at(text: str, starts: Sequence[int], kind: re.Pattern[str] = ANY) -> tuple[str, list[int]] | None:
    """undone, with where each character stood: starts has that of text's characters, and the end of the last."""
    pieces: list[str] = []
    at: list[int] = []
    done = 0
    for found in kind.finditer(text):
        pieces.append(text[done : found.start()])
        at.extend(starts[done : found.start()])
        for character, offset in _characters(found[0]):
            pieces.append(character)
            at.append(starts[found.start() + offset])
        done = found.end()
    pieces.append(text[done:])
    at.extend(starts[done:])
    plain = "".join(pieces)
    return None if plain == text else (plain, at)


def loosened(text: str) -> str | None:
    """text with one layer of its NUMBERED escapes undone, however many backslashes stand before one of them."""
    if not has_escapes(text):
        return None
    few = _BACKSLASHES.sub(r"\\", text) if "\\\\\\" in text else text
    plain = NUMBERED.sub(_plain, few)
    return None if plain == text else plain


def loosened_at(text: str, starts: Sequence[int]) -> tuple[str, list[int]] | None:
    """loosened, with where each character stood."""
    few = undone_at(text, starts, _BACKSLASHES) or (text, list(starts))
    return undone_at(*few, NUMBERED) or (few if few[0] != text else None)


def bare(text: str) -> str:
    """text without backslashes: the same, whichever of them escape and whichever are escaped."""
    return text.replace("\\", "")


def bare_at(text: str, starts: Sequence[int]) -> tuple[str, Sequence[int]]:
    """bare, with where each character stood."""
    if "\\" not in text:
        return text, starts
    at = [start for character, start in zip(text, starts, strict=False) if character != "\\"]
    return bare(text), [*at, starts[len(text)]]


def bare_forms(text: str) -> Iterator[str]:
    """What a text may be bare: \\n without its backslash is a letter, so is the control character it stands for."""
    yield bare(text)
    for escaped in ("\n\t\r", "\n\t\r\b\f", "\n\t\r\b\f\v"):  # Python's repr, JSON, C
        yield bare(text.translate({ord(c): _LETTERS[c] for c in escaped}))


def around(text: str, kind: re.Pattern[str], reach: int) -> str:
    """What lies within reach of escapes: where there are few of them, a small part of a long text."""
    if len(text) < 8 * reach:
        return text
    pieces: list[str] = []
    begin = end = 0
    for found in kind.finditer(text):
        if found.start() - reach > end:
            pieces.append(text[begin:end])
            begin = found.start() - reach
        end = found.end() + reach
    pieces.append(text[begin:end])
    return "\n\n".join(pieces)


def _plain(found: re.Match[str]) -> str:
    escape = found[0]
    if len(escape) == 2 and escape[0] == "\\":  # by far the most frequent
        return _CONTROLS.get(escape, escape[1])
    if len(escape) == 6 and escape.startswith("\\u"):
        return chr(int(escape[2:], 16))
    if escape[0] == "%":
        raw = bytes.fromhex(escape.replace("%", ""))
        try:
            return raw.decode()
        except UnicodeDecodeError:
            pass  # one by one
    if escape[0] == "&":
        return _REFERENCES.get(escape) or html.unescape(escape)
    return "".join(character for character, _ in _characters(escape))


def _characters(escape: str) -> Iterator[tuple[str, int]]:
    """What an escape, or a run of them, stands for: each character, and where in the escape it begins."""
    first, second = escape[0], escape[1:2]
    if first == "\0":
        return
    if first == "%":
        yield from _of_bytes(bytes.fromhex(escape.replace("%", "")), 3)
    elif first == "&":
        plain = html.unescape(escape)
        yield from ((character, 0) for character in plain)
    elif second == "x" and len(escape) >= 4:
        yield from _of_bytes(bytes.fromhex(escape.replace("\\x", "")), 4)
    elif second == "u" and len(escape) >= 6:
        yield from _of_units([int(escape[at + 2 : at + 6], 16) for at in range(0, len(escape), 6)])
    elif second in "0123" and len(escape) >= 4:
        yield from _of_bytes(bytes(int(octal, 8) for octal in escape[1:].split("\\")), 4)
    elif second == "U" and len(escape) == 10:
        code = int(escape[2:], 16)
        yield chr(code) if code < 0x110000 else "\ufffd", 0
    else:
        yield _CONTROLS.get(escape, second), 0


def _of_bytes(raw: bytes, width: int) -> Iterator[tuple[str, int]]:
    """Bytes as UTF-8; those that are none as Latin-1. width is how much text stands for one byte."""
    at = 0
    for character in raw.decode("utf-8", "surrogateescape"):
        is_stray = "\udc80" <= character <= "\udcff"
        yield chr(raw[at]) if is_stray else character, at * width
        at += 1 if is_stray else len(character.encode())


def _of_units(units: Sequence[int]) -> Iterator[tuple[str, int]]:
    """Code units of UTF-16, of which two may make one character."""
    at = 0
    while at < len(units):
        unit, following = units[at], units[at + 1] if at + 1 < len(units) else 0
        if 0xD800 <= unit < 0xDC00 <= following < 0xE000:
            yield chr(0x10000 + ((unit - 0xD800) << 10) + following - 0xDC00), at * 6
            at += 2
        else:
            yield chr(unit), at * 6
            at += 1


__all__ = [
    "ANY",
    "EACH",
    "ROUNDS",
    "around",
    "bare",
    "bare_at",
    "bare_forms",
    "has_escapes",
    "loosened",
    "loosened_at",
    "undone",
    "undone_at",
]
