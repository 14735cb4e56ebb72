"""Web.HTTPRequest and Web.URLHealth as they are called."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.security.canaries import OK, Listener, listening, redirect
from toolpost import EgressGuard, ToolExecutor, ToolResult, create_tool_call, export_tool
from toolpost.testing import executor_for
from toolpost.toolbox import web_tools

REQUEST, HEALTH = "Web.HTTPRequest", "Web.URLHealth"


@pytest.fixture
def executor() -> Iterator[ToolExecutor]:
    with executor_for(web_tools(), egress_private=("127.0.0.1:*",)) as made:
        yield made


@asynccontextmanager
async def site() -> AsyncIterator[Listener]:
    body = json.dumps({"a": 1}).encode()
    answer = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nSet-Cookie: s=1\r\nContent-Length: %d\r\n\r\n%s"
    pages = {
        "/json": answer % (len(body), body),
        "/moved": redirect("/json"),
        "/gone": b"HTTP/1.1 410 Gone\r\nContent-Length: 0\r\n\r\n",
        "/empty": b"HTTP/1.1 204 No Content\r\n\r\n",
        "/inner": redirect("http://10.0.0.1/"),
    }
    async with listening(lambda path: pages.get(path, OK)) as listener:
        yield listener


async def call(executor: ToolExecutor, tool: str, **arguments: Any) -> ToolResult:
    return await executor.execute_tool_call(create_tool_call(tool, arguments))


async def test_a_request_gives_its_answer(executor: ToolExecutor) -> None:
    async with site() as server:
        result = await call(executor, REQUEST, url=f"{server.url}/moved", headers={"X-Mine": "yes"})

    assert result.success, result.error
    assert result.data["elapsed_ms"] > 0
    assert {name: value for name, value in result.data.items() if name != "elapsed_ms"} == {
        "status_code": 200,
        "ok": True,
        "url": f"{server.url}/json",
        "headers": {"content-type": "application/json", "content-length": "8"},
        "body": {"a": 1},
        "redirects": [{"status_code": 302, "url": f"{server.url}/moved"}],
    }
    assert "X-Mine: yes" in server.requests[0]


async def test_a_status_of_failure_is_an_answer_too(executor: ToolExecutor) -> None:
    async with site() as server:
        result = await call(executor, REQUEST, url=f"{server.url}/gone", follow_redirects=False)

    assert (result.success, result.data["status_code"], result.data["ok"], result.data["body"]) == (
        True,
        410,
        False,
        None,
    )


@pytest.mark.parametrize(
    ("arguments", "sent"),
    [({"body": "text=1", "headers": {"Content-Type": "text/x"}}, "text=1"), ({"json": {"k": [1]}}, '{"k":[1]}')],
)
async def test_a_body_is_text_or_json(executor: ToolExecutor, arguments: dict[str, Any], sent: str) -> None:
    async with site() as server:
        result = await call(executor, REQUEST, url=server.url, method="POST", **arguments)

    assert result.success, result.error
    assert server.requests[0].endswith(f"\r\n\r\n{sent}")
    assert server.requests[0].lower().count("content-type:") == 1


async def test_not_both_bodies(executor: ToolExecutor) -> None:
    result = await call(executor, REQUEST, url="https://example.com", method="POST", body="x", json=1)

    assert result.failure is not None
    assert result.failure.code == "invalid_input"


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.test"},
        {"hOsT": "evil.test"},
        {"Content-Length": "0"},
        {"Transfer-Encoding": "chunked"},
        {"Connection": "upgrade"},
        {"Proxy-Authorization": "x"},
        {"proxy-anything": "x"},
        {"TE": "trailers"},
        {"Upgrade": "h2c"},
        {"Expect": "100-continue"},
        {"X-Forwarded-For": "127.0.0.1"},
        {"Forwarded": "for=127.0.0.1"},
        {"Metadata-Flavor": "Google"},
        {"Metadata": "true"},
        {"X-aws-ec2-metadata-token": "x"},
        {"X_Forwarded_For": "127.0.0.1"},
        {"Proxy_Authorization": "x"},
        {"X": "a\r\nHost: evil"},
        {"X": "a\nb"},
        {"X\r\nHost": "evil"},
        {"X:": "y"},
        {"": "y"},
        {"X": "\u00e4"},
    ],
)
async def test_no_model_sets_headers_that_are_not_its_own(executor: ToolExecutor, headers: dict[str, str]) -> None:
    async with site() as server:
        result = await call(executor, REQUEST, url=server.url, headers=headers)

    assert result.failure is not None
    assert result.failure.code == "invalid_input"
    assert server.connections == 0


@pytest.mark.parametrize("tool", [REQUEST, HEALTH])
@pytest.mark.parametrize(
    "url",
    [
        "http://10.0.0.1/",
        "http://[::1]/",
        "http://169.254.169.254/latest",
        "file:///etc/passwd",
        "http://0x7f.1/",
        "http://u:p@example.com/",
        "http://example.com:22/",
        "not a url",
        "//example.com/",
    ],
)
async def test_an_address_that_may_not_be_reached_is_an_error_of_both(tool: str, url: str) -> None:
    with executor_for(web_tools()) as executor:
        result = await call(executor, tool, url=url)

    assert result.failure is not None
    assert result.failure.code == "egress_denied"
    assert result.failure.details["rule"].startswith("egress.")


@pytest.mark.parametrize("tool", [REQUEST, HEALTH])
async def test_a_redirect_to_where_nobody_may_go_is_an_error_of_both(executor: ToolExecutor, tool: str) -> None:
    async with site() as server:
        result = await call(executor, tool, url=f"{server.url}/inner")

    assert result.failure is not None
    assert result.failure.code == "egress_denied"


async def test_an_answer_larger_than_asked_for_is_an_error(executor: ToolExecutor) -> None:
    async with site() as server:
        result = await call(executor, REQUEST, url=server.url, max_bytes=1)

    assert result.failure is not None
    assert "more than 1 bytes" in result.failure.message


async def test_a_url_is_well_when_it_answers(executor: ToolExecutor) -> None:
    async with site() as server:
        server_answer = server.answer
        server.answer = lambda path: server_answer(path).partition(b"\r\n\r\n")[0] + b"\r\n\r\n"  # to HEAD, no body
        result = await call(executor, HEALTH, url=f"{server.url}/moved")

    assert result.success, result.error
    data = dict(result.data)
    assert data.pop("response_time_ms") > 0
    assert data == {
        "reachable": True,
        "healthy": True,
        "status_code": 200,
        "url": f"{server.url}/json",
        "redirects": [{"status_code": 302, "url": f"{server.url}/moved"}],
        "tls_days_left": None,
        "error": None,
    }
    assert [request.split()[0] for request in server.requests] == ["HEAD", "HEAD"]


async def test_where_head_is_refused_get_is_asked(executor: ToolExecutor) -> None:
    async with listening() as server:
        server.answer = lambda path: b"HTTP/1.1 405 No\r\n\r\n" if server.requests[-1].startswith("HEAD") else OK
        result = await call(executor, HEALTH, url=server.url)

    assert (result.data["healthy"], result.data["status_code"]) == (True, 200)
    assert [request.split()[0] for request in server.requests] == ["HEAD", "GET"]


async def test_a_url_that_answers_with_an_error_is_reachable_and_ill(executor: ToolExecutor) -> None:
    async with site() as server:
        result = await call(executor, HEALTH, url=f"{server.url}/gone")

    assert (result.data["reachable"], result.data["healthy"], result.data["status_code"]) == (True, False, 410)


async def test_a_url_that_does_not_answer_is_a_result(executor: ToolExecutor) -> None:
    async with listening() as server:
        gone = server.url
    result = await call(executor, HEALTH, url=gone)

    assert result.success
    assert (result.data["reachable"], result.data["healthy"], result.data["status_code"]) == (False, False, None)
    assert "could not be connected to" in result.data["error"]


async def test_a_name_that_is_unknown_is_a_result() -> None:
    async def nobody(host: str, port: int) -> list[str]:
        raise OSError("not known")

    with executor_for(web_tools(), egress=EgressGuard(resolve=nobody)) as executor:
        result = await call(executor, HEALTH, url="https://nowhere.test/")

    assert (result.success, result.data["reachable"]) == (True, False)


async def test_a_url_that_takes_too_long_is_a_result(executor: ToolExecutor) -> None:
    async with listening(lambda path: b"") as server:
        result = await call(executor, HEALTH, url=server.url, timeout_s=0.2)

    assert (result.success, result.data["reachable"]) == (True, False)
    assert "in time" in result.data["error"]


def test_the_tools_say_what_they_are() -> None:
    told = {tool["name"]: tool["annotations"] for tool in (export_tool(one, "mcp") for one in web_tools())}

    assert told[REQUEST] == {
        "readOnlyHint": False,
        "destructiveHint": True,
        "idempotentHint": False,
        "openWorldHint": True,
    }
    assert told[HEALTH] == {
        "readOnlyHint": True,
        "destructiveHint": False,
        "idempotentHint": True,
        "openWorldHint": True,
    }
