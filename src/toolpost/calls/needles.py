"""Needles: the forms in which secrets may stand in a text, and how they are found there without being shown."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, NamedTuple
from urllib.parse import unquote, urlsplit

import orjson

from toolpost.calls.disguises import (
    ANY,
    EACH,
    ROUNDS,
    around,
    bare,
    bare_at,
    bare_forms,
    has_escapes,
    loosened,
    loosened_at,
    undone,
    undone_at,
)
from toolpost.calls.lone_signs import behind_signs
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

SCANT: Final = 3
"""What is left of a secret without its backslashes is looked for, with backslashes, from so many characters on."""
TAIL: Final = 4096
"""How much of the end of a text is looked at for the beginning of a secret that was cut off there."""
ENCODED: Final = 10
"""How many characters of a base64 or hexadecimal encoding tell that it is a secret's."""
_HALF_AN_ESCAPE: Final = re.compile(
    r"(?:%(?:25)*[0-9A-Fa-f]?|\\+(?:u[0-9A-Fa-f]{0,3}|x[0-9A-Fa-f]?|U[0-9A-Fa-f]{0,7}|[0-3][0-7]?)?|&(?:#[xX]?)?[0-9A-Za-z]{0,7})\Z"
)
_RUN_AT_THE_END: Final = re.compile(r"(?<![A-Za-z0-9+/_\r\n-])[A-Za-z0-9+/_\r\n-]{10,}\Z")
_IN_A_ROW: Final = re.compile(r"\\+")

Span = tuple[int, int]


class Forms(NamedTuple):
    """What one secret is looked for as: itself, with '+' and ' ' taken for each other, and within encodings."""

    plain: tuple[str, ...]
    bare: tuple[str, ...]
    scant: tuple[tuple[str, int], ...]
    folded: tuple[str, ...]
    base64: tuple[str, ...]
    base64_alone: tuple[str, ...]
    hex: tuple[str, ...]


def forms_of(value: str | bytes) -> Forms:
    """All forms of a secret and of the secrets within it: the password of a URL, lines of a key, members of JSON."""
    plain: dict[str, None] = {}
    cores: dict[str, None] = {}
    alone: dict[str, None] = {}
    hexes: dict[str, None] = {}
    for text, raw in _secrets_in(value):
        plain[text] = None
        if not text.isascii():  # read as what it is not
            for wide in ("utf-8", "utf-16-le", "utf-16-be"):
                plain[text.encode(wide, "surrogatepass").decode("latin-1")] = None
        plain.update((text.replace(quote, quote * 2), None) for quote in "\"'" if quote in text)  # SQL, CSV
        plain.update(dict.fromkeys(_undone(text)))
        encodings = list(_base64_of(raw))
        cores.update(dict.fromkeys(encodings))
        alone[encodings[0]] = None
        hexes[raw.hex()] = None
    bares = {form: count for text in plain for form, count in _bare_of(text)}
    bare = tuple(form for form in bares if len(form) >= SHORTEST)
    scant = tuple((form, count) for form, count in bares.items() if SCANT <= len(form) < SHORTEST and count)
    folded = tuple(text.replace("+", " ") for text in (*plain, *bare) if "+" in text or " " in text)
    return Forms(tuple(plain), bare, scant, folded, tuple(cores), tuple(alone), tuple(hexes))


def _undone(text: str) -> Iterator[str]:
    """What a secret that looks like an escape itself becomes where the escapes around it are undone."""
    for _ in range(ROUNDS):
        inner = undone(text)
        if inner is None or len(inner) < SHORTEST:
            return
        yield inner
        text = inner


def _bare_of(text: str) -> Iterator[tuple[str, int]]:
    """What is looked for among bare texts: what stays of a secret there, and of what it becomes.

    And how many backslashes it had, those in a row counted once.
    """
    layer: str | None = text
    for _ in range(ROUNDS + 1):
        if layer is not None:
            yield from ((form, len(_IN_A_ROW.findall(layer))) for form in bare_forms(layer))
            layer = loosened(layer)


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
    begins: Callable[[str], tuple[int, str]]
    """How many characters at the end of a text are the beginning of a secret that was cut off there, and which it is.

    It may be escaped, or in base64 or hexadecimal, of which the whole run is meant.
    """

    def __init__(self, known: Iterable[Forms], many: ManyNeedles | None = None) -> None:
        known, many = list(known), many or ManyNeedles()
        plain = _longest_first(text for forms in known for text in forms.plain)
        bared = _longest_first(text for forms in known for text in forms.bare)
        scant = tuple(dict.fromkeys(one for forms in known for one in forms.scant))
        folded = _longest_first(text for forms in known for text in forms.folded)
        cores = tuple(dict.fromkeys(text for forms in known for text in forms.base64))
        alone = tuple(dict.fromkeys(text for forms in known for text in forms.base64_alone))
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

        behind = behind_signs(
            ((*bared, *(form for form, _ in scant)), {}),
            (folded, {ord("+"): " "}),
            (alone, {ord("-"): "+", ord("_"): "/"}),
        )

        def plainly(text: str, needles: tuple[str, ...] = plain) -> bool:
            for needle in needles:
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
            if not has_escapes(text):
                return False
            if any(deeper(near(text, kind), kind) for kind in kinds[1:]):
                return True
            text = near(text, ANY)
            return deeper(text, ANY) or loosely(text)

        def near(text: str, kind: re.Pattern[str]) -> str:
            return around(text, kind, max(reach, many.longest()))  # what is found elsewhere was found before

        def loosely(text: str) -> bool:
            layer: str | None = text
            for _ in range(ROUNDS + 1):
                if layer is None:
                    return False
                text = layer
                if plainly(bare(text), bared) or any(True for _ in behind(text)):
                    return True
                if any(form in bare(text) for form, _ in scant) and any(True for _ in scantly(text)):
                    return True
                layer = loosened(text)
            return False

        def scantly(text: str) -> Iterator[Span]:
            """Where a secret with backslashes may stand of which little else is left: where there are as many."""
            read, places = bare_at(text, range(len(text) + 1))
            for form, count in scant:
                for begin, end in _places(form, read):
                    first = places[begin - 1] + 1 if begin else 0
                    if len(_IN_A_ROW.findall(text, first, places[end])) >= count:
                        yield first, places[end]

        def deeper(text: str, kind: re.Pattern[str]) -> bool:
            for _ in range(ROUNDS):
                inner = undone(text, kind)
                if inner is None:
                    return False
                if plainly(inner):
                    return True
                text = inner
            return False

        def within(text: str, needles: tuple[str, ...] = plain) -> Iterator[Span]:
            for needle in needles:
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
            if len(text) <= MOST_UNDONE and has_escapes(text):
                found += loose(text)
            return _merged(found)

        def loose(text: str) -> Iterator[Span]:
            layer: tuple[str, Sequence[int]] | None = text, range(len(text) + 1)
            for _ in range(ROUNDS + 1):
                if layer is not None:
                    read, places = bare_at(*layer)
                    yield from ((places[begin], places[end]) for begin, end in within(read, bared))
                    for find in (behind, scantly):
                        yield from ((layer[1][begin], layer[1][end]) for begin, end in find(layer[0]))
                    layer = loosened_at(*layer)

        def begins(text: str) -> tuple[int, str]:
            tail = text[-TAIL:]
            for whole in (tail, _HALF_AN_ESCAPE.sub("", tail)):
                layer: tuple[str, Sequence[int]] | None = whole, range(len(whole) + 1)
                for _ in range(ROUNDS + 1):
                    if layer is not None:
                        read, starts = layer
                        size = plainly_begins(read) or encoded_begins(read)
                        if size:
                            return len(tail) - starts[len(read) - size], read[-size:]
                        layer = undone_at(read, starts)
            return 0, ""

        def encoded_begins(text: str) -> int:
            found = _RUN_AT_THE_END.search(text)
            run = "" if found is None else found[0].replace("\r", "").replace("\n", "")
            canonical, lower = run.replace("-", "+").replace("_", "/"), run.lower()
            for known, read in ((cores, canonical), (hexes, lower)):
                if run and any(read[-ENCODED:] in one and _ends_in(read, one, ENCODED) for one in known):
                    return len(text) - (found.start() if found else 0)
            return 0

        def plainly_begins(text: str) -> int:
            longest = many.begins(text, SHORTEST)
            for needles, read in ((plain, text), (folded, text.replace("+", " ") if folded else "")):
                tail = read[-SHORTEST:]
                for needle in needles:
                    if len(tail) == SHORTEST and tail in needle:
                        scheme = needle.find("://") + 3 if "://" in needle else 0
                        longest = max(longest, _ends_in(read, needle, max(longest + 1, SHORTEST + scheme)))
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


def _ends_in(text: str, needle: str, least: int) -> int:
    """How many characters of needle's beginning, at least so many and not all, a text ends with."""
    return next((size for size in range(len(needle) - 1, least - 1, -1) if text.endswith(needle[:size])), 0)


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
