"""What calls became: one by its id, what its stages decided, the list of them, and ending one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, get_args

import orjson

from toolpost.calls.call import Caller
from toolpost.calls.errors import NotFoundError
from toolpost.transports.http_bodies import until_gone
from toolpost.transports.http_formats import format_named
from toolpost.transports.http_headers import MAX_WAIT_S, Headers, next_link
from toolpost.transports.http_options import instant
from toolpost.transports.http_problems import Answer, HttpRefusal, not_ended
from toolpost.transports.http_results import report_json
from toolpost.transports.wire import encode_results
from toolpost.worker.reports import CallState

if TYPE_CHECKING:
    from starlette.requests import Request

    from toolpost.transports.http_routes import Door
    from toolpost.worker.reports import CallReport

STATES: Final[tuple[str, ...]] = get_args(CallState)
MAX_PAGE: Final = 1000
MAX_TEXT: Final = 4096
PLAIN: Final = re.compile("^[^\\x00-\\x1f\\x7f-\\x9f]*$")
"""What a parameter of a query may be: texts without control characters."""
_JSON = orjson.OPT_NON_STR_KEYS


async def show_call(request: Request, door: Door, caller: Caller) -> Answer:
    """How a call stands; with wait, once it ended or so many seconds are over; with format, its provider's result."""
    query = query_of(request, ("wait", "format"))
    call_id = request.path_params["call_id"]
    wait_s = whole_number(query, "wait", 0, 86_400, 0)
    if wait_s:
        waiting = door.service.calls.wait(call_id, caller, min(wait_s, MAX_WAIT_S))
        report = await until_gone(waiting, request.receive)
    else:
        report = await door.service.calls.show(call_id, caller)
    if report is None:
        raise _none(call_id)
    if "format" in query:
        return _provided(report, query["format"])
    headers: Headers = [] if report.ended else [(b"retry-after", b"1")]
    return Answer(200, orjson.dumps(report_json(door, report), option=_JSON), headers)


def _provided(report: CallReport, name: str) -> Answer:
    """The result of a call as its provider takes it, under the id that the provider's model gave the call."""
    kind = format_named(name)
    if report.result is None:
        raise not_ended(report, f"there is no result for {kind} yet; ask again with ?wait=60")
    result = report.result if report.provider_id is None else replace(report.result, call_id=report.provider_id)
    return Answer(200, orjson.dumps(encode_results([result], kind), option=_JSON))


async def explain_call(request: Request, door: Door, caller: Caller) -> Answer:
    """What each stage of the pipeline decided about a call, outermost first."""
    query_of(request, ())
    call_id = request.path_params["call_id"]
    report = await door.service.calls.show(call_id, caller)
    if report is None:
        raise _none(call_id)
    explanation = None if report.result is None else report.result.explanation
    if explanation is None:
        why = "it has not ended" if not report.ended else 'it was made without "explain": true'
        raise NotFoundError(f"there is no explanation of call {call_id!r:.80}: {why}")
    shown = {"call_id": report.call_id, "tool": report.tool, "state": report.state, "explanation": explanation}
    return Answer(200, orjson.dumps(shown, option=_JSON))


async def cancel_call(request: Request, door: Door, caller: Caller) -> Answer:
    """Have a call end: 200 with its report where it has, 202 where it still takes a moment."""
    query_of(request, ())
    call_id = request.path_params["call_id"]
    report = await door.service.calls.cancel(call_id, caller)
    if report is None:
        raise _none(call_id)
    return Answer(200 if report.ended else 202, orjson.dumps(report_json(door, report), option=_JSON))


async def list_calls(request: Request, door: Door, caller: Caller) -> Answer:
    """The calls that a caller may see, newest first, a page at a time."""
    names = ("tool", "state", "user", "session", "since", "until", "after", "limit")
    query = query_of(request, names, several=("state",))
    states = [state for given in request.query_params.getlist("state") for state in given.split(",")]
    for state in states:
        if state not in STATES:
            raise HttpRefusal(400, "invalid_query", f"state must be one of {', '.join(STATES)}, got {state[:40]!r}")
    page = await door.service.calls.list(
        caller,
        states=states,
        tool=query.get("tool"),
        user_id=query.get("user"),
        session_id=query.get("session"),
        since=_instant(query, "since"),
        until=_instant(query, "until"),
        after=query.get("after"),
        limit=whole_number(query, "limit", 1, MAX_PAGE, 100),
    )
    shown = {"calls": [report_json(door, report) for report in page.calls], "next": page.after}
    headers: Headers = []
    if page.after is not None:
        again: dict[str, Any] = {**query, "after": page.after}
        if states:
            again["state"] = states
        headers.append((b"link", next_link(f"{door.base_url}/v1/calls", again).encode("latin-1")))
    return Answer(200, orjson.dumps(shown, option=_JSON), headers)


def query_of(request: Request, names: tuple[str, ...], several: tuple[str, ...] = ()) -> dict[str, str]:
    """The query's parameters. Raises HttpRefusal for one that is not known, or is given twice."""
    found: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        if name not in names:
            there = f"there are {', '.join(names)}" if names else "there are none"
            raise HttpRefusal(400, "invalid_query", f"there is no parameter {name[:60]!r}; {there}")
        if name in found and name not in several:
            raise HttpRefusal(400, "invalid_query", f"the parameter {name} is given twice")
        if len(value) > MAX_TEXT or not PLAIN.fullmatch(value):
            raise HttpRefusal(400, "invalid_query", f"the parameter {name} must be plain text")
        found[name] = value
    return found


def whole_number(query: Mapping[str, str], name: str, low: int, high: int, usual: int) -> int:
    """A parameter that is a whole number. Raises HttpRefusal."""
    if name not in query:
        return usual
    text = query[name]
    if not (text.isascii() and text.isdigit() and len(text) < 10 and low <= int(text) <= high):
        raise HttpRefusal(
            400, "invalid_query", f"{name} must be a whole number from {low} to {high}, got {text[:40]!r}"
        )
    return int(text)


_NUMBER: Final = re.compile(r"[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]{1,3})?")


def _instant(query: Mapping[str, str], name: str) -> float | None:
    if name not in query:
        return None
    text = query[name]
    at = instant(float(text) if _NUMBER.fullmatch(text) else text.replace(" ", "+"))
    if at is None:
        raise HttpRefusal(
            400,
            "invalid_query",
            f"{name} must be a date and time such as 2026-05-01T08:00:00Z, or seconds since 1970, got {text[:40]!r}",
        )
    return at


def _none(call_id: str) -> NotFoundError:
    return NotFoundError(f"there is no call {call_id!r:.80}")


__all__ = ["cancel_call", "explain_call", "list_calls", "query_of", "show_call", "whole_number"]
