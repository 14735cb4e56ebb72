"""The HTTP runner against a real server on this machine, which counts and keeps every request it gets."""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
import re
import socket
import ssl
import threading
import time
import tracemalloc
import zlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from hypothesis import given, settings, strategies as st

from toolpost import (
    ConfigurationError,
    HttpToolExecutor,
    HttpToolSpec,
    InputValidationError,
    NumericParameter,
    RemoteToolError,
    StringParameter,
    ToolContext,
    ToolExecutor,
    ToolTimeoutError,
    create_tool_call,
)
from toolpost.authoring.parameters import ArrayParameter, BooleanParameter, ObjectParameter
from toolpost.calls.definition import HttpBody
from toolpost.runners.http_answers import retry_after_s
from toolpost.runners.http_exchange import of_transport
from toolpost.runners.http_request import Template, quoted_key
from toolpost.testing import FakeClock, executor_for


def bare(data: bytes) -> bytes:
    """deflate without zlib's frame."""
    return zlib.compress(data, wbits=-zlib.MAX_WBITS)


class Got(NamedTuple):
    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def query(self) -> list[tuple[str, str]]:
        return parse_qsl(urlsplit(self.path).query, keep_blank_values=True)


class Upstream:
    """A server that gives what it is told, and keeps what it got."""

    def __init__(self) -> None:
        self.got: list[Got] = []
        self.status, self.headers, self.body = 200, {"Content-Type": "application/json"}, b'{"ok": true}'
        self.pause = threading.Event()
        self.pause.set()
        self.arrived = threading.Event()
        self.cut = False
        self.connections: set[Any] = set()
        upstream = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                upstream.got.append(Got(self.command, self.path, dict(self.headers.items()), body))
                upstream.connections.add(self.client_address)
                upstream.arrived.set()
                upstream.pause.wait(20)
                if upstream.cut:
                    self.connection.shutdown(socket.SHUT_RDWR)
                    self.close_connection = True
                    return
                self.send_response(upstream.status)
                for name, value in upstream.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(upstream.body)))
                self.end_headers()
                if self.command != "HEAD":
                    try:
                        self.wfile.write(upstream.body)
                    except OSError:
                        self.close_connection = True

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = do_OPTIONS = handle_any

            def log_message(self, *args: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *args: Any) -> None:
                pass

        self.server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self.thread.start()

    def close(self) -> None:
        self.pause.set()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    server = Upstream()
    yield server
    server.close()


@pytest.fixture
def executor() -> Iterator[ToolExecutor]:
    with executor_for(enable_security_checks=False, egress_private=LOCAL) as made:
        yield made


def spec_for(url: str, *parameters: Any, **changes: Any) -> HttpToolSpec:
    values: dict[str, Any] = {"id": "h", "tool_name": "shop", "description": "", "parameters": list(parameters)}
    return HttpToolSpec(**{**values, "url": url, **changes})


LOCAL = ("127.0.0.1:*", "localhost:*", "no-such-host.invalid:*")
TEXT, CITY = StringParameter(name="text"), StringParameter(name="city")


def connections(executor: ToolExecutor) -> Any:
    """Where the executor keeps the connections of tools without an Egress of their own, for each loop."""
    return executor._resources.clients._made["http", executor._guards.egress.reach()]


async def run(executor: ToolExecutor, spec: HttpToolSpec, /, **args: Any) -> Any:
    return await HttpToolExecutor(spec, executor=executor).execute(args, ToolContext())


# where arguments go


async def test_arguments_of_a_post_are_its_json_body(upstream: Upstream, executor: ToolExecutor) -> None:
    result = await run(executor, spec_for(f"{upstream.url}/orders", TEXT, NumericParameter(name="n")), text="é", n=1.5)

    assert result.success, result.error
    (got,) = upstream.got
    assert (got.method, got.path, json.loads(got.body)) == ("POST", "/orders", {"text": "é", "n": 1.5})
    assert got.headers["Content-Type"] == "application/json"
    assert result.data["status_code"] == 200
    assert result.data["body"] == {"ok": True}


@pytest.mark.parametrize("method", ["get", "head", "delete", "options"])
async def test_arguments_of_other_methods_are_its_query(
    upstream: Upstream, executor: ToolExecutor, method: str
) -> None:
    parameters = TEXT, BooleanParameter(name="on"), ArrayParameter(name="tags"), ObjectParameter(name="more")
    spec = spec_for(f"{upstream.url}/orders?fixed=1", *parameters, method=method)

    result = await run(executor, spec, text="a&b=c #é", on=True, tags=["x", 2], more={"k": 1})

    assert result.success, result.error
    (got,) = upstream.got
    assert got.method == method.upper()
    assert got.body == b""
    assert got.query == [
        ("fixed", "1"),
        ("text", "a&b=c #é"),
        ("on", "true"),
        ("tags", "x"),
        ("tags", "2"),
        ("more", '{"k":1}'),
    ]


async def test_places_in_path_query_header_and_body_take_arguments(upstream: Upstream, executor: ToolExecutor) -> None:
    spec = spec_for(
        f"{upstream.url}/cities/{{city}}/orders?lang={{text}}",
        CITY,
        TEXT,
        NumericParameter(name="n"),
        method="put",
        headers={"X-City": "in {city}", "Accept": "application/json"},
        query_params={"c": "{city}", "n": "{n}", "dry": True},
        body={"amount": "{n}", "note": "for {city}", "source": "toolpost", "{city}": "a name is no place"},
    )

    await run(executor, spec, city="Köln/Bonn", text="de&x", n=3)

    (got,) = upstream.got
    assert got.path.startswith("/cities/K%C3%B6ln%2FBonn/orders?")
    assert got.query == [("lang", "de&x"), ("c", "Köln/Bonn"), ("n", "3"), ("dry", "true")]
    assert got.headers["X-City"].encode("latin-1") == "in Köln/Bonn".encode("latin-1")
    assert json.loads(got.body) == {
        "amount": 3,
        "note": "for Köln/Bonn",
        "source": "toolpost",
        "{city}": "a name is no place",
    }


async def test_what_the_author_wrote_cannot_be_overridden(upstream: Upstream, executor: ToolExecutor) -> None:
    parameters = [StringParameter(name=name) for name in ("dry", "source", "api_key", "text")]
    body = spec_for(f"{upstream.url}/o", *parameters, body={"source": "toolpost"})
    query = spec_for(f"{upstream.url}/o?dry=1", *parameters, method="get", query_params={"api_key": "ours"})

    for spec in (body, query):
        await run(executor, spec, dry="0", source="model", api_key="theirs", text="t")

    posted, asked = upstream.got
    assert json.loads(posted.body) == {"source": "toolpost", "dry": "0", "api_key": "theirs", "text": "t"}
    assert asked.query == [("dry", "1"), ("api_key", "ours"), ("source", "model"), ("text", "t")]


async def test_a_place_without_its_argument_is_left_out(upstream: Upstream, executor: ToolExecutor) -> None:
    spec = spec_for(
        f"{upstream.url}/o?lang={{city}}&x=1",
        CITY,
        TEXT,
        method="get",
        headers={"X-City": "{city}"},
        query_params={"c": "{city}"},
    )

    await run(executor, spec, text="t")

    (got,) = upstream.got
    assert got.query == [("x", "1"), ("text", "t")]
    assert "X-City" not in got.headers


@pytest.mark.parametrize("value", ["..", ".", "", None, "x/../../admin", "../admin", "x\\..\\..", "x/."])
async def test_an_argument_cannot_lead_to_another_path(
    upstream: Upstream, executor: ToolExecutor, value: str | None
) -> None:
    spec = spec_for(f"{upstream.url}/users/{{city}}/notes", CITY)

    result = await run(executor, spec, **({} if value is None else {"city": value}))

    assert upstream.got == []
    assert (result.status_code, result.failure.outcome) == (400, "not_run")
    assert "'city'" in result.error


def test_no_argument_reaches_scheme_host_port_or_another_segment() -> None:
    spec = spec_for("https://api.example.com:8443/a/{city}/b?q={text}", CITY, TEXT, method="get")
    definition = spec.define()
    assert isinstance(definition.body, HttpBody)
    template = Template(definition, definition.body)

    @settings(max_examples=300)
    @given(city=st.text(min_size=1), text=st.text())
    def holds(city: str, text: str) -> None:
        try:
            parts = urlsplit(template.fill({"city": city, "text": text}, None).url)
        except InputValidationError:
            return
        assert (parts.scheme, parts.netloc) == ("https", "api.example.com:8443")
        assert [unquote(segment) for segment in parts.path.split("/")] == ["", "a", city, "b"]
        assert parse_qsl(parts.query, keep_blank_values=True) == [("q", text)]
        assert parts.fragment == ""

    holds()


async def test_no_message_has_the_value_of_a_header_that_cannot_be_sent(
    upstream: Upstream, executor: ToolExecutor
) -> None:
    spec = spec_for(f"{upstream.url}/o", TEXT, headers={"X-Key": "{text}"})

    padded = await run(executor, spec, text="hush-hush ")

    assert padded.failure.code == "invalid_input"
    assert "hush" not in padded.error
    error = of_transport("GET x", "GET", httpx.LocalProtocolError("Illegal header value b'hush-hush '"))
    assert "hush" not in error.message


async def test_a_header_cannot_be_split_by_an_argument(upstream: Upstream, executor: ToolExecutor) -> None:
    spec = spec_for(f"{upstream.url}/o", CITY, headers={"X-City": "{city}"})

    for city in ("a\r\nX-Evil: 1", "a\nb", "\0", "日本"):
        result = await run(executor, spec, city=city)
        assert result.status_code == 400

    assert upstream.got == []


@pytest.mark.parametrize("header", [("X City", "x"), ("X-City", "a\r\nb"), ("X-City", "日本"), ("", "x")])
def test_a_header_that_is_none_is_the_authors_mistake(header: tuple[str, str]) -> None:
    definition = spec_for("https://example.com", CITY).define()

    with pytest.raises(ConfigurationError, match="must be a name and Latin text of one line"):
        Template(definition, HttpBody(method="GET", url="https://example.com", headers=dict([header])))


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("https://{city}.example.com/", "scheme, host and port of its url are fixed"),
        ("https://example.com/{town}", r"has a place \{town\}, which is no parameter"),
    ],
)
async def test_a_place_that_cannot_be_filled_is_the_authors_mistake(
    executor: ToolExecutor, url: str, said: str
) -> None:
    definition = spec_for("https://example.com", CITY).define()
    with pytest.raises(ConfigurationError, match=said):
        Template(definition, HttpBody(method="GET", url=url))


@pytest.mark.parametrize("method", ["post", "get"])
@pytest.mark.parametrize("value", ["half a pair: \ud800", 2**64])
async def test_what_json_cannot_hold_is_refused(
    upstream: Upstream, executor: ToolExecutor, method: str, value: Any
) -> None:
    parameter = TEXT if isinstance(value, str) else NumericParameter(name="text")

    result = await run(executor, spec_for(f"{upstream.url}/o", parameter, method=method), text=value)

    assert (result.status_code, upstream.got) == (400, [])
    assert "'text'" in result.error


# what is sent along


async def test_the_idempotency_key_of_the_call_is_sent(upstream: Upstream, executor: ToolExecutor) -> None:
    """That under which the call runs, never the caller's text: two tenants may send one, to one upstream account."""
    keyed = spec_for(f"{upstream.url}/o", idempotency={"enabled": True})

    for spec in (keyed, spec_for(f"{upstream.url}/o")):
        for tenant in ("a", "b"):
            context = ToolContext(tenant_id=tenant, idempotency_key="order-1")
            assert (await HttpToolExecutor(spec, executor=executor).execute({}, context)).success

    sent = [got.headers.get("Idempotency-Key") for got in upstream.got]
    assert [text is not None and re.fullmatch('"[0-9a-f]{64}"', text) is not None for text in sent[:2]] == [True, True]
    assert sent[0] != sent[1]
    assert sent[2:] == [None, None]


def test_a_key_that_no_header_holds_is_percent_encoded() -> None:
    assert quoted_key("ö\n\\") == r'"%C3%B6%0A\\"'


async def test_nothing_is_taken_from_the_environment(
    upstream: Upstream, executor: ToolExecutor, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password hunter2")
    (tmp_path / "netrc").chmod(0o600)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")

    result = await run(executor, spec_for(f"{upstream.url}/o"))

    assert result.success, result.error
    assert "Authorization" not in upstream.got[0].headers


async def test_no_cookie_of_one_call_is_sent_with_another(upstream: Upstream, executor: ToolExecutor) -> None:
    upstream.headers["Set-Cookie"] = "session=hunter2; Path=/"
    spec = spec_for(f"{upstream.url}/o")

    first = await run(executor, spec)
    await run(executor, spec)

    assert "Cookie" not in upstream.got[1].headers
    assert "hunter2" not in json.dumps(first.data)


async def test_calls_share_connections(upstream: Upstream, executor: ToolExecutor) -> None:
    spec = spec_for(f"{upstream.url}/o")

    for _ in range(5):
        await run(executor, spec)

    assert len(upstream.got) == 5
    assert len(upstream.connections) == 1


# what comes back


@pytest.mark.parametrize(
    ("kind", "body", "value"),
    [
        ("application/json; charset=utf-8", b'{"a": [1]}', {"a": [1]}),
        ("application/problem+json", b"[]", []),
        ("application/json", b"not json", "not json"),
        ("text/plain; charset=latin-1", "ü".encode("latin-1"), "ü"),
        ("text/html", b"<p>", "<p>"),
        ("image/png", b"\x89PNG", {"base64": "iVBORw==", "content_type": "image/png"}),
        ("application/x-thing", b"\xff\x00", {"base64": "/wA=", "content_type": "application/x-thing"}),
        ("application/json", b"", None),
    ],
)
async def test_an_answer_is_json_text_or_base64(
    upstream: Upstream, executor: ToolExecutor, kind: str, body: bytes, value: Any
) -> None:
    upstream.headers, upstream.body = {"Content-Type": kind}, body

    result = await run(executor, spec_for(f"{upstream.url}/o"))

    assert result.success, result.error
    assert result.data["body"] == value


async def test_a_result_holds_only_headers_that_are_safe(upstream: Upstream, executor: ToolExecutor) -> None:
    upstream.headers |= {"ETag": '"1"', "X-RateLimit-Remaining": "7", "Set-Cookie": "a=b", "X-Internal-Token": "t"}

    headers = (await run(executor, spec_for(f"{upstream.url}/o"))).data["headers"]

    assert headers["etag"] == '"1"'
    assert headers["x-ratelimit-remaining"] == "7"
    assert {"set-cookie", "x-internal-token"} & headers.keys() == set()


async def test_a_redirect_is_reported_and_not_followed(upstream: Upstream, executor: ToolExecutor) -> None:
    upstream.status, upstream.body = 302, b""
    upstream.headers = {"Location": f"{upstream.url}/elsewhere"}

    result = await run(executor, spec_for(f"{upstream.url}/o"))

    assert len(upstream.got) == 1
    assert (result.data["status_code"], result.data["headers"]["location"]) == (302, f"{upstream.url}/elsewhere")


async def test_an_answer_that_is_too_large_is_given_up(upstream: Upstream, executor: ToolExecutor) -> None:
    upstream.headers, upstream.body = {"Content-Type": "text/plain"}, b"x" * (10 * 1024 * 1024 + 1)

    result = await run(executor, spec_for(f"{upstream.url}/o"))

    assert result.failure.code == "upstream_failed"
    assert "more than 10485760 bytes" in result.error


@pytest.mark.parametrize(("encoding", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress), ("deflate", bare)])
async def test_what_an_author_asked_for_packed_is_unpacked(
    upstream: Upstream, executor: ToolExecutor, encoding: str, pack: Any
) -> None:
    upstream.headers["Content-Encoding"], upstream.body = encoding, pack(b'{"n": [' + b"1," * 100_000 + b"1]}")

    result = await run(executor, spec_for(f"{upstream.url}/o", headers={"Accept-Encoding": encoding}))

    assert result.success, result.error
    assert result.data["body"] == {"n": [1] * 100_001}


async def test_a_small_answer_does_not_unpack_into_a_large_one(upstream: Upstream, executor: ToolExecutor) -> None:
    upstream.headers, upstream.body = {"Content-Encoding": "gzip"}, gzip.compress(b"x" * 50_000_000)
    tracemalloc.start()
    try:
        result = await run(executor, spec_for(f"{upstream.url}/o"))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert "more than 10485760 bytes" in result.error
    assert peak < 25_000_000


@pytest.mark.parametrize("encoding", ["gzip, gzip", "br", "compress"])
async def test_an_encoding_that_is_not_read_is_refused_unread(
    upstream: Upstream, executor: ToolExecutor, encoding: str
) -> None:
    upstream.headers, upstream.body = {"Content-Encoding": encoding}, gzip.compress(gzip.compress(b"x"))

    result = await run(executor, spec_for(f"{upstream.url}/o"))

    assert (result.failure.code, result.failure.retryable) == ("upstream_failed", False)
    assert "in an encoding that was not asked for" in result.error


async def test_what_cannot_be_unpacked_is_an_error(upstream: Upstream, executor: ToolExecutor) -> None:
    upstream.headers, upstream.body = {"Content-Encoding": "gzip"}, b"no gzip"

    assert "cannot be unpacked" in (await run(executor, spec_for(f"{upstream.url}/o"))).error


async def test_no_log_and_no_repr_holds_what_may_be_a_credential(
    upstream: Upstream, executor: ToolExecutor, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    spec = spec_for(
        f"{upstream.url}/o?token=hunter2", headers={"Authorization": "hunter2"}, query_params={"api_key": "hunter2"}
    )

    result = await run(executor, spec)

    assert result.success, result.error
    assert "hunter2" in upstream.got[0].path
    assert "hunter2" not in caplog.text
    assert "hunter2" not in repr(spec.define())


def test_definitions_that_send_other_credentials_have_other_digests() -> None:
    one, other = (spec_for("https://a.example/o", headers={"Authorization": token}).define() for token in "ab")

    assert one.digest != other.digest


# what goes wrong


async def raised(executor: ToolExecutor, spec: HttpToolSpec, /, **args: Any) -> Any:
    executor.registry.register_tool(spec.define(), replace=True)
    with pytest.raises(Exception) as caught:  # noqa: PT011 - each test says which
        await executor.call(spec.tool_name, **args)
    return caught.value


@pytest.mark.parametrize(
    ("status", "kind", "retryable"),
    [
        (400, "caller", False),
        (401, "caller", False),
        (404, "caller", False),
        (408, "timeout", True),
        (409, "caller", False),
        (422, "caller", False),
        (429, "rate_limit", True),
        (500, "transient", True),
        (501, "tool_error", False),
        (502, "unavailable", True),
        (503, "unavailable", True),
        (504, "unavailable", True),
    ],
)
async def test_a_status_that_is_an_error_says_of_what_kind(
    upstream: Upstream, executor: ToolExecutor, status: int, kind: str, retryable: bool
) -> None:
    upstream.status, upstream.body = status, b'{"reason": "because", "password": "hunter2"}'

    error = await raised(executor, spec_for(f"{upstream.url}/o?api_key=hunter2"))

    assert isinstance(error, RemoteToolError)
    assert (error.upstream_status, error.kind, error.retryable, error.outcome) == (status, kind, retryable, "ran")
    assert error.details["upstream_status"] == status
    assert "because" in error.details["body"]
    assert "hunter2" not in str(error)


@pytest.mark.parametrize("header", ["7", "Sun, 15 Jun 2025 15:06:47 GMT"])
async def test_retry_after_is_seconds_or_a_date(upstream: Upstream, header: str) -> None:
    upstream.status, upstream.headers = 429, {"Retry-After": header}
    clock = FakeClock(start=1_750_000_000.0)

    with executor_for(clock=clock, egress_private=LOCAL) as executor:
        error = await raised(executor, spec_for(f"{upstream.url}/o"))

    assert error.retry_after_s == 7.0


@pytest.mark.parametrize("value", ["9" * 400, "Fri, 31 Dec 9999 23:59:59 GMT"])
def test_a_retry_after_is_a_time_that_can_be_waited(value: str) -> None:
    assert retry_after_s(value, lambda: 0.0) == 1e9


@pytest.mark.parametrize(("value", "seconds"), [(None, None), ("soon", None), ("-1", None), ("0", 0.0), ("٣", None)])
def test_a_retry_after_that_says_nothing_is_none(value: str | None, seconds: float | None) -> None:
    assert retry_after_s(value, lambda: 0.0) == seconds


@pytest.mark.parametrize("host", ["127.0.0.1", "no-such-host.invalid"])
async def test_where_no_connection_was_had_nothing_was_sent(executor: ToolExecutor, host: str) -> None:
    import httpx

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]  # bound and not listening: refused

        error = await raised(executor, spec_for(f"http://{host}:{port}/o"))

    assert isinstance(error, RemoteToolError)
    assert (error.kind, error.outcome, error.retryable) == ("network", "not_run", True)
    assert isinstance(error.__cause__, httpx.ConnectError)


@pytest.mark.parametrize(("method", "outcome"), [("post", "unknown"), ("get", "ran")])
async def test_a_connection_that_breaks_leaves_the_outcome_open(
    upstream: Upstream, executor: ToolExecutor, method: str, outcome: str
) -> None:
    import httpx

    upstream.cut = True

    error = await raised(executor, spec_for(f"{upstream.url}/o", method=method))

    assert isinstance(error, RemoteToolError)
    assert (error.kind, error.outcome) == ("network", outcome)
    assert isinstance(error.__cause__, httpx.TransportError)


@pytest.mark.parametrize(("method", "outcome"), [("post", "unknown"), ("get", "stopped")])
async def test_an_answer_that_does_not_come_in_time_is_a_timeout(upstream: Upstream, method: str, outcome: str) -> None:
    with executor_for(egress_private=LOCAL) as executor:
        assert (await run(executor, spec_for(f"{upstream.url}/o", method=method))).success  # the client is made
        upstream.pause.clear()
        error = await raised(executor, spec_for(f"{upstream.url}/o", method=method, timeout_s=0.5))

    assert isinstance(error, ToolTimeoutError)
    assert error.outcome == outcome
    assert len(upstream.got) == 2


# loops and life


def test_a_caller_that_blocks_is_served_too(upstream: Upstream) -> None:
    with executor_for(spec_for(f"{upstream.url}/o", TEXT).define(), egress_private=LOCAL) as executor:
        for _ in range(2):
            result = executor.execute_sync(create_tool_call("shop", {"text": "t"}))
            assert result.success, result.error

    assert len(upstream.connections) == 1


def test_each_loop_has_its_own_client_and_closes_it(upstream: Upstream, caplog: pytest.LogCaptureFixture) -> None:
    with executor_for(egress_private=LOCAL) as executor:
        for _ in range(3):
            result = asyncio.run(run(executor, spec_for(f"{upstream.url}/o")))
            assert result.success, result.error
        clients = connections(executor)
        assert clients._kept == {}

    assert len(upstream.connections) == 3
    assert caplog.text == ""


def test_closing_the_executor_closes_the_clients_of_loops_that_go_on(upstream: Upstream) -> None:
    async def journey() -> bool:
        with executor_for(egress_private=LOCAL) as executor:
            assert (await run(executor, spec_for(f"{upstream.url}/o"))).success
            (kept,) = connections(executor)._kept.values()
        async with asyncio.timeout(20):
            while kept.value._pool.connections:
                await asyncio.sleep(0)
        return True

    assert asyncio.run(journey())


def test_a_loop_that_ends_with_its_executor_leaves_nothing_open(
    upstream: Upstream, caplog: pytest.LogCaptureFixture
) -> None:
    kept = []

    async def journey() -> None:
        with executor_for(egress_private=LOCAL) as executor:
            assert (await run(executor, spec_for(f"{upstream.url}/o"))).success
            kept.extend(connections(executor)._kept.values())

    asyncio.run(journey())

    assert [each.value._pool.connections for each in kept] == [[]]
    assert caplog.text == ""


def test_a_loop_that_ends_with_its_executor_closes_every_connection(upstream: Upstream) -> None:
    upstream.pause.clear()
    with executor_for(enable_security_checks=False, egress_private=LOCAL) as executor:
        executor.add(spec_for(f"{upstream.url}/o").define())
        call = partial(executor.execute_sync, create_tool_call("shop", {}))
        callers = [threading.Thread(target=call) for _ in range(6)]
        for caller in callers:
            caller.start()
        while len(upstream.got) < 6:
            time.sleep(0.01)
        upstream.pause.set()
        for caller in callers:
            caller.join(10)
        (kept,) = connections(executor)._kept.values()
        streams = [each._connection._network_stream for each in kept.value._pool.connections]
        sockets = [stream.get_extra_info("socket") for stream in streams]

    until = time.monotonic() + 5
    while any(each.fileno() != -1 for each in sockets) and time.monotonic() < until:
        time.sleep(0.01)

    assert [each.fileno() for each in sockets] == [-1] * 6


async def test_calls_at_the_same_time_make_one_client(upstream: Upstream, executor: ToolExecutor) -> None:
    results = await asyncio.gather(*(run(executor, spec_for(f"{upstream.url}/o")) for _ in range(20)))

    assert all(result.success for result in results)
    assert len(connections(executor)._kept) == 1


async def test_a_cancelled_call_lets_the_next_one_through(upstream: Upstream, executor: ToolExecutor) -> None:
    upstream.pause.clear()
    task = asyncio.create_task(run(executor, spec_for(f"{upstream.url}/o")))
    await asyncio.to_thread(upstream.arrived.wait, 10)

    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    upstream.pause.set()
    assert (await run(executor, spec_for(f"{upstream.url}/o"))).success


async def test_a_server_that_cannot_prove_who_it_is_is_sent_nothing(
    upstream: Upstream, executor: ToolExecutor, tmp_path: Path
) -> None:
    upstream.server.socket = self_signed(tmp_path).wrap_socket(upstream.server.socket, server_side=True)

    error = await raised(executor, spec_for(upstream.url.replace("http://127.0.0.1", "https://localhost")))

    assert isinstance(error, RemoteToolError)
    assert (error.kind, error.outcome, error.retryable) == ("tool_error", "not_run", False)
    assert "CERTIFICATE_VERIFY_FAILED" in str(error)
    assert upstream.got == []


def self_signed(folder: Path) -> ssl.SSLContext:
    """What a server needs to show a certificate for localhost that nobody has signed but itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = certificate.public_bytes(Encoding.PEM)
    pem += key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (folder / "server.pem").write_bytes(pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.pem")
    return context
