"""How a problem with arguments is worded, so that a model can mend its call in one turn; it finds none itself.

Whatever checks arguments (pydantic-core, JSON Schema, our own limits) states each broken rule as a Finding; this
file turns findings into sentences, and into the Problem entries that InputValidationError.errors() lists.
"""

from __future__ import annotations

import datetime
import decimal
import difflib
import functools
import itertools
import re
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from toolpost.calls.errors import Problem

if TYPE_CHECKING:
    from pydantic_core import ValidationError

__all__ = [
    "CODES",
    "MAX_PROBLEMS",
    "NOTHING",
    "Finding",
    "Loc",
    "broken",
    "condense",
    "from_pydantic",
    "kind",
    "listed",
    "missing",
    "must",
    "nearest",
    "one_of",
    "pointer",
    "problem",
    "problems",
    "secret_name",
    "sentence",
    "show",
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

HIDDEN: Final = "[hidden]"


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

_FORMATS: Final = {
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
        hint = f"; did you mean {_quoted(near)}?"
    elif known:
        hint = f"; known are {listed([_quoted(name) for name in known])}"
    else:
        hint = ""
    expected = f"one of {listed([_quoted(name) for name in known])}" if known else "nothing"
    says = f"unknown argument {_place(loc)}{hint}"
    return Finding(loc=loc, type="unknown", says=says, got=value, expected=expected, whole=True)


def wrong_kind(loc: Loc, kinds: Sequence[str], value: Any, *, code: str = "type") -> Finding:
    """A value of the wrong type; kinds are words such as "an integer", in the order to be named."""
    return Finding(loc=loc, type=code, says=f"must be {_either(kinds)}", got=value, choices=tuple(kinds))


def wrong_format(loc: Loc, name: str, value: Any) -> Finding:
    """A string that is not of the named JSON Schema format."""
    what = _FORMATS.get(name) or f"of format {_quoted(name)}"
    return Finding(loc=loc, type="format", says=f"must be {what}", got=value)


def one_of(loc: Loc, shown: Sequence[str], value: Any, *, code: str = "enum") -> Finding:
    """A value outside a closed list; shown are the allowed values as text, code is enum, or const for one."""
    says = f"must be {shown[0]}" if code == "const" else f"must be one of {_values(shown, value)}"
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
    said = f"{_place(finding.loc) if place is None else place} {finding.says}"
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
    text = _scrub(part[:512])
    return text if len(text) <= 128 else text[:127] + "…"


def _place(loc: Loc) -> str:
    if not loc:
        return "the value"
    if len(loc) == 1 and isinstance(loc[0], str):
        return _quoted(loc[0])
    return show(pointer(loc), limit=200)


def _quoted(name: str) -> str:
    return show(name, limit=100)


def _shown(finding: Finding) -> str:
    secret = any(isinstance(part, str) and secret_name(part) for part in finding.loc)
    return HIDDEN if secret and _could_be_secret(finding.got) else show(finding.got)


def _either(words: Sequence[str]) -> str:
    unique = list(dict.fromkeys(words))
    return unique[0] if len(unique) == 1 else f"{', '.join(unique[:-1])} or {unique[-1]}"


def _values(shown: Sequence[str], value: Any) -> str:
    """The bracketed list of allowed values; when it has to be cut, the nearest one is named as well."""
    text = f"[{listed(shown)}]"
    if "…" in text and isinstance(value, str):
        near = nearest(value, [item[1:-1] for item in shown if item[:1] in "'\""])
        if near is not None:
            text += f" (did you mean {_quoted(near)}?)"
    return text


def show(value: Any, *, name: str = "", limit: int = 80) -> str:
    """A value as short, safe text: at most limit characters (or 32), no secret, no code of the value's class run.

    name is the parameter or key the value came under: where it names a secret the text is [hidden]. Long strings
    are cut, with an ellipsis and their length; containers that do not fit become "object with 3 keys" or "array of
    12 items"; objects that are not JSON are shown as their type's name.
    """
    if name and secret_name(name) and _could_be_secret(value):
        return HIDDEN
    return _render(value, max(limit, 32), 3)


_AS_TEXT: Final = frozenset(
    {decimal.Decimal, uuid.UUID, datetime.datetime, datetime.date, datetime.time, datetime.timedelta}
)


def _render(value: Any, room: int, depth: int) -> str:
    if isinstance(value, str):
        return _render_string(value, room)
    if value is None or isinstance(value, bool):
        return repr(value)
    if isinstance(value, int):
        return _render_integer(value, room)
    if isinstance(value, float):
        return float.__repr__(value)
    if isinstance(value, dict):
        return _render_object(value, room, depth)
    if isinstance(value, (list, tuple)):
        return _render_array(value, room, depth)
    if isinstance(value, (bytes, bytearray)):
        return f"{len(value)} byte{'' if len(value) == 1 else 's'}"
    if type(value) in _AS_TEXT:
        return _cut(str(value), room)
    return _cut(f"<{type(value).__name__}>", room)


def _render_string(value: str, room: int) -> str:
    head = _scrub(str.__str__(value)[: room + 512])
    text = repr(head)
    if len(text) <= room and len(value) <= room + 512:
        return text
    tail = f" ({len(value)} characters)"
    head = head[: max(0, room - len(tail) - 3)]  # two quotes and the ellipsis
    while len(repr(head)) + 1 + len(tail) > room and head:
        head = head[: len(head) * 9 // 10]
    text = repr(head)
    return f"{text[:-1]}…{text[-1]}{tail}"


def _render_integer(value: int, room: int) -> str:
    if value.bit_length() < room * 3:
        return int.__repr__(value)
    return f"an integer of {int(value.bit_length() * 0.30103) + 1} digits"


def _render_object(value: dict[Any, Any], room: int, depth: int) -> str:
    size = len(value)
    summary = f"object with {size} key{'' if size == 1 else 's'}"
    pairs = (_render_pair(key, item, room - 2, depth - 1) for key, item in value.items())
    return _render_parts(pairs, size, "{}", summary, room, depth)


def _render_pair(key: Any, item: Any, room: int, depth: int) -> str:
    hidden = isinstance(key, str) and secret_name(key) and _could_be_secret(item)
    return f"{_render(key, room, 0)}: {HIDDEN if hidden else _render(item, room, depth)}"


def _render_array(value: Sequence[Any], room: int, depth: int) -> str:
    size = len(value)
    summary = f"array of {size} item{'' if size == 1 else 's'}"
    return _render_parts((_render(item, room - 2, depth - 1) for item in value), size, "[]", summary, room, depth)


def _render_parts(parts: Iterable[str], size: int, ends: str, summary: str, room: int, depth: int) -> str:
    """The parts in their brackets when they fit into room, else the summary; looks at no more than fits."""
    if size == 0:
        return ends
    if depth <= 0 or size * 3 > room:
        return summary
    text = ends[0]
    for part in parts:
        text += (", " if len(text) > 1 else "") + part
        if len(text) >= room:
            return summary
    return text + ends[1]


def _cut(text: str, room: int) -> str:
    return text if len(text) <= room else text[: room - 1] + "…"


_SECRET_WORDS: Final = frozenset({
    "password", "passwords", "passwd", "pwd", "passphrase", "passcode", "secret", "secrets", "credential",
    "credentials", "authorization", "cookie", "cookies", "jwt", "otp", "totp",
})  # fmt: skip
_SECRET_ENDS: Final = (
    "password", "passwd", "passphrase", "apikey", "apikeys", "secretkey", "privatekey", "accesskey", "sessionkey",
    "signingkey", "encryptionkey", "masterkey", "authkey", "sshkey", "accesstoken", "accesstokens", "refreshtoken",
    "refreshtokens", "authtoken", "authtokens", "apitoken", "apitokens", "bearertoken", "sessiontoken", "idtoken",
    "clientsecret", "basicauth", "authheader",
)  # fmt: skip
_NOT_A_CREDENTIAL: Final = frozenset({
    "next", "page", "previous", "prev", "continuation", "sync", "max", "min", "num", "per", "stop", "start",
    "end", "eos", "bos", "pad", "unk", "mask", "special", "first", "last",
})  # fmt: skip
_ABOUT_IT: Final = frozenset({
    "count", "counts", "limit", "limits", "budget", "usage", "length", "size", "policy", "type", "kind",
    "name", "names", "id", "ids", "index", "expiry", "expires", "ttl", "rotation", "required", "enabled",
    "strength", "url", "uri", "path", "rate", "price", "cost", "position", "offset", "window", "age", "field",
})  # fmt: skip
_WORD: Final = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[^\W\d_A-Za-z]+")

_KEY_LIKE: Final = re.compile(
    r"-----BEGIN [A-Z0-9 ]+-----[\s\S]*?(?:-----END [A-Z0-9 ]+-----|\Z)"
    r"|\beyJ[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]*){0,4}"
    r"|\b(?i:bearer)\s+[A-Za-z0-9._~+/=-]{8,}|\b(?i:basic)\s+(?=[A-Za-z+/]*[A-Z0-9=])[A-Za-z0-9+/=]{8,}"
    r"|\b[rsp]k[-_][A-Za-z0-9_-]{20,}"
    r"|\bgh[a-z]_[A-Za-z0-9]{16,}|\bgithub_pat_\w{16,}|\bglpat-[\w-]{16,}"
    r"|\b(?:AKIA|ASIA)[0-9A-Z]{12,}|\bAIza[\w-]{30,}|\bxox[a-z]-[\w-]{10,}|\bya29\.[\w-]{16,}"
    r"|\b(?:hf|npm|pypi|whsec|dop_v1)[_-][A-Za-z0-9_-]{20,}"
    r"|(?<=://)[^\s/@:'\"]*:[^\s/@'\"]+(?=@)"
)


@functools.lru_cache(maxsize=4096)
def _secret_name(name: str) -> bool:
    words = [word.lower() for word in _WORD.findall(name)]
    if not words or words[-1] in _ABOUT_IT:
        return False
    if words == ["auth"] or not _SECRET_WORDS.isdisjoint(words):
        return True
    pairs = [*words, *("".join(pair) for pair in itertools.pairwise(words))]
    return any(pair.endswith(_SECRET_ENDS) for pair in pairs) or any(
        word == "token" and _is_credential(words, at) for at, word in enumerate(words)
    )


def _is_credential(words: Sequence[str], at: int) -> bool:
    """Whether the word token at that index is one to log in with, not one of a page, a text or a count."""
    before = words[at - 1] if at else ""
    after = words[at + 1] if at + 1 < len(words) else ""
    return before not in _NOT_A_CREDENTIAL and after not in _ABOUT_IT


def secret_name(name: str) -> bool:
    """Whether a parameter or key of that name holds a secret: api_key and authToken do, max_tokens and author not."""
    return _secret_name(name[:200])


def _could_be_secret(value: Any) -> bool:
    return value is not None and not isinstance(value, bool)


def _scrub(text: str) -> str:
    if len(text) < 11 and "@" not in text:  # shorter than any key; most names and values are
        return text
    return _KEY_LIKE.sub(HIDDEN, text)


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


def condense(loc: Loc, branches: Sequence[Sequence[Finding]], value: Any, *, code: str = "any_of") -> list[Finding]:
    """What to say when a value fits no branch of a union at loc: the least that lets the call be mended.

    branches holds each branch's findings. When every branch wants another kind of value, one finding joins the
    kinds. When the kind (or the tag, as in {"kind": "circle", …}) singles out a branch, that branch's findings
    stand alone. Else one finding names the nearest branch's complaint.
    """
    fitting = [branch for branch in branches if not any(_rules_out(finding, loc) for finding in branch)]
    if not fitting:
        return [_joined(loc, [f for branch in branches for f in branch if _rules_out(f, loc)], value)]
    tagged = [branch for branch in fitting if not any(_is_tag(finding, loc) for finding in branch)]
    if not tagged:
        return _joined_tags(loc, fitting)
    if len(tagged) == 1:
        return list(tagged[0])
    others = [{finding.key for finding in branch} for branch in tagged[1:]]
    shared = [finding for finding in tagged[0] if all(finding.key in other for other in others)]
    if shared:
        return shared
    best = min(tagged, key=len)
    reason = "; ".join(sentence(finding) for finding in best[:3])
    says = f"fits none of its {len(branches)} allowed forms; the nearest says: {reason}"
    return [Finding(loc=loc, type=code, says=says, expected=f"one of {len(branches)} forms")]


def _rules_out(finding: Finding, loc: Loc) -> bool:
    return finding.loc == loc and bool(finding.choices)


def _is_tag(finding: Finding, loc: Loc) -> bool:
    return finding.type in ("const", "enum") and len(finding.loc) == len(loc) + 1


def _joined(loc: Loc, findings: Sequence[Finding], value: Any) -> Finding:
    kinds = list(dict.fromkeys(c for f in findings if f.type not in ("enum", "const") for c in f.choices))
    values = list(dict.fromkeys(c for f in findings if f.type in ("enum", "const") for c in f.choices))
    if not values:
        return wrong_kind(loc, kinds, value)
    if not kinds:
        return one_of(loc, values, value)
    words = [*kinds, values[0] if len(values) == 1 else f"one of {_values(values, value)}"]
    return Finding(loc=loc, type="any_of", says=f"must be {_either(words)}", got=value, choices=tuple(words))


def _joined_tags(loc: Loc, branches: Sequence[Sequence[Finding]]) -> list[Finding]:
    first = next(finding for finding in branches[0] if _is_tag(finding, loc))
    same = [f for branch in branches for f in branch if _is_tag(f, loc) and f.loc == first.loc]
    return [_joined(first.loc, same, first.got)]


_DATE = _FORMATS["date"]
_DATETIME = "a date and time (like 2025-01-31T12:00:00Z)"
_TIME = "a time (like 12:30:00)"
_DURATION = "a duration (like PT90S, or a number of seconds)"
_URL = "a URL (like https://example.com/a)"

_PYDANTIC_KINDS: Final[dict[str, str]] = {
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float", "int_parsing_size"), "an integer"),
    **dict.fromkeys(
        ("float_type", "float_parsing", "decimal_type", "decimal_parsing", "fraction_type", "fraction_parsing"),
        "a number",
    ),
    **dict.fromkeys(("complex_type", "complex_str_parsing"), "a complex number"),
    **dict.fromkeys(("bool_type", "bool_parsing"), "a boolean"),
    **dict.fromkeys(("string_type", "string_sub_type", "bytes_type"), "a string"),
    "none_required": "null",
    **dict.fromkeys(
        (
            "dict_type",
            "mapping_type",
            "frozen_dict_type",
            "ordered_dict_type",
            "counter_type",
            "model_type",
            "arguments_type",
            "model_attributes_type",
            "dataclass_type",
            "dataclass_exact_type",
        ),
        "an object",
    ),
    **dict.fromkeys(
        ("list_type", "tuple_type", "set_type", "frozen_set_type", "deque_type", "iterable_type", "named_tuple_type"),
        "an array",
    ),
    "date_type": _DATE,
    "datetime_type": _DATETIME,
    "time_type": _TIME,
    "time_delta_type": _DURATION,
    "uuid_type": "a UUID",
    "url_type": _URL,
    "json_type": "a string of JSON",
    "callable_type": "a function",
}

_PYDANTIC_FORMATS: Final[dict[str, str]] = {
    **dict.fromkeys(("date_parsing", "date_from_datetime_parsing", "date_from_datetime_inexact"), _DATE),
    **dict.fromkeys(("datetime_parsing", "datetime_from_date_parsing", "datetime_object_invalid"), _DATETIME),
    "time_parsing": _TIME,
    "time_delta_parsing": _DURATION,
    "uuid_parsing": "a UUID",
    **dict.fromkeys(("url_parsing", "url_syntax_violation"), _URL),
    "json_invalid": "a string of JSON",
    "ip_v4_address": "an IPv4 address",
    "ip_v6_address": "an IPv6 address",
    "ip_any_address": "an IPv4 or IPv6 address",
    **dict.fromkeys(("ip_v4_network", "ip_v6_network", "ip_any_network"), "an IP network (like 10.0.0.0/8)"),
}

_PYDANTIC_LIMITS: Final[dict[str, tuple[str, str]]] = {
    "greater_than": ("exclusive_minimum", "gt"),
    "greater_than_equal": ("minimum", "ge"),
    "less_than": ("exclusive_maximum", "lt"),
    "less_than_equal": ("maximum", "le"),
    "multiple_of": ("multiple_of", "multiple_of"),
    "string_too_short": ("min_length", "min_length"),
    "string_too_long": ("max_length", "max_length"),
    "bytes_too_short": ("min_length", "min_length"),
    "bytes_too_long": ("max_length", "max_length"),
    "url_too_long": ("max_length", "max_length"),
    "too_short": ("min_items", "min_length"),
    "too_long": ("max_items", "max_length"),
}

_PYDANTIC_MISSING: Final = frozenset({
    "missing",
    "missing_argument",
    "missing_keyword_only_argument",
    "missing_positional_only_argument",
})  # fmt: skip
_PYDANTIC_UNKNOWN: Final = frozenset({
    "extra_forbidden",
    "unexpected_keyword_argument",
    "unexpected_positional_argument",
})  # fmt: skip

_CHOICES: Final = re.compile(r"""('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|.+?)(?:, | or |$)""")
_CORE_TAG: Final = re.compile(
    r"(?:int|str|float|bool|none|bytes|dict|list|set|frozenset|tuple|date|datetime|time|timedelta|decimal|uuid|url|"
    r"multi-host-url|any|callable|complex|nullable|[A-Z]\w*)\Z"
)
_MADE_TAG: Final = re.compile(r"[\w-]+\[.*\]\Z|constrained-\w+\Z|lax-or-strict\b|json-or-python\b", re.DOTALL)


def from_pydantic(error: ValidationError, known: Sequence[str], *, arguments: Any = NOTHING) -> list[Problem]:
    """The problems of a pydantic error, one for each place, unions condensed.

    known are the tool's parameter names. arguments is what was validated: with it the branch names that pydantic
    mixes into locations are told from real keys for certain, without it by their look. The messages of custom
    validators are kept, with the place put before those that do not name it.
    """
    entries = error.errors(include_url=False)
    if arguments is NOTHING:
        tags = [_guessed_tags(entry["loc"], entries) for entry in entries]
    else:
        tags = [_walked_tags(entry["loc"], arguments, entry["type"]) for entry in entries]
    lines: list[_Line] = [
        (tuple(zip(entry["loc"], marks, strict=True)), entry) for entry, marks in zip(entries, tags, strict=True)
    ]
    return problems(_folded((), lines, known))


_Steps = tuple[tuple[str | int, bool], ...]
"""A pydantic location: each element, and whether it is the name of a union's branch instead of a key."""
_Line = tuple[_Steps, Mapping[str, Any]]


def _folded(prefix: Loc, lines: Sequence[_Line], known: Sequence[str]) -> list[Finding]:
    """Findings for lines whose steps start below prefix; lines under one union are gathered and condensed."""
    findings: list[Finding] = []
    unions: dict[Loc, dict[str | int, list[_Line]]] = {}
    for steps, entry in lines:
        at = next((index for index, (_, tag) in enumerate(steps) if tag), None)
        if at is None:
            loc = prefix + tuple(element for element, _ in steps)
            findings.append(_from_entry(loc, entry, known))
            continue
        place = prefix + tuple(element for element, _ in steps[:at])
        unions.setdefault(place, {}).setdefault(steps[at][0], []).append((steps[at + 1 :], entry))
    for place, branches in unions.items():
        each = [_folded(place, branch, known) for branch in branches.values()]
        value = next((f.got for branch in each for f in branch if f.loc == place), NOTHING)
        findings.extend(each[0] if len(each) == 1 else condense(place, each, value))
    return findings


def _walked_tags(loc: Loc, arguments: Any, code: str) -> list[bool]:
    """Which elements of loc are not keys or indices of what was validated."""
    tags: list[bool] = []
    here = arguments
    for at, element in enumerate(loc):
        last = at == len(loc) - 1
        if isinstance(element, int):
            here = here[element] if isinstance(here, (list, tuple)) and element < len(here) else NOTHING
            tags.append(False)
        elif isinstance(here, Mapping) and element in here:
            here = here[element]
            tags.append(False)
        elif element == "[key]" or (last and code in _PYDANTIC_MISSING | _PYDANTIC_UNKNOWN):
            tags.append(False)
        elif isinstance(here, (Mapping, list, tuple, str, int, float, type(None))):
            tags.append(True)
        else:
            tags.append(_MADE_TAG.match(element) is not None)
    return tags


def _guessed_tags(loc: Loc, entries: Sequence[Mapping[str, Any]]) -> list[bool]:
    """Which elements of loc look like branch names: made ones always, plain ones when siblings met one value."""
    return [
        at > 0 and isinstance(element, str) and _looks_like_tag(loc, at, element, entries)
        for at, element in enumerate(loc)
    ]


def _looks_like_tag(loc: Loc, at: int, element: str, entries: Sequence[Mapping[str, Any]]) -> bool:
    if _MADE_TAG.match(element) and element != "[key]":
        return True
    if not _CORE_TAG.match(element):
        return False
    siblings = [entry for entry in entries if entry["loc"][:at] == loc[:at] and len(entry["loc"]) > at]
    names = {str(entry["loc"][at]) for entry in siblings}
    leaves = [entry["input"] for entry in siblings if len(entry["loc"]) == at + 1]
    return (
        len(names) > 1
        and all(_CORE_TAG.match(name) or _MADE_TAG.match(name) for name in names)
        and all(leaf is leaves[0] for leaf in leaves)
    )


def _from_entry(loc: Loc, entry: Mapping[str, Any], known: Sequence[str]) -> Finding:
    code: str = entry["type"]
    value = entry.get("input")
    facts: Mapping[str, Any] = entry.get("ctx", {})
    if loc and loc[-1] == "[key]":
        inner = _from_entry(loc[:-1], entry, known)
        says = f"the key {_quoted(str(loc[-2]))} of {_place(loc[:-2])} {inner.says}"
        return Finding(loc=loc[:-1], type=inner.type, says=says, got=value, whole=True)
    if code in _PYDANTIC_MISSING:
        return missing(loc)
    if code in _PYDANTIC_UNKNOWN:
        return unknown(loc, known if len(loc) == 1 else (), value)
    if code in _PYDANTIC_KINDS:
        return wrong_kind(loc, [_PYDANTIC_KINDS[code]], value)
    if code in _PYDANTIC_FORMATS:
        return wrong_kind(loc, [_PYDANTIC_FORMATS[code]], value, code="format")
    if code in _PYDANTIC_LIMITS:
        return _from_limit(loc, code, facts, value)
    if code in _PYDANTIC_OTHERS:
        return _PYDANTIC_OTHERS[code](loc, facts, value)
    return _in_its_own_words(loc, "other", _as_predicate(entry["msg"]), value)


def _from_limit(loc: Loc, code: str, facts: Mapping[str, Any], value: Any) -> Finding:
    ours, key = _PYDANTIC_LIMITS[code]
    if facts.get("field_type") in ("Dictionary", "Mapping"):
        ours = ours.replace("items", "properties")
    limit = facts[key]
    return broken(loc, ours, int(limit) if isinstance(limit, float) and limit.is_integer() else limit, value)


def _from_choices(loc: Loc, facts: Mapping[str, Any], value: Any) -> Finding:
    return one_of(loc, _CHOICES.findall(facts["expected"]), value)


def _from_bad_tag(loc: Loc, facts: Mapping[str, Any], value: Any) -> Finding:
    tag = facts["discriminator"].strip("'")
    if not tag.isidentifier():
        return must(loc, "any_of", f"must be one of the forms {facts['expected_tags']}", value)
    found = value.get(tag, facts["tag"]) if isinstance(value, dict) else facts["tag"]
    return one_of((*loc, tag), _CHOICES.findall(facts["expected_tags"]), found)


def _from_no_tag(loc: Loc, facts: Mapping[str, Any], value: Any) -> Finding:
    tag = facts["discriminator"].strip("'")
    if not tag.isidentifier():
        return must(loc, "any_of", "must be one of its allowed forms", value)
    return missing((*loc, tag))


def _from_validator(loc: Loc, facts: Mapping[str, Any], value: Any) -> Finding:
    cause = facts.get("error")
    words = str(cause) if isinstance(cause, Exception) else str(cause or "is not valid")
    return _in_its_own_words(loc, "value", words or "is not valid", value)


def _in_its_own_words(loc: Loc, code: str, words: str, value: Any) -> Finding:
    """Somebody else's message, scrubbed and bounded, with the place before it unless it names the place itself."""
    words = _cut(_scrub(words[:2000]), 500)
    if loc and words.startswith(("must ", "is ", "has ", "contains ")) and " got " not in words:
        return Finding(loc=loc, type=code, says=words, expected=words, got=value)
    named = not loc or str(loc[-1]) in re.findall(r"\w+", words)
    says = words if named else f"{_place(loc)}: {words}"
    return Finding(loc=loc, type=code, says=says, got=value, whole=True, expected=words)


def _as_predicate(message: str) -> str:
    for start, ours in (("Input should ", "must "), ("Input is not ", "must be ")):
        if message.startswith(start):
            return ours + message[len(start) :]
    return re.sub(r"^\w+(?: input)? should have ", "must have ", message)


_PYDANTIC_OTHERS: Final[dict[str, Callable[[Loc, Mapping[str, Any], Any], Finding]]] = {
    "literal_error": _from_choices,
    "enum": _from_choices,
    "value_error": _from_validator,
    "assertion_error": _from_validator,
    "union_tag_invalid": _from_bad_tag,
    "union_tag_not_found": _from_no_tag,
    "finite_number": lambda loc, facts, value: must(loc, "not_finite", "must be a finite number", value),
    "string_pattern_mismatch": lambda loc, facts, value: must(
        loc, "pattern", f"must match the pattern {show(facts['pattern'], limit=200)}", value
    ),
    "string_unicode": lambda loc, facts, value: must(loc, "not_unicode", "must be valid Unicode", value),
    "url_scheme": lambda loc, facts, value: must(
        loc, "format", f"must be a URL whose scheme is {facts['expected_schemes']}", value
    ),
    "uuid_version": lambda loc, facts, value: must(
        loc, "format", f"must be a UUID of version {facts['expected_version']}", value
    ),
    "multiple_argument_values": lambda loc, facts, value: must(
        loc, "duplicate", "is given twice", expected="one value"
    ),
    "recursion_loop": lambda loc, facts, value: must(
        loc, "not_json", "contains itself, so it is not JSON", expected="JSON"
    ),
    "recursion_depth_exceeded": lambda loc, facts, value: must(
        loc, "too_deep", "is nested too deep", expected="less depth"
    ),
    "is_instance_of": lambda loc, facts, value: must(loc, "type", f"must be an instance of {facts['class']}", value),
}
