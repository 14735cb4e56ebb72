"""Tasks: the extension io.modelcontextprotocol/tasks (SEP-2663), on accepted calls, which survive a restart."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import orjson

from toolpost.calls import ToolCall, ToolDefinition, ToolExecutionError
from toolpost.calls.call import Caller, new_id
from toolpost.calls.questions import Question, is_answer
from toolpost.calls.result import Failure
from toolpost.stores import Document, Pending
from toolpost.transports.mcp_client import TASKS, Client, client_of
from toolpost.transports.mcp_errors import (
    header_mismatch,
    invalid_params,
    method_not_found,
    missing_capability,
)
from toolpost.transports.mcp_results import Answer, call_answer, failure_answer, kept_links
from toolpost.transports.mcp_rounds import ASKS, Round, Rounds, for_client

if TYPE_CHECKING:
    from mcp.server.context import ServerRequestContext

    from toolpost.worker.reports import CallReport
    from toolpost.worker.service import Service

KIND: Final = "mcp-task"
POLL_MS: Final = 1000
LONG_S: Final = 10.0
LONG_RUNS: Final = 3
"""A tool whose calls took so long on average, of so many at least, is run as a task where the client knows tasks."""
INTERNAL_ERROR: Final = -32603
ATTEMPTS: Final = 10
DONE: Final[Answer] = {"resultType": "complete"}


@dataclass(slots=True)
class Task:
    """A task as it is kept: the call that it stands for now, and what was answered to that call's questions so far."""

    id: str
    call: dict[str, Any]
    created_at: float
    updated_at: float
    ttl_s: float
    round: int = 0
    answers: dict[str, Any] = field(default_factory=dict)
    approval_id: str | None = None
    flow_id: str | None = None
    cancelled: bool = False
    version: int = 0

    @property
    def call_id(self) -> str:
        """The call of now."""
        call_id: str = self.call["id"]
        return call_id

    def document(self) -> Document:
        """As it is kept."""
        body = {name: getattr(self, name) for name in _KEPT}
        return Document(
            KIND,
            self.id,
            0,
            orjson.dumps(body),
            tenant=self.call.get("tenant") or "",
            user_id=self.call.get("user_id") or "",
            state="cancelled" if self.cancelled else "",
            expires_at=self.created_at + self.ttl_s,
        )


_KEPT: Final = ("call", "created_at", "updated_at", "ttl_s", "round", "answers", "approval_id", "flow_id", "cancelled")
_CALL: Final = ("id", "name", "user_id", "session_id", "tenant", "task_id", "idempotency_key", "deadline_s", "trace")


class Tasks:
    """Makes tasks of calls, and answers tasks/get, tasks/update and tasks/cancel. local is who speaks over stdio."""

    def __init__(self, service: Service, base_url: str, local: Caller | None = None) -> None:
        self.service, self.executor, self._local = service, service.executor, local
        self._rounds = Rounds(self.executor, base_url)
        self._clock = self.executor.clock

    def takes(self, tool: ToolDefinition, client: Client, *, answered: bool) -> bool:
        """Whether a call of this client becomes a task. Raises MCPError (-32021) where it would have to and cannot."""
        mode = tool.hints.task
        if mode == "never" or not client.modern:
            return False
        if mode is None:
            return client.knows_tasks and self.takes_long(tool)
        if not client.knows_tasks:
            if mode == "required":
                raise missing_capability({"extensions": {TASKS: {}}})
            return False
        return answered if mode == "after_input" else True

    def takes_long(self, tool: ToolDefinition) -> bool:
        """Whether calls of a tool that says nothing of tasks have turned out, in this process, to take long."""
        seen = self.executor._metrics.tool(tool.name).snapshot()
        ran = seen.requests - seen.rejected - seen.cache_hits - seen.replays
        return ran >= LONG_RUNS and seen.average_s >= LONG_S

    async def created(self, client: Client, call: ToolCall, round: Round) -> Answer:
        """Have a call run as a task: both are durable when this answers."""
        now = self._clock.now()
        kept = _kept_call(replace(call, answers=dict(round.answers) or None))
        task = Task(
            id=secrets.token_urlsafe(24),
            call=kept,
            created_at=now,
            updated_at=now,
            ttl_s=self.executor.config.calls_kept,
        )
        await self._put(task, 0)
        try:
            await self._accept(task)
        except ToolExecutionError as error:
            await self._drop(task)
            return failure_answer(Failure.of(error), error.message, call.id)
        return {"resultType": "task", **_shown(task, "working")}

    # -- methods ------------------------------------------------------------------------------------------------------

    async def get(self, ctx: ServerRequestContext[Any, Any], params: Any) -> Answer:
        """How a task stands, with its result, its error or its questions."""
        client = self._client(ctx, params.task_id)
        task = await self._task(params.task_id, client)
        return {"resultType": "complete", **await self._standing(task, client)}

    async def update(self, ctx: ServerRequestContext[Any, Any], params: Any) -> Answer:
        """Take answers to a task's questions; with the last one it goes on."""
        client = self._client(ctx, params.task_id)
        for _ in range(ATTEMPTS):
            task = await self._task(params.task_id, client)
            questions = await self._questions(task, client)
            given = {
                key: answer
                for key, answer in (params.input_responses or {}).items()
                if key in questions and is_answer(questions[key], answer)
            }
            if not given:
                return DONE
            task.answers.update(given)
            task.updated_at = self._clock.now()
            if questions.keys() - given.keys() and not all(
                questions[key].optional for key in questions.keys() - given.keys()
            ):
                if await self._put(task, task.version):
                    return DONE
                continue
            if await self._resumed(task, client):
                return DONE
        return DONE

    async def cancel(self, ctx: ServerRequestContext[Any, Any], params: Any) -> Answer:
        """Have a task end. One that has ended stays as it is."""
        client = self._client(ctx, params.task_id)
        for _ in range(ATTEMPTS):
            task = await self._task(params.task_id, client)
            report = await self._report(task, client)
            if report is None or not report.ended:
                await self.service.calls.cancel(task.call_id, client.sees)
                return DONE
            if not await self._questions(task, client):
                return DONE
            task.cancelled, task.updated_at = True, self._clock.now()
            if await self._put(task, task.version):
                return DONE
        return DONE

    # -- inside -------------------------------------------------------------------------------------------------------

    def _client(self, ctx: ServerRequestContext[Any, Any], task_id: str) -> Client:
        """The sender. Raises MCPError for who does not know tasks, and for a header that names another task."""
        client = client_of(ctx, self._local)
        if not client.modern:
            raise method_not_found(ctx.method)
        if ctx.request is not None:
            from mcp.shared.inbound import MCP_NAME_HEADER, decode_header_value

            # Clients must send it (SEP-2663), but FastMCP 4.2 and Inspector 2.12 do not. It is there to route by, and
            # all processes have all tasks.
            named = ctx.request.headers.get(MCP_NAME_HEADER)
            if named is not None and decode_header_value(named) != task_id:
                raise header_mismatch(f"{MCP_NAME_HEADER} header does not match the request body's 'taskId' parameter")
        if not client.knows_tasks:
            raise missing_capability({"extensions": {TASKS: {}}})
        return client

    async def _task(self, task_id: str, client: Client) -> Task:
        """A task of this caller. Raises MCPError (-32602) for any other."""
        answer = self.executor.records.document(KIND, task_id)
        found = await answer if isinstance(answer, Pending) else answer
        caller = client.caller
        if found is None or (found.user_id, found.tenant) != (caller.user_id or "", caller.tenant or ""):
            raise invalid_params(f"there is no task {task_id!r:.100}")
        return Task(id=task_id, version=found.version, **orjson.loads(found.body))

    async def _put(self, task: Task, expect: int) -> bool:
        answer = self.executor.records.put_document(task.document(), expect)
        return bool(await answer if isinstance(answer, Pending) else answer)

    async def _drop(self, task: Task) -> None:
        answer = self.executor.records.drop_document(KIND, task.id)
        if isinstance(answer, Pending):
            await answer

    async def _accept(self, task: Task) -> None:
        """Have the call of now run. Its id is known beforehand, so that a repeat after a crash makes no second one."""
        report = await self.service.calls.accept(_call(task.call))
        if report.call_id != task.call_id:  # its idempotency key was used: the task stands for the earlier call
            task.call["id"] = report.call_id
            answer = self.executor.records.put_document(task.document())
            if isinstance(answer, Pending):
                await answer

    async def _report(self, task: Task, client: Client) -> CallReport | None:
        """The report of the call of now; a call that was lost between two writes is accepted again."""
        found = await self.service.calls.show(task.call_id, client.sees)
        if found is None and not task.cancelled:
            try:
                await self._accept(task)
            except ToolExecutionError:
                return None
            found = await self.service.calls.show(task.call_id, client.sees)
        return found

    async def _questions(self, task: Task, client: Client) -> dict[str, Question]:
        """The questions that are open."""
        report = await self._report(task, client)
        if task.cancelled or report is None or report.result is None or report.result.failure is None:
            return {}
        return await self._asked(task, report.result.failure, client)

    async def _asked(self, task: Task, failure: Failure, client: Client) -> dict[str, Question]:
        if failure.code not in ASKS:
            return {}
        round = Round(answers=dict(task.answers))
        questions = await self._rounds.questions(failure, client, round)
        task.approval_id, task.flow_id = round.approval_id, round.flow_id
        asked, lacking = for_client(questions, client, round)
        return {} if lacking else {key: one for key, one in asked.items() if key not in task.answers}

    async def _resumed(self, task: Task, client: Client) -> bool:
        """Have the task go on with all that was answered; False when somebody else changed it meanwhile."""
        round = Round(approval_id=task.approval_id, flow_id=task.flow_id)
        round.take(task.answers)
        refusal = await self._rounds.decided(round, client.caller)
        if refusal is not None:
            task.cancelled = True
            return await self._put(task, task.version)
        earlier = task.call.get("answers") or {}
        task.round += 1
        call = {**task.call, "id": new_id(), "answers": {**earlier, **round.answers} or None}
        if call.get("idempotency_key"):  # the earlier round ended without an effect, and is no answer to this one
            call["idempotency_key"] = f"{task.call['idempotency_key'].partition('#round-')[0]}#round-{task.round}"
        task.call, task.answers, task.approval_id, task.flow_id = call, {}, None, None
        if not await self._put(task, task.version):
            return False
        with suppress(ToolExecutionError):  # tasks/get has it accepted again, or tells why that cannot be
            await self._accept(task)
        return True

    async def _standing(self, task: Task, client: Client) -> Answer:
        if task.cancelled:
            return _shown(task, "cancelled")
        report = await self._report(task, client)
        if report is None or not report.ended:
            return _shown(task, "working")
        task.updated_at = max(task.updated_at, report.finished_at or 0.0)
        if report.state == "cancelled":
            return _shown(task, "cancelled")
        result = report.result
        if result is None or report.state == "dead" or _is_ours(result.failure):
            message = (result.error if result is not None else None) or "the call was lost too often to be tried again"
            return {**_shown(task, "failed"), "error": {"code": INTERNAL_ERROR, "message": message}}
        if result.failure is not None and (questions := await self._asked(task, result.failure, client)):
            asked = {key: {"method": one.method, "params": dict(one.params)} for key, one in questions.items()}
            return {**_shown(task, "input_required"), "inputRequests": asked}
        answer = call_answer(result, self._tool(report.tool, report.version), client.version)
        answer["content"] = [*answer["content"], *kept_links(report.call_id, report.artifacts)]
        return {**_shown(task, "completed"), "result": answer}

    def _tool(self, name: str, version: str | None) -> ToolDefinition | None:
        try:
            return self.executor.registry.get_tool(name, version)
        except ToolExecutionError:
            return None


def _is_ours(failure: Failure | None) -> bool:
    """Whether toolpost itself failed, which is the protocol's kind of failure and not the tool's."""
    return failure is not None and failure.code == "engine_error"


def _shown(task: Task, status: str) -> Answer:
    return {
        "taskId": task.id,
        "status": status,
        "createdAt": _iso(task.created_at),
        "lastUpdatedAt": _iso(task.updated_at),
        "ttlMs": int(task.ttl_s * 1000),
        "pollIntervalMs": POLL_MS,
    }


def _iso(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _kept_call(call: ToolCall) -> dict[str, Any]:
    kept: dict[str, Any] = {name: getattr(call, name) for name in _CALL if getattr(call, name) is not None}
    kept["arguments"] = dict(call.arguments)
    kept["scopes"], kept["roles"] = sorted(call.scopes), sorted(call.roles)
    if call.answers is not None:
        kept["answers"] = dict(call.answers)
    return kept


def _call(kept: Mapping[str, Any]) -> ToolCall:
    return ToolCall(**{**kept, "scopes": frozenset(kept["scopes"]), "roles": frozenset(kept["roles"])})


__all__ = ["KIND", "Task", "Tasks"]
