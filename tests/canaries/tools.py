"""Tools of every style that do with a secret what they must not: give it back, raise it, tell of it, in any encoding.

how is what is done, encoding the index of one of ENCODINGS, -1 for all of them. Each tool names its secret by itself.
"""

import os
import sqlite3
from typing import Any

from tests.canaries.encoded_forms import ENCODINGS
from toolpost import BaseTool, Cache, FunctionToolSpec, Idempotency, Retry, StringParameter, Tool, ToolContext
from toolpost.authoring.parameters import IntegerParameter

REFERENCE = "secret://env/CANARY"
HOWS = ("return", "key", "raise", "chain", "tell", "bytes", "large", "object")
POLICIES: dict[str, Any] = {
    "register": False,
    "cache": Cache(ttl_s=60, per="global"),
    "idempotency": Idempotency(),
    "retry": Retry(attempts=2, wait_s=0.001, on=(ValueError,)),
}


class Held:
    """An object that has no JSON form, and prints what it holds."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __str__(self) -> str:
        return f"Held({self.text})"


def misuse(secret: str, how: str, encoding: int, ctx: ToolContext | None = None) -> Any:
    """Do it."""
    encodings = list(ENCODINGS.values())
    text = " | ".join(encode(str(secret)) for encode in (encodings if encoding < 0 else [encodings[encoding]]))
    if how == "raise":
        raise ValueError(f"refused: {text}", {"of": text})
    if how == "chain":
        try:
            sqlite3.connect(":memory:").execute(f'select "{str(secret)!r}" frm x', {"a": text})
        except sqlite3.Error as error:
            error.add_note(text)
            raise RuntimeError(f"database: {text}") from error
    if how == "tell" and ctx is not None:
        ctx.log(f"using {text}", key=text, deep={"a": [text]})
        ctx.progress(1, 2, message=text)
    if how == "key":
        return {text: {"deep": [{text: 1}]}}
    if how == "bytes":
        return {"inner": (text, [text.encode().decode()])}
    if how == "large":
        return {"text": text, "filler": "x" * 100_000}
    if how == "object":
        return Held(text)
    return {"given": text, "length": len(str(secret))}


@Tool(name="Async.Misuse", **POLICIES)
async def in_task(how: str, encoding: int, ctx: ToolContext) -> Any:
    return misuse(await ctx.secret(REFERENCE), how, encoding, ctx)


@Tool(name="Sync.Misuse", **POLICIES)
def in_thread(how: str, encoding: int, ctx: ToolContext) -> Any:
    return misuse(ctx.secret_sync(REFERENCE), how, encoding, ctx)


@Tool(name="Process.Misuse", register=False, runs_in="process")
def in_process(how: str, encoding: int) -> Any:
    return misuse(os.environ["CANARY"], how, encoding)


class Misuse(BaseTool):
    """A tool of the class style."""

    async def take(self, how: str, encoding: int, ctx: ToolContext) -> Any:
        return misuse(await ctx.secret(REFERENCE), how, encoding, ctx)


SPEC = FunctionToolSpec(
    id="spec",
    version="1",
    tool_name="Spec.Misuse",
    description="Misuse a secret.",
    parameters=[StringParameter(name="how"), IntegerParameter(name="encoding")],
)


async def by_spec(args: dict[str, Any], ctx: ToolContext) -> Any:
    return misuse(await ctx.secret(REFERENCE), args["how"], args["encoding"], ctx)


TOOLS = [in_task, in_thread, in_process]
