"""The MCP server of a service: the SDK's low-level Server with our handlers, for both eras of the protocol at once."""

from __future__ import annotations

from collections import Counter
from importlib.metadata import PackageNotFoundError, version as version_of
from typing import TYPE_CHECKING, Any, Final

from toolpost.engine.derived_keys import derived_keys
from toolpost.transports.mcp_calls import ToolCalls
from toolpost.transports.mcp_client import TASKS, client_of
from toolpost.transports.mcp_errors import invalid_request, telling
from toolpost.transports.mcp_notices import LEVEL
from toolpost.transports.mcp_offers import Offers
from toolpost.transports.mcp_tasks import Tasks
from toolpost.transports.mcp_tools import TTL_MS

if TYPE_CHECKING:
    from mcp.server.context import ServerRequestContext
    from mcp.server.lowlevel import Server

    from toolpost.calls.call import Caller
    from toolpost.worker.service import Service

NAME: Final = "toolpost"
INSTRUCTIONS: Final = (
    "Tools run with checks, limits and approvals of the server. A result with isError says in its text what to do "
    "next; _meta has the same for programs. Where a person must approve a call, make the same call again once they "
    'have. A call with _meta {"toolpost/idempotency_key": "..."} runs once, however often it is sent.'
)
STATE_TTL_S: Final = 3600.0
"""How long whoever is asked may take to answer."""
MOST_LISTENING: Final = 128
"""How many streams of changes one caller may have open in one process, which has room for 1,024 (mcp 2.3)."""


class McpServer:
    """One SDK server with everything behind it. Belongs to the event loop in which open() is called."""

    def __init__(self, service: Service, base_url: str, local: Caller | None = None) -> None:
        from toolpost.transports.mcp_changes import Changes

        self.service, self.executor, self.local = service, service.executor, local
        self.tasks = Tasks(service, base_url, local)
        self.calls = ToolCalls(service, base_url, self.tasks, local)
        self.offers = Offers(service, base_url, local)
        self.changes = Changes(self.executor)
        self._listeners: Counter[str] = Counter()
        self.server: Server[Any] = self._made()

    def open(self) -> None:
        """Begin to watch for changes."""
        self.changes.open()

    def close(self) -> None:
        """Let go of what open() and calls began."""
        self.changes.close()
        self.calls.notices.close()
        self.listening.close()

    def options(self) -> Any:
        """What a session is told of the server in the handshake of older revisions."""
        from mcp.server.lowlevel import NotificationOptions

        changed = NotificationOptions(tools_changed=True, resources_changed=True, prompts_changed=True)
        return self.server.create_initialization_options(changed)

    def _made(self) -> Server[Any]:
        import mcp_types as types
        from mcp.server.caching import CacheHint
        from mcp.server.lowlevel import Server
        from mcp.server.subscriptions import ListenHandler

        self.listening = ListenHandler(self.changes.bus)
        server: Server[Any] = Server(
            NAME,
            version=package_version(),
            title="toolpost",
            instructions=INSTRUCTIONS,
            cache_hints={"server/discover": CacheHint(ttl_ms=TTL_MS, scope="private")},
            get_tool_input_schema=self._input_schema,
            on_list_tools=telling(self.calls.list_tools),
            on_call_tool=self.calls.call_tool,  # type: ignore[arg-type]
            on_list_resources=telling(self.offers.list_resources),
            on_list_resource_templates=telling(self.offers.list_templates),
            on_read_resource=telling(self.offers.read),
            on_subscribe_resource=self._subscribe,
            on_unsubscribe_resource=self._unsubscribe,
            on_subscriptions_listen=self._listen,
            on_list_prompts=telling(self.offers.list_prompts),
            on_get_prompt=telling(self.offers.prompt),
            on_completion=telling(self.offers.complete),
        )
        # By add_request_handler, as naming it above warns that newer revisions have no such method; older ones do.
        server.add_request_handler("logging/setLevel", types.SetLevelRequestParams, self._set_level)
        server.add_notification_handler("notifications/initialized", types.NotificationParams, self._initialized)
        server.extensions[TASKS] = {}
        params = task_params()
        server.add_request_handler("tasks/get", params["get"], telling(self.tasks.get))
        server.add_request_handler("tasks/update", params["update"], telling(self.tasks.update))
        server.add_request_handler("tasks/cancel", params["cancel"], telling(self.tasks.cancel))
        server.middleware.append(self._state_boundary())
        server.create_initialization_options = _changing(server)  # type: ignore[method-assign]
        return server

    def _input_schema(self, name: str) -> Any:
        tool = self.calls.tool(name)
        return None if tool is None else tool.parameters

    def _state_boundary(self) -> Any:
        """Seals what clients hand back, with a key that all processes of one secret_key have."""
        from mcp.server.request_state import RequestStateBoundary, RequestStateSecurity

        keys = derived_keys(self.executor.config, self.executor._guards.secrets.opened, "mcp request state")
        if keys:
            security = RequestStateSecurity(
                keys=list(keys), ttl=STATE_TTL_S, bind_principal=self._principal, audience=NAME
            )
        else:
            security = RequestStateSecurity.ephemeral(ttl=STATE_TTL_S, audience=NAME)
            security.bind_principal = self._principal
        return RequestStateBoundary(security, default_audience=NAME)

    def _principal(self, ctx: ServerRequestContext[Any, Any]) -> str | None:
        caller = client_of(ctx, self.local).caller
        return None if caller.user_id is None else f"{caller.tenant or ''}\0{caller.user_id}"

    async def _listen(self, ctx: ServerRequestContext[Any, Any], params: Any) -> Any:
        """Serve a stream of changes. One caller has so many at most that others find a place as well."""
        who = self._principal(ctx)
        if who is None:
            return await self.listening(ctx, params)
        if self._listeners[who] >= MOST_LISTENING:
            raise invalid_request(f"a caller may listen on {MOST_LISTENING} streams at a time; close one")
        self._listeners[who] += 1
        try:
            return await self.listening(ctx, params)
        finally:
            self._listeners[who] -= 1
            if not self._listeners[who]:
                del self._listeners[who]

    async def _subscribe(self, ctx: ServerRequestContext[Any, Any], params: Any) -> Any:
        import mcp_types as types

        self.changes.subscribe(ctx, params.uri)
        return types.EmptyResult()

    async def _unsubscribe(self, ctx: ServerRequestContext[Any, Any], params: Any) -> Any:
        import mcp_types as types

        self.changes.unsubscribe(ctx, params.uri)
        return types.EmptyResult()

    async def _set_level(self, ctx: ServerRequestContext[Any, Any], params: Any) -> Any:
        import mcp_types as types

        ctx.session._connection.state[LEVEL] = params.level  # the SDK has no public way to it
        return types.EmptyResult()

    async def _initialized(self, ctx: ServerRequestContext[Any, Any], params: Any) -> None:
        self.changes.joined(ctx)


def task_params() -> dict[str, Any]:
    """The parameters of the methods of tasks, as models that the SDK checks them by."""
    from mcp_types import RequestParams
    from pydantic import Field

    class TaskParams(RequestParams):
        task_id: str = Field(alias="taskId")

    class UpdateParams(TaskParams):
        input_responses: dict[str, Any] = Field(alias="inputResponses")

    return {"get": TaskParams, "update": UpdateParams, "cancel": TaskParams}


def package_version() -> str:
    """The version of toolpost that runs."""
    try:
        return version_of("toolpost")
    except PackageNotFoundError:
        return "0"


def _changing(server: Server[Any]) -> Any:
    """create_initialization_options that says of lists that they change; the SDK's session manager calls it bare."""
    from mcp.server.lowlevel import NotificationOptions

    made = server.create_initialization_options
    changed = NotificationOptions(tools_changed=True, resources_changed=True, prompts_changed=True)

    def options(notification_options: Any = None, *args: Any, **named: Any) -> Any:
        return made(notification_options or changed, *args, **named)

    return options


__all__ = ["INSTRUCTIONS", "NAME", "McpServer", "package_version", "task_params"]
