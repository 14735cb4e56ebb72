"""The formats models speak: tool calls in, results out; how tools are shown to models is in wire_tools.py."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import orjson

from toolpost.calls import Caller, ToolCall, ToolResult, new_id
from toolpost.calls.artifacts import listed
from toolpost.calls.errors import ConfigurationError, InputValidationError
from toolpost.calls.result import content_of
from toolpost.transports.wire_calls import (
    CUT,
    Found,
    Json,
    as_mapping,
    find_calls,
    is_list,
    kind_of,
    named,
    unknown,
)
from toolpost.transports.wire_content import (
    anthropic_content,
    content_blocks,
    mcp_content,
    openai_output,
    plain_text,
)
from toolpost.transports.wire_json import parse_json
from toolpost.transports.wire_tools import (
    FORMATS,
    Format,
    check_format,
    decode_name,
    encode_name,
    export_tool,
    export_tools,
    strict_problems,
)

__all__ = [
    "ARTIFACTS",
    "CALL_ID",
    "FORMATS",
    "LOCAL_ID",
    "Format",
    "decode_calls",
    "decode_name",
    "detect_format",
    "encode_name",
    "encode_result",
    "encode_results",
    "export_tool",
    "export_tools",
    "parse_json",
    "strict_problems",
]

LOCAL_ID = "toolpost-"
"""How an id begins that we made because a call had none; results for Gemini leave such an id out again."""

CALL_ID = "toolpost/call_id"
"""The key under an MCP result's _meta that holds the call's id."""
ARTIFACTS = "toolpost/artifacts"
"""The key there that holds names and sizes of artifacts."""


def decode_calls(
    payload: Any,
    format: Format | None = None,
    *,
    user_id: str | None = None,
    session_id: str | None = None,
    tenant: str | None = None,
    caller: Caller | None = None,
    strict: bool | None = None,
    known: Iterable[str] = (),
) -> list[ToolCall]:
    """The tool calls in what a model sent, in order; a message without calls gives none.

    payload is one call, a list of them, or a provider's whole message or response: as JSON text, as
    mappings and lists, or as the SDK's own objects. Without format, each item's is detected. Of several
    choices or candidates the first counts.

    With a caller, whom a door has authenticated, all calls are this caller's, with its scopes and roles, and
    nothing that the payload says of itself counts. Without one, user_id, session_id and tenant outrank what the
    payload says, which counts where they are left out. strict is set on every call; None means true for OpenAI's
    formats, whose strict mode sends null for "absent". known are the registered names: they find a name again that
    was too long for the provider.

    A call whose arguments cannot be read has arguments {} and says why in malformed: one bad call never
    costs the others. Raises InputValidationError when the payload itself is not JSON, or holds something
    that is no call.
    """
    names = frozenset(known)
    named = {"user_id": user_id, "session_id": session_id, "tenant": tenant}
    given: dict[str, Any] = {key: value for key, value in named.items() if value is not None}
    if caller is not None:
        if given:
            raise ConfigurationError(f"decode_calls: give a caller, or {', '.join(given)}, not both")
        given = {field: getattr(caller, field) for field in caller.__slots__}
    calls = []
    for kind, found in find_calls(_read(payload), format and check_format(format)):
        name = decode_name(found.name, kind, names) if isinstance(found.name, str) else ""
        arguments, malformed = _arguments(found)
        calls.append(
            ToolCall(
                id=_id(found.id),
                name=name,
                arguments=arguments,
                strict=kind in ("openai", "openai-chat") if strict is None else strict,
                malformed=malformed if name else "the call names no tool",
                **{**found.more, **given},
            )
        )
    return calls


def detect_format(payload: Any) -> Format:
    """The format of a call, a list of calls, a message or a response. Raises InputValidationError if none."""
    value = _read(payload)
    for item in value if is_list(value) else [value]:
        if (mapping := as_mapping(item)) is not None and (kind := kind_of(mapping)):
            return kind
    raise unknown(value[0] if is_list(value) and value else value)


def encode_result(result: ToolResult, format: Format) -> dict[str, Any]:
    """One result in a provider's form: what answers one call.

    Text stays text, other values become JSON text, and Content its blocks: pictures as such where the provider takes
    them, else a word about each. A failure carries code, message and the list of
    problems, so that the model can mend its call.
    """
    id, blocks = result.call_id, content_blocks(result)
    match check_format(format):
        case "openai":
            output = _text(result) if blocks is None else openai_output(blocks)
            return {"type": "function_call_output", "call_id": id, "output": output}
        case "openai-chat":
            return {"role": "tool", "tool_call_id": id, "content": _text(result)}
        case "anthropic":
            content = _text(result) if blocks is None else anthropic_content(blocks)
            block = {"type": "tool_result", "tool_use_id": id, "content": content}
            return block if result.success else {**block, "is_error": True}
        case "gemini":
            answer = {"name": encode_name(result.tool_name, "gemini"), "response": _gemini_response(result)}
            return {"functionResponse": answer if id.startswith(LOCAL_ID) else {"id": id, **answer}}
        case "mcp":
            return _mcp_result(result)
        case "toolpost":
            return result.to_dict()


def encode_results(results: Sequence[ToolResult], format: Format) -> list[dict[str, Any]] | dict[str, Any]:
    """What is appended to the conversation after a turn: for Anthropic and Gemini one user message holding
    all results, for the others a list with one item a result. Order is kept: Gemini may match by it.
    """
    encoded = [encode_result(result, format) for result in results]
    if format == "anthropic":
        return {"role": "user", "content": encoded}
    return {"role": "user", "parts": encoded} if format == "gemini" else encoded


def _error(result: ToolResult) -> dict[str, Any]:
    failure = result.failure
    details: Json = failure.details if failure else result.metadata
    error: dict[str, Any] = {"code": failure.code if failure else str(details.get("code", "tool_error"))}
    error["message"] = result.error or "the tool failed"
    if details.get("errors"):
        error["errors"] = details["errors"]
    if failure and failure.retryable:
        error["retryable"] = True
    if failure and failure.retry_after_s is not None:
        error["retry_after_s"] = round(failure.retry_after_s, 3)
    if failure and failure.outcome == "unknown":
        error["outcome"] = "unknown"
    return error


def _text(result: ToolResult) -> str:
    blocks = content_blocks(result)
    if blocks is not None:
        return plain_text(blocks)
    value = content_of(result) if result.success else {"error": _error(result)}
    return value if isinstance(value, str) else orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS).decode()


def _gemini_response(result: ToolResult) -> dict[str, Any]:
    if not result.success:
        return {"error": _error(result)}
    # Gemini reads a "$ref" in a response as a reference of its own and refuses it: such a value goes as text.
    text = _text(result)
    if content_blocks(result) is not None:
        return {"output": text}
    return {"output": text if '"$ref"' in text else content_of(result)}


def _mcp_result(result: ToolResult) -> dict[str, Any]:
    out: dict[str, Any] = {
        "content": [{"type": "text", "text": _text(result)}],
        "isError": not result.success,
    }
    blocks = content_blocks(result)
    if blocks is not None:
        out = mcp_content(result, blocks)
    elif result.success and isinstance(result.data, Mapping):  # up to 2025-11-25 only an object may stand here
        out["structuredContent"] = dict(result.data)
    meta: dict[str, Any] = {CALL_ID: result.call_id}
    if result.artifacts:
        meta[ARTIFACTS] = listed(result.artifacts)
    return {**out, "resultType": "complete", "_meta": meta}


def _id(id: Any) -> str:
    usable = isinstance(id, str | int) and not isinstance(id, bool) and id != ""
    return str(id) if usable else LOCAL_ID + new_id()


def _arguments(found: Found) -> tuple[Json, str | None]:
    value = found.arguments
    if found.wrong is None and isinstance(value, Mapping):
        return value, None
    wrong = found.wrong
    if wrong is None and (value is None or (isinstance(value, str) and not value.strip())):
        wrong = CUT if found.cut else None
    elif wrong is None and isinstance(value, str | bytes):
        try:
            read = parse_json(value)
        except InputValidationError as exc:
            return {}, f"{CUT if found.cut else 'the arguments are no JSON object'}: {exc.message}"
        if isinstance(read, dict):
            return read, None
        wrong = f"the arguments are no JSON object but {named(read)}"
    elif wrong is None:
        wrong = f"the arguments are no JSON object but {named(value)}"
    return {}, wrong


def _read(payload: Any) -> Any:
    return parse_json(payload) if isinstance(payload, str | bytes | bytearray) else payload
