"""Words the library's errors: each broken keyword of a schema becomes the findings that say what to mend."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import jsonschema_rs

from toolpost.authoring import problems as wording
from toolpost.authoring.documents import Documents
from toolpost.authoring.jsontypes import JSON_TYPES
from toolpost.authoring.problems import Finding, Loc
from toolpost.authoring.showing import show
from toolpost.authoring.unions import condense

__all__ = ["Words", "value_at"]

_MAX_UNIONS: Final = 40

_LIMITS: Final = {
    "minimum": "minimum",
    "maximum": "maximum",
    "exclusiveMinimum": "exclusive_minimum",
    "exclusiveMaximum": "exclusive_maximum",
    "multipleOf": "multiple_of",
    "minLength": "min_length",
    "maxLength": "max_length",
    "minItems": "min_items",
    "maxItems": "max_items",
    "additionalItems": "max_items",
    "minProperties": "min_properties",
    "maxProperties": "max_properties",
}


class Words:
    """Turns the library's errors about one value into findings; documents is None for errors about a schema."""

    __slots__ = ("_documents", "_known", "_unions", "_value")

    def __init__(self, value: Any, documents: Documents | None, known: Sequence[str]) -> None:
        self._value = value
        self._documents = documents
        self._known = known
        self._unions = 0

    def of(self, error: jsonschema_rs.ValidationError) -> list[Finding]:
        """The findings of one error: mostly one; several for unknown keys and where a union's branch is clear."""
        loc = tuple(error.instance_path)
        rule = error.kind.name
        facts = error.kind.as_dict()
        value = value_at(self._value, loc)
        if rule in _LIMITS:
            limit = facts["multiple_of"] if rule == "multipleOf" else facts["limit"]
            return [wording.broken(loc, _LIMITS[rule], limit, value)]
        if rule in _WORDED:
            return _WORDED[rule](self, loc, facts, value, error)
        return [wording.must(loc, "other", f"breaks the rule {rule}", value)]

    def kind(self, loc: Loc, facts: dict[str, Any], value: Any, error: Any) -> list[Finding]:
        kinds = [wording.kind(name) for name in ("integer", *JSON_TYPES) if name in facts["types"]]
        return [wording.wrong_kind(loc, list(dict.fromkeys(kinds)), value)]

    def required(self, loc: Loc, facts: dict[str, Any], value: Any, error: Any) -> list[Finding]:
        name = facts["property"]
        keyword = error.schema_path[-1] if error.schema_path else "required"
        node = self._parent(error)
        if keyword in ("dependentRequired", "dependencies"):
            rules = node.get(keyword, {}) if node is not None else {}
            because = [k for k, names in rules.items() if isinstance(names, list) and name in names and k in value]
            says = f"is required{f' when {show(because[0])} is given' if because else ''}"
            return [wording.must((*loc, name), "dependent", says, expected="a value")]
        part = (node or {}).get("properties", {}).get(name)
        return [wording.missing((*loc, name), expected=_phrase(part) or "a value")]

    def unexpected(self, loc: Loc, facts: dict[str, Any], value: Any, error: Any) -> list[Finding]:
        if not isinstance(value, dict):
            return [wording.must(loc, "unknown", "has items that are not allowed", value, expected="fewer items")]
        known = self._known if not loc else self._names(error)
        return [wording.unknown((*loc, name), known, value.get(name)) for name in facts["unexpected"]]

    def enum(self, loc: Loc, facts: dict[str, Any], value: Any, error: Any) -> list[Finding]:
        return [wording.one_of(loc, [show(option) for option in facts["options"]], value)]

    def const(self, loc: Loc, facts: dict[str, Any], value: Any, error: Any) -> list[Finding]:
        return [wording.one_of(loc, [show(facts["expected_value"])], value, code="const")]

    def pattern(self, loc: Loc, facts: dict[str, Any], value: Any, error: Any) -> list[Finding]:
        if "pattern" not in facts:  # the backtracking engine gave up
            says = "is too costly to match against its pattern; use a simpler value"
            return [wording.must(loc, "pattern", says, value)]
        says = f"must match the pattern {show(facts['pattern'], limit=200)}"
        return [wording.must(loc, "pattern", says, value)]

    def form(self, loc: Loc, facts: dict[str, Any], value: Any, error: Any) -> list[Finding]:
        return [wording.wrong_format(loc, facts["format"], value)]

    def content(self, loc: Loc, facts: dict[str, Any], value: Any, error: Any) -> list[Finding]:
        form = facts.get("content_encoding") or facts.get("content_media_type") or "UTF-8"
        return [wording.must(loc, "format", f"must hold {show(form)}", value)]

    def unique(self, loc: Loc, facts: dict[str, Any], value: Any, error: Any) -> list[Finding]:
        return [wording.must(loc, "unique", "must have no item twice", value)]

    def contains(self, loc: Loc, facts: dict[str, Any], value: Any, error: Any) -> list[Finding]:
        keyword = error.schema_path[-1] if error.schema_path else "contains"
        node = self._parent(error) or {}
        phrase = _phrase(node.get("contains"))
        what = f"that {'is' if node.get(keyword) == 1 or keyword == 'contains' else 'are'} {phrase}" if phrase else ""
        what = what or "of the kind it must contain"
        count = 1 if keyword == "contains" else node.get(keyword, 1)
        bound = "at most" if keyword == "maxContains" else "at least"
        says = f"must contain {bound} {count} item{'' if count == 1 else 's'} {what}"
        return [wording.must(loc, "contains", says, value)]

    def names(self, loc: Loc, facts: dict[str, Any], value: Any, error: Any) -> list[Finding]:
        """A key that breaks propertyNames. The library's inner error has the key as its value."""
        inner = facts["error"]
        key = str(inner.instance)
        rules = Words(key, self._documents, ()).of(inner)
        owner = f" of {show(wording.pointer(loc), limit=200)}" if loc else ""
        return [
            Finding(loc=(*loc, key), type=rule.type, says=f"the key {show(key)}{owner} {rule.says}", whole=True)
            for rule in rules
        ]

    def forbidden(self, loc: Loc, facts: dict[str, Any], value: Any, error: Any) -> list[Finding]:
        keyword = error.schema_path[-1] if error.schema_path else ""
        if keyword == "additionalProperties" and isinstance(value, dict):  # the library's word where no key is declared
            return self.unexpected(loc, {"unexpected": list(value)}, value, error)
        return [wording.must(loc, "not", "is not allowed", value, expected="nothing")]

    def excluded(self, loc: Loc, facts: dict[str, Any], value: Any, error: Any) -> list[Finding]:
        phrase = _phrase(facts["schema"])
        says = f"must not be {phrase}" if phrase else "must not be of the form that its 'not' excludes"
        return [wording.must(loc, "not", says, value)]

    def union(self, loc: Loc, facts: dict[str, Any], value: Any, error: Any) -> list[Finding]:
        code = "one_of" if error.kind.name == "oneOf" else "any_of"
        branches = facts["context"]
        fitting = sum(1 for branch in branches if not branch)
        if fitting:
            says = f"must fit exactly one of its {len(branches)} allowed forms, but fits {fitting}"
            return [wording.must(loc, code, says, value)]
        if self._unions >= _MAX_UNIONS:
            return [wording.must(loc, code, f"fits none of its {len(branches)} allowed forms", value)]
        self._unions += 1
        found = [[finding for inner in branch for finding in self.of(inner)] for branch in branches]
        self._unions -= 1
        return condense(loc, found, value, code=code)

    def _parent(self, error: Any) -> dict[str, Any] | None:
        """The subschema whose keyword was broken."""
        node = None if self._documents is None else self._documents.at(error.evaluation_path[:-1])
        return node.schema if node is not None and isinstance(node.schema, dict) else None

    def _names(self, error: Any) -> list[str]:
        node = None if self._documents is None else self._documents.at(error.evaluation_path[:-1])
        return [] if node is None or self._documents is None else self._documents.names(node)


_Wording = Callable[[Words, Loc, dict[str, Any], Any, Any], list[Finding]]
_WORDED: Final[dict[str, _Wording]] = {
    "type": Words.kind,
    "required": Words.required,
    "additionalProperties": Words.unexpected,
    "unevaluatedProperties": Words.unexpected,
    "unevaluatedItems": Words.unexpected,
    "enum": Words.enum,
    "const": Words.const,
    "pattern": Words.pattern,
    "format": Words.form,
    "contentEncoding": Words.content,
    "contentMediaType": Words.content,
    "uniqueItems": Words.unique,
    "contains": Words.contains,
    "propertyNames": Words.names,
    "falseSchema": Words.forbidden,
    "not": Words.excluded,
    "anyOf": Words.union,
    "oneOf": Words.union,
}


def _phrase(schema: Any) -> str:
    """A simple schema in words, such as "an integer"; "" for one that takes more than a phrase."""
    if not isinstance(schema, dict):
        return ""
    if "const" in schema:
        return show(schema["const"])
    if isinstance(schema.get("enum"), list):
        return f"one of [{wording.listed([show(option) for option in schema['enum']])}]"
    types = schema.get("type", [])
    names = types if isinstance(types, list) else [types]
    return " or ".join(wording.kind(name) for name in names if isinstance(name, str))


def value_at(value: Any, loc: Loc) -> Any:
    """What lies at loc in value; NOTHING where nothing does."""
    for part in loc:
        is_key = isinstance(value, dict) and part in value
        if not is_key and not (isinstance(value, list) and isinstance(part, int) and part < len(value)):
            return wording.NOTHING
        value = value[part]
    return value
