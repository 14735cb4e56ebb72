"""Following calls over HTTP: server-sent events of a call, to its result, and of a call that is made that way."""

import asyncio
import contextlib
import json
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx
import httpx_sse
import pytest

from tests.transports.gateway import Served, gateway
from toolpost import Tool, ToolContext
from toolpost.transports import http_sse
from toolpost.transports.http_sse import EventStream, Streams, frame

SSE = {"accept": "text/event-stream"}
ASYNC = {"prefer": "respond-async"}


class Gate:
    """What a tool waits at, and what became of it; from any thread."""

    def __init__(self) -> None:
        self.began, self.cancelled, self._open = threading.Event(), threading.Event(), threading.Event()

    def open(self) -> None:
        self._open.set()

    def wait_open(self) -> None:
        assert self._open.wait(20)

    async def wait(self) -> None:
        self.began.set()
        try:
            while not self._open.is_set():
                await asyncio.sleep(0.005)
        except asyncio.CancelledError:
            self.cancelled.set()
            raise


def tools(gate: Gate) -> list[Any]:
    @Tool(name="Slow.Count", description="Count at a gate.", register=False)
    async def count(to: int, ctx: ToolContext) -> int:
        ctx.progress(1, to, "begun")
        await gate.wait()
        ctx.log("through", at=to)
        return to

    @Tool(name="Quick.Add", description="Add.", register=False)
    async def add(a: int, b: int) -> int:
        return a + b

    @Tool(name="Quick.Write", description="Write a file.", register=False)
    async def write(ctx: ToolContext) -> str:
        ctx.artifact("a.txt", b"text")
        return "written"

    @Tool(name="Slow.Talk", description="Say much.", register=False)
    async def speak(lines: int, ctx: ToolContext) -> int:
        for n in range(lines):
            ctx.log("x" * 8000, at=n)
            await asyncio.sleep(0)
        gate.open()
        return lines

    return [count, add, write, speak]


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
def served(gate: Gate) -> Iterator[Served]:
    with gateway(tools(gate)) as one:
        try:
            yield one
        finally:
            gate.open()


def accepted(served: Served, tool: str = "Slow.Count", **arguments: Any) -> str:
    answer = served.client.post(f"/v1/tools/{tool}/calls", json={"arguments": arguments or {"to": 3}}, headers=ASYNC)
    assert answer.status_code == 202, answer.text
    call_id: str = answer.json()["call_id"]
    return call_id


def events_of(response: httpx.Response) -> Iterator[httpx_sse.ServerSentEvent]:
    return httpx_sse.EventSource(response).iter_sse()


def counted(served: Served, what: str) -> int:
    """How much there is of something in the server: streams or followers."""

    async def count() -> int:
        if what == "followers":
            return sum(ring.followers for ring in served.service.calls.feed._rings.values())
        return len(http_sse.streams_of(served.app.door))

    return served.run(count())


def until(served: Served, what: str, number: int) -> None:
    """Wait until there is so much of it; the test's own limit ends what never comes."""
    while counted(served, what) != number:
        pass


class TestFollowing:
    def test_a_call_is_followed_to_its_result(self, served: Served, gate: Gate) -> None:
        call_id = accepted(served)

        with served.client.stream("GET", f"/v1/calls/{call_id}/events") as response:
            told = []
            for event in events_of(response):
                told.append(event)
                if event.event == "progress":
                    gate.open()

        assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert response.headers["cache-control"] == "no-store"
        assert [event.event for event in told if event.event != "state"] == ["progress", "log", "result"]
        assert told[-1].json()["data"] == {"result": 3}
        assert told[-1].json() == served.client.get(f"/v1/calls/{call_id}").json()
        assert [event.id for event in told] == sorted({event.id for event in told})

    def test_a_stream_is_taken_up_after_the_last_event_that_came(self, served: Served, gate: Gate) -> None:
        call_id = accepted(served)
        gate.open()
        with served.client.stream("GET", f"/v1/calls/{call_id}/events") as response:
            whole = list(events_of(response))
        middle = next(event for event in whole if event.event == "progress")

        by_header = served.client.get(f"/v1/calls/{call_id}/events", headers={"last-event-id": middle.id})
        by_query = served.client.get(f"/v1/calls/{call_id}/events", params={"after": middle.id})

        rest = [event.id for event in whole if event.id > middle.id]
        assert [event.id for event in events_of(by_header)] == rest
        assert [event.id for event in events_of(by_query)] == rest

    def test_whoever_has_the_result_is_told_to_stop(self, served: Served, gate: Gate) -> None:
        call_id = accepted(served)
        gate.open()
        with served.client.stream("GET", f"/v1/calls/{call_id}/events") as response:
            last = list(events_of(response))[-1]

        again = served.client.get(f"/v1/calls/{call_id}/events", headers={"last-event-id": last.id})

        assert (again.status_code, again.content) == (204, b"")

    def test_the_result_of_a_call_that_was_not_watched_is_told(self, served: Served) -> None:
        made = served.client.post("/v1/tools/Quick.Add/calls", json={"arguments": {"a": 1, "b": 2}})
        call_id = made.headers["toolpost-call-id"]

        told = list(events_of(served.client.get(f"/v1/calls/{call_id}/events")))

        assert [event.event for event in told] == ["result"]
        assert told[0].json()["data"] == {"result": 3}
        again = served.client.get(f"/v1/calls/{call_id}/events", params={"after": told[0].id})
        assert again.status_code == 204

    def test_a_call_that_is_not_there_is_a_problem(self, served: Served) -> None:
        answer = served.client.get("/v1/calls/0198c0de-0000-7000-8000-000000000001/events")

        assert (answer.status_code, answer.json()["code"]) == (404, "not_found")

    @pytest.mark.parametrize("after", ["x" * 201, "a\x00b"], ids=["long", "control"])
    def test_an_id_that_can_be_none_is_refused(self, served: Served, gate: Gate, after: str) -> None:
        call_id = accepted(served)

        answer = served.client.get(f"/v1/calls/{call_id}/events", params={"after": after})

        assert answer.status_code == 400

    def test_others_calls_are_not_there(self, gate: Gate) -> None:
        with gateway(tools(gate), authentication="required") as served:
            keys = served.executor.api_keys
            mine, other = (keys.create(user_id=name).secret for name in ("ann", "bob"))
            served.client.headers["authorization"] = f"Bearer {mine}"
            call_id = accepted(served)
            gate.open()

            theirs = served.client.get(f"/v1/calls/{call_id}/events", headers={"authorization": f"Bearer {other}"})

            assert theirs.status_code == 404
            assert served.client.get(f"/v1/calls/{call_id}/events").status_code == 200

    def test_followers_go_away_with_their_connections(self, served: Served, gate: Gate) -> None:
        call_id = accepted(served)

        with served.client.stream("GET", f"/v1/calls/{call_id}/events") as response:
            events = events_of(response)
            next(events)
            assert counted(served, "streams") == 1
            assert counted(served, "followers") > 0

        until(served, "streams", 0)
        until(served, "followers", 0)
        assert not gate.cancelled.is_set()

    def test_a_stream_costs_the_servers_one_task(self, served: Served, gate: Gate) -> None:
        call_id = accepted(served)
        request = f"GET /v1/calls/{call_id}/events HTTP/1.1\r\nHost: 127.0.0.1:{served.port}\r\n\r\n".encode()

        async def tasks() -> Counter[str]:
            return Counter(task.get_coro().__qualname__ for task in asyncio.all_tasks())  # type: ignore[union-attr]

        before = served.run(tasks())
        with contextlib.ExitStack() as connections:
            for _ in range(20):
                connections.enter_context(served.connect()).sendall(request)
            until(served, "streams", 20)
            more = served.run(tasks()) - before

        assert more.pop("RequestResponseCycle.run_asgi") == 20
        assert more.total() < 5  # such as the one that looks for what happens to the call elsewhere
        until(served, "streams", 0)

    def test_a_stream_of_an_accepted_call_ends_with_the_process(self, served: Served, gate: Gate) -> None:
        call_id = accepted(served)
        served.app.door.state["streams"] = Streams(served.service, beat_s=0.02, slots=1)

        with served.client.stream("GET", f"/v1/calls/{call_id}/events") as response:
            events = events_of(response)
            told = [next(events)]
            served.service.draining = True
            told += events

        assert "result" not in [event.event for event in told]

    def test_a_reader_that_does_not_read_has_nothing_kept_for_it(self, served: Served, gate: Gate) -> None:
        body = b'{"arguments": {"lines": 5000}}'
        request = (
            f"POST /v1/tools/Slow.Talk/calls HTTP/1.1\r\nHost: 127.0.0.1:{served.port}\r\n"
            f"Accept: text/event-stream\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        ).encode()

        with served.connect() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
            connection.sendall(request + body)
            gate.wait_open()
            said = b""
            while b"event: result" not in said[-20_000:]:
                said += connection.recv(1 << 20)

        assert b'"dropped":' in said
        assert said.count(b"event: log") < 5000

    def test_silence_is_filled_with_comments(self, served: Served, gate: Gate) -> None:
        call_id = accepted(served)
        served.app.door.state["streams"] = Streams(served.service, beat_s=0.02, slots=2)

        with served.client.stream("GET", f"/v1/calls/{call_id}/events") as response:
            lines = response.iter_lines()
            assert next(lines) == "retry: 2000"
            beats = 0
            while beats < 2:
                beats += next(lines) == ": here"
            gate.open()
            assert "event: result" in list(lines)


class TestMakingCalls:
    def test_a_call_is_made_and_followed_in_one_answer(self, served: Served, gate: Gate) -> None:
        gate.open()

        with served.client.stream(
            "POST", "/v1/tools/Slow.Count/calls", json={"arguments": {"to": 2}}, headers=SSE
        ) as response:
            told = list(events_of(response))

        assert response.status_code == 200
        assert [event.event for event in told if event.event != "state"] == ["call", "progress", "log", "result"]
        assert told[0].json()["url"] == f"{served.url}/v1/calls/{told[0].json()['call_id']}"
        assert told[-1].json()["call_id"] == told[0].json()["call_id"]
        assert told[-1].json()["data"] == {"result": 2}

    def test_a_client_that_goes_away_has_its_call_cancelled(self, served: Served, gate: Gate) -> None:
        with served.client.stream(
            "POST", "/v1/tools/Slow.Count/calls", json={"arguments": {"to": 2}}, headers=SSE
        ) as response:
            events = events_of(response)
            call_id = next(events).json()["call_id"]
            assert gate.began.wait(10)

        assert gate.cancelled.wait(10)
        until(served, "streams", 0)
        assert served.client.get(f"/v1/calls/{call_id}", params={"wait": 10}).json()["state"] == "cancelled"

    def test_an_accepted_one_goes_on(self, served: Served, gate: Gate) -> None:
        with served.client.stream(
            "POST", "/v1/tools/Slow.Count/calls", json={"arguments": {"to": 2}}, headers=SSE | ASYNC
        ) as response:
            events = events_of(response)
            call_id = next(events).json()["call_id"]
            assert gate.began.wait(10)
        until(served, "streams", 0)
        gate.open()

        assert served.client.get(f"/v1/calls/{call_id}", params={"wait": 10}).json()["data"] == {"result": 2}
        assert not gate.cancelled.is_set()

    def test_what_is_refused_is_told_as_the_result(self, served: Served) -> None:
        answer = served.client.post("/v1/tools/Quick.Add/calls", json={"arguments": {"a": "x"}}, headers=SSE)

        last = list(events_of(answer))[-1]
        assert (last.event, last.json()["state"], last.json()["error"]["code"]) == (
            "result",
            "rejected",
            "invalid_input",
        )

    def test_a_call_without_a_place_is_told_so(self, gate: Gate) -> None:
        with gateway(tools(gate), max_in_flight=1, max_waiting=0) as served:
            with served.client.stream(
                "POST", "/v1/tools/Slow.Count/calls", json={"arguments": {"to": 1}}, headers=SSE
            ) as response:
                events = events_of(response)
                next(events)
                assert gate.began.wait(10)
                full = served.client.post(
                    "/v1/tools/Quick.Add/calls", json={"arguments": {"a": 1, "b": 1}}, headers=SSE
                )
                gate.open()

        assert list(events_of(full))[-1].json()["error"]["code"] == "overloaded"

    def test_the_result_says_where_its_files_are(self, served: Served) -> None:
        answer = served.client.post("/v1/tools/Quick.Write/calls", json={}, headers=SSE)

        report = list(events_of(answer))[-1].json()
        assert served.client.get(report["artifacts"][0]["url"]).content == b"text"

    def test_any_format_may_be_streamed(self, served: Served) -> None:
        answer = served.client.post("/v1/calls", json={"tool": "Quick.Add", "arguments": {"a": 1, "b": 2}}, headers=SSE)

        assert [event.event for event in events_of(answer)][-1] == "result"


class Service:
    draining = False


class TestEventStream:
    """The response alone, with a reader that the test plays."""

    async def test_nothing_is_taken_while_the_reader_does_not_read(self) -> None:
        taken, reads = 0, asyncio.Event()

        async def frames() -> Any:
            nonlocal taken
            for n in range(10_000):
                taken += 1
                yield frame("log", {"n": n}, str(n))

        async def send(message: Any) -> None:
            if taken >= 3 and message.get("more_body"):
                await reads.wait()

        stream = EventStream(Streams(Service()), frames())  # type: ignore[arg-type]
        running = asyncio.create_task(stream({"type": "http"}, _never, send))
        for _ in range(50):
            await asyncio.sleep(0)
        held = taken
        reads.set()
        await running

        assert (held, taken) == (3, 10_000)

    async def test_a_timeout_within_what_is_streamed_stays_within(self) -> None:
        async def frames() -> Any:
            for _ in range(2):
                try:
                    async with asyncio.timeout(0.01):
                        await asyncio.Event().wait()
                except TimeoutError:
                    yield frame("state", {"state": "waited"})

        sent = await _sent(frames())

        assert sent.count(b"waited") == 2

    async def test_cancelling_the_response_closes_what_is_streamed(self) -> None:
        closed = asyncio.Event()

        async def frames() -> Any:
            try:
                yield b"first"
                await asyncio.Event().wait()
            finally:
                closed.set()

        streams = Streams(Service())  # type: ignore[arg-type]
        running = asyncio.create_task(EventStream(streams, frames())({"type": "http"}, _never, _nowhere))
        for _ in range(10):
            await asyncio.sleep(0)
        running.cancel()

        with pytest.raises(asyncio.CancelledError):
            await running
        assert closed.is_set()
        assert len(streams) == 0

    async def test_what_is_streamed_is_closed_when_it_cannot_be_sent(self) -> None:
        closed = asyncio.Event()

        async def frames() -> Any:
            try:
                yield b"first"
                yield b"second"
            finally:
                closed.set()

        async def send(message: Any) -> None:
            if message.get("body") == b"first":
                raise OSError("the connection is gone")

        with pytest.raises(OSError, match="is gone"):
            await EventStream(Streams(Service()), frames())({"type": "http"}, _never, send)  # type: ignore[arg-type]

        assert closed.is_set()

    async def test_the_last_stream_takes_the_timer_with_it(self) -> None:
        streams = Streams(Service())  # type: ignore[arg-type]

        async def frames() -> Any:
            yield b"only"

        await EventStream(streams, frames())({"type": "http"}, _never, _nowhere)

        assert streams._timer is None

    async def test_too_many_streams_are_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(http_sse, "MAX_STREAMS", 1)
        streams = Streams(Service())  # type: ignore[arg-type]

        class Silent:
            def beat(self) -> None: ...
            def drain(self) -> None: ...

        with streams.having(Silent()), pytest.raises(Exception, match="streams are open already"):
            streams.check_room()
        streams.check_room()

    def test_a_frame_is_one_line_of_data(self) -> None:
        assert (
            frame("log", {"message": "a\nb\r\n"}, "1-2") == b'id: 1-2\nevent: log\ndata: {"message":"a\\nb\\r\\n"}\n\n'
        )


async def _never() -> Any:
    await asyncio.Event().wait()


async def _nowhere(message: Any) -> None:
    await asyncio.sleep(0)


async def _sent(frames: Any) -> bytes:
    parts: list[bytes] = []

    async def send(message: Any) -> None:
        parts.append(message.get("body", b""))

    async with asyncio.timeout(10):
        await EventStream(Streams(Service()), frames)({"type": "http"}, _never, send)  # type: ignore[arg-type]
    return b"".join(parts)


def test_events_are_documented_as_they_are(served: Served) -> None:
    document = served.client.get("/openapi.json").json()

    operation = document["paths"]["/v1/calls/{call_id}/events"]["get"]
    assert list(operation["responses"]["200"]["content"]) == ["text/event-stream"]
    assert json.dumps(operation)
