"""What a pattern is, and how those of a role and level become one search; the patterns themselves are their kinds'."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from typing import Final

from toolpost.security.linear import linear

Search = Callable[[str], bool]

CERTAIN: Final = 0  # the whole value, from its start, is an attack
LIKELY: Final = 1  # hardly ever innocent in this role
SUSPECT: Final = 2  # often an attack, sometimes not
CRUDE: Final = 3  # single words and characters

TEXT: Final = "text"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pattern:
    """One thing that some roles refuse.

    find is a regular expression in the dialect below, or a function of the value. An expression looks at every view of
    a value, upper and lower case alike; a raw one, like a function, at the value as it came only. A pattern of its
    `own` roles stays with them even at level strict.

    hint is an expression for a part of every match. It stands in for one that stays open for long ("<a", then anything
    but ">"), as many of those together would make an automaton of too many states; find is tried where it is found.

    The dialect: that of Rust's crate regex, so without look-around and back references, with ^ and $ for the ends of
    the value, . for any character, and \\b, \\d, \\s, \\w for those of ASCII. In a pattern that is `spaced` a space
    stands for what SQL and forms take for space: one or more spaces, line breaks, NULs and pluses. It looks at the
    views without SQL's comments, too.
    """

    rule: str
    roles: tuple[str, ...]
    sure: int
    why: str
    find: str | Callable[[str], object]
    hint: str = ""
    spaced: bool = False
    raw: bool = False
    own: bool = False

    @property
    def expression(self) -> str:
        """find in the syntax of the engine."""
        assert isinstance(self.find, str)
        return _translated(self.find, self.spaced)

    def hinted(self) -> Pattern:
        """The pattern that finds whatever this one may find, and in a text that is made for it hardly more slowly."""
        return _hinted(self) if self.hint else self

    def search(self) -> Callable[[str], object]:
        """find as a function."""
        return any_of((self,)) if isinstance(self.find, str) else self.find

    @property
    def kind(self) -> str:
        """What stands before the dot of its rule."""
        return self.rule.partition(".")[0]


def refuse(
    rule: str,
    roles: str,
    sure: int,
    why: str,
    *find: str | Callable[[str], object],
    hint: str = "",
    spaced: bool = False,
    raw: bool = False,
    own: bool = False,
) -> Pattern:
    """A pattern, written briefly: several expressions are alternatives."""
    first = find[0]
    joined = first if not isinstance(first, str) else "|".join(f"(?:{part})" for part in find)
    return Pattern(
        rule=rule,
        roles=tuple(roles.split()),
        sure=sure,
        why=why,
        find=joined,
        hint=hint,
        spaced=spaced,
        raw=raw,
        own=own,
    )


@cache
def _hinted(pattern: Pattern) -> Pattern:
    return replace(pattern, find=pattern.hint, hint="")


def any_of(patterns: Sequence[Pattern], before: str = "", besides: str = "") -> Search:
    """One search for whichever of the expressions, each after what may stand before it at the start of the value.

    besides is an expression that may be found anywhere.
    """
    return _found_by(tuple(patterns), before, besides) if patterns or besides else nothing


@lru_cache(maxsize=2048)
def _found_by(patterns: tuple[Pattern, ...], before: str, besides: str) -> Search:
    found = "|".join(f"(?:{pattern.expression})" for pattern in patterns)
    if before and found:
        found = f"{_translated(before, False)}(?:{found})"
    return linear(f"(?s){found}|{besides}" if found and besides else f"(?s){found or besides}")


def nothing(value: str) -> bool:
    """The search for none of no patterns."""
    return False


def scattered(word: str, between: str = r"[\x00-\x20]*") -> str:
    """A word whose letters may stand apart."""
    return between.join(map(re.escape, word))


def unless(excluded: str) -> str:
    """What follows, when it does not begin with a text: one character or more up to where it differs, or the end."""
    found = "$"
    for letter in reversed(excluded):
        quoted = re.escape(letter)
        found = f"(?:[^{quoted}]|{quoted}{found}|$)" if found != "$" else f"(?:[^{quoted}]|$)"
    return found


_SPACE: Final = r"\t-\r +\x00"
_CLASSES: Final = {"d": "0-9", "w": "0-9A-Za-z_", "s": r"\t-\r "}
_OUTSIDE: Final = {
    **{f"\\{letter}": f"[{members}]" for letter, members in _CLASSES.items()},
    **{f"\\{letter.upper()}": f"[^{members}]" for letter, members in _CLASSES.items()},
    "\\b": r"(?-u:\b)",
    "^": r"\A",
    "$": r"\z",
}
_PART: Final = re.compile(
    r"(\[\^?\]?(?:\\.|[^\]\\])*\])|\\(?:x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|.)|\(\?[-a-zA-Z]*:?| \??|.", re.DOTALL
)
"""A class of characters, an escape, a space with the mark that it may be missing, or any other character."""
_MEMBER: Final = re.compile(r"\\(?:x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|.)|[a-zA-Z]-[a-zA-Z]|.", re.DOTALL)


def _translated(find: str, spaced: bool) -> str:
    """An expression of the dialect in the engine's own syntax."""
    return _PART.sub(lambda part: _in_class(part[0], spaced) if part[1] else _outside(part, spaced), find)


def _outside(part: re.Match[str], spaced: bool) -> str:
    text = part[0]
    if text in _OUTSIDE:
        return _OUTSIDE[text]
    if text.isalpha() and text.isascii():
        return f"[{text.lower()}{text.upper()}]"
    if spaced and text[0] == " ":
        repeated = part.string[part.end() : part.end() + 1] in ("{", "*", "+")
        return f"[{_SPACE}]{'*' if text == ' ?' else '' if repeated else '+'}"
    return text


def _in_class(members: str, spaced: bool) -> str:
    translated = _MEMBER.sub(_both_cases, members)
    return translated.replace(" ", _SPACE) if spaced else translated


def _both_cases(member: re.Match[str]) -> str:
    text = member[0]
    if text[0] == "\\":
        return _CLASSES.get(text[1], text)
    return text if text.lower() == text.upper() else text.lower() + text.upper()
