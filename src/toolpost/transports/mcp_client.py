"""Client: who sent an MCP request, by which revision, and what they can be asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from toolpost.calls.call import ANONYMOUS, Caller
from toolpost.calls.questions import Question
from toolpost.transports.http_auth import OPEN
from toolpost.transports.mcp_results import MODERN

if TYPE_CHECKING:
    from mcp.server.context import ServerRequestContext

CALLER: Final = "toolpost.caller"
"""The key of an ASGI scope under which the caller stands; None for whoever came without a name where none is asked."""
RESULT: Final = "toolpost.result"
"""The key there of the result of a call that was made already, and for which the client has to be asked something."""
TASKS: Final = "io.modelcontextprotocol/tasks"

KEY: Final = "toolpost/idempotency_key"
SESSION: Final = "toolpost/session_id"
TASK_ID: Final = "toolpost/task_id"
DEADLINE: Final = "toolpost/deadline_s"
"""What a request's _meta may say of a call: its idempotency key, the agent's session and task, its deadline."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """One request's sender. caller makes calls; sees is the one by whom calls are looked up.

    base_url: how it reached the gateway, without a slash at its end; "" over stdio.
    """

    caller: Caller
    sees: Caller
    version: str
    capabilities: Mapping[str, Any]
    meta: Mapping[str, Any]
    base_url: str = ""

    @property
    def modern(self) -> bool:
        """Whether it speaks a revision without sessions."""
        return self.version in MODERN

    @property
    def knows_tasks(self) -> bool:
        """Whether it declared the tasks extension."""
        return TASKS in (self.capabilities.get("extensions") or {})

    def in_session(self, session: str | None = None) -> Client:
        """The client whose calls are part of the session that its request names, or of one that its transport has."""
        named = self.meta.get(SESSION)
        if isinstance(named, str) and 0 < len(named) <= 256:
            session = named
        if session is None or self.caller.session_id is not None:
            return self
        caller = replace(self.caller, session_id=session)
        return replace(self, caller=caller, sees=self.sees if self.sees is OPEN else caller)

    def lacks(self, question: Question) -> dict[str, Any] | None:
        """The capability that a question needs and this client has not declared; None where it can be asked."""
        method, declared = question.method, self.capabilities
        if method == "sampling/createMessage":
            return {"sampling": {}} if declared.get("sampling") is None else None
        if method == "roots/list":
            return {"roots": {}} if declared.get("roots") is None else None
        modes = declared.get("elicitation")
        if question.params.get("mode") == "url":
            return {"elicitation": {"url": {}}} if modes is None or modes.get("url") is None else None
        if modes is None or (modes.get("form") is None and modes.get("url") is not None):
            return {"elicitation": {}}
        return None


def client_of(ctx: ServerRequestContext[Any, Any], local: Caller | None = None) -> Client:
    """The sender of a request that the SDK hands on. local is who speaks over stdio."""
    declared = ctx.session.client_capabilities
    capabilities = {} if declared is None else declared.model_dump(by_alias=True, exclude_none=True)
    meta: Mapping[str, Any] = {}
    if ctx.params is not None and isinstance(ctx.params.get("_meta"), Mapping):
        meta = ctx.params["_meta"]
    known = local if ctx.request is None else ctx.request.scope.get(CALLER)
    caller = ANONYMOUS if known is None else known
    client = Client(
        caller=caller,
        sees=OPEN if known is None else caller,
        version=ctx.protocol_version,
        capabilities=capabilities,
        meta=meta,
        base_url="" if ctx.request is None else f"{ctx.request.url.scheme}://{ctx.request.url.netloc}",
    )
    return client.in_session(None if ctx.request is None else ctx.request.headers.get("mcp-session-id"))


__all__ = ["CALLER", "DEADLINE", "KEY", "RESULT", "SESSION", "TASKS", "TASK_ID", "Client", "client_of"]
