"""What clients do when answers are lost, refused for now, or break off in the middle."""

import asyncio
import hashlib
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from tests.clients.cutting import Cutting
from tests.transports.gateway import Served, gateway
from tests.transports.http_shop import GATES, RAN, TOOLS
from toolpost import RateLimit, Tool, ToolContext
from toolpost.clients import AsyncClient, CallEvent, Client, RemoteFile
from toolpost.clients.events import EventReader
from toolpost.errors import CallInProgressError, CircuitOpenError, NotFoundError, OverloadedError, RemoteToolError

LARGE = hashlib.shake_256(b"a large file").digest(3_000_000)


@Tool(name="Plot.Large", register=False)
async def large(ctx: ToolContext) -> str:
    """Leave a large file."""
    ctx.artifact("plots/large one.bin", LARGE)
    return "drawn"


@Tool(name="Steps.Tell", register=False)
async def steps(ctx: ToolContext, name: str, number: int = 5) -> str:
    """Tell steps, then wait, then tell more."""
    RAN[name] += 1
    for step in range(number):
        ctx.log(str(step))
    await GATES.wait(name)
    for step in range(number):
        ctx.log(str(number + step))
    return "told"


@Tool(name="Limited.Second", rate_limit=RateLimit(calls=1, per_s=1, by="user"), register=False)
async def limited() -> str:
    """One call a second."""
    return "granted"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("gateway")
    stores = {"records_url": f"sqlite:///{folder}/calls.db", "blobs_url": f"file://{folder}/blobs"}
    with gateway([*TOOLS, large, steps, limited], **stores, idempotency_keys="all") as one:
        yield one


@pytest.fixture
def cutting(served: Served) -> Iterator[Cutting]:
    with Cutting(served.url) as proxy:
        yield proxy


@pytest.fixture
def client(cutting: Cutting) -> Iterator[Client]:
    with Client(cutting.url) as one:
        yield one


# -- lost answers ------------------------------------------------------------------------------------------------------


def test_a_keyed_call_whose_answer_was_lost_is_asked_for_again(client: Client, cutting: Cutting) -> None:
    cutting.after(0)

    result = client.execute("Count.Once", {"name": "lost answer"}, idempotency_key="lost")

    assert (result.data, result.source, RAN["lost answer"], cutting.cut) == ({"result": 1}, "replay", 1, 1)


def test_a_call_without_a_key_is_not_sent_again(client: Client, cutting: Cutting) -> None:
    cutting.after(10)

    result = client.execute("Count.Once", {"name": "unkeyed, lost"})

    assert result.failure is not None
    assert (result.failure.code, result.failure.outcome) == ("upstream_failed", "unknown")
    assert not result.failure.retryable
    assert (RAN["unkeyed, lost"], cutting.cut) == (1, 1)
    cutting.after(0)
    with pytest.raises(RemoteToolError, match="the gateway did not answer"):
        client.call("Math.Add", {"a": 1, "b": 2})


def test_an_accepted_call_whose_answer_was_lost_is_not_doubled(client: Client, cutting: Cutting) -> None:
    cutting.after(0, 20)

    handle = client.submit("Count.Once", {"name": "accepted, but lost"})

    assert handle.value(20) == {"result": 1}
    assert (RAN["accepted, but lost"], cutting.cut) == (1, 2)


def test_what_only_reads_is_asked_again_as_often_as_patience_allows(client: Client, cutting: Cutting) -> None:
    cutting.after(0, 0)
    assert client.tools()
    cutting.after(0, 0, 0)
    with pytest.raises(RemoteToolError):
        client.tools()
    assert cutting.cut == 5


async def test_a_keyed_call_that_was_broken_off_is_not_run_again(served: Served) -> None:
    with Cutting(served.url) as proxy:
        async with AsyncClient(proxy.url) as client:
            made = asyncio.create_task(
                client.execute("Count.Once", {"name": "broken off", "wait_at": "broken off"}, idempotency_key="off")
            )
            await asyncio.to_thread(GATES.begun, "broken off")
            proxy.break_off()
            result = await made

    assert result.failure is not None
    assert (result.failure.code, RAN["broken off"]) == ("outcome_unknown", 1)


def test_a_call_in_progress_under_its_own_key_is_waited_for() -> None:
    busy = (409, NOW, refusing(409, "in_progress", error_type="CallInProgressError"))
    transport, asked = answering(*[busy] * 5, GOOD)
    lose = [httpx.ReadError("lost")]

    def lossy(request: httpx.Request) -> httpx.Response:
        if lose:
            raise lose.pop()
        return transport.handler(request)  # type: ignore[return-value]

    with httpx.Client(transport=httpx.MockTransport(lossy)) as http:
        client = Client("http://gateway", http=http, retries=1)
        assert client.call("T", idempotency_key="k") == 7
        asked.clear()
        with pytest.raises(CallInProgressError):  # another's, which was not sent by this call
            client.call("T", idempotency_key="k")
    assert len(asked) == 2


def test_nobody_there_is_told_as_not_run() -> None:
    with socket.socket() as unheard:
        unheard.bind(("127.0.0.1", 0))  # and nobody else's, for as long as the block
        with Client(f"http://127.0.0.1:{unheard.getsockname()[1]}", retries=1) as client:
            result = client.execute("Math.Add", {"a": 1, "b": 2})

    assert result.failure is not None
    assert (result.failure.outcome, result.failure.retryable) == ("not_run", True)


# -- refused for now ---------------------------------------------------------------------------------------------------


def test_a_rate_limit_is_waited_for_as_it_says(client: Client) -> None:
    assert client.call("Limited.Second", user_id="patient") == {"result": "granted"}
    assert client.call("Limited.Second", user_id="patient") == {"result": "granted"}  # a second later


def answering(*replies: tuple[int, dict[str, str], Any]) -> tuple[httpx.MockTransport, list[httpx.Request]]:
    """A transport that gives these answers, in place of a gateway that is in trouble."""
    asked: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        status, headers, body = replies[min(len(asked), len(replies)) - 1]
        return httpx.Response(status, headers=headers, content=orjson.dumps(body))

    return httpx.MockTransport(answer), asked


def refusing(status: int, code: str, **more: Any) -> dict[str, Any]:
    return {"status": status, "code": code, "detail": "not now", "retryable": True, **more}


NOW = {"retry-after": "0"}
GOOD = (200, {}, {"call_id": "c", "tool": "T", "success": True, "data": 7})


def test_503_is_tried_again_after_retry_after() -> None:
    transport, asked = answering((503, NOW, refusing(503, "overloaded")), (503, NOW, refusing(503, "overloaded")), GOOD)
    with httpx.Client(transport=transport) as http:
        assert Client("http://gateway", http=http).call("T") == 7
    assert len(asked) == 3


def test_it_gives_up_when_patience_ends() -> None:
    transport, asked = answering((503, NOW, refusing(503, "overloaded", retry_after_ms=5)))
    with httpx.Client(transport=transport) as http, pytest.raises(OverloadedError) as caught:
        Client("http://gateway", http=http, retries=1).call("T")
    assert (len(asked), caught.value.retry_after_s) == (2, 0.005)


@pytest.mark.parametrize(
    ("headers", "document"),
    [
        ({"retry-after": "3600"}, refusing(503, "circuit_open", error_type="CircuitOpenError", outcome="not_run")),
        (NOW, refusing(503, "circuit_open", error_type="CircuitOpenError", retryable=False)),
        (NOW, refusing(503, "circuit_open", error_type="CircuitOpenError", outcome="ran")),
    ],
    ids=["a pause too long", "not to be tried again", "it ran"],
)
def test_what_would_not_help_or_ran_is_not_tried_again(headers: dict[str, str], document: dict[str, Any]) -> None:
    transport, asked = answering((503, headers, document))
    with httpx.Client(transport=transport) as http, pytest.raises(CircuitOpenError):
        Client("http://gateway", http=http).call("T")
    assert len(asked) == 1


def test_no_pause_goes_beyond_the_deadline() -> None:
    transport, asked = answering((429, {"retry-after": "5"}, refusing(429, "rate_limited")))
    with httpx.Client(transport=transport) as http:
        result = Client("http://gateway", http=http).execute("T", deadline_s=1.0)
    assert (result.status_code, len(asked)) == (429, 1)


@pytest.mark.parametrize("body", [b"<html>", b"", b"[1"])
def test_what_is_no_gateway_is_told(body: bytes) -> None:
    transport = httpx.MockTransport(lambda request: httpx.Response(502, content=body))
    with httpx.Client(transport=transport) as http, pytest.raises(RemoteToolError, match="answered 502"):
        Client("http://gateway", http=http).call("T")


async def test_the_same_holds_for_who_awaits() -> None:
    transport, asked = answering((429, NOW, refusing(429, "rate_limited")), GOOD)
    async with httpx.AsyncClient(transport=transport) as http:
        assert await AsyncClient("http://gateway", http=http).call("T") == 7
    assert len(asked) == 2


# -- streams -----------------------------------------------------------------------------------------------------------


def told(events: list[CallEvent]) -> list[Any]:
    return [int(one.data["message"]) for one in events if one.kind == "log"]


def test_a_stream_gives_what_the_call_tells_and_its_result(client: Client) -> None:
    stream = client.stream("Steps.Tell", {"name": "whole"})
    events = [next(stream)]
    GATES.begun("whole")
    GATES.open("whole")
    events += stream

    assert events[0].kind == "call"
    assert told(events) == list(range(10))
    assert events[-1].result is not None
    assert events[-1].result.data == {"result": "told"}
    assert events[-1].data["call_id"] == events[0].data["call_id"]


def test_a_stream_that_breaks_off_goes_on_where_it_was(client: Client, cutting: Cutting) -> None:
    events: list[CallEvent] = []
    for event in client.stream("Steps.Tell", {"name": "broken"}):
        events.append(event)
        if told(events)[-1:] == [4] and cutting.broken == 0:
            GATES.begun("broken")
            cutting.break_off()
            GATES.open("broken")

    assert told(events) == list(range(10))
    assert (cutting.broken, RAN["broken"]) == (1, 1)
    assert len({one.id for one in events}) == len(events)


def test_a_stream_outlasts_a_gateway_that_is_away_for_two_seconds(client: Client, cutting: Cutting) -> None:
    events: list[CallEvent] = []
    for event in client.stream("Steps.Tell", {"name": "away"}):
        events.append(event)
        if told(events)[-1:] == [4] and cutting.broken == 0:
            GATES.begun("away")
            cutting.after(0, 0, 0)
            cutting.break_off()
            GATES.open("away")

    assert told(events) == list(range(10))
    assert cutting.cut == 3


async def test_a_stream_that_breaks_off_within_an_event_loses_and_doubles_none(served: Served) -> None:
    with Cutting(served.url) as proxy:
        async with AsyncClient(proxy.url, retries=8) as client:
            proxy.after(700, 400, 333, 501)
            events = []
            async for event in client.stream("Steps.Tell", {"name": "torn", "number": 20}):
                events.append(event)
                if told(events)[-1:] == [19]:
                    await asyncio.to_thread(GATES.begun, "torn") if RAN["torn open"] == 0 else None
                    RAN["torn open"] += 1
                    GATES.open("torn")

    assert told(events) == list(range(40))
    assert (proxy.cut, RAN["torn"]) == (4, 1)


def test_without_durability_a_call_ends_with_its_stream(client: Client) -> None:
    stream = client.stream("Gate.Wait", {"name": "undurable"}, durable=False)
    assert next(stream).kind == "call"
    GATES.begun("undurable")

    stream.close()

    assert GATES.cancelled["undurable"].wait(20)


def test_events_are_followed_from_any_of_them(client: Client) -> None:
    handle = client.submit("Steps.Tell", {"name": "followed"})
    GATES.begun("followed")
    GATES.open("followed")
    every = list(handle.events())
    third = [one for one in every if one.kind == "log"][2]

    assert told(list(handle.events(after=third.id))) == told(every)[3:]
    assert list(handle.events(after=every[-1].id)) == []
    with pytest.raises(NotFoundError):
        next(client.events("0198c0de-0000-7000-8000-000000000001"))


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_events_are_read_whatever_the_pieces_are(size: int, end: bytes) -> None:
    lines = [
        b": here",
        b"id: 1",
        b"event: state",
        b'data: {"a":',
        b"data: 1}",
        b"retry: 20",
        b"",
        b'data:{"b":2}',
        b"",
        b"",
    ]
    text = end.join(lines)
    reader = EventReader()

    events = [one for at in range(0, len(text), size) for one in reader.feed(text[at : at + size])]
    events += reader.feed(b"x\n")  # so that a last \r is not the half of a line's end

    assert [(one.kind, one.data, one.id) for one in events] == [("state", {"a": 1}, "1"), ("message", {"b": 2}, "1")]
    assert reader.retry_s == 0.02


def test_an_event_that_was_not_had_whole_is_none() -> None:
    reader = EventReader()
    reader.feed(b'id: 1\ndata: {}\n\nid: 2\ndata: {"half"')

    assert reader.last_id == "1"
    reader.drop()
    assert [one.id for one in reader.feed(b"data: {}\n\n")] == ["1"]


# -- files -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def file(client: Client) -> RemoteFile:
    (one,) = client.execute("Plot.Large").files
    return one


def test_a_file_is_had_whole(client: Client, file: RemoteFile) -> None:
    assert (file.name, file.size) == ("plots/large one.bin", len(LARGE))
    assert client.download(file) == LARGE


def test_a_download_that_breaks_off_goes_on_by_ranges(
    served: Served, client: Client, cutting: Cutting, file: RemoteFile, tmp_path: Path
) -> None:
    client.close()
    cutting.after(1_000_000, 500_000, 10)
    with Client(cutting.url) as again:
        path = again.download(file, to=tmp_path / "large.bin")

    assert path.read_bytes() == LARGE
    assert cutting.cut == 3
    assert cutting.passed < len(LARGE) + 300_000
    assert [one.name for one in tmp_path.iterdir()] == ["large.bin"]


async def test_a_file_is_had_by_its_call_and_name(served: Served, tmp_path: Path) -> None:
    async with AsyncClient(served.url) as client:
        handle = await client.submit("Plot.Draw")
        await handle.wait(20)

        assert await client.download(handle.call_id, "plots/one.txt") == b"a line"
        assert (await client.download(handle.call_id, "plots/one.txt", to=tmp_path / "x")).read_bytes() == b"a line"
        with pytest.raises(NotFoundError, match=r"there are plots/one\.txt"):
            await client.download(handle.call_id, "two.txt")
        with pytest.raises(TypeError, match="takes a RemoteFile"):
            await client.download(handle.call_id)


def test_other_bytes_are_refused_and_leave_nothing(client: Client, file: RemoteFile, tmp_path: Path) -> None:
    with pytest.raises(RemoteToolError, match="are not those that the call left"):
        client.download(replace(file, digest="0" * 64), to=tmp_path / "large.bin")

    assert list(tmp_path.iterdir()) == []
