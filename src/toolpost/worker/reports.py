"""CallReport: how a call of a door stands, from its acceptance to its end, as it is kept and as it is shown."""

from __future__ import annotations

import hashlib
import mimetypes
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from operator import attrgetter
from typing import Any, Literal

from toolpost.calls.call import ANONYMOUS, Caller
from toolpost.calls.result import ToolResult, ToolUsage
from toolpost.telemetry.audit_rows import instant

CallState = Literal["queued", "running", "waiting", "succeeded", "failed", "rejected", "cancelled", "dead"]
ENDED: frozenset[str] = frozenset({"succeeded", "failed", "rejected", "cancelled", "dead"})


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptArtifact:
    """A file that a call gave, in blobs: name is a relative path, digest the SHA-256 of its bytes in hex."""

    name: str
    digest: str
    size: int
    media_type: str = "application/octet-stream"


@dataclass(frozen=True, slots=True, kw_only=True)
class Accept:
    """How an accepted call is to be run.

    priority: higher first, from -100 to 100. delay_s: not before. max_attempts: how often a failure that passes is
    tried again by the queue, beside the tool's own retries. order_key: calls with one key run one after the other.
    callback: an https:// URL that is told how it ended. explain: whether the stages' decisions are kept.
    format and provider_id: the provider's format that the call came in, and its id there.
    """

    priority: int = 0
    delay_s: float = 0.0
    max_attempts: int = 1
    order_key: str | None = None
    callback: str | None = None
    explain: bool = True
    format: str | None = None
    provider_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CallReport:
    """How one call stands. Times are wall time in seconds; result is None until it ended.

    accepted: it was written down before it ran (and is run by whichever process takes it), else a door's own process
    ran it. arguments are as they are shown: with secrets hidden. result.artifacts is empty: artifacts has them.
    """

    call_id: str
    tool: str
    state: CallState
    caller: Caller = ANONYMOUS
    version: str | None = None
    accepted: bool = False
    arguments: Mapping[str, Any] = field(default_factory=dict)
    result: ToolResult | None = None
    artifacts: tuple[KeptArtifact, ...] = ()
    created_at: float = 0.0
    started_at: float | None = None
    finished_at: float | None = None
    due_at: float | None = None
    attempt: int = 0
    max_attempts: int = 1
    priority: int = 0
    idempotency_key: str | None = None
    trace: str | None = None
    callback: str | None = None
    format: str | None = None
    provider_id: str | None = None

    @property
    def ended(self) -> bool:
        """Whether nothing will change any more."""
        return self.state in ENDED


def report_json(report: CallReport) -> dict[str, Any]:
    """A report as JSON: the one form that HTTP, streams, MCP and callbacks show.

    Always there: call_id, tool, state, accepted, arguments (object), created_at, attempt, max_attempts, priority.
    Where it is so: version, user_id, tenant, session_id, started_at, finished_at, due_at, idempotency_key, trace,
    callback, format, provider_id. Times are UTC as RFC 3339 with milliseconds.

    Once it ended besides: success, status_code (HTTP's), execution_time_ms, source (run, cache or replay),
    body_attempts (how often the body was begun), artifacts (list of name, size, digest, media_type), usage (object,
    without what is zero or unknown), warnings, logs and explanation where there are any. A success has data (any JSON);
    anything else has error: code, message, status, error_type, retryable, outcome (not_run, ran, stopped or unknown),
    retry_after_s where one is known, errors (problems with arguments, by JSON Pointer) and details (object) where there
    are any.
    """
    caller = report.caller
    shown: dict[str, Any] = {
        "call_id": report.call_id,
        "tool": report.tool,
        "state": report.state,
        "accepted": report.accepted,
        "arguments": dict(report.arguments),
        "created_at": instant(report.created_at),
        "attempt": report.attempt,
        "max_attempts": report.max_attempts,
        "priority": report.priority,
    }
    told = {
        "version": report.version,
        "user_id": caller.user_id,
        "tenant": caller.tenant,
        "session_id": caller.session_id,
        "started_at": _instant(report.started_at),
        "finished_at": _instant(report.finished_at),
        "due_at": _instant(report.due_at),
        "idempotency_key": report.idempotency_key,
        "trace": report.trace,
        "callback": report.callback,
        "format": report.format,
        "provider_id": report.provider_id,
    }
    shown.update((name, value) for name, value in told.items() if value is not None)
    if report.result is not None:
        shown.update(result_json(report.result, report.artifacts))
    return shown


def result_json(result: ToolResult, artifacts: tuple[KeptArtifact, ...] | None = None) -> dict[str, Any]:
    """What report_json says of a call's end. artifacts stand in the place of the result's own, where given."""
    if artifacts is None:
        artifacts = described(result.artifacts)
    shown: dict[str, Any] = {
        "success": result.success,
        "status_code": result.status_code,
        "execution_time_ms": round(result.execution_time_ms, 3),
        "source": result.source,
        "body_attempts": result.attempts,
        "artifacts": [artifact_json(artifact) for artifact in artifacts],
    }
    if result.success:
        shown["data"] = result.data
    else:
        shown["error"] = error_json(result)
    if result.usage is not None:
        shown["usage"] = usage_json(result.usage)
    for name in ("warnings", "logs", "explanation"):
        value = getattr(result, name)
        if value:
            shown[name] = value
    return shown


def error_json(result: ToolResult) -> dict[str, Any]:
    """Why a call did not succeed, as in report_json."""
    failure = result.failure
    if failure is None:
        return {
            "code": "tool_error",
            "message": result.error or "",
            "status": result.status_code,
            "error_type": "ToolExecutionError",
            "retryable": False,
            "outcome": "unknown",
        }
    told = failure.to_dict()
    details = dict(told.pop("details", {}))
    if "errors" in details:
        told["errors"] = details.pop("errors")
    if details:
        told["details"] = details
    return told


def usage_json(usage: ToolUsage) -> dict[str, Any]:
    """Usage without what is zero, false or unknown."""
    return {name: value for name, value in zip(_USAGE, _AMOUNTS(usage), strict=True) if value}


def artifact_json(artifact: KeptArtifact) -> dict[str, Any]:
    """An artifact, as in report_json."""
    return {
        "name": artifact.name,
        "size": artifact.size,
        "digest": artifact.digest,
        "media_type": artifact.media_type,
    }


def described(artifacts: Mapping[str, bytes]) -> tuple[KeptArtifact, ...]:
    """What files that a result holds are called and consist of; nothing is kept by that."""
    return tuple(
        KeptArtifact(name=name, digest=hashlib.sha256(data).hexdigest(), size=len(data), media_type=media_type_of(name))
        for name, data in artifacts.items()
    )


def media_type_of(name: str) -> str:
    """The media type that a file's name says, application/octet-stream where it says none."""
    found, encoding = mimetypes.guess_type(name, strict=False)
    return found if found is not None and encoding is None else "application/octet-stream"


def state_of(result: ToolResult) -> CallState:
    """The state that a result leaves a call in."""
    if result.success:
        return "succeeded"
    failure = result.failure
    if failure is not None and failure.code == "cancelled":
        return "cancelled"
    return "rejected" if failure is not None and failure.rejected else "failed"


def _instant(at: float | None) -> str | None:
    return None if at is None else instant(at)


_USAGE = tuple(field.name for field in fields(ToolUsage))
_AMOUNTS = attrgetter(*_USAGE)
