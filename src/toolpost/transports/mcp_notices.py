"""What a running call tells its MCP client: progress, where it was asked for, and log lines that are severe enough."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, Final

from toolpost.calls.events import Detached, Event, Logged, Progressed

if TYPE_CHECKING:
    from mcp.server.context import ServerRequestContext

    from toolpost.engine.executor import ToolExecutor

logger = logging.getLogger("toolpost")

LEVELS: Final = ("debug", "info", "notice", "warning", "error", "critical", "alert", "emergency")
LOG_LEVEL: Final = "io.modelcontextprotocol/logLevel"
"""The key of a request's _meta by which clients without a session ask for log lines."""
MOST_WAITING: Final = 1000
"""How much of what a call tells may wait for a client that reads slowly; what comes then is left out."""
LEVEL: Final = "toolpost.log_level"
"""Where a session keeps the level that logging/setLevel asked for."""


class Notices:
    """Hands on what calls of one executor tell, to whoever listens to that call."""

    def __init__(self, executor: ToolExecutor) -> None:
        self._listeners: dict[str, Callable[[Event], None]] = {}
        self._stop: Callable[[], None] | None = None
        self._executor = executor

    def close(self) -> None:
        """Listen no more."""
        if self._stop is not None:
            self._stop()
            self._stop = None

    @asynccontextmanager
    async def forwarded(self, ctx: ServerRequestContext[Any, Any], call_id: str) -> AsyncIterator[None]:
        """While it is open, what the call tells goes to the client; what was told before its end is sent by then."""
        if self._stop is None:  # an observer costs every call, so there is one only while somebody listens
            self._stop = self._executor.observe(self._told)
        loop, here = asyncio.get_running_loop(), threading.get_ident()
        queue: asyncio.Queue[Event | None] = asyncio.Queue()

        def put(event: Event) -> None:
            if queue.qsize() < MOST_WAITING or isinstance(event, Detached):
                queue.put_nowait(event)

        def tell(event: Event) -> None:
            if threading.get_ident() == here:
                put(event)
            else:
                loop.call_soon_threadsafe(put, event)

        self._listeners[call_id] = tell
        pump = asyncio.create_task(_pumped(ctx, queue))
        try:
            yield
        finally:
            del self._listeners[call_id]
            if not self._listeners:
                self.close()
            # Threads tell by call_soon_threadsafe: what they said before their end stands in the loop before this.
            loop.call_soon(queue.put_nowait, None)
            with suppress(asyncio.CancelledError):
                await pump

    def _told(self, event: Event) -> None:
        tell = self._listeners.get(getattr(event, "call_id", ""))
        if tell is not None and isinstance(event, (Progressed, Logged, Detached)):
            tell(event)


def wants_notices(ctx: ServerRequestContext[Any, Any]) -> bool:
    """Whether the client of a request could be told anything while it runs."""
    meta = ctx.meta or {}
    return meta.get("progress_token") is not None or LOG_LEVEL in meta or not _is_modern(ctx)


async def _pumped(ctx: ServerRequestContext[Any, Any], queue: asyncio.Queue[Event | None]) -> None:
    last: float | None = None
    while (event := await queue.get()) is not None:
        try:
            if isinstance(event, Progressed):
                if last is None or event.value > last:  # the value must increase with each notification
                    last = event.value
                    await ctx.session.report_progress(event.value, event.total, event.message)
            elif isinstance(event, Logged):
                await _log(ctx, event)
            elif ctx.close_sse_stream is not None:
                await ctx.close_sse_stream()
        except Exception:
            logger.debug("an MCP client could not be told what its call says", exc_info=True)


async def _log(ctx: ServerRequestContext[Any, Any], event: Logged) -> None:
    if LEVELS.index(event.level) < _least(ctx):
        return
    import mcp_types as types

    data: Any = {"message": event.message, **event.fields} if event.fields else event.message
    params = types.LoggingMessageNotificationParams(level=event.level, data=data, logger=event.tool)
    await ctx.session.send_notification(types.LoggingMessageNotification(params=params), ctx.request_id)


def _least(ctx: ServerRequestContext[Any, Any]) -> int:
    """The place among LEVELS from which on the client is told; beyond the last for one that asked for nothing."""
    if _is_modern(ctx):
        asked = (ctx.meta or {}).get(LOG_LEVEL)
        return LEVELS.index(asked) if asked in LEVELS else len(LEVELS)
    return LEVELS.index(ctx.session._connection.state.get(LEVEL, "info"))  # the SDK has no public way to it


def _is_modern(ctx: ServerRequestContext[Any, Any]) -> bool:
    from toolpost.transports.mcp_results import MODERN

    return ctx.protocol_version in MODERN


__all__ = ["LEVEL", "LEVELS", "Notices", "wants_notices"]
