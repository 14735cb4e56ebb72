"""A schema taken apart: its subschemas, the draft and base URI that hold in each, and how its places are named."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple
from urllib.parse import urljoin

from toolpost.authoring import problems as wording
from toolpost.authoring.problems import Finding, Loc
from toolpost.authoring.reading import MAX_DEPTH, Reading
from toolpost.authoring.showing import show
from toolpost.calls.errors import SchemaError

__all__ = [
    "DEFINITIONS",
    "REFERENCES",
    "SAME_PLACE",
    "Node",
    "Step",
    "at_place",
    "copied",
    "document_of",
    "draft_of",
    "joined",
    "schema_sentence",
    "subschemas",
    "subschemas_here",
]

_ONE_BELOW: Final = (
    "additionalProperties",
    "items",
    "contains",
    "unevaluatedItems",
    "unevaluatedProperties",
    "additionalItems",
)
_LIST_BELOW: Final = ("prefixItems", "items")
_MAP_BELOW: Final = ("properties", "patternProperties")
_ONE_HERE: Final = ("not", "if", "then", "else", "propertyNames")
_LIST_HERE: Final = ("allOf", "anyOf", "oneOf")
_MAP_HERE: Final = ("dependentSchemas", "dependencies")
DEFINITIONS: Final = ("$defs", "definitions")
_ONE_APART: Final = ("contentSchema",)
REFERENCES: Final = ("$ref", "$dynamicRef", "$recursiveRef")
SAME_PLACE: Final = frozenset({*_LIST_HERE, *_MAP_HERE, *REFERENCES, "if"})

Step = tuple[str] | tuple[str, str | int]


def subschemas(schema: dict[str, Any]) -> Iterator[tuple[Step, Any]]:
    """Every direct subschema with the way to it, whatever place of a value it is about."""
    yield from _in(
        schema, _ONE_BELOW + _ONE_HERE + _ONE_APART, _LIST_BELOW + _LIST_HERE, _MAP_BELOW + _MAP_HERE + DEFINITIONS
    )


def subschemas_here(schema: dict[str, Any]) -> Iterator[tuple[Step, Any]]:
    """The direct subschemas that are about the same place of a value as schema is."""
    yield from _in(schema, _ONE_HERE, _LIST_HERE, _MAP_HERE)


def _in(
    schema: dict[str, Any], ones: Sequence[str], lists: Sequence[str], maps: Sequence[str]
) -> Iterator[tuple[Step, Any]]:
    for keyword in ones:
        if isinstance(schema.get(keyword), dict):
            yield (keyword,), schema[keyword]
    for keyword in lists:
        if isinstance(schema.get(keyword), list):
            yield from (((keyword, index), child) for index, child in enumerate(schema[keyword]))
    for keyword in maps:
        if isinstance(schema.get(keyword), dict):
            yield from (((keyword, name), child) for name, child in schema[keyword].items())


_DRAFTS: Final = {"draft-04": 4, "draft-06": 6, "draft-07": 7, "2019-09": 2019, "2020-12": 2020}


def draft_of(schema: Any, inherited: int) -> int:
    """The draft that `$schema` names, as 7 or 2020; inherited where it names none of JSON Schema's own."""
    named = schema.get("$schema") if isinstance(schema, dict) else None
    if not isinstance(named, str) or "json-schema.org" not in named:
        return inherited
    return next((draft for part, draft in _DRAFTS.items() if part in named), inherited)


class Node(NamedTuple):
    """A subschema, with the base URI and the draft that hold around it; entered, those that hold inside it.

    document is the URI of the resource it is in, "" for the schema itself.
    """

    schema: Any
    base: str
    draft: int
    document: str

    def entered(self) -> Node:
        """The same with its own `$schema` and `$id` taken into account, which must happen once."""
        if not isinstance(self.schema, dict):
            return self
        draft = draft_of(self.schema, self.draft)
        if draft < 2019 and "$ref" in self.schema:  # there a reference hides its siblings
            return self._replace(draft=draft)
        identity = self.schema.get("id" if draft == 4 else "$id")
        base = document_of(joined(self.base, identity)) if isinstance(identity, str) else self.base
        return self._replace(base=base, draft=draft)

    def references(self) -> Iterator[tuple[str, str]]:
        """The keyword and text of each reference."""
        for keyword in REFERENCES:
            if isinstance(self.schema.get(keyword), str):
                yield keyword, self.schema[keyword]

    def hides_siblings(self) -> bool:
        return self.draft < 2019 and isinstance(self.schema.get("$ref"), str)


def joined(base: str, reference: str) -> str:
    """reference made absolute. urljoin alone loses the base of `#…` under schemes it does not know, such as urn."""
    if not reference or reference.startswith("#"):
        return document_of(base) + reference
    try:
        return urljoin(base, reference)
    except ValueError:  # no URI at all; the library says so
        return reference


def document_of(uri: str) -> str:
    """The URI without its fragment."""
    return uri.partition("#")[0]


def copied(schema: Any, name: str) -> Any:
    """A plain copy of a schema; raises SchemaError for what is neither a mapping nor a bool, or not JSON."""
    if not isinstance(schema, (Mapping, bool)):
        raise SchemaError(f"{name} must be a JSON Schema, a mapping or a bool, got {show(schema)}")
    reading = Reading(MAX_DEPTH)
    plain = reading.of(schema)
    if reading.faults:
        raise SchemaError(f"{name}: {schema_sentence(reading.faults[0])}")
    return plain


def at_place(loc: Loc) -> str:
    """Where in a schema something is, as a JSON Pointer: "at '/properties/a'"."""
    return f"at {show(wording.pointer(loc), limit=200)}" if loc else "at the top"


def schema_sentence(finding: Finding) -> str:
    """A finding about a schema: its place is a JSON Pointer, even where arguments would be named."""
    return wording.sentence(
        finding, place=show(wording.pointer(finding.loc), limit=200) if finding.loc else "the schema"
    )
