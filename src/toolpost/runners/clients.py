"""Clients: what a runner keeps open for each event loop, closed before that loop ends or with its executor."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import weakref
from collections.abc import AsyncGenerator, Callable, Hashable
from contextlib import AbstractAsyncContextManager
from typing import Any, Generic, TypeVar

T = TypeVar("T")
logger = logging.getLogger("toolpost")
CLOSING: weakref.WeakSet[asyncio.Task[None]] = weakref.WeakSet()
"""The tasks that close something, which a loop that ends must let come to their end."""


class PerLoop(Generic[T]):
    """One thing for each event loop, made when first asked for there.

    make gives an async context manager; what it yields is kept until the loop shuts down its async generators, as
    asyncio.run does before it closes the loop, or until close(). It must be no @asynccontextmanager: that is an async
    generator too, which the loop would close at the same time.
    """

    def __init__(self, make: Callable[[], AbstractAsyncContextManager[T]]) -> None:
        self._make = make
        self._kept: dict[asyncio.AbstractEventLoop, _Kept[T]] = {}
        self._lock = threading.Lock()

    def here(self) -> T | None:
        """The running loop's, if it has been made."""
        kept = self._kept.get(asyncio.get_running_loop())
        return None if kept is None else kept.value

    async def get(self) -> T:
        """The running loop's, made if need be."""
        loop = asyncio.get_running_loop()
        with self._lock:
            for ended in [other for other in self._kept if other.is_closed()]:
                del self._kept[ended]
            kept = self._kept.setdefault(loop, _Kept())
        async with kept.making:
            if kept.value is None:
                kept.holder = self._hold(loop)
                kept.value = await anext(kept.holder)
        return kept.value

    async def _hold(self, loop: asyncio.AbstractEventLoop) -> AsyncGenerator[T, None]:
        """Keep it open. A generator, because every loop that ends in order closes those it has begun."""
        async with self._make() as made:
            try:
                yield made
            finally:
                with self._lock:
                    self._kept.pop(loop, None)

    def close(self) -> None:
        """Have all of them closed, each by its own loop. May be called from any thread; waits for nothing."""
        for loop, kept in list(self._kept.items()):
            with contextlib.suppress(RuntimeError):  # the loop is closed: its sockets went with it
                loop.call_soon_threadsafe(_end, loop, kept)


class _Kept(Generic[T]):
    __slots__ = ("ending", "holder", "making", "value")

    def __init__(self) -> None:
        self.making = asyncio.Lock()
        self.value: T | None = None
        self.holder: AsyncGenerator[T, None] | None = None
        self.ending: asyncio.Task[None] | None = None


def _end(loop: asyncio.AbstractEventLoop, kept: _Kept[Any]) -> None:
    async def end() -> None:
        try:
            if kept.holder is not None:
                await kept.holder.aclose()
        except Exception:
            logger.exception("a client could not be closed")

    kept.ending = loop.create_task(end())
    CLOSING.add(kept.ending)


class Clients:
    """What the runners of one executor share under a name: PerLoops, and whatever else has a close()."""

    def __init__(self) -> None:
        self._made: dict[Hashable, Any] = {}
        self._lock = threading.Lock()

    def the(self, name: Hashable, make: Callable[[], T]) -> T:
        """The one of that name, made when first asked for."""
        with self._lock:
            if name not in self._made:
                self._made[name] = make()
            found: T = self._made[name]
            return found

    def close(self) -> None:
        """Close them all."""
        with self._lock:
            made, self._made = list(self._made.values()), {}
        for thing in made:
            try:
                thing.close()
            except Exception:
                logger.exception("%s could not be closed", type(thing).__name__)
