"""Runs many calls with bounded concurrency, results in order or as they come, and no task per call."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Any, TypeVar

from toolpost.calls.clock import Clock
from toolpost.calls.errors import ToolExecutionError, ToolTimeoutError

T = TypeVar("T")
R = TypeVar("R")

TURN_S = 0.005
"""How long a worker goes on without letting the event loop take a turn."""


async def in_order(
    items: Iterable[T],
    start: Callable[[T, float | None], Awaitable[R]],
    *,
    concurrency: int,
    deadline_s: float | None,
    fail_fast: bool,
    clock: Clock,
) -> list[Any]:
    """Values in the order of items. With fail_fast the first error is raised and the rest cancelled.

    start(item, seconds left) makes the awaitable of one item; concurrency workers take items in turn.
    """
    results: list[Any] = []
    source = enumerate(items)
    stopwatch = clock.stopwatch
    began = stopwatch()

    async def work() -> None:
        turn = stopwatch()
        for index, item in source:
            results.append(None)
            try:
                left = None if deadline_s is None else deadline_s - (stopwatch() - began)
                if left is not None and left <= 0:
                    raise _too_late()
                results[index] = await start(item, left)
            except ToolExecutionError as error:
                if fail_fast:
                    raise
                results[index] = error
            if stopwatch() - turn > TURN_S:
                await asyncio.sleep(0)
                turn = stopwatch()

    workers = [asyncio.ensure_future(work()) for _ in range(max(1, concurrency))]
    await _all_or_first_error(workers)
    return results


async def streamed(
    items: Iterable[T],
    start: Callable[[T, float | None], Awaitable[R]],
    *,
    concurrency: int,
    deadline_s: float | None,
    stop: Callable[[R], bool] | None,
    clock: Clock,
) -> AsyncIterator[tuple[int, R]]:
    """(index, result) as each ends. What is not yet taken from here holds the workers back, so memory stays flat."""
    source = enumerate(items)
    stopwatch = clock.stopwatch
    began = stopwatch()
    width = max(1, concurrency)
    finished: deque[tuple[int, R]] = deque()
    news, room = asyncio.Event(), asyncio.Event()
    stopped = False

    async def work() -> None:
        nonlocal stopped
        for index, item in source:
            left = None if deadline_s is None else deadline_s - (stopwatch() - began)
            result = await start(item, left)
            finished.append((index, result))
            news.set()
            stopped = stopped or (stop is not None and stop(result))
            while len(finished) >= 4 * width and not stopped:
                room.clear()
                await room.wait()
            if stopped:
                return

    workers = [asyncio.ensure_future(work()) for _ in range(width)]
    for worker in workers:
        worker.add_done_callback(lambda _: news.set())
    try:
        while True:
            news.clear()
            while finished:
                pair = finished.popleft()
                room.set()
                yield pair
                if stop is not None and stop(pair[1]):
                    return
            ended = [worker for worker in workers if worker.done()]
            for worker in ended:
                worker.result()
            if len(ended) == width and not finished:
                return
            await news.wait()
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)


async def _all_or_first_error(workers: list[asyncio.Task[None]]) -> None:
    """Wait for all; on an error or a cancellation stop the others first."""
    try:
        await asyncio.gather(*workers)
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)


def _too_late() -> ToolTimeoutError:
    error = ToolTimeoutError("the batch's deadline had passed before this call was taken up")
    error.outcome = "not_run"
    return error
