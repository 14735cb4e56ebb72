"""A process of the fault suite that accepts calls and runs them: python -m tests.faults.server '{"name": …, …}'

It takes the fields that tests.faults.worker takes, and one command a line: id, and calls (tool, arguments, fields of
ToolCall, how: fields of Accept, last: whether the process kills itself as soon as that one was answered). They are
accepted one after the other, and each is answered with a line of its own as soon as it is: id, n (its place among
them), call_id or error. The process ends when its standard input does. A tool Tell, which may run again, tells how far
it is and leaves a file.
"""

import asyncio
import contextlib
import json
import logging
import os
import signal
import sys
from pathlib import Path
from typing import Any

from tests.faults.effects import Effects
from tests.faults.shop import tool_of
from tests.faults.worker import Command, made, obeying, say
from toolpost import Accept, Hints, Service, Tool, ToolContext, ToolExecutionError, ToolExecutor, ToolRegistry


def teller(effects: Effects, process: str) -> Any:
    """The tool Tell."""

    async def tell(order: str, ctx: ToolContext) -> str:
        receipt = {"order": order, "tool": "Tell", "process": process}
        effects.note("begin", **receipt)
        ctx.progress(1, 2)
        ctx.log("half way")
        ctx.artifact("note.txt", order)
        await asyncio.sleep(0.15)
        effects.note("end", **receipt)
        return order

    return Tool(name="Tell", register=False, hints=Hints(idempotent=True))(tell)


async def obey(service: Service, command: Command) -> None:
    """Accept calls, and say of each what became of it."""
    for n, call in enumerate(command["calls"]):
        answer: Command = {"id": command["id"], "n": n}
        try:
            report = await service.calls.accept(made(call), Accept(**call.get("how", {})))
        except ToolExecutionError as error:
            answer["error"] = error.code
        else:
            answer["call_id"] = report.call_id
        say(answer)
        if call.get("last"):
            os.kill(os.getpid(), signal.SIGKILL)


async def serve(said: Command) -> None:
    """Obey until the standard input ends."""
    effects = Effects(Path(said["folder"]))
    executor = ToolExecutor(registry=ToolRegistry(), **said["settings"])
    for tool in said["tools"]:
        executor.add(tool_of(effects, said["name"], **tool))
    executor.add(teller(effects, said["name"]))
    async with Service(executor) as service:
        await obeying({"id": 0, "n": 0}, lambda command: obey(service, command))
    with contextlib.suppress(Exception):
        executor.close()
    os._exit(0)


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    asyncio.run(serve(json.loads(sys.argv[1])))
