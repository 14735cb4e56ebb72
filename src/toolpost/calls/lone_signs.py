"""Lone signs: what stands behind a %, a backslash or an & may be the rest of an escape, or where a secret begins.

An encoded secret is a text of its own, and whoever wrote it knew nothing of the sign before it. So wherever its first
characters could be taken for the rest of an escape, the text is read from there as well.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final

from toolpost.calls.disguises import ROUNDS, bare, bare_at, loosened, loosened_at

WINDOW: Final = 128
"""How much more than a secret's length is read at first; more is where the first half of it was right."""
WIDEST: Final = 64
"""How many characters may stand for one of a secret, on average, however its escapes lie over each other."""
PART: Final = 24
"""How much is read to tell what a sign stands for."""
FEW: Final = 1000
"""How many answers are kept while one text is looked through."""
LONGEST: Final = 12
"""How many characters an escape may have."""

_ESCAPES: Final = re.compile(
    r"[%\\&](?:(?<=%)[0-9A-Fa-f]{2}|(?<=\\)(?:u[0-9A-Fa-f]{4}|x[0-9A-Fa-f]{2}|U[0-9A-Fa-f]{8}|[0-3][0-7]{2})"
    r"|(?<=&)(?:#[0-9]{1,7}|#[xX][0-9A-Fa-f]{1,6}|[A-Za-z]{2,8});)"
)
_RESTS: Final = re.compile(r"[0-9A-Fa-f]{1,8}|u[0-9A-Fa-f]{4}|x[0-9A-Fa-f]{2}|U[0-9A-Fa-f]{8}|#?[xX]?[A-Za-z0-9]{0,8};")
_SIGNS: Final = frozenset("%\\&\0")

Alike = Mapping[int, str]
"""Which characters of a text are taken for others."""


def behind_signs(*wanted: tuple[Iterable[str], Alike]) -> Callable[[str], Iterator[tuple[int, int]]]:
    """What finds where in a text a needle begins within what could be an escape. The needles are bare."""
    heads: dict[str, list[tuple[str, Alike]]] = {}
    for needles, alike in wanted:
        for one in ((needle, alike) for needle in needles):
            for head in _heads(*one):
                heads.setdefault(head, []).append(one)

    def behind(text: str) -> Iterator[tuple[int, int]]:
        firsts, refused = _Few(_firsts), set[tuple[int, str]]()
        for found in _ESCAPES.finditer(text):
            start, last = found.span()
            nested = text[last : last + 1] in _SIGNS
            for begin in range(start + 1, last):
                for one in heads.get(text[begin : last + (not nested)], ()):
                    needle, alike = one
                    if nested and not _goes_on(needle[last - begin :], firsts[text[last : last + PART]], alike):
                        continue
                    part = text[begin : begin + len(needle) + WINDOW]
                    if (id(one), part) not in refused and _may_begin(part, last - begin, needle, alike):
                        end = _end_of(text, begin, needle, alike)
                        if end is not None:
                            yield begin, end
                        elif len(refused) < FEW:
                            refused.add((id(one), part))

    return behind


def _heads(needle: str, alike: Alike) -> Iterator[str]:
    """With which beginnings of it a needle could be taken for the rest of an escape, and the same with what follows."""
    for size in range(1, min(LONGEST, len(needle))):
        if _RESTS.fullmatch(needle, 0, size):
            yield needle[:size]
            yield needle[: size + 1]
            yield from (needle[:size] + chr(c) for c, other in alike.items() if other == needle[size])


class _Few(dict[str, str]):
    """What was found of some texts, so that the frequent ones are looked at once."""

    def __init__(self, find: Callable[[str], str]) -> None:
        self.find = find

    def __missing__(self, text: str) -> str:
        found = self.find(text)
        if len(self) < FEW:
            self[text] = found
        return found


def _firsts(part: str) -> str:
    """With which characters a text that begins with a sign may begin once it is undone; none where that is open."""
    found = ""
    layer: str | None = part
    while layer is not None:
        part = layer
        found += bare(part)[:1]
        layer = loosened(part)
    return "" if not part or (part[0] in _SIGNS and len(part) < LONGEST) else found


def _goes_on(rest: str, firsts: str, alike: Alike) -> bool:
    return not rest or not firsts or rest[0] in firsts.translate(alike)


def _may_begin(part: str, least: int, needle: str, alike: Alike) -> bool:
    """Whether needle is what part begins with, at least so much of it as it is, and may go on in escapes."""
    same = _common(part.translate(alike), needle)
    return same >= least and (same == len(needle) or not _SIGNS.isdisjoint(part[least : same + 1]))


def _common(one: str, other: str) -> int:
    for at, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return at
    return min(len(one), len(other))


def _end_of(text: str, begin: int, needle: str, alike: Alike) -> int | None:
    """Where the needle ends that begins there, however it is escaped; None where there is none."""
    size, goes_on = len(needle) + WINDOW, True
    while goes_on:
        inner, starts = text[begin : begin + size], range(begin, begin + size + 1)
        goes_on, at = False, list(starts[: len(inner) + 1])
        for _ in range(ROUNDS + 1):
            read, places = bare_at(inner, at)
            same = _common(read.translate(alike), needle)
            if same == len(needle):
                return places[same]
            goes_on = goes_on or (places[same] - begin > size // 2 and size < same * WIDEST)
            layer = loosened_at(inner, at)
            if layer is None:
                break
            inner, at = layer
        goes_on, size = goes_on and begin + size < len(text), size * 2
    return None


__all__ = ["behind_signs"]
