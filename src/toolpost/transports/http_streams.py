"""Streams of calls: GET /v1/calls/{call_id}/events follows one; a call made with Accept: text/event-stream is followed.

Every stream ends with the event result, which has the whole report; the events before it can be read again from any of
their ids, as far as they are kept.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from starlette.responses import Response

from toolpost.calls.call import Caller, ToolCall
from toolpost.calls.errors import NotFoundError
from toolpost.transports.http_lookups import PLAIN, query_of
from toolpost.transports.http_problems import HttpRefusal
from toolpost.transports.http_results import linked, report_json
from toolpost.transports.http_routes import Door, Route
from toolpost.transports.http_schemas import answer, in_header, in_path, in_query, problems, ref
from toolpost.transports.http_sse import EventStream, frame, streams_of
from toolpost.worker.feed import CallEvent
from toolpost.worker.reports import CallReport, KeptArtifact, state_of

if TYPE_CHECKING:
    from starlette.requests import Request

    from toolpost.calls.result import ToolResult
    from toolpost.worker.reports import Accept

END: Final = "end"
"""The id of a result that is told from the call's report, when its events are kept no more."""
MAX_ID: Final = 200


async def stream_events(request: Request, door: Door, caller: Caller) -> Response:
    """The events of a call after those that the client has, to its result. 204 to whoever has had the result."""
    call_id = request.path_params["call_id"]
    after = _after(request, query_of(request, ("after",)))
    streams = streams_of(door)
    streams.check_room()
    report = await door.service.calls.show(call_id, caller)
    if report is None:
        raise NotFoundError(f"there is no call {call_id!r:.80}")
    frames = _framed(followed(door, caller, call_id, after))
    if not report.ended or after is None:
        return EventStream(streams, frames, stays=not report.accepted)
    try:
        first = await anext(frames)
    except StopAsyncIteration:  # where a browser is not told so, it connects again and again
        return Response(status_code=204, headers={"cache-control": "no-store"})
    return EventStream(streams, _before(first, frames), stays=True)


async def stream_call(
    door: Door, caller: Caller, call: ToolCall, *, how: Accept | None = None, explain: bool = False
) -> Response:
    """Make a call and answer with its events: first call, with its id, and last its result.

    how: it is accepted, as Prefer: respond-async asks, and goes on when the client leaves. Without it the call runs
    here, and a client that leaves before the result has it cancelled. Raises what accepting raises.
    """
    streams = streams_of(door)
    streams.check_room()
    if how is not None:
        report = await door.service.calls.accept(call, how)
        first = opening(door, report.call_id)
        return EventStream(streams, _before(first, _framed(followed(door, caller, report.call_id, None))))
    running = RunningCall(door, caller, call, explain)
    frames = _before(opening(door, call.id), _framed(running.events()))
    return EventStream(streams, frames, gone=running.cancel, stays=True)


async def followed(door: Door, caller: Caller, call_id: str, after: str | None) -> AsyncIterator[CallEvent]:
    """The events of a call after an id; when they are kept no more, the result alone, of its report."""
    async with aclosing(following(door, caller, call_id, after)) as events:
        async for event in events:
            last = event.kind == "result"
            if after is None or event.id > after or (event.id == after and not last):
                yield _with_links(door, event)
            if last:
                return
    report = await door.service.calls.show(call_id, caller)
    if report is not None and report.ended and after is None:
        yield _result(door, report)


def following(door: Door, caller: Caller, call_id: str, after: str | None = None) -> Any:
    """The events as they are kept, in a form that can be closed."""
    events = door.service.calls.follow(call_id, caller, after)
    return events if hasattr(events, "aclose") else _each(events)


class RunningCall:
    """A call that runs here while its caller is told of it."""

    def __init__(self, door: Door, caller: Caller, call: ToolCall, explain: bool) -> None:
        self._door, self._caller, self.call = door, caller, call
        self._explain = explain
        self._run: asyncio.Task[ToolResult] | None = None

    async def events(self) -> AsyncIterator[CallEvent]:
        """Runs it; its events, the result among them whatever becomes of the call."""
        calls, call_id = self._door.service.calls, self.call.id
        self._run = asyncio.create_task(calls.run(self.call, explain=self._explain, watched=True))
        await asyncio.sleep(0)  # so that there is something to follow
        async with aclosing(following(self._door, self._caller, call_id)) as events:
            async for event in events:
                yield _with_links(self._door, event)
                if event.kind == "result":
                    return
        result = await self._run
        report = await calls.show(call_id, self._caller)
        yield _result(self._door, report if report is not None and report.ended else _refused(self.call, result))

    async def cancel(self) -> None:
        """Have the call end, as nobody waits for it."""
        if self._run is None or self._run.done():
            return
        if await self._door.service.calls.cancel(self.call.id, self._caller) is None:
            self._run.cancel()
        with suppress(asyncio.CancelledError):
            await self._run


def said_by(event: CallEvent) -> Mapping[str, Any]:
    """What an event says, with the time at which it was told; a report has times of its own."""
    return event.data if event.kind == "result" else {"at": event.at, **event.data}


def opening(door: Door, call_id: str) -> bytes:
    """The frame that says which call it is. It has no id: a client that has it alone has nothing yet."""
    return frame("call", {"call_id": call_id, "url": f"{door.base_url}/v1/calls/{call_id}"})


def _after(request: Request, query: Mapping[str, str]) -> str | None:
    """The id of the last event that the client has: of the header that browsers send, else of the query."""
    given = [one for one in (request.headers.get("last-event-id"), query.get("after")) if one]
    for one in given:
        if len(one) > MAX_ID or not PLAIN.fullmatch(one):
            raise HttpRefusal(400, "invalid_query", f"after must be the id of an event of this call, got {one!r:.80}")
    return given[0] if given else None


def _with_links(door: Door, event: CallEvent) -> CallEvent:
    """The event as reports are shown: with where the artifacts of a call can be had."""
    told = event.data.get("artifacts") if event.kind == "result" else None
    if not told:
        return event
    kept = [KeptArtifact(**one) for one in told]
    return replace(event, data={**event.data, "artifacts": linked(door, event.data["call_id"], kept)})


def _result(door: Door, report: CallReport) -> CallEvent:
    """The last event of a call, told from its report."""
    at = report.finished_at or report.created_at
    return CallEvent(id=END, kind="result", data=report_json(door, report), at=at)


def _refused(call: ToolCall, result: ToolResult) -> CallReport:
    """The report of a call that was not run at all, and so is kept nowhere."""
    return CallReport(
        call_id=call.id,
        tool=call.name,
        state=state_of(result),
        caller=call.caller,
        version=call.version,
        result=result,
        created_at=call.timestamp,
        finished_at=call.timestamp + result.elapsed_s,
        idempotency_key=call.idempotency_key,
        trace=call.trace,
    )


async def _framed(events: AsyncIterator[CallEvent]) -> AsyncIterator[bytes]:
    async with aclosing(events) as each:  # type: ignore[type-var]
        async for event in each:
            yield frame(event.kind, said_by(event), event.id)


async def _before(first: bytes, frames: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    async with aclosing(frames) as rest:  # type: ignore[type-var]
        yield first
        async for one in rest:
            yield one


async def _each(events: AsyncIterator[CallEvent]) -> AsyncIterator[CallEvent]:
    async for event in events:
        yield event


EVENTS: Final = (
    "Server-sent events: state, progress, log, and last result, whose data is the whole report. Each has an id, from "
    "which the stream can be taken up again with Last-Event-ID, as far as events are kept."
)

_EVENT_ID: Final = {"type": "string", "maxLength": MAX_ID}
ROUTES: Final = (
    Route(
        method="GET",
        path="/v1/calls/{call_id}/events",
        handler=stream_events,
        about={
            "operationId": "streamCallEvents",
            "summary": "Follow a call",
            "description": EVENTS,
            "tags": ["calls"],
            "parameters": [
                in_path("call_id", "The id of a call.", minLength=1),
                in_query("after", "The id of the last event that the client has.", _EVENT_ID),
                in_header("Last-Event-ID", "The same, as browsers send it; it goes before.", _EVENT_ID),
            ],
            "responses": {
                "200": answer(EVENTS, ref("Event"), "text/event-stream"),
                "204": answer("The call has ended, and the client has its result."),
                **problems(400, 404),
            },
        },
    ),
)

__all__ = ["EVENTS", "ROUTES", "RunningCall", "followed", "said_by", "stream_call"]
