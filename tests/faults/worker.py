"""A worker process of the fault suite: python -m tests.faults.worker '{"name": …, "folder": …, "settings": …, …}'

tools are lists of tool_of's fields. It reads one command a line and answers each with one line when that is done;
several may be under way. A command is JSON: id, calls (fields of ToolCall), how ("tasks", or "threads" that block),
at_once (how many of them), close (without calls: the executor is closed, and calls that are under way go on). The
process ends when its standard input does.
"""

import asyncio
import contextlib
import json
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.faults.effects import Effects
from tests.faults.shop import tool_of
from toolpost import ToolExecutor, ToolRegistry, create_tool_call

Command = dict[str, Any]


def made(call: Command) -> Any:
    """The ToolCall that a command describes."""
    return create_tool_call(call["tool"], call["arguments"], **call.get("fields", {}))


def told(call: Command, result: Any, elapsed_s: float) -> Command:
    """A result as JSON."""
    failure = result.failure
    return {
        "order": call["arguments"].get("order"),
        "data": result.data,
        "source": result.source,
        "code": failure and failure.code,
        "outcome": failure and failure.outcome,
        "error": result.error,
        "warnings": result.warnings,
        "elapsed_s": elapsed_s,
    }


async def in_tasks(executor: ToolExecutor, calls: list[Command], at_once: int) -> list[Command]:
    """Await the calls, so many at once."""
    room = asyncio.Semaphore(at_once)

    async def one(call: Command) -> Command:
        async with room:
            began = time.monotonic()
            try:
                result = await executor.execute_tool_call(made(call))
            except asyncio.CancelledError:
                task = asyncio.current_task()
                assert task is not None
                task.uncancel()
                return {"order": call["arguments"].get("order"), "code": "CancelledError", "data": None}
            return told(call, result, time.monotonic() - began)

    return await asyncio.gather(*map(one, calls))


def in_threads(executor: ToolExecutor, calls: list[Command], at_once: int) -> list[Command]:
    """Block for the calls, so many threads at once."""

    def one(call: Command) -> Command:
        began = time.monotonic()
        result = executor.execute_sync(made(call))
        return told(call, result, time.monotonic() - began)

    with ThreadPoolExecutor(at_once) as threads:
        return list(threads.map(one, calls))


async def obey(executor: ToolExecutor, command: Command) -> None:
    """Do one command and answer it."""
    answer: Command = {"id": command["id"]}
    calls, at_once = command.get("calls", []), command.get("at_once", 64)
    if command.get("close"):
        await asyncio.to_thread(executor.close)
    elif command.get("how") == "threads":
        answer["results"] = await asyncio.to_thread(in_threads, executor, calls, at_once)
    else:
        answer["results"] = await in_tasks(executor, calls, at_once)
    say(answer)


_saying = threading.Lock()


def say(answer: Command) -> None:
    """Write one line."""
    with _saying:
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


async def obeying(ready: Command, obey: Callable[[Command], Coroutine[Any, Any, None]]) -> None:
    """Say that this process is ready, and obey each line of the standard input in a task until it ends."""
    say({**ready, "pid": os.getpid()})  # first, as a failpoint may kill this process as soon as anything is awaited
    lines = asyncio.StreamReader(limit=2**26)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    under_way = set()
    while line := await lines.readline():
        task = asyncio.create_task(obey(json.loads(line)))
        under_way.add(task)
        task.add_done_callback(under_way.discard)


async def serve(said: Command) -> None:
    """Obey until the standard input ends."""
    effects = Effects(Path(said["folder"]))
    executor = ToolExecutor(registry=ToolRegistry(), **said["settings"])
    for tool in said["tools"]:
        executor.add(tool_of(effects, said["name"], **tool))
    await obeying({"id": 0}, lambda command: obey(executor, command))
    with contextlib.suppress(Exception):
        executor.close()
    os._exit(0)


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    asyncio.run(serve(json.loads(sys.argv[1])))
