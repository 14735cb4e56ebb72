"""How tools are shown to models: names in each provider's alphabet, schemas in its subset."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Literal, get_args

import orjson

from toolpost.calls import Hints, ToolDefinition
from toolpost.calls.errors import ConfigurationError
from toolpost.transports.wire_strict import ANTHROPIC, OPENAI, strict_schema

Format = Literal["openai", "openai-chat", "anthropic", "gemini", "mcp", "toolpost"]
"""openai is the Responses API, openai-chat Chat Completions; toolpost is our own form."""

FORMATS: tuple[Format, ...] = get_args(Format)

LIMITS: dict[Format, int] = {"openai": 64, "openai-chat": 64, "anthropic": 128, "gemini": 128}
"""How long a name may be: OpenAI takes [A-Za-z0-9_-], Anthropic too, Gemini also '.' and ':' but no digit
first.
"""

_RUN = re.compile(r"[._]+")
_ENCODED_RUN = re.compile(r"___([du]{2,})___|_+")
_DIGIT_FIRST = re.compile(r"\A_*[0-9]")
_SHORTENED = re.compile(r".+____[0-9a-f]{16}\Z")
_DIALECTS = {"openai": OPENAI, "openai-chat": OPENAI, "anthropic": ANTHROPIC}


def check_format(format: str) -> Format:
    """The format itself. Raises ConfigurationError when there is none of that name."""
    for known in FORMATS:
        if format == known:
            return known
    raise ConfigurationError(f"no format {format!r}; the formats are {', '.join(FORMATS)}")


def encode_name(name: str, format: Format) -> str:
    """A tool's name as a provider takes it; decode_name finds it again, and no two names share a form.

    For OpenAI and Anthropic '.' becomes '__' (MyApp.Calculator: MyApp__Calculator), a single '_' stays, and
    any other run of dots and underscores is spelt between triple underscores ('a__b': 'a___uu___b'). For
    Gemini a name that begins with a digit gets one '_' in front. What is then too long ends in '____' and a
    digest of the whole name.
    """
    limit = LIMITS.get(check_format(format))
    if limit is None:
        return name
    encoded = _DIGIT_FIRST.sub(r"_\g<0>", name) if format == "gemini" else _RUN.sub(_spell, name)
    if len(encoded) <= limit:
        return encoded
    digest = hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()[:16]
    return f"{encoded[: limit - 20]}____{digest}"


def decode_name(name: str, format: Format, known: Iterable[str] = ()) -> str:
    """The tool's name behind an encoded one; what no name encodes to is returned as it is.

    known are the registered names. A shortened name is found among them; and a name that is registered as
    it stands is taken so when what it decodes to is not registered.
    """
    limit = LIMITS.get(check_format(format))
    if limit is None:
        return name
    names = known if isinstance(known, Collection) else frozenset(known)
    if len(name) == limit and _SHORTENED.match(name):
        return next((one for one in names if encode_name(one, format) == name), name)
    if format == "gemini":
        decoded = name[1:] if name.startswith("_") and _DIGIT_FIRST.match(name) else name
    else:
        decoded = _ENCODED_RUN.sub(_unspell, name)
    if encode_name(decoded, format) != name or (decoded not in names and name in names):
        return name
    return decoded


def _spell(run: re.Match[str]) -> str:
    plain = {"_": "_", ".": "__"}.get(run.group())
    return plain or "___" + run.group().replace(".", "d").replace("_", "u") + "___"


def _unspell(run: re.Match[str]) -> str:
    if run.group(1):
        return run.group(1).replace("d", ".").replace("u", "_")
    return "." if run.group() == "__" else run.group()


def export_tools(
    definitions: Iterable[ToolDefinition], format: Format, *, strict: bool = False
) -> list[dict[str, Any]]:
    """What goes into a request's tools (for MCP, into a tools/list result), in the order given.

    Gemini takes a list of tools that each hold declarations: all of them stand in one.
    """
    tools = [export_tool(definition, format, strict=strict) for definition in definitions]
    return [{"functionDeclarations": tools}] if format == "gemini" and tools else tools


def export_tool(definition: ToolDefinition, format: Format, *, strict: bool = False) -> dict[str, Any]:
    """One tool in a provider's form; nothing in it is shared with the definition.

    strict asks for the provider's strict mode (OpenAI, Anthropic). A tool whose schema cannot be put
    strictly is exported without it, and says "strict": false; strict_problems tells why.
    """
    check_format(format)
    if format == "toolpost":
        return _own_form(definition)
    named = {"name": encode_name(definition.name, format)}
    if definition.description:
        named["description"] = definition.description
    if format == "mcp":
        return _mcp_form(definition, named)
    schema = None if not strict or strict_problems(definition, format) else _strict(definition, format)[0]
    parameters = _open_schema(definition.parameters) if schema is None else schema
    if format == "openai":
        return {"type": "function", **named, "parameters": parameters, "strict": schema is not None}
    if format == "openai-chat":
        return {
            "type": "function",
            "function": {**named, "parameters": parameters, "strict": schema is not None},
        }
    if format == "gemini":
        takes_none = not parameters["properties"] and not parameters.get("additionalProperties")
        return dict(named) if takes_none else {**named, "parametersJsonSchema": parameters}
    tool: dict[str, Any] = {**named, "input_schema": parameters}
    if strict:
        tool["strict"] = schema is not None
    if examples := _examples(definition):
        tool["input_examples"] = examples
    return tool


def strict_problems(definition: ToolDefinition, format: Format) -> list[str]:
    """Why a tool cannot be exported in a provider's strict mode, a sentence each with its place; empty when
    it can.
    """
    if check_format(format) not in _DIALECTS:
        return [f"the {format} format has no strict mode"]
    return _strict(definition, format)[1]


def _strict(definition: ToolDefinition, format: Format) -> tuple[dict[str, Any], list[str]]:
    return strict_schema(definition.parameters, _DIALECTS[format])


def _copy(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _copy(item) for key, item in value.items()}
    return [_copy(item) for item in value] if isinstance(value, list | tuple) else value


def _open_schema(schema: Mapping[str, Any]) -> dict[str, Any]:
    """parameters as providers take them outside strict mode: an object at the root and no combination
    beside it.

    One tool whose root holds anyOf, oneOf, allOf, not, enum or const makes OpenAI and Anthropic refuse the
    request. Such a rule is told in words and its branches' properties are offered; the engine still checks
    the real schema.
    """
    root = {key: value for key, value in _copy(schema).items() if key not in ("$schema", "$id")}
    root = {**_target(root, root), **{key: value for key, value in root.items() if key != "$ref"}}
    properties, required = dict(root.get("properties", {})), list(root.get("required", []))
    rules = {key: root.pop(key) for key in ("allOf", "anyOf", "oneOf", "not", "enum", "const") if key in root}
    for keyword in ("allOf", "anyOf", "oneOf"):
        branches = [_target(root, branch) for branch in rules.get(keyword, ())]
        for branch in branches:
            for name, offered in branch.get("properties", {}).items():
                properties[name] = _either(properties[name], offered) if name in properties else offered
        needed = [set(branch.get("required", ())) for branch in branches] or [set()]
        together = set.union(*needed) if keyword == "allOf" else set.intersection(*needed)
        required += sorted(together - set(required))
    if rules:
        rule = "The arguments must also satisfy " + orjson.dumps(rules).decode()
        root["description"] = f"{root['description']} {rule}" if root.get("description") else rule
    root.update({"type": "object", "properties": properties})
    return {**root, "required": required} if required else root


def _target(root: dict[str, Any], schema: Any) -> dict[str, Any]:
    """The schema, or what its reference into the root's definitions names."""
    if not isinstance(schema, dict):
        return {}
    found = re.fullmatch(r"#/(\$defs|definitions)/([^/]+)", str(schema.get("$ref", "")))
    target = root.get(found[1], {}).get(found[2]) if found else schema
    return target if isinstance(target, dict) else {}


def _either(first: Any, second: Any) -> Any:
    options = first["anyOf"] if isinstance(first, dict) and list(first) == ["anyOf"] else [first]
    return first if second in options else {"anyOf": [*options, second]}


def _examples(definition: ToolDefinition) -> list[dict[str, Any]]:
    """The examples that are arguments: the API refuses a tool with one that does not fit."""
    names = set(definition.parameters.get("properties", {}))
    required = set(definition.parameters.get("required", ()))
    return [_copy(one) for one in definition.examples if isinstance(one, Mapping) and required <= set(one) <= names]


def shown_hints(hints: Hints) -> dict[str, Any]:
    """Hints as MCP names them, those that are said."""
    said = {
        "title": hints.title,
        "readOnlyHint": hints.read_only,
        "destructiveHint": hints.destructive,
        "idempotentHint": hints.idempotent,
        "openWorldHint": hints.open_world,
    }
    return {key: value for key, value in said.items() if value is not None}


def _mcp_form(definition: ToolDefinition, named: dict[str, str]) -> dict[str, Any]:
    tool: dict[str, Any] = {**named, "inputSchema": {**_copy(definition.parameters), "type": "object"}}
    if definition.returns is not None and definition.returns.get("type") == "object":
        tool["outputSchema"] = _copy(definition.returns)
    if annotations := shown_hints(definition.hints):
        tool["annotations"] = annotations
    return tool


def _own_form(definition: ToolDefinition) -> dict[str, Any]:
    tool: dict[str, Any] = {"name": definition.name, "version": definition.version}
    tool.update(description=definition.description, parameters=_copy(definition.parameters))
    more = {
        "returns": definition.returns,
        "hints": shown_hints(definition.hints),
        "tags": definition.tags,
        "examples": definition.examples,
        "permissions": definition.permissions,
        "requires_auth": definition.requires_auth,
        "deprecated": definition.deprecated,
    }
    return {**tool, **{key: _copy(value) for key, value in more.items() if value}}
