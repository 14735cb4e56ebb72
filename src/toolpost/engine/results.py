"""What a ToolResult says of one call: refused, failed, succeeded or cancelled."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from toolpost.calls.call import ToolCall
from toolpost.calls.definition import ToolDefinition
from toolpost.calls.errors import CallCancelledError, InputValidationError, Outcome, ToolExecutionError
from toolpost.calls.policies import UsageCalculator
from toolpost.calls.result import ToolResult, ToolUsage, failed_result
from toolpost.engine.entries import Entry
from toolpost.pipeline.hiding import hide_error
from toolpost.pipeline.invocation import Invocation
from toolpost.pipeline.services import Services
from toolpost.telemetry.usage import usage_of


def refused(
    call: ToolCall,
    error: ToolExecutionError,
    elapsed_s: float,
    services: Services,
    tool: ToolDefinition | None = None,
) -> ToolResult:
    """The result of a call that never reached a tool; it is counted all the same, for the tool if there is one."""
    hide_error(error, services.redactor)
    stats = services.metrics.tool("(unknown)") if tool is None else services.metrics.of(tool)
    stats.record(elapsed_s, error.code, error.outcome == "not_run", False)
    if services.collector is not None:
        name = tool.name if tool is not None else call.name if isinstance(call.name, str) else "(unknown)"
        row = (services.clock.now(), name[:128], False, elapsed_s * 1000.0, call.user_id, error.error_type)
        services.collector.note(row)
    audited(services, call, error)
    return failed_result(call.id, call.name, error, elapsed_s=elapsed_s, metadata=_metadata(call), attempts=0)


def audited(services: Services, call: ToolCall, error: ToolExecutionError) -> None:
    """Have the audit log tell of a call that never entered the pipeline, which tells of all others."""
    if services.audit is not None:
        services.audit.refused(call.id, call.name, error, call.caller, call.task_id)


def failed(call: ToolCall, entry: Entry, inv: Invocation, error: ToolExecutionError, elapsed_s: float) -> ToolResult:
    """The result of a call that reached a tool and ended with an error."""
    return failed_result(
        call.id,
        entry.definition.name,
        error,
        elapsed_s=elapsed_s,
        metadata=_metadata(call),
        attempts=inv.attempts,
        source=inv.source,
        usage=used(entry.definition, entry.calculator, inv, None, failed=True),
        artifacts=inv.artifacts or {},
        warnings=inv.warnings or [],
        explanation=inv.explanation,
    )


def used(
    definition: ToolDefinition, calculator: UsageCalculator | None, inv: Invocation, value: Any, *, failed: bool
) -> ToolUsage:
    """What a call used; the same wherever the engine runs. Arguments that were refused as such are not counted."""
    usage = usage_of(
        calculator,
        inv.arguments if hasattr(inv, "kwargs") else {},
        value,
        tool=definition.name,
        failed=failed,
        attempts=inv.attempts,
        cached_hit=inv.source == "cache",
        idempotency_reused=inv.source == "replay",
        circuit_opened=inv.circuit_opened,
    )
    if inv.context is not None and inv.context._used:
        return replace(usage, **inv.context._used)
    return usage


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
        usage=used(entry.definition, entry.calculator, inv, value, failed=False),
        artifacts=inv.artifacts or {},
        warnings=inv.warnings or [],
        explanation=inv.explanation,
    )


class Place:
    """One call of a batch: what was asked for and, once there, its invocation and its result."""

    __slots__ = ("call", "inv", "result")

    def __init__(self, call: ToolCall) -> None:
        self.call = call
        self.inv: Invocation | None = None
        self.result: ToolResult | None = None

    def end(self, result: ToolResult) -> None:
        """Keep the result and let the invocation go."""
        self.result, self.inv = result, None


def cancelled(place: Place, services: Services) -> ToolResult:
    """The result of a call that had not ended when another of its batch failed; outcome says how far it had come."""
    call, inv = place.call, place.inv
    if not isinstance(call, ToolCall):
        return no_tool_call(call, services)
    outcome: Outcome = inv.on_timeout if inv is not None and inv.ran else "not_run"
    said = _BECAME.get(outcome, "it was stopped")
    error = CallCancelledError(f"another call of the batch failed, so this one was cancelled; {said}", tool=call.name)
    error.outcome = outcome
    attempts = 0 if inv is None else inv.attempts
    if inv is None:
        audited(services, call, error)
    return failed_result(call.id, call.name, error, metadata=_metadata(call), attempts=attempts)


def no_tool_call(item: object, services: Services) -> ToolResult:
    """The result that stands in the place of what is no ToolCall."""
    error = InputValidationError(
        f"Parameter validation failed: a batch takes ToolCalls, got {type(item).__name__}; make one with "
        f"create_tool_call(name, arguments), or read what a model sent with decode_calls"
    )
    if services.audit is not None:
        services.audit.refused("", "(unknown)", error)
    return failed_result("", "(unknown)", error)


_BECAME: dict[Outcome, str] = {
    "not_run": "it never started",
    "unknown": "its body runs on in its thread, outcome unknown",
}


def _metadata(call: ToolCall) -> dict[str, Any]:
    told: dict[str, Any] = {}
    if call.user_id is not None:
        told["user_id"] = call.user_id
    if call.session_id is not None:
        told["session_id"] = call.session_id
    if call.task_id is not None:
        told["task_id"] = call.task_id
    return told
