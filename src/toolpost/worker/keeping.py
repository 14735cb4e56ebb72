"""How calls are kept: a ToolCall as a task, a ToolResult as its finish, and a task's row as a CallReport again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from operator import attrgetter
from typing import TYPE_CHECKING, Any, TypeVar

import orjson

from toolpost.calls.call import ANONYMOUS, Caller, ToolCall
from toolpost.calls.definition import ToolDefinition
from toolpost.calls.errors import (
    CallCancelledError,
    EngineError,
    OutcomeUnknownError,
    StoreUnavailableError,
    ToolError,
    ToolNotFoundError,
)
from toolpost.calls.result import Failure, ToolResult, ToolReturnTarget, ToolReturnType, ToolUsage, failed_result
from toolpost.engine.registry import split_name
from toolpost.stores import Answer, Finish, Outgoing, Pending, Task, TaskRow, TaskState, Work
from toolpost.worker.reports import Accept, CallReport, KeptArtifact, described, state_of
from toolpost.worker.seeing import line_of

if TYPE_CHECKING:
    from toolpost.engine.executor import ToolExecutor

INLINE_MAX_BYTES = 65_536
"""Larger arguments and values lie in Blobs, where these outlive processes."""

MAX_NAME = 128
"""Most characters that are kept of the name of a tool."""

_OPTIONS = orjson.OPT_NON_STR_KEYS
T = TypeVar("T")


async def had(answer: Answer[T]) -> T:
    """The value of an answer. Raises StoreUnavailableError."""
    return await answer if isinstance(answer, Pending) else answer


# -- calls ------------------------------------------------------------------------------------------------------------


async def task_of(
    call: ToolCall, how: Accept, tool: ToolDefinition, shown: Mapping[str, Any], executor: ToolExecutor
) -> Task:
    """The row of a call that is accepted. Its arguments are the real ones, as it must run; shown is what people see."""
    arguments = dumps(dict(call.arguments))
    blob = None
    if len(arguments) > INLINE_MAX_BYTES and executor.blobs.durable:
        blob = await had(executor.blobs.put(arguments))
    extra: dict[str, Any] = {"accepted": True, "version": tool.version, "explain": how.explain}
    if call.scopes:
        extra["scopes"] = sorted(call.scopes)
    if call.roles:
        extra["roles"] = sorted(call.roles)
    if call.strict:
        extra["strict"] = True
    if call.answers is not None:
        extra["answers"] = dict(call.answers)
    if shown != call.arguments:
        extra["shown"] = shown
    if call.task_id is not None:
        extra["task_id"] = call.task_id
    extra.update({name: value for name in ("format", "provider_id") if (value := getattr(how, name)) is not None})
    return Task(
        task_id=call.id,
        tool=tool.name,
        version=split_name(call.name, call.version)[1],
        arguments=b"{}" if blob is not None else arguments,
        blob=blob,
        tenant=call.tenant or "",
        user_id=call.user_id,
        session_id=call.session_id,
        idempotency_key=call.idempotency_key,
        order_key=None if how.order_key is None else line_of(call.caller, how.order_key),
        priority=how.priority,
        max_attempts=how.max_attempts,
        due_in_s=how.delay_s,
        deadline_in_s=call.deadline_s,
        reply_to=how.callback,
        trace=call.trace,
        extra=extra,
    )


async def call_of(work: Work, executor: ToolExecutor) -> ToolCall:
    """The call that a task stands for, with its caller's scopes and roles as they were at its acceptance.

    Raises StoreUnavailableError where its arguments cannot be had now, EngineError where they never can.
    """
    task = work.task
    arguments = task.arguments
    if task.blob is not None:
        found = await had(executor.blobs.get(task.blob))
        if found is None:
            raise EngineError(f"the arguments of call {task.task_id} are gone: there is no blob {task.blob}")
        arguments = found
    extra, asked = task.extra, object_in(arguments)
    return ToolCall(
        id=task.task_id,
        name=task.tool,
        arguments=asked or {},
        malformed=None if asked is not None else "the arguments that were kept are no JSON object",
        user_id=task.user_id,
        session_id=task.session_id,
        tenant=task.tenant or None,
        scopes=frozenset(extra.get("scopes", ())),
        roles=frozenset(extra.get("roles", ())),
        task_id=extra.get("task_id"),
        version=task.version,
        idempotency_key=task.idempotency_key,
        deadline_s=task.deadline_in_s,
        trace=task.trace,
        reply_to=task.reply_to,
        strict=extra.get("strict", False),
        answers=extra.get("answers"),
        timestamp=executor.clock.now() - work.age_s,
    )


def recorded_task(call: ToolCall, shown: Mapping[str, Any], version: str | None) -> Task:
    """The row of a call that a door's own process ran; it never holds more than may be shown."""
    return Task(
        task_id=call.id,
        tool=name_of(call),
        version=version,
        arguments=dumps(shown),
        tenant=call.tenant or "",
        user_id=call.user_id,
        session_id=call.session_id,
        idempotency_key=call.idempotency_key,
        trace=call.trace,
    )


# -- results ----------------------------------------------------------------------------------------------------------


async def kept_artifacts(result: ToolResult, executor: ToolExecutor) -> tuple[KeptArtifact, ...]:
    """Keep the files of a result in blobs; what they are. Raises StoreUnavailableError."""
    for data in result.artifacts.values():
        await had(executor.blobs.put(data))
    return described(result.artifacts)


async def finish_of(
    result: ToolResult,
    task_id: str,
    executor: ToolExecutor,
    *,
    fence: int = 0,
    artifacts: tuple[KeptArtifact, ...] = (),
    state: TaskState | None = None,
    outbox: tuple[Outgoing, ...] = (),
    lasted: tuple[float, float] | None = None,
) -> Finish:
    """The finish that keeps a result; its value lies in blobs where it is large. Raises StoreUnavailableError.

    lasted: from when to when in wall time, where the row is written later than that.
    """
    value = dumps(result.data) if result.success else None
    blob = None
    if value is not None and len(value) > INLINE_MAX_BYTES and executor.blobs.durable:
        blob = await had(executor.blobs.put(value))
        value = None
    failure = result.failure
    return Finish(
        task_id=task_id,
        fence=fence,
        state=state or state_of(result),
        value=value,
        blob=blob,
        error_code=None if failure is None else failure.code,
        error=None if result.success else (result.error or "")[:2000],
        outcome="ok" if result.success else "error" if failure is None else failure.outcome,
        source=result.source,
        elapsed_ms=result.execution_time_ms
        if lasted is None
        else max(0.0, (executor.clock.now() - lasted[0]) * 1000.0),
        report=_report(result, artifacts, lasted),
        outbox=outbox,
    )


def _report(result: ToolResult, artifacts: tuple[KeptArtifact, ...], lasted: tuple[float, float] | None) -> bytes:
    """All that a result says but its value, and what most say."""
    said: dict[str, Any] = {"tool": result.tool_name, "ms": result.execution_time_ms}
    if result.metadata:
        said["metadata"] = result.metadata
    if result.status_code != 200:
        said["status_code"] = result.status_code
    if result.source != "run":
        said["source"] = result.source
    if result.attempts != 1:
        said["attempts"] = result.attempts
    if not result.success:
        said["error"] = result.error
        if result.failure is not None:
            said["failure"] = asdict(result.failure)
    if result.return_type is not ToolReturnType.JSON:
        said["return_type"] = result.return_type.value
    if result.return_target is not ToolReturnTarget.STEP:
        said["return_target"] = result.return_target.value
    if artifacts:
        said["artifacts"] = [[a.name, a.digest, a.size, a.media_type] for a in artifacts]
    if result.usage is not None:
        said["usage"] = _used(result.usage)
    for name in ("warnings", "logs"):
        if value := getattr(result, name):
            said[name] = value
    if lasted is not None:
        said["lasted"] = lasted
    if result.explanation is not None:
        said["explanation"] = result.explanation
    return dumps(said)


def _used(usage: ToolUsage) -> dict[str, Any]:
    """What a usage says that others do not; orjson would take three times as long for all of it."""
    return {name: value for name, value, usual in zip(_USAGE, _values(usage), _USUAL, strict=True) if value != usual}


_USAGE = tuple(one.name for one in fields(ToolUsage))
_values = attrgetter(*_USAGE)
_USUAL: tuple[Any, ...] = _values(ToolUsage())


async def report_of(row: TaskRow, executor: ToolExecutor, *, whole: bool = True) -> CallReport:
    """A row as a report. Only a whole one has arguments, and what lies in blobs. Raises StoreUnavailableError."""
    extra = row.extra
    shown = extra.get("shown") if whole else None
    if shown is None and whole:
        arguments = row.arguments
        if row.arguments_blob is not None:
            found: bytes | None = await had(executor.blobs.get(row.arguments_blob))
            arguments = found or b"{}"
        shown = object_in(arguments)
    hidden = executor.admission.hidden
    accepted = bool(extra.get("accepted"))
    report = CallReport(
        call_id=row.task_id,
        tool=row.tool,
        state=row.state,
        caller=caller_of(row),
        version=extra.get("version", row.version),
        accepted=accepted,
        arguments=hidden(shown or {}),
        created_at=row.created_at,
        started_at=row.started_at if accepted else row.created_at,
        finished_at=row.finished_at,
        due_at=row.due_at,
        attempt=row.attempt if accepted else 1,
        max_attempts=row.max_attempts,
        priority=row.priority,
        idempotency_key=row.idempotency_key,
        trace=row.trace,
        callback=row.reply_to if accepted else None,
        format=extra.get("format"),
        provider_id=extra.get("provider_id"),
    )
    if not report.ended:
        return report
    said: dict[str, Any] = {} if row.report is None else orjson.loads(row.report)
    result = _by_store(row) if row.report is None else _result(row, said)
    if result.success and row.blob is not None and whole:
        text = await had(executor.blobs.get(row.blob))
        if text is None:
            raise StoreUnavailableError(f"the value of call {row.task_id} is gone: there is no blob {row.blob}")
        result = replace(result, data=hidden(orjson.loads(text)))
    elif result.success:
        result = replace(result, data=hidden(result.data))
    artifacts = tuple(KeptArtifact(name=n, digest=d, size=s, media_type=m) for n, d, s, m in said.get("artifacts", ()))
    report = replace(report, result=result, artifacts=artifacts)
    if "lasted" in said:
        began, ended = said["lasted"]
        report = replace(report, created_at=began, started_at=began, finished_at=ended)
    return report


def _result(row: TaskRow, said: dict[str, Any]) -> ToolResult:
    failure, usage = said.get("failure"), said.get("usage")
    success = "error" not in said
    return ToolResult(
        call_id=row.task_id,
        tool_name=said["tool"],
        success=success,
        data=orjson.loads(row.value) if success and row.value is not None else None,
        error=said.get("error"),
        execution_time_ms=said["ms"],
        status_code=said.get("status_code", 200),
        metadata=said.get("metadata", {}),
        failure=None if failure is None else Failure(**failure),
        source=said.get("source", "run"),
        attempts=said.get("attempts", 1),
        return_type=ToolReturnType(said.get("return_type", "json")),
        return_target=ToolReturnTarget(said.get("return_target", "step")),
        usage=None if usage is None else ToolUsage(**usage),
        warnings=said.get("warnings", []),
        logs=said.get("logs", []),
        explanation=said.get("explanation"),
    )


def _by_store(row: TaskRow) -> ToolResult:
    """The result of a call that the store itself ended: cancelled before it ran, or given up; or of another writer."""
    if row.state == "succeeded":
        data = None if row.value is None else orjson.loads(row.value)
        return ToolResult(call_id=row.task_id, tool_name=row.tool, success=True, data=data)
    if row.state == "cancelled":
        cancelled = CallCancelledError("the call was cancelled while it waited", tool=row.tool)
        cancelled.outcome = "not_run" if row.attempt == 0 else "ran"
        return failed_result(row.task_id, row.tool, cancelled)
    if row.error_code not in (None, "lost"):
        failure = ToolError(row.error or "", code=row.error_code or "tool_error", tool=row.tool)
        return failed_result(row.task_id, row.tool, failure)
    return failed_result(row.task_id, row.tool, given_up(row.tool, row.attempt))


def given_up(tool: str, times: int) -> OutcomeUnknownError:
    """Why a call is dead."""
    error = OutcomeUnknownError(
        f"whoever ran this call was lost {times} times, so it is not run again; nobody knows how far it came", tool=tool
    )
    error.outcome = "unknown"
    return error


def name_of(call: ToolCall) -> str:
    """The tool that a call names, which may be none, as far as it can be kept."""
    name = call.name.partition("@")[0] if isinstance(call.name, str) else "(unknown)"
    return name[:MAX_NAME].replace("\0", "\ufffd").encode("utf-8", "replace").decode()


def caller_of(row: TaskRow | Task) -> Caller:
    """Who made a call, as far as rows say."""
    if not row.tenant and row.user_id is None and row.session_id is None:
        return ANONYMOUS
    return Caller(user_id=row.user_id, tenant=row.tenant or None, session_id=row.session_id)


def refused_call_of(row: TaskRow | Task) -> ToolCall:
    """The call that rows tell of, for who tells that it was not made: without its arguments."""
    who = caller_of(row)
    return ToolCall(
        row.task_id,
        row.tool,
        {},
        user_id=who.user_id,
        session_id=who.session_id,
        tenant=who.tenant,
        version=row.version,
        idempotency_key=row.idempotency_key,
    )


def tool_of(executor: ToolExecutor, name: str, version: str | None) -> ToolDefinition | None:
    """The definition of a tool, None where it is not loaded here."""
    try:
        return executor.registry.get_tool(*split_name(name, version))
    except ToolNotFoundError:
        return None


def dumps(value: Any) -> bytes:
    """JSON. What has no JSON form becomes text, and texts that are no Unicode are mended."""
    try:
        return orjson.dumps(value, option=_OPTIONS, default=str)
    except TypeError:
        return orjson.dumps(_mended(value), option=_OPTIONS, default=str)


def object_in(text: bytes) -> dict[str, Any] | None:
    """A JSON object, None for anything else."""
    try:
        found = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    return found if isinstance(found, dict) else None


def _mended(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, Mapping):
        return {_mended(name): _mended(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_mended(item) for item in value]
    if isinstance(value, int) and not isinstance(value, bool) and not -(2**63) <= value < 2**64:
        return str(value)
    return value


__all__ = [
    "call_of",
    "caller_of",
    "finish_of",
    "had",
    "kept_artifacts",
    "name_of",
    "object_in",
    "recorded_task",
    "refused_call_of",
    "report_of",
    "task_of",
    "tool_of",
]
