"""Measures what toolpost adds to a call, next to the floor (pydantic, then the function) and to other libraries.

    python benchmarks/overhead.py --json build/overhead.json

README.md here says how to read it.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import peers
from measure import Contender, Missing, judged, options_for, parsed, wanted, written
from pydantic import BaseModel, validate_call

from toolpost import BaseTool, Tool, ToolExecutor, cache_result, create_tool_call
from toolpost.calls.definition import FunctionBody

PLAIN = "Please select one of the drafts from the third of May; then update the others."
QUOTED = "It's the third of May; please select one of O'Brien's drafts, or drop all."


class Pair(BaseModel):
    """The arguments of every tool here, for the floors."""

    a: int
    b: int


class Text(BaseModel):
    text: str


async def add(a: int, b: int) -> int:
    return a + b


def add_sync(a: int, b: int) -> int:
    return a + b


async def add_suspending(a: int, b: int) -> int:
    await asyncio.sleep(0)
    return a + b


async def count_words(text: str) -> int:
    return 3


checked = validate_call(add)
checked_sync = validate_call(add_sync)


async def pydantic_add(a: int, b: int) -> int:
    pair = Pair.model_validate({"a": a, "b": b})
    return await add(pair.a, pair.b)


async def pydantic_add_suspending(a: int, b: int) -> int:
    pair = Pair.model_validate({"a": a, "b": b})
    return await add_suspending(pair.a, pair.b)


class Math(BaseTool):
    """The tool under test. Its parameters come from the signatures."""

    async def add(self, a: int, b: int) -> int:
        return a + b

    async def add_suspending(self, a: int, b: int) -> int:
        await asyncio.sleep(0)
        return a + b

    @cache_result(ttl=3600)
    async def add_cached(self, a: int, b: int) -> int:
        return a + b

    async def count_words(self, text: str) -> int:
        return 3

    def add_leaf(self, a: int, b: int) -> int:
        return a + b

    def add_calling(self, a: int, b: int) -> int:
        return int(a + b)

    @cache_result(ttl=3600)
    def add_leaf_cached(self, a: int, b: int) -> int:
        return a + b


@Tool(name="add_inline", register=False, runs_in="inline")
def add_inline(a: int, b: int) -> int:
    return int(a + b)


# Each loop is written out, so that no call pays for a closure that the others do not have. They return the last answer.


def floors(threads: ThreadPoolExecutor, batch: int) -> list[Contender]:
    """What anybody pays who checks arguments and calls."""

    async def bare(n: int) -> Any:
        answer = None
        for _ in range(n):
            answer = await add(1, 2)
        return answer

    async def by_model(n: int) -> Any:
        answer = None
        for _ in range(n):
            pair = Pair.model_validate({"a": 1, "b": 2})
            answer = await add(pair.a, pair.b)
        return answer

    async def by_validate_call(n: int) -> Any:
        answer = None
        for _ in range(n):
            answer = await checked(a=1, b=2)
        return answer

    async def suspending(n: int) -> Any:
        answer = None
        for _ in range(n):
            pair = Pair.model_validate({"a": 1, "b": 2})
            answer = await add_suspending(pair.a, pair.b)
        return answer

    async def timed(n: int) -> Any:
        answer = None
        for _ in range(n):
            pair = Pair.model_validate({"a": 1, "b": 2})
            async with asyncio.timeout(30):
                answer = await add_suspending(pair.a, pair.b)
        return answer

    async def text(n: int) -> Any:
        answer = None
        for _ in range(n):
            answer = await count_words(Text.model_validate({"text": PLAIN}).text)
        return answer

    def bare_sync(n: int) -> Any:
        answer = None
        for _ in range(n):
            answer = add_sync(1, 2)
        return answer

    def by_model_sync(n: int) -> Any:
        answer = None
        for _ in range(n):
            pair = Pair.model_validate({"a": 1, "b": 2})
            answer = add_sync(pair.a, pair.b)
        return answer

    def by_validate_call_sync(n: int) -> Any:
        answer = None
        for _ in range(n):
            answer = checked_sync(a=1, b=2)
        return answer

    def submitted(n: int) -> Any:
        answer = None
        for _ in range(n):
            pair = Pair.model_validate({"a": 1, "b": 2})
            answer = threads.submit(add_sync, pair.a, pair.b).result()
        return answer

    async def to_thread(n: int) -> Any:
        answer = None
        for _ in range(n):
            pair = Pair.model_validate({"a": 1, "b": 2})
            answer = await asyncio.to_thread(add_sync, pair.a, pair.b)
        return answer

    async def gathered(n: int) -> Any:
        answers = await asyncio.gather(*[pydantic_add(i, 3 - i) for i in range(n)])
        return answers[-1]

    async def gathered_suspending(n: int) -> Any:
        answers = await asyncio.gather(*[pydantic_add_suspending(i, 3 - i) for i in range(n)])
        return answers[-1]

    def one(name: str, what: str, loop: Callable[[int], Any], floor: str | None, **more: Any) -> Contender:
        return Contender(name=name, what=what, loop=loop, floor=floor, **more)

    asynchronous, synchronous = "async/pydantic", "sync/pydantic"
    return [
        one("async/bare", "await add(1, 2)", bare, asynchronous),
        one(asynchronous, "floor: model_validate, then await add(m.a, m.b)", by_model, asynchronous),
        one("async/validate_call", "pydantic validate_call around the function", by_validate_call, asynchronous),
        one(
            "suspends/pydantic",
            "floor: model_validate, then a body that suspends once (sleep(0))",
            suspending,
            "suspends/pydantic",
        ),
        one("suspends/timeout", "the same inside asyncio.timeout(30)", timed, "suspends/pydantic"),
        one("text/pydantic", f"floor: a str of {len(PLAIN)} characters, model_validate", text, "text/pydantic"),
        one("sync/bare", "add(1, 2)", bare_sync, synchronous),
        one(synchronous, "floor: model_validate, then add(m.a, m.b)", by_model_sync, synchronous),
        one("sync/validate_call", "pydantic validate_call around the function", by_validate_call_sync, synchronous),
        one(
            "thread/submit",
            "floor: model_validate, then ThreadPoolExecutor.submit(add, ...).result()",
            submitted,
            "thread/submit",
            clock="wall",
        ),
        one(
            "hop/to_thread",
            "floor: model_validate, then await asyncio.to_thread(add, ...)",
            to_thread,
            "hop/to_thread",
            clock="wall",
        ),
        one(
            "batch/gather",
            f"floor: asyncio.gather of {batch:,} floor calls",
            gathered,
            "batch/gather",
            calls=batch,
        ),
        one(
            "batch/gather-suspending",
            "floor: the same with a body that suspends once",
            gathered_suspending,
            "batch/gather-suspending",
            calls=batch,
        ),
    ]


def ours(executor: ToolExecutor, batch: int) -> list[Contender]:
    """toolpost with default settings: checks, screening, a deadline of 30 s, metrics, recent history, no observer."""
    tool, homeless = Math(), Math()
    executor.add(tool)
    executor.add(add_inline)
    leaves = {d.operation for d in tool.definitions() if isinstance(d.body, FunctionBody) and d.body.leaf}
    assert leaves == {"add_leaf", "add_leaf_cached"}, "what the rows are called would be wrong"
    call = create_tool_call("Math.add", {"a": 1, "b": 2})

    async def run_async(n: int) -> Any:
        answer = None
        for _ in range(n):
            answer = await tool.run_async("add", a=1, b=2)
        return answer

    async def run_async_default(n: int) -> Any:
        answer = None
        for _ in range(n):
            answer = await homeless.run_async("add", a=1, b=2)
        return answer

    async def execute_async(n: int) -> Any:
        answer = None
        for _ in range(n):
            answer = await executor.execute_async(tool, "add", a=1, b=2)
        return answer

    async def by_name(n: int) -> Any:
        answer = None
        for _ in range(n):
            answer = await executor.call("Math.add", a=1, b=2)
        return answer

    async def by_call(n: int) -> Any:
        answer = None
        for _ in range(n):
            answer = await executor.execute_tool_call(call)
        return answer

    async def cache_hit(n: int) -> Any:
        answer = None
        for _ in range(n):
            answer = await tool.run_async("add_cached", a=1, b=2)
        return answer

    async def suspending(n: int) -> Any:
        answer = None
        for _ in range(n):
            answer = await tool.run_async("add_suspending", a=1, b=2)
        return answer

    async def text(n: int) -> Any:
        answer = None
        for _ in range(n):
            answer = await tool.run_async("count_words", text=PLAIN)
        return answer

    async def quoted(n: int) -> Any:
        answer = None
        for _ in range(n):
            answer = await tool.run_async("count_words", text=QUOTED)
        return answer

    def leaf(n: int) -> Any:
        answer = None
        for _ in range(n):
            answer = tool.run("add_leaf", a=1, b=2)
        return answer

    def inline(n: int) -> Any:
        answer = None
        for _ in range(n):
            answer = executor.call_sync("add_inline", a=1, b=2)
        return answer

    def cache_hit_sync(n: int) -> Any:
        answer = None
        for _ in range(n):
            answer = tool.run("add_leaf_cached", a=1, b=2)
        return answer

    def thread(n: int) -> Any:
        answer = None
        for _ in range(n):
            answer = tool.run("add_calling", a=1, b=2)
        return answer

    async def hop(n: int) -> Any:
        answer = None
        for _ in range(n):
            answer = await tool.run_async("add_calling", a=1, b=2)
        return answer

    async def batched(n: int) -> Any:
        operations = [{"op": "add", "kwargs": {"a": i, "b": 3 - i}} for i in range(n)]
        answers = await executor.execute_batch(tool, operations)
        return answers[-1]

    async def batched_suspending(n: int) -> Any:
        operations = [{"op": "add_suspending", "kwargs": {"a": i, "b": 3 - i}} for i in range(n)]
        answers = await executor.execute_batch(tool, operations)
        return answers[-1]

    def one(name: str, what: str, loop: Callable[[int], Any], floor: str, **more: Any) -> Contender:
        return Contender(name=name, what=what, loop=loop, floor=floor, **more)

    asynchronous: dict[str, Any] = {"floor": "async/pydantic", "bar": 4.5, "below": "async/openai-agents"}
    synchronous: dict[str, Any] = {"floor": "sync/pydantic", "bar": 3.5, "below": "sync/aiecs"}
    return [
        one("async/run_async", "toolpost tool.run_async: the default pipeline", run_async, **asynchronous),
        one(
            "async/run_async-default",
            "the same of a tool that was added to no executor, so that the process's runs it",
            run_async_default,
            **asynchronous,
        ),
        one("async/execute_async", "toolpost executor.execute_async", execute_async, **asynchronous),
        one("async/call", "toolpost executor.call, by name", by_name, **asynchronous),
        one(
            "async/execute_tool_call",
            "toolpost executor.execute_tool_call: ToolCall in, ToolResult out (JSON value, times, ids)",
            by_call,
            "async/pydantic",
            read=lambda result: result.data,
        ),
        one("async/cache-hit", "toolpost run_async, answered by the cache", cache_hit, "async/pydantic", bar=3.0),
        one(
            "suspends/run_async",
            "toolpost run_async of a body that suspends once: the deadline's timer is armed and disarmed",
            suspending,
            "suspends/pydantic",
        ),
        one("text/run_async", "toolpost run_async with that text, which is screened", text, "text/pydantic"),
        one(
            "text/run_async-quoted",
            f"the same with {len(QUOTED)} characters and quotes among them, which are looked at more closely",
            quoted,
            "text/pydantic",
        ),
        one(
            "sync/run-leaf",
            "toolpost tool.run of a body whose code can neither loop nor call: runs inline",
            leaf,
            **synchronous,
        ),
        one(
            "sync/call-inline",
            "toolpost executor.call_sync of a body declared runs_in='inline'",
            inline,
            **synchronous,
        ),
        one("sync/cache-hit", "toolpost tool.run, answered by the cache", cache_hit_sync, "sync/pydantic", bar=3.0),
        one(
            "thread/run",
            "toolpost tool.run of a body that may block: a worker thread, so that the deadline holds",
            thread,
            "thread/submit",
            clock="wall",
        ),
        one(
            "hop/run_async",
            "toolpost run_async of a sync body that may block: a worker thread",
            hop,
            "hop/to_thread",
            clock="wall",
        ),
        one(
            "batch/execute_batch",
            f"toolpost executor.execute_batch of {batch:,} operations, 8 at a time",
            batched,
            "batch/gather",
            bar=1.5,
            calls=batch,
        ),
        one(
            "batch/execute_batch-suspending",
            "the same with a body that suspends once",
            batched_suspending,
            "batch/gather-suspending",
            calls=batch,
        ),
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark. 0 however the bars come out; 2 when a pattern names nothing or an answer is wrong."""
    parser = options_for(__doc__)
    parser.add_argument("--batch", type=int, default=10_000, help="calls of a batch (10000)")
    parser.add_argument("--no-peers", action="store_true", help="leave other libraries out")
    options = parsed(parser, arguments)
    with asyncio.Runner() as runner, ThreadPoolExecutor(4) as threads, ToolExecutor() as executor:
        everything: list[Contender | Missing] = [*floors(threads, options.batch), *ours(executor, options.batch)]
        if not options.no_peers:
            compared = {c.below for c in everything if isinstance(c, Contender) and wanted(options, c.name)}
            everything += peers.contenders(runner, lambda name: wanted(options, name) or name in compared)
        logging.getLogger().setLevel(logging.WARNING)  # Python's default; one of the peers sets INFO
        report = judged(everything, options, runner)
    if isinstance(report, int):
        return report
    written(report | {"batch": options.batch}, options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
