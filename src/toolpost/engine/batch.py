"""Runs many calls with bounded concurrency, results in order or as they come, and no task per call."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Coroutine, Generator, Iterable
from contextvars import Context, copy_context
from typing import Any, Generic, TypeVar

from toolpost.calls.clock import Clock
from toolpost.calls.errors import InputValidationError, ToolExecutionError, ToolTimeoutError

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

    start(item, seconds left) makes the coroutine of one item, or refuses; concurrency workers take items in turn. Each
    item runs in a context of its own: variables that it sets are not seen by others.
    """
    results: list[Any] = []
    newest = [-1] * concurrency
    source = enumerate(items)
    stopwatch = clock.stopwatch
    began = stopwatch()

    async def work(number: int) -> None:
        turn = stopwatch()
        for index, item in source:
            results.append(None)
            newest[number] = index
            try:
                left = None if deadline_s is None else deadline_s - (stopwatch() - began)
                coro: Any = start(item, left)
                context = copy_context()
                try:
                    parked = context.run(coro.send, None)
                except StopIteration as done:
                    results[index] = done.value
                else:
                    results[index] = await _Apart(coro, parked, context)
            except ToolExecutionError as error:
                if fail_fast:
                    raise
                results[index] = error
            if stopwatch() - turn > TURN_S:
                await asyncio.sleep(0)
                turn = stopwatch()

    workers = [asyncio.ensure_future(work(number)) for number in range(concurrency)]
    await _all_or_first_error(workers, newest)
    return results


async def streamed(
    items: Iterable[T] | AsyncIterable[T],
    start: Callable[[T, float | None], Awaitable[R]],
    *,
    concurrency: int,
    deadline_s: float | None,
    stop: Callable[[R], bool] | None,
    clock: Clock,
) -> AsyncIterator[tuple[int, R]]:
    """(index, result) as each ends. What is not yet taken from here holds the workers back, so memory stays flat.

    Once stop says so of a result, no more items are taken, what has ended is still given, and the rest is cancelled.
    """
    plain = enumerate(items if isinstance(items, Iterable) else ())
    slow = None if isinstance(items, Iterable) else _Slow(items)
    stopwatch = clock.stopwatch
    began = stopwatch()
    finished: deque[tuple[int, R]] = deque()
    newest = [-1] * concurrency
    news, room = asyncio.Event(), asyncio.Event()
    stopped = False

    async def work(number: int) -> None:
        nonlocal stopped
        while not stopped:
            pair = await slow.take() if slow is not None else next(plain, None)
            if pair is None or stopped:  # stopped while an async source was waited for
                return
            index, item = pair
            newest[number] = index
            left = None if deadline_s is None else deadline_s - (stopwatch() - began)
            coro: Any = start(item, left)
            context = copy_context()
            try:
                parked = context.run(coro.send, None)
            except StopIteration as done:
                result: R = done.value
            else:
                result = await _Apart(coro, parked, context)
            finished.append((index, result))
            news.set()
            stopped = stopped or (stop is not None and stop(result))
            while len(finished) >= 4 * concurrency and not stopped:
                room.clear()
                await room.wait()

    workers = [asyncio.ensure_future(work(number)) for number in range(concurrency)]
    for worker in workers:
        worker.add_done_callback(lambda _: news.set())
    try:
        while True:
            news.clear()
            while finished:
                pair = finished.popleft()
                room.set()
                yield pair
            if stopped:
                await asyncio.sleep(0)  # those whose wait is over by now end as if nothing had happened
                await _cancel(workers, newest)
                while finished:
                    yield finished.popleft()
                return
            ended = [worker for worker in workers if worker.done()]
            for worker in ended:
                worker.result()
            if len(ended) == concurrency and not finished:
                return
            await news.wait()
    finally:
        await _cancel(workers, newest)


def each(items: Iterable[T] | AsyncIterable[T], change: Callable[[T], R]) -> Iterable[R] | AsyncIterable[R]:
    """What change makes of each item, as they come."""
    if isinstance(items, Iterable):
        return map(change, items)
    return (change(item) async for item in items)


def checked_concurrency(concurrency: int | None, usual: int) -> int:
    """How many may run at once; None stands for usual. Raises InputValidationError for what is no such number."""
    if concurrency is None:
        return usual
    if not isinstance(concurrency, int) or isinstance(concurrency, bool) or concurrency < 1:
        raise InputValidationError(
            f"Parameter validation failed: concurrency must be a whole number of at least 1, got {concurrency!r:.60}; "
            "leave it out for the executor's io_concurrency"
        )
    return concurrency


def checked_deadline(deadline_s: float | None) -> float | None:
    """A deadline in seconds, or None. Raises InputValidationError for what is no finite number."""
    if deadline_s is None:
        return None
    number = isinstance(deadline_s, (int, float)) and not isinstance(deadline_s, bool)
    if not number or not math.isfinite(deadline_s):
        raise InputValidationError(
            f"Parameter validation failed: deadline_s must be a finite number of seconds, got {deadline_s!r:.60}; "
            "leave it out for no deadline"
        )
    return deadline_s


def too_late() -> ToolTimeoutError:
    """The error of a call that was not begun before the deadline of its batch."""
    error = ToolTimeoutError("the batch's deadline had passed before this call was taken up")
    error.outcome = "not_run"
    return error


class _Apart:
    """Awaits the rest of a coroutine that has suspended at parked, each step in the given context."""

    __slots__ = ("_context", "_coro", "_parked")

    def __init__(self, coro: Coroutine[Any, Any, Any], parked: Any, context: Context) -> None:
        self._coro, self._parked, self._context = coro, parked, context

    def __await__(self) -> Generator[Any, Any, Any]:
        coro, run, waiting = self._coro, self._context.run, self._parked
        try:
            while True:
                try:
                    sent = yield waiting
                except GeneratorExit:
                    run(coro.close)
                    raise
                except BaseException as thrown:
                    waiting = run(coro.throw, thrown)
                else:
                    waiting = run(coro.send, sent)
        except StopIteration as done:
            return done.value


class _Slow(Generic[T]):
    """Items of an async iterable with their indexes, for many takers of which one at a time asks for the next."""

    def __init__(self, items: AsyncIterable[T]) -> None:
        self._items = aiter(items)
        self._turn = asyncio.Lock()
        self._taken = 0

    async def take(self) -> tuple[int, T] | None:
        """The next, or None at the end."""
        async with self._turn:
            try:
                item = await anext(self._items)
            except StopAsyncIteration:
                return None
            self._taken += 1
            return self._taken - 1, item


async def _all_or_first_error(workers: list[asyncio.Task[None]], newest: list[int]) -> None:
    """Wait for all; on an error or a cancellation stop the others first."""
    try:
        await asyncio.gather(*workers)
    finally:
        await _cancel(workers, newest)


async def _cancel(workers: list[asyncio.Task[None]], newest: list[int]) -> None:
    """Cancel workers and wait for their end; newest is the index each took up last.

    Latest items go first: the place of an earlier one must not go to one that waits to be cancelled itself.
    """
    for _, worker in sorted(zip(newest, workers, strict=True), key=lambda pair: pair[0], reverse=True):
        worker.cancel()
    await asyncio.gather(*workers, return_exceptions=True)
