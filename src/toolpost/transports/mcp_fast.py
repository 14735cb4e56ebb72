"""The quick way: a self-contained tools/call is answered without the SDK, which gets all that is not plain.

It makes the same checks and gives the same answers: whatever it is not sure of, it leaves to the SDK, untouched.
"""

from __future__ import annotations

import os
import re
from collections.abc import Awaitable, Callable, Collection, Mapping, MutableMapping
from typing import TYPE_CHECKING, Any, Final

import orjson

from toolpost.calls import ToolDefinition, ToolResult
from toolpost.calls.call import ANONYMOUS, Caller, ToolCall, new_id
from toolpost.calls.content import blocks_of
from toolpost.calls.errors import ToolNotFoundError
from toolpost.calls.policies import given
from toolpost.engine.discovery import NAMES
from toolpost.transports.http_bodies import until_gone
from toolpost.transports.http_problems import Answer
from toolpost.transports.mcp_calls import call_of
from toolpost.transports.mcp_client import CALLER, RESULT, TASKS, Client
from toolpost.transports.mcp_results import call_answer
from toolpost.transports.mcp_rounds import ASKS
from toolpost.transports.serve_log import TOLD, note

if TYPE_CHECKING:
    from toolpost.transports.mcp_server import McpServer

VERSION: Final = "2026-07-28"
_NEW: Final = VERSION.encode()
_PREFIX: Final = "io.modelcontextprotocol/"
_VERSION: Final = f"{_PREFIX}protocolVersion"
_CAPABILITIES: Final = f"{_PREFIX}clientCapabilities"
_CLIENT: Final = f"{_PREFIX}clientInfo"
_SERVER: Final = f"{_PREFIX}serverInfo"
_META: Final = frozenset({_VERSION, _CAPABILITIES, _CLIENT})
_MEMBERS: Final = frozenset({"jsonrpc", "id", "method", "params"})
_PARAMS: Final = frozenset({"name", "arguments", "_meta"})
_TRACE: Final = frozenset({"traceparent", "tracestate", "baggage"})
_NUMBERS: Final = re.compile(rb"[0-9]{16}|[eE][+-]?[0-9]{3}")
"""Numbers that parsers read in different ways: to ours an integer of more than 64 bits is a fraction."""
_MOST_KNOWN: Final = 1024
_PLAIN_ID: Final = (str, int)


class Fast:
    """Answers plain calls of one server. Belongs to its event loop.

    sessionless: older clients are served without sessions, so that their calls stand for themselves, too.
    """

    def __init__(self, server: McpServer, *, sessionless: bool = False) -> None:
        from mcp_types import DEFAULT_NEGOTIATED_VERSION
        from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS

        self._sessionless = sessionless
        self._older: dict[bytes | None, str] = {one.encode(): one for one in HANDSHAKE_PROTOCOL_VERSIONS}
        self._older[None] = DEFAULT_NEGOTIATED_VERSION
        self._server, self._executor, self._calls = server, server.executor, server.service.calls
        self._accepts: dict[bytes, bool] = {}
        self._envelopes: set[bytes] = set()
        self._tools: dict[str, ToolDefinition | None] = {}
        self._made_for: Any = None
        self._stamp: dict[str, Any] | None = None
        from opentelemetry import trace  # which the SDK brings

        self._trace: Any = trace
        self._names_tracer = "OTEL_PYTHON_TRACER_PROVIDER" in os.environ

    async def answered(
        self,
        scope: MutableMapping[str, Any],
        fields: Mapping[bytes, bytes],
        body: bytes,
        receive: Callable[[], Awaitable[Any]],
    ) -> Answer | None:
        """The answer to a plain request that may_be_plain; None for any other. receive gives what comes after the body.

        Where the call was made, and the client has to be asked something for it to go on, the scope has its result.
        Raises ClientLeftError.
        """
        version = VERSION if fields.get(b"mcp-protocol-version") == _NEW else self._older_version(fields, body)
        if version is None:
            return None
        request = self._plain_request(fields, body, version)
        if request is None:
            return None
        params = request["params"]
        tool = self._plain_tool(params["name"])
        if tool is None or self._tells_more(tool, params, version):
            return None
        call = self._call(params, scope[CALLER], version)
        if TOLD in scope:
            note(scope, tool=call.name, call_id=call.id)
        result = await until_gone(self._calls.run(call), receive)
        failure = result.failure
        if failure is not None and (failure.code in ASKS or failure.code == ToolNotFoundError.code):
            scope[RESULT] = result
            return None
        answer = {"jsonrpc": "2.0", "id": request["id"], "result": self._shown(result, tool, version)}
        return Answer(200, orjson.dumps(answer, option=orjson.OPT_NON_STR_KEYS), call_id=call.id)

    def tool_called(self, body: bytes) -> ToolDefinition | None:
        """The tool that a request calls; None for any other request."""
        if b"tools/call" not in body:
            return None
        try:
            decoded = orjson.loads(body)
        except ValueError:
            return None
        params = decoded.get("params") if isinstance(decoded, dict) and decoded.get("method") == "tools/call" else None
        name = params.get("name") if isinstance(params, dict) else None
        return self._server.calls.tool(name) if isinstance(name, str) else None

    # -- what is plain ------------------------------------------------------------------------------------------------

    def may_be_plain(self, fields: Mapping[bytes, bytes], lines: list[tuple[bytes, bytes]]) -> bool:
        """Whether the headers are those of a call that stands for itself, each but once."""
        if fields.get(b"mcp-protocol-version") == _NEW:
            if fields.get(b"mcp-method") != b"tools/call":
                return False
        elif not self._sessionless or b"mcp-session-id" in fields:
            return False
        if len(fields) != len(lines) or fields.get(b"content-type") != b"application/json":
            return False
        accept = fields.get(b"accept", b"")
        known = self._accepts.get(accept)
        if known is None:
            known = _accepts_both(accept)
            if len(self._accepts) < _MOST_KNOWN:
                self._accepts[accept] = known
        return known

    def _older_version(self, fields: Mapping[bytes, bytes], body: bytes) -> str | None:
        """The older revision of a request that may be a call; None for any other."""
        return self._older.get(fields.get(b"mcp-protocol-version")) if b"tools/call" in body else None

    def _plain_request(self, fields: Mapping[bytes, bytes], body: bytes, version: str) -> Any:
        """The request, if it is one that says nothing unusual; else None."""
        try:
            request = orjson.loads(body)
        except ValueError:
            return None
        if request.__class__ is not dict or request.keys() != _MEMBERS:
            return None
        params = request["params"]
        if (
            request["jsonrpc"] != "2.0"
            or request["method"] != "tools/call"
            or request["id"].__class__ not in _PLAIN_ID
            or params.__class__ is not dict
            or not params.keys() <= _PARAMS
        ):
            return None
        name, meta = params.get("name"), params.get("_meta", None if version == VERSION else {})
        if name.__class__ is not str or params.get("arguments", {}).__class__ is not dict or meta.__class__ is not dict:
            return None
        if version != VERSION:
            if not _is_ours(meta):
                return None
        elif fields.get(b"mcp-name", b"").decode("latin-1") != name or not self._is_plain_meta(meta, params):
            return None
        if _has_fraction(params.get("arguments")) and _NUMBERS.search(body) is not None:
            return None
        return request

    def _is_plain_meta(self, meta: Mapping[str, Any], params: Mapping[str, Any]) -> bool:
        """Whether the envelope is complete and well-formed, and asks for nothing to be told meanwhile."""
        if meta.get(_VERSION) != VERSION:
            return False
        if not meta.keys() <= _META and not _is_ours(meta.keys() - _META):
            return False
        try:
            envelope = orjson.dumps([meta.get(_CAPABILITIES), meta.get(_CLIENT, 0)])
        except TypeError:  # it is nested deeper than orjson writes, though not deeper than it reads
            return False
        if envelope in self._envelopes:
            return True
        from mcp_types import methods
        from pydantic import ValidationError

        try:
            methods.validate_client_request("tools/call", VERSION, dict(params))
        except ValidationError:
            return False
        if len(self._envelopes) < _MOST_KNOWN and len(envelope) < 4096:
            self._envelopes.add(envelope)
        return True

    def _plain_tool(self, name: str) -> ToolDefinition | None:
        """The tool of a name, if its calls need no more than a result; else None."""
        now = (self._executor.registry.revision, self._executor.config.jwt_issuer, self._executor.config.discovery)
        if now != self._made_for:
            self._tools, self._made_for = {}, now
        if name not in self._tools:
            if len(self._tools) >= _MOST_KNOWN:
                self._tools.clear()
            tool = self._server.calls.tool(name)
            self._tools[name] = tool if tool is not None and self._is_plain(tool, name) else None
        tool = self._tools[name]
        return None if self._is_traced() else tool

    def _is_traced(self) -> bool:
        """Whether spans are recorded: the SDK opens one for each message, and has to be asked then."""
        return self._trace._TRACER_PROVIDER is not None or self._names_tracer

    def _tells_more(self, tool: ToolDefinition, params: Mapping[str, Any], version: str) -> bool:
        """Whether a call may be told of while it runs, as sessions are without asking, or becomes a task."""
        if version != VERSION:
            return getattr(tool.body, "context", None) is not None
        extensions = params["_meta"][_CAPABILITIES].get("extensions")
        return bool(extensions) and TASKS in extensions and self._server.tasks.takes_long(tool)

    def _is_plain(self, tool: ToolDefinition, name: str) -> bool:
        executor = self._executor
        return (
            tool.name == name
            and name not in NAMES  # which are described to MCP's models, or open another call
            and tool.hints.task in (None, "never")
            and b'"x-mcp-header"' not in orjson.dumps(tool.parameters, default=str)
            and given(tool.policies.approval) is None
            and not (tool.hints.destructive and executor._guards.approvals.ask_for_destructive)
            and given(tool.policies.oauth) is None
            and (executor.config.jwt_issuer is None or executor._visible._gate(tool).open)
        )

    # -- the call -----------------------------------------------------------------------------------------------------

    def _call(self, params: Mapping[str, Any], caller: Caller | None, version: str) -> ToolCall:
        meta = params.get("_meta", {})
        if caller is None and meta.keys() <= _META:
            return ToolCall(new_id(), params["name"], params.get("arguments", {}))
        who = ANONYMOUS if caller is None else caller
        client = Client(caller=who, sees=who, version=version, capabilities={}, meta=meta)
        return call_of(client.in_session(), params["name"], params.get("arguments", {}))

    def _shown(self, result: ToolResult, tool: ToolDefinition, version: str) -> dict[str, Any]:
        """The result as the SDK writes it: in the newer era with the server's name on it."""
        if self._stamp is None:
            self._stamp = self._server.server.server_info_stamp
        answer = call_answer(result, tool, version)
        # Blocks of an author's own are checked by the SDK, and what older revisions lack is left out by it.
        if version != VERSION or (result.success and blocks_of(result.data) is not None):
            from mcp_types import methods

            answer = methods.serialize_server_result("tools/call", version, answer)
            if version != VERSION:
                return answer
        answer["_meta"][_SERVER] = self._stamp
        return answer


def _is_ours(keys: Collection[str]) -> bool:
    """Whether _meta has nothing but our own keys and those of traces."""
    return all(key in _TRACE or key.startswith("toolpost/") for key in keys)


def _accepts_both(accept: bytes) -> bool:
    """Whether a client takes JSON and streams of events, as the SDK reads it."""
    from mcp.server.streamable_http import check_accept_headers
    from starlette.requests import Request

    return all(check_accept_headers(Request({"type": "http", "headers": [(b"accept", accept)]})))


def _has_fraction(value: Any) -> bool:
    """Whether a number in a JSON value is none of Python's integers."""
    kind = value.__class__
    if kind is dict:
        return any(map(_has_fraction, value.values()))
    return any(map(_has_fraction, value)) if kind is list else kind is float


__all__ = ["VERSION", "Fast"]
