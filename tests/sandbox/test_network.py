"""The allow-list proxy with real sandboxes and real servers: what it lets through, and what happens when it breaks."""

# ruff: noqa: F811
# Fixtures are imported, and named again by who takes them.
from __future__ import annotations

import asyncio
import os
import resource
import socket
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.runners.test_http_tls import NAME, pem  # noqa: F401
from tests.sandbox.networked import ASK, LIMITS, RAW, Make, boxes, network, serving, value  # noqa: F401
from tests.security.canaries import OK, listening
from tests.toolbox.boxes import real
from toolpost import (
    ConfigurationError,
    Sandbox,
    SandboxError,
    SandboxMount,
    SandboxNetwork,
)
from toolpost.runners.sandbox_allowed import Allowed
from toolpost.sandbox import loopback
from toolpost.sandbox.backend import Job
from toolpost.sandbox.native import NativeBackend

# --- what is let through


@pytest.mark.parametrize("backend", ["native", "bubblewrap"])
async def test_an_allowed_host_is_reached_from_python_and_curl_and_the_result_says_so(
    boxes: Make, backend: str
) -> None:
    async with listening() as server:
        sandboxes = boxes(f"ok.test:{server.port}", backend=backend)
        url = f"http://ok.test:{server.port}"
        asked = await sandboxes.run_python(f"{ASK}\nask('{url}/a', X_Mine='1')")
        posted = await sandboxes.run_python(f"{ASK}\nask('{url}/b', b'body')")
        curled = await sandboxes.run(["sh", "-c", f"command -v curl >/dev/null || exit 99; curl -sS {url}/c"])
        tunnelled = await sandboxes.run(["sh", "-c", f"command -v curl >/dev/null || exit 99; curl -sSp {url}/d"])

    assert value(asked) == value(posted) == (200, "ok")
    head = server.requests[0].split("\r\n")
    assert head[0] == "GET /a HTTP/1.1"
    assert {f"Host: ok.test:{server.port}", "X-Mine: 1"} <= set(head)
    assert server.requests[1].endswith("\r\n\r\nbody")
    for result, path in ((curled, "/c"), (tunnelled, "/d")):
        if result.exit_code != 99:
            assert result.stdout.text == "ok", result.stderr.text
            assert path in server.paths
    assert network(asked).allowed == {f"ok.test:{server.port}": 1}
    assert (network(asked).denied, network(asked).received_bytes) == ({}, 2)
    assert network(posted).sent_bytes == 4


async def test_a_tunnel_is_tls_from_end_to_end(boxes: Make, pem: Path, tmp_path: Path) -> None:
    ca = tmp_path / "ca.pem"
    ca.write_text(pem.read_text().partition("-----BEGIN PRIVATE")[0])  # noqa: ASYNC240
    ca.chmod(0o644)
    async with serving(pem) as secure:
        mount = SandboxMount(source=str(ca), target="/opt/ca.pem")
        sandboxes = boxes(f"{NAME}:{secure.port}", mounts=(mount,))
        result = await sandboxes.run_python(
            f"{ASK}\nask('https://{NAME}:{secure.port}/x')", env={"SSL_CERT_FILE": "/opt/ca.pem"}
        )

    assert value(result) == (200, "ok")
    assert network(result).allowed == {f"{NAME}:{secure.port}": 1}


async def test_programs_of_a_session_are_counted_each_and_what_one_left_waiting_is_not_answered(boxes: Make) -> None:
    async with listening() as server:
        sandboxes = boxes(f"ok.test:{server.port}")
        url = f"http://ok.test:{server.port}"
        async with sandboxes.session() as session:
            first = await session.run_python(f"{ASK}\nask('{url}/1'), ask('{url}/2')")
            await session.run_python(
                f"{RAW}\nway = socket.create_connection(('127.0.0.1', 3128))\n"
                f"way.sendall(b'GET {url}/3 HTTP/1.1\\r\\nHost: ')"
            )
            third = await session.run_python(f"{ASK}\nask('{url}/4')")

    assert value(first) == ((200, "ok"), (200, "ok"))
    assert value(third) == (200, "ok")
    assert network(first).allowed == {f"ok.test:{server.port}": 2}
    assert network(third).allowed == {f"ok.test:{server.port}": 1}
    assert server.paths == ["/1", "/2", "/4"]


async def test_fifty_connections_at_once_are_served_and_leave_nothing(boxes: Make) -> None:
    code = f"""{ASK}
import threading
got = []
def one(n):
    got.append(ask(f'URL/{{n}}'))
threads = [threading.Thread(target=one, args=(n,)) for n in range(50)]
[thread.start() for thread in threads]; [thread.join() for thread in threads]
got.count((200, 'ok')), [one for one in got if one != (200, 'ok')][:3]
"""
    async with listening() as server:
        sandboxes = boxes(f"ok.test:{server.port}")
        code = code.replace("URL", f"http://ok.test:{server.port}")
        assert value(await sandboxes.run_python(code)) == (50, [])
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(2):
            assert value(await sandboxes.run_python(code)) == (50, [])
        await asyncio.sleep(0.1)
        after = len(os.listdir("/proc/self/fd"))

    assert after <= before + 8
    assert len(server.requests) == 150


@asynccontextmanager
async def flood(size: int) -> AsyncIterator[tuple[int, list[int]]]:
    """A server that answers with size bytes, and counts those of requests."""
    took: list[int] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if b"PUT" in head:
            total = 0
            while total < size:
                total += len(await reader.read(1 << 16))
            took.append(total)
            writer.write(OK)
        else:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
            for _ in range(size >> 16):
                writer.write(bytes(1 << 16))
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1], took
    finally:
        server.close()


async def test_big_bodies_go_both_ways_in_flat_memory(boxes: Make) -> None:
    size = 160 << 20
    async with flood(size) as (port, took):
        sandboxes = boxes(f"ok.test:{port}")
        await sandboxes.run_python("1")
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        down = await sandboxes.run_python(
            "import urllib.request\n"
            f"answer, total = urllib.request.urlopen('http://ok.test:{port}/'), 0\n"
            "while piece := answer.read(1 << 16): total += len(piece)\ntotal"
        )
        up = await sandboxes.run_python(
            "import http.client\nway = http.client.HTTPConnection('127.0.0.1', 3128)\n"
            f"way.request('PUT', 'http://ok.test:{port}/', (bytes(1 << 16) for _ in range({size >> 16})), "
            f"{{'Content-Length': '{size}'}})\nway.getresponse().status"
        )
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before

    assert value(down) == size
    assert value(up) == 200
    assert took == [size]
    assert (network(down).received_bytes, network(up).sent_bytes) == (size, size)
    assert grown < 48 << 10  # KiB


# --- when things break


async def test_a_proxy_that_dies_cuts_its_programs_off_and_the_next_gets_another(boxes: Make) -> None:
    async with listening() as server:
        sandboxes = boxes(f"ok.test:{server.port}")
        url = f"http://ok.test:{server.port}/"
        proxy: Any = sandboxes._proxy
        dead = threading.Event()

        def told(stream: str, data: bytes) -> None:
            if not dead.is_set():
                dead.set()
                proxy._server.stop()
                proxy._server.join(20)

        code = (
            f"{ASK}\nimport time\nfirst = ask('{url}')[0]\nprint('go', flush=True)\ntime.sleep(1)\nfirst, ask('{url}')"
        )
        async with sandboxes.session() as session:
            result = await session.run_python(code, on_output=told)
            after = await session.run_python(f"{ASK}\nask('{url}')")

    first, second = value(result)
    assert dead.is_set()
    assert first == 200
    assert second[0] == 0
    assert "timed out" not in second[1]
    assert value(after) == (200, "ok")


async def test_a_program_that_is_killed_takes_its_connections_with_it(boxes: Make) -> None:
    held = asyncio.Event()
    let_go = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        held.set()
        await reader.read()  # until the other side goes
        let_go.set()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    sandboxes = boxes(f"ok.test:{port}")
    task = asyncio.create_task(sandboxes.run_python(f"{ASK}\nask('http://ok.test:{port}/')"))
    await asyncio.wait_for(held.wait(), 20)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.wait_for(let_go.wait(), 20)
    server.close()


async def test_an_answer_that_was_cut_looks_cut(boxes: Make) -> None:
    cut = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this"
    chunk = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"
    for answer in (cut, chunk):

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answer: bytes = answer) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
            await writer.drain()
            await asyncio.sleep(0.2)
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        url = f"http://ok.test:{server.sockets[0].getsockname()[1]}/"
        sandboxes = boxes(url[7:-1])
        # An old client, which takes the end of the connection for that of the body.
        result = await sandboxes.run_python(
            "import http.client, socket, urllib.request\n"
            f"try: new = urllib.request.urlopen('{url}').read()\n"
            "except (http.client.HTTPException, OSError): new = None\n"
            "way, got = socket.create_connection(('127.0.0.1', 3128)), b''\n"
            f"way.sendall(b'GET {url} HTTP/1.0\\r\\n\\r\\n')\n"
            "try:\n    while piece := way.recv(999): got += piece\n    old = got\n"
            "except ConnectionResetError: old = None\nnew, old, len(got) > 0"
        )
        server.close()
        assert value(result) == (None, None, True)


def test_a_profile_with_hosts_is_refused_by_a_back_end_that_got_no_gateway(tmp_path: Path) -> None:
    backend = NativeBackend(Sandbox(network=SandboxNetwork(allow=("ok.test",))), tmp_path, 0)
    try:
        with pytest.raises(SandboxError, match="gateway") as refused:
            backend.run(Job(code="1", limits=LIMITS))
    finally:
        backend.close()

    assert refused.value.outcome == "not_run"


def test_who_waited_for_an_earlier_program_is_not_answered() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
    with loopback.listen(port) as way:
        with socket.create_connection(("127.0.0.1", port)) as late:
            late.sendall(b"GET ")
            loopback.listen_anew(way)
            with socket.create_connection(("127.0.0.1", port)) as following:
                way.setblocking(True)
                taken, _ = way.accept()
                assert taken.getpeername() == following.getsockname()
                taken.close()
        way.shutdown(socket.SHUT_RDWR)
        with pytest.raises(ConnectionError):
            socket.create_connection(("127.0.0.1", port))
        loopback.listen_anew(way)
        socket.create_connection(("127.0.0.1", port)).close()


def test_closing_ends_the_thread_of_the_proxy(tmp_path: Path) -> None:
    sandboxes = real(tmp_path / "boxes", Sandbox(network=SandboxNetwork(allow=("ok.test",)), limits=LIMITS), warm=0)
    proxy: Any = sandboxes._proxy
    thread = proxy._server
    assert thread.is_alive()

    sandboxes.close()

    assert not thread.is_alive()
    with pytest.raises(SandboxError, match="closed"):
        proxy.open(os.open("/dev/null", os.O_RDONLY))


# --- values


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"allow": ("ok.test:0",)}, "no port"),
        ({"allow": ("ok.test:70000",)}, "no port"),
        ({"allow": ("http://ok.test",)}, "not a host"),
        ({"allow": ("ok.test",), "headers": {"ok.test": {"Host": "x"}}}, "no header"),
        ({"allow": ("ok.test",), "headers": {"ok.test": {"X": "a\r\nb"}}}, "one line"),
        ({"allow": ("ok.test",), "headers": {"ok.test": {"X": "Bearer secret://env/X"}}}, "braces"),
        ({"allow": ("ok.test",), "headers": {"other.test": {"X": "a"}}}, "not in allow"),
    ],
)
def test_networks_that_cannot_be_are_refused(fields: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigurationError, match=complaint):
        SandboxNetwork(**fields)


def test_no_sockets_and_a_network_exclude_each_other() -> None:
    with pytest.raises(ConfigurationError, match="strict"):
        Sandbox(syscalls="strict", network=SandboxNetwork(allow=("ok.test",)))


def test_entries_cover_the_usual_ports_unless_they_name_one() -> None:
    network = SandboxNetwork(
        allow=("a.test", "*.b.test", "c.test:8443", "key.test", "*.test"), headers={"key.test": {"X-Key": "v"}}
    )
    allowed = Allowed(network)

    def tunnel(authority: str) -> bool:
        try:
            allowed.tunnel(authority)
        except Exception:
            return False
        return True

    def plain(url: str) -> str | None:
        try:
            return allowed.plain(url)[0].origin
        except Exception:
            return None

    assert [tunnel(at) for at in ("a.test:443", "a.test:80", "a.test:22", "x.b.test:443", "c.test:8443")] == [
        True, False, False, True, True,
    ]  # fmt: skip
    assert not tunnel("key.test:443")
    assert plain("http://a.test/") == "http://a.test"
    assert plain("http://a.test:443/") is None
    assert plain("http://key.test/") == plain("http://key.test:443/") == "https://key.test"
    assert plain("http://c.test:8443/") == "http://c.test:8443"
    assert plain("http://b.test.evil/") is None
    assert allowed.led("https://key.test/x") == "http://key.test/x"
    assert allowed.led("https://a.test/x") == "https://a.test/x"
