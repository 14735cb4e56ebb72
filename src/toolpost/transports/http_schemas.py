"""Short forms of what operations say of themselves in the OpenAPI document: bodies, answers, parameters, problems."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Schema = Mapping[str, Any]


def ref(name: str) -> dict[str, str]:
    """A reference to one of the document's schemas."""
    return {"$ref": f"#/components/schemas/{name}"}


def an_object(properties: Mapping[str, Any], *required: str, more: bool = False) -> dict[str, Any]:
    """The schema of an object; more: whether it may have members that are not named."""
    schema: dict[str, Any] = {"type": "object", "properties": dict(properties), "additionalProperties": more}
    if required:
        schema["required"] = list(required)
    return schema


def body_of(schema: Schema, example: Any = None, *, required: bool = True) -> dict[str, Any]:
    """A requestBody of JSON."""
    content: dict[str, Any] = {"schema": schema}
    if example is not None:
        content["examples"] = {"example": {"value": example}}
    return {"required": required, "content": {"application/json": content}}


def answer(description: str, schema: Schema | None = None, media_type: str = "application/json") -> dict[str, Any]:
    """One response."""
    shown: dict[str, Any] = {"description": description}
    if schema is not None:
        shown["content"] = {media_type: {"schema": schema}}
    return shown


def problems(*statuses: int) -> dict[str, Any]:
    """Responses that are problems, by their statuses; what every operation may answer is added by the document."""
    return {str(status): {"$ref": f"#/components/responses/Problem{status}"} for status in statuses}


def in_path(name: str, description: str, example: str | None = None, **schema: Any) -> dict[str, Any]:
    """A parameter in the path: a text."""
    shown = {"name": name, "in": "path", "required": True, "description": description}
    return {**shown, "schema": {"type": "string", **schema}, **({} if example is None else {"example": example})}


def in_query(name: str, description: str, schema: Schema) -> dict[str, Any]:
    """A parameter in the query."""
    return {"name": name, "in": "query", "description": description, "schema": schema}


def in_header(name: str, description: str, schema: Schema) -> dict[str, Any]:
    """A header that a request may have."""
    return {"name": name, "in": "header", "description": description, "schema": schema}


__all__ = ["an_object", "answer", "body_of", "in_header", "in_path", "in_query", "problems", "ref"]
