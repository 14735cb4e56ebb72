"""Checks JSON values against JSON Schema, by jsonschema-rs; what is wrong is worded by problems.py.

All of 2020-12, and drafts 4, 6, 7 and 2019-09 where `$schema` names them. Nothing is ever fetched. jsonschema-rs walks
values and references on the stack of the calling thread, so this file bounds the depth of both before it is called.
"""

from __future__ import annotations

import copy
import functools
import json
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import Decimal
from enum import Enum
from typing import Any, Final, NamedTuple
from urllib.parse import unquote, urljoin

import jsonschema_rs

from toolpost.authoring import problems as wording
from toolpost.authoring.problems import Finding, Loc
from toolpost.calls.errors import InputValidationError, Problem, SchemaError

__all__ = ["MAX_DEPTH", "JsonSchema", "ParameterValidator", "parameters_schema"]

MAX_DEPTH: Final = 200
"""How deep a value or a schema may be nested. jsonschema-rs 0.60 itself stops at 255, and only when it copies."""

MAX_STEPS: Final = 100
"""How many references and combinators may follow each other at one place of a value; most schemas need under ten.

Measured with jsonschema-rs 0.60.3: making a validator takes up to 8 KB of stack a step (unevaluatedProperties over
anyOf), wording an error up to 1.5 KB.
"""

MAX_STACK_STEPS: Final = 1000
"""Steps a place times depth of the value: about 1.5 MB of stack at the worst, of the 8 MB a thread mostly has."""

MAX_CHECKS: Final = 1_000_000
"""How many subschemas one place of a value may have to be held against; repeated references multiply."""

BACKTRACK_LIMIT: Final = 100_000
"""Steps of a pattern that needs the backtracking engine, about 3 ms; past it the value does not fit."""

# 640: so many digits Python always writes out. jsonschema-rs 0.60 needs that; an integer it cannot have it takes for 0.
_MAX_DIGITS: Final = sys.int_info.str_digits_check_threshold
_HUGE: Final = 10**_MAX_DIGITS
_MINUS_HUGE: Final = -_HUGE

_MANY_VALUES: Final = 10_000
_TOO_MANY_VALUES: Final = 200_000
_MAX_UNIONS: Final = 40


class JsonSchema:
    """A compiled JSON Schema. Safe to use from any thread.

    schema is a mapping or a bool; it is copied, so that later changes to it have no effect. resources maps absolute
    URIs to the documents that `$ref` may name. assert_formats makes `format` a rule instead of a remark. name says in
    error messages what the schema is of. Raises SchemaError, naming the place and the fix, for what is no schema: by
    its meta-schema, for a reference that leads nowhere or out of resources, for a pattern that is no regular
    expression.

    Patterns run in linear time; a schema with a pattern that needs lookaround or backreferences is given the
    backtracking engine, bounded by BACKTRACK_LIMIT.
    """

    __slots__ = ("_check", "_closed", "_defaults", "_depth", "_documents", "_known", "_name", "_validator")

    def __init__(
        self,
        schema: Mapping[str, Any] | bool,
        *,
        resources: Mapping[str, Any] | None = None,
        assert_formats: bool = False,
        name: str = "schema",
    ) -> None:
        plain = _copied(schema, name)
        others = {uri: _copied(document, f"{name}, resource {uri}") for uri, document in (resources or {}).items()}
        self._name = name
        self._documents = _Documents(plain, others, name)
        steps = self._documents.survey()
        self._validator = _compiled(plain, self._documents.used(others), assert_formats, name)
        self._check: Callable[[Any], bool] = self._validator.is_valid
        self._depth = min(MAX_DEPTH, MAX_STACK_STEPS // steps)
        self._known = tuple(self._documents.names(self._documents.root))
        self._closed = not self._documents.own_dialect and _is_closed(plain)
        self._defaults = _Defaults.of(self._documents)

    @property
    def schema(self) -> dict[str, Any] | bool:
        """A copy of the schema; changing it changes nothing here."""
        return copy.deepcopy(self._documents.root.schema)  # type: ignore[no-any-return]

    def is_valid(self, instance: Any) -> bool:
        """Whether instance is JSON and fits. Never raises for an instance, whatever it is."""
        try:
            if not self._closed or type(instance) is not dict:
                if not _is_plain((instance,), self._depth):
                    return self._is_valid_once_read(instance)
                return self._check(instance)
            for value in instance.values():  # as in _is_plain, without a call for scalars
                kind = type(value)
                if kind is str:
                    if value.isascii():
                        continue
                elif kind is int:
                    if _MINUS_HUGE < value < _HUGE:
                        continue
                elif kind is bool or value is None:
                    continue
                if not _is_plain((value,), self._depth - 1):
                    return self._is_valid_once_read(instance)
            return self._check(instance)
        except (ValueError, RecursionError):  # a type the library does not take, a lone surrogate, little stack left
            return self._is_valid_once_read(instance)

    def problems(self, instance: Any, *, known: Sequence[str] = ()) -> list[Problem]:
        """What is wrong with instance, at most MAX_PROBLEMS entries and one that counts the rest; [] when it fits.

        known are the names to suggest for an unknown argument; the schema's own properties when left out.
        """
        reading = _Reading(self._depth)
        plain = reading.of(instance)
        if reading.faults:
            return wording.problems(reading.faults)
        if self._fits(plain):
            return []
        words = _Words(plain, self._documents, tuple(known) or self._known)
        findings = [finding for error in self._errors(plain, reading.count) for finding in words.of(error)]
        if not findings:
            says = "does not fit the schema"
            if reading.count > _TOO_MANY_VALUES:
                says += f"; it holds {reading.count} values, too many to say where"
            findings = [wording.must((), "too_large" if "holds" in says else "other", says)]
        return wording.problems(findings)

    def validate(self, instance: Any) -> None:
        """Raises InputValidationError with the problems when instance does not fit."""
        if not self.is_valid(instance):
            raise InputValidationError(problems=self.problems(instance))

    def with_defaults(self, instance: dict[str, Any]) -> dict[str, Any]:
        """instance with the schema's defaults filled in where keys are absent; the very same dict when it has none.

        Defaults are found through properties, additionalProperties, items, prefixItems, allOf and references, not
        through anyOf, oneOf and conditions, which do not say which branch is meant. instance is not changed, and each
        default is a fresh copy. Meant for instances that fit.
        """
        if self._defaults is None:
            return instance
        filled = self._defaults.fill(instance, self._depth)
        return filled if isinstance(filled, dict) else instance

    def _is_valid_once_read(self, instance: Any) -> bool:
        reading = _Reading(self._depth)
        plain = reading.of(instance)
        return not reading.faults and self._fits(plain)

    def _fits(self, plain: Any) -> bool:
        try:
            return self._check(plain)
        except ValueError:
            return False

    def _errors(self, plain: Any, count: int) -> Iterator[jsonschema_rs.ValidationError]:
        """The library's errors; it makes them all at once (10 us each), so only the first for a large value."""
        if count > _TOO_MANY_VALUES:
            return
        try:
            if count <= _MANY_VALUES:
                yield from self._validator.iter_errors(plain)
            else:
                self._validator.validate(plain)
        except jsonschema_rs.ValidationError as error:
            yield error
        except ValueError:
            return


class ParameterValidator:
    """Checks a tool's parameters against their declaration; `validate` works on the class and on an instance."""

    @staticmethod
    def validate(params: dict[str, Any], schema: Mapping[str, Any]) -> dict[str, Any]:
        """params with defaults filled in, a new dict.

        schema is what parameters_schema takes: parameter name -> JSON Schema, or an object schema. Formats are rules.
        Raises InputValidationError for params that do not fit, SchemaError for a schema that is not one.
        """
        text = json.dumps(_copied(parameters_schema(schema), "parameters"), sort_keys=True, default=float)
        validator = _validator_of(text)
        validator.validate(params)
        filled = validator.with_defaults(params)
        return dict(filled) if filled is params else filled


@functools.lru_cache(maxsize=256)
def _validator_of(text: str) -> JsonSchema:
    return JsonSchema(json.loads(text), assert_formats=True, name="parameters")


def parameters_schema(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The object schema of a mapping parameter name -> JSON Schema fragment.

    A parameter is required unless its fragment has `default`, `required: False` or `optional: True`; unknown arguments
    are refused. A mapping that is an object schema already (`type: object`) is kept, and closed to unknown arguments
    unless it says something about them. The format datetime is read as date-time. Raises SchemaError with the fix for a
    fragment that is not a mapping or names an unknown type.
    """
    plain = _copied(parameters, "parameters")
    if not isinstance(plain, dict):
        raise SchemaError(f"parameters must map parameter names to JSON Schemas, got {wording.show(plain)}")
    if plain.get("type") == "object":
        _mend(plain, "parameters")
        return _closed(plain)
    required = []
    for name, fragment in plain.items():
        if not isinstance(fragment, dict):
            raise SchemaError(_not_a_fragment(name, fragment))
        if _is_required(fragment):
            required.append(name)
        _mend(fragment, f"parameter {wording.show(name)}")
    return {"type": "object", "properties": plain, "required": required, "additionalProperties": False}


def _is_required(fragment: dict[str, Any]) -> bool:
    """Whether the parameter must come; the two keys that are not JSON Schema are taken out of the fragment."""
    required = fragment.pop("required") if isinstance(fragment.get("required"), bool) else True
    optional = fragment.pop("optional") if isinstance(fragment.get("optional"), bool) else False
    return required and not optional and "default" not in fragment


def _closed(schema: dict[str, Any]) -> dict[str, Any]:
    """An object schema that refuses unknown keys, unless it says something about them or declares no keys at all."""
    combined = not schema.keys().isdisjoint(_SAME_PLACE_NAMES)
    if not schema.keys().isdisjoint(("additionalProperties", "unevaluatedProperties")):
        return schema
    if combined and _draft_of(schema, 2020) >= 2019:
        schema["unevaluatedProperties"] = False  # the properties of allOf and its like stay allowed
    elif not combined and "properties" in schema:
        schema["additionalProperties"] = False
    return schema


def _not_a_fragment(name: str, fragment: Any) -> str:
    meant = _type_meant(fragment) if isinstance(fragment, str) else None
    example = {"type": meant or "string"}
    return f"parameter {wording.show(name)} must be a JSON Schema such as {example}, got {wording.show(fragment)}"


def _mend(schema: dict[str, Any], where: str) -> None:
    """Rewrite the format datetime, and refuse unknown type names, in a schema and all its subschemas."""
    todo: list[tuple[Any, Loc]] = [(schema, ())]
    while todo:
        node, loc = todo.pop()
        if not isinstance(node, dict):
            continue
        if node.get("format") == "datetime":
            node["format"] = "date-time"
        types = node.get("type", [])
        for name in types if isinstance(types, list) else [types]:
            if not isinstance(name, str) or name not in _TYPES:
                raise SchemaError(f"{where}: {_at((*loc, 'type'))} {_not_a_type(name)}")
        todo.extend((child, loc + step) for step, child in _children(node))


_TYPES: Final = ("string", "integer", "number", "boolean", "array", "object", "null")
_OTHER_NAMES: Final = {
    "str": "string",
    "text": "string",
    "int": "integer",
    "long": "integer",
    "float": "number",
    "double": "number",
    "decimal": "number",
    "bool": "boolean",
    "list": "array",
    "tuple": "array",
    "set": "array",
    "dict": "object",
    "map": "object",
    "mapping": "object",
    "none": "null",
    "nil": "null",
}


def _type_meant(name: str) -> str | None:
    return _OTHER_NAMES.get(name.lower()) or wording.nearest(name, _TYPES)


def _not_a_type(name: Any) -> str:
    meant = _type_meant(name) if isinstance(name, str) else None
    hint = f"did you mean '{meant}'?" if meant else f"known are {', '.join(_TYPES)}"
    return f"{wording.show(name)} is not a JSON type; {hint}"


_LEAVE: Final = object()


class _Reading:
    """Reads any Python value as JSON: a plain copy, and findings for what is not JSON.

    Subclasses of str, int, float, list, tuple and dict count as their base, enum members as their value, any Mapping
    as an object. It keeps its own stack, so that no depth can overflow Python's.
    """

    __slots__ = ("_depth", "_open", "_todo", "count", "faults")

    def __init__(self, depth: int) -> None:
        self._depth = depth
        self._open: set[int] = set()
        self._todo: list[tuple[Any, Loc, Any, Any]] = []
        self.count = 0
        self.faults: list[Finding] = []

    def of(self, value: Any) -> Any:
        """The copy; where there are faults it is not to be used."""
        top: list[Any] = [None]
        self._todo.append((value, (), top, 0))
        while self._todo:
            item, loc, target, key = self._todo.pop()
            if item is _LEAVE:
                self._open.discard(key)
                continue
            self.count += 1
            if isinstance(item, Enum):
                item = item.value
            if not isinstance(item, (Mapping, list, tuple)):
                target[key] = self._scalar(item, loc)
            elif self._may_enter(item, loc):
                target[key] = self._entered(item, loc)
        return top[0]

    def _entered(self, value: Any, loc: Loc) -> Any:
        """The still empty copy of a container; its items are put on the stack, the first on top."""
        self._open.add(id(value))
        self._todo.append((_LEAVE, (), None, id(value)))
        items = value.items() if isinstance(value, Mapping) else enumerate(value)
        pairs = [(self._key(key, loc) if isinstance(value, Mapping) else key, item) for key, item in items]
        full: Any = dict.fromkeys([key for key, _ in pairs]) if isinstance(value, Mapping) else [None] * len(pairs)
        self._todo.extend((item, (*loc, key), full, key) for key, item in reversed(pairs))
        return full

    def _may_enter(self, value: Any, loc: Loc) -> bool:
        if id(value) in self._open:
            self._fault(loc, "not_json", "contains itself, so it is not JSON", expected="JSON")
        elif len(loc) >= self._depth:
            says = f"is nested deeper than {self._depth} levels"
            self._fault(loc, "too_deep", says, expected=f"at most {self._depth} levels")
        else:
            return True
        return False

    def _scalar(self, value: Any, loc: Loc) -> Any:
        if value is None or value is True or value is False:
            return value
        if isinstance(value, str):
            text = str.__str__(value)
            if not _is_unicode(text):
                self._fault(loc, "not_unicode", "must be valid Unicode, without lone surrogates", text)
            return text
        if isinstance(value, int):
            number = int.__int__(value)
            if not _MINUS_HUGE < number < _HUGE:
                self._fault(loc, "too_large", f"must have at most {_MAX_DIGITS} digits", number)
            return number
        if isinstance(value, float):
            value = float.__float__(value)
            if value - value != 0.0:
                self._fault(loc, "not_finite", "must be a finite number", value)
        elif not isinstance(value, Decimal):
            self._fault(loc, "not_json", "must be JSON", value)
        elif not Decimal.is_finite(value):
            self._fault(loc, "not_finite", "must be a finite number", value)
        return value

    def _key(self, key: Any, loc: Loc) -> str:
        if isinstance(key, Enum):
            key = key.value
        if not isinstance(key, str):
            self._fault(loc, "not_json", "must have strings as keys", key)
            return wording.show(key)
        text = str.__str__(key)
        if not _is_unicode(text):
            self._fault(loc, "not_unicode", "must have keys of valid Unicode, without lone surrogates", text)
        return text

    def _fault(
        self, loc: Loc, code: str, says: str, value: Any = wording.NOTHING, *, expected: str | None = None
    ) -> None:
        if len(self.faults) < 10 * wording.MAX_PROBLEMS:
            self.faults.append(wording.must(loc, code, says, value, expected=expected))


def _is_unicode(text: str) -> bool:
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_plain(values: Any, room: int) -> bool:
    """Whether all values are JSON of exactly the builtin types, finite, valid Unicode and at most room levels deep.

    A quick no: a value it refuses may still be read by _Reading.
    """
    if len(values) > 32 and len(kinds := set(map(type, values))) == 1:
        one = kinds.pop()
        if one is int:
            return bool(min(values) > _MINUS_HUGE and max(values) < _HUGE)
        if one is str:
            return all(map(str.isascii, values)) or all(map(_is_unicode, values))
    for value in values:
        kind = type(value)
        if kind is str:
            if not value.isascii() and not _is_unicode(value):
                return False
        elif kind is int:
            if not _MINUS_HUGE < value < _HUGE:
                return False
        elif kind is bool or value is None:
            continue
        elif kind is float:
            if value - value != 0.0:
                return False
        elif kind is dict:
            if room <= 0 or not _are_plain_keys(value) or not _is_plain(value.values(), room - 1):
                return False
        elif kind is list:
            if room <= 0 or not _is_plain(value, room - 1):
                return False
        else:
            return False
    return True


def _are_plain_keys(value: dict[Any, Any]) -> bool:
    try:
        return _is_unicode("".join(value))
    except TypeError:
        return False


_CLOSED_OBJECT: Final = frozenset({
    "type", "properties", "required", "additionalProperties", "title", "description", "minProperties",
    "maxProperties", "$schema", "$defs", "definitions", "$comment", "default", "examples",
})  # fmt: skip


def _is_closed(schema: Any) -> bool:
    """Whether the schema is a plain closed object, as most tools have: then no key it does not declare gets past it."""
    return (
        isinstance(schema, dict)
        and schema.get("type") == "object"
        and schema.get("additionalProperties") is False
        and schema.keys() <= _CLOSED_OBJECT
    )


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
_MAP_APART: Final = ("$defs", "definitions")
_ONE_APART: Final = ("contentSchema",)
_REFERENCES: Final = ("$ref", "$dynamicRef", "$recursiveRef")
_GO_ROUND_AGAIN: Final = ("unevaluatedProperties", "unevaluatedItems")  # they hold the value against the others again
_SAME_PLACE_NAMES: Final = frozenset({*_LIST_HERE, *_MAP_HERE, *_REFERENCES, "if"})

_Step = tuple[str] | tuple[str, str | int]


def _children(schema: dict[str, Any]) -> Iterator[tuple[_Step, Any]]:
    """Every direct subschema with the way to it, whatever place of a value it is about."""
    yield from _in(
        schema, _ONE_BELOW + _ONE_HERE + _ONE_APART, _LIST_BELOW + _LIST_HERE, _MAP_BELOW + _MAP_HERE + _MAP_APART
    )


def _children_here(schema: dict[str, Any]) -> Iterator[tuple[_Step, Any]]:
    """The direct subschemas that are about the same place of a value as schema is."""
    yield from _in(schema, _ONE_HERE, _LIST_HERE, _MAP_HERE)


def _in(
    schema: dict[str, Any], ones: Sequence[str], lists: Sequence[str], maps: Sequence[str]
) -> Iterator[tuple[_Step, Any]]:
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


def _draft_of(schema: Any, inherited: int) -> int:
    named = schema.get("$schema") if isinstance(schema, dict) else None
    if not isinstance(named, str) or "json-schema.org" not in named:
        return inherited
    return next((draft for part, draft in _DRAFTS.items() if part in named), inherited)


_Way = tuple[Any, _Step] | None
"""How the survey came to a subschema: the way to the one before and a step from there; None for the schema itself."""


def _spelled(way: _Way) -> Loc:
    steps: list[_Step] = []
    while way is not None:
        way, step = way
        steps.append(step)
    return tuple(part for step in reversed(steps) for part in step)


class _Node(NamedTuple):
    """A subschema, with the base URI and the draft that hold around it; entered, those that hold inside it.

    document is the URI of the resource it is in, "" for the schema itself.
    """

    schema: Any
    base: str
    draft: int
    document: str

    def entered(self) -> _Node:
        """The same with its own `$schema` and `$id` taken into account, which must happen once."""
        if not isinstance(self.schema, dict):
            return self
        draft = _draft_of(self.schema, self.draft)
        if draft < 2019 and "$ref" in self.schema:  # there a reference hides its siblings
            return self._replace(draft=draft)
        identity = self.schema.get("id" if draft == 4 else "$id")
        base = _document(_join(self.base, identity)) if isinstance(identity, str) else self.base
        return self._replace(base=base, draft=draft)

    def references(self) -> Iterator[tuple[str, str]]:
        """The keyword and text of each reference."""
        for keyword in _REFERENCES:
            if isinstance(self.schema.get(keyword), str):
                yield keyword, self.schema[keyword]

    def hides_siblings(self) -> bool:
        return self.draft < 2019 and isinstance(self.schema.get("$ref"), str)


def _join(base: str, reference: str) -> str:
    """reference made absolute. urljoin alone loses the base of `#…` under schemes it does not know, such as urn."""
    if not reference or reference.startswith("#"):
        return _document(base) + reference
    try:
        return urljoin(base, reference)
    except ValueError:  # no URI at all; the library says so
        return reference


def _document(uri: str) -> str:
    return uri.partition("#")[0]


class _Documents:
    """A schema and its resources: resolves references, and measures how far they lead."""

    def __init__(self, schema: Any, resources: Mapping[str, Any], name: str) -> None:
        self._name = name
        self._by_uri: dict[str, _Node] = {}
        self._waiting = {_document(uri): document for uri, document in resources.items()}
        self._draft = _draft_of(schema, 2020)
        self.root = _Node(schema, "", self._draft, "")
        self._reached: set[str] = set()
        self.own_dialect = False
        self._index("", schema)

    def resolve(self, node: _Node, reference: str) -> _Node | None:
        """The subschema that a reference in node names; None when there is none in these documents."""
        uri, _, fragment = _join(node.base, reference).partition("#")
        if uri not in self._by_uri and uri in self._waiting:
            self._index(uri, self._waiting.pop(uri))
        while uri not in self._by_uri and self._waiting:  # it may be the $id of a subschema of any of them
            self._index(*self._waiting.popitem())
        if fragment and not fragment.startswith("/"):
            return self._by_uri.get(f"{uri}#{unquote(fragment)}")
        start = self._by_uri.get(uri)
        return start if start is None or not fragment else _walked(start, fragment)

    def names(self, node: _Node) -> list[str]:
        """The property names declared at node and in the subschemas and references at its place."""
        found: dict[str, None] = {}
        seen: set[int] = set()
        todo = [node]
        while todo:
            here = todo.pop().entered()
            if not isinstance(here.schema, dict) or id(here.schema) in seen:
                continue
            seen.add(id(here.schema))
            if isinstance(here.schema.get("properties"), dict):
                found.update(dict.fromkeys(here.schema["properties"]))
            todo.extend(self._here(here))
        return list(found)

    def at(self, way: Sequence[str | int]) -> _Node | None:
        """The subschema that a keyword path from the root leads to, through references; None when it is lost."""
        here: _Node | None = self.root
        for step in way:
            if here is None:
                return None
            here = here.entered()
            if step in _REFERENCES and isinstance(here.schema, dict):
                here = self.resolve(here, str(here.schema.get(step)))
            else:
                here = _stepped(here, step)
        return here

    def survey(self) -> int:
        """How many steps follow each other at one place of a value, at most, 1 or more.

        Raises SchemaError for a reference that leads nowhere, one that leads back to its own place, and for more than
        MAX_STEPS or MAX_CHECKS.
        """
        here: dict[int, list[int]] = {}
        rounds: dict[int, int] = {}
        where: dict[int, _Way] = {}
        todo: list[tuple[_Node, _Way]] = [(self.root, None)]
        while todo:
            node, way = todo.pop()
            if not isinstance(node.schema, dict) or id(node.schema) in here:
                continue
            node = node.entered()
            where[id(node.schema)] = way
            rounds[id(node.schema)] = 1 + sum(keyword in node.schema for keyword in _GO_ROUND_AGAIN)
            self._reached.add(node.document)
            self.own_dialect |= "json-schema.org" not in str(node.schema.get("$schema", "json-schema.org"))
            targets = [(self._target(node, keyword, text, way), (keyword,)) for keyword, text in node.references()]
            same_place = [] if node.hides_siblings() else [child for _, child in _children_here(node.schema)]
            same_place += [target.schema for target, _ in targets if target is not None]
            here[id(node.schema)] = [id(child) for child in same_place if isinstance(child, dict)]
            todo.extend((target, (way, step)) for target, step in targets if target is not None)
            children = _children(node.schema)
            todo.extend((node._replace(schema=child), (way, step)) for step, child in reversed(list(children)))
        return self._measured(here, where, rounds)

    def used(self, resources: Mapping[str, Any]) -> dict[str, Any]:
        """The resources that the survey came by; all of them when a meta-schema may be among them.

        The library refuses a set of resources when any has a reference that leads nowhere, needed or not.
        """
        return {uri: r for uri, r in resources.items() if self.own_dialect or _document(uri) in self._reached}

    def _here(self, node: _Node) -> Iterator[_Node]:
        for _, text in node.references():
            target = self.resolve(node, text)
            if target is not None:
                yield target
        if not node.hides_siblings():
            yield from (node._replace(schema=child) for _, child in _children_here(node.schema))

    def _target(self, node: _Node, keyword: str, text: str, way: _Way) -> _Node | None:
        if keyword == "$recursiveRef":
            text = "#"
        target = self.resolve(node, text)
        uri = _document(_join(node.base, text))
        if target is not None or "//json-schema.org/draft" in uri:  # the library knows the meta-schemas itself
            return target
        raise SchemaError(f"{self._name}: {_at((*_spelled(way), keyword))} {self._leads_nowhere(text, uri)}")

    def _leads_nowhere(self, text: str, uri: str) -> str:
        shown = wording.show(text, limit=200)
        if uri not in self._by_uri:
            return f"{shown} names another document, which is never fetched; pass it in resources={{{uri!r}: …}}"
        document = self._by_uri[uri].schema
        sections = [s for s in _MAP_APART if isinstance(document, dict) and isinstance(document.get(s), dict)]
        known = [f"#/{section}/{name}" for section in sections for name in document[section]]
        near = wording.nearest(text, known)
        return f"{shown} leads nowhere{f'; did you mean {wording.show(near)}?' if near else ''}"

    def _measured(self, here: dict[int, list[int]], where: dict[int, _Way], rounds: dict[int, int]) -> int:
        """The longest way through the subschemas of one place, by peeling off those that lead no further."""
        users: dict[int, list[int]] = {node: [] for node in here}
        for node, targets in here.items():
            for target in targets:
                users[target].append(node)
        open_ends = {node: len(targets) for node, targets in here.items()}
        steps = dict.fromkeys(here, 1)
        checks = dict.fromkeys(here, 1)
        ready = deque(node for node, count in open_ends.items() if count == 0)
        while ready:
            node = ready.popleft()
            del open_ends[node]
            if steps[node] > MAX_STEPS or checks[node] > MAX_CHECKS:
                raise SchemaError(f"{self._name}: {_too_far(_spelled(where[node]), steps[node])}")
            for user in users[node]:
                steps[user] = max(steps[user], steps[node] + 1)
                checks[user] += checks[node] * rounds[user]
                open_ends[user] -= 1
                if open_ends[user] == 0:
                    ready.append(user)
        if open_ends:
            node, seen = next(iter(open_ends)), set[int]()
            while node not in seen:  # each has another of them before it, so this ends in the circle
                seen.add(node)
                node = next(target for target in here[node] if target in open_ends)
            at = _at(_spelled(where[node]))
            says = "the schema leads back to itself without going down into the value, so it would never end"
            raise SchemaError(f"{self._name}: {at} {says}")
        return max(steps.values(), default=1)

    def _index(self, uri: str, document: Any) -> None:
        """Note every URI by which a subschema of document may be named."""
        todo = [_Node(document, uri, self._draft, uri)]
        self._by_uri[uri] = todo[0]
        while todo:
            outside = todo.pop()
            if not isinstance(outside.schema, dict):
                continue
            node = outside.entered()
            if node.base != outside.base:
                self._by_uri.setdefault(node.base, outside)
            for name in _anchors(node):
                self._by_uri.setdefault(f"{node.base}#{name}", outside)
            todo.extend(node._replace(schema=child) for _, child in _children(node.schema))


def _anchors(node: _Node) -> Iterator[str]:
    if node.draft >= 2019:
        yield from (node.schema[k] for k in ("$anchor", "$dynamicAnchor") if isinstance(node.schema.get(k), str))
    elif not node.hides_siblings():
        identity = node.schema.get("id" if node.draft == 4 else "$id")
        if isinstance(identity, str) and identity.partition("#")[2]:
            yield identity.partition("#")[2]


def _walked(start: _Node, fragment: str) -> _Node | None:
    here: _Node | None = start
    for piece in unquote(fragment).split("/")[1:]:
        if here is None:
            return None
        here = _stepped(here.entered(), piece.replace("~1", "/").replace("~0", "~"))
    return here


def _stepped(node: _Node, step: str | int) -> _Node | None:
    schema = node.schema
    if isinstance(schema, dict) and str(step) in schema:
        return node._replace(schema=schema[str(step)])
    if isinstance(schema, list) and str(step).isdecimal() and int(step) < len(schema):
        return node._replace(schema=schema[int(step)])
    return None


def _too_far(loc: Loc, steps: int) -> str:
    if steps > MAX_STEPS:
        return f"{_at(loc)} more than {MAX_STEPS} references and combinators follow each other; shorten the chain"
    return f"{_at(loc)} a value would be held against more than {MAX_CHECKS} subschemas; repeat fewer references"


def _at(loc: Loc) -> str:
    return f"at {wording.show(wording.pointer(loc), limit=200)}" if loc else "at the top"


def _copied(schema: Any, name: str) -> Any:
    """A plain copy of a schema; raises SchemaError for what is neither a mapping nor a bool, or not JSON."""
    if not isinstance(schema, (Mapping, bool)):
        raise SchemaError(f"{name} must be a JSON Schema, a mapping or a bool, got {wording.show(schema)}")
    reading = _Reading(MAX_DEPTH)
    plain = reading.of(schema)
    if reading.faults:
        raise SchemaError(f"{name}: {_sentence(reading.faults[0])}")
    return plain


def _compiled(schema: Any, resources: Mapping[str, Any], assert_formats: bool, name: str) -> jsonschema_rs.Validator:
    def made(
        document: Any,
        options: jsonschema_rs.RegexOptions | jsonschema_rs.FancyRegexOptions,
        base_uri: str | None = None,
    ) -> jsonschema_rs.Validator:
        default = jsonschema_rs.validator_cls_for(schema)
        named = isinstance(document, dict) and "$schema" in document
        registry = None
        if resources:
            registry = jsonschema_rs.Registry(list(resources.items()), draft=_LIBRARY_DRAFTS[default])
        return (jsonschema_rs.validator_for if named else default)(
            document,
            registry=registry,
            base_uri=base_uri,
            validate_formats=assert_formats,
            pattern_options=options,
            offline=True,  # without it the library fetches references and `$schema`, by http and from files
        )

    try:
        return made(schema, jsonschema_rs.RegexOptions())
    except ValueError:  # perhaps a pattern that the linear engine does not know
        bounded = jsonschema_rs.FancyRegexOptions(backtrack_limit=BACKTRACK_LIMIT)
    try:
        return made(schema, bounded)
    except ValueError as error:
        for uri, document in resources.items():  # jsonschema_rs.meta would fetch the `$schema` of a resource
            try:
                made(document, bounded, base_uri=uri)
            except ValueError as inner:
                why = _why_no_schema(inner, document)
                raise SchemaError(f"{name}, resource {uri}: {why}") from inner
        raise SchemaError(f"{name}: {_why_no_schema(error, schema)}") from error


_LIBRARY_DRAFTS: Final[dict[type[jsonschema_rs.Validator], int]] = {
    jsonschema_rs.Draft4Validator: jsonschema_rs.Draft4,
    jsonschema_rs.Draft6Validator: jsonschema_rs.Draft6,
    jsonschema_rs.Draft7Validator: jsonschema_rs.Draft7,
    jsonschema_rs.Draft201909Validator: jsonschema_rs.Draft201909,
    jsonschema_rs.Draft202012Validator: jsonschema_rs.Draft202012,
}


def _why_no_schema(error: ValueError, schema: Any) -> str:
    """The library's complaint about a schema in our words; its own where it is about more than one rule."""
    message = wording.show(str(error).partition("\n")[0], limit=300)[1:-1]
    if not isinstance(error, jsonschema_rs.ValidationError):
        return message
    if "Unknown meta-schema" in message:
        known = "2020-12, 2019-09, draft-07, draft-06 and draft-04"
        return f"$schema names {wording.show(schema['$schema'], limit=200)}, which is not known; known are {known}"
    loc = tuple(error.instance_path)
    value = _value_at(schema, loc)
    if error.kind.name in ("format", "pattern"):
        is_regex = error.kind.value == "regex"
        text = loc[-1] if is_regex and "patternProperties" in loc[-2:-1] else value
        what = "a regular expression" if is_regex else "what its keyword takes"
        return f"{_at(loc)} {wording.show(text, limit=200)} is not {what}"
    findings = _Words(schema, None, ()).of(error) if error.schema_path else []
    for finding in findings:
        if "type" in finding.loc[-2:] and isinstance(finding.got, str):
            return f"{_at(finding.loc)} {_not_a_type(finding.got)}"
    return _sentence(findings[0]) if findings else message


def _sentence(finding: Finding) -> str:
    """A finding about a schema: its place is a JSON Pointer, even where arguments would be named."""
    return wording.sentence(
        finding, place=wording.show(wording.pointer(finding.loc), limit=200) if finding.loc else "the schema"
    )


def _value_at(value: Any, loc: Loc) -> Any:
    for part in loc:
        is_key = isinstance(value, dict) and part in value
        if not is_key and not (isinstance(value, list) and isinstance(part, int) and part < len(value)):
            return wording.NOTHING
        value = value[part]
    return value


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


class _Words:
    """Turns the library's errors about one value into findings; documents is None for errors about a schema."""

    __slots__ = ("_documents", "_known", "_unions", "_value")

    def __init__(self, value: Any, documents: _Documents | None, known: Sequence[str]) -> None:
        self._value = value
        self._documents = documents
        self._known = known
        self._unions = 0

    def of(self, error: jsonschema_rs.ValidationError) -> list[Finding]:
        """The findings of one error: mostly one; several for unknown keys and where a union's branch is clear."""
        loc = tuple(error.instance_path)
        rule = error.kind.name
        facts = error.kind.as_dict()
        value = _value_at(self._value, loc)
        if rule in _LIMITS:
            limit = facts["multiple_of"] if rule == "multipleOf" else facts["limit"]
            return [wording.broken(loc, _LIMITS[rule], limit, value)]
        if rule in _WORDED:
            return _WORDED[rule](self, loc, facts, value, error)
        return [wording.must(loc, "other", f"breaks the rule {rule}", value)]

    def kind(self, loc: Loc, facts: dict[str, Any], value: Any, error: Any) -> list[Finding]:
        kinds = [wording.kind(name) for name in ("integer", *_TYPES) if name in facts["types"]]
        return [wording.wrong_kind(loc, list(dict.fromkeys(kinds)), value)]

    def required(self, loc: Loc, facts: dict[str, Any], value: Any, error: Any) -> list[Finding]:
        name = facts["property"]
        keyword = error.schema_path[-1] if error.schema_path else "required"
        node = self._parent(error)
        if keyword in ("dependentRequired", "dependencies"):
            rules = node.get(keyword, {}) if node is not None else {}
            because = [k for k, names in rules.items() if isinstance(names, list) and name in names and k in value]
            says = f"is required{f' when {wording.show(because[0])} is given' if because else ''}"
            return [wording.must((*loc, name), "dependent", says, expected="a value")]
        part = (node or {}).get("properties", {}).get(name)
        return [wording.missing((*loc, name), expected=_phrase(part) or "a value")]

    def unexpected(self, loc: Loc, facts: dict[str, Any], value: Any, error: Any) -> list[Finding]:
        if not isinstance(value, dict):
            return [wording.must(loc, "unknown", "has items that are not allowed", value, expected="fewer items")]
        known = self._known if not loc else self._names(error)
        return [wording.unknown((*loc, name), known, value.get(name)) for name in facts["unexpected"]]

    def enum(self, loc: Loc, facts: dict[str, Any], value: Any, error: Any) -> list[Finding]:
        return [wording.one_of(loc, [wording.show(option) for option in facts["options"]], value)]

    def const(self, loc: Loc, facts: dict[str, Any], value: Any, error: Any) -> list[Finding]:
        return [wording.one_of(loc, [wording.show(facts["expected_value"])], value, code="const")]

    def pattern(self, loc: Loc, facts: dict[str, Any], value: Any, error: Any) -> list[Finding]:
        if "pattern" not in facts:  # the backtracking engine gave up
            says = "is too costly to match against its pattern; use a simpler value"
            return [wording.must(loc, "pattern", says, value)]
        says = f"must match the pattern {wording.show(facts['pattern'], limit=200)}"
        return [wording.must(loc, "pattern", says, value)]

    def form(self, loc: Loc, facts: dict[str, Any], value: Any, error: Any) -> list[Finding]:
        return [wording.wrong_format(loc, facts["format"], value)]

    def content(self, loc: Loc, facts: dict[str, Any], value: Any, error: Any) -> list[Finding]:
        form = facts.get("content_encoding") or facts.get("content_media_type") or "UTF-8"
        return [wording.must(loc, "format", f"must hold {wording.show(form)}", value)]

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
        rules = _Words(key, self._documents, ()).of(inner)
        owner = f" of {wording.show(wording.pointer(loc), limit=200)}" if loc else ""
        return [
            Finding(loc=(*loc, key), type=rule.type, says=f"the key {wording.show(key)}{owner} {rule.says}", whole=True)
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
        return wording.condense(loc, found, value, code=code)

    def _parent(self, error: Any) -> dict[str, Any] | None:
        """The subschema whose keyword was broken."""
        node = None if self._documents is None else self._documents.at(error.evaluation_path[:-1])
        return node.schema if node is not None and isinstance(node.schema, dict) else None

    def _names(self, error: Any) -> list[str]:
        node = None if self._documents is None else self._documents.at(error.evaluation_path[:-1])
        return [] if node is None or self._documents is None else self._documents.names(node)


_Wording = Callable[[_Words, Loc, dict[str, Any], Any, Any], list[Finding]]
_WORDED: Final[dict[str, _Wording]] = {
    "type": _Words.kind,
    "required": _Words.required,
    "additionalProperties": _Words.unexpected,
    "unevaluatedProperties": _Words.unexpected,
    "unevaluatedItems": _Words.unexpected,
    "enum": _Words.enum,
    "const": _Words.const,
    "pattern": _Words.pattern,
    "format": _Words.form,
    "contentEncoding": _Words.content,
    "contentMediaType": _Words.content,
    "uniqueItems": _Words.unique,
    "contains": _Words.contains,
    "propertyNames": _Words.names,
    "falseSchema": _Words.forbidden,
    "not": _Words.excluded,
    "anyOf": _Words.union,
    "oneOf": _Words.union,
}


def _phrase(schema: Any) -> str:
    """A simple schema in words, such as "an integer"; "" for one that takes more than a phrase."""
    if not isinstance(schema, dict):
        return ""
    if "const" in schema:
        return wording.show(schema["const"])
    if isinstance(schema.get("enum"), list):
        return f"one of [{wording.listed([wording.show(option) for option in schema['enum']])}]"
    types = schema.get("type", [])
    names = types if isinstance(types, list) else [types]
    return " or ".join(wording.kind(name) for name in names if isinstance(name, str))


class _Absent:
    """The type of _ABSENT: a property without a default."""


_ABSENT: Final = _Absent()


class _Defaults:
    """The defaults below one subschema: a plan made once, so that a call only walks where defaults are."""

    __slots__ = ("_below", "_containers", "_declared", "_first", "_items", "_others", "_same", "_scalars")

    def __init__(self) -> None:
        self._scalars: dict[str, Any] = {}
        self._containers: dict[str, Any] = {}
        self._declared: frozenset[str] = frozenset()
        self._below: dict[str, _Defaults] = {}
        self._others: _Defaults | None = None
        self._first: list[_Defaults] = []
        self._items: _Defaults | None = None
        self._same: list[_Defaults] = []

    @classmethod
    def of(cls, documents: _Documents) -> _Defaults | None:
        """The plan for a schema, None when no default could ever be filled in."""
        plans: dict[int, _Defaults] = {}
        todo: list[tuple[_Node, _Defaults]] = []

        def plan(node: _Node) -> _Defaults:
            if id(node.schema) not in plans:
                plans[id(node.schema)] = cls()
                todo.append((node, plans[id(node.schema)]))
            return plans[id(node.schema)]

        root = plan(documents.root)
        while todo:
            node, made = todo.pop()
            if isinstance(node.schema, dict):
                made._read(node.entered(), documents, plan)
        useful = _useful(plans.values())
        for made in plans.values():
            made._prune(useful)
        return root if root in useful else None

    def fill(self, value: Any, room: int, filling: frozenset[int] = frozenset()) -> Any:
        """value with defaults, copied where it differs; filling are the plans whose default is being filled in."""
        if room <= 0:
            return value
        for same in self._same:
            value = same.fill(value, room, filling)
        if isinstance(value, dict):
            return self._fill_object(value, room, filling)
        if isinstance(value, (list, tuple)) and (self._items is not None or self._first):
            return self._fill_array(value, room, filling)
        return value

    def _fill_object(self, value: dict[str, Any], room: int, filling: frozenset[int]) -> dict[str, Any]:
        full = dict(value)
        for name, below in self._below.items():
            if name in full:
                full[name] = below.fill(full[name], room - 1, filling)
        if self._others is not None:
            for name in full.keys() - self._declared:
                full[name] = self._others.fill(full[name], room - 1, filling)
        for name, default in self._scalars.items():
            full.setdefault(name, default)
        for name, default in self._containers.items():
            if name not in full:
                full[name] = self._fresh(name, default, room, filling)
        return full

    def _fill_array(self, value: Sequence[Any], room: int, filling: frozenset[int]) -> list[Any]:
        full = list(value)
        for index, item in enumerate(full):
            plan = self._first[index] if index < len(self._first) else self._items
            if plan is not None:
                full[index] = plan.fill(item, room - 1, filling)
        return full

    def _fresh(self, name: str, default: Any, room: int, filling: frozenset[int]) -> Any:
        """A copy of a default, with the defaults below it; one that would need itself is left as it stands."""
        fresh = copy.deepcopy(default)
        below = self._below.get(name)
        if below is None or id(below) in filling:
            return fresh
        return below.fill(fresh, room - 1, filling | {id(below)})

    def _read(self, node: _Node, documents: _Documents, plan: Callable[[_Node], _Defaults]) -> None:
        schema = node.schema
        for _, text in node.references():
            target = documents.resolve(node, text)
            if target is not None:
                self._same.append(plan(target))
        if node.hides_siblings():
            return

        def below(child: Any) -> _Defaults:
            return plan(node._replace(schema=child))

        self._same += [below(child) for child in schema.get("allOf", ())]
        for name, child in schema.get("properties", {}).items():
            self._below[name] = below(child)
            default = _default_of(node._replace(schema=child), documents)
            if default is not _ABSENT:
                (self._containers if isinstance(default, (dict, list)) else self._scalars)[name] = default
        self._declared = frozenset(self._below)
        if isinstance(schema.get("additionalProperties"), dict) and "patternProperties" not in schema:
            self._others = below(schema["additionalProperties"])
        items = schema.get("items")
        self._first = [below(child) for child in (items if isinstance(items, list) else schema.get("prefixItems", ()))]
        if isinstance(items, dict):
            self._items = below(items)

    def _next(self) -> Iterator[_Defaults]:
        yield from (plan for plan in (*self._below.values(), self._others, self._items) if plan is not None)
        yield from self._first
        yield from self._same

    def _prune(self, useful: set[_Defaults]) -> None:
        self._below = {name: plan for name, plan in self._below.items() if plan in useful}
        self._others = self._others if self._others in useful else None
        self._items = self._items if self._items in useful else None
        self._same = [plan for plan in self._same if plan in useful]
        if useful.isdisjoint(self._first):
            self._first = []


def _useful(plans: Any) -> set[_Defaults]:
    """The plans with a default in or below them."""
    users: dict[_Defaults, list[_Defaults]] = {plan: [] for plan in plans}
    for plan in users:
        for other in plan._next():
            users[other].append(plan)
    useful: set[_Defaults] = set()
    todo = [plan for plan in users if plan._scalars or plan._containers]
    while todo:
        plan = todo.pop()
        if plan not in useful:
            useful.add(plan)
            todo.extend(users[plan])
    return useful


def _default_of(node: _Node, documents: _Documents) -> Any:
    """The default of a property: its own, or that of what it refers to."""
    here: _Node | None = node
    for _ in range(MAX_STEPS):
        if here is None or not isinstance(here.schema, dict):
            return _ABSENT
        if "default" in here.schema:
            return here.schema["default"]
        here = here.entered()
        here = documents.resolve(here, here.schema["$ref"]) if isinstance(here.schema.get("$ref"), str) else None
    return _ABSENT
