"""Answers of a gateway as values: results with their files, reports of calls, and errors of the one tree."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cache
from typing import Any, Final, get_args
from urllib.parse import unquote

import orjson

from toolpost.calls import errors
from toolpost.calls.errors import (
    ApprovalRequiredError,
    AuthorizationRequiredError,
    InputValidationError,
    NotFoundError,
    Outcome,
    OverloadedError,
    PermissionDeniedError,
    RateLimitError,
    Rejected,
    RemoteToolError,
    ToolError,
    ToolExecutionError,
    UnauthorizedError,
)
from toolpost.calls.result import WAYS_ON, Failure, ToolResult, ToolUsage, failed_result
from toolpost.clients.exchange import Answer, problem, retry_after

ENDED: Final = frozenset({"succeeded", "failed", "rejected", "cancelled", "dead"})
_WITHIN: Final = "/arguments"


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteFile:
    """A file that a call left at the gateway: digest is the SHA-256 of its bytes in hex, size their number.

    url gives it to whoever has the link, for a while, where the gateway signs links.
    """

    call_id: str
    name: str
    digest: str
    size: int
    media_type: str = "application/octet-stream"
    url: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class CallResult(ToolResult):
    """How a call at a gateway ended. files are what it left there; artifacts, which has bytes, is empty."""

    files: tuple[RemoteFile, ...] = ()

    def value(self) -> Any:
        """data of a success. Raises the error, of the one tree, of anything else."""
        if self.success:
            return self.data
        raise error_of(self.failure or _unknown_failure(self.error or "", self.status_code), self.tool_name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """How a call stands. result is None until it ended; raw is the whole report as the gateway wrote it.

    state: queued, running, waiting, succeeded, failed, rejected, cancelled or dead. created_at is RFC 3339, in UTC.
    """

    call_id: str
    tool: str
    state: str
    accepted: bool = False
    created_at: str = ""
    result: CallResult | None = None
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def ended(self) -> bool:
        """Whether nothing will change any more."""
        return self.state in ENDED


@dataclass(frozen=True, slots=True, kw_only=True)
class CallEvent:
    """One thing that a call told. kind: call, state, progress, log, and last result, whose data is the whole report.

    id is where a stream can be taken up again after it; the first event, call, has none.
    """

    kind: str
    data: Mapping[str, Any]
    id: str | None = None

    @property
    def result(self) -> CallResult | None:
        """How the call ended, of the last event; None of others."""
        return result_of(self.data) if self.kind == "result" else None


# -- results -----------------------------------------------------------------------------------------------------------


def result_of(told: Mapping[str, Any], tool: str = "") -> CallResult:
    """The result in a report, or in one of a batch's answers."""
    call_id = str(told.get("call_id", ""))
    failure = None if told.get("success") is True else _failure_told(_members(told.get("error")))
    return _result(call_id, str(told.get("tool") or tool), told, failure)


def result_in(answer: Answer, tool: str) -> CallResult:
    """The result that an answer to one call is: JSON of 200, or the problem of 400 and more.

    Raises RemoteToolError for anything else.
    """
    if answer.status < 400:
        document = parsed(answer)
        if not isinstance(document, Mapping) or not isinstance(document.get("success"), bool):
            raise _no_gateway(answer, "what is no result of a call")
        return result_of(document, tool)
    told = problem(answer)
    return _result(str(told.get("call_id", "")), str(told.get("tool") or tool), told, failure_in(answer, told))


def results_in(answer: Answer, tools: Sequence[str]) -> list[CallResult]:
    """The results of a batch, one for each of its tools, in order. Raises RemoteToolError for anything else."""
    document = parsed(answer)
    results = [result_of(one, tool) for one, tool in zip(_each(document), tools, strict=False)]
    if not isinstance(document, list) or not len(results) == len(document) == len(tools):
        raise _no_gateway(answer, f"what is no list of {len(tools)} results")
    return results


def failed_with(error: ToolExecutionError, tool: str) -> CallResult:
    """The result of a call that could not be made, or of which nobody knows how it ended."""
    made = failed_result("", tool, error)
    return CallResult(**{one.name: getattr(made, one.name) for one in fields(ToolResult)})


def parsed(answer: Answer) -> Any:
    """The JSON of an answer. Raises RemoteToolError for what is none: no gateway answered."""
    if 300 <= answer.status < 400:
        where = answer.headers.get("location", "")
        raise _no_gateway(answer, f"a redirect to {where!r:.200}, which is not followed; base_url is the gateway's own")
    try:
        return orjson.loads(answer.body)
    except orjson.JSONDecodeError:
        raise _no_gateway(answer, "what is no JSON") from None


def members(answer: Answer, *lists: str) -> dict[str, Any]:
    """The JSON object of an answer, with these members that are lists. Raises RemoteToolError for anything else."""
    document = parsed(answer)
    if not isinstance(document, dict) or not all(isinstance(document.get(name), list) for name in lists):
        raise _no_gateway(answer, "JSON of another form")
    return document


def report_of(told: Any) -> Report:
    """A report as the gateway writes it. Raises RemoteToolError for what is none."""
    state = told.get("state") if isinstance(told, Mapping) else None
    if not isinstance(state, str) or not state:
        raise RemoteToolError("the gateway answered with what is no report of a call", outcome="unknown")
    return Report(
        call_id=str(told.get("call_id", "")),
        tool=str(told.get("tool", "")),
        state=state,
        accepted=bool(told.get("accepted")),
        created_at=str(told.get("created_at", "")),
        result=result_of(told) if "success" in told else None,
        raw=told,
    )


def _result(call_id: str, tool: str, told: Mapping[str, Any], failure: Failure | None) -> CallResult:
    known = {one.name for one in fields(ToolUsage)}
    usage = {name: value for name, value in _members(told.get("usage")).items() if name in known}
    metadata: dict[str, Any] = {}
    if failure is not None:
        metadata = {"error_type": failure.error_type, "code": failure.code, "retryable": failure.retryable}
        metadata["outcome"] = failure.outcome
        metadata.update((name, value) for name, value in failure.details.items() if name in (*WAYS_ON, "errors"))
    return CallResult(
        call_id=call_id,
        tool_name=tool,
        success=failure is None,
        data=told.get("data") if failure is None else None,
        error=None if failure is None else failure.message,
        execution_time_ms=_number(told.get("execution_time_ms")) or 0.0,
        status_code=200 if failure is None else failure.status,
        metadata=metadata,
        failure=failure,
        source=told.get("source", "run"),
        attempts=int(_number(told.get("body_attempts")) or 0),
        usage=ToolUsage(**usage) if usage else None,
        warnings=_list(told.get("warnings")),
        logs=_list(told.get("logs")),
        explanation=told.get("explanation"),
        files=tuple(_files(call_id, _each(told.get("artifacts")))),
    )


def _files(call_id: str, told: Iterable[Mapping[str, Any]]) -> Iterator[RemoteFile]:
    for one in told:
        yield RemoteFile(
            call_id=call_id,
            name=str(one.get("name", "")),
            digest=str(one.get("digest", "")),
            size=int(_number(one.get("size")) or 0),
            media_type=str(one.get("media_type") or "application/octet-stream"),
            url=one.get("url"),
        )


# -- failures ----------------------------------------------------------------------------------------------------------


def failure_in(answer: Answer, told: Mapping[str, Any]) -> Failure:
    """The failure that an answer of 400 or more tells of."""
    details = _details(told, [_problem_in(one) for one in _each(told.get("errors"))])
    details.update((name, told[name]) for name in WAYS_ON if name in told)
    waits_ms = _number(told.get("retry_after_ms"))
    waits_s = None if waits_ms is None else waits_ms / 1000
    if waits_s is None and "retry-after" in answer.headers:
        waits_s = retry_after(answer)
    kind = _kind(told.get("error_type"), told.get("code"), answer.status)
    return Failure(
        code=str(told.get("code") or "http_error"),
        message=str(told.get("detail") or told.get("title") or f"the gateway answered {answer.status}"),
        status=answer.status,
        error_type=str(told.get("error_type") or kind.error_type),
        retryable=bool(told.get("retryable", False)),
        retry_after_s=waits_s,
        outcome=_outcome(told) or ("unknown" if answer.status >= 500 and "code" not in told else kind.outcome),
        details=details,
        rejected=issubclass(kind, Rejected),
    )


def _failure_told(error: Mapping[str, Any]) -> Failure:
    """The failure in a report."""
    details = _details(error, [dict(one) for one in _each(error.get("errors"))])
    status = int(_number(error.get("status")) or 500)
    kind = _kind(error.get("error_type"), error.get("code"), status)
    return Failure(
        code=str(error.get("code", "tool_error")),
        message=str(error.get("message", "")),
        status=status,
        error_type=str(error.get("error_type") or kind.error_type),
        retryable=bool(error.get("retryable", False)),
        retry_after_s=_number(error.get("retry_after_s")),
        outcome=_outcome(error) or "unknown",
        details=details,
        rejected=issubclass(kind, Rejected),
    )


def _unknown_failure(message: str, status: int) -> Failure:
    return Failure(code="tool_error", message=message, status=status, error_type="ToolExecutionError")


def _problem_in(told: Mapping[str, Any]) -> dict[str, Any]:
    """A member of a problem's errors as InputValidationError lists it: path within the arguments, and msg."""
    path = unquote(str(told.get("pointer", ""))).removeprefix("#")
    path = path.removeprefix(_WITHIN) if path == _WITHIN or path.startswith(_WITHIN + "/") else path
    rest = {name: value for name, value in told.items() if name not in ("pointer", "detail")}
    return {"path": path, "msg": str(told.get("detail", "")), **rest}


# -- errors ------------------------------------------------------------------------------------------------------------


def raise_for(answer: Answer) -> None:
    """Raise the error that an answer of 400 or more is."""
    if answer.status >= 400:
        raise error_of(failure_in(answer, problem(answer)))


def error_of(failure: Failure, tool: str | None = None) -> ToolExecutionError:
    """The error of the tree that a failure came from; for one that is not known here, the nearest by its status."""
    kind = _kind(failure.error_type, failure.code, failure.status)
    details = dict(failure.details)
    if issubclass(kind, InputValidationError):
        problems = [{"loc": _loc(str(one.get("path", ""))), **one} for one in _each(details.get("errors"))]
        error: ToolExecutionError = kind(failure.message, problems=problems, tool=tool, details=details)
    else:
        error = kind(failure.message, tool=tool, details=details)
    if isinstance(error, AuthorizationRequiredError):
        error.url = details.get("authorization_url")
    if isinstance(error, ApprovalRequiredError):
        error.approval_id = details.get("approval_id")
    if isinstance(error, RemoteToolError):
        error.upstream_status = details.get("upstream_status")
    error.code, error.retryable, error.outcome = failure.code, failure.retryable, failure.outcome
    error.retry_after_s = failure.retry_after_s
    if error.status != failure.status:
        error.status = failure.status  # type: ignore[misc]
    return error


def _kind(error_type: Any, code: Any, status: int) -> type[ToolExecutionError]:
    known = _kinds()
    error_type, code = (one if isinstance(one, str) else None for one in (error_type, code))
    found = known.get((error_type, code))
    if found is None and error_type == ToolError.error_type:
        return ToolError  # whose code is its author's own, and may be one of ours
    found = found or known.get((None, code))
    if found is not None:
        return found
    by_status: dict[int, type[ToolExecutionError]] = {
        400: InputValidationError,
        401: UnauthorizedError,
        403: PermissionDeniedError,
        404: NotFoundError,
        429: RateLimitError,
        503: OverloadedError,
    }
    return by_status.get(status) or (Rejected if status < 500 else RemoteToolError)


@cache
def _kinds() -> dict[tuple[str | None, str], type[ToolExecutionError]]:
    """Errors by type and code, and by code alone where one error has it."""
    kinds = [one for one in vars(errors).values() if isinstance(one, type) and issubclass(one, ToolExecutionError)]
    found: dict[tuple[str | None, str], type[ToolExecutionError]] = {}
    for kind in kinds:
        found.setdefault((kind.error_type, kind.code), kind)
    for kind in kinds:
        if kind.code != ToolError.code:
            found.setdefault((None, kind.code), kind)
    return found


# -- what others wrote: it may be anything -----------------------------------------------------------------------------


def _no_gateway(answer: Answer, what: str) -> RemoteToolError:
    return RemoteToolError(f"the gateway answered {answer.status} with {what}", outcome="unknown")


def _members(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else []


def _each(value: Any) -> Iterator[Mapping[str, Any]]:
    return (one for one in _list(value) if isinstance(one, Mapping))


def _number(value: Any) -> float | None:
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _outcome(told: Mapping[str, Any]) -> Outcome | None:
    given = told.get("outcome")
    return given if given in get_args(Outcome) else None


def _details(told: Mapping[str, Any], problems: list[dict[str, Any]]) -> dict[str, Any]:
    return {**_members(told.get("details")), **({"errors": problems} if problems else {})}


def _loc(path: str) -> tuple[str | int, ...]:
    parts = [part.replace("~1", "/").replace("~0", "~") for part in path.split("/")[1:]]
    return tuple(int(part) if part.isascii() and part.isdigit() else part for part in parts)


__all__ = [
    "CallEvent",
    "CallResult",
    "RemoteFile",
    "Report",
    "error_of",
    "failed_with",
    "members",
    "parsed",
    "raise_for",
    "report_of",
    "result_in",
    "result_of",
    "results_in",
]
