"""A gateway for tests: the real application under a real Uvicorn on an ephemeral port of this machine, in a thread.

    with gateway(TOOLS, records_url=f"sqlite:///{tmp_path}/calls.db") as served:
        served.client.post("/v1/tools/Math.Add/calls", json={"arguments": {"a": 1, "b": 2}})

Everything may be asked of it from the test's thread; served.run(coroutine) runs something in the server's event loop.
"""

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, TypeVar

import httpx
import uvicorn

from toolpost import ToolExecutor
from toolpost.engine.registry import ToolRegistry
from toolpost.transports.http_app import Gateway, build_app
from toolpost.transports.serve_log import App
from toolpost.transports.serve_uvicorn import uvicorn_config
from toolpost.worker.service import Service

T = TypeVar("T")
START_S = 20.0


class Served:
    """A gateway that answers. executor, service and app are the server's own; url has no slash at its end."""

    def __init__(self, executor: ToolExecutor, listens_on: str, works: bool, wrap: Callable[[App], App]) -> None:
        self.executor = executor
        self._listens_on, self._works, self._wrap = listens_on, works, wrap
        # asyncio sends small answers at once (TCP_NODELAY) only where the protocol is named.
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        self._socket.bind(("127.0.0.1", 0))
        self._socket.listen(256)
        self.port: int = self._socket.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.service: Service
        self.app: Gateway
        self._loop: asyncio.AbstractEventLoop
        self._answers = threading.Event()
        self._problem: BaseException | None = None
        self._ending: asyncio.Event
        self._thread = threading.Thread(target=self._work, name="gateway of a test")
        self.client = httpx.Client(base_url=self.url, timeout=30)

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """What a coroutine gives that runs in the server's event loop."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(START_S)

    def connect(self) -> socket.socket:
        """A bare connection, for what no client would send."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)

    def exchange(self, data: bytes) -> bytes:
        """Send bytes as they are and read until the server closes; say Connection: close in them."""
        with self.connect() as connection:
            connection.sendall(data)
            parts = []
            with contextlib.suppress(ConnectionResetError):
                while part := connection.recv(65536):
                    parts.append(part)
        return b"".join(parts)

    def start(self) -> None:
        self._thread.start()
        if not self._answers.wait(START_S) or self._problem is not None:
            raise RuntimeError("the gateway did not start") from self._problem

    def stop(self) -> None:
        self.client.close()
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._ending.set)
        self._thread.join(START_S)
        assert not self._thread.is_alive(), "the gateway did not end"
        if self._problem is not None:
            raise self._problem

    def _work(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:
            self._problem = error
        finally:
            self._answers.set()

    async def _serve(self) -> None:
        self._loop, self._ending = asyncio.get_running_loop(), asyncio.Event()
        async with Service(self.executor, works=self._works) as self.service:
            self.app = build_app(self.service, base_url=self.url, listens_on=self._listens_on)
            async with self.app.running():
                server = uvicorn.Server(uvicorn_config(self._wrap(self.app), timeout_graceful_shutdown=5))
                server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign, assignment]
                serving = asyncio.create_task(server.serve(sockets=[self._socket]))
                while not server.started and not serving.done():
                    await asyncio.sleep(0.005)
                self._answers.set()
                ending = asyncio.create_task(self._ending.wait())
                await asyncio.wait([serving, ending], return_when=asyncio.FIRST_COMPLETED)
                ending.cancel()
                server.should_exit = True
                await serving


@contextlib.contextmanager
def gateway(
    tools: Any = (),
    *,
    listens_on: str = "127.0.0.1",
    works: bool = True,
    executor: ToolExecutor | None = None,
    wrap: Callable[[App], App] = lambda app: app,
    **settings: Any,
) -> Iterator[Served]:
    """A gateway over tools and an executor of its own (or one that is handed in), with settings.

    listens_on is where it is told to listen: "0.0.0.0" makes it ask for keys; it listens on 127.0.0.1 in any case.
    """
    settings.setdefault("drain_timeout", 5.0)
    own = executor or ToolExecutor(settings, registry=ToolRegistry())
    for tool in tools:
        own.add(tool)
    served = Served(own, listens_on, works, wrap)
    served.start()
    try:
        yield served
    finally:
        served.stop()
        own.close()
