"""Where each provider puts its tool calls: the format of a payload, and the calls as they lie in it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from toolpost.calls.errors import InputValidationError
from toolpost.transports.wire_tools import FORMATS, Format

Json = Mapping[str, Any]
CUT = "the model's output was cut off before the arguments were complete"


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A call as it lay there. cut: the model's output ended early; wrong: why the call cannot be run."""

    id: Any
    name: Any
    arguments: Any = None
    cut: bool = False
    wrong: str | None = None
    more: Json = field(default_factory=dict)


def find_calls(value: Any, format: Format | None) -> Iterator[tuple[Format, Found]]:
    """Every call in a payload, in order, with its format. Raises InputValidationError for what holds none."""
    for index, item in enumerate(value if is_list(value) else [value]):
        where = f"item {index} is " if is_list(value) else "this is "
        mapping = as_mapping(item)
        kind = None if mapping is None else format or kind_of(mapping)
        if mapping is None or (kind is None and not _may_be_silent(mapping)):
            raise unknown(item, where)
        if kind is None:
            continue
        try:
            found = list(_FINDERS[kind](mapping))
        except RecursionError:
            raise unknown(item, where) from None
        if not found and not _may_be_silent(mapping) and (kind == "mcp" or (format and kind_of(mapping) != format)):
            raise unknown(item, f"format {kind!r} was expected; {where}")
        yield from ((kind, one) for one in found)


def _may_be_silent(m: Json) -> bool:
    """Messages and typed items (text, reasoning) may hold no call."""
    return isinstance(m.get("type"), str) or isinstance(m.get("role"), str)


def unknown(value: Any, where: str = "this is ") -> InputValidationError:
    """The error that says what was seen and which formats there are."""
    mapping = as_mapping(value)
    seen = named(value) if mapping is None else "an empty object"
    if mapping:
        seen = "an object with the keys " + ", ".join(repr(str(key))[:40] for key in list(mapping)[:8])
    message = f"{where}no tool call or message in a format known ({', '.join(FORMATS)}): {seen}"
    problem = {"path": "", "loc": (), "parameter": "", "type": "format", "msg": message}
    return InputValidationError(message, problems=[{**problem, "expected": ", ".join(FORMATS), "got": seen}])


def kind_of(m: Json) -> Format | None:
    """The format an object is in, told by the keys only that provider uses; None when it is none's."""
    kind, content = m.get("type"), m.get("content")
    if "jsonrpc" in m or m.get("method") == "tools/call" or ("_meta" in m and "name" in m):
        return "mcp"
    if kind in ("function_call", "custom_tool_call") or m.get("object") == "response" or is_list(m.get("output")):
        return "openai"
    if (
        "choices" in m
        or "tool_calls" in m
        or as_mapping(m.get("function"))
        or ("message" in m and "finish_reason" in m)
    ):
        return "openai-chat"
    if kind == "tool_use" or ("name" in m and "input" in m):
        return "anthropic"
    if "role" in m and is_list(content):
        types = [str(block.get("type")) for block in _mappings(content)]
        return "openai" if any(type_.startswith("output_") for type_ in types) else "anthropic"
    if "role" in m and isinstance(content, str):
        return "openai-chat"
    if "candidates" in m or "parts" in m or ("name" in m and "args" in m) or _gemini_call(m) is not None:
        return "gemini"
    if "parts" in (as_mapping(content) or {}) or ("type" not in m and m.keys() & _GEMINI_PARTS):
        return "gemini"
    if "tool" in m or "tool_name" in m or ("name" in m and "arguments" in m):
        return "toolpost"
    return None


def _find_openai(m: Json) -> Iterator[Found]:
    if is_list(m.get("output")) and "call_id" not in m:
        for item in _mappings(m["output"]):
            yield from _find_openai(item)
    elif m.get("type") == "custom_tool_call":
        yield Found(id=m.get("call_id"), name=m.get("name"), wrong=_FREE_TEXT)
    elif m.get("type", "function_call") == "function_call" and "name" in m:
        cut = m.get("status") in ("incomplete", "in_progress")
        yield Found(id=m.get("call_id") or m.get("id"), name=m["name"], arguments=m.get("arguments"), cut=cut)


def _find_chat(m: Json, cut: bool = False) -> Iterator[Found]:
    if is_list(m.get("choices")):
        for choice in _mappings(m["choices"])[:1]:
            yield from _find_chat(choice)
    elif (message := as_mapping(m.get("message"))) is not None:
        yield from _find_chat(message, m.get("finish_reason") == "length")
    elif "tool_calls" in m:
        for call in _mappings(m["tool_calls"]):
            yield from _find_chat(call, cut)
    elif (function := as_mapping(m.get("function"))) is not None:
        yield Found(id=m.get("id"), name=function.get("name"), arguments=function.get("arguments"), cut=cut)
    elif (custom := as_mapping(m.get("custom"))) is not None:
        yield Found(id=m.get("id"), name=custom.get("name"), wrong=_FREE_TEXT)


def _find_anthropic(m: Json) -> Iterator[Found]:
    if is_list(m.get("content")):
        blocks = _mappings(m["content"])
        for block in blocks:
            for found in _find_anthropic(block) if block.get("type") == "tool_use" else ():
                cut = m.get("stop_reason") == "max_tokens" and block is blocks[-1]
                yield Found(id=found.id, name=found.name, arguments=found.arguments, wrong=CUT if cut else None)
    elif m.get("type", "tool_use") == "tool_use" and "name" in m:
        yield Found(id=m.get("id"), name=m["name"], arguments=m.get("input"))


def _find_gemini(m: Json) -> Iterator[Found]:
    inner = _mappings(m.get("candidates"))[:1] or _mappings(m.get("parts"))
    inner = inner or [call for call in (as_mapping(m.get("content")), _gemini_call(m)) if call is not None][:1]
    for one in inner:
        yield from _find_gemini(one)
    if not inner and "name" in m:
        unfinished = m.get("willContinue") or m.get("will_continue")
        yield Found(id=m.get("id"), name=m["name"], arguments=m.get("args"), wrong=CUT if unfinished else None)


def _gemini_call(part: Json) -> Json | None:
    call = as_mapping(part.get("functionCall") or part.get("function_call"))
    return None if call is None or "arguments" in call else call


def _find_mcp(m: Json) -> Iterator[Found]:
    params = as_mapping(m.get("params")) or m
    if m.get("method", "tools/call") == "tools/call" and "name" in params:
        trace = (as_mapping(params.get("_meta")) or {}).get("traceparent")
        more = {"trace": trace} if isinstance(trace, str) else {}
        id = m.get("id") if params is not m else None
        yield Found(id=id, name=params["name"], arguments=params.get("arguments"), more=more)


def _find_toolpost(m: Json) -> Iterator[Found]:
    values = {_ALIASES[key]: value for key, value in m.items() if key in _ALIASES and value is not None}
    values.update({key: value for key, value in m.items() if key not in _ALIASES and value is not None})
    more, wrong = {}, None
    for key, value in values.items():
        if key in _FIELDS and _FIELDS[key](value):
            more[key] = value
        elif key in _FIELDS:
            wrong = f"the call's field {key!r} cannot be {named(value)} of that value"
        elif key not in ("id", "name", "arguments"):
            wrong = f"a call has no field {str(key)[:60]!r}; it has id, name, arguments, {', '.join(_FIELDS)}"
    yield Found(
        id=values.get("id"),
        name=values.get("name"),
        arguments=values.get("arguments"),
        more=more,
        wrong=wrong,
    )


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_seconds(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf


def named(value: Any) -> str:
    """What a JSON value is, in words."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    names = {list: "an array", tuple: "an array", str: "a string", int: "a number", float: "a number"}
    return names.get(type(value), f"a {type(value).__name__}")


def is_list(value: Any) -> bool:
    """Whether a value is what JSON calls an array."""
    return isinstance(value, list | tuple)


def as_mapping(value: Any) -> Json | None:
    """A mapping as it is, an SDK's object as what it dumps to, None for anything else."""
    if isinstance(value, Mapping):
        return value
    for name in ("model_dump", "to_dict"):
        dump = None if isinstance(value, type) else getattr(value, name, None)
        if callable(dump) and isinstance(dumped := dump(), Mapping):
            return dumped
    return None


def _mappings(value: Any) -> list[Json]:
    return [found for item in value if (found := as_mapping(item)) is not None] if is_list(value) else []


_FREE_TEXT = "a custom tool call carries free text; show the tool to the model as a function"
_ALIASES = {"call_id": "id", "tool": "name", "tool_name": "name", "args": "arguments"}
_GEMINI_PARTS = {"text", "thought", "inlineData", "inline_data", "fileData", "file_data", "executableCode"}
_TEXTS = ("user_id", "session_id", "tenant", "task_id", "version", "idempotency_key", "trace")
# Scopes and roles are not among the fields: they come from the door that authenticated the caller.
_FIELDS: dict[str, Callable[[Any], bool]] = {
    **dict.fromkeys(_TEXTS, _is_text),
    "deadline_s": _is_seconds,
    "timestamp": _is_seconds,
}
_FINDERS: dict[Format, Callable[[Json], Iterator[Found]]] = {
    "openai": _find_openai,
    "openai-chat": _find_chat,
    "anthropic": _find_anthropic,
    "gemini": _find_gemini,
    "mcp": _find_mcp,
    "toolpost": _find_toolpost,
}
