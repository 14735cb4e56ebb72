"""Screens text by the role of its parameter and refuses what looks like an attack; what does, patterns_*.py say."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum
from itertools import chain
from pathlib import PurePath
from typing import Any, Final, TypeAlias

from toolpost.calls.errors import ConfigurationError
from toolpost.security.finders import OVER_ENCODED, Finder, finder
from toolpost.security.patterns import Pattern, Search
from toolpost.security.roles import LEVELS, ROLES, Level, Role, role_of
from toolpost.security.typed import MAX_IDENTIFIER
from toolpost.security.views import OverEncodedError, normalised

__all__ = ["Finding", "Level", "Role", "Rule", "Screen", "normalised", "role_of", "screen_text"]

Rule: TypeAlias = Callable[[str, str], str | None]
"""A plugin's rule: (value, role) -> why it is refused, or None. The reason must not repeat the value."""

MAX_DEPTH: Final = 64
MAX_NODES: Final = 1_000_000
QUICK: Final = 10_000
"""Characters up to which a harmless text is told by one search; in a longer one a second search would be felt."""


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
    somewhere dangerous. private holds what an address may lead to though it is not public, as Egress.private does.
    Raises ConfigurationError for an unknown role or level.
    """

    __slots__ = ("_extra", "_finder", "_max_chars", "_most", "_quick", "_size", "level", "role")

    def __init__(
        self,
        role: Role,
        level: Level,
        *,
        untrusted: bool = False,
        max_chars: int | None = None,
        extra: Sequence[Rule] = (),
        private: Sequence[str] = (),
    ):
        if role not in ROLES:
            raise ConfigurationError(f"role {role!r} does not exist; the roles are {', '.join(ROLES)}")
        if level not in LEVELS:
            raise ConfigurationError(f"security level {level!r} does not exist; the levels are {', '.join(LEVELS)}")
        self.role: Role = role
        self.level: Level = level
        self._max_chars = max_chars
        self._extra = () if role == "skip" else tuple(extra)
        self._finder: Finder | None = finder(role, level, untrusted, tuple(private))
        self._size = _SIZES.get(role) if level != "low" else None
        self._most = min(size for size in (QUICK, max_chars, self._size) if size is not None)
        self._quick: Search | None = None

    @property
    def empty(self) -> bool:
        """Whether there is nothing to check, so that the stage need not be compiled in."""
        return self._finder is None and not self._extra and self._max_chars is None

    def check(self, value: Any) -> Finding | None:
        """The first reason to refuse a value, or None.

        Strings are judged, also in lists, mappings (keys too), dataclasses and pydantic models; other scalars
        pass. What is nested over 64 levels deep, or holds over a million values, is refused.
        """
        if type(value) is str and len(value) <= self._most:
            quick = self._quick
            if quick is None:
                quick = self._quick = self._ask_quickly()
            try:
                return self._judge(value) if quick(value) else None
            except UnicodeEncodeError:
                return self._judge(value)
        return self._walk(value)

    def _ask_quickly(self) -> Search:
        """What says of most harmless texts that there is nothing to find; True asks for a closer look."""
        return _always if self._extra else _never if self._finder is None else self._finder.quick

    def explain(self, value: str) -> list[tuple[Finding, str]]:
        """Every reason to refuse a text, with the view of it in which it was found; for people who look at rules."""
        found: list[tuple[Finding, str]] = []
        if self._size is not None and len(value) > self._size:
            found.append((self._too_large(self._size), value))
        elif self._finder is not None:
            try:
                for one in self._finder.findings(value):
                    found.append((self._found(one.pattern), one.view))
            except OverEncodedError:
                found.append((self._found(OVER_ENCODED), value))
        found += [(finding, value) for rule in self._extra if (finding := self._by_plugin(rule, value)) is not None]
        return found

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
                    return self._too_large(self._max_chars)
                finding = self._judge(text)
                if finding is not None:
                    return finding
            else:
                opened.pop()
        return None

    def _judge(self, value: str) -> Finding | None:
        if self._size is not None and len(value) > self._size:
            return self._too_large(self._size)
        if self._finder is not None:
            try:
                pattern = self._finder.find(value)
            except OverEncodedError:
                pattern = OVER_ENCODED
            if pattern is not None:
                return self._found(pattern)
        for rule in self._extra:
            finding = self._by_plugin(rule, value)
            if finding is not None:
                return finding
        return None

    def _by_plugin(self, rule: Rule, value: str) -> Finding | None:
        why = rule(value, self.role)
        if why is None:
            return None
        return self._finding(f"plugin.{getattr(rule, '__name__', type(rule).__name__)}", str(why))

    def _too_large(self, most: int) -> Finding:
        return self._finding("size.text", f"it holds over {most} characters of text; send less")

    def _found(self, pattern: Pattern) -> Finding:
        return self._finding(pattern.rule, pattern.why)

    def _finding(self, rule: str, why: str) -> Finding:
        return Finding(rule=rule, role=self.role, kind=rule.partition(".")[0], why=why)


def screen_text(value: str, *, role: Role = "text", level: Level = "medium", untrusted: bool = False) -> Finding | None:
    """Judge one text as a parameter of that role would be: the reason to refuse it, or None."""
    return Screen(role, level, untrusted=untrusted).check(value)


def _always(value: str) -> bool:
    return True


def _never(value: str) -> bool:
    return False


_NO_PARTS: Final = (bytes, bytearray, memoryview, range)
_SCALARS: Final = frozenset({int, float, bool, type(None), bytes})
_SIZES: Final[Mapping[Role, int]] = {
    "identifier": MAX_IDENTIFIER,
    "path": 4096,
    "url": 8192,
    "sql": 100_000,
    "shell": 100_000,
    "regex": 10_000,
}
"""Characters that a value of a role may have at most, at every level but low: what is longer is none."""


def _text_of(item: Any) -> str | None:
    """The text of a scalar, "" for one that is no text, None for what has parts."""
    if isinstance(item, Enum):
        item = item.value
    if isinstance(item, str):
        return str.__str__(item)  # searches know the type itself only
    if hasattr(type(item), "get_secret_value"):  # as pydantic's secrets have
        return str(item.get_secret_value())
    if isinstance(item, PurePath) or hasattr(type(item), "unicode_string"):  # the latter are pydantic's addresses
        return str(item)
    if _has_parts(item) or _has_fields(item):
        return None
    return ""


def _has_parts(item: Any) -> bool:
    return isinstance(item, Collection) and not isinstance(item, _NO_PARTS)


def _has_fields(item: Any) -> bool:
    return (is_dataclass(item) or hasattr(item, "__pydantic_fields__")) and not isinstance(item, type)


def _parts_of(item: Any) -> Iterator[Any]:
    if isinstance(item, Enum):
        item = item.value
    if isinstance(item, Mapping):
        return chain(item.keys(), item.values())
    if _has_parts(item):
        return iter(item)
    if is_dataclass(item):
        return iter([getattr(item, field.name, None) for field in fields(item)])
    return chain(vars(item).values(), (item.__pydantic_extra__ or {}).values())
