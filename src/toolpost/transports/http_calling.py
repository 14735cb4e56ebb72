"""One call: from a body to a ToolCall, run while the caller waits or accepted, and from its result to an answer."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import orjson

from toolpost.calls.call import Caller, ToolCall, new_id
from toolpost.transports.http_auth import OPEN, Fields, session_of
from toolpost.transports.http_bodies import Receive, read_json, until_gone
from toolpost.transports.http_headers import (
    MAX_WAIT_S,
    Headers,
    MalformedHeaderError,
    Prefer,
    idempotency_key,
    prefer,
    trace_of,
)
from toolpost.transports.http_options import WHOM, accept_of, checked_body
from toolpost.transports.http_problems import Answer, HttpRefusal, failed_answer
from toolpost.transports.http_results import artifacts_json, limit_headers, report_json, result_json

if TYPE_CHECKING:
    from starlette.responses import Response

    from toolpost.calls.result import ToolResult
    from toolpost.transports.http_routes import Door
    from toolpost.worker.reports import Accept, CallReport

_NOTHING: Final = Prefer()
_SAYING: Final = frozenset({b"prefer", b"idempotency-key", b"traceparent", b"toolpost-session"})
JSON = orjson.OPT_NON_STR_KEYS


@dataclass(slots=True, kw_only=True)
class Asking:
    """One request for calls, its body read. caller: None where nobody is asked who they are."""

    fields: Fields
    body: bytes
    caller: Caller | None
    receive: Callable[[], Awaitable[Any]]

    @property
    def is_plain(self) -> bool:
        """Whether no header says anything about the calls."""
        return _SAYING.isdisjoint(self.fields)

    @property
    def viewer(self) -> Caller:
        """Whoever may look at what this request makes."""
        return OPEN if self.caller is None else self.caller

    @property
    def streams(self) -> bool:
        """Whether the answer is to be a stream of events."""
        accept = self.fields.get(b"accept")
        return accept is not None and b"text/event-stream" in accept.lower()

    def prefers(self) -> Prefer:
        """What the header Prefer asks for. Raises HttpRefusal."""
        given = self.fields.get(b"prefer")
        if given is None:
            return _NOTHING
        try:
            return prefer(given.decode("latin-1"))
        except MalformedHeaderError as error:
            raise HttpRefusal(400, "invalid_header", str(error)) from None

    def key(self) -> str | None:
        """The key in the header Idempotency-Key. Raises HttpRefusal."""
        given = self.fields.get(b"idempotency-key")
        if given is None:
            return None
        try:
            return idempotency_key(given.decode("latin-1"))
        except MalformedHeaderError as error:
            raise HttpRefusal(400, "invalid_idempotency_key", str(error)) from None

    def trace(self) -> str | None:
        """The traceparent that it came with, where it is one."""
        given = self.fields.get(b"traceparent")
        return None if given is None else trace_of(given.decode("latin-1").strip())


async def call_tool(door: Door, name: str, asking: Asking) -> Answer | Response:
    """Make one call of a tool. Raises HttpRefusal and ToolExecutionErrors for what never became a call."""
    preferred = _NOTHING if asking.is_plain else asking.prefers()
    members = checked_body(
        read_json(asking.body) if asking.body else {},
        authenticated=asking.caller is not None,
        accepts=preferred.respond_async,
    )
    call = call_of(name, members, asking)
    explain = members.get("explain", False)
    if preferred.respond_async or asking.streams:
        how = accept_of(members, time.time()) if preferred.respond_async else None
        if asking.streams:
            from toolpost.transports.http_streams import stream_call

            return await stream_call(door, asking.viewer, call, how=how, explain=explain)
        assert how is not None
        return await accepted(door, call, how, preferred, asking)
    result = await until_gone(door.service.calls.run(call, explain=explain), asking.receive)
    answer = answer_of(door, result)
    standing = await door.executor.limits_of(call)
    if standing:
        answer.headers += limit_headers(standing)
    return answer


def is_plain(fields: Fields, members: Any) -> bool:
    """Whether a request is nothing but arguments, as nearly all are: no header and no member says anything besides."""
    if members.__class__ is not dict or len(members) != 1 or members.get("arguments").__class__ is not dict:
        return False
    return _SAYING.isdisjoint(fields) and b"event-stream" not in fields.get(b"accept", b"")


async def call_plainly(
    door: Door, name: str, arguments: dict[str, Any], caller: Caller | None, receive: Receive
) -> Answer:
    """call_tool for a request that is_plain."""
    if caller is None:
        call = ToolCall(new_id(), name, arguments)
    else:
        who = caller.user_id, caller.session_id, time.time(), caller.tenant, caller.scopes, caller.roles
        call = ToolCall(new_id(), name, arguments, *who)
    result = await until_gone(door.service.calls.run(call), receive)
    answer = answer_of(door, result)
    standing = await door.executor.limits_of(call)
    if standing:
        answer.headers += limit_headers(standing)
    return answer


def call_of(name: str, members: dict[str, Any], asking: Asking) -> ToolCall:
    """The call that a request is, for its caller or, where nobody is asked, for whom it names."""
    caller = asking.caller
    more: dict[str, Any] = {}
    if caller is not None:
        more = {"user_id": caller.user_id, "tenant": caller.tenant, "scopes": caller.scopes, "roles": caller.roles}
        more["session_id"] = caller.session_id
    arguments = members.get("arguments")
    if asking.is_plain and arguments is not None and len(members) == 1:
        return ToolCall(new_id(), name, arguments, **more)
    if caller is None:
        more = {"session_id": session_of(asking.fields)}
        more.update((k, members[k]) for k in WHOM if k in members)
    more.update((k, members[k]) for k in ("version", "deadline_s", "task_id", "answers") if k in members)
    more["session_id"] = the_session(more["session_id"], members.get("session_id"), "/session_id")
    more["idempotency_key"] = the_key(asking.key(), members.get("idempotency_key"), "/idempotency_key")
    more["trace"] = asking.trace()
    return ToolCall(new_id(), name, {} if arguments is None else arguments, **more)


def the_key(in_header: str | None, in_body: str | None, pointer: str) -> str | None:
    """The idempotency key of a call. Raises HttpRefusal for two, even equal ones: one of them is a mistake."""
    if in_header is not None and in_body is not None:
        raise HttpRefusal.at(pointer, "the idempotency key stands in the header Idempotency-Key and here; give one")
    return in_header if in_body is None else in_body


def the_session(in_header: str | None, in_body: str | None, pointer: str) -> str | None:
    """The session of a call. Raises HttpRefusal for two that differ."""
    if in_header is not None and in_body is not None and in_header != in_body:
        raise HttpRefusal.at(pointer, "the header Toolpost-Session names another session; give one")
    return in_header if in_body is None else in_body


async def accepted(door: Door, call: ToolCall, how: Accept, preferred: Prefer, asking: Asking) -> Answer:
    """Accept a call, and answer 202 with how it stands; 200 where it ended within the wait that was preferred."""
    calls = door.service.calls
    report = await calls.accept(call, how)
    replayed = report.call_id != call.id
    if preferred.wait_s and not report.ended:
        waiting = calls.wait(report.call_id, asking.viewer, min(preferred.wait_s, MAX_WAIT_S))
        later = await until_gone(waiting, asking.receive)
        report = report if later is None else later
    applied: Headers = [(b"preference-applied", preferred.applied.encode()), (b"vary", b"Prefer")]
    if replayed:
        applied.append((b"idempotency-replayed", b"true"))
    if report.ended and report.result is not None and (preferred.wait_s or replayed):
        answer = answer_of(door, report.result, report)
    else:
        body = orjson.dumps(report_json(door, report), option=JSON)
        answer = Answer(202, body, [(b"retry-after", b"1")], call_id=report.call_id)
    answer.headers += [*applied, (b"location", location_of(door, report.call_id))]
    return answer


def location_of(door: Door, call_id: str) -> bytes:
    """Where a call is looked up."""
    return f"{door.base_url}/v1/calls/{call_id}".encode("latin-1")


def answer_of(door: Door, result: ToolResult, report: CallReport | None = None) -> Answer:
    """The answer to one call: 200 with its result, or a problem with the failure's status."""
    if result.success:
        answer = Answer(200, orjson.dumps(result_json(door, result, report), option=JSON))
    else:
        extra: dict[str, Any] = {"artifacts": kept} if (kept := artifacts_json(door, result, report)) else {}
        if result.explanation is not None:
            extra["explanation"] = result.explanation
        answer = failed_answer(result, door.base_url, extra=extra)
    answer.call_id = result.call_id
    if result.source == "replay":
        answer.headers.append((b"idempotency-replayed", b"true"))
    return answer


def renamed(result: ToolResult, provider_id: str) -> ToolResult:
    """A result under the id that a model gave its call: those of several users are often the same."""
    return replace(result, call_id=provider_id)


__all__ = [
    "Asking",
    "accepted",
    "answer_of",
    "call_of",
    "call_plainly",
    "call_tool",
    "is_plain",
    "location_of",
    "renamed",
    "the_key",
    "the_session",
]
