"""The allow-list proxy with hostile programs: what gets round it, which is nothing."""

# ruff: noqa: F811
# Fixtures are imported, and named again by who takes them.
from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.sandbox.networked import ASK, LIMITS, RAW, Make, boxes, guard, here, network, value  # noqa: F401
from tests.security.canaries import listening, redirect
from tests.toolbox.boxes import real
from toolpost import (
    EgressGuard,
    Sandbox,
    SandboxNetwork,
)
from toolpost.runners import sandbox_exchange
from toolpost.runners.sandbox_proxy import MOST_CONNECTIONS

# --- what is not


DENIED = (
    "http://other.test:{port}/",
    "http://ok.test:{other}/",
    "http://ok.test/",
    "http://sub.ok.test:{port}/",
    "http://xok.test:{port}/",
    "http://127.0.0.1:{port}/",
    "http://127.1:{port}/",
    "http://2130706433:{port}/",
    "http://0x7f000001:{port}/",
    "http://[::1]:{port}/",
    "http://[::ffff:127.0.0.1]:{port}/",
    "http://169.254.169.254/latest/meta-data/",
    "http://ok.test:{port}@other.test/",
    "http://ok.test%00.other.test:{port}/",
    "http://ok.test.:{port}/",
    "https://ok.test:{other}/",
    "https://other.test/",
    "ftp://ok.test:{port}/",
)


async def test_other_hosts_and_ports_are_refused_in_every_form(boxes: Make) -> None:
    async with listening() as server, listening() as other:
        sandboxes = boxes(f"ok.test:{server.port}")
        urls = [url.format(port=server.port, other=other.port) for url in DENIED]
        requests = [f"GET {url} HTTP/1.1\r\nHost: ok.test\r\n\r\n" for url in urls]
        hosts = [url.split("/")[2] for url in urls if url.startswith("http:")]
        requests += [
            f"CONNECT {host}{'' if host[-1].isdigit() else ':443'} HTTP/1.1\r\nHost: x\r\n\r\n" for host in hosts
        ]
        result = await sandboxes.run_python(f"{RAW}\n[raw(one.encode())[:12].decode() for one in {requests!r}]")

    got = value(result)
    assert set(got) <= {"HTTP/1.1 403", "HTTP/1.1 400"}, got
    assert (server.connections, other.connections) == (0, 0)
    assert sum(network(result).denied.values()) == len(requests)
    assert network(result).allowed == {}


async def test_an_allowed_name_that_leads_to_a_private_address_is_refused(boxes: Make) -> None:
    addresses = [
        "127.0.0.1",
        "10.0.0.1",
        "169.254.169.254",
        "192.168.0.1",
        "::1",
        "fd00:ec2::254",
        "0.0.0.0",
        "100.64.0.1",
    ]
    leads = {f"h{at}.test": address for at, address in enumerate(addresses)}

    async def resolve(host: str, port: int) -> Sequence[str]:
        return [leads[host]]

    async with listening() as server:
        egress = EgressGuard(ports=(80, 443, server.port), resolve=resolve)
        sandboxes = boxes(*(f"{host}:{server.port}" for host in leads), egress=egress)
        plain = [f"GET http://{host}:{server.port}/ HTTP/1.1\r\nHost: x\r\n\r\n" for host in leads]
        tunnel = [f"CONNECT {host}:{server.port} HTTP/1.1\r\nHost: x\r\n\r\n" for host in leads]
        result = await sandboxes.run_python(f"{RAW}\n[raw(one.encode())[:12] for one in {plain + tunnel!r}]")

    assert set(value(result)) == {b"HTTP/1.1 403"}
    assert server.connections == 0
    assert network(result).allowed == {}


async def test_used_alone_only_public_addresses_are_reached(tmp_path: Path) -> None:
    async with listening() as server:
        profile = Sandbox(network=SandboxNetwork(allow=(f"localhost:{server.port}",)), limits=LIMITS)
        with real(tmp_path / "alone", profile, warm=0) as sandboxes:
            result = await sandboxes.run_python(f"{ASK}\nask('http://localhost:{server.port}/')")

    assert value(result)[0] == 403
    assert server.connections == 0


async def test_a_redirect_to_another_host_is_asked_for_anew_and_refused(boxes: Make) -> None:
    async with listening() as other:
        async with listening(lambda path: redirect(f"http://other.test:{other.port}/")) as server:
            sandboxes = boxes(f"ok.test:{server.port}")
            result = await sandboxes.run_python(f"{ASK}\nask('http://ok.test:{server.port}/')")

    assert value(result)[0] == 403
    assert (len(server.requests), other.connections) == (1, 0)
    assert network(result).denied == {f"other.test:{other.port}": 1}


async def test_a_name_whose_address_changes_is_checked_for_each_connection(boxes: Make) -> None:
    answers = iter(["127.0.0.1", "127.0.0.2", "127.0.0.2"])

    async def resolve(host: str, port: int) -> Sequence[str]:
        return [next(answers)]

    closing = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"
    async with listening(lambda path: closing) as server, listening(host="127.0.0.2", port=server.port) as rebound:
        sandboxes = boxes(f"ok.test:{server.port}", egress=guard(resolve, ("127.0.0.1:*",)))
        result = await sandboxes.run_python(
            f"{ASK}{RAW}\nurl = 'ok.test:{server.port}'\n"
            "ask(f'http://{url}/')[0], ask(f'http://{url}/')[0], "
            "raw(f'CONNECT {url} HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n'.encode())[:12]"
        )

    assert value(result) == (200, 403, b"HTTP/1.1 403")
    assert rebound.connections == 0


SMUGGLED = (
    b"POST {ok}/{v1}Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{next}",
    b"POST {ok}/{v1}Content-Length: 4\r\nContent-Length: 40\r\n\r\nabcd{next}",
    b"POST {ok}/{v1}Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n{next}",
    b"POST {ok}/ HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{next}",
    b"POST {ok}/{v1}Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    b"POST {ok}/{v1}Content-Length: +4\r\n\r\nabcd",
    b"GET {ok}/{v1}A: b\rGET {bad}/ HTTP/1.1\r\n\r\n",
    b"GET {ok}/\x00{v1}\r\n",
    b"GET {ok}/\t{bad}/{v1}\r\n",
    b"CONNECT {bad_at}{v1}\r\nGET {ok}/{v1}\r\n",
    b"CONNECT {ok_at}{v1}Content-Length: 5\r\n\r\nhello",
    b"CONNECT {ok_at}{v1}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"CONNECT {ok_at}@{bad_at}{v1}\r\n",
    b"CONNECT {ok_at}/{bad_at}{v1}\r\n",
    b"CONNECT {ok_at}%20{bad_at}{v1}\r\n",
    b"CONNECT {ok}/{v1}\r\n",
    b"CONNECT /{v1}\r\n",
    b"GET / HTTP/1.1\r\nHost: {ok_at}\r\n\r\n",
    b"TRACE {ok}/{v1}\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64) + b"\r\n\r\n",
    b"X" * 200_000,
)


async def test_what_two_readers_could_differ_about_is_no_request(boxes: Make) -> None:
    async with listening() as server, listening() as other:
        sandboxes = boxes(f"ok.test:{server.port}")
        names = {
            b"{v1}": b" HTTP/1.1\r\nHost: x\r\n",
            b"{next}": b"GET http://127.0.0.1:%d/ HTTP/1.1\r\nHost: x\r\n\r\n" % other.port,
            b"{ok}": b"http://ok.test:%d" % server.port,
            b"{ok_at}": b"ok.test:%d" % server.port,
            b"{bad}": b"http://127.0.0.1:%d" % other.port,
            b"{bad_at}": b"127.0.0.1:%d" % other.port,
        }
        requests = []
        for request in SMUGGLED:
            for name, text in names.items():
                request = request.replace(name, text)
            requests.append(request)
        result = await sandboxes.run_python(f"{RAW}\n[raw(one) for one in {requests!r}]")

    for request, answer in zip(requests, value(result), strict=True):
        assert answer[:12] in (b"HTTP/1.1 400", b"HTTP/1.1 403"), (request[:80], answer[:80])
        assert answer.count(b"HTTP/1.1 ") == 1, request[:80]
    assert (server.connections, other.connections) == (0, 0)


async def test_a_request_that_goes_on_is_made_anew_without_what_was_for_the_proxy(boxes: Make) -> None:
    async with listening() as server:
        sandboxes = boxes(f"ok.test:{server.port}")
        head = (
            f"POST http://OK.test:{server.port}/x?y=1 HTTP/1.1\r\nHost: other.test\r\nConnection: X-Hop, close\r\n"
            "X-Hop: 1\r\nProxy-Authorization: Basic eA==\r\nTE: trailers\r\nUpgrade: websocket\r\nKeep-Alive: 5\r\n"
            "Proxy-Connection: keep-alive\r\nX-Mine: \xe9\r\nContent-Length: 2\r\n\r\n"
            "hiGET http://127.0.0.1/ HTTP/1.1\r\nHost: x\r\n\r\n"
        )
        result = await sandboxes.run_python(f"{RAW}\nraw({head.encode('latin-1')!r})[:12]")

    assert value(result) == b"HTTP/1.1 200"
    (request,) = server.requests
    lines = request.split("\r\n")
    assert lines[0] == "POST /x?y=1 HTTP/1.1"
    assert sorted(lines[1:-2]) == ["Content-Length: 2", f"Host: ok.test:{server.port}", "X-Mine: \xe9"]
    assert lines[-1] == "hi"


async def test_nothing_but_the_proxy_is_there_to_connect_to(boxes: Make) -> None:
    async with listening() as server:
        sandboxes = boxes(f"ok.test:{server.port}")
        result = await sandboxes.run_python(
            f"""
import socket
def tried(family, kind, at):
    try:
        with socket.socket(family, kind) as one:
            one.settimeout(2)
            one.connect(at)
            if kind == socket.SOCK_DGRAM:
                one.send(b'x')
        return 'connected'
    except OSError as error:
        return type(error).__name__
inet, six, tcp, udp = socket.AF_INET, socket.AF_INET6, socket.SOCK_STREAM, socket.SOCK_DGRAM
[
    tried(inet, tcp, ('127.0.0.1', {server.port})), tried(inet, tcp, ('10.0.0.1', 80)),
    tried(inet, tcp, ('1.1.1.1', 443)), tried(inet, tcp, ('169.254.169.254', 80)), tried(inet, udp, ('1.1.1.1', 53)),
    tried(six, tcp, ('2606:4700::1111', 443)), tried(six, tcp, ('::1', {server.port})),
    tried(inet, socket.SOCK_RAW, ('127.0.0.1', 0)), tried(socket.AF_NETLINK, socket.SOCK_RAW, (0, 0)),
    socket.socket().getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF),
]
"""
        )

    *tries, buffer = value(result)
    assert len(tries) == 9
    assert "connected" not in tries, tries
    assert buffer == 65536  # what lies in sockets is little, and set for this sandbox
    assert server.connections == 0


async def test_two_sandboxes_have_a_proxy_each_and_neither_reaches_the_others(boxes: Make) -> None:
    async with listening() as one, listening() as two:
        first, second = boxes(f"one.test:{one.port}"), boxes(f"two.test:{two.port}")
        code = f"{ASK}\nask('http://one.test:{one.port}/')[0], ask('http://two.test:{two.port}/')[0]"
        results = await asyncio.gather(*(box.run_python(code) for box in (first, second, first, second)))

    assert [value(result) for result in results] == [(200, 403), (403, 200)] * 2
    assert [sum(network(result).allowed.values()) for result in results] == [1, 1, 1, 1]


async def test_without_hosts_there_is_no_proxy_and_no_loopback(tmp_path: Path) -> None:
    with real(tmp_path / "none", Sandbox(limits=LIMITS), warm=0) as sandboxes:
        result = await sandboxes.run_python(
            "import os, socket\ntry: socket.socket(); made = True\nexcept OSError: made = False\n"
            "made, [name for name in os.environ if 'proxy' in name.lower()]"
        )

    assert value(result) == (False, [])
    assert result.usage.network is None


# --- between the proxy and the world


class OperatorsProxy:
    """A proxy that an operator's settings name: it makes tunnels, and keeps what it was asked for."""

    def __init__(self, answer: bytes = b"HTTP/1.1 200 OK\r\n\r\n") -> None:
        self.answer, self.asked, self.port = answer, list[str](), 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        self.asked.append(head)
        writer.write(self.answer)
        if b" 200 " in self.answer:
            port = int(head.split()[1].rpartition(":")[2])
            there, here = await asyncio.open_connection("127.0.0.1", port)
            await asyncio.wait(
                [asyncio.create_task(self.carry(reader, here)), asyncio.create_task(self.carry(there, writer))],
                return_when=asyncio.FIRST_COMPLETED,
            )
            here.close()
        writer.close()

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()


async def test_tunnels_go_through_the_proxy_of_the_operator(boxes: Make) -> None:
    for answer, status in ((b"HTTP/1.1 200 OK\r\n\r\n", b"200"), (b"HTTP/1.1 407 No\r\n\r\n", b"502")):
        between = OperatorsProxy(answer)
        server = await asyncio.start_server(between.serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with listening() as listener:
            at = f"ok.test:{listener.port}"
            egress = EgressGuard(private=("*.test:*",), proxy=f"http://u:p@127.0.0.1:{port}", resolve=here)
            sandboxes = boxes(at, egress=egress)
            request = f"CONNECT {at} HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n"
            inner = "GET /in HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n"
            result = await sandboxes.run_python(
                f"{RAW}\nway = socket.create_connection(('127.0.0.1', 3128))\nway.sendall(b'{request}{inner}')\n"
                "got = b''\nwhile not got.endswith(b'ok') and (piece := way.recv(999)): got += piece\ngot"
            )
        server.close()
        assert value(result)[9:12] == status
        assert between.asked[0].startswith(f"CONNECT {at} HTTP/1.1\r\n")
        assert "Proxy-Authorization: Basic dTpw" in between.asked[0]
        assert listener.paths == (["/in"] if status == b"200" else [])


async def test_one_connection_more_than_a_sandbox_may_have_is_told_so(boxes: Make) -> None:
    sandboxes = boxes("ok.test:9")
    result = await sandboxes.run_python(
        f"{RAW}\nimport time\nheld = []\n"
        f"for n in range({MOST_CONNECTIONS}):\n"
        "    held.append(socket.create_connection(('127.0.0.1', 3128)))\n"
        "    held[-1].sendall(b'GET http://ok.')\n"
        "full = raw(b'')[:12]\nheld.pop().close()\ntime.sleep(0.3)\n"
        "full, raw(b'GET / HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n')[:12]"
    )

    assert value(result) == (b"HTTP/1.1 503", b"HTTP/1.1 403")


async def test_who_is_silent_for_too_long_is_cut_off(boxes: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox_exchange, "IDLE_S", 0.3)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello")
        await reader.read()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    at = f"ok.test:{server.sockets[0].getsockname()[1]}"
    sandboxes = boxes(at)
    tunnel = f"CONNECT {at} HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n"
    result = await sandboxes.run_python(f"{RAW}\nraw(b'GET http://ok.test'), raw(b'{tunnel}')[-5:]")
    server.close()

    assert value(result) == (b"", b"hello")
