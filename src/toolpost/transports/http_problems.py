"""Problems: how the gateway says that something went wrong, as RFC 9457 documents with stable codes."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

import orjson

from toolpost.calls.errors import ConfigurationError, ToolExecutionError
from toolpost.calls.result import WAYS_ON, Failure, ToolResult
from toolpost.transports.http_headers import Headers, retry_after

if TYPE_CHECKING:
    from toolpost.worker.reports import CallReport

PROBLEM: Final = b"application/problem+json"
_IANA: Final = "https://iana.org/assignments/http-problem-types#"
_TYPES: Final = {
    "rate_limited": _IANA + "quota-exceeded",
    "overloaded": _IANA + "temporary-reduced-capacity",
}
"""Codes whose problem has a registered type (draft-ietf-httpapi-ratelimit-headers); others have one by their code."""

_OWN_STATUS: Final = {499: "Call Cancelled"}


@dataclass(slots=True)
class Answer:
    """A whole response, before any framework's form of it.

    call_id: the call of ours that it is about, which then needs no other id; code: that of the error that it tells of.
    own_caching: it says itself how it may be kept.
    """

    status: int
    body: bytes
    headers: Headers = field(default_factory=list)
    media_type: bytes = b"application/json"
    call_id: str | None = None
    own_caching: bool = False
    code: str | None = None


class HttpRefusal(Exception):
    """A request that is refused before it becomes a call. errors: places in the body, as {"pointer", "detail"}."""

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        *,
        headers: Iterable[tuple[str, str]] = (),
        errors: Sequence[Mapping[str, Any]] = (),
        more: Mapping[str, Any] | None = None,
        closes: bool = False,
    ) -> None:
        super().__init__(detail)
        self.status, self.code, self.detail = status, code, detail
        self.headers: Headers = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers]
        self.errors, self.more = list(errors), dict(more or {})
        if closes:  # the rest of what comes is not to be read as another request
            self.headers.append((b"connection", b"close"))

    @classmethod
    def at(cls, pointer: str, detail: str, *, code: str = "invalid_input", status: int = 400) -> HttpRefusal:
        """A refusal of one place in the body; pointer is a JSON Pointer without '#'."""
        return cls(status, code, detail, errors=[{"pointer": fragment(pointer), "detail": detail}])


def not_ended(report: CallReport, what: str) -> HttpRefusal:
    """The refusal of a result that is not there yet; what says how it can be had."""
    return HttpRefusal(
        409,
        "not_ended",
        f"the call has not ended (it is {report.state}); {what}",
        headers=[("retry-after", "1")],
        more={"retryable": True, "state": report.state},
    )


def fragment(pointer: str) -> str:
    """A JSON Pointer as the URI fragment that RFC 9457, section 3, has in its example: "#/arguments/b"."""
    return "#" + quote(pointer, safe="/~!$&'()*+,;=:@-._?")


def title_of(status: int) -> str:
    """A status in words."""
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return _OWN_STATUS.get(status, "Error")


def refusal_answer(refusal: HttpRefusal, base_url: str, request_id: str) -> Answer:
    """The answer to a request that was refused before it became a call."""
    document: dict[str, Any] = {**_head(refusal.status, refusal.code, refusal.detail, base_url), **refusal.more}
    document["instance"] = _instance(request_id)
    if refusal.errors:
        document["errors"] = refusal.errors
    document.setdefault("retryable", refusal.status in (408, 429, 503))
    headers = list(refusal.headers)
    if refusal.status in (429, 503) and not any(name == b"retry-after" for name, _ in headers):
        headers.append((b"retry-after", b"1"))
    return Answer(refusal.status, orjson.dumps(document), headers, PROBLEM, code=refusal.code)


def error_answer(error: ToolExecutionError, base_url: str, request_id: str, *, within: str = "") -> Answer:
    """The answer for an error that a handler raised. within: the pointer to what the error's own paths begin at."""
    failure = Failure.of(error)
    status = 500 if isinstance(error, ConfigurationError) and failure.status < 500 else failure.status
    document = _failure(failure, base_url, within)
    document["instance"] = _instance(request_id)
    document.update(status=status, outcome=failure.outcome)
    body = orjson.dumps(document, option=orjson.OPT_NON_STR_KEYS)
    return Answer(status, body, failure_headers(failure), PROBLEM, code=failure.code)


def failed_answer(result: ToolResult, base_url: str, *, within: str = "/arguments", extra: Mapping[str, Any]) -> Answer:
    """The answer to a call that failed: the failure's status, and all a caller can go on with. extra: more members."""
    failure = result.failure or Failure(
        code=str(result.metadata.get("code", "tool_error")),
        message=result.error or "the tool failed",
        status=result.status_code if result.status_code >= 400 else 500,
        error_type=str(result.metadata.get("error_type", "ToolExecutionError")),
    )
    document = _failure(failure, base_url, within)
    document["instance"] = f"{base_url}/v1/calls/{quote(result.call_id, safe='')}"
    document.update(call_id=result.call_id, tool=result.tool_name, outcome=failure.outcome)
    document["execution_time_ms"] = round(result.execution_time_ms, 3)
    document.update(extra)
    headers = failure_headers(failure)
    body = orjson.dumps(document, option=orjson.OPT_NON_STR_KEYS)
    return Answer(failure.status, body, headers, PROBLEM, call_id=result.call_id, code=failure.code)


def failure_headers(failure: Failure) -> Headers:
    """Retry-After, where waiting helps: on 429, 503, a key in progress, and whatever says how long."""
    waits = failure.status in (429, 503) or (failure.status == 409 and failure.retryable)
    if waits or failure.retry_after_s is not None:
        return [(b"retry-after", retry_after(failure.retry_after_s).encode())]
    return []


def problem_list(problems: Iterable[Mapping[str, Any]], within: str) -> list[dict[str, Any]]:
    """An error's problems as members of "errors": pointer and detail, and what else is known of each."""
    out = []
    for one in problems:
        rest = {
            k: one[k]
            for k in ("type", "parameter", "expected", "got", "line", "column")
            if one.get(k) not in (None, "")
        }
        begins = "" if str(one.get("type", "")).startswith("json_") else within  # of the text itself: from its root
        out.append({"pointer": fragment(begins + str(one.get("path", ""))), "detail": one.get("msg", ""), **rest})
    return out


def _head(status: int, code: str, detail: str, base_url: str) -> dict[str, Any]:
    kind = _TYPES.get(code) or f"{base_url}/problems/{quote(code, safe='')}"
    return {"type": kind, "title": title_of(status), "status": status, "detail": detail, "code": code}


def _failure(failure: Failure, base_url: str, within: str) -> dict[str, Any]:
    document = _head(failure.status, failure.code, failure.message, base_url)
    document["error_type"] = failure.error_type
    document["retryable"] = failure.retryable
    if failure.retry_after_s is not None:
        document["retry_after_ms"] = int(failure.retry_after_s * 1000) + 1
    details = failure.details
    if details.get("errors"):
        document["errors"] = problem_list(details["errors"], within)
    document.update((name, details[name]) for name in WAYS_ON if details.get(name) is not None)
    if failure.code == "rate_limited" and "limit" in details:  # draft-ietf-httpapi-ratelimit-headers, quota-exceeded
        document["violated-policies"] = [details["limit"]]
    if "approval_id" in document:
        document["approval_url"] = f"{base_url}/v1/approvals/{quote(str(document['approval_id']), safe='')}"
    rest = {k: v for k, v in details.items() if k != "errors" and k not in WAYS_ON}
    if rest:
        document["details"] = rest
    return document


def _instance(request_id: str) -> str:
    """A URI for one occurrence that nobody can look up."""
    try:
        return uuid.UUID(request_id).urn
    except ValueError:
        return "urn:uuid:" + str(uuid.uuid5(uuid.NAMESPACE_OID, request_id))


__all__ = [
    "PROBLEM",
    "Answer",
    "HttpRefusal",
    "error_answer",
    "failed_answer",
    "failure_headers",
    "fragment",
    "not_ended",
    "problem_list",
    "refusal_answer",
    "title_of",
]
