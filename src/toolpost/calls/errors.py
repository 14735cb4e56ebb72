"""The one error tree: every way a call can go wrong, each with its code, status and whether trying again helps.

ToolExecutionError                       root; a tool call did not give its result
├── Rejected                             the body never ran
│   ├── ToolNotFoundError        404     no tool or operation of that name
│   ├── NotFoundError            404     no call, artifact or delivery of that name, or not for this caller
│   ├── InputValidationError     400     arguments do not fit (alias ToolValidationError)
│   ├── UnauthorizedError        401     nobody is named as the caller
│   │   ├── AuthorizationRequiredError 401   the caller must grant access at a provider first; details have the URL
│   │   └── WebhookVerificationError 401   a callback was not signed with the secret, or not lately
│   ├── SecurityError            403     screening refused a value
│   ├── PermissionDeniedError    403     the caller lacks a permission
│   │   └── AuthorizerFailedError 503    what decides about permissions failed, which refuses as well
│   ├── ApprovalRequiredError    403     a person must approve the call first; details have the id
│   ├── ApprovalDeniedError      403     a person denied the call, with a reason
│   ├── InputRequiredError       409     the body asks something first; details have the questions
│   ├── DefinitionDriftError     409     the tool is not the one that the lock file has
│   ├── AuditUnavailableError    503     the call must be audited and cannot be
│   ├── RateLimitError           429     too many calls; retry_after_s says when
│   │   └── ConcurrencyLimitError 429    too many calls at the same time
│   ├── CallInProgressError      409     a call with the same idempotency key is running
│   ├── IdempotencyMismatchError 422     the same idempotency key came with other arguments
│   ├── OutcomeUnknownError      409     an earlier call with the key may have had its effect
│   ├── AlreadyDoneError         409     an earlier call with the key succeeded; its result was not kept
│   ├── CircuitOpenError         503     the breaker holds calls back; retry_after_s says until when
│   ├── OverloadedError          503     no room to run the call now
│   └── NotSupportedError        501     this version cannot run that kind of tool
├── Failed                               the body ran; effects may exist
│   ├── OperationError           500     the body raised
│   ├── ToolTimeoutError         504     the deadline passed (also the builtin TimeoutError)
│   ├── OutputValidationError    502     the result is not JSON or does not fit the declared schema
│   ├── RemoteToolError          502     another server failed
│   │   └── EgressDeniedError    403     the address may not be reached; nothing was sent to it
│   ├── SandboxError             500     the sandbox could not be made or was lost
│   ├── ClaimLostError           409     another holder took the call over while it ran
│   └── CallCancelledError       499     the call was cancelled
└── EngineError                          ours
    ├── ConfigurationError       500     a setting or declaration is wrong (also a ValueError)
    │   ├── DuplicateToolError   409     a name is taken
    │   └── SchemaError          500     a schema that is not a schema
    ├── PluginError              500     a plugin could not be loaded
    ├── SecretUnavailableError   503     a secret that the body needs cannot be had
    └── StoreUnavailableError    503     a store cannot be reached
"""

from __future__ import annotations

import builtins
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

Outcome = Literal["not_run", "ran", "stopped", "unknown"]
"""What became of the body: never started; ran to its end; was cancelled or killed; nobody knows."""

Problem = dict[str, Any]
"""One thing wrong with the arguments: path (JSON Pointer), loc, parameter, type, msg, expected, got."""


class ToolExecutionError(Exception):
    """A tool call did not give its result. Catching this catches everything toolpost raises for a call.

    message is safe to show to a model; tool is the tool's name once known; details is JSON and says more.
    """

    code: str = "tool_error"
    status: ClassVar[int] = 500
    retryable: bool = False
    error_type: ClassVar[str] = "ToolExecutionError"
    outcome: Outcome = "not_run"
    retry_after_s: float | None = None

    def __init__(self, message: str = "", *, tool: str | None = None, details: dict[str, Any] | None = None):
        super().__init__(message)
        self.message = message
        self.tool = tool
        self.details = details or {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "error_type" not in cls.__dict__:
            cls.error_type = cls.__name__

    def errors(self) -> list[Problem]:
        """What is wrong, one entry a place; empty where an error has no places."""
        return []


class Rejected(ToolExecutionError):
    """The call was refused before the body ran: nothing has happened."""

    code = "rejected"
    status = 400
    outcome: Outcome = "not_run"


class ToolNotFoundError(Rejected):
    """No tool, version or operation of that name is registered."""

    code = "unknown_tool"
    status = 404


class NotFoundError(Rejected):
    """What was asked for (a call, an artifact, a delivery) is not there, or not for this caller to see."""

    code = "not_found"
    status = 404


class InputValidationError(Rejected):
    """Arguments do not fit the tool's parameters.

    errors() lists each problem with its JSON Pointer path, what was expected and what came (bounded, secrets removed).
    """

    code = "invalid_input"
    status = 400
    error_type = "ToolValidationError"

    def __init__(
        self,
        message: str = "",
        *,
        problems: Sequence[Problem] = (),
        tool: str | None = None,
        details: dict[str, Any] | None = None,
    ):
        self._problems = list(problems)
        if not message:
            message = "Parameter validation failed: " + "; ".join(p["msg"] for p in self._problems)
        super().__init__(message, tool=tool, details=details)
        if self._problems:
            self.details.setdefault("errors", [public_problem(p) for p in self._problems])

    def errors(self) -> list[Problem]:
        return [dict(p) for p in self._problems]


ToolValidationError = InputValidationError


def public_problem(problem: Problem) -> Problem:
    """The JSON form of a problem: everything but loc, which repeats path."""
    return {k: v for k, v in problem.items() if k != "loc"}


class UnauthorizedError(Rejected):
    """The tool needs a known caller and none is named."""

    code = "unauthenticated"
    status = 401


class AuthorizationRequiredError(UnauthorizedError):
    """The caller must first grant access at a provider, or grant more of it (step-up).

    url is where the person does that. details have authorization_url, flow_id, provider, scopes (what the tool needs),
    missing (those not granted yet), why ("missing", "insufficient_scope", "expired" or "revoked") and expires_at.
    """

    code = "authorization_required"

    def __init__(self, message: str = "", *, url: str | None = None, **kwargs: Any):
        super().__init__(message, **kwargs)
        self.url = url
        if url is not None:
            self.details.setdefault("authorization_url", url)


class WebhookVerificationError(UnauthorizedError):
    """A callback that was received was not signed with the secret, or not lately; it must not be acted on."""

    code = "webhook_unverified"


class SecurityError(Rejected):
    """Screening refused an argument; details name the parameter, the rule and the role, never the value."""

    code = "screened"
    status = 403


class PermissionDeniedError(Rejected):
    """The caller is known but lacks a permission."""

    code = "denied"
    status = 403


class AuthorizerFailedError(PermissionDeniedError):
    """What decides about permissions (a hook, a policy engine, a key server) failed: refused, but not denied."""

    code = "authorizer_failed"
    status = 503
    retryable = True


class ApprovalRequiredError(Rejected):
    """A person must approve this call first. Made again once it is approved, the same call runs.

    details have approval_id, reason (why a person is asked) and expires_at (wall time in seconds).
    """

    code = "approval_required"
    status = 403

    def __init__(self, message: str = "", *, approval_id: str | None = None, **kwargs: Any):
        super().__init__(message, **kwargs)
        self.approval_id = approval_id
        if approval_id is not None:
            self.details.setdefault("approval_id", approval_id)


class ApprovalDeniedError(Rejected):
    """A person denied this call; the message has the reason, for the model to act on."""

    code = "approval_denied"
    status = 403


class InputRequiredError(Rejected):
    """The body asks something before it goes on; made again with the answers, the same call does.

    details have questions: key -> {"method", "params", "optional"}, and answers: those that it had already. The answers
    go into ToolCall.answers, by the same keys. Nothing is kept of the call, as if the body had not run.
    """

    code = "input_required"
    status = 409


class DefinitionDriftError(Rejected):
    """The tool's definition is not the one that the lock file has; details have what differs."""

    code = "definition_drift"
    status = 409


class AuditUnavailableError(Rejected):
    """Calls must be audited, and the audit log cannot be written."""

    code = "audit_unavailable"
    status = 503
    retryable = True


class RateLimitError(Rejected):
    """Too many calls; retry_after_s tells when the next is granted."""

    code = "rate_limited"
    status = 429
    retryable = True

    def __init__(self, message: str = "", *, retry_after_s: float | None = None, **kwargs: Any):
        super().__init__(message, **kwargs)
        self.retry_after_s = retry_after_s


class ConcurrencyLimitError(RateLimitError):
    """Too many calls run at the same time; retry_after_s is a guess at when a place will be free."""

    code = "concurrency_limited"


class CallInProgressError(Rejected):
    """A call with the same idempotency key is running (draft-ietf-httpapi-idempotency-key-header-07: 409)."""

    code = "in_progress"
    status = 409
    retryable = True

    def __init__(self, message: str = "", *, retry_after_s: float | None = None, **kwargs: Any):
        super().__init__(message, **kwargs)
        self.retry_after_s = retry_after_s


class IdempotencyMismatchError(Rejected):
    """The idempotency key was used with other arguments (draft-ietf-httpapi-idempotency-key-header-07: 422)."""

    code = "key_mismatch"
    status = 422


class OutcomeUnknownError(Rejected):
    """An earlier call with the same idempotency key ended in a way nobody knows, so this one must not run.

    The way out is a tool that says it is safe to run again, a reconcile hook, or an operator who settles the claim.
    """

    code = "outcome_unknown"
    status = 409


class AlreadyDoneError(Rejected):
    """An earlier call with the same idempotency key succeeded, and its policy kept no result to give again."""

    code = "already_done"
    status = 409


class CircuitOpenError(Rejected):
    """The breaker holds calls back. details name the key, the state and the error that tripped it."""

    code = "circuit_open"
    status = 503
    retryable = True

    def __init__(self, message: str = "", *, retry_after_s: float | None = None, **kwargs: Any):
        super().__init__(message, **kwargs)
        self.retry_after_s = retry_after_s


class OverloadedError(Rejected):
    """No thread, process or place in the queue is free now."""

    code = "overloaded"
    status = 503
    retryable = True


class NotSupportedError(Rejected):
    """This version of toolpost cannot run that kind of tool, or cannot act on that policy."""

    code = "not_supported"
    status = 501


class Failed(ToolExecutionError):
    """The body ran, or may have: effects may exist."""

    code = "failed"
    status = 500
    outcome: Outcome = "ran"


class OperationError(Failed):
    """The body raised. The original exception is the cause."""

    code = "tool_failed"
    status = 500
    error_type = "ToolExecutionError"


class ToolTimeoutError(Failed, builtins.TimeoutError):
    """The deadline passed. outcome says whether the body was stopped, or (a thread) nobody knows."""

    code = "timeout"
    status = 504
    retryable = True
    outcome: Outcome = "stopped"


class OutputValidationError(Failed):
    """The body's result is not JSON, or does not fit the declared result schema."""

    code = "invalid_output"
    status = 502


class RemoteToolError(Failed):
    """Another server, or a database, that was asked to run the tool failed.

    kind says how, as policies name it: unavailable, network, rate_limit, transient, timeout or tool_error; or "caller",
    when the other side refused what it was asked (a 4xx, a broken constraint), which no policy counts against it.
    upstream_status is the HTTP status it answered with, if it did.
    """

    code = "upstream_failed"
    status = 502
    retryable = True

    def __init__(
        self,
        message: str = "",
        *,
        kind: str = "unavailable",
        upstream_status: int | None = None,
        retry_after_s: float | None = None,
        outcome: Outcome = "ran",
        tool: str | None = None,
        details: dict[str, Any] | None = None,
    ):
        super().__init__(message, tool=tool, details=details)
        self.kind = kind
        self.upstream_status = upstream_status
        self.retry_after_s = retry_after_s
        self.outcome = outcome
        self.retryable = kind not in ("caller", "tool_error")
        if upstream_status is not None:
            self.details.setdefault("upstream_status", upstream_status)


class EgressDeniedError(RemoteToolError):
    """The address may not be reached: its scheme, host, port, or what its name resolves to. Nothing was sent to it.

    details have rule (a stable id such as "egress.private-address"), host and port; never path, query or credentials.
    """

    code = "egress_denied"
    status = 403

    def __init__(self, message: str = "", *, outcome: Outcome = "not_run", **kwargs: Any):
        super().__init__(message, kind="caller", outcome=outcome, **kwargs)


class SandboxError(Failed):
    """A sandbox could not be made, or was lost."""

    code = "sandbox_failed"
    status = 500


class ClaimLostError(Failed):
    """While the body ran, its idempotency claim passed to another holder: the body was stopped, its result dropped."""

    code = "claim_lost"
    status = 409
    outcome: Outcome = "stopped"


class CallCancelledError(Failed):
    """The call was cancelled before it ended."""

    code = "cancelled"
    status = 499
    outcome: Outcome = "stopped"


class EngineError(ToolExecutionError):
    """toolpost itself, or how it was set up, is at fault."""

    code = "engine_error"
    status = 500


class ConfigurationError(EngineError, ValueError):
    """A setting or a declaration is wrong; raised when it is made, with the fix in the message."""

    code = "configuration"


class DuplicateToolError(ConfigurationError):
    """A tool of that name and version is registered already."""

    code = "duplicate_tool"
    status = 409


class SchemaError(ConfigurationError):
    """A schema that is not a schema."""

    code = "bad_schema"


class PluginError(EngineError):
    """A plugin or tool module could not be loaded."""

    code = "plugin"


class SecretUnavailableError(EngineError):
    """A secret that the body needs cannot be had; the message names its reference, never its value."""

    code = "secret_unavailable"
    status = 503


class StoreUnavailableError(EngineError):
    """A store cannot be reached."""

    code = "store_unavailable"
    status = 503
    retryable = True


class ToolError(Failed):
    """What a tool's author raises to fail a call with a code and a hint whether trying again may help.

    Raised inside a body it reaches the caller unchanged: `raise ToolError("no such order", code="NOT_FOUND")`.
    """

    code = "tool_error"
    status = 500
    error_type = "ToolError"

    def __init__(
        self,
        message: str = "",
        retryable: bool = False,
        code: str = "tool_error",
        *,
        tool: str | None = None,
        details: dict[str, Any] | None = None,
    ):
        super().__init__(message, tool=tool, details=details)
        self.retryable = retryable
        self.code = code
