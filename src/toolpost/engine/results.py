"""What a ToolResult says of one call: refused, failed, succeeded or cancelled."""

from __future__ import annotations

from typing import Any

from toolpost.calls.call import ToolCall
from toolpost.calls.errors import CallCancelledError, ToolExecutionError
from toolpost.calls.result import ToolResult, ToolUsage, failed_result
from toolpost.engine.entries import Entry
from toolpost.pipeline.invocation import Invocation
from toolpost.pipeline.services import Services


def refused(call: ToolCall, error: ToolExecutionError, elapsed_s: float, services: Services) -> ToolResult:
    """The result of a call that never reached a tool; it is counted all the same."""
    stats = services.metrics.tool("(unknown)")
    stats.record(elapsed_s, error.code, True, False)
    if services.collector is not None:
        name = call.name if isinstance(call.name, str) else "(unknown)"
        row = (services.clock.now(), name[:128], False, elapsed_s * 1000.0, call.user_id, error.error_type)
        services.collector.note(row)
    return failed_result(call.id, call.name, error, elapsed_s=elapsed_s, metadata=_metadata(call), attempts=0)


def failed(call: ToolCall, entry: Entry, inv: Invocation, error: ToolExecutionError, elapsed_s: float) -> ToolResult:
    """The result of a call that reached a tool and ended with an error."""
    return failed_result(
        call.id,
        entry.definition.name,
        error,
        elapsed_s=elapsed_s,
        metadata=_metadata(call),
        attempts=inv.attempts,
    )


def succeeded(call: ToolCall, entry: Entry, inv: Invocation, value: Any, elapsed_s: float, now: float) -> ToolResult:
    """The result of a call that gave a value; now is the wall time for people to read, in seconds."""
    if entry.definition.wrap_result and not isinstance(value, dict):
        value = {"result": value}
    metadata = _metadata(call)
    metadata["timestamp"] = now
    return ToolResult(
        call_id=call.id,
        tool_name=entry.definition.name,
        success=True,
        data=value,
        execution_time_ms=elapsed_s * 1000.0,
        metadata=metadata,
        source=inv.source,
        attempts=inv.attempts,
        usage=ToolUsage(attempts=inv.attempts, cached_hit=inv.source == "cache"),
    )


def cancelled(call: ToolCall) -> ToolResult:
    """The result of a call that had not ended when another of its batch failed."""
    error = CallCancelledError("another call of the batch failed, so this one was cancelled", tool=call.name)
    return failed_result(call.id, call.name, error, metadata=_metadata(call))


def _metadata(call: ToolCall) -> dict[str, Any]:
    named = {"user_id": call.user_id, "session_id": call.session_id, "task_id": call.task_id}
    return {k: v for k, v in named.items() if v is not None}
