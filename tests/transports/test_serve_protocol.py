"""What reaches the application of a gateway on Uvicorn, of what hostile and old-fashioned clients send."""

import asyncio
import contextlib
import gc
import re
import socket
import threading
import time
import weakref
from collections.abc import Iterator

import pytest

from toolpost.transports.http_answers import WHOLE
from toolpost.transports.serve_log import Message, Receive, Scope, Send
from toolpost.transports.serve_protocol import MAX_HEAD, BoundedProtocol
from toolpost.transports.serve_uvicorn import UvicornServer

HOST = b"Host: localhost\r\n"
H2C = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n"


async def told(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with what was asked; a request for /whole in one piece where that can be, and says so."""
    if scope["path"] == "/early":
        assert scope[WHOLE](scope, b"content-length: 5\r\n", b"early")
    message: Message = await receive()
    if scope["path"] == "/early":
        assert message["type"] == "http.disconnect"
        return
    await asyncio.sleep(float(dict(scope["headers"]).get(b"x-takes", b"0")))
    body = message["body"]
    while message.get("more_body"):
        message = await receive()
        body += message["body"]
    names = b",".join(sorted(name for name, _ in scope["headers"]))
    said = b"[%b %b %b %b]" % (scope["method"].encode(), scope["path"].encode(), names, body)
    if scope["path"] == "/hindered":
        protocol = scope[WHOLE].__self__
        assert not scope[WHOLE](dict(scope), b"", b"of another request")
        for part, hindrance in ((protocol.flow, "write_paused"), (protocol.cycle, "disconnected")):
            setattr(part, hindrance, True)
            assert not scope[WHOLE](scope, b"", b"to nobody")
            setattr(part, hindrance, False)
    if scope["path"] == "/whole" and scope[WHOLE](scope, b"content-length: 5\r\nx-way: whole\r\n", b"whole"):
        for again in (scope, dict(scope)):
            assert not scope[WHOLE](again, b"content-length: 5\r\n", b"again")
        assert (await receive())["type"] == "http.disconnect"  # as once all is sent
        return
    headers = [(b"content-length", b"%d" % len(said))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": said})


@pytest.fixture
def port() -> Iterator[int]:
    one = socket.create_server(("127.0.0.1", 0))
    loop = asyncio.new_event_loop()
    server = UvicornServer(told, one, 1)
    thread = threading.Thread(target=lambda: loop.run_until_complete(server.serve()))
    thread.start()
    yield one.getsockname()[1]
    loop.call_soon_threadsafe(server.stop)
    thread.join(20)
    loop.close()


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=20)


def rest_of(connection: socket.socket) -> bytes:
    parts = []
    with contextlib.suppress(ConnectionResetError):
        while part := connection.recv(65536):
            parts.append(part)
    return b"".join(parts)


def exchange(port: int, *parts: bytes) -> bytes:
    """Send parts, each once the one before was read, and read until the server closes."""
    with connect(port) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for part in parts:
            connection.sendall(part)
        return rest_of(connection)


LAST = b"GET /last HTTP/1.1\r\nConnection: close\r\n" + HOST + b"\r\n"


def test_a_request_that_offers_http2_in_the_clear_is_read_with_its_body(port: int) -> None:
    body = b'{"arguments": {}}'
    head = b"POST /call HTTP/1.1\r\n" + HOST + H2C + b"Content-Length: %d\r\n\r\n" % len(body)

    answers = exchange(port, head + body + LAST)

    assert b"[POST /call content-length,host " + body + b"]" in answers
    assert b"[GET /last " in answers


def test_the_body_of_a_request_that_offers_another_protocol_is_no_request(port: int) -> None:
    hidden = b"GET /hidden HTTP/1.1\r\n" + HOST + b"\r\n"
    head = b"POST /call HTTP/1.1\r\n" + HOST + H2C + b"Content-Length: %d\r\n\r\n" % len(hidden)

    with connect(port) as connection:
        connection.sendall(head + hidden[:10])
        connection.sendall(hidden[10:] + LAST)
        answers = rest_of(connection)

    assert answers.count(b"HTTP/1.1 200") == 2
    assert b"[GET /hidden" not in answers


@pytest.mark.parametrize("offer", [H2C, b""])
def test_many_requests_at_once_are_all_answered_wherever_they_are_cut(offer: bytes, port: int) -> None:
    one = b"GET /one HTTP/1.1\r\n" + HOST + offer + b"\r\n"
    many = one * 2_000 + LAST
    pieces = [many[at : at + 66_666] for at in range(0, len(many), 66_666)]

    answers = exchange(port, *pieces)

    assert answers.count(b"[GET /one host ]") == 2_000


@pytest.mark.parametrize("begins", [b"GET /" + b"a" * 400_000, b"GET / HTTP/1.1\r\nX-A: " + b"a" * 400_000])
def test_a_head_that_does_not_end_is_not_kept(begins: bytes, port: int) -> None:
    assert len(begins) > MAX_HEAD

    answer = exchange(port, begins)

    assert answer.startswith(b"HTTP/1.1 431 ")


def test_a_head_in_many_small_pieces_is_read(port: int) -> None:
    fields = b"".join(b"X-%d: %b\r\n" % (index, b"a" * 500) for index in range(60))

    answer = exchange(port, b"GET /slow HT", b"TP/1.1\r\n", HOST, fields, b"Connection: clo", b"se\r\n", b"\r\n")

    assert b"[GET /slow " in answer


@pytest.mark.parametrize(("sent", "answer"), [(b"", b""), (b"GET / HTTP/1.1\r\n", b"HTTP/1.1 408 ")])
def test_a_connection_on_which_no_request_comes_ends(
    sent: bytes, answer: bytes, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BoundedProtocol, "head_s", 0.05)

    assert exchange(port, sent).startswith(answer)


def test_a_second_request_that_stays_half_ends_the_connection(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BoundedProtocol, "head_s", 0.05)

    answers = exchange(port, b"GET /one HTTP/1.1\r\n" + HOST + b"\r\nGET /two HT")

    assert b"[GET /one " in answers
    assert b"HTTP/1.1 408 " in answers


def test_half_a_request_behind_one_that_takes_long_cuts_off_no_answer(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BoundedProtocol, "head_s", 0.05)
    slow = b"POST /slow HTTP/1.1\r\n" + HOST + b"X-Takes: 0.3\r\nContent-Length: 0\r\n\r\n"

    with connect(port) as connection:
        connection.sendall(slow + b"GET /half HT")
        answers = connection.recv(65536)
        connection.sendall(b"TP/1.1\r\nConnection: close\r\n" + HOST + b"\r\n")
        answers += rest_of(connection)

    assert answers.startswith(b"HTTP/1.1 200 ")
    assert b"[POST /slow " in answers


@pytest.mark.parametrize(
    "request_line",
    [b"POST /v1/stream HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n", b"CONNECT a:1 HTTP/1.1\r\n"],
)
def test_what_leads_nowhere_is_answered(request_line: bytes, port: int) -> None:
    answer = exchange(port, request_line + HOST + b"\r\n")

    assert answer.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 405 "))


def test_a_connection_that_ended_is_not_kept_until_garbage_is_looked_for(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: weakref.WeakSet[BoundedProtocol] = weakref.WeakSet()
    real = BoundedProtocol.connection_made

    def made(self: BoundedProtocol, transport: asyncio.Transport) -> None:
        kept.add(self)
        real(self, transport)

    monkeypatch.setattr(BoundedProtocol, "connection_made", made)
    gc.disable()
    try:
        answers = exchange(port, WHOLE_ONE + LAST)
        until = time.monotonic() + 5
        while kept and time.monotonic() < until:
            time.sleep(0.01)
        assert b"[GET /last " in answers
        assert not kept
    finally:
        gc.enable()


# -- answers in one piece ---------------------------------------------------------------------------------------------

WHOLE_ONE = b"POST /whole HTTP/1.1\r\n" + HOST + b"Content-Length: 0\r\n\r\n"


def test_an_answer_in_one_piece_has_the_servers_own_fields_and_the_connection_goes_on(port: int) -> None:
    with connect(port) as connection:
        for _ in range(2):
            connection.sendall(WHOLE_ONE)
            answer = connection.recv(65536)
            assert answer.startswith(b"HTTP/1.1 200 OK\r\ndate: ")
            assert answer.endswith(b"\r\ncontent-length: 5\r\nx-way: whole\r\n\r\nwhole")
        connection.sendall(LAST)
        assert b"[GET /last " in rest_of(connection)


def test_answers_in_one_piece_keep_the_order_of_requests_that_come_together(port: int) -> None:
    slow = b"POST /slow HTTP/1.1\r\n" + HOST + b"X-Takes: 0.1\r\nContent-Length: 0\r\n\r\n"

    answers = exchange(port, WHOLE_ONE + slow + WHOLE_ONE + WHOLE_ONE + LAST)

    order = re.findall(rb"(whole|\[POST /slow|\[GET /last)(?!\r)", answers.replace(b"x-way: whole", b""))
    assert order == [b"whole", b"[POST /slow", b"whole", b"whole", b"[GET /last"]


@pytest.mark.parametrize(
    "head",
    [
        b"POST /whole HTTP/1.0\r\nContent-Length: 0\r\n\r\n",
        b"POST /whole HTTP/1.1\r\n" + HOST + b"Connection: close\r\nContent-Length: 0\r\n\r\n",
    ],
)
def test_a_connection_that_is_to_end_ends_with_its_answer(port: int, head: bytes) -> None:
    answer = exchange(port, head)

    assert answer.count(b"HTTP/1.1 200 OK") == 1
    assert answer.endswith((b"whole", b"]"))


def test_whoever_waits_to_be_told_to_send_a_body_has_the_answer_alone(port: int) -> None:
    with connect(port) as connection:
        connection.sendall(b"POST /early HTTP/1.1\r\n" + HOST + b"Expect: 100-continue\r\nContent-Length: 3\r\n\r\n")
        time.sleep(0.1)
        connection.sendall(b"abc" + LAST)
        answers = rest_of(connection)

    assert b" 100 " not in answers
    assert answers.startswith(b"HTTP/1.1 200 OK")
    assert b"early" in answers
    assert b"[GET /last " in answers


def test_nothing_leaves_in_one_piece_where_something_is_in_its_way(port: int) -> None:
    with connect(port) as connection:
        connection.sendall(b"GET /hindered HTTP/1.1\r\n" + HOST + b"\r\n")
        answer = connection.recv(65536)
        connection.sendall(LAST)
        rest = rest_of(connection)

    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b"[GET /hindered " in answer
    assert b"[GET /last " in rest


def test_the_date_of_answers_in_one_piece_goes_on(port: int) -> None:
    dates = set()
    with connect(port) as connection:
        until = time.monotonic() + 20
        while len(dates) < 2 and time.monotonic() < until:
            connection.sendall(WHOLE_ONE)
            dates.add(re.findall(rb"\r\ndate: ([^\r]+)", connection.recv(65536))[0])
            time.sleep(0.1)

    assert len(dates) == 2
