"""Compiles a schema by jsonschema-rs, with linear patterns where they suffice, and says why it is no schema."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import jsonschema_rs

from toolpost.authoring.jsontypes import not_a_type
from toolpost.authoring.keywords import Words, value_at
from toolpost.authoring.showing import show
from toolpost.authoring.subschemas import at_place, schema_sentence
from toolpost.calls.errors import SchemaError

__all__ = ["BACKTRACK_LIMIT", "compiled"]

BACKTRACK_LIMIT: Final = 100_000
"""Steps of a pattern that needs the backtracking engine, about 3 ms; past it the value does not fit."""


def compiled(schema: Any, resources: Mapping[str, Any], assert_formats: bool, name: str) -> jsonschema_rs.Validator:
    """The library's validator of a plain schema; raises SchemaError saying where and why it is none."""

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
    message = show(str(error).partition("\n")[0], limit=300)[1:-1]
    if not isinstance(error, jsonschema_rs.ValidationError):
        return message
    if "Unknown meta-schema" in message:
        known = "2020-12, 2019-09, draft-07, draft-06 and draft-04"
        return f"$schema names {show(schema['$schema'], limit=200)}, which is not known; known are {known}"
    loc = tuple(error.instance_path)
    value = value_at(schema, loc)
    if error.kind.name in ("format", "pattern"):
        is_regex = error.kind.value == "regex"
        text = loc[-1] if is_regex and "patternProperties" in loc[-2:-1] else value
        what = "a regular expression" if is_regex else "what its keyword takes"
        return f"{at_place(loc)} {show(text, limit=200)} is not {what}"
    findings = Words(schema, None, ()).of(error) if error.schema_path else []
    for finding in findings:
        if "type" in finding.loc[-2:] and isinstance(finding.got, str):
            return f"{at_place(finding.loc)} {not_a_type(finding.got)}"
    return schema_sentence(findings[0]) if findings else message
