"""Receiver: a real HTTP server on 127.0.0.1 that is called back, keeps what came, and answers as a test has it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Request:
    """One request as it came. headers are by names in lower case."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body's JSON."""
        return json.loads(self.body)


@dataclass
class Receiver:
    """answers: path -> status, or status and headers, or "hang" for nothing; other paths are answered 200."""

    port: int = 0
    answers: dict[str, Any] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    came: asyncio.Condition = field(default_factory=asyncio.Condition)
    go_on: asyncio.Event = field(default_factory=asyncio.Event)
    now: int = 0
    most: int = 0

    def url(self, path: str = "/hook", host: str = "127.0.0.1") -> str:
        """Where a path of it is."""
        return f"http://{host}:{self.port}{path}"

    async def got(self, number: int) -> list[Request]:
        """Wait until so many requests have come; all of them."""
        async with self.came:
            await self.came.wait_for(lambda: len(self.requests) >= number)
        return self.requests

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one connection, request by request."""
        try:
            while head := await _head(reader):
                method, path, headers = head
                body = await reader.readexactly(int(headers.get("content-length", "0")))
                await self._answer(Request(method, path, headers, body), writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    async def _answer(self, request: Request, writer: asyncio.StreamWriter) -> None:
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            async with self.came:
                self.requests.append(request)
                self.came.notify_all()
            answer = self.answers.get(request.path.partition("?")[0], 200)
            if callable(answer):
                answer = answer(request)
            if answer == "hang":
                await self.go_on.wait()
                answer = 200
            status, headers = answer if isinstance(answer, tuple) else (answer, {})
            fields = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
            writer.write(f"HTTP/1.1 {status} Said\r\n{fields}content-length: 2\r\n\r\nok".encode())
            await writer.drain()
        finally:
            self.now -= 1


async def _head(reader: asyncio.StreamReader) -> tuple[str, str, dict[str, str]] | None:
    try:
        text = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    except asyncio.IncompleteReadError:
        return None
    first, *lines = text.split("\r\n")
    method, path, _ = first.split(" ")
    pairs = (line.partition(":") for line in lines if line)
    return method, path, {name.lower(): value.strip() for name, _, value in pairs}


@asynccontextmanager
async def receiving(**answers: Any) -> AsyncIterator[Receiver]:
    """A receiver for the time of a test."""
    receiver = Receiver(answers=dict(answers))
    connections: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        connections.add(task)
        task.add_done_callback(connections.discard)
        await receiver.serve(reader, writer)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    receiver.port = server.sockets[0].getsockname()[1]
    try:
        yield receiver
    finally:
        receiver.go_on.set()
        server.close()
        for task in list(connections):
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)


async def until(true: Callable[[], bool]) -> None:
    """Wait for what no event tells."""
    async with asyncio.timeout(20):
        while not true():
            await asyncio.sleep(0.002)
