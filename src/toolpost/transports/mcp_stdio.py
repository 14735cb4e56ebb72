"""MCP over standard input and output: one client, which started this process."""

from __future__ import annotations

import asyncio
import contextlib
import io
import threading
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, BinaryIO

from toolpost.calls.call import Caller
from toolpost.transports.mcp_server import McpServer

if TYPE_CHECKING:
    from toolpost.worker.service import Service


async def serve_stdio(
    service: Service,
    reading: BinaryIO | None = None,
    writing: BinaryIO | None = None,
    *,
    caller: Caller | None = None,
) -> None:
    """Serve until the client closes its end, or this is cancelled. caller is for whom the calls are; nobody by default.

    reading and writing are binary files without a buffer, the protocol's alone. Without them they are the process's
    standard ones, and what is printed while it serves goes to standard error.
    """
    import anyio
    from mcp.server.stdio import stdio_server

    server = McpServer(service, str(service.executor.config.public_url or ""), caller)
    files: dict[str, Any] = {}
    text: io.TextIOWrapper | None = None
    if reading is not None and writing is not None:
        text = io.TextIOWrapper(writing, encoding="utf-8", newline="", write_through=True)
        files["stdin"], files["stdout"] = _Lines(reading), anyio.wrap_file(text)
    server.open()
    try:
        async with stdio_server(**files) as (read, write):
            await server.server.run(read, write, server.options())
    finally:
        server.close()
        if text is not None:
            text.detach()  # the file stays its owner's to close


class _Lines:
    """The lines of a file, read by a thread that nobody waits for: a read cannot be cancelled, waiting for it can."""

    def __init__(self, reading: BinaryIO) -> None:
        self._reading = reading

    async def __aiter__(self) -> AsyncIterator[str]:
        loop = asyncio.get_running_loop()
        lines: asyncio.Queue[bytes] = asyncio.Queue()
        place = threading.Semaphore(64)  # lines that wait; a client that sends more than is taken waits with them

        def read() -> None:
            begun: list[bytes] = []  # of a line whose end is still to come
            while chunk := self._read():
                first, *whole = chunk.split(b"\n")
                begun.append(first)
                for following in whole:
                    place.acquire()
                    loop.call_soon_threadsafe(lines.put_nowait, b"".join(begun) + b"\n")
                    begun = [following]
            rest = b"".join(begun)
            loop.call_soon_threadsafe(lines.put_nowait, rest)
            if rest:
                loop.call_soon_threadsafe(lines.put_nowait, b"")

        def tried() -> None:
            with contextlib.suppress(RuntimeError):  # the event loop has ended
                read()

        threading.Thread(target=tried, name="toolpost-stdin", daemon=True).start()
        while line := await lines.get():
            place.release()
            yield line.decode("utf-8", "replace")

    def _read(self) -> bytes:
        try:
            return self._reading.read(1 << 16) or b""
        except (OSError, ValueError):
            return b""  # closed under the thread, which is as good as its end


__all__ = ["serve_stdio"]
