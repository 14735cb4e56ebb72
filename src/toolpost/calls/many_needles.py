"""Many needles: thousands of long tokens, found in a text in a time that does not hang on how many they are.

Of each form of a token some pieces are in a table, so chosen that wherever it stands in a text one of them is at a
multiple of STRIDE: where a text has a long run of such characters, each STRIDE-th piece of it is looked up. Adding a
token costs its pieces.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterator
from typing import Final

PIECE: Final = 16
STRIDE: Final = 8
LEAST: Final = PIECE + STRIDE - 1
"""How long a token must be to be found by its pieces."""
_SIMPLE: Final = re.compile(rf"[A-Za-z0-9._~/=-]{{{LEAST},}}\Z")
_ALIKE: Final = str.maketrans("-_", "+/")
"""The two alphabets of base64 are taken for one."""
_ENCODES: Final = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/-_=")
_KINDS: Final = bytes(ord("a" if chr(c) in _ENCODES | {".", "~"} else " ") for c in range(256))
_RUN: Final = b"a" * LEAST

Span = tuple[int, int]


def fits(token: str) -> bool:
    """Whether a token can be found by its pieces: it is long, and nothing in it is or becomes an escape."""
    return _SIMPLE.match(token) is not None


class ManyNeedles:
    """Finds tokens as they are, in base64 and in hexadecimal. The values are in closures alone, as those of a Finder.

    Adding and dropping is for one thread at a time; the rest may be done meanwhile.
    """

    __slots__ = ("add", "begins", "drop", "longest", "places", "shows")

    add: Callable[[str], Callable[[], str]]
    """Find this token, which is a new one, from now on; gives what drop takes."""
    drop: Callable[[Callable[[], str]], None]
    shows: Callable[[str], bool]
    """Whether a text has a token in it."""
    places: Callable[[str], Iterator[Span]]
    """Where: what is in base64 or hexadecimal with the whole run of its characters."""
    begins: Callable[[str, int], int]
    """How many characters at the end of a text, at least so many, are the beginning of a token that was cut off."""
    longest: Callable[[], int]
    """How long the longest form is that was ever looked for."""

    def __init__(self) -> None:
        table: dict[str, list[tuple[str, bool]]] = {}
        tokens: dict[str, None] = {}
        longest = LEAST

        def add(token: str) -> Callable[[], str]:
            nonlocal longest
            tokens[token] = None
            for form in _forms(token):
                longest = max(longest, len(form[0]))
                for piece in _pieces(form[0]):
                    table.setdefault(piece, []).append(form)
            return lambda: token

        def drop(known: Callable[[], str]) -> None:
            del tokens[known()]
            for form in _forms(known()):
                for piece in _pieces(form[0]):
                    table[piece].remove(form)
                    if not table[piece]:
                        del table[piece]

        def shows(text: str) -> bool:
            if not table or len(text) < LEAST:
                return False
            alike = text.translate(_ALIKE)
            for begin, end in _runs(text):
                places = map(slice, range(begin, end, STRIDE), range(begin + PIECE, end + PIECE, STRIDE))
                if any(map(table.__contains__, map(alike.__getitem__, places))) and any(found(alike, begin, end)):
                    return True
            return False

        def found(alike: str, begin: int, end: int) -> Iterator[tuple[str, int, bool]]:
            """What stands within a run, and where."""
            for at in range(begin, end - PIECE + 1, STRIDE):
                for form, is_encoded in table.get(alike[at : at + PIECE], ()):
                    place = alike.find(form, max(begin, at + PIECE - len(form)), min(end, at + len(form)))
                    if place >= 0:
                        yield form, place, is_encoded

        def places(text: str) -> Iterator[Span]:
            alike = text.translate(_ALIKE) if table else ""
            for first, last in _runs(text) if table else ():
                for form, begin, is_encoded in found(alike, first, last):
                    end = begin + len(form)
                    while is_encoded and begin > first and text[begin - 1] in _ENCODES:
                        begin -= 1
                    while is_encoded and end < last and text[end] in _ENCODES:
                        end += 1
                    yield begin, end

        def begins(text: str, least: int) -> int:
            tail, most = text[-least:], 0
            for token in list(tokens):
                if len(tail) == least and tail in token:
                    sizes = range(len(token) - 1, max(most, least - 1), -1)
                    most = next((size for size in sizes if text.endswith(token[:size])), most)
            return most

        self.add, self.drop, self.shows, self.places, self.begins = add, drop, shows, places, begins
        self.longest = lambda: longest

    def __reduce__(self) -> str:
        raise TypeError("secrets are not pickled")


def _runs(text: str) -> Iterator[Span]:
    """Where a token may stand, or an encoding of it: found in the kinds of the characters, which is fast in prose."""
    kinds = text.encode("ascii", "replace").translate(_KINDS)
    at = kinds.find(_RUN)
    while at >= 0:
        end = kinds.find(b" ", at)
        end = len(kinds) if end < 0 else end
        yield at, end
        at = kinds.find(_RUN, end)


def _pieces(form: str) -> Iterator[str]:
    """At the end of a form, as of many a token only that is its own: a JWT begins like all others of its issuer."""
    for end in range(len(form) - STRIDE + 1, len(form) + 1):
        yield form[end - PIECE : end]


def _forms(token: str) -> Iterator[tuple[str, bool]]:
    """What a token is looked for as, and whether that is an encoding of it."""
    raw = token.encode()
    yield token.translate(_ALIKE), False
    for before in range(3):  # wherever in what was encoded it stood: the characters that it alone decides
        encoded = base64.b64encode(bytes(before) + raw).decode()
        yield encoded[-(-before * 8 // 6) : (before + len(raw)) * 8 // 6], True
    yield raw.hex(), True
    yield raw.hex().upper(), True


__all__ = ["LEAST", "ManyNeedles", "fits"]
