"""What finds the patterns of a role and level in a text: one search for all of them, then, in a hit, for the first."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property, lru_cache, partial
from typing import Final, NamedTuple

from toolpost.security.patterns import CERTAIN, CRUDE, LIKELY, SUSPECT, Pattern, Search, any_of, refuse
from toolpost.security.patterns_command import COMMAND
from toolpost.security.patterns_place import PLACE
from toolpost.security.patterns_script import SCRIPT
from toolpost.security.patterns_sql import SQL
from toolpost.security.roles import Level, Role
from toolpost.security.typed import is_not_public, reaches_inside
from toolpost.security.views import has_comment, in_unicode, is_plain, normalised, without_comments

_NUL: Final = refuse(
    "control.nul",
    "text sql html shell regex template",
    CERTAIN,
    "it holds a NUL character; remove it",
    r"\x00",
    raw=True,
)
OVER_ENCODED: Final = refuse(
    "size.encoding", "", CERTAIN, "it is encoded too often to look through; send it as plain text", "x"
)
PATTERNS: Final[tuple[Pattern, ...]] = (_NUL, *SQL, *SCRIPT, *COMMAND, *PLACE)

HEAD: Final = 1000
"""Characters of plain text that are looked at; a longer one is a document, which may tell of attacks."""
_LINES: Final = 4
_NO_LETTER: Final = r"[\x00-@\[-`{-\xbf\u2010-\u205e]*"
_VALUE: Final = (
    "^(?:" + _NO_LETTER + r"[a-z0-9_.@%-]*" + _NO_LETTER + r"(?:<.*)?"  # one word, and tags
    r"|[\x21-\x7e]*"  # no space
    r"|\s*(?:[-+]?(?:\d+\W|\()|['\")@;$\\]).*)"  # what begins like a value: a number, or what would end one
)
_STATEMENT = re.compile(
    r"[\s(]*(?:select|with|insert|update|delete|create|alter|drop|explain|merge)\b", re.IGNORECASE
).match

_PAGE = re.compile(r"\s*<(?:!doctype html|html(?: lang\b|>))", re.IGNORECASE).match
_PROSE = re.compile(
    r"\s*(?!(?:union|select|order|group|x?or|and|having|exec(?:ute)?|declare|waitfor|binary|net|reg|perl|which|sleep|cat|curl|wget"
    r"|begin|procedure|into|null|true|false|not|like|limit|var|let|if|test|javascript|echo|onload)\b)"
    r"[A-Za-z]+[,:]?\s+(?!(?:union|having)\b)(?:[A-Za-z]{2,}[\s,.]|.*\b(?:the|an?|how|why|what|you|we|this|that|please)\b)",
    re.DOTALL | re.IGNORECASE,
).match
_NEVER_PLAIN: Final = {"path.deep-traversal", "path.system-value", "script.markup-value"}


class Found(NamedTuple):
    """A pattern, and the view of the value in which it was found."""

    pattern: Pattern
    view: str


def patterns_for(role: Role, level: Level, untrusted: bool) -> tuple[Pattern, ...]:
    """The patterns that run for a role at a level, surest first."""
    if level == "low" or role == "skip":
        return ()
    limit = _limit(role, level, untrusted)
    everywhere = level == "strict"
    family = "text" if role == "document" else role
    chosen = [p for p in PATTERNS if family in p.roles or (everywhere and not p.own)]
    return tuple(sorted((p for p in chosen if p.sure <= limit), key=lambda p: p.sure))


def _limit(role: Role, level: Level, untrusted: bool) -> int:
    if level == "strict":
        return CRUDE
    if role == "text":
        return LIKELY + (level == "high" and untrusted)
    if role == "document":
        return CERTAIN + (level == "high") + untrusted
    return SUSPECT if level == "high" else LIKELY


@lru_cache(maxsize=128)
def finder(role: Role, level: Level, untrusted: bool, private: tuple[str, ...] = ()) -> Finder | None:
    """What looks for the patterns of a screen; None where there are none."""
    patterns = patterns_for(role, level, untrusted)
    if not patterns:
        return None
    if private and role == "url":
        patterns = tuple(
            replace(p, find=partial(reaches_inside, private=private)) if p.find is is_not_public else p
            for p in patterns
        )
    if level == "medium" and not untrusted:
        if role == "document":
            return HeadFinder(patterns)
        if role == "text":
            return PlainFinder(patterns)
    return Finder(patterns)


_LONG: Final = 10_000
"""Characters from which on it pays to ask for half of the patterns at once, then for half of those."""
_MORE_VIEWS: Final = r"[%&\\\x00]|[^\x00-\x7f]|\+A|/\*|(?:#|--)[^\n]*\n"
"""What a value has to hold to be looked at decoded, or without comments, too."""


class Finder:
    """Looks for patterns anywhere in any view of a value; the searches are compiled when the first value comes."""

    before: str = ""
    """What may stand before a match, at the start of the value; anything when empty."""

    def __init__(self, patterns: Sequence[Pattern]):
        self.patterns = tuple(patterns)
        self._functions = tuple(p for p in patterns if not isinstance(p.find, str))
        expressions = [p for p in patterns if isinstance(p.find, str)]
        self._raw = tuple(p for p in expressions if p.raw)
        self._seen = tuple(p for p in expressions if not p.raw)
        self._spaced = tuple(p for p in self._seen if p.spaced)

    @cached_property
    def _searches(self) -> tuple[Search, Search]:
        """For the raw patterns, and for those that look at every view."""
        return self._any(self._raw), self._hints(self._seen)

    @cached_property
    def _spaced_search(self) -> Search:
        return self._any(self._spaced)

    @cached_property
    def quick(self) -> Search:
        """One search that says of most harmless values that nothing will be found; for the rest ask find()."""
        if self._functions:
            return _anything
        return any_of([p.hinted() for p in (*self._raw, *self._seen)], self.before, _MORE_VIEWS)

    def find(self, value: str) -> Pattern | None:
        """The first pattern found in the first view that holds any; None for none. Raises OverEncodedError."""
        for found in self.findings(value):
            return found.pattern
        return None

    def findings(self, value: str) -> Iterator[Found]:
        """Each pattern found and the first view that holds it. Raises OverEncodedError."""
        value = in_unicode(value)
        told: set[str] = set()
        for view, patterns in self._hits(value):
            for pattern in self._held(patterns, view):
                if pattern.rule not in told:
                    told.add(pattern.rule)
                    yield Found(pattern, view)
        for pattern in self._functions:
            if pattern.find(value):  # type: ignore[operator]
                yield Found(pattern, value)

    def _hits(self, value: str) -> Iterator[tuple[str, Sequence[Pattern]]]:
        """The views that hold something, and the patterns that it may be."""
        raw, seen = self._searches
        if raw(value):
            yield value, self._raw
        for view in _views(value):
            if seen(view):
                yield view, self._seen
            if self._spaced and has_comment(view):
                bare = without_comments(view)
                if bare is not view and self._spaced_search(bare):
                    yield bare, self._spaced

    def _held(self, patterns: Sequence[Pattern], view: str) -> Iterator[Pattern]:
        """Those of the patterns that a view holds, which holds one of them, or a hint of one."""
        if len(patterns) == 1 and not patterns[0].hint:
            yield patterns[0]
            return
        if len(patterns) == 1 or len(view) < _LONG:
            yield from (pattern for pattern in patterns if self._any([pattern])(view))
            return
        half = len(patterns) // 2
        first, second = patterns[:half], patterns[half:]
        if not self._hints(first)(view):  # so it is of the second half
            yield from self._held(second, view)
            return
        yield from self._held(first, view)
        if self._hints(second)(view):
            yield from self._held(second, view)

    def _hints(self, patterns: Sequence[Pattern]) -> Search:
        return self._any([pattern.hinted() for pattern in patterns])

    def _any(self, patterns: Sequence[Pattern]) -> Search:
        return any_of(patterns, self.before)


class HeadFinder(Finder):
    """Looks at the start of a document: for one that is an attack as a whole. A NUL is found wherever it is."""

    def findings(self, value: str) -> Iterator[Found]:
        yield from super().findings(_head(value))


class PlainFinder(Finder):
    """Looks through text that goes nowhere dangerous: for values that are attacks as a whole, not for text about them.

    A short value, of few lines, is judged by all patterns, but they have to begin where a value would end, not after
    words; a long one, a page and prose as documents are. What is a SQL statement has none injected.
    """

    before = _VALUE

    def __init__(self, patterns: Sequence[Pattern]):
        super().__init__([p for p in patterns if p.rule not in _NEVER_PLAIN])
        self._document = HeadFinder([p for p in patterns if p.sure == CERTAIN])

    def findings(self, value: str) -> Iterator[Found]:
        if len(value) > HEAD or value.count("\n") >= _LINES or _PAGE(value) or _PROSE(value):
            yield from self._document.findings(value)
            return
        stated = _STATEMENT(value) is not None
        for found in super().findings(value):
            if not (stated and found.pattern.kind == "sql"):
                yield found


def _anything(value: str) -> bool:
    return True


def _head(value: str) -> str:
    """The start of a value, and a NUL if it holds any: one is found wherever it is."""
    return value[:HEAD] + ("\0" if "\0" in value else "")


def _views(value: str) -> Iterator[str]:
    """The views of a value one after the other, as most need only the first."""
    yield value
    if not is_plain(value):
        yield from normalised(value)[1:]
