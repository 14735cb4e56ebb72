"""ctx.http against real listeners: methods, redirects, limits, both colours of bodies, and what it may reach."""

from __future__ import annotations

import asyncio
import gzip
import json
import time
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

import pytest

from tests.security.canaries import OK, Listener, listening, redirect
from toolpost import (
    BaseTool,
    ConfigurationError,
    Egress,
    EgressDeniedError,
    EgressGuard,
    FunctionToolExecutor,
    FunctionToolSpec,
    HttpResponse,
    RemoteToolError,
    Tool,
    ToolContext,
    ToolExecutor,
    ToolTimeoutError,
    create_tool_call,
    policy,
)
from toolpost.runners import http_answers
from toolpost.security import egress_transport
from toolpost.testing import executor_for

LOCAL = Egress(private=("127.0.0.1:*",))


@pytest.fixture
def executor() -> Iterator[ToolExecutor]:
    with executor_for(enable_security_checks=False) as made:
        yield made


async def through(executor: ToolExecutor, send: Any, egress: Egress | None = LOCAL, **policies: Any) -> Any:
    """What an async tool gives that hands its context to send; raises the call's error."""

    @Tool(name="Net.Send", register=False, egress=egress, **policies)
    async def body(ctx: ToolContext) -> Any:
        return await send(ctx)

    executor.add(body, replace=True)
    return await executor.call("Net.Send")


def answering(body: bytes, *headers: str, status: str = "200 OK") -> bytes:
    fields = [f"HTTP/1.1 {status}", *headers, f"Content-Length: {len(body)}", "", ""]
    return "\r\n".join(fields).encode("latin-1") + body


# requests and answers


async def test_each_method_sends_its_request_and_gives_the_answer(executor: ToolExecutor) -> None:
    async def send(ctx: ToolContext) -> Any:
        client, url = ctx.http, f"{server.url}/x"
        sent = [
            await client.get(url, params={"q": "a b", "n": [1, 2], "none": None, "t": True}),
            await client.head(url),
            await client.options(url),
            await client.post(url, json={"a": 1}),
            await client.put(url, content="t\u00e9xt"),
            await client.patch(url, data={"f": "1&2"}, headers={"X-Own": "yes"}),
            await client.delete(url, content=b"\x00\x01"),
        ]
        return [response.status_code for response in sent]

    async with listening(lambda path: OK) as server:
        server.answer = lambda path: answering(b"") if len(server.requests) == 2 else OK
        assert await through(executor, send) == [200] * 7

    first = [request.split("\r\n")[0] for request in server.requests]
    assert first[0] == "GET /x?q=a+b&n=1&n=2&t=true HTTP/1.1"
    assert [line.split()[0] for line in first] == ["GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"]
    assert server.requests[3].endswith('\r\n\r\n{"a":1}')
    assert "Content-Type: application/json" in server.requests[3]
    assert server.requests[4].encode("latin-1").endswith("\r\n\r\nt\u00e9xt".encode())
    assert "X-Own: yes" in server.requests[5]
    assert server.requests[5].endswith("\r\n\r\nf=1%262")
    assert server.connections == 2  # whoever is asked for HEAD may send a body after all


async def test_the_answer_says_all_there_is_to_say(executor: ToolExecutor) -> None:
    seen: list[HttpResponse] = []

    async def send(ctx: ToolContext) -> None:
        seen.append(await ctx.http.get(f"{server.url}/a?b=c#d"))

    body = json.dumps({"k": ["ä"]}).encode()
    answer = answering(body, "Content-Type: application/json; charset=utf-8", "Set-Cookie: a=1", "set-cookie: b=2")
    async with listening(lambda path: answer) as server:
        await through(executor, send)

    (response,) = seen
    assert (response.status_code, response.ok, response.method) == (200, True, "GET")
    assert response.url == f"{server.url}/a?b=c"
    assert response.json() == response.body == {"k": ["ä"]}
    assert response.text == body.decode()
    assert response.content == body
    assert response.headers["CONTENT-type"].startswith("application/json")
    assert response.headers.all("Set-Cookie") == ["a=1", "b=2"]
    assert "set-cookie" not in response.headers.public()
    assert (response.history, response.tls_expires_at) == ((), None)
    assert response.elapsed_s > 0
    assert response.raise_for_status() is response


@pytest.mark.parametrize(
    ("status", "kind"), [("404 Gone", "caller"), ("429 Slow", "rate_limit"), ("503 No", "unavailable")]
)
async def test_a_status_of_failure_is_an_answer_until_it_is_made_an_error(
    executor: ToolExecutor, status: str, kind: str
) -> None:
    async def send(ctx: ToolContext) -> int:
        return (await ctx.http.get(server.url)).status_code

    async def strict(ctx: ToolContext) -> None:
        (await ctx.http.get(server.url)).raise_for_status()

    async with listening(lambda path: answering(b"why", "Retry-After: 3", status=status)) as server:
        assert await through(executor, send) == int(status[:3])
        with pytest.raises(RemoteToolError) as raised:
            await through(executor, strict)

    assert (raised.value.kind, raised.value.retry_after_s) == (kind, 3.0)
    assert raised.value.details["body"] == "why"


async def test_what_is_no_json_is_an_error_of_the_other_side(executor: ToolExecutor) -> None:
    async def send(ctx: ToolContext) -> Any:
        return (await ctx.http.get(server.url)).json()

    async with listening(lambda path: answering(b"{oops")) as server:
        with pytest.raises(RemoteToolError, match="answered what is no JSON"):
            await through(executor, send)


# a client for bodies that block


async def test_a_sync_tool_sends_by_the_sync_client(executor: ToolExecutor) -> None:
    @Tool(name="Net.Blocks", register=False, egress=LOCAL)
    def body(ctx: ToolContext) -> Any:
        return [ctx.http.sync.get(f"{server.url}/{n}").text for n in range(3)]

    executor.add(body)
    async with listening() as server:
        result = await executor.execute_tool_call(create_tool_call("Net.Blocks", {}))

    assert result.data == {"result": ["ok"] * 3}
    assert server.paths == ["/0", "/1", "/2"]


async def test_a_sync_tool_of_a_blocking_caller_sends_as_well(executor: ToolExecutor) -> None:
    class Net(BaseTool):
        @policy(LOCAL)
        def send(self, ctx: ToolContext, url: str) -> str:
            return ctx.http.sync.post(url, json=[1]).text

        @policy(LOCAL)
        async def send_async(self, ctx: ToolContext, url: str) -> str:
            return (await ctx.http.post(url, json=[2])).text

    async with listening() as server:
        net = Net()
        assert await asyncio.to_thread(executor.execute, net, "send", url=server.url) == "ok"
        assert await asyncio.to_thread(executor.execute, net, "send_async", url=server.url) == "ok"

    assert [request[-3:] for request in server.requests] == ["[1]", "[2]"]


async def test_a_spec_says_where_its_function_may_go(executor: ToolExecutor) -> None:
    async def send(args: dict[str, Any], ctx: ToolContext) -> str:
        return (await ctx.http.get(args["url"])).text

    parameters = [{"type": "string", "name": "url", "required": True}]
    spec = FunctionToolSpec(id="s", tool_name="s", description="", parameters=parameters, egress=LOCAL)
    async with listening() as server:
        allowed = await FunctionToolExecutor(spec, send, executor=executor).execute({"url": server.url}, ToolContext())
        spec.egress = None
        refused = await FunctionToolExecutor(spec, send, executor=executor).execute({"url": server.url}, ToolContext())

    assert allowed.data == "ok"
    assert refused.failure.code == "egress_denied"
    assert server.connections == 1


async def test_each_client_tells_who_uses_the_wrong_one(executor: ToolExecutor) -> None:
    @Tool(name="Net.Wrong", register=False)
    def blocks(ctx: ToolContext) -> Any:
        return ctx.http.get("https://example.com/")

    async def wrong(ctx: ToolContext) -> Any:
        return ctx.http.sync.get("https://example.com/")

    executor.add(blocks)
    result = await executor.execute_tool_call(create_tool_call("Net.Wrong", {}))

    assert "call ctx.http.sync" in str(result.failure)
    with pytest.raises(ConfigurationError, match=r"write await ctx\.http"):
        await through(executor, wrong)


def test_outside_of_a_call_there_is_no_client() -> None:
    with pytest.raises(ConfigurationError, match="only the context of a call"):
        _ = ToolContext().http


# where it may go


async def test_without_a_policy_nothing_of_this_machine_is_reached(executor: ToolExecutor) -> None:
    async def send(ctx: ToolContext) -> Any:
        return await ctx.http.get(server.url)

    async with listening() as server:
        for egress in (None, Egress(hosts=("127.0.0.1",)), Egress(private=("127.0.0.2:*",))):
            with pytest.raises(EgressDeniedError) as refused:
                await through(executor, send, egress)

    assert refused.value.details["rule"] == "egress.private-address"
    assert refused.value.tool == "Net.Send"
    assert server.connections == 0


async def test_a_refusal_does_not_open_a_breaker_and_is_not_tried_again(executor: ToolExecutor) -> None:
    from toolpost import Breaker, Retry

    calls = 0

    async def send(ctx: ToolContext) -> Any:
        nonlocal calls
        calls += 1
        return await ctx.http.get("http://10.0.0.1/")

    for _ in range(5):
        with pytest.raises(EgressDeniedError):
            await through(executor, send, None, breaker=Breaker(failures=1), retry=Retry(attempts=3, wait_s=0))

    assert calls == 5


async def test_a_name_that_is_unknown_is_a_failure_of_the_network() -> None:
    async def nobody(host: str, port: int) -> Sequence[str]:
        raise OSError("not known")

    async def send(ctx: ToolContext) -> Any:
        return await ctx.http.get("https://nowhere.test/")

    with executor_for(egress=EgressGuard(resolve=nobody)) as executor:
        with pytest.raises(RemoteToolError) as failed:
            await through(executor, send, None)

    assert not isinstance(failed.value, EgressDeniedError)
    assert failed.value.kind == "network"


async def test_settings_that_change_hold_for_the_next_call(executor: ToolExecutor) -> None:
    async def send(ctx: ToolContext) -> Any:
        return (await ctx.http.get(server.url)).text

    async with listening() as server:
        with pytest.raises(EgressDeniedError):
            await through(executor, send, None)
        executor.config.egress_private = ("127.0.0.1:*",)
        assert await through(executor, send, None) == "ok"
        executor.config.egress_private = ()
        with pytest.raises(EgressDeniedError):
            await through(executor, send, None)

    assert server.connections == 1


# redirects


async def test_redirects_are_not_followed_unless_asked_for(executor: ToolExecutor) -> None:
    async def send(ctx: ToolContext) -> Any:
        plain = await ctx.http.get(f"{server.url}/from")
        followed = await ctx.http.get(f"{server.url}/from", follow_redirects=True)
        return [plain.status_code, followed.status_code, followed.url, [list(hop) for hop in followed.history]]

    async with listening(lambda path: redirect("/to?x=1") if path == "/from" else OK) as server:
        plain, followed, url, history = await through(executor, send)

    assert (plain, followed, url) == (302, 200, f"{server.url}/to?x=1")
    assert history == [[302, f"{server.url}/from"]]


async def test_a_loop_of_redirects_ends(executor: ToolExecutor) -> None:
    async def send(ctx: ToolContext) -> Any:
        return await ctx.http.get(server.url, follow_redirects=True)

    async with listening(lambda path: redirect("/again")) as server:
        with pytest.raises(RemoteToolError, match="redirected more than 5 times"):
            await through(executor, send)

    assert len(server.requests) == 6


@pytest.mark.parametrize(
    "to",
    [
        "http://127.0.0.2:{p}/",
        "http://[::1]:{p}/",
        "//127.0.0.2:{p}/",
        "http://2130706434:{p}/",
        "file:///etc/passwd",
        "http://169.254.169.254/",
        "http://u:p@127.0.0.2:{p}/",
        "http:\\\\127.0.0.2:{p}/",
        "http://127.2:{p}/",
    ],
)
async def test_no_redirect_leads_where_the_tool_may_not_go(executor: ToolExecutor, to: str) -> None:
    async def send(ctx: ToolContext) -> Any:
        return await ctx.http.post(server.url, json=1, follow_redirects=True)

    async with listening() as server, listening(host="127.0.0.2", port=server.port) as canary:
        server.answer = lambda path: redirect(to.replace("{p}", str(server.port)), 307)
        with pytest.raises(EgressDeniedError) as refused:
            await through(executor, send)

    assert refused.value.outcome == "ran"  # the first request was sent
    assert (len(server.requests), canary.connections) == (1, 0)


@pytest.mark.parametrize(
    ("status", "method", "then", "keeps_body"),
    [
        (301, "POST", "GET", False),
        (302, "POST", "GET", False),
        (303, "POST", "GET", False),
        (303, "PUT", "GET", False),
        (303, "HEAD", "HEAD", False),
        (301, "PUT", "PUT", True),
        (302, "DELETE", "DELETE", True),
        (307, "POST", "POST", True),
        (308, "PATCH", "PATCH", True),
    ],
)
async def test_the_method_after_a_redirect_is_what_http_says(
    executor: ToolExecutor, status: int, method: str, then: str, keeps_body: bool
) -> None:
    async def send(ctx: ToolContext) -> None:
        content = None if method == "HEAD" else b"body"
        await ctx.http.request(method, server.url, content=content, follow_redirects=True)

    async with listening(lambda path: redirect("/to", status) if path == "/" else answering(b"")) as server:
        await through(executor, send)

    assert server.requests[1].split()[0] == then
    assert server.requests[1].endswith("body") == keeps_body
    assert ("content-length" in server.requests[1].lower()) == keeps_body


async def test_credentials_are_for_the_origin_that_they_were_meant_for(executor: ToolExecutor) -> None:
    headers = {"Authorization": "Bearer s", "Cookie": "c=1", "X-Api-Key": "k", "X-Whatever": "w", "Accept": "text/html"}

    async def send(ctx: ToolContext) -> None:
        await ctx.http.get(f"{server.url}/one", headers=headers, follow_redirects=True)

    egress = Egress(private=("127.0.0.1:*", "127.0.0.2:*"))
    async with listening() as server, listening(host="127.0.0.2") as other:
        back = f"{server.url}/back"
        steps = {"/one": redirect("/two"), "/two": redirect(f"http://127.0.0.2:{other.port}/")}
        server.answer = lambda path: steps.get(path, OK)
        other.answer = lambda path: redirect(back)
        await through(executor, send, egress)

    one, two, three = server.requests
    for value in ("Bearer s", "c=1", "X-Api-Key", "X-Whatever", "text/html"):
        assert value in one
        assert value in two
        assert (value in other.requests[0]) == (value in three) == (value == "text/html")


# limits


async def test_an_answer_larger_than_allowed_is_an_error(executor: ToolExecutor) -> None:
    async def send(ctx: ToolContext) -> Any:
        return len((await ctx.http.get(server.url, max_bytes=1000)).content)

    async with listening(lambda path: answering(b"x" * 1000)) as server:
        assert await through(executor, send) == 1000
        server.answer = lambda path: answering(b"x" * 1001)
        with pytest.raises(RemoteToolError, match="more than 1000 bytes"):
            await through(executor, send)


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
async def test_an_answer_is_unpacked_within_bounds(executor: ToolExecutor, encoding: str) -> None:
    pack = gzip.compress if encoding == "gzip" else zlib.compress

    async def send(ctx: ToolContext) -> Any:
        return len((await ctx.http.get(server.url)).content)

    async with listening(lambda path: answering(pack(b"abc" * 100), f"Content-Encoding: {encoding}")) as server:
        assert await through(executor, send) == 300
        server.answer = lambda path: answering(pack(b"\0" * 3_000_000), f"Content-Encoding: {encoding}")
        with pytest.raises(RemoteToolError, match="200 times its size"):
            await through(executor, send)
        server.answer = lambda path: answering(pack(b"\0" * 30_000_000), f"Content-Encoding: {encoding}")
        with pytest.raises(RemoteToolError, match=r"more than 10485760 bytes|200 times"):
            await through(executor, send)
        server.answer = lambda path: answering(b"x", "Content-Encoding: gzip, gzip")
        with pytest.raises(RemoteToolError, match="encoding that was not asked for"):
            await through(executor, send)


async def test_codecs_that_only_python_has_are_not_taken_from_an_answer(executor: ToolExecutor) -> None:
    async def send(ctx: ToolContext) -> Any:
        begun = time.perf_counter()
        response = await ctx.http.get(server.url)
        return [response.text[:3], response.body[:3], time.perf_counter() - begun]

    body = b"ab" * 30_000
    async with listening(lambda path: answering(body, "Content-Type: text/plain; charset=punycode")) as server:
        text, value, took_s = await through(executor, send)

    assert (text, value) == ("aba", "aba")
    assert took_s < 1


@pytest.mark.parametrize("charset", ["hex", "rot13", "zlib_codec"])
async def test_a_charset_that_makes_no_text_is_not_taken_from_an_answer(executor: ToolExecutor, charset: str) -> None:
    async def send(ctx: ToolContext) -> Any:
        response = await ctx.http.get(server.url)
        return [response.text, response.body]

    async with listening(lambda path: answering(b"6162", f"Content-Type: text/plain; charset={charset}")) as server:
        assert await through(executor, send) == ["6162", "6162"]


async def test_an_answer_packed_in_several_members_is_unpacked_whole(executor: ToolExecutor) -> None:
    async def send(ctx: ToolContext) -> Any:
        return (await ctx.http.get(server.url)).text

    body = gzip.compress(b"one ") + gzip.compress(b"") + gzip.compress(b"two")
    async with listening(lambda path: answering(body, "Content-Encoding: gzip")) as server:
        assert await through(executor, send) == "one two"


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("gzip", gzip.compress(b"abc" * 1000, mtime=0)[:-9]),
        ("gzip", gzip.compress(b"abc", mtime=0) + b"more"),
        ("gzip", gzip.compress(b"", mtime=0) * 1001),
        ("deflate", zlib.compress(b"abc" * 1000)[:-1]),
        ("deflate", zlib.compress(b"abc") * 2),
    ],
)
async def test_an_answer_that_is_cut_off_or_goes_on_after_its_end_is_no_answer(
    executor: ToolExecutor, encoding: str, body: bytes
) -> None:
    async def send(ctx: ToolContext) -> Any:
        return (await ctx.http.get(server.url)).text

    async with listening(lambda path: answering(body, f"Content-Encoding: {encoding}")) as server:
        with pytest.raises(RemoteToolError, match="cannot be unpacked") as failed:
            await through(executor, send)

    assert failed.value.retryable is False


async def test_an_answer_in_very_small_pieces_takes_no_more_room_than_its_bytes() -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for n in range(200_000):
            yield b"%d" % (n % 90 + 10)

    tracemalloc.start()
    try:
        data = await http_answers.read("GET x", pieces(), "", 1_000_000)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert len(data) == 400_000
    assert peak < 1_500_000


async def test_fewer_bytes_than_none_are_none(executor: ToolExecutor) -> None:
    async def send(ctx: ToolContext) -> Any:
        return await ctx.http.get(server.url, max_bytes=-2)

    async with listening(lambda path: answering(gzip.compress(b"x"), "Content-Encoding: gzip")) as server:
        with pytest.raises(RemoteToolError, match="more than 0 bytes"):
            await through(executor, send)


async def test_a_body_that_answers_head_is_not_taken_for_the_next_answer(executor: ToolExecutor) -> None:
    async def send(ctx: ToolContext) -> Any:
        await ctx.http.head(server.url)
        return (await ctx.http.get(server.url)).text

    forged = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged"
    async with listening(lambda path: answering(forged)) as server:
        assert (await through(executor, send)).startswith("HTTP/1.1")


async def test_where_a_redirect_was_sent_it_is_not_said_that_nothing_was(executor: ToolExecutor) -> None:
    said: list[str] = []

    async def send(ctx: ToolContext) -> Any:
        for path in ("/refused", "/denied"):
            try:
                await ctx.http.post(f"{server.url}{path}", follow_redirects=True)
            except RemoteToolError as error:
                said.append(f"{error.code} {error.outcome}")

    async def inner(host: str, port: int) -> list[str]:
        return ["10.0.0.1"]

    to = {"/refused": redirect("http://127.0.0.1:1/", 307), "/denied": redirect("http://rebound.example/", 307)}
    guard = EgressGuard(private=("127.0.0.1:*",), resolve=inner)
    async with listening(lambda path: to[path]) as server:
        with executor_for(enable_security_checks=False, egress=guard) as made:
            await through(made, send)

    assert said == ["upstream_failed ran", "egress_denied ran"]


async def test_headers_have_an_end(executor: ToolExecutor) -> None:
    async def send(ctx: ToolContext) -> Any:
        return await ctx.http.get(server.url)

    async with listening(lambda path: answering(b"", *[f"X-{n}: y" for n in range(400)])) as server:
        with pytest.raises(RemoteToolError, match="more than 256 headers"):
            await through(executor, send)
        server.answer = lambda path: answering(b"", *[f"X-{n}: {'y' * 10_000}" for n in range(100)])
        with pytest.raises(RemoteToolError, match="failed"):
            await through(executor, send)


class Dripping(Listener):
    """Sends the beginning of an answer, and then a byte at a time, for ever."""

    def __init__(self, head: bytes) -> None:
        super().__init__(lambda path: OK)
        self.head = head

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        self.requests.append("")
        try:
            writer.write(self.head)
            while True:
                writer.write(b"x")
                await writer.drain()
                await asyncio.sleep(0.02)
        except ConnectionError:
            self.connections = -1
        finally:
            writer.close()


@pytest.mark.parametrize("head", [b"HTTP/1.1 200 OK\r\nX: ", b"HTTP/1.1 200 OK\r\nContent-Length: 99999\r\n\r\n"])
async def test_who_trickles_is_given_up_in_time_and_let_go_of(executor: ToolExecutor, head: bytes) -> None:
    dripping = Dripping(head)
    server = await asyncio.start_server(dripping.serve, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"

    async def send(ctx: ToolContext) -> Any:
        return await ctx.http.get(url, timeout_s=0.3)

    begun = time.perf_counter()
    async with server:
        with pytest.raises(ToolTimeoutError):
            await through(executor, send)
        took_s = time.perf_counter() - begun
        async with asyncio.timeout(5):
            while dripping.connections != -1:  # the connection is closed, not left to trickle on
                await asyncio.sleep(0.01)

    assert took_s < 2


async def test_an_answer_that_pauses_for_long_is_given_up(
    executor: ToolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(egress_transport, "IDLE_S", 0.1)

    async def send(ctx: ToolContext) -> Any:
        return await ctx.http.get(server.url, timeout_s=20)

    async with listening(lambda path: answering(b"x" * 100)[:-50]) as server:
        begun = time.perf_counter()
        with pytest.raises(ToolTimeoutError):
            await through(executor, send)

    assert time.perf_counter() - begun < 5


async def test_a_request_ends_with_its_call(executor: ToolExecutor) -> None:
    async def send(ctx: ToolContext) -> Any:
        return await ctx.http.get(url, timeout_s=60)

    dripping = Dripping(b"HTTP/1.1 200 OK\r\nX: ")
    server = await asyncio.start_server(dripping.serve, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    begun = time.perf_counter()
    async with server:
        with pytest.raises(ToolTimeoutError):
            await through(executor, send, timeout_seconds=0.3)

    assert time.perf_counter() - begun < 2


# what cannot be sent


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "x"},
        {"content-length": "5"},
        {"Transfer-Encoding": "chunked"},
        {"Connection": "close"},
        {"Proxy-Authorization": "x"},
        {"Upgrade": "websocket"},
        {"X": "a\r\nInjected: 1"},
        {"X\r\nInjected": "1"},
        {"X": "a\x00"},
        {"X Y": "1"},
        {"": "1"},
        {"X": " padded "},
        {"X": "\u20ac"},
        {"X": 1},
    ],
)
async def test_headers_that_would_change_the_request_are_refused(
    executor: ToolExecutor, headers: dict[str, Any]
) -> None:
    async def send(ctx: ToolContext) -> Any:
        return await ctx.http.get(server.url, headers=headers)

    async with listening() as server:
        with pytest.raises(RemoteToolError) as refused:
            await through(executor, send)

    assert refused.value.kind == "caller"
    assert server.connections == 0


@pytest.mark.parametrize("method", ["CONNECT", "TRACE", "GET /x HTTP/1.1\r\nX: y\r\n\r\nGET", "", "G\u00cbT", 7])
async def test_methods_that_are_none_are_refused(executor: ToolExecutor, method: Any) -> None:
    async def send(ctx: ToolContext) -> Any:
        return await ctx.http.request(method, server.url)

    async with listening() as server:
        with pytest.raises(RemoteToolError, match="is no method"):
            await through(executor, send)

    assert server.connections == 0


async def test_only_one_body_is_sent(executor: ToolExecutor) -> None:
    async def send(ctx: ToolContext) -> Any:
        return await ctx.http.post("https://example.com", json={}, content=b"")

    with pytest.raises(ConfigurationError, match="give one of json, content and data"):
        await through(executor, send)
