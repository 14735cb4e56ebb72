"""Route and Door: how the HTTP gateway's modules say what they answer, once for the router and the OpenAPI document."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from toolpost.calls.call import Caller

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.websockets import WebSocket

    from toolpost.engine.executor import ToolExecutor
    from toolpost.transports.http_problems import Answer
    from toolpost.worker.service import Service


@dataclass(slots=True, kw_only=True)
class Door:
    """What the routes of one gateway share. base_url: how callers reach it, without a slash at its end."""

    service: Service
    executor: ToolExecutor
    base_url: str = ""
    state: dict[str, Any] = field(default_factory=dict)


Handler = Callable[["Request", Door, Caller], Awaitable["Response | Answer"]]
"""Answers a request of an authenticated caller. ToolExecutionErrors that it raises become problem documents."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One operation. about is its OpenAPI Operation Object (summary, parameters, requestBody, responses, tags).

    Routes of one path are told apart by method; HEAD is answered by GET, OPTIONS and what is not there by the app.
    public: nobody need say who they are; the caller is ANONYMOUS then. media_types: what bodies may be, else 415.
    """

    method: str
    path: str
    handler: Handler
    about: Mapping[str, Any]
    public: bool = False
    media_types: tuple[str, ...] = ("application/json",)


SocketHandler = Callable[["WebSocket", Door, Caller], Awaitable[None]]
"""Talks over a WebSocket, which it has to accept, with an authenticated caller."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SocketRoute:
    """A WebSocket's path. Modules list theirs in SOCKETS; Host, Origin and who calls are checked before."""

    path: str
    handler: SocketHandler
    public: bool = False
