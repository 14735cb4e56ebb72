"""Operations on a gateway's calls: what is sent, and what comes of the answers; all of it without I/O."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Literal, TypedDict
from urllib.parse import quote, urlencode

import orjson

from toolpost.calls.call import new_id
from toolpost.calls.clock import SYSTEM_CLOCK
from toolpost.calls.errors import ConfigurationError, InputValidationError, ToolExecutionError
from toolpost.clients.answers import (
    CallResult,
    Report,
    error_of,
    failed_with,
    members,
    parsed,
    raise_for,
    report_of,
    result_in,
    results_in,
)
from toolpost.clients.events import SILENT_S, events_of, following
from toolpost.clients.exchange import Give, Patience, Plan, Request, Sleep, exchange

Format = Literal["openai", "openai-chat", "anthropic", "gemini", "mcp", "toolpost"]
JSON: Final = {"content-type": "application/json"}
MAX_CALLS: Final = 1000
"""Most calls in one request; a larger batch is sent in several, one after the other."""
WAIT_S: Final = 50.0
"""How long one request waits for a call's end, below what proxies commonly allow."""
AT_LEAST_S: Final = 0.5
"""How long between two questions about a call, where the gateway answers them at once."""
LINGER_S: Final = 10.0
"""How much longer than the time it was given an answer may take."""


class CallOptions(TypedDict, total=False):
    """How a call is made. idempotency_key: it runs once, however often it is sent. deadline_s: by when it must end.

    explain: have the result tell what each stage decided. timeout_s: how long the gateway may be silent, where that is
    not the client's own. traceparent: W3C trace context. user_id and tenant count where nobody has to authenticate.
    answers: those to the questions of an InputRequiredError, by their keys.
    """

    idempotency_key: str | None
    deadline_s: float | None
    session_id: str | None
    explain: bool
    version: str | None
    task_id: str | None
    answers: Mapping[str, Any] | None
    user_id: str | None
    tenant: str | None
    traceparent: str | None
    timeout_s: float | None


class SubmitOptions(CallOptions, total=False):
    """How an accepted call is made: see Accept in the documentation of the gateway."""

    priority: int
    delay_s: float
    run_at: str | float
    max_attempts: int
    order_key: str
    callback: str


class Filters(TypedDict, total=False):
    """Which calls: of a tool, user or session, in these states, made since or before until (RFC 3339, or seconds)."""

    tool: str
    state: str | Sequence[str]
    user: str
    session: str
    since: str | float
    until: str | float


_CALL: Final = frozenset(CallOptions.__annotations__)
_SUBMIT: Final = frozenset(SubmitOptions.__annotations__) | _CALL
_FILTERS: Final = frozenset(Filters.__annotations__)
_NOT_SENT: Final = frozenset({"traceparent", "timeout_s"})


class Operations:
    """The operations of one client. timeout_s is how long the gateway may be silent."""

    def __init__(self, timeout_s: float, patience: Patience) -> None:
        self.timeout_s, self.patience = timeout_s, patience

    # -- calls --------------------------------------------------------------------------------------------------------

    def execute(self, tool: str, arguments: Mapping[str, Any] | None, options: Mapping[str, Any]) -> Plan[CallResult]:
        """Make a call and wait for its result, whatever it is. Raises ConfigurationError."""
        given = checked(options, _CALL, "call")
        try:
            request = self._call(tool, arguments, given, {})
            answer = yield from exchange(request, self.patience, within_s=options.get("deadline_s"))
            return result_in(answer, tool)
        except ConfigurationError:
            raise
        except ToolExecutionError as error:
            return failed_with(error, tool)

    def call(self, tool: str, arguments: Mapping[str, Any] | None, options: Mapping[str, Any]) -> Plan[Any]:
        """As execute; the value, or the error raised."""
        result = yield from self.execute(tool, arguments, options)
        return result.value()

    def submit(self, tool: str, arguments: Mapping[str, Any] | None, options: Mapping[str, Any]) -> Plan[Report]:
        """Have a call accepted. It gets an idempotency key, so that sending it again never makes two of it."""
        request = self._accepted(tool, arguments, options, {"prefer": "respond-async"})
        answer = yield from exchange(request, self.patience)
        if answer.status == 202:
            return report_of(parsed(answer))
        if "location" not in answer.headers:
            raise_for(answer)
        result = result_in(answer, tool)
        state = {"ok": "succeeded", "rejected": "rejected", "failed": "failed"}[result.status]
        return Report(call_id=result.call_id, tool=result.tool_name, state=state, accepted=True, result=result)

    def stream(
        self, tool: str, arguments: Mapping[str, Any] | None, options: Mapping[str, Any], durable: bool
    ) -> Plan[None]:
        """Make a call and give its events."""
        headers = {"accept": "text/event-stream", "accept-encoding": "identity"}
        options = {**options, "timeout_s": options.get("timeout_s") or max(self.timeout_s, SILENT_S)}
        if durable:
            request = self._accepted(tool, arguments, options, {**headers, "prefer": "respond-async"})
        else:
            request = self._call(tool, arguments, checked(options, _CALL, "stream"), headers)
        yield from following(request, self.patience, resumes=durable)

    def batch(self, calls: Iterable[Any], timeout_s: float | None) -> Plan[list[CallResult]]:
        """Make calls, each (tool, arguments) or a mapping with more; one result each, in order."""
        bodies = [_of_batch(one, index) for index, one in enumerate(calls)]
        results: list[CallResult] = []
        for start in range(0, len(bodies), MAX_CALLS):
            part = bodies[start : start + MAX_CALLS]
            request = Request(
                method="POST",
                path="/v1/calls?format=toolpost",
                headers=JSON,
                content=encoded(part),
                timeout_s=timeout_s or self.timeout_s,
                safe=all(one.get("idempotency_key") for one in part),
            )
            try:
                answer = yield from exchange(request, self.patience)
                raise_for(answer)
                results += results_in(answer, [body["tool"] for body in part])
            except ToolExecutionError as error:
                if not results:
                    raise
                results += [failed_with(error, body["tool"]) for body in part]  # what ran before is told
        return results

    def turn(self, payload: Any, format: Format, session_id: str | None, timeout_s: float | None) -> Plan[Any]:
        """Make the calls in a model's message, and give the answers to them in the form of its provider."""
        headers = {**JSON, "idempotency-key": f'"{new_id()}"'}
        if session_id is not None:
            headers["toolpost-session"] = session_id
        request = Request(
            method="POST",
            path=f"/v1/calls?format={format}",
            headers=headers,
            content=encoded(payload),
            timeout_s=timeout_s or self.timeout_s,
            safe=True,
        )
        answer = yield from exchange(request, self.patience)
        raise_for(answer)
        return parsed(answer)

    # -- calls that were made -----------------------------------------------------------------------------------------

    def show(self, call_id: str) -> Plan[Report]:
        """How a call stands."""
        return report_of((yield from self.json("GET", _path(call_id), safe=True)))

    def wait(self, call_id: str, timeout_s: float | None) -> Plan[Report]:
        """A call's report once it ended, or as it stands after timeout_s."""
        until = None if timeout_s is None else SYSTEM_CLOCK.monotonic() + timeout_s
        while True:
            left_s = WAIT_S if until is None else min(WAIT_S, max(0.0, until - SYSTEM_CLOCK.monotonic()))
            path = f"{_path(call_id)}?wait={-int(-left_s // 1)}"
            asked = SYSTEM_CLOCK.monotonic()
            report = report_of((yield from self.json("GET", path, safe=True, timeout_s=left_s + LINGER_S)))
            now = SYSTEM_CLOCK.monotonic()
            if report.ended or (until is not None and now >= until):
                return report
            if now - asked < min(left_s, AT_LEAST_S):  # it does not wait for us
                yield Sleep(AT_LEAST_S if until is None else min(AT_LEAST_S, until - now))

    def result(self, call_id: str, timeout_s: float | None) -> Plan[CallResult]:
        """A call's result once it ended. Raises TimeoutError when it has not after timeout_s."""
        report = yield from self.wait(call_id, timeout_s)
        if report.result is None:
            raise TimeoutError(f"call {call_id} has not ended after {timeout_s} s; it is {report.state}")
        return report.result

    def cancel(self, call_id: str) -> Plan[Report]:
        """Have a call end; its report as it stands then."""
        return report_of((yield from self.json("POST", f"{_path(call_id)}/cancel", safe=True)))

    def events(self, call_id: str, after: str | None) -> Plan[None]:
        """Give the events of a call, after one of them, to its result."""
        yield from following(events_of(call_id, after), self.patience, call_id=call_id, after=after)

    def calls(self, filters: Mapping[str, Any], page: int) -> Plan[None]:
        """Give the reports of calls, newest first."""
        query: dict[str, Any] = {**checked(filters, _FILTERS, "calls"), "limit": page}
        while True:
            path = f"/v1/calls?{urlencode(query, doseq=True)}"
            shown = yield from self.json("GET", path, safe=True, lists=("calls",))
            for one in shown["calls"]:
                yield Give(report_of(one))
            if shown.get("next") is None:
                return
            query["after"] = shown["next"]

    def explain(self, call_id: str) -> Plan[list[dict[str, Any]]]:
        """What each stage decided about a call."""
        shown = yield from self.json("GET", f"{_path(call_id)}/explain", safe=True, lists=("explanation",))
        return list(shown["explanation"])

    # -- tools --------------------------------------------------------------------------------------------------------

    def tools(self, format: Format, query: str | None, limit: int | None, strict: bool) -> Plan[list[dict[str, Any]]]:
        """The tools that the caller may use."""
        asked = {"format": format, "query": query, "limit": limit, "strict": "true" if strict else None}
        given = urlencode({name: value for name, value in asked.items() if value is not None})
        shown = yield from self.json("GET", f"/v1/tools?{given}", safe=True, lists=("tools",))
        return list(shown["tools"])

    # -- approvals ----------------------------------------------------------------------------------------------------

    def approvals(self, state: str) -> Plan[None]:
        """Give approvals, oldest question first."""
        query = {"state": state, "limit": "100"}
        while True:
            shown = yield from self.json("GET", f"/v1/approvals?{urlencode(query)}", safe=True, lists=("approvals",))
            for one in shown["approvals"]:
                yield Give(one)
            if shown.get("next") is None:
                return
            query["after"] = shown["next"]

    def approval(self, approval_id: str) -> Plan[dict[str, Any]]:
        """One approval."""
        return (yield from self.json("GET", f"/v1/approvals/{quote(approval_id, safe='')}", safe=True))

    def decide(self, approval_id: str, verb: str, body: Mapping[str, Any]) -> Plan[dict[str, Any]]:
        """Approve or deny."""
        given = {name: value for name, value in body.items() if value is not None}
        path = f"/v1/approvals/{quote(approval_id, safe='')}/{verb}"
        return (yield from self.json("POST", path, given))

    def run_approved(self, approval_id: str, timeout_s: float | None) -> Plan[CallResult]:
        """Make the call that was approved."""
        request = Request(
            method="POST",
            path=f"/v1/approvals/{quote(approval_id, safe='')}/run",
            headers=JSON,
            content=b"{}",
            timeout_s=timeout_s or self.timeout_s,
        )
        answer = yield from exchange(request, self.patience)
        result = result_in(answer, "")
        if not result.success and not result.call_id:
            assert result.failure is not None
            raise error_of(result.failure)
        return result

    # -- inside -------------------------------------------------------------------------------------------------------

    def json(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        safe: bool = False,
        timeout_s: float | None = None,
        lists: tuple[str, ...] = (),
    ) -> Plan[dict[str, Any]]:
        """The JSON object that a request is answered with; lists: its members that are. Raises what a problem is."""
        request = Request(
            method=method,
            path=path,
            headers=JSON if body is not None else {},
            content=None if body is None else encoded(body),
            timeout_s=timeout_s or self.timeout_s,
            safe=safe,
        )
        answer = yield from exchange(request, self.patience)
        raise_for(answer)
        return members(answer, *lists)

    def _accepted(
        self,
        tool: str,
        arguments: Mapping[str, Any] | None,
        options: Mapping[str, Any],
        headers: Mapping[str, str],
    ) -> Request:
        options = dict(checked(options, _SUBMIT, "submit"))
        options.setdefault("idempotency_key", new_id())
        return self._call(tool, arguments, options, headers)

    def _call(
        self,
        tool: str,
        arguments: Mapping[str, Any] | None,
        options: Mapping[str, Any],
        headers: Mapping[str, str],
    ) -> Request:
        body: dict[str, Any] = {"arguments": {} if arguments is None else arguments}
        body.update((name, value) for name, value in options.items() if name not in _NOT_SENT)
        deadline_s, timeout_s = options.get("deadline_s"), options.get("timeout_s")
        if timeout_s is None:
            timeout_s = self.timeout_s if deadline_s is None else deadline_s + LINGER_S
        more = {"traceparent": options["traceparent"]} if options.get("traceparent") else {}
        return Request(
            method="POST",
            path=f"/v1/tools/{quote(tool, safe='')}/calls",
            headers={**JSON, **headers, **more},
            content=encoded(body),
            timeout_s=timeout_s,
            safe=options.get("idempotency_key") is not None,
        )


def checked(options: Mapping[str, Any], names: frozenset[str], method: str) -> dict[str, Any]:
    """Options without those that are None. Raises ConfigurationError for one that is not known."""
    for name in options:
        if name not in names:
            raise ConfigurationError(f"{method} has no option {name!r}; there are {', '.join(sorted(names))}")
    return {name: value for name, value in options.items() if value is not None}


def encoded(value: Any) -> bytes:
    """A value as JSON. Raises InputValidationError for what has no form there."""
    try:
        return orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS)
    except orjson.JSONEncodeError as error:
        raise InputValidationError(f"Parameter validation failed: this cannot be sent as JSON: {error}") from None


def _of_batch(one: Any, index: int) -> dict[str, Any]:
    if isinstance(one, Mapping) and isinstance(one.get("tool"), str):
        return dict(one)
    if isinstance(one, (tuple, list)) and len(one) == 2 and isinstance(one[0], str):
        return {"tool": one[0], "arguments": one[1]}
    raise InputValidationError(
        f'Parameter validation failed: call {index} must be (tool, arguments) or {{"tool": ..., "arguments": ...}}, '
        f"got {type(one).__name__}"
    )


def _path(call_id: str) -> str:
    return f"/v1/calls/{quote(call_id, safe='')}"


__all__ = ["CallOptions", "Filters", "Format", "Operations", "SubmitOptions", "checked"]
