"""How a problem with arguments is worded, so that a model can mend its call in one turn; it finds none itself.

Whatever checks arguments (pydantic-core, JSON Schema, our own limits) states each broken rule as a Finding; this
file turns findings into sentences, and into the Problem entries that InputValidationError.errors() lists.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from toolpost.authoring.showing import HIDDEN, could_be_secret, scrub, secret_name, show
from toolpost.calls.errors import Problem

__all__ = [
    "CODES",
    "FORMATS",
    "MAX_PROBLEMS",
    "NOTHING",
    "Finding",
    "Loc",
    "bracketed",
    "broken",
    "either",
    "kind",
    "listed",
    "missing",
    "must",
    "nearest",
    "one_of",
    "place_of",
    "pointer",
    "problem",
    "problems",
    "quoted",
    "sentence",
    "unknown",
    "wrong_format",
    "wrong_kind",
]

Loc = tuple[str | int, ...]
"""Where a value lies: keys and indices from the top, () for the whole."""

CODES: Final = frozenset({
    "missing", "unknown", "type", "enum", "const", "minimum", "maximum", "exclusive_minimum",
    "exclusive_maximum", "multiple_of", "min_length", "max_length", "pattern", "format", "min_items",
    "max_items", "unique", "min_properties", "max_properties", "any_of", "one_of", "not", "dependent",
    "contains", "too_large", "too_deep", "not_finite", "not_json", "not_unicode", "duplicate", "value",
    "other",
})  # fmt: skip
"""Every value a Problem's type may have; stable, so callers may branch on them."""

MAX_PROBLEMS: Final = 20
"""How many problems one answer lists; a model mends the first few and asks again."""


class _Nothing:
    """The type of NOTHING: no value came, which is not the same as null."""

    def __repr__(self) -> str:
        return "NOTHING"


NOTHING: Final = _Nothing()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Finding:
    """One rule that one place breaks, before it is put into a sentence.

    says is the predicate ("must be an integer"), or the whole sentence when whole is true. choices are what the
    place would have accepted, as shown text, when the rule is about that alone: kinds ("an integer") for the codes
    type and format, values ("'add'") for enum and const; unions join them. got is the offending value, NOTHING
    when none came.
    """

    loc: Loc
    type: str
    says: str
    got: Any = NOTHING
    choices: tuple[str, ...] = ()
    expected: str | None = None
    whole: bool = False

    @property
    def key(self) -> tuple[Loc, str, str]:
        """What makes two findings the same; not the values, whose comparison would run their own code."""
        return self.loc, self.type, self.says


_KINDS: Final = {
    "string": "a string",
    "integer": "an integer",
    "number": "a number",
    "boolean": "a boolean",
    "array": "an array",
    "object": "an object",
    "null": "null",
}

FORMATS: Final = {
    "date": "a date (like 2025-01-31)",
    "date-time": "a date and time with its offset (like 2025-01-31T12:00:00Z)",
    "duration": "a duration (like PT90S)",
    "email": "an email address",
    "hostname": "a host name",
    "idn-email": "an email address",
    "idn-hostname": "a host name",
    "ipv4": "an IPv4 address",
    "ipv6": "an IPv6 address",
    "iri": "an IRI (like https://example.com/a)",
    "iri-reference": "an IRI or a relative one",
    "json-pointer": "a JSON Pointer (like /a/0)",
    "regex": "a regular expression",
    "relative-json-pointer": "a relative JSON Pointer (like 1/a)",
    "time": "a time with its offset (like 12:00:00Z)",
    "uri": "a URI (like https://example.com/a)",
    "uri-reference": "a URI or a relative one",
    "uri-template": "a URI template (like /users/{id})",
    "uuid": "a UUID",
}

_LIMITS: Final = {
    "minimum": "must be >= {0}",
    "maximum": "must be <= {0}",
    "exclusive_minimum": "must be > {0}",
    "exclusive_maximum": "must be < {0}",
    "multiple_of": "must be a multiple of {0}",
    "min_length": "must be at least {0} character{s} long",
    "max_length": "must be at most {0} character{s} long",
    "min_items": "must have at least {0} item{s}",
    "max_items": "must have at most {0} item{s}",
    "min_properties": "must have at least {0} key{s}",
    "max_properties": "must have at most {0} key{s}",
}


def kind(name: str) -> str:
    """The words for a JSON type name: "integer" gives "an integer"."""
    return _KINDS.get(name, name)


def missing(loc: Loc, *, expected: str = "a value") -> Finding:
    """A required parameter or key that did not come; loc is where it should have been."""
    return Finding(loc=loc, type="missing", says="is required", expected=expected)


def unknown(loc: Loc, known: Sequence[str], value: Any) -> Finding:
    """A parameter or key nobody declared; known are the names declared at that place."""
    near = nearest(str(loc[-1]), known)
    if near is not None:
        hint = f"; did you mean {quoted(near)}?"
    elif known:
        hint = f"; known are {listed([quoted(name) for name in known])}"
    else:
        hint = ""
    expected = f"one of {listed([quoted(name) for name in known])}" if known else "nothing"
    says = f"unknown argument {place_of(loc)}{hint}"
    return Finding(loc=loc, type="unknown", says=says, got=value, expected=expected, whole=True)


def wrong_kind(loc: Loc, kinds: Sequence[str], value: Any, *, code: str = "type") -> Finding:
    """A value of the wrong type; kinds are words such as "an integer", in the order to be named."""
    return Finding(loc=loc, type=code, says=f"must be {either(kinds)}", got=value, choices=tuple(kinds))


def wrong_format(loc: Loc, name: str, value: Any) -> Finding:
    """A string that is not of the named JSON Schema format."""
    what = FORMATS.get(name) or f"of format {quoted(name)}"
    return Finding(loc=loc, type="format", says=f"must be {what}", got=value)


def one_of(loc: Loc, shown: Sequence[str], value: Any, *, code: str = "enum") -> Finding:
    """A value outside a closed list; shown are the allowed values as text, code is enum, or const for one."""
    says = f"must be {shown[0]}" if code == "const" else f"must be one of {bracketed(shown, value)}"
    return Finding(loc=loc, type=code, says=says, got=value, choices=tuple(shown))


def broken(loc: Loc, code: str, limit: Any, value: Any) -> Finding:
    """A value beyond a limit; code is a key of the table of limits above, such as minimum or max_items."""
    says = _LIMITS[code].format(show(limit), s="" if limit == 1 else "s")
    return Finding(loc=loc, type=code, says=says, got=value)


def must(loc: Loc, code: str, says: str, value: Any = NOTHING, *, expected: str | None = None) -> Finding:
    """Any other rule; says is its predicate, such as "must be a finite number"."""
    return Finding(loc=loc, type=code, says=says, got=value, expected=expected)


def problems(findings: Iterable[Finding]) -> list[Problem]:
    """The entries for findings, in order, each once; past MAX_PROBLEMS a last one says how many were left out."""
    made: dict[tuple[Loc, str, str], Problem] = {}
    left_out = 0
    for finding in findings:
        if finding.key in made:
            continue
        if len(made) >= MAX_PROBLEMS:
            left_out += 1
        else:
            made[finding.key] = problem(finding)
    entries = list(made.values())
    if left_out:
        says = f"and {left_out} more problem{'s' if left_out > 1 else ''} like these"
        entries.append(problem(Finding(loc=(), type="other", says=says, whole=True, expected="")))
    return entries


def problem(finding: Finding) -> Problem:
    """The entry for one finding: path, loc, parameter, type, msg, expected, got; all but loc are bounded."""
    loc = finding.loc
    expected = finding.says.removeprefix("must be ").removeprefix("must ")
    return {
        "path": pointer(loc),
        "loc": loc,
        "parameter": _piece(loc[0]) if loc and isinstance(loc[0], str) else "",
        "type": finding.type,
        "msg": sentence(finding),
        "expected": expected if finding.expected is None else finding.expected,
        "got": "nothing" if finding.got is NOTHING else _shown(finding),
    }


def sentence(finding: Finding, *, place: str | None = None) -> str:
    """The one sentence that names place, rule and value; place overrides how the place is named."""
    if finding.whole:
        return finding.says
    said = f"{place_of(finding.loc) if place is None else place} {finding.says}"
    return said if finding.got is NOTHING else f"{said}, got {_shown(finding)}"


def pointer(loc: Loc) -> str:
    """The JSON Pointer (RFC 6901) to loc; keys over 128 characters are cut, what looks like a secret is hidden."""
    return "".join("/" + _piece(part).replace("~", "~0").replace("/", "~1") for part in loc)


def listed(shown: Sequence[str], *, most: int = 20, room: int = 600) -> str:
    """Texts joined by commas; past most of them, or room characters, an ellipsis and the count end the list."""
    kept: list[str] = []
    for text in shown:
        if len(kept) >= most or room < len(text):
            return f"{', '.join(kept)}, … ({len(shown)} in all)"
        kept.append(text)
        room -= len(text) + 2
    return ", ".join(kept)


def _piece(part: str | int) -> str:
    if isinstance(part, int):
        return str(part)
    text = scrub(part[:512])
    return text if len(text) <= 128 else text[:127] + "…"


def place_of(loc: Loc) -> str:
    """How a sentence names a place: a parameter by its name, what lies deeper by its JSON Pointer."""
    if not loc:
        return "the value"
    if len(loc) == 1 and isinstance(loc[0], str):
        return quoted(loc[0])
    return show(pointer(loc), limit=200)


def quoted(name: str) -> str:
    """A name in quotes, cut past 100 characters."""
    return show(name, limit=100)


def _shown(finding: Finding) -> str:
    secret = any(isinstance(part, str) and secret_name(part) for part in finding.loc)
    return HIDDEN if secret and could_be_secret(finding.got) else show(finding.got)


def either(words: Sequence[str]) -> str:
    """Words joined as in "a string, a number or null", each once."""
    unique = list(dict.fromkeys(words))
    return unique[0] if len(unique) == 1 else f"{', '.join(unique[:-1])} or {unique[-1]}"


def bracketed(shown: Sequence[str], value: Any) -> str:
    """The bracketed list of allowed values; when it has to be cut, the nearest one is named as well."""
    text = f"[{listed(shown)}]"
    if "…" in text and isinstance(value, str):
        near = nearest(value, [item[1:-1] for item in shown if item[:1] in "'\""])
        if near is not None:
            text += f" (did you mean {quoted(near)}?)"
    return text


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name somebody probably meant, or None; case, dashes, underscores and camelCase make no difference."""
    if len(name) > 100:
        return None
    folded = {_fold(candidate): candidate for candidate in reversed(list(known))}
    wanted = _fold(name)
    if wanted in folded:
        return folded[wanted]
    close = difflib.get_close_matches(wanted, folded, n=1, cutoff=0.65)
    return folded[close[0]] if close else None


def _fold(name: str) -> str:
    return re.sub(r"[\W_]+", "", name).casefold()
