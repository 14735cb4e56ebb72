"""How a call ended: the value or the failure, how long it took and what it used."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal

import orjson

from toolpost.calls.artifacts import listed
from toolpost.calls.errors import Outcome, Rejected, ToolExecutionError

Source = Literal["run", "cache", "replay"]
"""Where a value came from: the body, the cache, or an earlier call with the same idempotency key."""


class ToolReturnType(StrEnum):
    """How a result is written for its reader."""

    JSON = "json"
    TOON = "toon"
    TEXT = "text"


class ToolReturnTarget(StrEnum):
    """Who a result is for."""

    HUMAN = "human"
    LLM = "llm"
    AGENT = "agent"
    STEP = "step"


@dataclass(slots=True, kw_only=True)
class ToolUsage:
    """What one call used. Bytes are of the JSON text of arguments and result; cost is in US dollars.

    What is below circuit_opened is told by the body, of its last attempt: processor time, the most memory, bytes that
    its program wrote, system calls that were refused, by name, and the signal that ended it. None where nobody knows.
    """

    input_bytes: int = 0
    output_bytes: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    cost_usd: float = 0.0
    attempts: int = 0
    retries: int = 0
    cached_hit: bool = False
    idempotency_reused: bool = False
    circuit_opened: bool = False
    cpu_s: float = 0.0
    peak_memory_bytes: int | None = None
    written_bytes: int = 0
    denied_syscalls: Mapping[str, int] | None = None
    exit_signal: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why a call failed: code is stable, message is for the model, errors lists problems with arguments.

    status is HTTP's. outcome says what became of the body: not_run, ran, stopped or unknown.
    """

    code: str
    message: str
    status: int
    error_type: str
    retryable: bool = False
    retry_after_s: float | None = None
    outcome: Outcome = "ran"
    details: Mapping[str, Any] = field(default_factory=dict)
    rejected: bool = False

    @classmethod
    def of(cls, error: ToolExecutionError) -> Failure:
        """The failure an error stands for."""
        return cls(
            code=error.code,
            message=error.message,
            status=error.status,
            error_type=error.error_type,
            retryable=error.retryable,
            retry_after_s=error.retry_after_s,
            outcome=error.outcome,
            details=error.details,
            rejected=isinstance(error, Rejected),
        )

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        out: dict[str, Any] = {"code": self.code, "message": self.message, "status": self.status}
        out.update(error_type=self.error_type, retryable=self.retryable, outcome=self.outcome)
        if self.retry_after_s is not None:
            out["retry_after_s"] = round(self.retry_after_s, 3)
        if self.details:
            out["details"] = dict(self.details)
        return out


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolResult:
    """One call's answer. data is a JSON value when success is true, error a sentence when it is not.

    content, return_type, return_target, artifacts, usage, latency_ms, warnings and logs are the names by which the
    specs' executors report the same thing; failure says more than error does. explanation, where it was asked for, has
    an entry for each stage of the pipeline, outermost first: stage, decision, rule, us (microseconds of its own).
    """

    call_id: str
    tool_name: str
    success: bool
    data: Any = None
    error: str | None = None
    execution_time_ms: float = 0.0
    status_code: int = 200
    metadata: dict[str, Any] = field(default_factory=dict)
    failure: Failure | None = None
    source: Source = "run"
    attempts: int = 0
    return_type: ToolReturnType = ToolReturnType.JSON
    return_target: ToolReturnTarget = ToolReturnTarget.STEP
    artifacts: dict[str, bytes] = field(default_factory=dict)
    usage: ToolUsage | None = None
    warnings: list[str] = field(default_factory=list)
    logs: list[str] = field(default_factory=list)
    explanation: list[dict[str, Any]] | None = None

    @property
    def status(self) -> Literal["ok", "rejected", "failed"]:
        """ok, rejected (the body never ran) or failed."""
        if self.success:
            return "ok"
        return "rejected" if self.failure is not None and self.failure.rejected else "failed"

    @property
    def content(self) -> Any:
        """data, written as return_type asks: the value itself for json, a string for text."""
        if self.return_type is ToolReturnType.TEXT and self.success and not isinstance(self.data, str):
            return orjson.dumps(self.data).decode()
        return self.data

    @property
    def latency_ms(self) -> float:
        """execution_time_ms under its other name."""
        return self.execution_time_ms

    @property
    def elapsed_s(self) -> float:
        """How long the call took, in seconds."""
        return self.execution_time_ms / 1000.0

    def to_dict(self) -> dict[str, Any]:
        """As JSON: data when it succeeded, error when it did not."""
        out: dict[str, Any] = {"call_id": self.call_id, "tool_name": self.tool_name, "success": self.success}
        if self.success:
            out["data"] = self.data
        else:
            out["error"] = self.error
        out["status_code"] = self.status_code
        out["execution_time_ms"] = round(self.execution_time_ms, 3)
        out["metadata"] = dict(self.metadata)
        if self.artifacts:
            out["artifacts"] = listed(self.artifacts)
        return out


def content_of(result: ToolResult) -> Any:
    """What a model is shown of a result that succeeded: its content, and names and sizes of its artifacts.

    An object has them as "artifacts", unless it says so itself; anything else becomes text with a line below.
    """
    content = result.content
    if not result.artifacts:
        return content
    if isinstance(content, Mapping):
        return {"artifacts": listed(result.artifacts), **content}
    text = content if isinstance(content, str) else orjson.dumps(content, option=orjson.OPT_NON_STR_KEYS).decode()
    named = ", ".join(f"{name} ({len(data)} bytes)" for name, data in result.artifacts.items())
    return f"{text}\n[artifacts: {named}]"


WAYS_ON = ("approval_id", "arguments", "authorization_url", "flow_id")
"""What of an error's details a refused caller needs to go on: whom to ask, what to call with instead."""


def failed_result(
    call_id: str, tool_name: str, error: ToolExecutionError, *, elapsed_s: float = 0.0, **more: Any
) -> ToolResult:
    """The result that reports an error."""
    failure = Failure.of(error)
    metadata: dict[str, Any] = {"timestamp": time.time(), "error_type": failure.error_type, "code": failure.code}
    metadata["retryable"] = failure.retryable
    metadata["outcome"] = failure.outcome
    if failure.retry_after_s is not None:
        metadata["retry_after_s"] = round(failure.retry_after_s, 3)
    if "errors" in failure.details:
        metadata["errors"] = failure.details["errors"]
    metadata.update((name, failure.details[name]) for name in WAYS_ON if failure.details.get(name) is not None)
    metadata.update(more.pop("metadata", {}))
    return ToolResult(
        call_id=call_id,
        tool_name=tool_name,
        success=False,
        error=failure.message,
        execution_time_ms=elapsed_s * 1000.0,
        status_code=failure.status,
        metadata=metadata,
        failure=failure,
        **more,
    )


def format_tool_result_for_llm(result: ToolResult) -> dict[str, Any]:
    """The message that gives a result back to a model: role, tool_call_id, name, and content as JSON text."""
    if result.success:
        content: Any = result.data if not result.artifacts else content_of(result)
    else:
        content = {"error": result.error, "status_code": result.status_code}
        if result.failure is not None and "errors" in result.failure.details:
            content["errors"] = result.failure.details["errors"]
    return {
        "role": "tool",
        "tool_call_id": result.call_id,
        "name": result.tool_name,
        "content": orjson.dumps(content, option=orjson.OPT_NON_STR_KEYS).decode(),
    }
