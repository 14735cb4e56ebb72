"""How the pieces of an answer leave: head and body together, and nothing kept for longer than a moment."""

import asyncio
import socket
import threading
from typing import Any, cast

import pytest

from toolpost.transports.serve_gathering import Gathering
from toolpost.transports.serve_log import Receive, Scope, Send
from toolpost.transports.serve_uvicorn import UvicornServer

HEAD, BODY = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n", b"body"


class Wire:
    """A transport that keeps what is written. closing: whether its connection goes."""

    def __init__(self) -> None:
        self.writes: list[Any] = []
        self.closing = False

    def is_closing(self) -> bool:
        return self.closing

    def write(self, data: bytes) -> None:
        self.writes.append(data)

    def writelines(self, data: Any) -> None:
        raise AssertionError("on asyncio of 3.12 it knows no bounds, and outlives its connection")

    def write_eof(self) -> None:
        self.writes.append("eof")

    def close(self) -> None:
        self.writes.append("closed")

    def abort(self) -> None:
        self.writes.append("aborted")

    def get_extra_info(self, name: str) -> str:
        return f"the {name}"


@pytest.fixture
def wire() -> Wire:
    return Wire()


@pytest.fixture
async def gathering(wire: Wire) -> Gathering:
    return Gathering(cast("asyncio.Transport", wire), asyncio.get_running_loop())


async def test_a_body_that_follows_at_once_leaves_with_its_head(gathering: Gathering, wire: Wire) -> None:
    for _ in range(2):
        gathering.write(HEAD)
        assert wire.writes == []
        gathering.write(BODY)
        assert wire.writes == [HEAD + BODY]
        await asyncio.sleep(0)
        assert wire.writes == [HEAD + BODY]
        wire.writes.clear()


async def test_a_head_with_an_empty_body_leaves_alone(gathering: Gathering, wire: Wire) -> None:
    gathering.write(HEAD)
    gathering.write(b"")

    assert wire.writes == [HEAD]


async def test_a_head_that_nothing_follows_leaves_when_the_loop_comes_round(gathering: Gathering, wire: Wire) -> None:
    gathering.write(HEAD)
    await asyncio.sleep(0)
    gathering.write(BODY)
    gathering.write(BODY)

    assert wire.writes == [HEAD, BODY, BODY]


@pytest.mark.parametrize(
    ("act", "left"),
    [
        (lambda one: one.close(), [HEAD, "closed"]),
        (lambda one: one.write_eof(), [HEAD, "eof"]),
        (lambda one: one.writelines([BODY, BODY]), [HEAD, BODY + BODY]),
        (lambda one: one.flush(), [HEAD]),
        (lambda one: one.abort(), ["aborted"]),
    ],
)
async def test_nothing_overtakes_a_head(gathering: Gathering, wire: Wire, act: Any, left: list[Any]) -> None:
    gathering.write(HEAD)
    act(gathering)

    assert wire.writes == left
    await asyncio.sleep(0)
    assert wire.writes == left


async def test_a_head_is_dropped_with_its_connection(gathering: Gathering, wire: Wire) -> None:
    gathering.write(HEAD)
    wire.closing = True
    await asyncio.sleep(0)

    assert wire.writes == []


async def test_all_else_is_the_connections(gathering: Gathering) -> None:
    assert gathering.get_extra_info("peer") == "the peer"


async def answer(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"4")]})
    if scope["path"] == "/slow":
        await asyncio.sleep(0.2)
    await send({"type": "http.response.body", "body": BODY})


def test_whoever_asks_has_head_and_body_in_one_piece_and_a_head_alone_where_the_body_takes_its_time() -> None:
    one, loop = socket.create_server(("127.0.0.1", 0)), asyncio.new_event_loop()
    server = UvicornServer(answer, one, 1)
    thread = threading.Thread(target=lambda: loop.run_until_complete(server.serve()))
    thread.start()
    pieces = []
    with socket.create_connection(one.getsockname(), timeout=20) as connection:
        for path in (b"/", b"/slow", b"/"):
            connection.sendall(b"GET %b HTTP/1.1\r\nhost: localhost\r\n\r\n" % path)
            pieces.append([])
            while not b"".join(pieces[-1]).endswith(BODY):
                pieces[-1].append(connection.recv(65536))
    loop.call_soon_threadsafe(server.stop)
    thread.join(20)
    loop.close()

    assert [len(some) for some in pieces] == [1, 2, 1]
    assert pieces[1][1] == BODY
