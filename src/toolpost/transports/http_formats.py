"""POST /v1/calls: calls as any provider's model wrote them, one or many, answered in that provider's form."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, cast

import orjson

from toolpost.calls.call import ToolCall, new_id
from toolpost.calls.clock import SYSTEM_CLOCK
from toolpost.calls.errors import ConfigurationError, ToolExecutionError
from toolpost.calls.showing import SHOWN_AS
from toolpost.engine.batch import in_order
from toolpost.transports.http_auth import session_of
from toolpost.transports.http_bodies import until_gone
from toolpost.transports.http_calling import (
    JSON,
    Asking,
    accepted,
    answer_of,
    location_of,
    renamed,
    the_key,
    the_session,
)
from toolpost.transports.http_cloudevents import payload_of
from toolpost.transports.http_headers import MAX_WAIT_S, Headers, Prefer
from toolpost.transports.http_options import accept_of, split_options
from toolpost.transports.http_problems import Answer, HttpRefusal, error_answer
from toolpost.transports.http_results import limit_headers, report_json, result_json
from toolpost.transports.wire import Format, decode_calls, detect_format, encode_results, export_tool
from toolpost.transports.wire_tools import check_format

if TYPE_CHECKING:
    from starlette.responses import Response

    from toolpost.calls.result import ToolResult
    from toolpost.transports.http_routes import Door
    from toolpost.worker.reports import CallReport

MAX_CALLS: Final = 1000
"""Most calls in one request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One call of a request, under an id of ours: those of models collide between users. options are checked."""

    call: ToolCall
    provider_id: str
    options: dict[str, Any]


async def call_any(door: Door, asking: Asking, format: str | None) -> Answer | Response:
    """Make the calls in a body. A single one in our own form is answered as by the tool's path, others with 200.

    Raises HttpRefusal and ToolExecutionErrors where the body holds no calls, or too many.
    """
    preferred = asking.prefers()
    payload, event_key = payload_of(asking)
    kind = format_named(format) if format is not None else detect_format(payload)
    key = asking.key() or (None if kind == "toolpost" else event_key)
    asked = _asked(door, payload, kind, asking, key, accepts=preferred.respond_async)
    single = kind == "toolpost" and not isinstance(payload, list) and len(asked) == 1
    if asking.streams:
        return await _streamed(door, asked, kind, preferred, asking)
    if single and preferred.respond_async:
        return await accepted(door, asked[0].call, _how(asked[0], kind), preferred, asking)
    if preferred.respond_async:
        return await _accept_all(door, asked, kind, preferred, asking)
    with shown_as(kind):
        results = await until_gone(_run_all(door, asked), asking.receive)
    answer = answer_of(door, results[0]) if single else Answer(200, _encoded(door, asked, results, kind))
    if len(asked) == 1 and not single:
        answer.call_id = asked[0].call.id
        if results[0].source == "replay":
            answer.headers.append((b"idempotency-replayed", b"true"))
    if len(asked) == 1:
        answer.headers += limit_headers(await door.executor.limits_of(asked[0].call))
    return answer


@contextmanager
def shown_as(kind: Format) -> Iterator[None]:
    """Have tools that are described to a model meanwhile described in its provider's form."""
    if kind == "toolpost":
        yield
        return
    before = SHOWN_AS.set(lambda definition: export_tool(definition, kind))
    try:
        yield
    finally:
        SHOWN_AS.reset(before)


def format_named(format: str) -> Format:
    """A format by its name. Raises HttpRefusal."""
    try:
        return check_format(format)
    except ConfigurationError as error:
        raise HttpRefusal(400, "invalid_query", f"format: {error.message}") from None


def _asked(door: Door, payload: Any, kind: Format, asking: Asking, key: str | None, *, accepts: bool) -> list[Asked]:
    items = payload if isinstance(payload, list) else [payload]
    if len(items) > MAX_CALLS:
        raise HttpRefusal(400, "too_many_calls", f"a request may hold {MAX_CALLS} calls, got {len(items)}")
    options: list[dict[str, Any]] = []
    if kind == "toolpost":
        many = isinstance(payload, list)
        split = [
            split_options(item, f"/{index}" if many else "", accepts=accepts) if isinstance(item, dict) else (item, {})
            for index, item in enumerate(items)
        ]
        payload, options = [rest for rest, _ in split], [chosen for _, chosen in split]
    known = door.executor.registry.list_tools() if kind not in ("toolpost", "mcp") else ()
    if asking.caller is not None:
        calls = decode_calls(payload, kind, caller=asking.caller, known=known)
    else:
        calls = decode_calls(payload, kind, session_id=session_of(asking.fields), known=known)
    if len(calls) > MAX_CALLS:
        raise HttpRefusal(400, "too_many_calls", f"a request may hold {MAX_CALLS} calls, got {len(calls)}")
    trace = asking.trace()
    found = []
    for index, call in enumerate(calls):
        pointer = f"/{index}" if len(calls) > 1 else ""
        own = the_key(_nth(key, index, len(calls)), call.idempotency_key, f"{pointer}/idempotency_key")
        if own is not None and len(own) > 300:
            raise HttpRefusal.at(f"{pointer}/idempotency_key", "an idempotency key has at most 256 characters")
        session = call.session_id
        if kind == "toolpost" and asking.caller is not None:  # whom a caller cannot choose; of its sessions it can
            named = items[index].get("session_id")
            session = the_session(session, named if isinstance(named, str) else None, f"{pointer}/session_id")
        chosen = options[index] if options else {}
        changed = replace(
            call,
            id=new_id(),
            idempotency_key=own,
            session_id=session,
            trace=call.trace or trace,
            answers=chosen.get("answers"),
        )
        found.append(Asked(call=changed, provider_id=call.id, options=chosen))
    return found


def _nth(key: str | None, index: int, number: int) -> str | None:
    """The key of one of several calls of a request that has a key: the same again when the request is repeated."""
    return key if key is None or number == 1 else f"{key}#{index}"


def _how(asked: Asked, kind: Format) -> Any:
    return accept_of(asked.options, time.time(), format=kind, provider_id=asked.provider_id)


async def _run_all(door: Door, asked: Sequence[Asked]) -> list[ToolResult]:
    """Run calls, some at a time; their results in order."""
    run = door.service.calls.run
    if len(asked) == 1:
        return [await run(asked[0].call, explain=asked[0].options.get("explain", False))]

    results = await in_order(
        asked,
        lambda one, left_s: run(one.call, explain=one.options.get("explain", False)),
        concurrency=max(1, min(door.executor.config.io_concurrency, len(asked))),
        deadline_s=None,
        fail_fast=True,
        clock=SYSTEM_CLOCK,
    )
    return cast("list[ToolResult]", results)


def _encoded(door: Door, asked: Sequence[Asked], results: Sequence[ToolResult], kind: Format) -> bytes:
    """Results in the form of the calls, under the ids that the calls came with."""
    if kind == "toolpost":
        shown: Any = [result_json(door, result) for result in results]
    else:
        named = [renamed(result, one.provider_id) for one, result in zip(asked, results, strict=True)]
        if kind == "gemini":  # which finds its calls again by their names, call_tool's too
            named = [replace(result, tool_name=one.call.name) for one, result in zip(asked, named, strict=True)]
        shown = encode_results(named, kind)
    return orjson.dumps(shown, option=JSON)


async def _accept_all(door: Door, asked: Sequence[Asked], kind: Format, preferred: Prefer, asking: Asking) -> Answer:
    """Accept several calls, or one of a provider; what cannot be accepted stands among the others as a problem."""
    calls = door.service.calls
    stand: list[CallReport | Answer] = []
    for one in asked:
        try:
            stand.append(await calls.accept(one.call, _how(one, kind)))
        except ToolExecutionError as error:
            stand.append(error_answer(error, door.base_url, one.call.id, within="/arguments"))
    if preferred.wait_s:
        until = time.monotonic() + min(preferred.wait_s, MAX_WAIT_S)
        for index, report in enumerate(stand):
            if not isinstance(report, Answer) and not report.ended:
                waiting = calls.wait(report.call_id, asking.viewer, max(0.0, until - time.monotonic()))
                later = await until_gone(waiting, asking.receive)
                stand[index] = report if later is None else later
    headers: Headers = [(b"preference-applied", preferred.applied.encode()), (b"vary", b"Prefer")]
    ended = [one.result for one in stand if not isinstance(one, Answer) and one.ended and one.result is not None]
    if preferred.wait_s and len(ended) == len(asked):
        return Answer(200, _encoded(door, asked, ended, kind), headers)
    shown = [orjson.loads(one.body) if isinstance(one, Answer) else report_json(door, one) for one in stand]
    if len(stand) == 1 and not isinstance(stand[0], Answer):
        headers.append((b"location", location_of(door, stand[0].call_id)))
    headers.append((b"retry-after", b"1"))
    return Answer(202, orjson.dumps({"calls": shown}, option=JSON), headers)


async def _streamed(door: Door, asked: Sequence[Asked], kind: Format, preferred: Prefer, asking: Asking) -> Response:
    if len(asked) != 1:
        raise HttpRefusal(
            406, "not_acceptable", f"one call can be answered as text/event-stream, got {len(asked)}; ask for JSON"
        )
    from toolpost.transports.http_streams import stream_call

    how = _how(asked[0], kind) if preferred.respond_async else None
    explain = asked[0].options.get("explain", False)
    return await stream_call(door, asking.viewer, asked[0].call, how=how, explain=explain)


__all__ = ["MAX_CALLS", "call_any", "format_named"]
