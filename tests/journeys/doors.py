"""The doors: each makes a call in its own way and tells in the common form what its caller was told."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar
from unittest.mock import patch

import httpx_sse
from click.testing import CliRunner
from websockets.sync.client import connect

from tests.journeys.observed import Told, of_cli, of_format, of_mcp, of_problem, of_report, of_result, success
from tests.journeys.world import PATIENCE_S, Asked, World
from toolpost.transports.cli import main
from toolpost.transports.cli_options import Setup
from toolpost.transports.mcp_stdio import serve_stdio
from toolpost.transports.wire_tools import encode_name

Reasons = Mapping[str, str]
ByOutcome = Mapping[str, Reasons]
FAILURE = ("code", "message", "status", "retryable", "retry_after", "outcome", "errors", "ways")
OWN_ERROR = "the protocol has an error of its own for it"
THREAD = "the thread that runs the body is waited for here, and says what would help"
HEADER = "it takes what Retry-After says where the problem says nothing"
GONE: Told = {"ok": False, "gone": True}
META = "io.modelcontextprotocol/"
MODERN, LEGACY = "2026-07-28", "2025-11-25"
TASKS = "io.modelcontextprotocol/tasks"


class Door:
    """One way to make calls.

    lacks: what its form cannot tell, and why; closed: the outcomes it cannot have, and why; otherwise: by outcome, what
    is otherwise than in process by design, and why.
    """

    name: str
    lacks: ClassVar[Reasons] = {}
    closed: ClassVar[Reasons] = {}
    otherwise: ClassVar[ByOutcome] = {}
    task = False
    records = True
    """Whether calls are recorded, and can be looked up."""
    alone = False
    """Whether it does one call at a time."""
    far = False
    """Whether calls take their while, so that those of all styles are made at the same time."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.served = world.served

    @property
    def headers(self) -> dict[str, str]:
        return self.world.headers(self.name)

    def call(self, asked: Asked) -> Told:
        """Make a call and wait for its end."""
        raise NotImplementedError

    def cancelled(self, asked: Asked, begun: Callable[[], None]) -> Told:
        """Make a call, and have it end once it has begun."""
        raise NotImplementedError

    def close(self) -> None:
        """Close what was opened."""

    def body(self, asked: Asked) -> dict[str, Any]:
        """A call in the form of the tool's path."""
        body: dict[str, Any] = {"arguments": asked.arguments}
        if asked.deadline_s is not None:
            body["deadline_s"] = asked.deadline_s
        return body

    def keyed(self, asked: Asked, **more: str) -> dict[str, str]:
        """The headers of a call."""
        key = {} if asked.key is None else {"idempotency-key": f'"{asked.key}"'}
        return {**self.headers, **key, **more}

    def leave(self, path: str, body: bytes, headers: dict[str, str], begun: Callable[[], None]) -> None:
        """Send a request and close the connection once its call has begun."""
        told = {"host": f"127.0.0.1:{self.served.port}", "content-type": "application/json", **headers}
        head = f"POST {path} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in told.items())
        with self.served.connect() as connection:
            connection.sendall(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
            begun()


class InProcess(Door):
    """executor.execute_tool_call, awaited in an event loop of the test's own."""

    name = "in_process"
    records = False

    def call(self, asked: Asked) -> Told:
        return of_result(asyncio.run(self.world.executor.execute_tool_call(self.world.call(self.name, asked))))

    def cancelled(self, asked: Asked, begun: Callable[[], None]) -> Told:
        async def run() -> Told:
            making = asyncio.create_task(self.world.executor.execute_tool_call(self.world.call(self.name, asked)))
            await asyncio.to_thread(begun)
            making.cancel()
            await asyncio.wait([making])
            return GONE if making.cancelled() else of_result(making.result())

        return asyncio.run(run())


class Sync(Door):
    """executor.execute_sync."""

    name = "execute_sync"
    records = False
    otherwise: ClassVar[ByOutcome] = {"timeout": {"message": THREAD}}
    closed: ClassVar[Reasons] = {"cancelled": "a caller that blocks has nothing by which to cancel"}

    def call(self, asked: Asked) -> Told:
        return of_result(self.world.executor.execute_sync(self.world.call(self.name, asked)))


class CommandLine(Door):
    """`toolpost call --json`, over an executor that other calls have used."""

    name = "cli"
    records = False
    alone = True
    lacks: ClassVar[Reasons] = {"source": "the line's JSON is ToolResult.to_dict(), which does not say it"}
    closed: ClassVar[Reasons] = {"cancelled": "Ctrl-C ends the program"}

    def call(self, asked: Asked) -> Told:
        executor = self.world.executor

        @contextlib.contextmanager
        def shared(setup: Setup, observers: Any = (), *_: Any, **__: Any) -> Iterator[Any]:
            stops = [executor.observe(one) for one in observers]
            yield executor
            for stop in stops:
                stop()

        command = ["--json", "call", asked.tool, "-"]
        user = self.world.user(self.name)
        command += [] if user is None else ["--user", user]
        command += [] if asked.key is None else ["--idempotency-key", asked.key]
        command += [] if asked.deadline_s is None else ["--deadline", f"{asked.deadline_s:f}"]
        with patch.object(Setup, "executor", shared):
            result = CliRunner().invoke(main, command, input=json.dumps(asked.arguments))
        told = json.loads(result.stdout)
        assert result.exit_code in ((0,) if told["success"] else (1, 3)), result.output
        return of_cli(told)


class Http(Door):
    """POST /v1/tools/{name}/calls."""

    name = "http"

    def answer(self, asked: Asked, **headers: str) -> Any:
        path = f"/v1/tools/{asked.tool}/calls"
        return self.served.client.post(path, json=self.body(asked), headers=self.keyed(asked, **headers))

    def call(self, asked: Asked) -> Told:
        return told_of(self.answer(asked))

    def cancelled(self, asked: Asked, begun: Callable[[], None]) -> Told:
        body = json.dumps(self.body(asked)).encode()
        self.leave(f"/v1/tools/{asked.tool}/calls", body, self.keyed(asked), begun)
        return GONE


def told_of(answer: Any) -> Told:
    """What an answer to one call says."""
    document = answer.json()
    if answer.status_code == 200:
        assert answer.headers["toolpost-call-id"] == document["call_id"]
        return of_report(document)
    assert answer.headers["content-type"] == "application/problem+json"
    assert document["status"] == answer.status_code
    waits = document["status"] in (429, 503) or "retry_after_ms" in document
    assert waits <= ("retry-after" in answer.headers)
    return of_problem(document)


SAME_CALL = "the key stands for the call that was accepted first, which is looked up and not made again"
WAITS = "an accepted call waits in the queue for the one that has its key, and is then answered by it"


class HttpAccepted(Http):
    """The same with Prefer: respond-async, and GET until it has ended."""

    name = "http_async"
    closed: ClassVar[Reasons] = {"in_progress": WAITS}
    otherwise: ClassVar[ByOutcome] = {"replayed": dict.fromkeys(("audit", "metrics", "history", "source"), SAME_CALL)}

    def call(self, asked: Asked) -> Told:
        answer = self.answer(asked, prefer="respond-async")
        return self.ended(answer.json()["call_id"]) if answer.status_code == 202 else told_of(answer)

    def ended(self, call_id: str) -> Told:
        """What is told of a call in the end."""
        end = time.monotonic() + PATIENCE_S
        while True:
            report = self.served.client.get(f"/v1/calls/{call_id}?wait=10", headers=self.headers).json()
            if "success" in report:
                return of_report(report)
            assert time.monotonic() < end, report

    def cancelled(self, asked: Asked, begun: Callable[[], None]) -> Told:
        call_id = self.answer(asked, prefer="respond-async").json()["call_id"]
        begun()
        assert self.served.client.post(f"/v1/calls/{call_id}/cancel", headers=self.headers).is_success
        return self.ended(call_id)


class Batch(Door):
    """POST /v1/calls with a model's message, in one provider's format."""

    format: str
    closed: ClassVar[Reasons] = {"late": "the format has no place for a deadline"}
    lacks: ClassVar[Reasons] = {
        "status": "the answer is 200, whatever the calls in it came to",
        "outcome": "models are told of an outcome that is unknown, and of no other",
        "ways": "models are told in words how to go on",
        "source": "models are not told where a value is from",
    }

    def payload(self, asked: Asked) -> Any:
        """The message."""
        raise NotImplementedError

    def read(self, answer: Any) -> Told:
        """What the provider's form says."""
        raise NotImplementedError

    def answer(self, asked: Asked) -> Any:
        return self.served.client.post(
            f"/v1/calls?format={self.format}", json=self.payload(asked), headers=self.keyed(asked)
        )

    def call(self, asked: Asked) -> Told:
        answer = self.answer(asked)
        if answer.status_code != 200:
            return told_of(answer)
        return {"call_id": answer.headers.get("toolpost-call-id"), **self.read(answer.json())}

    def cancelled(self, asked: Asked, begun: Callable[[], None]) -> Told:
        body = json.dumps(self.payload(asked)).encode()
        self.leave(f"/v1/calls?format={self.format}", body, self.keyed(asked), begun)
        return GONE

    def shown(self, value: Any) -> Told:
        """What a text, or an object, says."""
        if isinstance(value, str):
            with contextlib.suppress(ValueError):
                value = json.loads(value)
        if isinstance(value, dict) and value.keys() == {"error"} and isinstance(value["error"], dict):
            return of_format(value["error"])
        return valued(value)


def valued(value: Any) -> Told:
    """A value as models are shown it, in which the files stand."""
    files = value.get("artifacts", ()) if isinstance(value, dict) else ()
    rest = {name: one for name, one in value.items() if name != "artifacts"} if files else value
    return success(rest, None, [{"name": one["name"], "size": one["bytes"]} for one in files])


class OpenAi(Batch):
    """The Responses API."""

    name, format = "batch_openai", "openai"

    def payload(self, asked: Asked) -> Any:
        called = {"type": "function_call", "call_id": "c1", "name": encode_name(asked.tool, "openai")}
        return [{**called, "arguments": json.dumps(asked.arguments)}]

    def read(self, answer: Any) -> Told:
        (one,) = answer
        return self.shown(one["output"])


class OpenAiChat(Batch):
    """Chat Completions."""

    name, format = "batch_openai_chat", "openai-chat"

    def payload(self, asked: Asked) -> Any:
        function = {"name": encode_name(asked.tool, "openai-chat"), "arguments": json.dumps(asked.arguments)}
        return {"role": "assistant", "tool_calls": [{"id": "c1", "type": "function", "function": function}]}

    def read(self, answer: Any) -> Told:
        (one,) = answer
        return self.shown(one["content"])


class Anthropic(Batch):
    """Messages."""

    name, format = "batch_anthropic", "anthropic"

    def payload(self, asked: Asked) -> Any:
        name = encode_name(asked.tool, "anthropic")
        used = {"type": "tool_use", "id": "c1", "name": name, "input": asked.arguments}
        return {"role": "assistant", "content": [used]}

    def read(self, answer: Any) -> Told:
        (one,) = answer["content"]
        told = self.shown(one["content"])
        assert one.get("is_error", False) is not told["ok"]
        return told


class Gemini(Batch):
    """generateContent."""

    name, format = "batch_gemini", "gemini"

    def payload(self, asked: Asked) -> Any:
        called = {"id": "c1", "name": encode_name(asked.tool, "gemini"), "args": asked.arguments}
        return {"role": "model", "parts": [{"functionCall": called}]}

    def read(self, answer: Any) -> Told:
        (one,) = answer["parts"]
        response = one["functionResponse"]["response"]
        return valued(response["output"]) if "output" in response else of_format(response["error"])


class McpFormat(Batch):
    """A JSON-RPC message of MCP, which nobody speaks MCP around."""

    name, format = "batch_mcp", "mcp"

    def payload(self, asked: Asked) -> Any:
        params = {"name": asked.tool, "arguments": asked.arguments}
        return {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}

    def read(self, answer: Any) -> Told:
        (one,) = answer
        told = self.shown(one["content"][0]["text"])
        assert one["isError"] is not told["ok"]
        return told


class Own(Batch):
    """Several calls in toolpost's own form."""

    name, format = "batch_toolpost", "toolpost"
    closed: ClassVar[Reasons] = {}
    lacks: ClassVar[Reasons] = {}

    def payload(self, asked: Asked) -> Any:
        return [{"tool": asked.tool, **self.body(asked)}]

    def read(self, answer: Any) -> Told:
        (one,) = answer
        return of_report(one)


class Sse(Http):
    """Server-sent events of a call that is made by the same request."""

    name = "sse"

    def call(self, asked: Asked) -> Told:
        headers = self.keyed(asked, accept="text/event-stream")
        path = f"/v1/tools/{asked.tool}/calls"
        with self.served.client.stream("POST", path, json=self.body(asked), headers=headers) as answer:
            if answer.status_code != 200:
                answer.read()
                return told_of(answer)
            events = list(httpx_sse.EventSource(answer).iter_sse())
        assert events[0].event == "call"
        assert events[-1].event == "result"
        return of_report(events[-1].json())

    def cancelled(self, asked: Asked, begun: Callable[[], None]) -> Told:
        body = json.dumps(self.body(asked)).encode()
        headers = self.keyed(asked, accept="text/event-stream")
        self.leave(f"/v1/tools/{asked.tool}/calls", body, headers, begun)
        return GONE


class WebSocket(Door):
    """Messages over one connection."""

    name = "websocket"
    alone = True

    def __init__(self, world: World) -> None:
        super().__init__(world)
        url = f"ws://127.0.0.1:{self.served.port}/v1/stream"
        self._open = contextlib.ExitStack()
        self._socket = self._open.enter_context(connect(url, additional_headers=self.headers, max_size=None))

    def say(self, **message: Any) -> None:
        self._socket.send(json.dumps(message))

    def hear(self) -> dict[str, Any]:
        """The next message that ends something, or says that something began."""
        while (message := json.loads(self._socket.recv(timeout=PATIENCE_S)))["type"] in ("event", "cancelled"):
            pass
        return message

    def make(self, asked: Asked) -> dict[str, Any]:
        key = {} if asked.key is None else {"idempotency_key": asked.key}
        self.say(type="call", ref="mine", tool=asked.tool, **self.body(asked), **key)
        return self.hear()

    def call(self, asked: Asked) -> Told:
        message = self.make(asked)
        if message["type"] == "call":
            message = self.hear()
        if message["type"] == "result":
            return of_report(message["report"])
        return of_problem(message["problem"])

    def cancelled(self, asked: Asked, begun: Callable[[], None]) -> Told:
        assert self.make(asked)["type"] == "call"
        begun()
        self.say(type="cancel", ref="mine")
        return of_report(self.hear()["report"])

    def close(self) -> None:
        self._open.close()


class Mcp(Door):
    """MCP 2026-07-28 over HTTP, by the quick way in front of the SDK."""

    name = "mcp_quick"
    lacks: ClassVar[Reasons] = {"source": "a result of MCP does not say where its value is from"}
    otherwise: ClassVar[ByOutcome] = {"unknown_tool": dict.fromkeys(("protocol", *FAILURE), OWN_ERROR)}
    capabilities: ClassVar[Mapping[str, Any]] = {}

    def meta(self, asked: Asked) -> dict[str, Any]:
        meta: dict[str, Any] = {f"{META}protocolVersion": MODERN, f"{META}clientCapabilities": self.capabilities}
        return meta | self.own(asked)

    def own(self, asked: Asked) -> dict[str, Any]:
        """What a request says of its call."""
        told = {"toolpost/idempotency_key": asked.key, "toolpost/deadline_s": asked.deadline_s}
        return {name: value for name, value in told.items() if value is not None}

    def message(self, asked: Asked) -> dict[str, Any]:
        params = {"name": asked.tool, "arguments": asked.arguments, "_meta": self.meta(asked)}
        return {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}

    def sent(self, method: str, name: str) -> dict[str, str]:
        """The headers of a request."""
        return {
            **self.headers,
            "content-type": "application/json",
            "accept": "application/json, text/event-stream",
            "mcp-protocol-version": MODERN,
            "mcp-method": method,
            "mcp-name": name,
        }

    def ask(self, message: dict[str, Any], headers: dict[str, str]) -> dict[str, Any]:
        """The answer to a message, however it is sent."""
        answer = self.served.client.post("/mcp", content=json.dumps(message).encode(), headers=headers)
        if answer.headers["content-type"].startswith("application/json"):
            document: dict[str, Any] = answer.json()
            return document
        lines = [line[5:].strip() for line in answer.text.split("\n") if line.startswith("data:")]
        (found,) = [one for one in map(json.loads, filter(None, lines)) if one.get("id") == message["id"]]
        return dict(found)

    def call(self, asked: Asked) -> Told:
        return of_mcp(self.ask(self.message(asked), self.sent("tools/call", asked.tool)))

    def cancelled(self, asked: Asked, begun: Callable[[], None]) -> Told:
        self.leave("/mcp", json.dumps(self.message(asked)).encode(), self.sent("tools/call", asked.tool), begun)
        return GONE


class McpSdk(Mcp):
    """The same by the SDK, which is asked because the client wants to hear of progress."""

    name = "mcp_sdk"

    def own(self, asked: Asked) -> dict[str, Any]:
        return {**super().own(asked), "progressToken": 1}


class McpTask(Mcp):
    """The same, where the tool's calls become tasks."""

    name = "mcp_task"
    task = True
    closed: ClassVar[Reasons] = {"in_progress": WAITS}
    otherwise: ClassVar[ByOutcome] = {
        **Mcp.otherwise,
        "replayed": dict.fromkeys(("audit", "metrics", "history"), SAME_CALL),
    }
    capabilities: ClassVar[Mapping[str, Any]] = {"extensions": {TASKS: {}}}

    def call(self, asked: Asked) -> Told:
        answer = self.ask(self.message(asked), self.sent("tools/call", asked.tool))
        if answer.get("result", {}).get("resultType") != "task":
            return of_mcp(answer)
        task_id = answer["result"]["taskId"]
        task = self.task_of(task_id)
        return of_mcp({"result": task["result"]} if task["status"] == "completed" else {"error": task["error"]})

    def task_of(self, task_id: str) -> dict[str, Any]:
        """The task once it has ended."""
        end = time.monotonic() + PATIENCE_S
        while True:
            task = self.tasks("tasks/get", task_id)
            if task["status"] not in ("working", "submitted"):
                return task
            assert time.monotonic() < end, task
            time.sleep(0.005)

    def tasks(self, method: str, task_id: str) -> dict[str, Any]:
        meta = {f"{META}protocolVersion": MODERN, f"{META}clientCapabilities": self.capabilities}
        message = {"jsonrpc": "2.0", "id": 2, "method": method, "params": {"taskId": task_id, "_meta": meta}}
        answer: dict[str, Any] = self.ask(message, self.sent(method, task_id))["result"]
        return answer

    def cancelled(self, asked: Asked, begun: Callable[[], None]) -> Told:
        task_id = self.ask(self.message(asked), self.sent("tools/call", asked.tool))["result"]["taskId"]
        begun()
        self.tasks("tasks/cancel", task_id)
        assert self.task_of(task_id)["status"] == "cancelled"
        return GONE


class McpLegacy(Mcp):
    """MCP 2025-11-25 over HTTP, in a session."""

    name = "mcp_legacy"

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._session: dict[str, str] = {}
        self._ids = iter(range(2, 10**9))
        about = {"protocolVersion": LEGACY, "capabilities": {}, "clientInfo": {"name": "journeys", "version": "1"}}
        begin = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": about}
        answer = self.served.client.post("/mcp", json=begin, headers=self.sent("", ""))
        assert answer.status_code == 200, answer.text
        self._session = {"mcp-session-id": answer.headers["mcp-session-id"], "mcp-protocol-version": LEGACY}
        self.notify("notifications/initialized")

    def notify(self, method: str, **params: Any) -> None:
        said = {"jsonrpc": "2.0", "method": method, **({"params": params} if params else {})}
        assert self.served.client.post("/mcp", json=said, headers=self.sent("", "")).status_code == 202

    def message(self, asked: Asked) -> dict[str, Any]:
        params = {"name": asked.tool, "arguments": asked.arguments, "_meta": self.own(asked)}
        return {"jsonrpc": "2.0", "id": next(self._ids), "method": "tools/call", "params": params}

    def sent(self, method: str, name: str) -> dict[str, str]:
        accept = "application/json, text/event-stream"
        return {**self.headers, "content-type": "application/json", "accept": accept, **self._session}

    def cancelled(self, asked: Asked, begun: Callable[[], None]) -> Told:
        message = self.message(asked)

        def told() -> None:
            begun()
            self.notify("notifications/cancelled", requestId=message["id"])

        self.leave("/mcp", json.dumps(message).encode(), self.sent("", ""), told)
        return GONE


class McpStdio(Mcp):
    """MCP 2025-11-25 over pipes."""

    name = "mcp_stdio"
    alone = True

    def __init__(self, world: World) -> None:
        super().__init__(world)
        theirs, ours = os.pipe()
        mine, answers = os.pipe()
        self._writing = open(ours, "wb", buffering=0)  # noqa: SIM115 - closed by close()
        self._reading = open(mine, "rb")  # noqa: SIM115
        self._ended = threading.Event()
        self._ids = iter(range(2, 10**9))
        reading, writing = open(theirs, "rb", buffering=0), open(answers, "wb", buffering=0)  # noqa: SIM115
        caller = world.caller(self.name) if world.known else None

        async def serve() -> None:
            async def speak() -> None:
                try:
                    await serve_stdio(world.served.service, reading, writing, caller=caller)
                finally:
                    reading.close()
                    writing.close()
                    self._ended.set()

            self._speaking = asyncio.create_task(speak())

        world.served.run(serve())
        about = {"protocolVersion": LEGACY, "capabilities": {}, "clientInfo": {"name": "journeys", "version": "1"}}
        self.ask({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": about}, {})
        self.say({"jsonrpc": "2.0", "method": "notifications/initialized"})

    def say(self, message: dict[str, Any]) -> None:
        self._writing.write(json.dumps(message).encode() + b"\n")

    def ask(self, message: dict[str, Any], headers: dict[str, str]) -> dict[str, Any]:
        data = json.dumps(message).encode() + b"\n"
        while data:
            data = data[self._writing.write(data) or 0 :]
        while True:
            answer: dict[str, Any] = json.loads(self._reading.readline())
            if answer.get("id") == message["id"] and "method" not in answer:
                return answer

    def message(self, asked: Asked) -> dict[str, Any]:
        params = {"name": asked.tool, "arguments": asked.arguments, "_meta": self.own(asked)}
        return {"jsonrpc": "2.0", "id": next(self._ids), "method": "tools/call", "params": params}

    def cancelled(self, asked: Asked, begun: Callable[[], None]) -> Told:
        message = self.message(asked)
        self.say(message)
        begun()
        params = {"requestId": message["id"]}
        self.say({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params})
        return GONE

    def close(self) -> None:
        self._writing.close()
        assert self._ended.wait(PATIENCE_S)
        self._reading.close()


class PythonClient(Door):
    """toolpost.clients.Client."""

    name = "client"
    otherwise: ClassVar[ByOutcome] = {"in_progress": {"retry_after": HEADER}}

    def __init__(self, world: World) -> None:
        super().__init__(world)
        from toolpost.clients.client import Client

        self._client = Client(world.served.url, key=world.key(self.name), retries=0)

    def options(self, asked: Asked) -> dict[str, Any]:
        told = {"idempotency_key": asked.key, "deadline_s": asked.deadline_s}
        return {name: value for name, value in told.items() if value is not None}

    def call(self, asked: Asked) -> Told:
        return of_result(self._client.execute(asked.tool, asked.arguments, **self.options(asked)))

    def cancelled(self, asked: Asked, begun: Callable[[], None]) -> Told:
        handle = self._client.submit(asked.tool, asked.arguments, **self.options(asked))
        begun()
        handle.cancel()
        return of_result(handle.result(PATIENCE_S))

    def close(self) -> None:
        self._client.close()


DOORS: dict[str, type[Door]] = {
    door.name: door
    for door in (
        InProcess,
        Sync,
        CommandLine,
        Http,
        HttpAccepted,
        OpenAi,
        OpenAiChat,
        Anthropic,
        Gemini,
        McpFormat,
        Own,
        Sse,
        WebSocket,
        Mcp,
        McpSdk,
        McpTask,
        McpLegacy,
        McpStdio,
        PythonClient,
    )
}


class WorkerProcess(HttpAccepted):
    """HttpAccepted, where the gateway only answers and a process that only works, `toolpost worker`, runs the calls."""

    name = "worker"
    far = True
    lacks: ClassVar[Reasons] = dict.fromkeys(("metrics", "history"), "they are the numbers of the process that runs")
    closed: ClassVar[Reasons] = {
        "in_progress": WAITS,
        **dict.fromkeys(("concurrency_limited", "late"), "places in memory are each process's own"),
        "authorization_required": "providers are declared in code, which the program has not",
        "unauthenticated": "the gateway in front refuses it",
    }

    def call(self, asked: Asked) -> Told:
        told = super().call(asked)
        if told.get("call_id") is not None:
            self.world.audited(told["call_id"])
        return told
