"""settle: outermost. Keeps the call's deadline, turns whatever happens into a value or one typed error, and tells."""

from __future__ import annotations

import asyncio
import copy
import logging
import threading
from typing import TYPE_CHECKING, Any

from toolpost.calls.definition import ToolDefinition
from toolpost.calls.errors import (
    CallCancelledError,
    EngineError,
    InputRequiredError,
    OperationError,
    Rejected,
    SandboxError,
    ToolExecutionError,
    ToolTimeoutError,
)
from toolpost.calls.events import CallFinished, CallStarted, Event
from toolpost.calls.policies import given
from toolpost.calls.redaction import scrub_message
from toolpost.pipeline.deadline import Late, timed_out
from toolpost.pipeline.encode import PLAIN, check_shape, to_json
from toolpost.pipeline.hiding import hidden
from toolpost.pipeline.invocation import Invocation
from toolpost.pipeline.services import Services
from toolpost.runners.threads import from_body
from toolpost.telemetry.metrics import BATCH

if TYPE_CHECKING:
    from toolpost.pipeline.compile import Handler

logger = logging.getLogger("toolpost")
DONE = object()
INFO = logging.INFO


def settle(tool: ToolDefinition, services: Services, next: Handler) -> Handler:
    """The outer end of every chain. Raises ToolExecutionError and its kinds, or lets a real cancellation through."""
    stopwatch = services.clock.stopwatch
    stats = services.metrics.of(tool)
    runs, hits, replays, collector = stats.runs, stats.hits, stats.replays, services.collector
    rows = collector.rows if collector is not None else []
    counted, trim_at = collector is not None, collector.trim_at if collector is not None else 1
    now, writes_successes, is_enabled = (
        services.clock.now,
        services.log.writes_successes,
        services.log.logger.isEnabledFor,
    )
    observers, redactor = services.observers, services.redactor
    name = tool.name
    timeout = given(tool.policies.over(services.defaults).timeout)
    total_s = timeout.total_s if timeout is not None else None

    async def handler(inv: Invocation) -> Any:
        inv.started = started = stopwatch()
        limit_s = total_s
        if inv.deadline_s is not None:
            limit_s = inv.deadline_s if limit_s is None else min(limit_s, inv.deadline_s)
        inv.limit_s = limit_s
        if observers:
            emit(services, _started(tool, inv, now()))
        try:
            coro: Any = next(inv)
            if coro is inv:  # the value was there at once
                value = inv.value
                parked = DONE
            else:
                try:
                    parked = coro.send(None)
                except StopIteration as done:
                    value = done.value
                    parked = DONE
                except GeneratorExit as raised:
                    raise RuntimeError("the body raised GeneratorExit") from raised
            if parked is not DONE:
                if inv.blocking:
                    coro.close()
                    raise EngineError("a blocking call met something that has to wait for an event loop")
                left_s = None if limit_s is None else limit_s - (stopwatch() - started)
                value = await Late(coro, parked, left_s, services, inv)
            if inv.source != "run" and redactor.active:  # it may have been kept when a secret was not known yet
                value = redactor.value(value)
            if inv.encode:
                value = to_json(value)
            elif value.__class__ not in PLAIN:
                check_shape(value)
        except BaseException as raised:
            shown = hidden(raised, redactor, inv.arguments) if redactor.active else raised
            error = translated(shown, tool, inv, limit_s)
            elapsed_s = stopwatch() - started
            rejected = isinstance(error, Rejected)
            stats.record(elapsed_s, error.code, rejected, False)
            if collector is not None:
                collector.note((now(), name, False, elapsed_s * 1000.0, inv.caller.user_id, error.error_type))
            _tell_failure(services, tool, inv, error, elapsed_s)
            if raised is error or _passes_through(raised, inv):
                raise
            raise error from error.__cause__ or (None if isinstance(shown, ToolExecutionError) else shown)
        elapsed_s = stopwatch() - started
        # What stats.record and collector.note do, without the calls: they would be a sixth of the whole call.
        source = inv.source
        pending = runs if source == "run" else hits if source == "cache" else replays
        pending.append(elapsed_s)
        if counted:
            rows.append((now(), name, True, elapsed_s * 1000.0, inv.caller.user_id, None))
        if len(pending) >= BATCH:
            stats.tend()
        if len(rows) >= trim_at and collector is not None:
            collector.tend()
        if writes_successes and is_enabled(INFO):
            _log(services, tool, inv, None, elapsed_s)
        if observers:
            emit(services, _finished(tool, inv, "ok", elapsed_s, None))
        return value

    return handler


def _passes_through(raised: BaseException, inv: Invocation) -> bool:
    """Whether an exception is not the tool's: the caller's own cancellation, or a person's interrupt."""
    if isinstance(raised, GeneratorExit):
        return True
    if isinstance(raised, asyncio.CancelledError):
        return not inv.blocking and not from_body(raised) and _task_is_cancelled()
    if isinstance(raised, KeyboardInterrupt):
        return inv.blocking and threading.current_thread() is threading.main_thread() and not from_body(raised)
    return False


def _task_is_cancelled() -> bool:
    try:
        task = asyncio.current_task()
    except RuntimeError:
        return False
    return task is not None and task.cancelling() > 0


def translated(
    raised: BaseException, tool: ToolDefinition, inv: Invocation, limit_s: float | None
) -> ToolExecutionError:
    """The typed error for anything a stage, a runner or a body may raise."""
    error: ToolExecutionError
    if isinstance(raised, ToolExecutionError):
        error = _own(raised, tool) if inv.ran else raised
    elif isinstance(raised, (asyncio.CancelledError, GeneratorExit)) and not from_body(raised):
        late = limit_s is not None and inv.blocking
        error = timed_out(limit_s or 0.0, inv) if late else CallCancelledError("the call was cancelled")
        if not inv.ran:
            error.outcome = "not_run"
        elif not late:
            error.outcome = inv.on_timeout
    elif not inv.ran:
        error = EngineError(f"a check of this call failed, so it was refused: {_said(raised)}")
    else:
        error = OperationError(f"Error executing {tool.operation or tool.name}: {_said(raised)}")
    if error.tool is None:
        error.tool = tool.name
    return error


def _own(raised: ToolExecutionError, tool: ToolDefinition) -> ToolExecutionError:
    """The error of this call for one that its body raised, or let through from a call of its own.

    The body may raise one object again and again, so it is copied and left as it was. A refusal or a timeout of an
    inner call (its error names that tool) is not one of this call, whose body ran.
    """
    if raised.tool is not None and isinstance(raised, (Rejected, ToolTimeoutError)):
        inner = f"{raised.tool} did not give a result: {raised.message}"
        error: ToolExecutionError = OperationError(f"Error executing {tool.operation or tool.name}: {inner}")
        error.retryable = raised.retryable
        error.__cause__ = raised
        return error
    try:
        error = copy.copy(raised)
    except Exception:
        error = raised  # an author's own class that cannot be copied
    else:
        error.__cause__, error.__suppress_context__ = raised.__cause__, True
        error.__traceback__, raised.__traceback__ = raised.__traceback__, None
    error.tool = tool.name
    own = isinstance(error, SandboxError) and raised.tool == tool.name  # a body that is nothing but a program says so
    asks = isinstance(error, InputRequiredError)  # a body that asks is run again, from its beginning
    if error.outcome == "not_run" and not own and not asks and not isinstance(error, ToolTimeoutError):
        error.outcome = "ran"
    return error


def _said(raised: BaseException) -> str:
    """An exception's kind and what it says, at most 2,000 characters and without secrets; some cannot be written."""
    kind = type(raised).__name__
    try:
        text = str(raised)[:2000]
    except Exception:
        return kind
    return f"{kind}: {scrub_message(text)}" if text else kind


def _tell_failure(
    services: Services, tool: ToolDefinition, inv: Invocation, error: ToolExecutionError, elapsed_s: float
) -> None:
    if services.log.wants(True):
        _log(services, tool, inv, error, elapsed_s)
    if services.observers:
        status = "rejected" if isinstance(error, Rejected) else "failed"
        emit(services, _finished(tool, inv, status, elapsed_s, error))


def _log(
    services: Services, tool: ToolDefinition, inv: Invocation, error: ToolExecutionError | None, elapsed_s: float
) -> None:
    try:
        services.log.finished(
            call_id=inv.id,
            tool=tool.name,
            elapsed_s=elapsed_s,
            error=error,
            source=inv.source,
            user_id=inv.caller.user_id,
            task_id=inv.task_id,
        )
    except Exception:
        logger.exception("the call log failed: %s", tool.name)


def emit(services: Services, event: Event) -> None:
    """Tell every observer; one that breaks is logged and the rest are told."""
    for observer in tuple(services.observers):
        try:
            observer(event)
        except Exception:
            logger.exception("an observer failed on %s", type(event).__name__)


def _started(tool: ToolDefinition, inv: Invocation, at: float) -> CallStarted:
    caller = inv.caller
    return CallStarted(
        call_id=inv.id,
        tool=tool.name,
        version=tool.version,
        at=at,
        user_id=caller.user_id,
        tenant=caller.tenant,
        session_id=caller.session_id,
        task_id=inv.task_id,
    )


def _finished(
    tool: ToolDefinition, inv: Invocation, status: str, elapsed_s: float, error: ToolExecutionError | None
) -> CallFinished:
    caller = inv.caller
    return CallFinished(
        call_id=inv.id,
        tool=tool.name,
        version=tool.version,
        status=status,
        elapsed_s=elapsed_s,
        source=inv.source,
        attempts=inv.attempts,
        error=error,
        user_id=caller.user_id,
        tenant=caller.tenant,
        session_id=caller.session_id,
        task_id=inv.task_id,
    )
