"""A text as interpreters further on may come to see it: percent, entities, escapes, UTF-7, compatibility characters."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from functools import cache, lru_cache
from html.entities import html5
from typing import Final

from toolpost.security.linear import linear

MAX_DECODINGS: Final = 5
MAX_ENCODED: Final = 20_000
MAX_FOLDED: Final = 10_000
"""Characters that stand for ASCII that a view may hold, those aside that many texts have many of."""
LONG: Final = 100_000
"""Characters beyond which a text may be encoded twice, not five times: each view has to be looked at."""

MAX_LINES: Final = 10_000
"""Characters up to which comments to the end of a line are looked for."""


class OverEncodedError(Exception):
    """A text holds more encoded characters, or is nested deeper in encodings, than is looked at."""


def in_unicode(value: str) -> str:
    """A value with halves of surrogate pairs as question marks: searches know whole characters only."""
    if value.isascii():
        return value
    try:
        value.encode()
    except UnicodeEncodeError:
        return value.encode(errors="replace").decode()
    return value


def is_plain(value: str) -> bool:
    """Whether a text has one view only, so that nobody sees anything else in it."""
    return value.isascii() and not (
        "%" in value or "&" in value or "\\" in value or "\0" in value or ("+" in value and "+A" in value)
    )


def has_comment(view: str) -> bool:
    """Whether one of SQL's comments may begin; asking for one character is 20 times as quick as for two."""
    return ("*" in view and "/*" in view) or _has_line_comment(view)


def _has_line_comment(view: str) -> bool:
    return len(view) <= MAX_LINES and "\n" in view and ("#" in view or "--" in view)


def normalised(value: str) -> list[str]:
    """A value as it came, then as an interpreter further on may come to see it: at most seven views.

    Decoded are percent encodings (nested, %uNNNN, overlong UTF-8), HTML entities, \\xNN, \\NNN, \\uNNNN, \\u{N}, UTF-7,
    and compatibility characters that stand for ASCII; NULs and invisible characters are dropped. No view is over
    eight times as long as the value, and the work is linear in it. Raises OverEncodedError for a text with more
    than 20,000 encoded pieces, or one still encoded after the decodings that its length is worth.
    """
    clean = in_unicode(value)
    views = [value] if clean == value else [value, clean]
    left = MAX_ENCODED
    unfolded = clean
    while not is_plain(views[-1]):
        if len(views[-1]) <= _OFTEN:  # where one search is quicker
            if not _finds_encoded()(views[-1]):
                break
            marks = _MARKS
        else:
            marks = tuple(mark for mark in _MARKS if _holds(mark, views[-1]))
            if not marks and not _may_be_folded(views[-1], unfolded):
                break
        decoded, spent, unfolded = _decoded(views[-1], left, unfolded, marks)
        if decoded == views[-1]:
            break
        left -= spent
        if len(views) > (2 if len(value) > LONG else MAX_DECODINGS):
            raise OverEncodedError
        views.append(decoded)
    return views


def without_comments(view: str) -> str:
    """A view with SQL's comments as one space each, those that MySQL executes opened; a comment left open stays.

    Those to the end of a line are taken for comments in short texts only: in long ones # and -- begin much else.
    Raises OverEncodedError for more comments than are looked at.
    """
    if _has_line_comment(view):
        view = _LINE_COMMENT.sub(" ", view)
    end = view.rfind("*/") + 2 if "/*" in view else 0
    if end < 2:
        return view
    bare, spent = _COMMENT.subn(" ", view[:end], MAX_ENCODED)
    if spent == MAX_ENCODED:
        raise OverEncodedError
    return bare.replace("*/", " ") + view[end:]


_LINE_COMMENT = re.compile(r"(?:#|--)[^\n]*+\n")
_COMMENT = re.compile(r"/\*(?:!\d{0,6}|[^*]*+(?:\*(?!/)[^*]*+)*+\*/)")
_PERCENT = re.compile(r"(%(?:[0-9a-fA-F]{2}(?:%[0-9a-fA-F]{2})*+|[uU][0-9a-fA-F]{4}))")
_ENTITY = re.compile(
    r"(&(?:#(?:[xX]0*[0-9a-fA-F]{1,6}|0*[0-9]{1,7});?|[A-Za-z][A-Za-z0-9]{1,30};|lt|gt|amp|quot|LT|GT|AMP|QUOT))"
)
_ESCAPE = re.compile(
    r"(\\(?:u[0-9a-fA-F]{4}(?:\\u[0-9a-fA-F]{4})*+|x[0-9a-fA-F]{2}|u\{0*[0-9a-fA-F]{1,6}\}|[0-3]?[0-7]{2}))"
)
_SEVEN_BITS = re.compile(r"(\+A[A-H][A-Za-z0-9+/]++)-?")
_OVERLONG = re.compile(
    rb"[\xc0\xc1][\x80-\xbf]|\xe0[\x80-\x9f][\x80-\xbf]|\xf0[\x80-\x8f][\x80-\xbf]{2}"
    rb"|\xf8[\x80-\x87][\x80-\xbf]{3}|\xfc[\x80-\x83][\x80-\xbf]{4}"
)
_UNSEEN: Final = (
    "\0\xad\u200b\u200c\u200d\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2060\u2066\u2067\u2068\u2069\ufeff"
)
_LOOKALIKES: Final = {"\u2044": "/", "\u2215": "/", "\u2216": "\\", "\u02b9": "'", "\u02bc": "'", "\u2032": "'"}
"""What databases and Windows take for ASCII when they convert, though Unicode does not."""
_BLOCKS: Final = (
    *((0xA0, 0x250), (0x2B0, 0x380), (0x1D2C, 0x1DC0), (0x1FE0, 0x1FF0), (0x2000, 0x2D00), (0x3000, 0x3400)),
    *((0xA700, 0xA800), (0xFB00, 0xFB30), (0xFE10, 0xFF66), (0x107A0, 0x107B0), (0x1D400, 0x1D800)),
    *((0x1F100, 0x1F1B0), (0x1FBF0, 0x1FBFA)),
)
"""Where Unicode has its compatibility characters for ASCII."""
_USUAL: Final = (
    "\xa0\xad\xb2\xb3\u2026\u202f\u2122\u3000\ufeff\uff01\uff08\uff09\uff0c\uff0e\uff1a\uff1b\uff1f"
    "\u200b\u200c\u200d\u200e\u200f"
)
_USUAL_ENTITIES: Final = (
    *(("&lt;", "<"), ("&gt;", ">"), ("&quot;", '"'), ("&#34;", '"'), ("&#39;", "'"), ("&#x27;", "'"), ("&nbsp;", " ")),
)
"""Pieces that may be replaced wholesale where there are many, and are not counted; never what starts another piece."""
_OFTEN: Final = 2000
"""Ampersands from which on replacing wholesale is quicker, and characters from which on a search for each mark is."""
_ASCII: Final = bytes(range(128))
_MUCH: Final = 20_000
"""Bytes that UTF-8 takes beyond one for each character, from which on one search is quicker than a set of them all."""
_MANY: Final = 24
"""Different characters from which on one search is quicker than replacing each."""
_KEPT: Final = 64
"""Characters of the longest pieces whose decoded form is kept for the next text that holds them."""
_STARTS: Final = {"%": ("%", 8), "&": ("&#", 1), "\\": ("\\u{", 1)}
"""What pieces begin with, and how many times as many of it there may be: many that begin none take long to try, too."""


def _decoded(view: str, left: int, unfolded: str, marks: Sequence[str]) -> tuple[str, int, str]:
    """A view decoded once, how many pieces were, and what they stand for together.

    unfolded holds every character of the view that may stand for ASCII, marks those of the encodings that it holds.
    Raises OverEncodedError for more pieces than are left.
    """
    before, original = left, view
    made = []
    if "\0" in view:
        view = view.replace("\0", "")
    if not unfolded.isascii():
        view = _folded(view, unfolded)
    for mark, pattern, decode in _DECODERS:
        if mark not in view or (mark not in marks and (view is original or not _holds(mark, view))):
            continue
        if mark in _STARTS:
            start, times = _STARTS[mark]
            if mark == "&":
                view, whole = _without_usual(view, min(left, _OFTEN))
                if whole:
                    continue
            if (
                len(view) > left
                and _finds(re.escape(start))(view)
                and view.count(mark) > times * left < view.count(start)
            ):
                raise OverEncodedError
        view, left, plain = _replaced(view, left, pattern, decode)
        made.append(plain)
    return view, before - left, "".join(made)


def _without_usual(view: str, few: int) -> tuple[str, bool]:
    """A view with the usual entities decoded, unless it has few ampersands, and whether it has been decoded whole.

    It has where each ampersand that is left began an &amp;.
    """
    if len(view) <= few:
        return view, False
    usual = [(piece, plain) for piece, plain in _USUAL_ENTITIES if _finds(piece)(view)]
    escaped = _finds("&amp;")(view)
    if not (usual or escaped) or (often := view.count("&")) <= few:
        return view, False
    for piece, plain in usual:
        view = view.replace(piece, plain)
    if usual:
        often = view.count("&")
    whole = escaped and view.count("&amp;") == often
    return view.replace("&amp;", "&") if whole else view, whole


def _replaced(view: str, left: int, pattern: re.Pattern[str], decode: Callable[[str], str]) -> tuple[str, int, str]:
    """A view with the pieces that its pattern captures decoded, how many more may be, and what those stand for."""
    parts = pattern.split(view, left + 1)
    left -= len(parts) // 2
    if left < 0:
        raise OverEncodedError
    if len(parts) == 1:
        return view, left, ""
    pieces = parts[1::2]
    plain = list(map(decode if max(map(len, pieces)) <= _KEPT else _unkept(decode), pieces))
    if plain == pieces:
        return view, left, ""
    parts[1::2] = plain
    return "".join(parts), left, "".join(plain)


def _unkept(decode: Callable[[str], str]) -> Callable[[str], str]:
    """The same decoder, which keeps nothing: long pieces seldom come again, and would fill the memory."""
    return getattr(decode, "__wrapped__", decode)


def _folded(view: str, unfolded: str) -> str:
    """A view with characters that stand for ASCII as what they stand for. Raises OverEncodedError for too many.

    unfolded holds every one of them, whatever else it holds.
    """
    folds, searches = _compatible()
    encoded = unfolded.encode()
    # Replacing is quicker than a walk over all characters, as long as few different ones are there.
    if len(encoded) - len(unfolded) <= _MUCH:
        found = folds.keys() & set(encoded.translate(None, _ASCII).decode())
        if len(found) <= _MANY:
            for character in found:
                view = view.replace(character, folds[character])
            return view
    for character in _USUAL:
        if character in view:
            view = view.replace(character, folds[character])
    for lead, search, fold in searches:
        if lead in encoded and (not lead or _finds(search.pattern)(view)):
            view = _replaced(view, MAX_FOLDED, search, fold)[0]
    return view


_HELD: Final = {
    "%": r"%(?:[0-9a-fA-F]{2}|[uU][0-9a-fA-F]{4})",
    "&": r"&(?:#(?:[xX][0-9a-fA-F]|[0-9])|lt|gt|amp|quot|LT|GT|AMP|QUOT|"
    + "|".join(name for name in html5 if name[-1] == ";")
    + ")",
    "\\": r"\\(?:x[0-9a-fA-F]{2}|u(?:[0-9a-fA-F]{4}|\{[0-9a-fA-F]+\})|[0-7]{2})",
    "+": r"\+A[A-H][A-Za-z0-9+/](?:A[A-Za-f]|[YZa-f]|[A-Za-z0-9+/]{0,2}(?:[^A-Za-z0-9+/]|\z))",
}
"""What every piece that stands for something else holds. A search for each mark skips to it; one for all reads all."""


_MARKS: Final = tuple(_HELD)


def _holds(mark: str, view: str) -> bool:
    return mark in view and _finds(_HELD[mark])(view)


@cache
def _finds(expression: str) -> Callable[[str], bool]:
    """What tells whether a text holds an expression: for a short literal many times as quickly as str itself does."""
    return linear(expression)


def _may_be_folded(view: str, unfolded: str) -> bool:
    if unfolded.isascii() or view.isascii():
        return "\0" in view
    return _finds_folded()(view)


@cache
def _finds_folded() -> Callable[[str], bool]:
    """What tells quickly whether a text holds a character that stands for ASCII."""
    return linear(_folded_class())


@cache
def _finds_encoded() -> Callable[[str], bool]:
    """What tells quickly of a short text whether it may hold anything encoded."""
    return linear("|".join((*_HELD.values(), _folded_class())))


def _folded_class() -> str:
    return "[" + "".join(f"\\x{{{ord(character):x}}}" for character in _compatible()[0]) + "]"


@lru_cache(maxsize=4096)
def _percent(text: str) -> str:
    if text[1] in "uU":
        return _character(int(text[2:], 16))
    return _OVERLONG.sub(_shortest, bytes.fromhex(text.replace("%", ""))).decode("utf-8", "ignore")


def _shortest(overlong: re.Match[bytes]) -> bytes:
    lead, *rest = overlong[0]
    code = lead & 0x1F if lead < 0xE0 else 0
    for byte in rest:
        code = code << 6 | byte & 0x3F
    return chr(code).encode("utf-8", "ignore")


@lru_cache(maxsize=4096)
def _entity(text: str) -> str:
    if text[1] != "#":
        return html5.get(text[1:], text)
    number = text[2:].rstrip(";")
    return _character(int(number[1:], 16) if number[0] in "xX" else int(number.lstrip("0") or "0"))


@lru_cache(maxsize=4096)
def _escape(text: str) -> str:
    if text[1] == "u" and text[2] != "{":
        units = bytes.fromhex(text.replace("\\u", ""))
        return units.decode("utf-16-be", "ignore")
    if text[1] in "xu":
        return _character(int(text[2:].strip("{}"), 16))
    return _character(int(text[1:], 8))


@lru_cache(maxsize=4096)
def _seven_bits(text: str) -> str:
    plain = f"{text}-".encode().decode("utf-7", "ignore")
    return plain if plain.isascii() else text


def _character(code: int) -> str:
    return chr(code) if code < 0xD800 or 0xDFFF < code < 0x110000 else ""


@cache
def _compatible() -> tuple[dict[str, str], tuple[tuple[bytes, re.Pattern[str], Callable[[str], str]], ...]]:
    """Characters -> the ASCII, or nothing, that they stand for; twice a byte of theirs, what finds and what folds them.

    One search for all would take eight times as long: the engine has a quick one for the first 65,536 characters only.
    """
    folds = {
        chr(code): unicodedata.normalize("NFKC", chr(code)) for first, end in _BLOCKS for code in range(first, end)
    }
    folds = {character: plain for character, plain in folds.items() if plain.isascii()}
    folds |= dict.fromkeys(_UNSEEN, "") | _LOOKALIKES
    near = "".join(re.escape(character) for character in folds if ord(character) < 0x10000)
    far = "".join(f"{chr(first)}-{chr(end - 1)}" for first, end in _BLOCKS if first >= 0x10000)
    return folds, (
        (b"", re.compile(f"([{near}])"), folds.__getitem__),
        (b"\xf0", re.compile(f"([{far}])"), lambda character: folds.get(character, character)),
    )


_DECODERS: Final[tuple[tuple[str, re.Pattern[str], Callable[[str], str]], ...]] = (
    ("%", _PERCENT, _percent),
    ("&", _ENTITY, _entity),
    ("\\", _ESCAPE, _escape),
    ("+", _SEVEN_BITS, _seven_bits),
)
"""What an encoding always holds, its pieces, and what each stands for."""
