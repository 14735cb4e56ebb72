"""The allow-list proxy by itself, at a socket of this machine: what it takes, how much, and how it ends."""

from __future__ import annotations

import asyncio
import base64
import os
import socket
import struct
import threading
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager

import h11
import httpx
import pytest

from tests.sandbox.networked import guard
from toolpost import SandboxError, SandboxNetwork
from toolpost.runners import sandbox_exchange, sandbox_proxy
from toolpost.runners.sandbox_allowed import Allowed, Credentials
from toolpost.runners.sandbox_echoes import masked
from toolpost.runners.sandbox_proxy import Passing, SandboxProxy


async def nothing(references: Collection[str]) -> Mapping[str, str]:
    return {}


@contextmanager
def passing(*allow: str) -> Iterator[tuple[Passing, int]]:
    """A proxy's way for one program, and the port of the socket that stands for the sandbox's."""
    proxy = SandboxProxy(SandboxNetwork(allow=allow), guard().reach(), nothing, lambda references: None)
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    way = proxy.open(listener.detach())
    try:
        yield way, port
    finally:
        way.close()
        proxy.close()


def said(port: int, request: bytes) -> tuple[bytes, bool]:
    """All that is answered, and whether it ended by a reset."""
    got = b""
    with socket.create_connection(("127.0.0.1", port), 20) as way:
        way.sendall(request)
        try:
            while piece := way.recv(65536):
                got += piece
        except ConnectionResetError:
            return got, True
    return got, False


def open_file() -> int:
    return os.open("/dev/null", os.O_RDONLY)


def of_one_machine() -> int:
    left, right = socket.socketpair()
    right.close()
    return left.detach()


def not_listening() -> int:
    return socket.socket().detach()


@pytest.mark.parametrize("made", [open_file, of_one_machine, not_listening])
def test_what_is_no_listening_socket_is_refused_and_given_back(made: object) -> None:
    assert callable(made)
    proxy = SandboxProxy(SandboxNetwork(allow=("ok.test",)), guard().reach(), nothing, lambda references: None)
    handed = made()
    try:
        with pytest.raises(SandboxError, match="cannot answer") as refused:
            proxy.open(handed)
        with pytest.raises(OSError, match="Bad file"):
            os.fstat(handed)
    finally:
        proxy.close()

    assert refused.value.outcome == "not_run"


@pytest.mark.parametrize("method", [b"connect", b"Connect", b"track"])
def test_a_method_that_becomes_another_on_its_way_out_is_refused(method: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        at = b"ok.test:%d" % server.getsockname()[1]
        with passing(at.decode()) as (way, port):
            got, _ = said(port, method + b" http://" + at + b"/ HTTP/1.1\r\nHost: x\r\n\r\n")
            traffic = way.close()
        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            server.accept()

    assert got.startswith(b"HTTP/1.1 403")
    assert (traffic.allowed, sum(traffic.denied.values())) == ({}, 1)


def test_the_connections_of_all_sandboxes_together_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    def wait_for(taken: int) -> None:
        until = time.monotonic() + 20
        while sandbox_proxy._places._taken != taken:
            assert time.monotonic() < until, sandbox_proxy._places._taken
            time.sleep(0.005)

    wait_for(0)  # connections of other tests that are on their way out
    monkeypatch.setattr(sandbox_proxy, "_most_together", lambda: 2)
    request = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"

    with passing("ok.test") as (_, first), passing("ok.test") as (_, second):
        with socket.create_connection(("127.0.0.1", first)) as one, socket.create_connection(("127.0.0.1", first)):
            one.sendall(b"GET /")
            wait_for(2)
            full = [said(second, request)[0][:12] for _ in range(2)]
        wait_for(0)
        after = said(second, request)[0][:12]

    assert full == [b"HTTP/1.1 503"] * 2
    assert after == b"HTTP/1.1 403"


def test_the_bound_leaves_most_descriptors_to_the_engine() -> None:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lower = 512 if soft == resource.RLIM_INFINITY else min(512, soft)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (lower, hard))
        most = sandbox_proxy._most_together()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    assert 0 < 2 * most <= lower // 2


def test_a_connection_that_comes_as_its_program_ends_is_not_answered() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        at = b"ok.test:%d" % server.getsockname()[1]
        with passing(at.decode()) as (way, _):
            way.close()
            inner, outer = socket.socketpair()

            async def late() -> None:
                reader, writer = await asyncio.open_connection(sock=inner)
                await asyncio.wait_for(way._serve(reader, writer), 10)

            outer.sendall(b"GET http://" + at + b"/ HTTP/1.1\r\nHost: x\r\n\r\n")
            outer.shutdown(socket.SHUT_WR)
            server.settimeout(0.0)
            done = asyncio.run_coroutine_threadsafe(late(), way._loop)
            answering = threading.Thread(target=done.result, daemon=True)
            answering.start()
            answering.join(10)
            with pytest.raises(BlockingIOError):
                server.accept()
            outer.close()

    assert done.done()


@pytest.mark.parametrize("by_reset", [True, False])
def test_a_tunnel_whose_host_breaks_off_does_not_end_as_if_all_had_come(by_reset: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        at = b"ok.test:%d" % server.getsockname()[1]

        def serve() -> None:
            way, _ = server.accept()
            way.sendall(b"part")
            way.recv(99)  # the program has it
            if by_reset:
                way.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            way.close()

        threading.Thread(target=serve, daemon=True).start()
        with (
            passing(at.decode()) as (_, port),
            socket.create_connection(("127.0.0.1", port), 20) as program,
        ):
            program.sendall(b"CONNECT " + at + b" HTTP/1.1\r\nHost: x\r\n\r\n")
            got = b""
            while not got.endswith(b"part"):
                got += program.recv(999)
            program.sendall(b"go on")
            try:
                rest: bytes | None = program.recv(999)
            except ConnectionResetError:
                rest = None

    assert rest == (None if by_reset else b"")


def test_refusals_of_one_program_are_logged_up_to_a_hundred(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox_exchange, "MOST_LOGGED", 3)

    with passing("ok.test") as (way, port):
        for _ in range(6):
            assert said(port, b"GET http://bad.test/ HTTP/1.1\r\nHost: x\r\n\r\n")[0].startswith(b"HTTP/1.1 403")
        traffic = way.close()

    logged = [record.getMessage() for record in caplog.records if record.name == "toolpost.egress"]
    assert len(logged) == 4
    assert "more are not logged" in logged[-1]
    assert traffic.denied == {"bad.test:80": 6}


def test_a_host_that_refuses_a_credential_again_and_again_has_it_asked_for_anew_once() -> None:
    asked: list[list[str]] = []

    class Refusing(httpx.AsyncBaseTransport):
        """Stands for a host: it refuses all credentials."""

        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            return httpx.Response(401, headers={"Content-Length": "0"}, stream=httpx.ByteStream(b""))

    async def reveal(references: Collection[str]) -> Mapping[str, str]:
        return dict.fromkeys(references, "canary-credential")

    network = SandboxNetwork(allow=("ok.test",), headers={"ok.test": {"X-Key": "secret://env/KEY"}})
    proxy = SandboxProxy(network, guard().reach(), reveal, lambda references: asked.append([*references]))
    proxy.start()
    assert proxy._way is not None
    proxy._way = proxy._way._replace(transport=Refusing())
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    way = proxy.open(listener.detach())
    request = b"GET http://ok.test/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    try:
        statuses = [said(port, request)[0][:12] for _ in range(5)]
    finally:
        way.close()
        proxy.close()

    assert statuses == [b"HTTP/1.1 401"] * 5
    assert asked == [["secret://env/KEY"]]


@pytest.mark.parametrize("reference", ["secret://env/BOTH", "Basic {secret://env/BOTH}"])
def test_what_credentials_of_basic_decode_to_is_masked(reference: str) -> None:
    both = "agent:correct-horse-battery"
    packed = base64.b64encode(both.encode()).decode()
    value = packed if "{" in reference else f"Basic {packed}"

    credentials = Credentials({"Authorization": reference}, {"secret://env/BOTH": value})

    assert credentials.finder is not None
    for told in ('{"user": "agent", "password": "correct-horse-battery"}', f"you are {both}", f"[{packed}]"):
        shown = masked(credentials.finder, told)
        assert len(shown) == len(told)
        assert "correct-horse-battery" not in shown
        assert packed not in shown
    assert masked(credentials.finder, "an answer to agent") == "an answer to agent"


async def test_two_programs_that_hold_all_they_can_keep_no_other_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox_exchange, "CONNECT_S", 2.0)
    held: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if b"/held" in await reader.readuntil(b"\r\n\r\n"):
            held.append(writer)
        else:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    at = f"ok.test:{server.sockets[0].getsockname()[1]}"
    proxy = SandboxProxy(SandboxNetwork(allow=(at,)), guard().reach(), nothing, lambda references: None)
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
    ports = [one.getsockname()[1] for one in listeners]
    ways = [proxy.open(one.detach()) for one in listeners]
    end = b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    programs: list[asyncio.StreamWriter] = []
    try:
        for port in [*ports[:2]] * 60:
            _, program = await asyncio.open_connection("127.0.0.1", port)
            program.write(f"GET http://{at}/held".encode() + end)
            programs.append(program)
        for _ in range(500):
            if len(held) >= 100:
                break
            await asyncio.sleep(0.01)
        got, _ = await asyncio.to_thread(said, ports[2], f"GET http://{at}/free".encode() + end)
    finally:
        for way in ways:
            await asyncio.to_thread(way.close)
        await asyncio.to_thread(proxy.close)
        for writer in (*programs, *held):
            writer.close()
        server.close()

    assert got.startswith(b"HTTP/1.1 200")


def test_what_would_have_a_credential_told_in_other_ways_is_not_passed_on() -> None:
    names = ["Range", "If-Range", "Accept-Encoding", "Accept-Charset", "A-IM", "x_key", "Accept"]
    head = "".join(f"{name}: 1\r\n" for name in names)
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(f"GET http://ok.test/ HTTP/1.1\r\nHost: x\r\n{head}\r\n".encode())
    asked = connection.next_event()
    assert isinstance(asked, h11.Request)
    target, _ = Allowed(SandboxNetwork(allow=("ok.test",))).plain("http://ok.test/")

    made = sandbox_exchange._headers_of(asked, target, Credentials({"X-Key": "canary"}, {}))

    assert made == [(b"Host", b"ok.test"), (b"Accept", b"1"), (b"Accept-Encoding", b"identity"), (b"X-Key", b"canary")]
