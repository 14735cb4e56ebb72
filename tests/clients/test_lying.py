"""What clients make of servers that are no gateway, or a broken one: typed errors, no key told, nothing run twice."""

import asyncio
import gzip
import inspect
import socketserver
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import orjson
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from toolpost import errors
from toolpost.clients import AsyncClient, CallResult, Client, RemoteFile, connection, openai
from toolpost.clients.answers import error_of, failure_in
from toolpost.clients.events import EventReader
from toolpost.clients.exchange import Answer
from toolpost.errors import ConfigurationError, RemoteToolError, ToolExecutionError

KEY = "tp_secret_0123456789"
Reply = Callable[[httpx.Request], httpx.Response]


def saying(reply: Reply | httpx.Response, **options: Any) -> tuple[Client, list[httpx.Request]]:
    """A client of a server that answers so."""
    asked: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return reply(request) if callable(reply) else reply

    http = httpx.Client(transport=httpx.MockTransport(answer), follow_redirects=True)
    return Client("http://gateway", http=http, key=KEY, **options), asked


# -- answers of another form -------------------------------------------------------------------------------------------

NO_RESULTS = [b"<html>", b"", b"[]", b"7", b"null", b"{}", b'{"success": "no"}', b'{"success": 1}', b'{"call_id"']


@pytest.mark.parametrize("body", NO_RESULTS)
def test_what_is_no_result_is_a_failure_of_unknown_outcome(body: bytes) -> None:
    client, _ = saying(httpx.Response(200, content=body))

    result = client.execute("T")

    assert result.failure is not None
    assert (result.failure.code, result.failure.outcome, result.status) == ("upstream_failed", "unknown", "failed")


READS: list[Callable[[Client], Any]] = [
    lambda one: one.show("c"),
    lambda one: one.wait("c"),
    lambda one: one.cancel("c"),
    lambda one: one.explain("c"),
    lambda one: list(one.calls()),
    lambda one: one.tools(),
    lambda one: list(one.approvals.list()),
    lambda one: one.batch([("T", {})]),
    lambda one: one.submit("T"),
    lambda one: list(one.stream("T")),
    lambda one: list(one.events("c")),
    lambda one: one.download("c", "name"),
]


@pytest.mark.parametrize("number", range(len(READS)))
@pytest.mark.parametrize(
    "body", [b"<html>", b"[]", b"{}", b'{"calls": [7], "tools": 1, "explanation": null}', b"[7, 8]"]
)
def test_each_method_tells_of_what_it_cannot_read(number: int, body: bytes) -> None:
    client, asked = saying(httpx.Response(200, content=body))

    with pytest.raises(RemoteToolError, match="the gateway"):
        READS[number](client)

    assert len(asked) == 1


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 999) | st.text(max_size=5),
    lambda of: st.lists(of, max_size=3),
    max_leaves=5,
)
MEMBERS = [
    "code",
    "detail",
    "title",
    "status",
    "errors",
    "details",
    "retryable",
    "retry_after_ms",
    "outcome",
    "error_type",
]
MEMBERS += ["call_id", "tool", "usage", "warnings", "logs", "artifacts", "execution_time_ms", "body_attempts", "error"]
MEMBERS += ["success", "data", "source", "state"]


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.sampled_from([200, 400, 404, 409, 418, 429, 500, 502, 503]),
    st.dictionaries(st.sampled_from(MEMBERS), JSON_VALUES | st.dictionaries(st.sampled_from(MEMBERS), JSON_VALUES)),
    st.sampled_from(
        ["", "0", "-5", "9" * 400, "Fri, 31 Dec 9999 23:59:59 GMT", "Mon, 01 Jan 0001 00:00:00 GMT", "soon"]
    ),
)
def test_odd_members_never_break_the_client(status: int, document: dict[str, Any], waits: str) -> None:
    reply = httpx.Response(status, content=orjson.dumps(document), headers={"retry-after": waits})
    client, _ = saying(reply, retries=0)

    result = client.execute("T", {"a": 1})

    assert isinstance(result, CallResult)
    assert result.success == (status == 200 and document.get("success") is True)
    if not result.success:
        with pytest.raises(ToolExecutionError):
            result.value()


@pytest.mark.parametrize(
    "kind",
    [one for one in vars(errors).values() if inspect.isclass(one) and issubclass(one, ToolExecutionError)],
    ids=lambda kind: kind.__name__,
)
def test_every_error_of_the_tree_comes_back_as_itself(kind: type[ToolExecutionError]) -> None:
    document = {"code": kind.code, "error_type": kind.error_type, "detail": "why", "details": {"x": 1}}
    failure = failure_in(Answer(status=kind.status, headers={}, body=b""), document)

    error = error_of(failure)

    assert (error.code, error.error_type, error.status, error.message) == (
        kind.code,
        kind.error_type,
        kind.status,
        "why",
    )


def test_an_answer_that_is_too_large_is_not_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "MAX_BODY", 100_000)
    bomb = gzip.compress(b" " * 10_000_000)
    client, _ = saying(httpx.Response(200, content=bomb, headers={"content-encoding": "gzip"}))

    with pytest.raises(RemoteToolError, match="larger than 100000 bytes"):
        client.tools()


@pytest.mark.parametrize("reading", [True, False], ids=["what reads", "what runs"])
def test_a_body_that_cannot_be_decoded_is_a_lost_answer(reading: bool) -> None:
    client, asked = saying(
        lambda _: httpx.Response(200, stream=httpx.ByteStream(b"no gzip"), headers={"content-encoding": "gzip"}),
        retries=1,
    )

    with pytest.raises(RemoteToolError, match="the gateway did not answer"):
        client.tools() if reading else client.call("T")

    assert len(asked) == (2 if reading else 1)


# -- who is in between -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_told_and_not_followed(status: int) -> None:
    client, asked = saying(httpx.Response(status, headers={"location": "http://elsewhere/v1"}))

    for act in (lambda: client.call("T", {"secret": 1}), client.tools):
        with pytest.raises(RemoteToolError, match=r"a redirect to 'http://elsewhere/v1'"):
            act()

    assert {one.url.host for one in asked} == {"gateway"}


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("body", [b"<html>upstream reset</html>", b"{}"])
def test_only_what_is_safe_is_sent_again_where_a_proxy_refuses(status: int, body: bytes) -> None:
    client, asked = saying(httpx.Response(status, content=body, headers={"retry-after": "0"}), retries=1)

    assert client.execute("T").status_code == status
    assert len(asked) == 1
    assert client.execute("T", idempotency_key="k").status_code == status
    assert len(asked) == 3


@pytest.mark.parametrize("status", [502, 504])
def test_a_proxy_that_had_no_answer_is_a_lost_answer(status: int) -> None:
    good = {"call_id": "c", "success": True, "data": 7}
    replies = [httpx.Response(200, json=good), httpx.Response(status, content=b"<html>")]
    client, asked = saying(lambda _: replies.pop())

    assert client.call("T", idempotency_key="k") == 7
    replies.append(httpx.Response(status, content=b"<html>"))
    result = client.execute("T")

    assert result.failure is not None
    assert (result.failure.outcome, len(asked)) == ("unknown", 3)


def test_a_tools_own_upstream_failure_is_not_tried_again() -> None:
    told = {
        "code": "upstream_failed",
        "error_type": "RemoteToolError",
        "detail": "no",
        "outcome": "ran",
        "retryable": True,
    }
    client, asked = saying(httpx.Response(502, json=told))

    assert client.execute("T", idempotency_key="k").status_code == 502
    assert len(asked) == 1


def test_what_ran_before_a_later_part_of_a_batch_was_lost_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("toolpost.clients.operations.MAX_CALLS", 2)
    good = {"call_id": "c", "success": True, "data": 7}
    replies = [httpx.Response(500, content=b"gone"), httpx.Response(200, json=[good, good])]
    client, _ = saying(lambda _: replies.pop())

    results = client.batch([("A", {}), ("B", {}), ("C", {})])

    assert [(one.tool_name, one.success) for one in results] == [("A", True), ("B", True), ("C", False)]


# -- keys --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [KEY + "\n", KEY + "\r\nx: y", KEY + "é", KEY + "\0"])
def test_a_key_that_no_header_holds_is_refused_and_not_told(key: str) -> None:
    with Client("http://127.0.0.1:9", key=key) as client:
        with pytest.raises(ConfigurationError, match="key has characters that no HTTP header can hold") as caught:
            client.call("T")
        assert KEY not in f"{caught.value!r} {caught.value} {client!r} {vars(caught.value)}"
        with pytest.raises(ConfigurationError, match="traceparent has characters"):
            Client("http://127.0.0.1:9").call("T", traceparent="00-\n")


def test_links_are_not_in_what_is_logged() -> None:
    file = RemoteFile(call_id="c", name="n", digest="d", size=1, url="http://gateway/v1/files/signed")

    assert "signed" not in repr(file)


# -- streams -----------------------------------------------------------------------------------------------------------


def test_a_stream_outlasts_a_proxy_whose_gateway_starts_anew() -> None:
    def events(text: str) -> httpx.Response:
        return httpx.Response(200, headers={"content-type": "text/event-stream"}, text=text)

    away = [httpx.Response(502, content=b"<html>")] * 3
    replies = [
        events('retry: 1\nevent: call\ndata: {"call_id": "c"}\n\n'),
        *away,
        events('id: 1\nevent: result\ndata: {"call_id": "c", "success": true, "data": 7}\n\n'),
    ]
    client, asked = saying(lambda _: replies.pop(0))

    assert [one.kind for one in client.stream("T")] == ["call", "result"]
    assert len(asked) == 5


def test_pauses_that_a_stream_asks_for_are_bounded() -> None:
    reader = EventReader()
    reader.feed(b"retry: 99999999999999\n\n")
    assert reader.retry_s == 30
    reader.feed(b"retry: " + b"9" * 5000 + b"\n\n")
    assert reader.retry_s == 30


def test_ids_that_no_header_holds_are_passed_over() -> None:
    reader = EventReader()
    events = reader.feed("id: 1\ndata: {}\n\nid: é\ndata: {}\n\nid: \t\x01\ndata: {}\n\n".encode())

    assert [one.id for one in events] == ["1", "1", "1"]


def test_an_event_in_many_pieces_is_read_once_over() -> None:
    """Were it read again with every piece, this would take minutes."""
    reader, piece = EventReader(), b"x" * 1000
    reader.feed(b'data: "')
    for _ in range(40_000):
        assert reader.feed(piece) == []

    (event,) = reader.feed(b'"\n\n')

    assert len(event.data["value"]) == 40_000_000


def test_an_event_without_an_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("toolpost.clients.events.LONGEST_EVENT", 1000)
    reader = EventReader()

    with pytest.raises(RemoteToolError, match="larger than 1000 bytes"):
        reader.feed(b"data: x\n" * 900 + b"data")
    with pytest.raises(RemoteToolError, match="larger than 1000 bytes"):
        EventReader().feed(b"y" * 1001)


def test_a_file_that_does_not_end_is_given_up() -> None:
    given: list[int] = []

    def endless() -> Iterator[bytes]:
        for number in range(1000):
            given.append(number)
            yield b"x" * 100

    class Endless(httpx.SyncByteStream):
        def __iter__(self) -> Iterator[bytes]:
            return endless()

    client, _ = saying(httpx.Response(200, stream=Endless()))
    with pytest.raises(RemoteToolError, match="are not those that the call left"):
        client.download(RemoteFile(call_id="c", name="n", digest="0" * 64, size=150))

    assert len(given) < 5


def test_a_call_whose_gateway_does_not_wait_is_not_asked_without_pause() -> None:
    states = ["succeeded", "running", "running"]
    client, asked = saying(lambda _: httpx.Response(200, json={"call_id": "c", "state": states.pop()}))

    report = client.wait("c")  # takes a second: half of one between two questions

    assert (report.state, len(asked)) == ("succeeded", 3)
    states[:] = ["running"] * 1000
    client.wait("c", timeout_s=0.6)
    assert len(asked) < 10


# -- threads, loops, cancelling ----------------------------------------------------------------------------------------


class Slow(socketserver.StreamRequestHandler):
    """Answers the first piece at once, and the rest when it is let."""

    let = threading.Event()
    body = b'{"call_id": "c", "success": true, "data": 7}'

    def handle(self) -> None:
        while line := self.rfile.readline():
            slow, size = b"Slow" in line, 0
            while (line := self.rfile.readline().strip().lower()) != b"":
                size = int(line[16:]) if line.startswith(b"content-length: ") else size
            self.rfile.read(size)
            self.wfile.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(self.body) + self.body[:5])
            if slow:
                self.let.wait(20)
            self.wfile.write(self.body[5:])


@pytest.fixture
def slow() -> Iterator[str]:
    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True

        def handle_error(self, request: Any, client_address: Any) -> None:
            pass

    with Server(("127.0.0.1", 0), Slow) as server:
        Slow.let.clear()
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        Slow.let.set()
        server.shutdown()
        thread.join()


async def test_a_cancelled_call_gives_its_connection_back(slow: str) -> None:
    limits = httpx.Limits(max_connections=1)
    async with httpx.AsyncClient(limits=limits, trust_env=False) as http:
        client = AsyncClient(slow, http=http, timeout_s=10)
        for _ in range(3):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await client.call("Slow")
        assert await client.call("Quick") == 7


def test_one_client_serves_many_threads(slow: str) -> None:
    with Client(slow) as client, ThreadPoolExecutor(8) as threads:
        assert list(threads.map(lambda _: client.call("Quick"), range(64))) == [7] * 64


async def test_a_stream_that_nobody_reads_on_gives_its_connection_back() -> None:
    closed = asyncio.Event()

    class Events(httpx.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            while True:
                yield b'data: {"n": 1}\n\n'

        async def aclose(self) -> None:
            closed.set()

    reply = httpx.Response(200, headers={"content-type": "text/event-stream"}, stream=Events())
    async with httpx.AsyncClient(transport=httpx.MockTransport(lambda _: reply)) as http:
        stream = AsyncClient("http://gateway", http=http).stream("T")
        assert (await anext(stream)).data == {"n": 1}
        await stream.aclose()

    assert closed.is_set()


# -- providers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "response",
    [
        {"object": "response", "output": None},
        {"object": "response", "output": [None, 7, {"type": "message"}]},
        {"choices": []},
        {"choices": [None]},
        {"choices": [{"message": None}]},
        {"choices": [{"message": {"role": "assistant", "tool_calls": None}}]},
        {"choices": [{"message": {"role": "assistant", "tool_calls": [None, {"type": "custom"}]}}]},
        {"role": "assistant", "content": [None, "text"]},
        {"role": "assistant", "content": []},
    ],
)
def test_odd_messages_of_providers_hold_no_calls(response: dict[str, Any]) -> None:
    assert not openai.has_calls(response)


@pytest.mark.parametrize(("error_type", "rejected"), [("ToolError", False), ("NotFoundError", True)])
def test_a_code_of_a_tools_own_is_not_taken_for_one_of_ours(error_type: str, rejected: bool) -> None:
    told = {"code": "not_found", "error_type": error_type, "status": 404, "detail": "no such order"}

    assert failure_in(Answer(status=404, headers={}, body=b""), told).rejected is rejected
