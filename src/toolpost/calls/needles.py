"""Needles: the forms in which secrets may stand in a text, and how they are found there without being shown."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Final, NamedTuple
from urllib.parse import unquote, urlsplit

import orjson

from toolpost.calls.disguises import ANY, EACH, ROUNDS, around, has_escapes, undone, undone_at
from toolpost.calls.many_needles import LEAST, ManyNeedles
from toolpost.calls.secret_names import secret_name

SHORTEST: Final = 6
"""Secrets of fewer characters are not hidden by value: they would be found everywhere."""
LINE: Final = 16
"""How long a line of a secret of several lines must be to be hidden by itself as well."""
WRAPPED: Final = 60
"""Lines of at least so many characters may be those of an encoding that was broken into lines."""
MOST_UNDONE: Final = 200_000
"""In a text of so many characters places within escapes are told; a longer one that has any is hidden as a whole."""

Span = tuple[int, int]


class Forms(NamedTuple):
    """What one secret is looked for as: itself, with '+' and ' ' taken for each other, and within encodings."""

    plain: tuple[str, ...]
    folded: tuple[str, ...]
    base64: tuple[str, ...]
    hex: tuple[str, ...]


def forms_of(value: str | bytes) -> Forms:
    """All forms of a secret and of the secrets within it: the password of a URL, lines of a key, members of JSON."""
    plain: dict[str, None] = {}
    cores: dict[str, None] = {}
    hexes: dict[str, None] = {}
    for text, raw in _secrets_in(value):
        plain[text] = None
        if not text.isascii():  # read as what it is not
            for wide in ("utf-8", "utf-16-le", "utf-16-be"):
                plain[text.encode(wide, "surrogatepass").decode("latin-1")] = None
        plain.update(dict.fromkeys(_undone(text)))
        cores.update(dict.fromkeys(_base64_of(raw)))
        hexes[raw.hex()] = None
    folded = tuple(text.replace("+", " ") for text in plain if "+" in text or " " in text)
    return Forms(tuple(plain), folded, tuple(cores), tuple(hexes))


def _undone(text: str) -> Iterator[str]:
    """What a secret that looks like an escape itself becomes where the escapes around it are undone."""
    for _ in range(ROUNDS):
        inner = undone(text)
        if inner is None or len(inner) < SHORTEST:
            return
        yield inner
        text = inner


def _secrets_in(value: str | bytes) -> Iterator[tuple[str, bytes]]:
    if isinstance(value, bytes):
        try:
            text = value.decode()
        except UnicodeDecodeError:
            text = value.decode("latin-1")
            if len(text) >= SHORTEST:
                yield text, value
            return
    else:
        text = value
    for part in dict.fromkeys((text, text.strip(), *_parts_of(text.strip()))):
        if len(part) >= SHORTEST and not part.isspace():
            yield part, part.encode("utf-8", "surrogatepass")


def _parts_of(text: str) -> Iterator[str]:
    if "\n" in text:
        yield from (
            line for line in map(str.strip, text.splitlines()) if len(line) >= LINE and not line.startswith("-----")
        )
        yield text.replace("\r\n", "\n")
    if "://" in text and "@" in text:
        yield from _password_in(text)
    if text[:1] == "{":
        try:
            yield from _secret_members(orjson.loads(text))
        except orjson.JSONDecodeError:
            return


def _password_in(url: str) -> Iterator[str]:
    """The password of a URL; not one that the URL names as something else, too: postgres://postgres:postgres@..."""
    try:
        parts = urlsplit(url)
        others = {parts.username, parts.hostname, parts.path.strip("/")}
    except ValueError:
        return
    if parts.password and parts.password not in others:
        yield from (parts.password, unquote(parts.password))


def _secret_members(value: object) -> Iterator[str]:
    for name, item in value.items() if isinstance(value, dict) else ():
        if isinstance(item, dict):
            yield from _secret_members(item)
        elif isinstance(item, str) and secret_name(name):
            yield from (item, *_parts_of(item))


def _base64_of(raw: bytes) -> Iterator[str]:
    """What is in base64 wherever raw is within what was encoded: the characters that raw alone decides, three times."""
    for before in range(3):
        encoded = base64.b64encode(bytes(before) + raw).decode()
        yield encoded[-(-before * 8 // 6) : (before + len(raw)) * 8 // 6]


class Finder:
    """Finds the secrets of some Forms, and many tokens. They are in closures alone: neither repr nor vars shows any."""

    __slots__ = ("begins", "shows", "spans")

    shows: Callable[[str], bool]
    """Whether a text has a secret in it, in any form."""
    spans: Callable[[str], list[Span]]
    """Where: the places to hide, in order, none touching another."""
    begins: Callable[[str], int]
    """How many characters at the end of a text are the beginning of a secret that was cut off there."""

    def __init__(self, known: Iterable[Forms], many: ManyNeedles | None = None) -> None:
        known, many = list(known), many or ManyNeedles()
        plain = _longest_first(text for forms in known for text in forms.plain)
        folded = _longest_first(text for forms in known for text in forms.folded)
        cores = tuple(dict.fromkeys(text for forms in known for text in forms.base64))
        hexes = tuple(dict.fromkeys(text for forms in known for text in forms.hex))
        shortest = min([LEAST, *map(len, plain)])
        kinds = (ANY, *EACH) if any(c in needle for needle in plain for c in "%\\&") else (ANY,)
        reach = max(map(len, (*plain, *cores, *hexes)), default=0)
        run = b"a" * min([WRAPPED, *map(len, cores + hexes)])

        def encoded(stretch: str) -> bool:
            canonical = stretch.replace("-", "+").replace("_", "/")
            if any(core in canonical for core in cores):
                return True
            lower = stretch.lower()
            return any(digits in lower for digits in hexes) or many.shows(stretch)

        def plainly(text: str) -> bool:
            for needle in plain:
                if needle in text:
                    return True
            if folded:
                unfolded = text.replace("+", " ")
                if any(needle in unfolded for needle in folded):
                    return True
            if many.shows(text):
                return True
            if len(text) < len(run) or run not in text.encode("ascii", "replace").translate(_KINDS):
                return False
            stretches = [text[begin:end] for begin, end in _stretches(text, run)]
            return encoded(" ".join(stretches).replace("\r", "").replace("\n", ""))

        def shows(text: str) -> bool:
            if len(text) < shortest:
                return False
            if plainly(text):
                return True
            return has_escapes(text) and any(deeper(text, kind) for kind in kinds)

        def deeper(text: str, kind: re.Pattern[str]) -> bool:
            text = around(text, kind, max(reach, many.longest()))  # what is found elsewhere was found before
            for _ in range(ROUNDS):
                inner = undone(text, kind)
                if inner is None:
                    return False
                if plainly(inner):
                    return True
                text = inner
            return False

        def within(text: str) -> Iterator[Span]:
            for needle in plain:
                yield from _places(needle, text)
            unfolded = text.replace("+", " ") if folded else ""
            for needle in folded:
                yield from _places(needle, unfolded)
            yield from many.places(text)
            for begin, end in _stretches(text, run):
                if encoded(text[begin:end].replace("\r", "").replace("\n", "")):
                    yield begin, end

        def spans(text: str) -> list[Span]:
            found = list(within(text))
            for kind in kinds if len(text) <= MOST_UNDONE else ():
                inner, starts = text, list(range(len(text) + 1))
                for _ in range(ROUNDS):
                    layer = undone_at(inner, starts, kind)
                    if layer is None:
                        break
                    inner, starts = layer
                    found += [(starts[begin], starts[end]) for begin, end in within(inner)]
            return _merged(found)

        def begins(text: str) -> int:
            tail = text[-SHORTEST:]
            longest = many.begins(text, SHORTEST)
            for needle in plain:
                if tail in needle:
                    scheme = needle.find("://") + 3 if "://" in needle else 0
                    for size in range(len(needle) - 1, max(longest, SHORTEST - 1 + scheme), -1):
                        if text.endswith(needle[:size]):
                            longest = size
                            break
            return longest

        self.shows, self.spans, self.begins = shows, spans, begins

    def __reduce__(self) -> str:
        raise TypeError("secrets are not pickled")


_ALPHABET: Final = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/-_")
_KINDS: Final = bytes(
    ord("a" if c in _ALPHABET else "n" if c in b"\r\n" else "=" if c == 61 else " ") for c in range(256)
)
_STRETCH: Final = re.compile(rb"a+(?:n{1,2}a+)*=*")


def _stretches(text: str, run: bytes) -> Iterator[Span]:
    """Where text may be base64 or hex: at least so long a run of their characters, with the lines that go on from it.

    By a search in the kinds of the characters, which is several times as fast as a pattern over them.
    """
    if len(text) < len(run):
        return
    kinds = text.encode("ascii", "replace").translate(_KINDS)
    at = kinds.find(run)
    while at >= 0:
        found = _STRETCH.match(kinds, at)
        end = at + len(run) if found is None else found.end()
        yield at, end
        at = kinds.find(run, end)


def _longest_first(texts: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(dict.fromkeys(texts), key=len, reverse=True))


def _places(needle: str, text: str) -> Iterator[Span]:
    at = text.find(needle)
    while at >= 0:
        yield at, at + len(needle)
        at = text.find(needle, at + 1)


def _merged(found: Iterable[Span]) -> list[Span]:
    merged: list[Span] = []
    for begin, end in sorted(found):
        if merged and begin <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((begin, end))
    return merged


__all__ = ["Finder", "Forms", "SHORTEST", "forms_of"]
