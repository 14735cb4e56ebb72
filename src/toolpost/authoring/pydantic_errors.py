"""Words pydantic's validation errors as problems: one for each place, unions condensed."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from toolpost.authoring.problems import (
    FORMATS,
    NOTHING,
    Finding,
    Loc,
    broken,
    missing,
    must,
    one_of,
    place_of,
    problems,
    quoted,
    unknown,
    wrong_kind,
)
from toolpost.authoring.showing import cut, scrub, show
from toolpost.authoring.unions import condense
from toolpost.calls.errors import Problem

if TYPE_CHECKING:
    from pydantic_core import ValidationError

__all__ = ["from_pydantic"]

_DATE = FORMATS["date"]
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
MAX_ENTRIES: Final = 1_000
"""Of more faults than these the first are told: nobody mends them by reading, and each takes a while to be put well."""
_MADE_TAG: Final = re.compile(r"[\w-]+\[.*\]\Z|constrained-\w+\Z|lax-or-strict\b|json-or-python\b", re.DOTALL)


def from_pydantic(error: ValidationError, known: Sequence[str], *, arguments: Any = NOTHING) -> list[Problem]:
    """The problems of a pydantic error, one for each place, unions condensed.

    known are the tool's parameter names. arguments is what was validated: with it the branch names that pydantic
    mixes into locations are told from real keys for certain, without it by their look. The messages of custom
    validators are kept, with the place put before those that do not name it.
    """
    entries = error.errors(include_url=False)[:MAX_ENTRIES]
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
        says = f"the key {quoted(str(loc[-2]))} of {place_of(loc[:-2])} {inner.says}"
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
    words = cut(scrub(words[:2000]), 500)
    if loc and words.startswith(("must ", "is ", "has ", "contains ")) and " got " not in words:
        return Finding(loc=loc, type=code, says=words, expected=words, got=value)
    named = not loc or str(loc[-1]) in re.findall(r"\w+", words)
    says = words if named else f"{place_of(loc)}: {words}"
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
