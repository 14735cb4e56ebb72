"""Checks JSON values against JSON Schema, by jsonschema-rs; what is wrong is worded by keywords.py.

All of 2020-12, and drafts 4, 6, 7 and 2019-09 where `$schema` names them. Nothing is ever fetched. jsonschema-rs walks
values and references on the stack of the calling thread, so the depth of both is bounded before it is called: that of
values by reading.py, that of references by documents.py.
"""

from __future__ import annotations

import copy
import functools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import jsonschema_rs

from toolpost.authoring import problems as wording
from toolpost.authoring.compiler import compiled
from toolpost.authoring.defaults import Defaults
from toolpost.authoring.documents import Documents
from toolpost.authoring.fragments import parameters_schema
from toolpost.authoring.keywords import Words
from toolpost.authoring.reading import HUGE, MAX_DEPTH, MINUS_HUGE, Reading, is_plain
from toolpost.authoring.subschemas import copied
from toolpost.calls.errors import InputValidationError, Problem

__all__ = ["MAX_DEPTH", "JsonSchema", "ParameterValidator", "parameters_schema"]

MAX_STACK_STEPS: Final = 1000
"""Steps a place times depth of the value: about 1.5 MB of stack at the worst, of the 8 MB a thread mostly has."""

_MANY_VALUES: Final = 10_000
_TOO_MANY_VALUES: Final = 200_000


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
        plain = copied(schema, name)
        others = {uri: copied(document, f"{name}, resource {uri}") for uri, document in (resources or {}).items()}
        self._name = name
        self._documents = Documents(plain, others, name)
        steps = self._documents.survey()
        self._validator = compiled(plain, self._documents.used(others), assert_formats, name)
        self._check: Callable[[Any], bool] = self._validator.is_valid
        self._depth = min(MAX_DEPTH, MAX_STACK_STEPS // steps)
        self._known = tuple(self._documents.names(self._documents.root))
        self._closed = not self._documents.own_dialect and _is_closed(plain)
        self._defaults = Defaults.of(self._documents)

    @property
    def schema(self) -> dict[str, Any] | bool:
        """A copy of the schema; changing it changes nothing here."""
        return copy.deepcopy(self._documents.root.schema)  # type: ignore[no-any-return]

    def is_valid(self, instance: Any) -> bool:
        """Whether instance is JSON and fits. Never raises for an instance, whatever it is."""
        try:
            if not self._closed or type(instance) is not dict:
                if not is_plain((instance,), self._depth):
                    return self._is_valid_once_read(instance)
                return self._check(instance)
            for value in instance.values():  # as in is_plain, without a call for scalars
                kind = type(value)
                if kind is str:
                    if value.isascii():
                        continue
                elif kind is int:
                    if MINUS_HUGE < value < HUGE:
                        continue
                elif kind is bool or value is None:
                    continue
                if not is_plain((value,), self._depth - 1):
                    return self._is_valid_once_read(instance)
            return self._check(instance)
        except (ValueError, RecursionError):  # a type the library does not take, a lone surrogate, little stack left
            return self._is_valid_once_read(instance)

    def problems(self, instance: Any, *, known: Sequence[str] = ()) -> list[Problem]:
        """What is wrong with instance, at most MAX_PROBLEMS entries and one that counts the rest; [] when it fits.

        known are the names to suggest for an unknown argument; the schema's own properties when left out.
        """
        reading = Reading(self._depth)
        plain = reading.of(instance)
        if reading.faults:
            return wording.problems(reading.faults)
        if self._fits(plain):
            return []
        words = Words(plain, self._documents, tuple(known) or self._known)
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
        reading = Reading(self._depth)
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
        text = json.dumps(copied(parameters_schema(schema), "parameters"), sort_keys=True, default=float)
        validator = _validator_of(text)
        validator.validate(params)
        filled = validator.with_defaults(params)
        return dict(filled) if filled is params else filled


@functools.lru_cache(maxsize=256)
def _validator_of(text: str) -> JsonSchema:
    return JsonSchema(json.loads(text), assert_formats=True, name="parameters")


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
