"""Measures whether memory stays flat over very many calls, and what a large batch needs at its peak.

    python benchmarks/memory.py --json build/memory.json

README.md here says how to read it. Every scenario has a process of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import json
import logging
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from measure import machine, rss_mb
from pydantic import BaseModel

from toolpost import BaseTool, Tool, ToolCall, ToolExecutionError, ToolExecutor, cache_result

STEPS = 10
JUDGED_CALLS = 100_000
"""Fewer calls show start-up, not growth, and are not judged."""
WARM_CALLS = 25_600
"""Calls before the first look, where the scenario is judged: the history of recent calls and the counters of its tools,
10,000 of each, are full then."""
RSS_BAR_MB = 0.5
BLOCKS_BAR = 1_000
"""Growth per 100,000 calls that still counts as flat: 5 bytes a call, and one object in a hundred calls."""
PERIOD = 256
"""Calls are made in multiples of this, as metrics and history are tidied every so many, so that each look comes at the
same point of that."""


MANY = [f"add_{i}" for i in range(1_000)]


class Pair(BaseModel):
    a: int
    b: int


async def add(a: int, b: int) -> int:
    return a + b


async def pydantic_add(a: int, b: int) -> int:
    pair = Pair.model_validate({"a": a, "b": b})
    return await add(pair.a, pair.b)


class Math(BaseTool):
    async def add(self, a: int, b: int) -> int:
        return a + b

    @cache_result(ttl=3600)
    async def add_cached(self, a: int, b: int) -> int:
        return a + b

    async def fail(self, a: int, b: int) -> int:
        raise ValueError(f"no sum of {a} and {b}")

    def add_leaf(self, a: int, b: int) -> int:
        return a + b

    def add_calling(self, a: int, b: int) -> int:
        return int(a + b)


Calls = Callable[[ToolExecutor, Math, range], Awaitable[None]]


async def _run_async(executor: ToolExecutor, tool: Math, numbers: range) -> None:
    for i in numbers:
        await tool.run_async("add", a=i, b=2)


async def _cached(executor: ToolExecutor, tool: Math, numbers: range) -> None:
    for i in numbers:
        await tool.run_async("add_cached", a=i, b=2)


async def _callers(executor: ToolExecutor, tool: Math, numbers: range) -> None:
    for i in numbers:
        await tool.run_async("add_cached", a=1, b=2, user_id=f"user-{i}", task_id=f"task-{i}")


async def _tool_calls(executor: ToolExecutor, tool: Math, numbers: range) -> None:
    for i in numbers:
        call = ToolCall(id=f"call-{i}", name="Math.add", arguments={"a": i, "b": 2}, user_id=f"user-{i}")
        await executor.execute_tool_call(call)


async def _failing(executor: ToolExecutor, tool: Math, numbers: range) -> None:
    for i in numbers:
        with contextlib.suppress(ToolExecutionError):
            await tool.run_async("fail", a=i, b=2)


async def _refused(executor: ToolExecutor, tool: Math, numbers: range) -> None:
    for i in numbers:
        with contextlib.suppress(ToolExecutionError):
            await tool.run_async("add", a=i, b=f"no number {i}")


async def _unknown(executor: ToolExecutor, tool: Math, numbers: range) -> None:
    for i in numbers:
        await executor.execute_tool_call(ToolCall(id=f"call-{i}", name=f"Math.add_{i}", arguments={}))


async def _many_tools(executor: ToolExecutor, tool: Math, numbers: range) -> None:
    if MANY[0] not in executor.get_available_tools():
        for name in MANY:
            executor.add(Tool(name=name, register=False).define(add))
    for i in numbers:
        await executor.call(MANY[i % len(MANY)], a=i, b=2)


async def _leaf(executor: ToolExecutor, tool: Math, numbers: range) -> None:
    for i in numbers:
        tool.run("add_leaf", a=i, b=2)


async def _thread(executor: ToolExecutor, tool: Math, numbers: range) -> None:
    for i in numbers:
        tool.run("add_calling", a=i, b=2)


# Name -> what its calls are, the calls, and what share of --calls it makes.
SCENARIOS: dict[str, tuple[str, Calls, float]] = {
    "run_async": ("run_async, default pipeline, distinct arguments", _run_async, 1),
    "cache": ("the same with a cache: every call misses, is kept, and evicts", _cached, 1),
    "callers": ("with a cache, each call of another user and task", _callers, 1),
    "tool_calls": ("execute_tool_call, each call of another user", _tool_calls, 1),
    "many_tools": (f"call by name, {len(MANY):,} tools in turn", _many_tools, 1),
    "sync": ("run of a sync body that runs inline", _leaf, 1),
    "failing": ("a body that raises, with a log line and traceback", _failing, 0.1),
    "refused": ("arguments that do not fit, with a log line", _refused, 0.1),
    "unknown": ("names that no tool has", _unknown, 0.1),
    "thread": ("run of a sync body in a worker thread", _thread, 0.1),
}


def flatness(name: str, calls: int) -> dict[str, Any]:
    """Run one scenario here; after a warm-up and each step look at resident memory and at the allocator's blocks.

    A block is an object or a part of one, up to 512 bytes; what is larger shows in the resident memory.
    """
    what, make_calls, share = SCENARIOS[name]
    judged = calls * share >= JUDGED_CALLS
    # Each tool keeps up to PERIOD durations until they are folded, so with many tools the period is that much longer.
    period = PERIOD * len(MANY) if judged and name == "many_tools" else PERIOD
    step = max(1, int(calls * share) // STEPS // period) * period
    warm = max(step, WARM_CALLS) if judged else step
    started = time.perf_counter()
    resident: list[float] = []
    blocks: list[int] = []
    with ToolExecutor() as executor, asyncio.Runner() as runner:
        tool = Math()
        executor.add(tool)
        done = 0
        for count in [warm, *[step] * STEPS]:
            runner.run(_awaited(make_calls(executor, tool, range(done, done + count))))
            gc.collect()
            done += count
            blocks.append(sys.getallocatedblocks())
            resident.append(rss_mb())
    took_s = time.perf_counter() - started
    hundred_thousands = step * STEPS / 100_000
    rss_growth = (resident[-1] - resident[0]) / hundred_thousands
    block_growth = (blocks[-1] - blocks[0]) / hundred_thousands
    return {
        "name": name,
        "what": what,
        "calls": done,
        "took_s": took_s,
        "us_a_call": took_s / done * 1e6,
        "rss_mb": resident,
        "blocks": blocks,
        "rss_growth_mb_per_100k": rss_growth,
        "block_growth_per_100k": block_growth,
        "flat": rss_growth <= RSS_BAR_MB and block_growth <= BLOCKS_BAR if judged else None,
    }


async def _awaited(work: Awaitable[None]) -> None:
    await work


# Batches: each makes n calls at once, and holds all its results unless it streams.

Batch = Callable[[ToolExecutor, Math, int], Awaitable[Any]]


async def _gather(executor: ToolExecutor, tool: Math, n: int) -> Any:
    return await asyncio.gather(*[pydantic_add(i, 2) for i in range(n)])


async def _execute_batch(executor: ToolExecutor, tool: Math, n: int) -> Any:
    return await executor.execute_batch(tool, ({"op": "add", "kwargs": {"a": i, "b": 2}} for i in range(n)))


def _calls(n: int) -> Iterator[ToolCall]:
    return (ToolCall(id=f"call-{i}", name="Math.add", arguments={"a": i, "b": 2}) for i in range(n))


async def _execute_tool_calls(executor: ToolExecutor, tool: Math, n: int) -> Any:
    return await executor.execute_tool_calls(_calls(n))


async def _stream_tool_calls(executor: ToolExecutor, tool: Math, n: int) -> Any:
    async for _, result in executor.stream_tool_calls(_calls(n)):
        assert result.success


# Name -> what it is, the batch, and how many times --batch it is.
BATCHES: dict[str, tuple[str, Batch, int]] = {
    "gather": ("asyncio.gather of bare pydantic calls", _gather, 1),
    "execute_batch": ("execute_batch, results in a list", _execute_batch, 1),
    "execute_tool_calls": ("execute_tool_calls, ToolResults in a list", _execute_tool_calls, 1),
    "stream_tool_calls": ("stream_tool_calls, nothing kept", _stream_tool_calls, 1),
    "stream_tool_calls-10x": ("stream_tool_calls of ten times as many", _stream_tool_calls, 10),
}


def peak(name: str, batch: int) -> dict[str, Any]:
    """Run one batch here: the most memory that Python had allocated for it at a time, results included."""
    what, run, times = BATCHES[name]
    n = batch * times
    with ToolExecutor() as executor, asyncio.Runner() as runner:
        tool = Math()
        executor.add(tool)
        runner.run(_awaited(run(executor, tool, n)))  # fills histories
        gc.collect()
        tracemalloc.start()
        runner.run(_awaited(run(executor, tool, n)))
        gc.collect()
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        runner.run(_awaited(run(executor, tool, n)))
        most = tracemalloc.get_traced_memory()[1] - before
        tracemalloc.stop()
    return {"name": name, "what": what, "items": n, "peak_mb": most / 1e6, "bytes_an_item": most / n}


def one(kind: str, name: str, size: int) -> dict[str, Any]:
    """One scenario or batch in this process. Failing calls are logged by toolpost; those lines go nowhere."""
    log = logging.getLogger("toolpost")
    log.addHandler(logging.NullHandler())
    log.propagate = False
    return flatness(name, size) if kind == "flatness" else peak(name, size)


def apart(kind: str, name: str, size: int) -> dict[str, Any]:
    """The same in a process of its own."""
    command = [sys.executable, __file__, "--one", kind, name, str(size)]
    run = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(run.stdout)  # type: ignore[no-any-return]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark. 0 however it comes out."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--calls", type=int, default=1_000_000, help="calls of a scenario (1000000)")
    parser.add_argument("--batch", type=int, default=10_000, help="items of a batch (10000)")
    parser.add_argument("--only", metavar="SCENARIO", action="append", choices=[*SCENARIOS, *BATCHES])
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the figures there, too")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.one:
        kind, name, size = options.one
        print(json.dumps(one(kind, name, int(size))))
        return 0
    if min(options.calls, options.batch) < 1:
        parser.error("--calls and --batch are at least 1")
    started = time.perf_counter()
    print(
        f"{'scenario':<22} {'calls':>9} {'us each':>8} {'RSS MB':>14} {'MB/100k':>8} {'blocks/100k':>11}  flat   took s"
    )
    scenarios = []
    for name in SCENARIOS:
        if not options.only or name in options.only:
            row = apart("flatness", name, options.calls)
            scenarios.append(row)
            span = f"{row['rss_mb'][0]:.1f} - {row['rss_mb'][-1]:.1f}"
            verdict = {True: "yes", False: "NO", None: "?"}[row["flat"]]
            print(
                f"{name:<22} {row['calls']:>9} {row['us_a_call']:>8.1f} {span:>14} "
                f"{row['rss_growth_mb_per_100k']:>8.3f} {row['block_growth_per_100k']:>11.0f}  {verdict:<5} "
                f"{row['took_s']:>7.1f}",
                flush=True,
            )
    print(f"\n{'batch':<22} {'items':>9} {'peak MB':>8} {'bytes an item':>14}")
    batches = []
    for name in BATCHES:
        if not options.only or name in options.only:
            row = apart("peak", name, options.batch)
            batches.append(row)
            print(f"{name:<22} {row['items']:>9} {row['peak_mb']:>8.2f} {row['bytes_an_item']:>14.0f}", flush=True)
    took_s = time.perf_counter() - started
    print(f"\ntook {took_s:.0f} s in all")
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        report = {"machine": machine(), "took_s": took_s, "scenarios": scenarios, "batches": batches}
        options.json.write_text(json.dumps(report, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
