"""tools/list and tools/call: an MCP client's calls become calls of the one pipeline, and its results their answers."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from toolpost.calls import ToolCall, ToolDefinition, ToolExecutionError, ToolResult
from toolpost.calls.call import new_id
from toolpost.calls.errors import ToolNotFoundError
from toolpost.calls.questions import ASKER, Question
from toolpost.calls.result import Failure
from toolpost.calls.showing import SHOWN_AS
from toolpost.transports.http_headers import MAX_KEY_CHARS, trace_of
from toolpost.transports.mcp_client import DEADLINE, KEY, RESULT, TASK_ID, Client, client_of
from toolpost.transports.mcp_errors import invalid_params, missing_capability
from toolpost.transports.mcp_notices import Notices, wants_notices
from toolpost.transports.mcp_results import Answer, call_answer, failure_answer
from toolpost.transports.mcp_rounds import ASKS, MOST_ROUNDS, Round, Rounds, SessionAsker, for_client, input_required
from toolpost.transports.mcp_tools import LISTED, page, shown_tool
from toolpost.transports.serve_log import note

if TYPE_CHECKING:
    from mcp.server.context import ServerRequestContext

    from toolpost.calls.call import Caller
    from toolpost.transports.mcp_tasks import Tasks
    from toolpost.worker.service import Service


MOST_S: Final = 1e9
"""The longest deadline; what is longer is as good as none."""


class ToolCalls:
    """The handlers of tools/list and tools/call. local is who speaks over stdio."""

    def __init__(self, service: Service, base_url: str, tasks: Tasks, local: Caller | None = None) -> None:
        self.service, self.executor, self._tasks, self._local = service, service.executor, tasks, local
        self.notices = Notices(self.executor)
        self._rounds = Rounds(self.executor, base_url)

    async def list_tools(self, ctx: ServerRequestContext[Any, Any], params: Any) -> Answer:
        """What the caller may see, by name."""
        client = client_of(ctx, self._local)
        tools = sorted(await self._visible(client), key=lambda tool: tool.name)
        chosen, after = paged(tools, [tool.name for tool in tools], params.cursor)
        answer: Answer = {"tools": [shown_tool(tool, client.version) for tool in chosen], **LISTED}
        return answer if after is None else {**answer, "nextCursor": after}

    async def call_tool(self, ctx: ServerRequestContext[Any, Any], params: Any) -> Answer:
        """Run a call; or have it run as a task; or say what must be answered first."""
        client = client_of(ctx, self._local)
        raw = ctx.params or {}
        call = self.executor.opened(call_of(client, params.name, params.arguments or {}))
        name, tool = call.name, self.tool(call.name)
        round = Round.of(params.request_state, raw.get("inputResponses"))
        if ctx.request is not None:
            note(ctx.request.scope, tool=name[:128], call_id=call.id)
        try:
            refusal = await self._rounds.decided(round, client.caller)
        except ToolExecutionError as error:
            return failure_answer(Failure.of(error), error.message, call.id)
        if refusal is not None:
            return failure_answer(None, f"{name} was not called: {refusal}", call.id)
        if tool is not None and self._tasks.takes(tool, client, answered=bool(round.answers)):
            return await self._tasks.created(client, call, round)
        try:
            return await self._answered(ctx, client, tool, call, round)
        except ToolExecutionError as error:  # what would have to be asked could not be looked up
            return failure_answer(Failure.of(error), error.message, call.id)

    def tool(self, name: str) -> ToolDefinition | None:
        """The tool of a name; None where there is none, which the pipeline tells."""
        try:
            return self.executor.tool_named(name)
        except ToolExecutionError:
            return None

    async def _answered(
        self,
        ctx: ServerRequestContext[Any, Any],
        client: Client,
        tool: ToolDefinition | None,
        call: ToolCall,
        round: Round,
    ) -> Answer:
        asker = None if client.modern else SessionAsker(ctx, client)
        if asker is not None and not asker.can_ask:
            asker = None
        for _ in range(MOST_ROUNDS):
            made = None if ctx.request is None else ctx.request.scope.pop(RESULT, None)
            result: ToolResult = made or await self._run(ctx, tool, with_answers(call, round), asker, client.version)
            if result.failure is not None and result.failure.code == ToolNotFoundError.code and tool is None:
                raise await self.unknown(call.name, client)
            if result.success or result.failure is None or result.failure.code not in ASKS:
                return self._shown(result, tool, client)
            questions = await self._rounds.questions(result.failure, client, round)
            before = dict(round.answers)
            asked, lacking = for_client(questions, client, round)
            if lacking and result.failure.code == "input_required" and client.modern:
                raise missing_capability(lacking)
            if not asked:
                if round.answers == before or lacking:
                    break
                continue  # only optional questions, which this client cannot be asked
            if client.modern:
                return input_required(asked, round)
            if asker is None or not await self._asked(asker, asked, round, client):
                break
        return self._shown(result, tool, client)

    async def _asked(
        self, asker: SessionAsker, questions: Mapping[str, Question], round: Round, client: Client
    ) -> bool:
        """Ask a session's client; whether the call is to be tried again."""
        answers = await asker.ask(questions)
        round.take(answers)
        if not answers:
            return False
        return await self._rounds.decided(round, client.caller) is None

    async def _run(
        self,
        ctx: ServerRequestContext[Any, Any],
        tool: ToolDefinition | None,
        call: ToolCall,
        asker: SessionAsker | None,
        version: str,
    ) -> ToolResult:
        tells = tool is not None and getattr(tool.body, "context", None) is not None and wants_notices(ctx)
        before = ASKER.set(asker)
        shown = SHOWN_AS.set(lambda one: shown_tool(one, version))
        try:
            async with self.notices.forwarded(ctx, call.id) if tells else nullcontext():
                return await self.service.calls.run(call)
        finally:
            SHOWN_AS.reset(shown)
            ASKER.reset(before)

    async def _visible(self, client: Client) -> list[ToolDefinition]:
        return await self.executor.tools_for_model_async(client.caller)

    def _shown(self, result: ToolResult, tool: ToolDefinition | None, client: Client) -> Answer:
        return call_answer(result, tool, client.version)

    async def unknown(self, name: str, client: Client) -> Exception:
        """The protocol's error for a tool that is not there; it names no other that the caller may not see."""
        near = difflib.get_close_matches(name, [tool.name for tool in await self._visible(client)], n=1)
        return invalid_params(f"Unknown tool: {name:.140}" + (f"; did you mean {near[0]!r}?" if near else ""))


def call_of(client: Client, name: str, arguments: Mapping[str, Any]) -> ToolCall:
    """The call that a request makes: by its caller, with what its _meta says of it."""
    caller, meta = client.caller, client.meta
    key = _text(meta, KEY)
    long = key is not None and len(key) > MAX_KEY_CHARS
    return ToolCall(
        id=new_id(),
        name=name,
        arguments=arguments,
        user_id=caller.user_id,
        session_id=caller.session_id,
        tenant=caller.tenant,
        scopes=caller.scopes,
        roles=caller.roles,
        task_id=_text(meta, TASK_ID),
        idempotency_key=key,
        malformed=f"{KEY} has at most {MAX_KEY_CHARS} characters, got {len(key or '')}" if long else None,
        deadline_s=_deadline(meta),
        trace=None if (trace := _text(meta, "traceparent")) is None else trace_of(trace),
    )


def with_answers(call: ToolCall, round: Round) -> ToolCall:
    """The call as one round makes it: each has an id of its own."""
    return replace(call, id=new_id(), answers=dict(round.answers)) if round.answers else call


def paged(items: list[Any], names: list[str], cursor: str | None) -> tuple[list[Any], str | None]:
    """A page of a list. Raises MCPError (-32602) for a cursor that is none."""
    try:
        return page(items, names, cursor)
    except ValueError as error:
        raise invalid_params(str(error)) from None


def _text(meta: Mapping[str, Any], key: str) -> str | None:
    value = meta.get(key)
    return value if isinstance(value, str) and value else None


def _deadline(meta: Mapping[str, Any]) -> float | None:
    value = meta.get(DEADLINE)
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not value > 0:
        return None
    return float(min(value, MOST_S))  # an integer may be too large for a float


__all__ = ["ToolCalls", "call_of", "paged", "with_answers"]
