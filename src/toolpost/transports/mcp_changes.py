"""Changes: who is told that tools, resources or prompts came, went or changed, in both eras of MCP."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from toolpost.transports.mcp_errors import invalid_params

if TYPE_CHECKING:
    from mcp.server.connection import Connection
    from mcp.server.context import ServerRequestContext

    from toolpost.engine.catalog import Change
    from toolpost.engine.executor import ToolExecutor

logger = logging.getLogger("toolpost")

MOST_WATCHED: Final = 1000
"""How many resources one session may watch."""


class Changes:
    """Watches an executor, and tells listeners (subscriptions/listen) and sessions. Belongs to one event loop."""

    def __init__(self, executor: ToolExecutor) -> None:
        from mcp.server.subscriptions import InMemorySubscriptionBus

        self.bus = InMemorySubscriptionBus()
        self._executor = executor
        self._sessions: dict[int, tuple[Connection, set[str]]] = {}
        self._stops: list[Callable[[], None]] = []
        self._tasks: set[asyncio.Task[None]] = set()

    def open(self) -> None:
        """Begin to watch, in the running event loop."""
        loop = asyncio.get_running_loop()

        def told(change: Change, uri: str = "") -> None:
            try:
                loop.call_soon_threadsafe(self._start, change, uri)
            except RuntimeError:
                logger.debug("a change came after the event loop ended")

        self._stops = [
            self._executor.registry.watch(lambda: told("tools")),
            self._executor.catalog.watch(told),
        ]

    def close(self) -> None:
        """Watch no more."""
        for stop in self._stops:
            stop()
        self._stops = []
        for task in self._tasks:
            task.cancel()

    def joined(self, ctx: ServerRequestContext[Any, Any]) -> None:
        """A session is there to be told of lists that change."""
        self._session(ctx)

    def subscribe(self, ctx: ServerRequestContext[Any, Any], uri: str) -> None:
        """Tell a session when a resource changes. Raises MCPError (-32602) for one that watches very many."""
        uris = self._session(ctx)
        if len(uris) >= MOST_WATCHED and uri not in uris:
            raise invalid_params(f"a session may watch {MOST_WATCHED} resources at a time; unsubscribe from one")
        uris.add(uri)

    def unsubscribe(self, ctx: ServerRequestContext[Any, Any], uri: str) -> None:
        """Tell it no more."""
        self._session(ctx).discard(uri)

    def _session(self, ctx: ServerRequestContext[Any, Any]) -> set[str]:
        connection = ctx.session._connection  # the SDK shows handlers the request's session only
        known = self._sessions.get(id(connection))
        if known is None:
            known = self._sessions[id(connection)] = (connection, set())
            connection.exit_stack.callback(self._sessions.pop, id(connection), None)
        return known[1]

    def _start(self, change: Change, uri: str) -> None:
        task = asyncio.get_running_loop().create_task(self._tell(change, uri))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _tell(self, change: Change, uri: str) -> None:
        from mcp.shared.subscriptions import PromptsListChanged, ResourcesListChanged, ResourceUpdated, ToolsListChanged

        events: dict[str, Any] = {
            "tools": ToolsListChanged,
            "resources": ResourcesListChanged,
            "prompts": PromptsListChanged,
        }
        await self.bus.publish(ResourceUpdated(uri=uri) if change == "resource" else events[change]())
        for connection, uris in list(self._sessions.values()):
            try:
                if change == "resource":
                    if uri in uris:
                        await connection.send_resource_updated(uri)
                elif change == "tools":
                    await connection.send_tool_list_changed()
                elif change == "resources":
                    await connection.send_resource_list_changed()
                else:
                    await connection.send_prompt_list_changed()
            except Exception:
                logger.debug("a session could not be told of a change", exc_info=True)


__all__ = ["Changes"]
