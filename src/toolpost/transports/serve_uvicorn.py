"""The gateway's application on Uvicorn."""

from __future__ import annotations

import contextlib
import logging
import socket
from collections.abc import Generator
from typing import Any

import uvicorn

from toolpost.transports.serve_log import App
from toolpost.transports.serve_protocol import BoundedProtocol
from toolpost.transports.serve_sockets import BACKLOG


def uvicorn_config(app: App, **options: Any) -> uvicorn.Config:
    """How Uvicorn serves the gateway; options are Uvicorn's and stand in the place of these."""
    ours: dict[str, Any] = {
        "http": BoundedProtocol,
        "ws": "websockets-sansio",
        "lifespan": "off",
        "log_config": None,
        "access_log": False,
        "proxy_headers": False,
        "server_header": False,
        "backlog": BACKLOG,
        "timeout_keep_alive": 75,
    }
    return uvicorn.Config(app, **(ours | options))


class UvicornServer:
    """Answers on a socket until it is told to stop."""

    def __init__(self, app: App, one: socket.socket, linger_s: float) -> None:
        """linger_s: how long answers that are under way have when it is told to stop."""
        config = uvicorn_config(app, timeout_graceful_shutdown=max(1, round(linger_s)))
        logging.getLogger("uvicorn.error").addFilter(_is_true)
        self._server = _Server(config)
        self._socket = one

    async def serve(self) -> None:
        """Answer until stop() and the answers that were under way then."""
        await self._server.serve(sockets=[self._socket])

    def stop(self) -> None:
        """Take no more connections, tell those that are there, end when all is answered."""
        self._server.should_exit = True

    def abort(self) -> None:
        """Wait for nothing."""
        self._server.should_exit = self._server.force_exit = True


def _is_true(record: logging.LogRecord) -> bool:
    """Uvicorn 0.54 says this of WebSockets that were refused with a body, too, though their handshake was answered."""
    return record.msg != "ASGI callable returned without completing handshake."


class _Server(uvicorn.Server):
    """Signals are the business of whoever runs it."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, Any, None]:
        yield


__all__ = ["UvicornServer"]
