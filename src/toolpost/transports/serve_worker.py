"""The program of one process of a gateway: `python -m toolpost.transports.serve_worker`, started by the supervisor."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pickle
import socket
import sys
from typing import Any

from toolpost.transports.cli_options import ExitCode, Setup
from toolpost.transports.cli_show import complain
from toolpost.transports.serve_process import Process, run
from toolpost.transports.serve_supervisor import LENGTH


def main() -> int:
    """Read from standard input what to do, and do it until that ends."""
    from toolpost.calls.errors import ToolExecutionError

    beginning = _first()
    if beginning is None:
        return ExitCode.OK  # the supervisor ended before it said anything
    setup = Setup(**beginning["setup"])
    try:
        with setup.serving(), setup.executor(config=beginning["config"]) as executor:
            run(_answer(executor, beginning))
    except ToolExecutionError as exc:
        complain(exc.message, exc.code, setup.json)
        return ExitCode.USAGE
    return ExitCode.OK


async def _answer(executor: Any, beginning: dict[str, Any]) -> None:
    def tell(state: str) -> None:
        if state == "ready":
            with contextlib.suppress(OSError):
                os.write(beginning["told"], b"r")

    process = Process(executor, told=tell)
    news = _News(process)
    asyncio.get_running_loop().add_reader(0, news.read)
    one = socket.socket(fileno=beginning["socket"])
    one.setblocking(False)
    await process.answer(one, beginning["out"], beginning["base_url"])


class _News:
    """What the supervisor says while this process runs: settings that it read and checked; its end is ours."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._read = b""

    def read(self) -> None:
        """Take what has come."""
        block = os.read(0, 1 << 16)
        if not block:
            asyncio.get_running_loop().remove_reader(0)
            self._process.stop()
            return
        self._read += block
        while len(self._read) >= LENGTH.size:
            end = LENGTH.size + LENGTH.unpack_from(self._read)[0]
            if len(self._read) < end:
                return
            message, self._read = self._read[LENGTH.size : end], self._read[end:]
            self._process.take_over(pickle.loads(message))


def _first() -> dict[str, Any] | None:
    head = _exactly(LENGTH.size)
    body = None if head is None else _exactly(LENGTH.unpack(head)[0])
    return None if body is None else pickle.loads(body)


def _exactly(size: int) -> bytes | None:
    read = b""
    while len(read) < size:
        block = os.read(0, size - len(read))
        if not block:
            return None
        read += block
    return read


if __name__ == "__main__":
    sys.exit(main())
