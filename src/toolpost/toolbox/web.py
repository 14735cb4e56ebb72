"""The Web tools, and those of them that need no network: read JSON strictly, and find the URLs in a text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any, Final
from urllib.parse import urlsplit

from toolpost import (
    Hints,
    InputValidationError,
    JsonSchema,
    SchemaError,
    Screening,
    Tool,
    ToolDefinition,
    ToolError,
    parse_json as read_json,
)
from toolpost.toolbox.refusals import quoted, refused
from toolpost.toolbox.urls import find_urls
from toolpost.toolbox.web_requests import request_tools

MAX_DEPTH: Final = 128
"""How deep a JSON text may be nested; what comes out has to fit into a result."""

MAX_URLS: Final = 10_000
"""The most URLs one call gives."""


def web_tools() -> list[ToolDefinition]:
    """Web.ParseJSON, Web.ExtractURLs, Web.HTTPRequest and Web.URLHealth."""
    return [_PARSE_JSON.define(parse_json), _EXTRACT_URLS.define(extract_urls), *request_tools()]


def parse_json(text: str, schema: Any = None, pointer: str | None = None) -> dict[str, Any]:
    """Whether a text is JSON and fits a schema, what is wrong with it, and its value or the part a pointer names."""
    steps = None if pointer is None else _steps(pointer)
    checked = None if schema is None else _schema(schema)
    try:
        value = read_json(text, max_depth=MAX_DEPTH)
    except InputValidationError as exc:
        (problem,) = exc.errors()
        error = {name: problem[name] for name in ("path", "type", "msg", "line", "column") if name in problem}
        return {"valid": False, "value": None, "errors": [error]}
    found = [] if checked is None else checked.problems(value)
    errors = [{name: problem[name] for name in _OF_A_PROBLEM if name in problem} for problem in found]
    if steps is not None:
        try:
            value = _at(value, steps)
        except LookupError as exc:
            if not errors:
                raise ToolError(f"there is nothing at {quoted(str(pointer))}: {exc}", code="not_found") from None
            value = None
    return {"valid": not errors, "value": value, "errors": errors}


_OF_A_PROBLEM: Final = ("path", "type", "msg", "expected", "got")


def _schema(schema: Any) -> JsonSchema:
    try:
        return JsonSchema(schema, assert_formats=True)
    except SchemaError as exc:
        must = f"must be a JSON Schema; {exc.message}"
        raise refused("schema", must, expected="a JSON Schema (2020-12)", got=type(schema).__name__) from None


def _steps(pointer: str) -> list[str]:
    """The names and numbers a JSON Pointer (RFC 6901) goes through."""
    plain = pointer.replace("~0", "").replace("~1", "")
    if (pointer and not pointer.startswith("/")) or "~" in plain:
        must = (
            f"must be empty or begin with '/', and write '~' as '~0' and '/' in a name as '~1', got {quoted(pointer)}"
        )
        raise refused("pointer", must, expected="a JSON Pointer such as /items/0/name", got=quoted(pointer))
    return [step.replace("~1", "/").replace("~0", "~") for step in pointer.split("/")[1:]]


def _at(value: Any, steps: Sequence[str]) -> Any:
    """What is at the end of these steps. Raises LookupError, saying what is there instead."""
    for at, step in enumerate(steps):
        where = "the document" if at == 0 else quoted("".join("/" + one for one in steps[:at]))
        if isinstance(value, dict):
            if step not in value:
                names = ", ".join(quoted(name[:60]) for name in islice(value, 10)) or "none"
                raise LookupError(f"{where} has no member {quoted(step)}; the first of those it has: {names}")
            value = value[step]
        elif isinstance(value, list):
            if not (step.isascii() and step.isdigit()) or (step != "0" and step[0] == "0") or len(step) > 9:
                raise LookupError(f"{where} is an array of {len(value)} items, and {quoted(step)} is no index")
            if int(step) >= len(value):
                raise LookupError(f"{where} is an array of {len(value)} items, counted from 0")
            value = value[int(step)]
        else:
            raise LookupError(f"{where} is neither an object nor an array")
    return value


def extract_urls(
    text: str,
    schemes: Sequence[str] = ("http", "https"),
    unique: bool = True,
    limit: int = 1000,
    base_url: str | None = None,
) -> dict[str, Any]:
    """The URLs in plain text, Markdown and HTML, in their order."""
    wanted = frozenset(scheme.lower() for scheme in schemes)
    if base_url is not None and not _is_base(base_url):
        must = f"must be a whole http or https URL, got {quoted(base_url)}"
        raise refused("base_url", must, expected="a URL such as https://example.com/docs/", got=quoted(base_url))
    urls: list[str] = []
    seen: set[str] = set()
    truncated = False
    for url in find_urls(text, wanted, base_url):
        if unique and url in seen:
            continue
        if len(urls) == limit:
            truncated = True
            break
        urls.append(url)
        seen.add(url)
    return {"urls": urls, "count": len(urls), "truncated": truncated}


def _is_base(url: str) -> bool:
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname)


# -- declaring --------------------------------------------------------------------------------------------------------

_HINTS: Final = Hints(read_only=True, destructive=False, idempotent=True, open_world=False)
_SCREENING: Final = Screening(
    roles={"text": "skip"}
)  # it is looked at and interpreted by nothing, hostile as it may be


def _object(properties: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": dict(properties),
        "required": list(properties),
        "additionalProperties": False,
    }


_PARSE_JSON: Final = Tool(
    name="Web.ParseJSON",
    description="Read a text as JSON, strictly: keys given twice, NaN and the like are errors, each with its place. "
    "Optionally check it against a JSON Schema, and give only the part that a JSON Pointer names.",
    parameters={
        "text": {"type": "string", "description": f"The JSON text, nested at most {MAX_DEPTH} levels deep."},
        "schema": {
            "type": ["object", "boolean", "null"],
            "default": None,
            "description": "A JSON Schema (2020-12) for the whole text. $ref is not fetched from elsewhere.",
        },
        "pointer": {
            "type": ["string", "null"],
            "default": None,
            "maxLength": 4096,
            "description": "A JSON Pointer such as /items/0/name; null gives the whole value.",
        },
    },
    returns={
        "type": "object",
        "properties": {
            "valid": {"type": "boolean", "description": "Whether the text is JSON and fits the schema."},
            "value": {"description": "The value, or the part the pointer names; null when the text is not JSON."},
            "errors": {
                "type": "array",
                "items": {
                    "type": "object",
                    "properties": {
                        "path": {"type": "string", "description": "Where, as a JSON Pointer."},
                        "type": {"type": "string", "description": "What sort of error it is."},
                        "msg": {"type": "string"},
                        "line": {"type": "integer"},
                        "column": {"type": "integer"},
                    },
                    "required": ["path", "type", "msg"],
                },
            },
        },
        "required": ["valid", "value", "errors"],
        "additionalProperties": False,
    },
    screening=_SCREENING,
    hints=_HINTS,
    tags=("web",),
    register=False,
)

_EXTRACT_URLS: Final = Tool(
    name="Web.ExtractURLs",
    description="Find the URLs in plain text, Markdown or HTML, in their order. Nothing is fetched.",
    parameters={
        "text": {"type": "string", "description": "The text to search."},
        "schemes": {
            "type": "array",
            "items": {"type": "string", "pattern": "^[A-Za-z][A-Za-z0-9+.-]{0,31}$"},
            "minItems": 1,
            "maxItems": 20,
            "default": ["http", "https"],
            "description": "Give only URLs with these schemes, such as https or mailto.",
        },
        "unique": {"type": "boolean", "default": True, "description": "Give each URL once, where it is first."},
        "limit": {
            "type": "integer",
            "default": 1000,
            "minimum": 1,
            "maximum": MAX_URLS,
            "description": "URLs to give at most.",
        },
        "base_url": {
            "type": ["string", "null"],
            "default": None,
            "maxLength": 4096,
            "description": "What relative links of HTML and Markdown start from; null leaves them out.",
        },
    },
    returns=_object(
        {
            "urls": {"type": "array", "items": {"type": "string"}},
            "count": {"type": "integer", "minimum": 0},
            "truncated": {"type": "boolean", "description": "Whether there are more than limit."},
        }
    ),
    screening=_SCREENING,
    hints=_HINTS,
    tags=("web",),
    register=False,
)
