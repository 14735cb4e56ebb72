"""The quick way and the SDK's give the same answers, to good requests, bad ones and odd ones."""

import asyncio
import json
from collections.abc import Iterator
from typing import Annotated, Any

import httpx
import pytest
from opentelemetry import trace
from pydantic import Field

from tests.transports.mcp_door import FORMS, META, VERSION, Mcp, key_of, mcp_door, over_http
from toolpost import Access, Approval, Content, Question, Tool, ToolContext, policy
from toolpost.transports.mcp_fast import Fast

FIELDS = {
    "mcp-protocol-version": VERSION,
    "mcp-method": "tools/call",
    "mcp-name": "echo",
    "content-type": "application/json",
    "accept": "application/json, text/event-stream",
}
JSON = ("application/json", "application/problem+json")
ENVELOPE: dict[str, Any] = {f"{META}protocolVersion": VERSION, f"{META}clientCapabilities": {}}


@Tool(register=False)
def echo(value: Any = None, other: int = 0) -> dict[str, Any]:
    """Give a value back."""
    return {"value": value, "other": other, "nothing": None}


@Tool(register=False, name="Math.Add")
def add(a: int, b: int) -> int:
    """Add."""
    return a + b


@Tool(register=False)
def breaks() -> str:
    """Never works."""
    raise RuntimeError("the disk is full")


@Tool(register=False)
def picture() -> Content:
    """A picture, with a member that MCP does not know."""
    return Content.image(b"png", odd="member") + Content.text("a picture")


@Tool(register=False)
async def telling(context: ToolContext) -> str:
    """Tell how far it is."""
    context.progress(1, 2)
    context.log("half")
    context.artifact("a.txt", "text")
    return "told"


@Tool(register=False)
async def asking(context: ToolContext) -> str:
    """Ask."""
    return str(await context.ask({"who": Question.form("Who?")}))


@Tool(register=False)
@policy(Approval())
def guarded() -> str:
    """A person must approve."""
    return "done"


@Tool(register=False)
@policy(Access(scopes=("secret",)))
def hidden() -> str:
    """For some."""
    return "secret"


@Tool(register=False)
def mirrored(region: Annotated[str, Field(json_schema_extra={"x-mcp-header": "Region"})] = "") -> str:
    """Its argument stands in a header as well."""
    return region


TOOLS = (mirrored, echo, add, breaks, picture, telling, asking, guarded, hidden)


def request(name: str = "echo", arguments: Any = None, meta: Any = None, **more: Any) -> dict[str, Any]:
    """The body of a call."""
    params: dict[str, Any] = {"name": name, "_meta": ENVELOPE if meta is None else meta}
    if arguments is not None:
        params["arguments"] = arguments
    return {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params, **more}


def nested(depth: int) -> dict[str, Any]:
    """Capabilities that hold objects within each other."""
    value: dict[str, Any] = {}
    for _ in range(depth):
        value = {"a": value}
    return {"experimental": value}


def corpus() -> Iterator[tuple[str, dict[str, str], bytes]]:
    """(what is odd about it, headers, body)."""
    values: list[Any] = [None, True, 1, 1.5, "text", "ünïcode ☃", [1, [2]], {"a": {"b": None}}, "", {}]
    for value in values:
        yield f"value {value!r}", FIELDS, json.dumps(request(arguments={"value": value})).encode()
    bodies: dict[str, Any] = {
        "no arguments": request(),
        "arguments null": {**request(), "params": {"name": "echo", "arguments": None, "_meta": ENVELOPE}},
        "arguments a list": request(arguments=[1]),
        "unknown argument": request(arguments={"valve": 1}),
        "wrong type": request(arguments={"other": "x"}),
        "a whole float": request(arguments={"other": 3.0}),
        "a large integer": request(arguments={"value": 2**70}),
        "a long fraction": request(arguments={"value": 0.1234567890123456789}),
        "id text": request(id="one"),
        "id zero": request(id=0),
        "id null": request(id=None),
        "id fraction": request(id=1.5),
        "id true": request(id=True),
        "extra member": request(extra=1),
        "version 1.0": request(jsonrpc="1.0"),
        "another method": request(method="tools/list"),
        "a method that is none": request(method="tools/fall"),
        "no params": {"jsonrpc": "2.0", "id": 1, "method": "tools/call"},
        "params a list": request(params=[1]),
        "a name that is no text": {**request(), "params": {"name": 5, "_meta": ENVELOPE}},
        "extra param": {**request(), "params": {**request()["params"], "task": {"ttl": 1}}},
        "no meta": {**request(), "params": {"name": "echo"}},
        "meta text": request(meta="x"),
        "no capabilities": request(meta={f"{META}protocolVersion": VERSION}),
        "no version": request(meta={f"{META}clientCapabilities": {}}),
        "another version": request(meta={**ENVELOPE, f"{META}protocolVersion": "2025-11-25"}),
        "capabilities text": request(meta={**ENVELOPE, f"{META}clientCapabilities": "all"}),
        "capabilities odd": request(meta={**ENVELOPE, f"{META}clientCapabilities": {"elicitation": 5}}),
        "client info": request(meta={**ENVELOPE, f"{META}clientInfo": {"name": "c", "version": "1"}}),
        "client info null": request(meta={**ENVELOPE, f"{META}clientInfo": None}),
        "client info odd": request(meta={**ENVELOPE, f"{META}clientInfo": {"name": 5}}),
        "trace": request(meta={**ENVELOPE, "traceparent": f"00-{'a' * 32}-{'b' * 16}-01"}),
        "our keys": request(meta={**ENVELOPE, "toolpost/session_id": "s", "toolpost/deadline_s": 5}),
        "odd keys of ours": request(meta={**ENVELOPE, "toolpost/session_id": 5, "toolpost/deadline_s": -1}),
        "unknown key": request(meta={**ENVELOPE, "example/key": {"a": 1}}),
        "log level": request(meta={**ENVELOPE, f"{META}logLevel": "loud"}),
        "an endless deadline": request(meta={**ENVELOPE, "toolpost/deadline_s": 10**400}),
        "deep capabilities": request(meta={**ENVELOPE, f"{META}clientCapabilities": nested(300)}),
        "a batch": [request()],
        "a notification": {key: value for key, value in request().items() if key != "id"},
    }
    for name, body in bodies.items():
        yield name, FIELDS, json.dumps(body).encode()
    for tool in ("Math.Add", "breaks", "picture", "telling", "asking", "guarded", "hidden", "nothing", "echo@1.0.0"):
        body = request(tool, {"a": 1, "b": 2} if tool == "Math.Add" else {})
        yield f"tool {tool}", {**FIELDS, "mcp-name": tool}, json.dumps(body).encode()
    forms = {**ENVELOPE, f"{META}clientCapabilities": FORMS}
    yield "asks a client", {**FIELDS, "mcp-name": "asking"}, json.dumps(request("asking", {}, forms)).encode()
    plain = json.dumps(request(arguments={"value": 1})).encode()
    headers: dict[str, dict[str, str]] = {
        "no method header": {"mcp-method": ""},
        "another method header": {"mcp-method": "tools/list"},
        "another name header": {"mcp-name": "breaks"},
        "a name in base64": {"mcp-name": "=?base64?ZWNobw==?="},
        "a name that is broken base64": {"mcp-name": "=?base64?!?="},
        "blanks around the name": {"mcp-name": "  echo "},
        "text": {"content-type": "text/plain"},
        "charset": {"content-type": "application/json; charset=utf-8"},
        "accepts all": {"accept": "*/*"},
        "accepts JSON only": {"accept": "application/json"},
        "accepts with weights": {"accept": "text/event-stream;q=0.5, application/json"},
        "mirrors a parameter": {"mcp-param-region": "x"},
        "an unknown revision": {"mcp-protocol-version": "2099-01-01"},
        "a bad origin": {"origin": "http://evil.example"},
        "a bad host": {"host": "evil.example"},
    }
    for name, more in headers.items():
        yield name, {key: value for key, value in {**FIELDS, **more}.items() if value}, plain
    said = {**FIELDS, "mcp-name": "mirrored"}
    for region, header in (("eu", "eu"), ("eu", "us"), ("eu", None), (None, "eu"), (None, None)):
        body = request("mirrored", {} if region is None else {"region": region})
        more = said if header is None else {**said, "mcp-param-region": header}
        yield f"mirrored {region} {header}", more, json.dumps(body).encode()
    yield "not JSON", FIELDS, b"{"
    yield "empty", FIELDS, b""
    yield "lone surrogate", FIELDS, plain.replace(b'"value": 1', b'"value": "\\ud800"')
    yield "NaN", FIELDS, plain.replace(b'"value": 1', b'"value": NaN')
    yield "said twice", FIELDS, plain.replace(b'"value": 1', b'"value": 1, "value": 2')
    yield "deep", FIELDS, plain.replace(b'"value": 1', b'"value": ' + b"[" * 300 + b"]" * 300)
    yield "UTF-16", FIELDS, plain.decode().encode("utf-16")


async def answered(door: Mcp, headers: dict[str, str], body: bytes) -> tuple[int, str | None, Any]:
    response = await door.client.post("/mcp", content=body, headers=headers)
    kind = response.headers.get("content-type")
    return response.status_code, kind, same(response.json()) if kind in JSON else response.text


def same(value: Any) -> Any:
    """What must be equal of two answers: ids of calls and sealed state never are."""
    if isinstance(value, dict):
        hidden = ("toolpost/call_id", "instance", "requestState", "approval_id", "expires_at")
        return {key: "..." if key in hidden else same(one) for key, one in value.items()}
    if isinstance(value, list):
        return [same(one) for one in value]
    return value.split("calls/")[0].split("once approval")[0] if isinstance(value, str) else value


@pytest.mark.parametrize("gateway", [False, True], ids=["alone", "in the gateway"])
async def test_both_ways_answer_a_corpus_of_requests_alike(gateway: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    async with mcp_door(*TOOLS, gateway=gateway) as door:
        quick = {name: await answered(door, headers, body) for name, headers, body in corpus()}
        monkeypatch.setattr(Fast, "answered", never)
        slow = {name: await answered(door, headers, body) for name, headers, body in corpus()}

        assert {name: quick[name] for name in quick if quick[name] != slow[name]} == {
            name: slow[name] for name in slow if quick[name] != slow[name]
        }
        assert {status for status, _, _ in quick.values()} >= {200, 202, 400, 403, 406, 421}
        assert not [name for name, (status, _, answer) in quick.items() if status >= 500 or "-32603" in str(answer)]


def older() -> Iterator[tuple[str, dict[str, str], bytes]]:
    """Calls as clients of older revisions send them, without a session."""
    plain = {key: FIELDS[key] for key in ("content-type", "accept")}
    for version in (None, "2024-11-05", "2025-06-18", "2025-11-25"):
        headers = plain if version is None else {**plain, "mcp-protocol-version": version}
        for tool in ("echo", "Math.Add", "breaks", "picture", "telling", "guarded", "hidden", "nothing", "listing"):
            params = {"name": tool, "arguments": {"a": 1, "b": 2} if tool == "Math.Add" else {}}
            body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
            yield f"{version} {tool}", headers, json.dumps(body).encode()
    odd: dict[str, Any] = {
        "wrong type": {"arguments": {"other": "x"}},
        "no arguments": {},
        "ours": {"_meta": {"toolpost/session_id": "s"}},
        "progress": {"_meta": {"progressToken": 1}},
        "a task": {"task": {"ttl": 1}},
        "meta text": {"_meta": "x"},
    }
    for name, more in odd.items():
        body = {"jsonrpc": "2.0", "id": "x", "method": "tools/call", "params": {"name": "echo", **more}}
        yield name, {**plain, "mcp-protocol-version": "2025-11-25"}, json.dumps(body).encode()


async def test_older_clients_without_sessions_are_answered_alike_too(monkeypatch: pytest.MonkeyPatch) -> None:
    @Tool(register=False, returns={"type": "array"})
    def listing() -> Content:
        """A list."""
        return Content.text("a list").with_value([1])

    async def message(door: Mcp, headers: dict[str, str], body: bytes) -> tuple[int, Any]:
        status, kind, answer = await answered(door, headers, body)
        if kind == "text/event-stream":
            answer = same(json.loads(answer.partition("data: ")[2].partition("\r\n")[0]))
        return status, answer

    async with mcp_door(*TOOLS, listing, serve_workers=2) as door:
        quick = {name: await message(door, headers, body) for name, headers, body in older()}
        monkeypatch.setattr(Fast, "answered", never)
        slow = {name: await message(door, headers, body) for name, headers, body in older()}

        assert {name: quick[name] for name in quick if quick[name] != slow[name]} == {
            name: slow[name] for name in slow if quick[name] != slow[name]
        }
        assert quick["2025-11-25 Math.Add"][1]["result"]["structuredContent"] == {"result": 3}


@pytest.fixture
def took(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Of each request, whether it took the quick way."""
    took: list[bool] = []
    way = Fast.answered

    async def noted(self: Fast, *args: Any) -> Any:
        answer = await way(self, *args)
        took.append(answer is not None)
        return answer

    monkeypatch.setattr(Fast, "answered", noted)
    return took


@pytest.mark.parametrize("workers", [1, 2])
async def test_older_clients_take_the_quick_way_only_where_there_are_no_sessions(
    workers: int, took: list[bool]
) -> None:
    async with mcp_door(*TOOLS, serve_workers=workers) as door:
        await answered(door, *next((headers, body) for name, headers, body in older() if name == "2025-11-25 echo"))

    assert took == ([True] if workers == 2 else [])


@pytest.mark.parametrize(
    ("name", "arguments", "meta", "quickly"),
    [
        ("echo", {"value": 1}, {}, True),
        ("echo", {"value": 1}, {"traceparent": "x", "toolpost/idempotency_key": "k"}, True),
        ("telling", {}, {}, True),
        ("breaks", {}, {}, True),
        ("echo", {"value": 1}, {"progressToken": 1}, False),
        ("echo", {"value": 1}, {f"{META}logLevel": "info"}, False),
        ("echo", {"value": 2**70}, {}, False),
        ("guarded", {}, {}, False),
    ],
)
async def test_what_is_plain_takes_the_quick_way_and_the_rest_does_not(
    name: str, arguments: dict[str, Any], meta: dict[str, Any], quickly: bool, took: list[bool]
) -> None:
    async with mcp_door(*TOOLS) as door:
        await door.call(name, arguments, meta=meta)

        assert took == [quickly]


async def test_where_spans_are_recorded_the_sdk_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    async with mcp_door(*TOOLS) as door:
        fast = door.app._fast
        assert fast is not None
        assert fast._plain_tool("echo") is not None
        monkeypatch.setattr(trace, "_TRACER_PROVIDER", trace.NoOpTracerProvider())
        assert fast._plain_tool("echo") is None


async def test_a_body_that_asks_is_not_run_twice_by_the_two_ways() -> None:
    runs: list[int] = []

    @Tool(register=False)
    async def counted(context: ToolContext) -> str:
        """Ask."""
        runs.append(1)
        return str(await context.ask({"who": Question.form("Who?")}))

    async with mcp_door(counted) as door:
        asked = await door.call("counted", capabilities=FORMS)

        assert asked["resultType"] == "input_required"
        assert len(runs) == 1


async def test_a_known_caller_is_the_calls_on_the_quick_way_too() -> None:
    seen: list[str | None] = []

    @Tool(register=False)
    async def who(context: ToolContext) -> str:
        """Who asks."""
        seen.append(context.user_id)
        return "seen"

    async with mcp_door(who) as door:
        await door.call("who", headers=key_of(door.executor, "ann"))
        await door.call("who", headers=key_of(door.executor, "bob"), meta={"progressToken": 1})

        assert seen == ["ann", "bob"]


@pytest.mark.parametrize("gateway", [False, True], ids=["alone", "in the gateway"])
@pytest.mark.parametrize("meta", [{}, {"progressToken": 1}], ids=["quick", "sdk"])
async def test_a_client_that_goes_away_cancels_its_call(meta: dict[str, Any], gateway: bool) -> None:
    began, ended = asyncio.Event(), asyncio.Event()

    @Tool(register=False)
    async def waits() -> str:
        """Wait."""
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        return "never"

    async with mcp_door(waits, gateway=gateway) as door, over_http(door) as url, httpx.AsyncClient() as client:
        sent = door.request("tools/call", {"name": "waits", "arguments": {}}, meta=meta)
        headers = {key: value for key, value in sent.headers.items() if key not in ("host", "content-length")}
        calling = asyncio.create_task(client.post(url, content=sent.content, headers=headers))
        await began.wait()
        calling.cancel()
        async with asyncio.timeout(5):
            await ended.wait()


async def never(self: Fast, *args: Any) -> None:
    """Leaves all to the SDK."""
