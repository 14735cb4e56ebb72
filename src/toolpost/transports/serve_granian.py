"""The gateway's application on Granian."""

from __future__ import annotations

import contextlib
import math
import socket
from typing import Any

from granian._granian import SocketHolder
from granian.constants import Interfaces
from granian.server.embed import Server

from toolpost.transports.serve_log import App
from toolpost.transports.serve_sockets import BACKLOG


class GranianServer:
    """Answers on a socket until it is told to stop."""

    def __init__(self, app: App, one: socket.socket, linger_s: float) -> None:
        """linger_s: how long answers that are under way have when it is told to stop."""
        self._server: Any = _Server(app, one, linger_s)

    async def serve(self) -> None:
        """Answer until stop() and the answers that were under way then."""
        with contextlib.suppress(TimeoutError):
            await self._server.serve()

    def stop(self) -> None:
        """Take no more connections, tell those that are there, end when all is answered."""
        self._server.stop()

    def abort(self) -> None:
        """Wait for nothing."""
        for worker in self._server.wrks:
            worker.kill()
        self._server.stop()


class _Server(Server):
    """Granian in this event loop, on a socket that is there already."""

    def __init__(self, app: App, one: socket.socket, linger_s: float) -> None:
        super().__init__(app, interface=Interfaces.ASGINL, log_enabled=False, backlog=BACKLOG)
        self.workers_kill_timeout = math.ceil(linger_s)
        self._given = one

    def _init_shared_socket(self) -> None:
        is_unix = self._given.family == socket.AF_UNIX
        holder: Any = SocketHolder  # whose stubs leave its arguments out
        self._shd = holder(self._given.detach(), is_unix, BACKLOG)  # Granian closes it
        self._ssp = None


__all__ = ["GranianServer"]
