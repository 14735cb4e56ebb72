"""The same tools written in every style, one for each way in which a call can end; also for processes of their own.

A body writes a line with its mark before it does anything, so that runs are counted outside of what is tested.
JOURNEYS_FOLDER is where, JOURNEYS_UPSTREAM the server that HTTP tools ask. Waiting bodies go on when a file is there.
"""

import asyncio
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from toolpost import (
    Access,
    Approval,
    ArrayParameter,
    BaseTool,
    Breaker,
    Cache,
    Concurrency,
    FunctionToolSpec,
    Hints,
    HttpToolSpec,
    Idempotency,
    IntegerParameter,
    OAuth,
    RateLimit,
    RemoteToolError,
    SqliteToolSpec,
    StringParameter,
    Timeout,
    Tool,
    ToolContext,
    ToolDefinition,
    ToolError,
    policy,
)

HELD = 77
"""A call with this amount waits for its file."""
SECRET = "c4nary-17/xyz-of-the-journeys"
REFERENCE = "secret://env/JOURNEYS_KEY"
BIG = 70_000
WORDS = "żółw ☃ 𝄞 \u2028 'quoted' \"twice\""
TIMEOUT_S = 0.4
PATIENCE_S = 20.0

POLICIES: dict[str, tuple[Any, ...]] = {
    "denied": (Access(scopes=("vault:open",)),),
    "rate_limited": (RateLimit(calls=1, per_s=3600.0, by="user"),),
    "concurrency_limited": (Concurrency(calls=1, by="user"),),
    "late": (Concurrency(calls=1, by="user", wait_s=None),),
    "timeout": (Timeout(total_s=TIMEOUT_S),),
    "approval_required": (Approval(),),
    "approved": (Approval(),),
    "approval_denied": (Approval(),),
    "authorization_required": (OAuth(scopes=("read",)),),
    "replayed": (Idempotency(only_caller=True),),
    "key_mismatch": (Idempotency(only_caller=True),),
    "in_progress": (Idempotency(only_caller=True, in_flight="refuse"),),
    "cached": (Cache(ttl_s=3600, per="user"),),
    "circuit_open": (Breaker(failures=1, recovery_s=3600.0),),
}
"""Which policies a tool has for a call of it to be able to end so."""

ORDINARY = (
    "success",
    "null",
    "invalid_input",
    "too_large",
    "screened",
    "unauthenticated",
    "denied",
    "refused_by_hook",
    "rate_limited",
    "concurrency_limited",
    "timeout",
    "raises",
    "own_error",
    "own_passing_error",
    "upstream_failed",
    "invalid_output",
    "approval_required",
    "approved",
    "approval_denied",
    "authorization_required",
    "replayed",
    "key_mismatch",
    "in_progress",
    "cached",
    "circuit_open",
    "cancelled",
    "secrets",
    "artifacts",
    "big",
    "late",
)
"""All ways in which calls of tools written in Python can end."""


def folder() -> Path:
    """Where runs are noted, and where files let calls go on."""
    return Path(os.environ["JOURNEYS_FOLDER"])


def note(mark: str) -> None:
    """Write down that a body ran."""
    with (folder() / f"{mark}.ran").open("a") as file:
        file.write("ran\n")


def runs(mark: str) -> int:
    """How often bodies ran for a mark."""
    path = folder() / f"{mark}.ran"
    return len(path.read_text().splitlines()) if path.exists() else 0


def let_go(mark: str) -> None:
    """Have what waits for a mark go on."""
    (folder() / f"{mark}.go").touch()


def waits(outcome: str, amount: int) -> bool:
    """Whether a body is to wait."""
    return amount == HELD or outcome in ("timeout", "cancelled")


def may_go(mark: str) -> bool:
    """Whether what waits may go on."""
    return (folder() / f"{mark}.go").exists()


def wait(mark: str) -> None:
    """Wait until the file is there, and not for ever."""
    until = time.monotonic() + PATIENCE_S
    while not may_go(mark) and time.monotonic() < until:
        time.sleep(0.002)


async def wait_async(mark: str) -> None:
    """The same in an event loop."""
    until = time.monotonic() + PATIENCE_S
    while not may_go(mark) and time.monotonic() < until:
        await asyncio.sleep(0.002)


def value(outcome: str, amount: int, ctx: ToolContext, secret: str) -> Any:
    """What a body gives, or raises."""
    match outcome:
        case "null":
            return None
        case "raises":
            raise ZeroDivisionError("nothing divides")
        case "own_error":
            raise ToolError("there is no such order", code="NO_ORDER", details={"order": 7})
        case "own_passing_error":
            raise ToolError("the till is being counted", True, "LATER")
        case "upstream_failed" | "circuit_open":
            raise RemoteToolError("the other side is away", kind="unavailable", retry_after_s=2.5)
        case "invalid_output":
            return object()
        case "artifacts":
            ctx.artifact("plots/one.txt", b"a line")
        case "secrets":
            return {"sent": f"key={secret}", "length": len(secret)}
        case "big":
            return {"text": "x" * BIG}
    return {"amount": amount, "nothing": None, "words": WORDS, "list": [1, 2.5, True, []]}


def sync_body(outcome: str) -> Callable[..., Any]:
    """A function that blocks."""

    def body(mark: str, amount: int, ctx: ToolContext, path: str = "a.txt") -> Any:
        note(mark)
        if waits(outcome, amount):
            wait(mark)
        return value(outcome, amount, ctx, ctx.secret_sync(REFERENCE) if outcome == "secrets" else "")

    return body


def async_body(outcome: str) -> Callable[..., Any]:
    """A function that does not."""

    async def body(mark: str, amount: int, ctx: ToolContext, path: str = "a.txt") -> Any:
        note(mark)
        if waits(outcome, amount):
            await wait_async(mark)
        return value(outcome, amount, ctx, await ctx.secret(REFERENCE) if outcome == "secrets" else "")

    return body


# -- the styles --------------------------------------------------------------------------------------------------------


def class_tool(outcome: str, hints: Hints) -> Any:
    """A BaseTool class with one operation."""
    body = sync_body(outcome)

    def operation(self: Any, mark: str, amount: int, ctx: ToolContext, path: str = "a.txt") -> Any:
        return body(mark, amount, ctx, path)

    operation.__name__ = outcome
    operation.__doc__ = "One of the shop's."
    declared = policy(*POLICIES.get(outcome, ()), hints)(operation)
    return type("Class", (BaseTool,), {outcome: declared, "__module__": __name__})


def function_tool(outcome: str, hints: Hints) -> Any:
    """A sync function with @Tool."""
    return _decorated("Tool", outcome, hints, sync_body(outcome))


def async_tool(outcome: str, hints: Hints) -> Any:
    """An async function with @Tool."""
    return _decorated("Async", outcome, hints, async_body(outcome))


def _decorated(style: str, outcome: str, hints: Hints, body: Callable[..., Any]) -> Any:
    given = {FIELDS[type(one)]: one for one in POLICIES.get(outcome, ())}
    timeout = given.pop("timeout", None)
    if timeout is not None:
        given["timeout_seconds"] = timeout.total_s
    made = Tool(name=f"{style}.{outcome}", description="One of the shop's.", register=False, hints=hints, **given)
    return made(body)


def spec_tool(outcome: str, hints: Hints) -> ToolDefinition:
    """A FunctionToolSpec."""
    body = async_body(outcome)

    async def run(args: dict[str, Any], ctx: ToolContext) -> Any:
        return await body(args["mark"], args["amount"], ctx, args["path"])

    spec = FunctionToolSpec(
        id=f"function-{outcome}",
        tool_name=f"Function.{outcome}",
        description="One of the shop's.",
        parameters=_parameters(),
        **_fields(outcome),
    )
    return _completed(spec.define(run), outcome, hints)


def http_tool(outcome: str, hints: Hints) -> ToolDefinition:
    """An HttpToolSpec, on the server of the tests."""
    spec = HttpToolSpec(
        id=f"http-{outcome}",
        tool_name=f"Http.{outcome}",
        description="One of the shop's.",
        url=f"{os.environ['JOURNEYS_UPSTREAM']}/{outcome}",
        method="post",
        headers={"X-Key": REFERENCE} if outcome == "secrets" else None,
        parameters=_parameters(),
        **_fields(outcome),
    )
    return _completed(spec.define(), outcome, hints)


def db_tool(outcome: str, hints: Hints) -> ToolDefinition:
    """A DbToolSpec, on SQLite."""
    spec = SqliteToolSpec(
        id=f"db-{outcome}",
        tool_name=f"Db.{outcome}",
        description="One of the shop's.",
        database_path=str(folder() / "shop.db"),
        parameters=[
            StringParameter(name="query", required=True),
            ArrayParameter(name="params"),
            StringParameter(name="path", default="a.txt"),
        ],
        **_fields(outcome),
    )
    return _completed(spec.define(), outcome, hints)


def _parameters() -> list[Any]:
    return [
        StringParameter(name="mark", required=True),
        IntegerParameter(name="amount", required=True),
        StringParameter(name="path", default="a.txt"),
    ]


def _fields(outcome: str) -> dict[str, Any]:
    """What of the policies a spec has fields for."""
    given = {FIELDS[type(one)]: one for one in POLICIES.get(outcome, ())}
    own = {name: given[name] for name in ("access", "approval", "oauth") if name in given}
    return own | ({"timeout_s": given["timeout"].total_s} if "timeout" in given else {})


def _completed(definition: ToolDefinition, outcome: str, hints: Hints) -> ToolDefinition:
    """With the policies that specs have no fields for."""
    given = {FIELDS[type(one)]: one for one in POLICIES.get(outcome, ())}
    rest = {name: one for name, one in given.items() if name not in ("access", "approval", "oauth", "timeout")}
    return replace(definition, policies=replace(definition.policies, **rest), hints=hints)


FIELDS: dict[type, str] = {
    Access: "access",
    Approval: "approval",
    Breaker: "breaker",
    Cache: "cache",
    Concurrency: "concurrency",
    Idempotency: "idempotency",
    OAuth: "oauth",
    RateLimit: "rate_limit",
    Timeout: "timeout",
}
STYLES: dict[str, Callable[[str, Hints], Any]] = {
    "class": class_tool,
    "tool": function_tool,
    "async": async_tool,
    "function": spec_tool,
    "http": http_tool,
    "db": db_tool,
}
NAMES = {"class": "Class", "tool": "Tool", "async": "Async", "function": "Function", "http": "Http", "db": "Db"}

IMPOSSIBLE: dict[str, dict[str, str]] = {
    "http": {
        "null": "the value is an answer with a status, never null itself",
        "own_error": "an answer has a status, and no code of the author's",
        "own_passing_error": "an answer has a status, and no code of the author's",
        "raises": "no code of the author's runs",
        "invalid_output": "every answer is a value",
        "artifacts": "an answer has no files",
    },
    "db": {
        "null": "the value is rows, never null itself",
        "own_error": "a statement has no code of the author's",
        "own_passing_error": "a statement has no code of the author's",
        "raises": "no code of the author's runs",
        "invalid_output": "what a database gives is a value",
        "artifacts": "rows have no files",
        "secrets": "a statement is given no secret",
        "concurrency_limited": "no statement can be held up",
        "in_progress": "no statement can be held up",
        "late": "no statement can be held up",
        "cancelled": "no statement can be held up",
        "circuit_open": "a statement that is wrong is the caller's fault, which trips nothing",
    },
}
"""What tools of a style cannot do, and why."""


def made(style: str, outcome: str, *, task: bool = False) -> Any:
    """One tool, as an executor takes it."""
    return STYLES[style](outcome, Hints(title="shop", task="optional" if task else None))


def arguments(style: str, outcome: str, mark: str, amount: int = 3) -> dict[str, Any]:
    """What a call of a tool is given for it to end so."""
    more: dict[str, Any] = {}
    if outcome == "screened":
        more["path"] = "%2e%2e%2fsecret"
    if outcome == "too_large":
        more["path"] = "x" * 210_000
    if style != "db":
        wrong = "x" if outcome == "invalid_input" else amount
        return {"mark": mark, "amount": wrong, **more}
    if outcome == "invalid_input":
        return {"query": STATEMENTS["success"], "params": "x"}
    statement = STATEMENTS.get(outcome, STATEMENTS["success"])
    return {
        "query": statement,
        "params": [mark] if outcome in ("timeout", "upstream_failed") else [mark, amount],
        **more,
    }


STATEMENTS = {
    "success": "INSERT INTO runs (mark, amount) VALUES (?, ?) RETURNING amount, NULL AS missing, 'żółw ☃ 𝄞' AS words",
    "big": f"INSERT INTO runs (mark, amount) VALUES (?, ?) RETURNING printf('%.{BIG}c', 'x') AS text",
    "upstream_failed": "INSERT INTO nowhere (mark) VALUES (?)",
    "timeout": "INSERT INTO runs (mark, amount) SELECT ?, count(*) FROM (WITH RECURSIVE n(i) AS "
    "(SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 4000000000) SELECT i FROM n)",
}


def all_tools() -> list[Any]:
    """Every tool there is, for a process that works."""
    return [
        made(style, outcome) for style in STYLES for outcome in ORDINARY if outcome not in IMPOSSIBLE.get(style, {})
    ]


def __getattr__(name: str) -> Any:
    if name == "TOOLS":
        return all_tools()
    raise AttributeError(name)
