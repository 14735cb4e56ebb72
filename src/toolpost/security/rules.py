"""Screens text by the role of its parameter and refuses what looks like an attack; roles.py holds the patterns."""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from functools import lru_cache, partial
from itertools import chain
from pathlib import PurePath
from typing import Any, Final, TypeAlias

from toolpost.calls.errors import ConfigurationError
from toolpost.security.roles import CERTAIN, LEVELS, ROLES, Form, Level, Pattern, Role, patterns_for, role_of

__all__ = ["Finding", "Level", "Role", "Rule", "Screen", "normalised", "role_of", "screen_text"]

Rule: TypeAlias = Callable[[str, str], str | None]
"""A plugin's rule: (value, role) -> why it is refused, or None. The reason must not repeat the value."""

MAX_DEPTH: Final = 64
MAX_NODES: Final = 1_000_000
MAX_DECODINGS: Final = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Why a value was refused; it never holds the value.

    rule is a stable id such as "sql.stacked-statement", kind what comes before its dot (for a plugin's rule
    "plugin"), role the role the value was judged under, why one sentence a model or a person can act on.
    """

    rule: str
    role: str
    kind: str
    why: str


class Screen:
    """What one parameter's values must pass; compiled once, safe from any thread.

    max_chars bounds the text of a value, all its strings and keys together. extra are plugins' rules; they see
    each string as it came, at every level, but not under the role skip. untrusted says that the text goes
    somewhere dangerous. Raises ConfigurationError for an unknown role or level.
    """

    __slots__ = ("_extra", "_find", "_max_chars", "_plain", "level", "role")

    def __init__(
        self,
        role: Role,
        level: Level,
        *,
        untrusted: bool = False,
        max_chars: int | None = None,
        extra: Sequence[Rule] = (),
    ):
        if role not in ROLES:
            raise ConfigurationError(f"role {role!r} does not exist; the roles are {', '.join(ROLES)}")
        if level not in LEVELS:
            raise ConfigurationError(f"security level {level!r} does not exist; the levels are {', '.join(LEVELS)}")
        self.role: Role = role
        self.level: Level = level
        self._max_chars = max_chars
        self._extra = () if role == "skip" else tuple(extra)
        self._find, surest = _finder(role, level, untrusted)
        self._plain = surest and max_chars is None and not self._extra

    @property
    def empty(self) -> bool:
        """Whether there is nothing to check, so that the stage need not be compiled in."""
        return self._find is None and not self._extra and self._max_chars is None

    def check(self, value: Any) -> Finding | None:
        """The first reason to refuse a value, or None.

        Strings are judged, also in lists, mappings (keys too), dataclasses and pydantic models; other scalars
        pass. What is nested over 64 levels deep, or holds over a million values, is refused.
        """
        if type(value) is str and (self._max_chars is None or len(value) <= self._max_chars):
            return None if self._plain and _plainly_harmless(value) else self._judge(value)
        return self._walk(value)

    def _walk(self, value: Any) -> Finding | None:
        opened: list[Iterator[Any]] = [iter((value,))]
        nodes = chars = 0
        while opened:
            for item in opened[-1]:
                nodes += 1
                if nodes > MAX_NODES:
                    return self._finding("size.items", f"it holds over {MAX_NODES} values; send fewer")
                if type(item) in _SCALARS:
                    continue
                text = _text_of(item)
                if text is None:
                    if len(opened) > MAX_DEPTH:
                        return self._finding("size.depth", f"it is nested over {MAX_DEPTH} levels deep; flatten it")
                    opened.append(_parts_of(item))
                    break
                chars += len(text)
                if self._max_chars is not None and chars > self._max_chars:
                    return self._too_large()
                finding = self._judge(text)
                if finding is not None:
                    return finding
            else:
                opened.pop()
        return None

    def _judge(self, value: str) -> Finding | None:
        pattern = self._find(value) if self._find is not None else None
        if pattern is not None:
            return self._finding(pattern.rule, pattern.why)
        for rule in self._extra:
            why = rule(value, self.role)
            if why is not None:
                return self._finding(f"plugin.{getattr(rule, '__name__', type(rule).__name__)}", str(why))
        return None

    def _too_large(self) -> Finding:
        return self._finding("size.text", f"it holds over {self._max_chars} characters of text; send less")

    def _finding(self, rule: str, why: str) -> Finding:
        return Finding(rule=rule, role=self.role, kind=rule.partition(".")[0], why=why)


def screen_text(value: str, *, role: Role = "text", level: Level = "medium", untrusted: bool = False) -> Finding | None:
    """Judge one text as a parameter of that role would be: the reason to refuse it, or None."""
    return Screen(role, level, untrusted=untrusted).check(value)


def normalised(value: str) -> list[str]:
    """A value as it came, then as an interpreter further on may come to see it: at most seven views.

    Decoded are percent encodings (nested, %uNNNN, overlong UTF-8), HTML entities, \\xNN, \\uNNNN and \\u{N},
    compatibility characters (NFKC); the last view lacks NULs and invisible characters. No view is over four times
    as long as the value, and the work is linear in it.
    """
    views = [value]
    for _ in range(MAX_DECODINGS):
        decoded = _decoded(views[-1])
        if decoded == views[-1]:
            break
        views.append(decoded)
    bare = _UNSEEN.sub("", views[-1])
    if bare != views[-1]:
        views.append(bare)
    return views


Check: TypeAlias = tuple[Pattern, Callable[[str], object]]

_SCALARS: Final = frozenset({int, float, bool, type(None), bytes})
_HEAD: Final = 400  # no pattern that looks at the start of a value looks further
_BARE = re.compile(r"[a-zA-Z0-9_ ,.!?]*+\Z").match
_UNSEEN = re.compile("[\x00\xad\u200b-\u200f\u202a-\u202e\u2060\u2066-\u2069\ufeff]")
_ESCAPE = re.compile(r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|u\{([0-9a-fA-F]{1,6})\})")
_WIDE_PERCENT = re.compile(r"%[uU]([0-9a-fA-F]{4})")
_PERCENT = re.compile(r"(?:%[0-9a-fA-F]{2})+")
_OVERLONG = re.compile(
    rb"[\xc0\xc1][\x80-\xbf]|\xe0[\x80-\x9f][\x80-\xbf]|\xf0[\x80-\x8f][\x80-\xbf]{2}"
    rb"|\xf8[\x80-\x87][\x80-\xbf]{3}|\xfc[\x80-\x83][\x80-\xbf]{4}"
)
_SQL_COMMENT = re.compile(r"/\*!\d{0,6}|/\*.*?\*/|\*/", re.DOTALL)
_COMMENT = re.compile(r"/\*.*?\*/", re.DOTALL)
_CONTROL = re.compile(r"[\x00-\x1f]+")


@lru_cache(maxsize=128)
def _finder(role: Role, level: Level, untrusted: bool) -> tuple[Callable[[str], Pattern | None] | None, bool]:
    """What finds the patterns of a screen, and whether they are the surest only."""
    checks = tuple((pattern, pattern.search()) for pattern in patterns_for(role, level, untrusted))
    if not checks:
        return None, False
    if all(pattern.sure == CERTAIN for pattern, _ in checks):
        return partial(_at_start, checks), True
    bare = tuple(check for check in checks if check[0].bare) if role == "text" and level != "strict" else checks
    return partial(_anywhere, checks, bare), False


def _plainly_harmless(value: str) -> bool:
    """Whether none of the surest patterns can be in a value, at a tenth of a regular expression's cost."""
    return not ("'" in value or '"' in value or "/" in value or "\0" in value or value[:1] in "0123456789-.\\;|&")


def _at_start(checks: tuple[Check, ...], value: str) -> Pattern | None:
    """What the surest patterns find, which look at a value as it came and at its start only."""
    return None if _plainly_harmless(value) else _first(checks, value, value[:_HEAD])


def _anywhere(checks: tuple[Check, ...], bare: tuple[Check, ...], value: str) -> Pattern | None:
    """What any pattern finds in any view of a value; bare are those that can be found in bare words."""
    if _BARE(value) is not None:
        return _first(bare, value, value)
    for view in normalised(value):
        pattern = _first(checks, value, view)
        if pattern is not None:
            return pattern
    return None


def _first(checks: tuple[Check, ...], value: str, view: str) -> Pattern | None:
    """The first pattern found in a view of a value."""
    low = view.lower()
    forms: dict[Form, str] = {"raw": value, "low": low}
    for pattern, search in checks:
        form = pattern.form
        if pattern.words:
            # What a word needs in the flat form stands in the low form too; only dense joins letters.
            text = _form(forms, "dense") if form == "dense" else forms["raw" if form == "raw" else "low"]
            for word in pattern.words:
                if word in text:
                    break
            else:
                continue
        if search(_form(forms, form)):
            return pattern
    return None


def _form(forms: dict[Form, str], form: Form) -> str:
    text = forms.get(form)
    if text is None:
        text = forms[form] = _flat(forms["low"]) if form == "flat" else _dense(forms["low"])
    return text


def _flat(low: str) -> str:
    # A plus is a space in the encoding of forms, and some readers skip a NUL.
    return " ".join(_without(_SQL_COMMENT, low).replace("+", " ").replace("\0", " ").split())


def _dense(low: str) -> str:
    return _CONTROL.sub("", "".join(_without(_COMMENT, low).split()))


def _without(comment: re.Pattern[str], low: str) -> str:
    """Comments become one space, up to where the last one ends: an open one stays, and is not searched for an end."""
    end = low.rfind("*/") + 2
    return comment.sub(" ", low[:end]) + low[end:] if end > 1 else low


def _decoded(view: str) -> str:
    if "%" in view:
        view = _PERCENT.sub(_bytes, _WIDE_PERCENT.sub(_escaped, view))
    if "&" in view:
        view = html.unescape(view)
    if "\\" in view:
        view = _ESCAPE.sub(_escaped, view)
    return view if view.isascii() else _compatible(view)


def _bytes(run: re.Match[str]) -> str:
    raw = bytes.fromhex(run[0].replace("%", ""))
    return _OVERLONG.sub(_shortest, raw).decode("utf-8", "ignore")


def _shortest(overlong: re.Match[bytes]) -> bytes:
    lead, *rest = overlong[0]
    code = lead & 0x1F if lead < 0xE0 else 0
    for byte in rest:
        code = code << 6 | byte & 0x3F
    return chr(code).encode("utf-8", "ignore")


def _escaped(escape: re.Match[str]) -> str:
    code = int(escape[escape.lastindex or 1], 16)
    return chr(code) if code < 0xD800 or 0xDFFF < code < 0x110000 else ""


def _compatible(view: str) -> str:
    """NFKC in short pieces, as sorting a long run of combining marks takes quadratic time."""
    pieces = (view[i : i + 256] for i in range(0, len(view), 256))
    return "".join(_folded(piece) for piece in pieces)


def _folded(piece: str) -> str:
    folded = unicodedata.normalize("NFKC", piece)
    return folded if len(folded) <= 2 * len(piece) else piece


def _text_of(item: Any) -> str | None:
    """The text of a scalar, "" for one that is no text, None for what has parts."""
    if isinstance(item, str):
        return item
    if isinstance(item, PurePath) or hasattr(type(item), "unicode_string"):  # the latter are pydantic's addresses
        return str(item)
    if isinstance(item, (Mapping, list, tuple, set, frozenset)) or _has_fields(item):
        return None
    return ""


def _has_fields(item: Any) -> bool:
    return (is_dataclass(item) or hasattr(item, "__pydantic_fields__")) and not isinstance(item, type)


def _parts_of(item: Any) -> Iterator[Any]:
    if isinstance(item, Mapping):
        return chain(item.keys(), item.values())
    if isinstance(item, (list, tuple, set, frozenset)):
        return iter(item)
    if is_dataclass(item):
        return iter([getattr(item, field.name, None) for field in fields(item)])
    return chain(vars(item).values(), (item.__pydantic_extra__ or {}).values())
